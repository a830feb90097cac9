"""Shares -> the recipe that somebody may have used, as plain data that a merge recipe is read from.

The simplest kind that fits within the errors wins: one model, the uniform average, one number, add difference, a preset of
block weights, and last a weight for every label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..checkpoints.errors import RecipeError
from ..checkpoints.families import Family, family_of, is_text
from ..checkpoints.families.conventions import CONVENTIONS
from ..checkpoints.families.presets import preset, preset_names
from .shares import Share, Vector, common, ingredients, vector, vectors
from .trace_report import LabelTrace

_DTYPES = {"F16": "fp16", "BF16": "bf16", "F32": "fp32", "F64": "fp32", "F8_E4M3": "fp8_e4m3"}
# Names that mean something else in a recipe.
_TAKEN = ("merge",)
_STEP = "merged"
# The share of a component that may be unexplained while the rest is still worth a recipe.
_MOST_MISSING = 0.5


@dataclass(frozen=True)
class Suggestion:
    """A recipe: its method (a name, empty when there is none), a few words on it, and plain data."""

    method: str = ""
    words: str = ""
    recipe: dict[str, Any] | None = None
    ingredients: tuple[str, ...] = field(default=())


def suggest(
    labels: Sequence[LabelTrace],
    tensors: Sequence[LabelTrace],
    paths: Mapping[str, str],
    family: str | Family | None,
    base: str | None = None,
) -> Suggestion:
    """The simplest recipe that the shares allow.

    Args:
        labels, tensors: the traces.
        paths: candidate -> file.
        family: of the merge; None for a part of a model, which no recipe makes.
        base: the candidate that all others were tuned from, if known; it is named first.
    """
    weights = [t for t in labels if t.label != "VAE"]
    order = [*(n for n in paths if n == base), *(n for n in paths if n != base)]
    used = ingredients(weights, order)
    # Shares that go with something unlisted make no recipe.
    if not used or family is None or _mostly_missing(weights):
        return Suggestion(ingredients=tuple(used))
    found = vectors(weights, used)
    varied = _varied(weights, tensors, found, used)
    method, words, inputs, step = _step(found, varied, used, family)
    models = {_recipe_name(n): paths[n] for n in inputs}
    step = {"method": method, "inputs": [_recipe_name(n) for n in inputs], **step}
    recipe: dict[str, Any] = {"models": models, "steps": {_step_name(models): step}}
    recipe |= _vae(labels, inputs, paths, recipe)
    recipe["output"] = {"dtype": _output(labels)}
    return Suggestion(method, words, recipe, tuple(used))


def _mostly_missing(labels: Sequence[LabelTrace]) -> bool:
    """Whether the UNET or a text encoder is, for the most part, not explained."""
    total: dict[str, int] = {}
    missing: dict[str, int] = {}
    for t in labels:
        total[t.component] = total.get(t.component, 0) + t.parameters
        if t.verdict in ("incomplete", "unknown"):
            missing[t.component] = missing.get(t.component, 0) + t.parameters
    return any(count > _MOST_MISSING * total[component] for component, count in missing.items())


def _recipe_name(name: str) -> str:
    return f"{name}_" if name in _TAKEN else name


def _step_name(models: Mapping[str, str]) -> str:
    name = _STEP
    while name in models:
        name += "_"
    return name


def _output(labels: Sequence[LabelTrace]) -> str:
    counts: dict[str, int] = {}
    for t in labels:
        counts[t.dtype] = counts.get(t.dtype, 0) + t.parameters
    return _DTYPES.get(max(counts, key=counts.__getitem__), "keep")


def _step(found: Mapping[str, Vector], varied: dict, used: list[str], family: str | Family):
    """Method, words, inputs in order, and parameters."""
    one = common(found) if not varied else None
    if one is not None:
        return _for_all(one, used)
    if len(used) == 2:
        return _two(found, varied, used, family)
    if roles := _difference(found):
        a, b, c = roles
        alpha = _lines({x: v[b] for x, v in found.items()}, {k: v[b] for k, v in varied.items()}, family)
        return "add_difference", f"{a} + alpha ({b} - {c}), alpha by block", list(roles), {"alpha": alpha}
    lines = [_lines({x: v[n] for x, v in found.items()}, {k: v[n] for k, v in varied.items()}, family) for n in used]
    return "weighted_average", "a weighted average with weights by block", used, {"weights": lines}


def _for_all(one: Mapping[str, Share], used: list[str]):
    """One set of shares for the whole model."""
    count = len(used)
    if count == 1:
        return "copy", f"{used[0]}, unchanged", used, {}
    if all(one[n].near(1 / count) for n in used):
        return "uniform", "the uniform average of " + " and ".join(used), used, {}
    if count == 2:
        a, b = used
        alpha = one[b].short
        return "weighted_sum", f"{1 - alpha:g} {a} + {alpha:g} {b}", [a, b], {"alpha": alpha}
    if roles := _difference({"": one}):
        a, b, c = roles
        alpha = one[b].short
        return "add_difference", f"{a} + {alpha:g} ({b} - {c})", list(roles), {"alpha": alpha}
    shares = [one[n].short for n in used]
    words = " + ".join(f"{s:g} {n}" for s, n in zip(shares, used, strict=True))
    return "weighted_average", words, used, {"weights": shares}


def _difference(found: Mapping[str, Vector]) -> tuple[str, str, str] | None:
    """a, b and c when every label is a + alpha (b - c)."""
    names = list(next(iter(found.values())))
    if len(names) != 3:
        return None
    vectors = list(found.values())
    for a in names:
        b, c = (n for n in names if n != a)
        if not all(v[a].near(1.0) for v in vectors):
            continue
        totals = [(v[b].value + v[c].value, v[b].tolerance + v[c].tolerance) for v in vectors]
        if all(abs(total) <= slack + 1e-9 for total, slack in totals):
            return (a, b, c) if sum(v[b].value for v in vectors) > 0 else (a, c, b)
    return None


# -- two models: presets --------------------------------------------------------------------------------------------------


def _two(found: Mapping[str, Vector], varied: dict, used: list[str], family: str | Family):
    for a, b in (used, used[::-1]):
        shares = {x: v[b] for x, v in found.items()}
        named = None if varied else _preset(shares, family)
        if named is not None:
            name, convention = named
            text = {x: s.short for x, s in shares.items() if is_text(x)}
            step: dict[str, Any] = {"alpha": {"preset": name, **text}}
            if convention != "supermerger":
                step["convention"] = convention
            words = f"block weights {name} from {a} (0) to {b} (1)"
            return "weighted_sum", words, [a, b], step
    a, b = used
    alpha = _lines({x: v[b] for x, v in found.items()}, {k: v[b] for k, v in varied.items()}, family)
    return "weighted_sum", f"block weights from {a} (0) to {b} (1)", [a, b], {"alpha": alpha}


def _preset(shares: Mapping[str, Share], family: str | Family) -> tuple[str, str] | None:
    """The preset and the convention that give every UNET label its share."""
    blocks = {x: s for x, s in shares.items() if x in family_of(family).labels}
    for convention in CONVENTIONS.values():
        if convention.layout != "mbw" or not blocks:
            continue
        for name in preset_names():
            try:
                expected = convention.read(preset(name, family), family).weights
            except RecipeError:  # it is one for other blocks
                continue
            if all(s.near(expected[x] or 0.0) for x, s in blocks.items()):
                return name, convention.name
    return None


# -- a weight for every label ---------------------------------------------------------------------------------------------


def _lines(shares: Mapping[str, Share], varied: Mapping[str, Share], family: str | Family) -> Any:
    """Block weights as lines: the whole UNET in one where its labels agree, a line for each label otherwise."""
    text = {x: s.short for x, s in shares.items() if is_text(x)}
    unet = {x: s for x, s in shares.items() if not is_text(x)}
    whole = common({x: {"": s} for x, s in unet.items()})
    lines = {family_of(family).core.upper(): whole[""].short} if whole else {x: s.short for x, s in unet.items()}
    return {**text, **lines, **{k: s.short for k, s in varied.items()}}


def _varied(
    labels: Sequence[LabelTrace], tensors: Sequence[LabelTrace], found: dict[str, Vector], used: list[str]
) -> dict[str, Vector]:
    """Lines for the layers of labels that have several weights: by kind of layer where that is enough, else by key.

    Of such a label, `found` gets the weights of its largest kind of layer; lines are for those that differ.
    """
    out: dict[str, Vector] = {}
    by_kind: dict[str, dict[str, Vector]] = {}
    for label in (t for t in labels if t.varies):
        layers = sorted((t for t in label.layers if t.complete), key=lambda t: -t.parameters)
        if layers:
            found[label.label] = vector(layers[0], used, {})
        for layer in label.layers:
            if layer.complete and layer.kind != "other":
                by_kind.setdefault(layer.kind, {})[label.label] = vector(layer, used, {})
            elif layer.verdict != "unknown":
                rows = (t for t in tensors if (t.label, t.kind) == (label.label, layer.kind) and t.verdict != "unknown")
                out |= {f"key:{row.key}": vector(row, used, {}) for row in rows}
    for kind, vectors_of in by_kind.items():
        everywhere = {t.label for t in tensors if t.kind == kind and t.component != "vae"}
        all_of_it = {x: vectors_of.get(x, found.get(x)) for x in everywhere}
        one = common(all_of_it) if None not in all_of_it.values() else None
        if one and any(not _agree(one, found[x]) for x in everywhere):
            out[kind] = one
        elif not one:
            out |= {f"{x} {kind}": v for x, v in vectors_of.items() if not _agree(v, found[x])}
    return out


def _agree(one: Vector, other: Vector) -> bool:
    return common({"one": one, "other": other}) is not None


# -- the VAE --------------------------------------------------------------------------------------------------------------


def _vae(labels: Sequence[LabelTrace], inputs: list[str], paths: Mapping[str, str], recipe: dict) -> dict[str, Any]:
    """Where the VAE comes from: nothing to say when it is the first model's, a model or file, or the step itself."""
    trace = next((t for t in labels if t.label == "VAE"), None)
    if trace is None or trace.verdict == "unknown":
        return {}
    if trace.verdict in ("identical", "equal"):
        leader = next(n for n, share in trace.shares.items() if share == 1.0)
        sources = (leader, *trace.same.get(leader, ()), *trace.identical)
        if inputs[0] in sources:
            return {}
        source = next((n for n in inputs if n in sources), None)
        return {"components": {"vae": _recipe_name(source) if source else paths[sources[0]]}}
    return _merged_vae(trace, inputs, recipe)


def _merged_vae(trace: LabelTrace, inputs: list[str], recipe: dict) -> dict[str, Any]:
    """The VAE merged by the same step: under its own weights, or the step's when those fit."""
    (step,) = recipe["steps"].values()
    used = vector(trace, inputs, {})
    parameter = next((p for p in ("alpha", "weights") if p in step), None)
    if parameter is None:
        return {"components": {"vae": "merge"}}

    def with_vae(value: Any, share: Share) -> Any:
        lines = value if isinstance(value, Mapping) else {"default": value}
        return {**lines, "VAE": share.short}

    if parameter == "alpha":
        step["alpha"] = with_vae(step["alpha"], used[inputs[1]])
    else:
        pairs = zip(step["weights"], inputs, strict=True)
        step["weights"] = [with_vae(value, used[n]) for value, n in pairs]
    return {}
