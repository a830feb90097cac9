"""The share of every model in a recipe's result, worked out from the steps alone."""

from __future__ import annotations

from ...checkpoints.errors import UnetscopeError
from ...checkpoints.families import Family, family_of
from ..compile import fitting_families, leaf_shares_by_block
from ..recipe import Recipe


def shares_of(recipe: Recipe, family: str | Family | None = None) -> tuple[dict[str, float | None], str]:
    """The mean share of every model over the UNET's parameters, and a sentence on what that rests on (or empty).

    A LoRA's is its strength, as if it changed every tensor.

    Block weights depend on the architecture: without `family` the first that they fit is taken, and the sentence says so.
    None for a model that a method reads which is not linear.
    """
    try:
        tried = [family_of(family)] if family else fitting_families(recipe)
    except UnetscopeError as error:
        return {}, f"effective shares are not known: {error}"
    for each in tried:
        try:
            shares, by_block = leaf_shares_by_block(recipe, each)
            return shares, f"effective shares were worked out for {each.title}" if by_block else ""
        except UnetscopeError as error:
            failure = error
    return {}, f"effective shares are not known: {failure}"
