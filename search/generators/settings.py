"""A generator's settings in a study, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from ...checkpoints.settings import Settings
from ...merge.validation_errors import explained
from ..errors import SearchError

Kind = TypeVar("Kind", bound=Settings)


def checked(kind: type[Kind], settings: Mapping[str, Any]) -> Kind:
    """The settings (without `kind`) as an object.

    Raises:
        SearchError: the first that is wrong, in a sentence.
    """
    try:
        return kind(**{name: value for name, value in settings.items() if name != "kind"})
    except ValidationError as error:
        raise SearchError(f"generator.{explained(error, lambda place: kind.model_fields)}") from None
    except TypeError:
        raise SearchError("generator: the names of settings are words") from None
