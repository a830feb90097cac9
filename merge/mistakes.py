"""What pydantic finds wrong in a recipe, as a sentence of ours."""

from __future__ import annotations

from collections.abc import Collection
from reprlib import Repr

from pydantic import ValidationError

from ..checkpoints.errors import nearest

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def explained(error: ValidationError, names: Collection[str], output_names: Collection[str]) -> str:
    """The first thing that pydantic found wrong.

    Args:
        error: what it raised.
        names, output_names: of the fields of a recipe, and of its output.
    """
    first = error.errors()[0]
    place = ".".join(_name(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = output_names if place.startswith("output.") else names
        return f"{place}: unknown name{nearest(str(first['loc'][-1]), known)}; known are {', '.join(known)}"
    if first["type"] == "missing":
        return f"{place}: is missing"
    found = _SHORT.repr(first["input"])
    if place.endswith(".[key]"):
        return f"{place.removesuffix('.[key]').rpartition('.')[0]}: the name {found} is no text; write it in quotes"
    if first["type"] in _EXPECTED:
        return f"{place}: must be {_EXPECTED[first['type']]}, found {found}"
    return f"{place}: {first['msg'][0].lower()}{first['msg'][1:]}, found {found}"


def _name(part: int | str) -> str:
    """A part of a place; a name that would break the sentence into lines, or show nothing, as Python writes it."""
    text = str(part)
    return text if text.isprintable() else repr(text)


# What pydantic calls dictionaries, instances and valid strings.
_EXPECTED = {
    "dict_type": "a mapping of names",
    "model_type": "a mapping of names",
    "model_attributes_type": "a mapping of names",
    "string_type": "text",
    "list_type": "a list",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "too_short": "at least one",
}
