"""The base of everything that a user writes in YAML: recipes, studies and their parts."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from .spelling import respelt, spelt


class Settings(BaseModel):
    """Settings that refuse names which they do not know, and take names and words in American spelling."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def words(cls, given: Mapping[Any, Any]) -> dict[str, tuple[str, ...]]:
        """The names that may be set -> the words that may be said, none where anything may.

        Args:
            given: what is set; a class whose names depend on it looks there.
        """
        return {name: tuple(_choices(field.annotation)) for name, field in cls.model_fields.items()}

    @model_validator(mode="before")
    @classmethod
    def _as_spelt(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        words = cls.words(given)
        return {name: spelt(value, words.get(name, ())) for name, value in respelt(given, words).items()}


def _choices(hint: Any) -> Iterator[str]:
    """The words of a `Literal`, wherever it stands in an annotation."""
    if typing.get_origin(hint) is typing.Literal:
        yield from (word for word in typing.get_args(hint) if isinstance(word, str))
    else:
        for part in typing.get_args(hint):
            yield from _choices(part)
