"""What the recipe alone tells: steps that lead nowhere, chains that are not mean, weights that are out of the way."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from ...checkpoints.errors import UnetscopeError
from ...checkpoints.families import Family
from ...checkpoints.notices import Notice
from ..block_weights import BlockWeights
from ..recipe import Recipe
from .shares import ComponentShares, names_of

# Beyond these a model is extrapolated farther than twice its difference.
_LOWEST, _HIGHEST = -1.0, 2.0
# The numbers that are strengths; others are thresholds, densities, powers. Weights are such of methods on differences.
_STRENGTHS = ("alpha", "beta", "weights")
_NEAR_ONE = 1e-6


def recipe_findings(recipe: Recipe) -> Iterator[Notice]:
    """What can be said without the architecture."""
    yield from _unused(recipe)
    yield from _chains(recipe)


def weight_findings(recipe: Recipe, family: Family) -> Iterator[Notice]:
    """Block weights that the architecture lacks, and strengths out of the usual range; per step."""
    for name in _used_steps(recipe):
        step = recipe.steps[name]
        try:
            given = {p: w for p, w in step.weights(recipe.convention).items() if step.kind.parameters[p].weighs}
            lists = {p: w if isinstance(w, list) else [w] for p, w in given.items()}
            resolved = {p: [each.resolve(family) for each in w] for p, w in lists.items()}
        except UnetscopeError as error:
            yield Notice(
                "labels.unknown",
                str(error),
                severity="error",
                why=f"The models are {family.id}, and the merge refuses weights for what they lack",
                remedy="Write weights for the labels of this architecture (`unetscope layers` lists them)",
                step=name,
            )
            continue
        for parameter in _STRENGTHS:
            if parameter == "weights" and not step.kind.on_deltas:
                continue
            for weights in resolved.get(parameter, ()):
                odd = {label: x for label, x in weights.by_label().items() if not _LOWEST <= x <= _HIGHEST}
                if odd:
                    yield _far(name, parameter, odd)
                    break


def _far(step: str, parameter: str, odd: dict[str, float]) -> Notice:
    label, value = max(odd.items(), key=lambda item: abs(item[1]))
    more = f" and {len(odd) - 1} other labels" if len(odd) > 1 else ""
    return Notice(
        "range.parameter",
        f"{parameter} is {value:.4g} for {label}{more}",
        severity="warning",
        why=f"Outside {_LOWEST:g} to {_HIGHEST:g} a merge leaves the range in which its models were trained, and pictures break",
        remedy="Check for a missing decimal point or a percentage, or choose a smaller value",
        step=step,
    )


def share_findings(recipe: Recipe, shares: list[ComponentShares]) -> Iterator[Notice]:
    """Shares that do not add up, models without any, coefficients that add up to too much."""
    for part in shares:
        low, high = part.total
        if max(abs(low - 1), abs(high - 1)) > _NEAR_ONE:
            said = f"{low:.4g}" if high - low < _NEAR_ONE else f"{low:.4g} to {high:.4g}"
            yield Notice(
                "total.not_one",
                f"the shares of the models in {part.component} add up to {said}, not to 1",
                tuple(part.shares),
                severity="warning",
                why="All weights grow or shrink by that factor, which no training has seen",
                remedy="Let the shares add up to 1 (weighted_average does with normalise: true)",
                step=recipe.result if recipe.result in recipe.steps else "",
            )
    yield from _far_shares(recipe, shares)
    reached = {leaf for part in shares for leaf, (low, high) in part.extremes.items() if (low, high) != (0.0, 0.0)}
    reached |= {leaf for part in shares for leaf, share in part.shares.items() if share is None}
    used = _used_leaves(recipe)
    for name in names_of(recipe):
        if name in used and name not in reached:
            yield Notice(
                "unused.weight",
                f"{name} has the weight 0 everywhere",
                (name,),
                severity="warning",
                why="The result is the same without it",
                remedy="Give it a weight, or leave it out",
            )


def _far_shares(recipe: Recipe, shares: list[ComponentShares]) -> Iterator[Notice]:
    for part in shares:
        for name, (low, high) in part.extremes.items():
            if low < _LOWEST - _NEAR_ONE or high > _HIGHEST + _NEAR_ONE:
                value = low if abs(low) > abs(high) else high
                yield Notice(
                    "range.share",
                    f"the steps together give {name} the coefficient {value:.4g} in {part.component}",
                    (name,),
                    severity="warning",
                    why=f"Outside {_LOWEST:g} to {_HIGHEST:g} a merge leaves the range in which its models were trained",
                    remedy="Look at the steps that use it more than once, or choose smaller weights",
                )


def _used_leaves(recipe: Recipe) -> set[str]:
    sources = [recipe.result, *recipe.components.values()]
    used = {leaf for s in sources if s in recipe.steps or s in recipe.models for leaf in recipe.leaves(s)}
    used |= {s for s in sources if recipe.is_file(s)}
    # What a LoRA counts from is used by it.
    return used | {lora.base for name, lora in recipe.loras.items() if name in used and lora.base}


def _used_steps(recipe: Recipe) -> list[str]:
    sources = [recipe.result, *recipe.components.values()]
    return list(dict.fromkeys(name for s in sources if s in recipe.steps for name in recipe.order(s)))


def _unused(recipe: Recipe) -> Iterator[Notice]:
    used = {*_used_leaves(recipe), *_used_steps(recipe)}
    for kind, names in (("model", recipe.models), ("LoRA", recipe.loras), ("step", recipe.steps)):
        for name in names:
            if name not in used:
                yield Notice(
                    "unused.by_result",
                    f"the {kind} {name} is not used by the result ({recipe.result})",
                    () if kind == "step" else (name,),
                    severity="warning",
                    why="What it was meant for does not happen",
                    remedy=f"Name it as an input of a step that leads to {recipe.result}, or leave it out",
                    step=name if kind == "step" else "",
                )


def _chains(recipe: Recipe) -> Iterator[Notice]:
    """Two-model merges at 0.5, one after another, which look like a mean of all and are none."""
    halves = {name for name in _used_steps(recipe) if _is_mean(recipe, name)}
    inner = {s for name in halves for s in recipe.steps[name].inputs if s in halves}
    for top in sorted(halves - inner):
        shares = _mean_shares(recipe, top, halves)
        if len(shares) > 2 and len(set(shares.values())) > 1:
            said = ", ".join(f"{name} {share}" for name, share in shares.items())
            yield Notice(
                "uniform.chain",
                f"a chain of even steps is not an even mean of its {len(shares)} inputs: the shares are {said}",
                tuple(name for name in shares if name in recipe.models),
                severity="warning",
                why="What enters first is halved again by every later step",
                remedy=f"For even shares use one step: method: uniform, inputs: [{', '.join(shares)}]",
                step=top,
            )


def _is_mean(recipe: Recipe, name: str) -> bool:
    """Whether a step is the mean of its inputs, for all blocks: a linear method whose shares are equal and add up to one."""
    step = recipe.steps[name]
    if step.kind.kind != "linear" or step.kind.on_deltas:
        return False
    count, values = len(step.inputs), {}
    for parameter, given in step.weights(recipe.convention).items():
        each = given if isinstance(given, list) else [given]
        if any(isinstance(x, BlockWeights) and (x.lines or not isinstance(x.start, float)) for x in each):
            return False
        plain = [x.start if isinstance(x, BlockWeights) else x for x in each]
        values[parameter] = tuple(plain) if isinstance(given, list) else plain[0]
    return all(abs(share - 1 / count) < _NEAR_ONE for share in step.kind.shares(count, values))


def _mean_shares(recipe: Recipe, top: str, halves: set[str]) -> dict[str, Fraction]:
    """The share of every model (or other step) in a tree of means, in order of first use."""
    shares: dict[str, Fraction] = {}
    weights = {top: Fraction(1)}
    # Each step after all that use it, so that its own share is complete.
    for name in reversed(recipe.order(top)):
        if name not in halves or name not in weights:
            continue
        inputs = recipe.steps[name].inputs
        for source in inputs:
            table = weights if source in halves else shares
            table[source] = table.get(source, Fraction(0)) + weights[name] / len(inputs)
    return {name: shares[name] for name in sorted(shares, key=lambda n: (-shares[n], list(shares).index(n)))}
