"""What a recipe's YAML file says, as plain data: size and syntax checked, and a name given to every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..checkpoints.errors import RecipeError
from ..checkpoints.files.yaml_text import plain_from_yaml
from ..checkpoints.text import unreadable

# More is a mistake, such as a checkpoint given as a recipe.
MOST_BYTES = 10_000_000
# How deep steps may be nested.
DEEPEST = 250
# A recipe with more is a mistake, or YAML whose aliases repeat a step without end.
MOST_STEPS = 5_000


def read_yaml(path: Path) -> Any:
    """The plain data in a YAML file.

    Raises:
        RecipeError: the file cannot be read, is too large, is not YAML, or names a key twice.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise _no_recipe(path, f"has more than {MOST_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise _no_recipe(path, unreadable(error)) from None
        raise RecipeError(f"{path}: cannot be read ({unreadable(error)})", code="recipe.not_read") from None
    return parse_yaml(text, str(path))


def _no_recipe(path: Path, why: str) -> RecipeError:
    """What is said of a file that is too large or no text: most are models."""
    from ..checkpoints.formats import is_model_name

    if is_model_name(path.name):
        return RecipeError(
            f"{path}: is a model, where a YAML file is expected; what a model says of its own merge is made a recipe by "
            "`unetscope import`",
            code="recipe.is_model",
        )
    return RecipeError(f"{path}: is not a recipe: {why}", code="recipe.no_text")


def too_deep(name: str, remedy: str = "") -> RecipeError:
    """A step that stands below too many others."""
    return RecipeError(f"steps.{name}: steps are nested more than {DEEPEST} deep{remedy}", code="recipe.too_deep")


def parse_yaml(text: str, where: str) -> Any:
    """The plain data in YAML text; `where` names it in errors.

    Raises:
        RecipeError: it is too large, is not YAML, or names a key twice.
    """
    if len(text) > MOST_BYTES:
        raise RecipeError(f"{where}: has more than {MOST_BYTES:,} characters: this is not a recipe")
    try:
        return plain_from_yaml(text)
    except ValueError as error:
        raise RecipeError(f"{where}: is not valid YAML: {error}", code="recipe.not_yaml") from None


def named_steps(data: dict) -> dict:
    """Steps that are written inside another step's inputs get names of their own (`mix.1`, `mix.1.2`...)."""
    steps = data.get("steps")
    if not isinstance(steps, dict):
        return data
    flat: dict[str, Any] = {}

    def flatten(name: str, step: Any, depth: int = 0) -> None:
        if name in flat or len(flat) >= MOST_STEPS:
            fault = "has the name of another step" if name in flat else f"is one of more than {MOST_STEPS} steps"
            raise RecipeError(f"steps.{name}: {fault}")
        if depth > DEEPEST:
            raise too_deep(name, "; give the inner ones names")
        if isinstance(step, dict) and isinstance(step.get("inputs"), list):
            inputs = []
            for i, source in enumerate(step["inputs"], 1):
                if isinstance(source, dict):
                    inner = f"{name}.{i}"
                    while inner in taken:
                        inner += "'"
                    flatten(inner, source, depth + 1)
                    source = inner
                inputs.append(source)
            step = {**step, "inputs": inputs}
        flat[name] = step

    leaves = [name for part in ("models", "loras") if isinstance(data.get(part), dict) for name in data[part]]
    taken = {str(name) for name in (*steps, *leaves)}
    for name, step in steps.items():
        flatten(str(name), step)
    return {**data, "steps": flat}
