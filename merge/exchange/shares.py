"""The share of every model in a recipe's result, worked out from the steps alone."""

from __future__ import annotations

from collections import defaultdict

from ...checkpoints.errors import UnetscopeError
from ...checkpoints.families import Family, family_of
from ..collapse import Collapse, fitting_families
from ..forms import Model
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
            return _shares(recipe, each)
        except UnetscopeError as error:
            failure = error
    return {}, f"effective shares are not known: {failure}"


def _shares(recipe: Recipe, family: Family) -> tuple[dict[str, float | None], str]:
    models = recipe.leaves(recipe.result)
    collapse = Collapse(recipe, family, {name: i for i, name in enumerate(models)})
    groups = _groups(recipe, family)
    sums: dict[int, float] = defaultdict(float)
    indirect: set[int] = set()
    for key, size in groups:
        form = collapse.form(recipe.result, key)
        for term, coefficient in zip(form.terms, form.coefficients, strict=True):
            if isinstance(term, Model):
                sums[term.index] += coefficient * size
            else:
                indirect.update(term.models)
    total = sum(size for _, size in groups)
    shares = {name: None if i in indirect else sums[i] / total for i, name in enumerate(models)}
    how = f"effective shares were worked out for {family.title}" if len(groups) > 1 else ""
    return shares, how


def _groups(recipe: Recipe, family: Family) -> list[tuple[str, int]]:
    """One UNET key for each set of tensors that all steps treat alike, and how many parameters the set has.

    Deep recipes take a while for every key; numbers are the same for all of them, block weights differ by block.
    """
    resolved = [
        weights.resolve(family)
        for name in recipe.order(recipe.result)
        for value in recipe.steps[name].weights(recipe.convention).values()
        for weights in (value if isinstance(value, list) else [value])
        if not isinstance(weights, bool | int | str)
    ]
    varied = [weights for weights in resolved if not weights.is_uniform]
    found: dict[tuple, list] = {}
    for key, spec in family.layout().items():
        if not family.block_of(key).core:
            continue
        size = 1
        for n in spec.shape:
            size *= n
        group = found.setdefault(tuple(weights.weight(key) for weights in varied), [key, 0])
        group[1] += size
    return [(key, size) for key, size in found.values()]
