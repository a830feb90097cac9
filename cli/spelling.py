"""American spellings on the command line: names of commands and options, and words that an option takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..checkpoints.spelling import spelt


def words_spelt(command: Any, words: Sequence[str]) -> list[str]:
    """What was typed, as the commands below `command` (of click) are spelt. Values that are not words to choose from stay."""
    out = list(words)
    at = 0
    while hasattr(command, "commands") and at < len(out):
        if not out[at].startswith("-"):
            name = spelt(out[at], command.commands)
            inner = command.commands.get(name)
            if inner is None:
                return out
            out[at], command = name, inner
        elif any(out[at] in option.opts and not getattr(option, "is_flag", False) for option in command.params):
            at += 1  # and its value
        at += 1
    options = {name: option for option in command.params for name in (*option.opts, *option.secondary_opts)}
    for i in range(at, out.index("--") if "--" in out else len(out)):
        if out[i].startswith("--"):
            name, equals, value = out[i].partition("=")
            option = options.get(name := spelt(name, options))
            out[i] = name + equals + (_word(option, value) if option is not None else value)
        elif i and (option := options.get(out[i - 1])) is not None:
            out[i] = _word(option, out[i])
    return out


def _word(option: Any, value: str) -> str:
    kind = getattr(option, "type", None) or getattr(option, "type_descriptor", None)  # of click, and of newer typers
    return spelt(value, [str(word) for word in getattr(kind, "choices", None) or ()])
