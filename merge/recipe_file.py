"""A recipe's YAML file as plain data: size and syntax checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..checkpoints.text import unreadable
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
            raise _no_recipe(path, f"has more than {_MOST_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise _no_recipe(path, unreadable(error)) from None
        raise RecipeError(f"{path}: cannot be read ({unreadable(error)})") from None
    return parse_yaml(text, str(path))


def _no_recipe(path: Path, why: str) -> RecipeError:
    """What is said of a file that is too large or no text: most are models."""
    from ..checkpoints.formats import is_model_name

    if is_model_name(path.name):
        return RecipeError(
            f"{path}: is a model, where a YAML file is expected; what a model says of its own merge is made a recipe by "
            "`unetscope import`"
        )
    return RecipeError(f"{path}: is no recipe: {why}")


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
