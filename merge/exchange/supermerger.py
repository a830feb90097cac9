"""How supermerger (and A1111's merger) say it: modes, weight vectors, elemental lines.

Formats: the extension's README and the metadata it writes. A vector is 26 numbers with BASE or 25 without (SDXL: 20, 19); in
metadata the number of BASE stands apart, and SDXL's list of 20 has no BASE but ends in the VAE. An elemental line is
`BLOCKS:ELEMENTS:ratio`: blocks and parts of keys, `NOT` in front of either, empty for all; later lines win; they change alpha.
"""

from __future__ import annotations

import re
from typing import Any

from ...checkpoints.errors import UnetscopeError
from ...checkpoints.families import known_labels
from ...checkpoints.families.parts.mbw import MBW_20, MBW_26
from ..block_weights import BlockWeights
from ..methods import METHODS, Method
from ..selectors import BASE, canonical
from .draft import Draft

# Where a block's tensors are, in single-file naming.
_KEY_PARTS = {"IN": r"\.input_blocks\.{}\.", "OUT": r"\.output_blocks\.{}\."}


def method_of(mode: str, calculation: str = "normal") -> Method | None:
    """Our method; None for what we do not have.

    Args:
        mode: `Weight sum:A*(1-alpha)+B*alpha`, in any case, or the web UI's name for it; the formula may be left out.
        calculation: supermerger's `calcmode`.
    """
    wanted = _words(mode.partition(":")[0])
    plain = next((m for m in METHODS.values() if wanted in _names(m)), None)
    if plain is None or calculation in ("normal", "", None):
        return plain
    return next(
        (
            m
            for m in METHODS.values()
            if (said := m.supermerger) and said.calculation == calculation and _words(said.mode) in _names(plain)
        ),
        None,
    )


def _names(method: Method) -> set[str]:
    """What supermerger and the web UI call a method whose calculation is the normal one."""
    said = method.supermerger
    named = [method.webui, said.mode if said and said.calculation == "normal" else ""]
    return {_words(name) for name in named if name}


def _words(text: str) -> str:
    return " ".join(text.replace("_", " ").casefold().split())


def modes() -> list[str]:
    """The modes of supermerger that are known."""
    return [said.mode for m in METHODS.values() if (said := m.supermerger) and said.calculation == "normal"]


def numbers_of(method: Method) -> tuple[str, ...]:
    """The parameters that these programs have numbers for: alpha, beta."""
    return tuple(p.name for p in method.parameters.values() if p.kind == "number")


def note_differences(method: Method, draft: Draft) -> None:
    """Notes where a method here is not to the last row what supermerger's is."""
    if method.supermerger and method.supermerger.note:
        draft.note(method.supermerger.note)


def numbers(value: Any) -> list[float] | None:
    """A vector given as a list or as text `0,0.1,...`; None for anything else (also letters, which mean random)."""
    parts = re.split(r"[,\s]+", value.strip().strip("[]")) if isinstance(value, str) else value
    if not isinstance(parts, list) or not parts:
        return None
    try:
        return [float(part) for part in parts]
    except (TypeError, ValueError, OverflowError):
        return None


def block_weights(values: list[float], base: float | None = None) -> Any:
    """Block weights of a vector; `base` is the number of the text encoders where it stands apart from the vector.

    With a base apart, 20 numbers are SDXL's 19 and the VAE's; without, 20 numbers begin with BASE.
    """
    if base is None:
        return values
    if len(values) == len(MBW_20):
        return {"vector": values[:-1], "base": base, "VAE": values[-1]}
    if len(values) == len(MBW_26):  # BASE is inside after all
        return values
    return {"vector": values, "base": base}


def with_lines(weights: Any, lines: list[str], draft: Draft) -> Any:
    """Block weights changed by elemental lines; a line that cannot be read is refused by name."""
    out: dict[Any, Any] = {}
    if isinstance(weights, dict):
        out.update(weights)
    elif isinstance(weights, list):
        out["vector"] = weights
    else:
        out["default"] = weights
    for line in lines:
        read = _line(line)
        if read is None:
            draft.refuse(f"the elemental line {line!r} is no BLOCKS:ELEMENTS:ratio")
            continue
        selectors, ratio = read
        for selector in selectors:
            out.pop(selector, None)  # later lines win by their place
            out[selector] = ratio
    try:
        BlockWeights.parse(out)
    except UnetscopeError as error:
        draft.refuse(f"the elemental lines cannot be read: {error}")
        return weights
    return out


def elemental_lines(value: Any) -> list[str]:
    """Lines out of text or a list of texts; they are parted by new lines or commas."""
    texts = value if isinstance(value, list) else [value]
    found = [part.strip() for text in texts if isinstance(text, str) for part in re.split(r"[\n,]", text)]
    return [part for part in found if part and not part.startswith("#")]


def is_elemental(line: str) -> bool:
    """Whether a line of text has the form BLOCKS:ELEMENTS:ratio."""
    parts = line.split(":")
    return len(parts) == 3 and numbers([parts[2]]) is not None


def _line(text: str) -> tuple[list[str], float] | None:
    """The selectors that a line stands for, all of one ratio."""
    parts = text.split(":")
    ratio = numbers([parts[-1].strip()]) if len(parts) == 3 else None
    if ratio is None:
        return None
    blocks, elements = parts[0].split(), parts[1].split()
    if elements[:1] == ["NOT"]:
        pattern = _without(blocks, elements[1:])
        return ([pattern], ratio[0]) if pattern else None
    # Several elements: whatever has any of them in its key.
    keys = [f"key:*{_quoted(element)}*" for element in elements]
    return [" ".join([*blocks, *keys]) or "NOT VAE"], ratio[0]


def _quoted(element: str) -> str:
    """Part of a key, inside a glob."""
    return re.sub(r"([*?\[])", r"[\1]", element)


def _without(blocks: list[str], elements: list[str]) -> str | None:
    """A regular expression on keys: in these blocks, without these parts; None where the blocks cannot be said so."""
    absent = f"(?!.*(?:{'|'.join(map(re.escape, elements))}))" if elements else ""
    negated = blocks[:1] == ["NOT"]
    places = [_place(label) for word in blocks[negated:] for label in _spread(word)]
    if None in places or (blocks and not places):
        return None
    where = f"(?{'!' if negated else '='}.*(?:{'|'.join(places)}))" if places else ""
    return f"/^{where}{absent}/"


def _spread(word: str) -> list[str]:
    """The labels of a block or a range of blocks."""
    if "-" not in word:
        return [canonical(word)]
    order = (BASE, *known_labels())
    ends = [canonical(end) for end in word.split("-")]
    if len(ends) != 2 or any(end not in order for end in ends):
        return [word]
    return order[order.index(ends[0]) : order.index(ends[1]) + 1]


def _place(label: str) -> str | None:
    if label == "M00":
        return r"\.middle_block\."
    if label == "BASE":
        return r"^(?:cond_stage_model|conditioner)\."
    number = re.fullmatch(r"(IN|OUT)(\d\d)", label)
    return _KEY_PARTS[number[1]].format(int(number[2])) if number else None
