"""The lines of sd-mecha's `.mecha` files, in the three dialects of its releases.

A line is a node: a command and arguments, each `value` or `name=value`. Values are numbers, text in quotes, `null`, `true`,
`false`, or `&3`, the fourth node (from 0). The first dialects begin at once, with `call "method"` and then `merge "method"`; the
last has a line `version 0.1.0` on top. Comments begin with #.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from .draft import fault

COMMANDS = ("model", "merge", "call", "dict", "literal", "parameter", "lora")
_CONSTANTS = {"null": None, "true": True, "false": False}
# A name with `=`, if any; then text in quotes, or whatever has neither spaces nor quotes.
_ARGUMENT = re.compile(r'(?:([^\s="&]+)=)?(?:"((?:[^"\\]|\\.)*)"|([^\s"]+))(?=\s|$)')
_MOST_LINES = 100_000


@dataclass(frozen=True)
class Reference:
    """`&3`: the node of that number."""

    index: int


@dataclass(frozen=True)
class MechaLine:
    """A node as written.

    Attributes:
        number: of the line in the file, from 1, for messages.
        command: one of `COMMANDS`.
        arguments: by place.
        named: by name.
    """

    number: int
    command: str
    arguments: tuple[Any, ...] = ()
    named: dict[str, Any] = field(default_factory=dict)


def is_mecha(text: str) -> bool:
    """Whether text looks like a recipe of sd-mecha: its first line is a version or a node."""
    first = next(iter(_meaningful(text)), (0, ""))[1]
    word, _, rest = first.partition(" ")
    return word == "version" or (word in COMMANDS and bool(rest.strip()))


def parse_mecha(text: str, where: str) -> tuple[str, list[MechaLine]]:
    """The dialect's version (empty for those without) and the nodes.

    Raises:
        RecipeError: a line that is not a node, a reference to a node that is not above it, or no node at all.
    """
    version, nodes = "", []
    for number, line in _meaningful(text):
        word, _, rest = line.partition(" ")
        if word == "version" and not nodes:
            version = rest.strip()
            continue
        if word not in COMMANDS:
            raise fault(where, f"line {number}: {word[:40]!r} is not a command; there are {', '.join(COMMANDS)}")
        if len(nodes) >= _MOST_LINES:
            raise fault(where, f"has more than {_MOST_LINES:,} lines; this is not a recipe")
        arguments, named = _arguments(rest, f"{where}: line {number}", len(nodes))
        nodes.append(MechaLine(number, word, tuple(arguments), named))
    if not nodes:
        raise fault(where, 'has no nodes; a recipe of sd-mecha has lines such as model "x.safetensors"')
    return version, nodes


def _meaningful(text: str) -> list[tuple[int, str]]:
    lines = enumerate(text.lstrip("\ufeff").replace("\r\n", "\n").split("\n"), 1)
    return [(number, line.strip()) for number, line in lines if line.strip() and not line.strip().startswith("#")]


def _arguments(text: str, where: str, above: int) -> tuple[list[Any], dict[str, Any]]:
    arguments: list[Any] = []
    named: dict[str, Any] = {}
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        match = _ARGUMENT.match(text, at)
        if not match:
            raise fault(where, f"cannot be read from {text[at : at + 40]!r} on (a quote that is not closed?)")
        name, quoted, plain = match.groups()
        value = _unescaped(quoted) if quoted is not None else _value(plain, where, above)
        if name is None:
            arguments.append(value)
        else:
            named[name] = value
        at = match.end()
    return arguments, named


def _unescaped(text: str) -> str:
    """Only `\\\\` and `\\"` are escapes: older files have Windows' paths as they are."""
    return re.sub(r'\\([\\"])', r"\1", text)


def _value(text: str, where: str, above: int) -> Any:
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    try:
        if text.startswith("&"):
            index = int(text[1:])
            if not 0 <= index < above:
                raise fault(where, f"{text} refers to no node above it")
            return Reference(index)
        return int(text) if re.fullmatch(r"[+-]?\d{1,18}", text) else float(text)
    except ValueError:
        raise fault(where, f"{text[:40]!r} is not a value; text stands in quotes") from None
