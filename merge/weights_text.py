"""Block weights from text: what people type on a command line, paste from another tool, or keep in a file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..checkpoints.errors import RecipeError
from ..checkpoints.files.yaml_text import plain_from_yaml
from ..checkpoints.text import unreadable

# A file of weights is small; anything larger is a mistake (a checkpoint, say).
_MAX_BYTES = 1_000_000


def empty_weights() -> RecipeError:
    """Block weights that say nothing."""
    text = "Block weights are empty; give a number, a vector, a preset or lines such as 'IN04-IN08: 0.7'"
    return RecipeError(text, code="weights.empty")


def parse_weights(text: str, base_dir: str | Path | None = None) -> Any:
    """Block weights given on a command line, as plain data for a recipe.

    Args:
        text: a number; a vector `0,0.1,0.2,...`; a preset name; lines `IN04-IN08: 0.7; OUT*: 0.3`; elemental lines of LoRA block
            weight, `IN05-OUT05:attn:1`; lines behind a number, vector or preset, `MIDD; IN05-OUT05:attn:0`; or `@FILE`, where
            FILE holds one of these, or is a YAML or JSON file with any of the forms of `block_weights`.
        base_dir: where a relative FILE is looked for; without it, in the current directory.

    Returns:
        A float, list, preset name or dict, for `BlockWeights.parse`. The contents of a file, not its name.

    Raises:
        RecipeError: empty text, a file that cannot be read, lines that are not lines.
    """
    text = text.strip()
    return _from_file(Path(base_dir or ".") / text[1:].strip()) if text.startswith("@") else plain_from_text(text)


def plain_from_text(text: str) -> float | list[float] | str | dict[str, Any]:
    """A number, vector, lines or, failing these, a preset's name."""
    text = text.strip()
    if not text:
        raise empty_weights()
    if text.startswith("@"):
        raise RecipeError(f"{text!r} names a file of block weights, which the command line reads but a recipe does not")
    if numbers := _numbers(text.replace(";", " ")):
        return numbers[0] if len(numbers) == 1 and not text.startswith("[") else numbers
    if ":" not in text:
        return text
    if text.startswith("{") and text.endswith("}"):
        return _yaml(text, "A mapping of block weights")
    out: dict[str, Any] = {}
    for line in _lines(text):
        if elements := _elements(line):
            for selector, ratio in elements:
                out.pop(selector, None)  # later lines win by their place
                out[selector] = ratio
        elif (start := _start(line)) is not None:
            if out:
                raise RecipeError(
                    f"{line!r} of block weights stands behind others; a number, vector or preset comes first"
                )
            out |= start
        else:
            name, value = split_line(line)
            out[name] = value
    return out


def only_elements(text: str) -> bool:
    """Whether block weights are elemental lines alone, which change a LoRA that is applied as it is."""
    return ":" in text and all(map(_elements, _lines(text)))


def _lines(text: str) -> list[str]:
    lines = [x.strip() for x in text.replace("\n", ";").split(";")]
    return [x for x in lines if x and not x.startswith("#")]


def _start(line: str) -> dict[str, Any] | None:
    """What lines change: a number, a vector, also as LoRA block weight lists it (`INS:1,1,1,1,0,...`), or a preset's name."""
    name, colon, last = line.rpartition(":")
    numbers = _numbers(last)
    if colon:
        return {"vector": numbers} if len(numbers) > 2 and ":" not in name else None
    if not numbers:
        return {"preset": line}
    return {"vector": numbers} if len(numbers) > 1 else {"default": numbers[0]}


def _elements(line: str) -> list[tuple[str, float]]:
    """Selectors and weights of `BLOCKS:ELEMENTS:ratio,...`, with a name before them or without; empty for anything else.

    So LoRA block weight writes its elements: blocks, and parts of keys in which `_` may stand for a dot; `NOT` before either;
    empty for all.
    """
    first = line.split(",")[0]
    named = first.count(":") == 3 and re.fullmatch(r"[^:/]+", first.split(":")[0])
    found = [_element(piece.strip()) for piece in (line.partition(":")[2] if named else line).split(",")]
    return [] if None in found else found


def _element(piece: str) -> tuple[str, float] | None:
    parts = [part.strip().strip("\"'") for part in piece.split(":")]
    ratio = _as_number(parts[-1]) if len(parts) == 3 else None
    if ratio is None or _begins_regex(parts[0]) or parts[0].split()[-1:] == ["key"]:
        return None  # the colon belongs to a pattern
    blocks, elements = parts[0].split(), parts[1].split()
    negated = elements[:1] == ["NOT"]
    inside = "|".join(re.escape(element).replace("_", "[._]") for element in elements[negated:])
    pattern = f"/^(?!.*({inside}))/" if negated else f"/{inside}/"
    return " ".join([*blocks, *([pattern] if inside else [])]) or "NOT VAE", ratio


def split_line(line: str) -> tuple[str, Any]:
    """Selector and value of `IN04 key:*.proj_in.*: 0.7`: parted at the first colon that does not belong to a pattern.

    The selector may be in quotes, or all of it.

    Raises:
        RecipeError: there is no value.
    """
    line = line.strip()
    if len(line) > 1 and line[0] == line[-1] and line[0] in "\"'":
        line = line[1:-1].strip()
    start = line.rfind("/") if _begins_regex(line) else 0
    at = line.find(":", start)
    while at >= 0 and re.split(r"[\s,\"']", line[:at])[-1].lower() == "key":
        at = line.find(":", at + 1)
    name, value = line[:at].strip().strip("\"'"), line[at + 1 :].strip()
    if at < 0 or not name or not value:
        raise RecipeError(f"Line {line!r} of block weights has no weight; write e.g. 'IN04-IN08: 0.7'")
    number = _as_number(value)
    return name, number if number is not None else _yaml(value, f"The value of {name!r} in block weights")


def _from_file(path: Path) -> Any:
    what = f"File of block weights {path.name!r}"
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise RecipeError(f"{what} is larger than {_MAX_BYTES} bytes, so it holds no block weights")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise RecipeError(f"{what} cannot be read: {unreadable(error)}") from None
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        return _yaml(text, what)
    if suffix == ".json":
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RecipeError(f"{what} is not JSON: {error}") from None
    return plain_from_text(text)


def _yaml(text: str, what: str) -> Any:
    try:
        return plain_from_yaml(text)
    except ValueError as error:
        raise RecipeError(f"{what} is not YAML: {error}") from None


def _begins_regex(text: str) -> bool:
    """Whether a word of a line begins with a slash: from there on it is a regular expression."""
    return bool(re.search(r"(?:^|[\s\"'])/", text))


def _numbers(text: str) -> list[float]:
    """Numbers parted by commas or spaces, in brackets or without; empty for anything else."""
    found = [_as_number(x) for x in text.strip().strip("[]").replace(",", " ").split()]
    return [] if None in found else found


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
