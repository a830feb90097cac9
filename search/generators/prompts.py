"""Prompts as users of the web UI write them: emphasis, escapes and breaks, as pieces of text with weights.

(word) counts 1.1 times, ((word)) 1.21 times, [word] 1 / 1.1 times, (word:1.3) 1.3 times; \\( and \\) are brackets; BREAK begins
a new chunk.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import SearchError

_UP, _DOWN = 1.1, 1 / 1.1
_TOKENS = re.compile(r"\\.|[()\[\]]|:\s*[+-]?\d*\.?\d+\s*\)|\bBREAK\b|[^\\()\[\]:B]+|.", re.DOTALL)
# What changes while an image is made, or loads other files: only the web UI can do it.
_FOREIGN = (
    (re.compile(r"<(lora|lyco|hypernet):[^>]*>"), "loads a file with <{0}:...>; put LoRAs into the recipe"),
    (re.compile(r"(?<!\\)\[[^\[\]]*:[^\[\]]*:?\s*[\d.]+\s*\]"), "edits the prompt along the way with [a:b:0.5]"),
    (re.compile(r"(?<!\\)\[[^\[\]]*\|[^\[\]]*\]"), "alternates words with [a|b]"),
    (re.compile(r"\bAND\b"), "composes prompts with AND"),
)


@dataclass(frozen=True)
class Weighted:
    """A stretch of a prompt and how much it counts; `text` None begins a new chunk."""

    text: str | None
    weight: float = 1.0


def check_prompt(prompt: str, where: str) -> None:
    """Refuse what only a web UI makes of a prompt.

    Raises:
        SearchError: with the part in question.
    """
    for pattern, does in _FOREIGN:
        if found := pattern.search(prompt):
            what = does.format(found[1] if found.lastindex else "")
            raise SearchError(
                f"{where}: the prompt {what} ({found[0]!r}); write it without, or use the generator web_ui"
            )


def weighted(prompt: str) -> list[Weighted]:
    """A prompt as stretches of text of one weight each, neighbours of equal weight joined.

    Brackets that are never closed count to the end, as in the web UI.
    """
    stretches: list[list] = []
    round_open: list[int] = []
    square_open: list[int] = []

    def scale(start: int, factor: float) -> None:
        for stretch in stretches[start:]:
            stretch[1] *= factor

    for token in _TOKENS.findall(prompt):
        if token.startswith("\\") and len(token) == 2:
            stretches.append([token[1], 1.0])
        elif token == "(":
            round_open.append(len(stretches))
        elif token == "[":
            square_open.append(len(stretches))
        elif token.startswith(":") and token.endswith(")") and round_open:
            scale(round_open.pop(), float(token[1:-1]))
        elif token == ")" and round_open:
            scale(round_open.pop(), _UP)
        elif token == "]" and square_open:
            scale(square_open.pop(), _DOWN)
        elif token == "BREAK":
            stretches.append([None, 1.0])
        else:
            stretches.append([token, 1.0])
    for start in round_open:
        scale(start, _UP)
    for start in square_open:
        scale(start, _DOWN)
    return _joined(stretches)


def _joined(stretches: list[list]) -> list[Weighted]:
    out: list[Weighted] = []
    for text, weight in stretches:
        if text is not None and out and out[-1].text is not None and out[-1].weight == weight:
            out[-1] = Weighted(out[-1].text + text, weight)
        else:
            out.append(Weighted(text, 1.0 if text is None else weight))
    return out or [Weighted("")]
