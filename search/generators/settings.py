"""A generator's settings in a study, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ...checkpoints.errors import nearest
from ..errors import SearchError


class Settings(BaseModel):
    """Settings of a generator; names that it does not know are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Kind = TypeVar("Kind", bound=Settings)


def checked(kind: type[Kind], settings: Mapping[str, Any]) -> Kind:
    """The settings (without `kind`) as an object.

    Raises:
        SearchError: the first that is wrong, in a sentence.
    """
    try:
        return kind(**{name: value for name, value in settings.items() if name != "kind"})
    except ValidationError as error:
        first = error.errors()[0]
    except TypeError:
        raise SearchError("generator: the names of settings are words") from None
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = ", ".join(kind.model_fields)
        raise SearchError(f"generator.{name}: no such setting{nearest(name, kind.model_fields)}; there are {known}")
    if first["type"] == "missing":
        raise SearchError(f"generator.{name}: is missing")
    said = first["msg"].removeprefix("Value error, ")
    raise SearchError(f"generator.{name}: {said[0].lower()}{said[1:]}, found {first['input']!r}")
