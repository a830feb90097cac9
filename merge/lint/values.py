"""What sampled weights tell: bases that are none, changes too small to be stored, parts that are copies."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from ...checkpoints.dtypes import dtype_named
from ...checkpoints.families import Family, is_text
from ...checkpoints.kernels import kernel
from ...checkpoints.notices import Notice
from ..compile import RecipeCompiler
from ..recipe import Recipe
from .sampling import Sample
from .shares import ComponentShares

# Fine-tunes move by 0.001 to 0.2 of their weights' length; models that have nothing in common are 1.4 apart.
_UNRELATED = 0.5
# Two fine-tunes of one base are about as far from each other as from it, or farther.
_NEARER = 0.5
# Copies that only a conversion changed: rounding to fp16 moves weights by 2e-4 of their length.
_NEARLY = 2.5e-4
# With less than this share of the weights changed, a step does about nothing.
_FEW = 0.1


def value_findings(recipe: Recipe, family: Family, sample: Sample, shares: list[ComponentShares]) -> Iterator[Notice]:
    """What is wrong with the sampled weights of a recipe's models."""
    yield from _not_finite(recipe, sample)
    yield from _same_weights(family, sample)
    yield from _bases(recipe, sample)
    yield from _rounded_away(recipe, family, sample)
    for part in shares:
        if is_text(part.component):
            yield from _text_encoder(part, sample)
        elif part.component == "vae":
            yield from _vae(part, sample)


def _not_finite(recipe: Recipe, sample: Sample) -> Iterator[Notice]:
    for name in sample.names:
        bad = [key for key, values in sample.values[name].items() if not np.isfinite(values).all()]
        if bad:
            stops = recipe.output.nan == "error"
            yield Notice(
                "nan.sampled",
                f"{name} has NaN or infinite values in {len(bad)} of {len(sample.values[name])} sampled tensors ({bad[0]}, ...)",
                (name,),
                severity="error" if stops else "warning",
                why="The merge stops at them"
                if stops
                else f"They are repaired (nan: {recipe.output.nan}), but the model is damaged",
                remedy="Take an undamaged copy of the file" + (", or set output.nan to copy or zero" if stops else ""),
            )


def _same_weights(family: Family, sample: Sample) -> Iterator[Notice]:
    for a, b in combinations(sample.names, 2):
        if sample.identical(a, b, sample.core):
            yield Notice(
                "twice.weights",
                f"{a} and {b} have the same {sample.core_title}: all sampled weights are equal",
                (a, b),
                severity="warning",
                why="Its shares add up, and a difference of the two is 0",
                remedy="Use one of them, or name the file that was meant",
            )


# -- the base ---------------------------------------------------------------------------------------------------------


def _bases(recipe: Recipe, sample: Sample) -> Iterator[Notice]:
    for name, step in recipe.steps.items():
        at = step.kind.base_at
        if at is None:
            continue
        base, others = step.inputs[at], [s for i, s in enumerate(step.inputs) if i != at]
        models = [m for s in others if recipe.space_of(s) == "weight" for m in recipe.models_of(s)]
        models = [m for m in dict.fromkeys(models) if m in sample.names and m != base]
        if base in sample.names and models:
            yield from _base(name, base, models, sample)


def _base(step: str, base: str, models: list[str], sample: Sample) -> Iterator[Notice]:
    remedy = f"Give as base the model that {' and '.join(models)} were trained from"
    for component in (c for c in sample.keys if c != "vae"):
        far = {m: d for m in models if (d := sample.distance(m, base, component)) is not None}
        unrelated = {m: d for m, d in far.items() if d > _UNRELATED}
        if unrelated:
            said = ", ".join(f"{m} is {d:.2f} of its length away" for m, d in unrelated.items())
            yield Notice(
                "base.unrelated",
                f"{base} is not a base of {', '.join(unrelated)}: in {component}, {said} (fine-tunes: 0.001 to 0.2)",
                (base, *unrelated),
                severity="warning",
                why="The difference is then a whole model, not what training changed",
                remedy=remedy,
                step=step,
            )
            continue
        for a, b in combinations(far, 2):
            between = sample.distance(a, b, component)
            if between is not None and 0 < between < _NEARER * min(far[a], far[b]):
                yield Notice(
                    "base.farther",
                    f"in {component}, {a} and {b} are {min(far[a], far[b]) / between:.1f} times nearer to each other "
                    f"({between:.3g}) than to {base} ({far[a]:.3g}, {far[b]:.3g})",
                    (base, a, b),
                    severity="warning",
                    why=f"They seem to come from a nearer model, and each difference holds the whole way from {base} to that one",
                    remedy=remedy,
                    step=step,
                )


# -- rounding ---------------------------------------------------------------------------------------------------------


