"""A recipe's YAML file as plain data: size and syntax checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..checkpoints.wording import unreadable
from ..checkpoints.yaml_text import plain_from_yaml
from .errors import RecipeError

# More is a mistake, such as a checkpoint given as a recipe.
_MOST_BYTES = 10_000_000


def read_yaml(path: Path) -> Any:
    """The plain data in a YAML file.

    Raises:
        RecipeError: the file cannot be read, is too large, is no YAML, or names a key twice.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise RecipeError(f"{path}: has more than {_MOST_BYTES:,} bytes: this is no recipe")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: cannot be read ({unreadable(error)})") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Any:
    """The plain data in YAML text; `where` names it in errors.

    Raises:
        RecipeError: it is too large, is no YAML, or names a key twice.
    """
    if len(text) > _MOST_BYTES:
        raise RecipeError(f"{where}: has more than {_MOST_BYTES:,} characters: this is no recipe")
    try:
        return plain_from_yaml(text)
    except ValueError as error:
        raise RecipeError(f"{where}: is not valid YAML: {error}") from None
