"""What pydantic finds wrong in recipes, studies, settings and records, as sentences of ours."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..checkpoints.errors import nearest
from ..checkpoints.text import shown

if TYPE_CHECKING:
    from pydantic import ValidationError


def explained(error: ValidationError, known: Callable[[Sequence[str]], Collection[str]]) -> str:
    """The first thing that pydantic found wrong: `steps.mix.alpha: must be a number, found 'x'`.

    Args:
        error: what it raised.
        known: the names that may stand in a place (the names that lead to it), for one that is unknown.
    """
    first = error.errors()[0]
    *outer, last = loc = [part for part in first["loc"] if not _is_of_pydantic(part)] or list(first["loc"])
    place = ".".join(map(_name, loc))
    if first["loc"][-1] == "[key]":
        return f"{'.'.join(map(_name, outer))}: the name {shown(first['input'])} is not text; write it in quotes"
    if first["type"] == "extra_forbidden":
        names = known([str(part) for part in outer])
        return f"{place}: unknown name{nearest(str(last), names)}; known are {', '.join(names)}"
    if first["type"] == "missing":
        return f"{place}: is missing"
    return f"{place}: {wrong(first)}"


def wrong(problem: Mapping[str, Any], expected: str = "") -> str:
    """What is wrong with a value that pydantic refuses: `must be a number, found 'x'`.

    Args:
        problem: one of the error's.
        expected: what it must be, where that is known better.
    """
    found = shown(problem["input"])
    expected = expected or _EXPECTED.get(problem["type"], "")
    if problem["type"] == "too_short":
        expected = "a list with something in it" if problem["ctx"]["field_type"] == "List" else "at least one"
    if expected:
        return f"must be {expected}, found {found}"
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{message[0].lower()}{message[1:]}, found {found}"


def _is_of_pydantic(part: int | str) -> bool:
    """Whether a part of a place is the name of a type of pydantic, which nobody wrote."""
    return isinstance(part, str) and ("[" in part or part in ("int", "float"))


def _name(part: int | str) -> str:
    """A part of a place; a name that would break the sentence into lines, or show nothing, as Python writes it."""
    text = str(part)
    return text if text.isprintable() else repr(text)


# By pydantic's kind of error. It calls mappings dictionaries, instances and objects.
_EXPECTED = {
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dataclass_type": "a mapping of names",
    "dict_type": "a mapping of names",
    "mapping_type": "a mapping of names",
    "model_type": "a mapping of names",
    "model_attributes_type": "a mapping of names",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "int_type": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a number",
}