def _rounded_away(recipe: Recipe, family: Family, sample: Sample) -> Iterator[Notice]:
    if recipe.output.dtype == "keep":
        return
    compiler = RecipeCompiler(recipe, family, {name: i for i, name in enumerate(sample.names)})
    known = set(sample.names)
    for name in recipe.order(recipe.result):
        step = recipe.steps[name]
        linear = all(recipe.steps[s].kind.kind == "linear" for s in recipe.order(name))
        if not linear or recipe.space_of(name) == "delta" or not set(recipe.leaves(name)) <= known:
            continue
        for start in (s for s in step.inputs if recipe.space_of(s) == "weight"):
            found = changed_share(recipe, compiler, name, start, sample)
            if found is not None and found < _FEW:
                yield Notice(
                    "rounding.lost",
                    f"only {found:.1%} of the weights that it moves away from {start} are stored as another number: the "
                    f"others move by less than half a step of {recipe.output.dtype} and are rounded back",
                    tuple(recipe.models_of(name)),
                    severity="warning",
                    why=f"The result is {start}, but for a few weights",
                    remedy="Choose larger weights, or write fp32",
                    step=name,
                )
                break


def changed_share(recipe: Recipe, compiler: RecipeCompiler, step: str, start: str, sample: Sample) -> float | None:
    """Of the sampled weights of the denoiser that a linear step moves away from its input `start`, the share that the output shows.

    A weight shows a move when it is stored as another number of the output's dtype. None when the step moves nothing.
    """
    dtype = dtype_named(recipe.output.dtype)
    moved = shown = 0
    for key in sample.keys.get(sample.core, ()):
        before, after = (
            sample.of(compiler.combination(start, key), key),
            sample.of(compiler.combination(step, key), key),
        )
        exact = _exact_change(compiler, start, step, key, sample)
        if before is None or after is None or exact is None:
            continue
        moved += int(np.count_nonzero(exact))
        shown += int(np.count_nonzero((_stored(before, dtype) != _stored(after, dtype)) & (exact != 0)))
    return shown / moved if moved else None


def _exact_change(compiler: RecipeCompiler, start: str, step: str, key: str, sample: Sample) -> np.ndarray | None:
    """after - before in double precision."""
    total = 0.0
    for sign, name in ((1.0, step), (-1.0, start)):
        combination = compiler.combination(name, key)
        if any(key not in sample.values[sample.names[i]] for i in combination.models()):
            return None
        for i, c in zip(combination.models(), combination.coefficients, strict=True):
            total = total + sign * c * sample.values[sample.names[i]][key].astype(np.float64)
    return np.where(np.abs(total) > 1e-12, total, 0.0)


def _stored(values: np.ndarray, dtype) -> np.ndarray:
    out = np.empty(values.size * dtype.size, np.uint8)
    kernel().encode(np.ascontiguousarray(values, np.float32), dtype, out)
    return out.view(dtype.bits)


# -- text encoders and VAE --------------------------------------------------------------------------------------------


def _text_encoder(part: ComponentShares, sample: Sample) -> Iterator[Notice]:
    mixed = [n for n, share in part.shares.items() if share is not None and share and n in sample.names]
    # Where shares are negative, differences are added, and what a copy takes away is meant.
    if len(mixed) < 2 or any(share is None or share < 0 for share in part.shares.values()):
        return
    copied: dict[str, list[str]] = {}
    for name in mixed:
        twins = [n for n in sample.names if n != name and _alike(sample, n, name, part.component)]
        if twins:
            copied[name] = twins
    own = [name for name in mixed if name not in copied]
    if not copied or not own:
        return
    said = "; ".join(f"{name}'s is that of {', '.join(twins)}" for name, twins in copied.items())
    yield Notice(
        "text_encoder.copies",
        f"{part.component} is averaged, though some of it are copies: {said}",
        (*own, *copied),
        severity="warning",
        why=f"What {' and '.join(own)} learned there counts only {sum(part.shares[n] for n in own):.3g}",
        remedy=f"Take it whole from one model (components: {{{part.component}: {own[0]}}}), if its learning is wanted",
    )


def _alike(sample: Sample, a: str, b: str, component: str) -> bool:
    found = sample.distance(a, b, component)
    return found is not None and found < _NEARLY


def _vae(part: ComponentShares, sample: Sample) -> Iterator[Notice]:
    used = [n for n, share in part.shares.items() if (share is None or share) and n in sample.names]
    differ = [(a, b) for a, b in combinations(used, 2) if not _alike_or_unknown(sample, a, b)]
    if differ:
        yield Notice(
            "vae.averaged",
            f"the VAE is averaged, and those of {differ[0][0]} and {differ[0][1]} differ",
            tuple(used),
            severity="warning",
            why="A mean of two VAEs is seldom one: pictures lose contrast and colour",
            remedy=f"Take it whole from one model (components: {{vae: {used[0]}}})",
        )
    elif used:
        yield from _odd_vae(used[0], sample)


def _odd_vae(used: str, sample: Sample) -> Iterator[Notice]:
    others = [n for n in sample.names if n != used and sample.shared(n, used, "vae")]
    if len(others) < 2 or any(_alike_or_unknown(sample, used, n) for n in others):
        return
    if all(_alike_or_unknown(sample, others[0], n) for n in others[1:]):
        yield Notice(
            "vae.odd",
            f"the VAE is {used}'s, and all other models have another one",
            (used, *others),
            severity="note",
            why="It may be a replacement that its author meant, or a damaged one",
            remedy=f"Look at a picture, or take the VAE of the others (components: {{vae: {others[0]}}})",
        )


def _alike_or_unknown(sample: Sample, a: str, b: str) -> bool:
    return not sample.shared(a, b, "vae") or _alike(sample, a, b, "vae")
