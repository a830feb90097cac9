"""LoRAs baked into a checkpoint: a recipe of one step, which the merge engine streams."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...checkpoints.errors import RecipeError
from ...checkpoints.text import free_name, readable
from ..recipe import MERGED, Recipe
from .uses import LoraUse


def bake_recipe(base: Path | str, loras: Sequence[LoraUse]) -> Recipe:
    """The recipe of base + sum of strength x change; give it to `merge` or `dry_run`.

    Args:
        base: the checkpoint.
        loras: what is baked in. A file may be there twice: its strengths add up.

    Raises:
        RecipeError: no LoRA, block weights that are none, or a name that a recipe cannot hold.

    Example:
        >>> from unetscope.merge.lora import LoraUse
        >>> recipe = bake_recipe("model.safetensors", [LoraUse(Path("style.safetensors"), 0.8)])
        >>> recipe.steps[recipe.result].method, list(recipe.loras)
        ('task_arithmetic', ['style'])
    """
    if not loras:
        raise RecipeError("name at least one LoRA to bake in (--lora FILE)")
    names = _names([Path(base), *(use.path for use in loras)])
    return Recipe.parse(
        {
            "models": {names[0]: str(base)},
            "loras": {
                name: {"path": str(use.path), "base": names[0], **({"adapter": use.adapter} if use.adapter else {})}
                for name, use in zip(names[1:], loras, strict=True)
            },
            "steps": {
                free_name("baked", names.__contains__): {
                    "method": "task_arithmetic",
                    "inputs": names,
                    "weights": [use.weights() for use in loras],
                }
            },
        },
        "command line",
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """A name for every file: its stem, with a number where stems are equal or are words of recipes."""
    names: list[str] = []
    for path in paths:
        names.append(free_name(readable(path.stem), [*names, MERGED].__contains__))
    return names
