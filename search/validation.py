"""What stands in files that others may have written, checked: what does not fit is refused, or left out and named."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from ..merge.validation_errors import wrong
from .errors import SearchError
from .study_settings import Number

# What no page, picture or terminal can show.
_UNSHOWN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_LARGEST = 10**9


def _shown(value: Any) -> Any:
    return _UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", value) if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_shown), Field(strict=True)]
Finite = Annotated[Number, Field(allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=0, le=_LARGEST, strict=True)]
Switch = Annotated[bool, Field(strict=True)]


def fitting(kind: Any, plain: Any, where: str, left_out: list[str] | None = None) -> Any:
    """Plain data as an object of a kind; names that the kind does not know (of a later version) are passed over.

    Args:
        kind: a pydantic model, a dataclass, or any type that pydantic can check.
        plain: what JSON or YAML gave.
        where: the file, for sentences.
        left_out: gets a sentence for each part that does not fit; the rest is taken. What lacks a field that must be there is
            left out as a whole.

    Returns:
        the object; None when nothing of it can be used.

    Raises:
        SearchError: something does not fit, and `left_out` is None.
    """
    while True:
        try:
            return _adapter(kind).validate_python(plain)
        except ValidationError as error:
            problems = error.errors(include_url=False)
        if left_out is None:
            raise SearchError(f"{where}: {_dotted(_place(plain, problems[0]['loc'])) or 'it'} {_fault(problems[0])}")
        plain = json.loads(json.dumps(plain))  # the caller keeps what was read
        places = {}
        for problem in problems:
            place = _place(plain, problem["loc"])
            places.setdefault(place, _fault(problem))
        if () in places:
            left_out.append(f"{where} is left out: it {places[()]}")
            return None
        # The last first: what goes from a list moves what follows it.
        for place in sorted(places, key=_order, reverse=True):
            left_out.append(f"{where}: {_dotted(place)} is left out: it {places[place]}")
            holder = plain
            for part in place[:-1]:
                holder = holder[part]
            del holder[place[-1]]


def _order(place: tuple) -> list[tuple[int, str]]:
    """Places in the order of their lists; a place comes before those inside it."""
    return [(part, "") if isinstance(part, int) else (-1, part) for part in place]


def _place(plain: Any, loc: tuple) -> tuple:
    """The innermost part of the data that an error of pydantic is about; its path ends with names of types."""
    place = []
    for part in loc:
        inside = isinstance(plain, dict) and part in plain
        inside = inside or (isinstance(plain, list) and isinstance(part, int) and part < len(plain))
        if not inside:
            break
        plain = plain[part]
        place.append(part)
    return tuple(place)


def _dotted(place: tuple) -> str:
    return ".".join(str(part) for part in place)


def _fault(problem: Mapping[str, Any]) -> str:
    """`must be a number, found 'x'`, or `lacks low`."""
    return f"lacks {problem['loc'][-1]}" if problem["type"] == "missing" else wrong(problem)


@lru_cache
def _adapter(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)
