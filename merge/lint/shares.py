"""Which share every model has in every component of the result; needs no files, and where they are open counts what they have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any

from ...checkpoints.checkpoint import Checkpoint
from ...checkpoints.families import Family, family_of, is_buffer, is_text, layout
from ..compatibility import tensor_in
from ..compile import RecipeCompiler
from ..linear_combination import LinearCombination, MethodCall, Model
from ..recipe import Recipe


@dataclass
class ComponentShares:
    """What a component of the result is made of.

    Attributes:
        component: `unet`, `clip_l`, `vae`...
        shares: model or LoRA -> mean of its coefficient over the parameters; None where a method that is not linear reads it.
        spread: model -> lowest and highest mean coefficient of a block label.
        extremes: model -> lowest and highest coefficient among the tensors that it has a share in.
        total: lowest and highest sum of the coefficients of models (not of differences) over the tensors.
    """

    component: str
    shares: dict[str, float | None] = field(default_factory=dict)
    spread: dict[str, tuple[float, float]] = field(default_factory=dict)
    extremes: dict[str, tuple[float, float]] = field(default_factory=dict)
    total: tuple[float, float] = (1.0, 1.0)

    def to_plain(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return asdict(self)


def names_of(recipe: Recipe) -> list[str]:
    """Models, LoRAs, and the files that components name: every leaf, in order."""
    return list(dict.fromkeys([*recipe.models, *recipe.loras, *filter(recipe.is_file, recipe.components.values())]))


def weight_total(combination: LinearCombination, loras: set[int]) -> float:
    """The sum of a combination's coefficients on models; differences count nothing."""
    return sum(c * _counts(t, loras) for t, c in combination.items())


def _counts(term: Model | MethodCall, loras: set[int]) -> float:
    if isinstance(term, Model):
        return float(term.index not in loras)
    if term.method.on_deltas or term.method.result == "delta" or not term.inputs:
        return 0.0
    return float(abs(weight_total(term.inputs[0], loras)) > 0.5)


def combinations(
    recipe: Recipe, family: str | Family, component: str, models: Mapping[str, Checkpoint] | None = None
) -> Iterator[tuple[str, int, LinearCombination]]:
    """Key, elements and combination of every weight of a component, by the architecture's layout.

    Args:
        models: those that are open, by name; the others are taken to be whole.

    Raises:
        UnetscopeError: a block weight does not fit the architecture.
    """
    names, family, models = names_of(recipe), family_of(family), models or {}
    compiler = RecipeCompiler(
        recipe,
        family,
        {name: i for i, name in enumerate(names)},
        lambda i, key: _has(models.get(names[i]), family, key),
    )
    source, asked = recipe.source_of(component, is_text(component))
    for key, spec in layout(family).items():
        if family.block_of(key).component == component and not is_buffer(key):
            combination = compiler.combination(source, key, merge_vae=asked)
            if isinstance(combination, LinearCombination):
                yield key, prod(spec.shape), combination


def _has(model: Checkpoint | None, family: Family, key: str) -> bool:
    """Whether a model has a tensor; one that is not open has all, and a denoiser's average stands for it."""
    if model is None or model.architecture.what not in ("checkpoint", "component"):
        return True
    average = model.architecture.ema_only and family.block_of(key).core
    return average or tensor_in(model, family, key) is not None


def is_whole(model: Checkpoint, family: Family) -> bool:
    """Whether a model has every weight of a family's layout."""
    components = family.component_ids
    keys = (key for key in layout(family) if family.block_of(key).component in components and not is_buffer(key))
    return all(_has(model, family, key) for key in keys)


def component_shares(
    recipe: Recipe, family: str | Family, models: Mapping[str, Checkpoint] | None = None
) -> list[ComponentShares]:
    """The shares of all models in every component, as an architecture's layout has it.

    Args:
        models: those that are open, by name: they have no share in what they lack.

    Raises:
        UnetscopeError: a block weight does not fit the architecture.
    """
    return [_shares(recipe, family, component, models) for component in family_of(family).component_ids]


def _shares(
    recipe: Recipe, family: str | Family, component: str, models: Mapping[str, Checkpoint] | None
) -> ComponentShares:
    names = names_of(recipe)
    loras = {i for i, name in enumerate(names) if name in recipe.loras}
    sums: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    sizes: dict[str, int] = defaultdict(int)
    extremes: dict[int, tuple[float, float]] = {}
    indirect: set[int] = set()
    totals = []
    for key, size, combination in combinations(recipe, family, component, models):
        label = family_of(family).block_of(key).label
        sizes[label] += size
        totals.append(weight_total(combination, loras))
        for term, coefficient in combination.items():
            if isinstance(term, Model):
                sums[term.index][label] += coefficient * size
                low, high = extremes.get(term.index, (coefficient, coefficient))
                extremes[term.index] = (min(low, coefficient), max(high, coefficient))
            else:
                indirect.update(term.models)
    found = ComponentShares(component, total=(min(totals, default=1.0), max(totals, default=1.0)))
    whole = sum(sizes.values())
    for index in sorted({*sums, *indirect}):
        name = names[index]
        found.shares[name] = None if index in indirect else sum(sums[index].values()) / max(whole, 1)
        if index not in indirect:
            means = [sums[index][label] / sizes[label] for label in sizes]
            found.spread[name] = (min(means), max(means))
            found.extremes[name] = extremes[index]
    return found
