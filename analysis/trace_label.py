"""From the sums of a label's tensors to its shares and its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .collinearity import Explanation, Relation, explain
from .reduce import meet
from .regression import Fit, Sums, fit, free_fit, plain_fit
from .rounding import ROUNDED_MORE, ROUNDED_ONCE, bounds
from .trace_pass import TensorSums
from .trace_report import LabelTrace, Verdict

# Candidates nearer to each other than this, in units of what one rounding leaves, are the same to the merge.
_EQUAL = 1e-4
# How far the shares of layers lie apart, in standard errors, for the label to count as varied inside.
_SURE = 6.0
# Stored with the precision of the arithmetic itself: what is left is not one rounding, and its size tells little.
_WIDE = ("F32", "F64")


@dataclass(frozen=True)
class Group:
    """Tensors that are explained together.

    Attributes:
        tensors: all of them.
        used: those that every chosen candidate has.
        chosen: the candidates that have most of the group, by position among all.
        sums: over `used`, rows for `chosen`.
        classes: of candidates with equal values, positions within `chosen`; each a tuple that begins with its first.
        identical: the positions within `chosen` whose bits the merge has.
    """

    tensors: Sequence[TensorSums]
    used: Sequence[TensorSums]
    chosen: tuple[int, ...]
    sums: Sums
    classes: tuple[tuple[int, ...], ...]
    identical: tuple[int, ...]


def group(tensors: Sequence[TensorSums]) -> Group:
    """Add up tensors over the candidates that hold more than half of their elements."""
    having: dict[int, int] = {}
    for t in tensors:
        for i in t.available:
            having[i] = having.get(i, 0) + t.tensor.elements
    half = sum(t.tensor.elements for t in tensors) / 2
    chosen = tuple(sorted(i for i, n in having.items() if n > half))
    used = [t for t in tensors if set(chosen) <= set(t.available)] if chosen else []
    total, same = Sums.none(len(chosen)), (0,) * (len(chosen) + 1)
    for t in used:
        at = [t.available.index(i) for i in chosen]
        sums = t.sums.take(at)
        if sums.gram[:-1, :-1].any():  # a tensor that is the same everywhere says nothing
            total = total + sums
        same = meet(same, [t.same[0], *(t.same[i + 1] for i in at)])
    classes = _classes(total, same[1:])
    identical = tuple(i for i, s in enumerate(same[1:]) if s == same[0])
    return Group(tensors, used, chosen, total, classes, identical)


def _classes(sums: Sums, same: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Candidates with the same bits, or values that differ by nothing that the merge could show."""
    classes: list[list[int]] = []
    for i, bits in enumerate(same):
        for one in classes:
            if same[one[0]] == bits or sums.active == 0 or sums.distance(one[0], i) < _EQUAL:
                one.append(i)
                break
        else:
            classes.append([i])
    return tuple(tuple(one) for one in classes)


def trace_label(tensors: Sequence[TensorSums], names: Sequence[str], rows: Sequence[LabelTrace]) -> LabelTrace:
    """A label, from its tensors and the traces of each of them."""
    whole = group(tensors)
    trace, explanation = _explained(whole, names, explain)
    if trace.complete or trace.verdict == "unknown":
        return trace
    return _varied(trace, explanation, rows, names, whole, tensors) or trace


def trace_tensor(tensor: TensorSums, names: Sequence[str]) -> LabelTrace:
    """One tensor by itself. Relations between candidates are not looked for: a label has more to see them in."""
    trace, _ = _explained(group([tensor]), names, lambda sums, indices, _: Explanation(fit(sums, indices)))
    return replace(trace, key=tensor.tensor.key, kind=tensor.tensor.kind)


def _explained(whole: Group, names: Sequence[str], how) -> tuple[LabelTrace, Explanation | None]:
    first = whole.tensors[0].tensor
    trace = LabelTrace(
        label=first.label,
        component=first.component,
        parameters=sum(t.tensor.elements for t in whole.tensors),
        dtype=_dtype(whole.tensors),
        verdict="unknown",
    )
    if not whole.used:
        return trace, None
    own = [names[i] for i in whole.chosen]
    leaders = [one[0] for one in whole.classes]
    trace = replace(trace, same={own[c[0]]: tuple(own[i] for i in c[1:]) for c in whole.classes if len(c) > 1})
    if whole.identical or not whole.sums.gram[:-1, :-1].any():
        at = whole.identical[0] if whole.identical else 0
        leader = next(c[0] for c in whole.classes if at in c)
        verdict = "identical" if whole.identical else "equal"
        return _copied(trace, verdict, own, leaders, leader, tuple(own[i] for i in whole.identical)), None
    explanation = how(whole.sums, leaders, trace.dtype)
    return _fitted(trace, whole.sums, explanation, own), explanation


def _copied(trace, verdict: Verdict, own, leaders, leader: int, identical: tuple[str, ...]) -> LabelTrace:
    shares = {own[i]: float(i == leader) for i in leaders}
    return replace(
        trace, verdict=verdict, shares=shares, errors=dict.fromkeys(shares, 0.0), identical=identical, rho=0.0
    )


def _fitted(trace: LabelTrace, sums: Sums, explanation: Explanation, own: Sequence[str]) -> LabelTrace:
    best = explanation.fit
    regular, limit = bounds(best.shares, best.errors, trace.dtype, sums.active, best.equal)
    nearest = min(float(sums.gram[i, i]) for i in range(len(own)))
    single = sums.rho(nearest)
    if single <= bounds(np.ones(1), np.zeros(1), trace.dtype, sums.active)[1]:
        leader = int(np.argmin(np.diagonal(sums.gram)[:-1]))
        copied = _copied(trace, "equal", own, best.indices, leader, ())
        # Only when no mixture fits clearly better: small differences can hide inside one rounding.
        if leader in best.indices and not _clearly_better(sums, best, nearest):
            return replace(copied, rho=single)
    verdict, scale = _verdict(best.rho, limit), None
    approximate = (trace.dtype not in _WIDE and best.rho < regular) or bool(np.any(best.systematic > 2 * best.random))
    rho, missing = best.rho, 0.0
    if verdict == "incomplete":
        scale = _scale(sums, best)
        best, missing = plain_fit(sums, best.indices)
    return replace(
        trace,
        verdict=verdict,
        shares={own[i]: float(s) for i, s in zip(best.indices, best.shares, strict=True)},
        errors={own[i]: float(e) for i, e in zip(best.indices, best.errors, strict=True)},
        rho=rho,
        missing=missing,
        approximate=approximate,
        ambiguous=explanation.ambiguous,
        relations={own[r.candidate]: _named(r, own) for r in explanation.relations},
        scale=scale,
    )


def _clearly_better(sums: Sums, best: Fit, nearest: float) -> bool:
    """Whether a mixture beats the nearest candidate alone by far more than its extra shares earn by chance."""
    gain = (nearest - best.squares) * 12 * sums.active / max(sums.expected, 1e-300)
    return gain > 30.0 + 4.0 * len(best.indices)


def _verdict(rho: float, limit: float) -> Verdict:
    if np.isnan(rho):
        return "unknown"
    if rho <= limit:
        return "exact"
    return "nearly" if rho <= ROUNDED_MORE * max(limit / ROUNDED_ONCE, 1.0) else "incomplete"


def _scale(sums: Sums, best: Fit) -> float | None:
    """The sum of free shares, where letting it differ from one explains most of what is left."""
    total, rho = free_fit(sums, best.indices)
    return total if rho <= ROUNDED_MORE and rho < best.rho / 2 and abs(total - 1) > 1e-4 else None


def _named(relation: Relation, own: Sequence[str]) -> dict[str, float]:
    return {own[i]: share for i, share in relation.shares.items()}


def _varied(trace, explanation, rows: Sequence[LabelTrace], names, whole: Group, tensors) -> LabelTrace | None:
    """The label as layers of different weights, if each layer by itself is explained and the label together is not."""
    known = [row for row in rows if row.verdict != "unknown"]
    if not known or not all(row.complete for row in known):
        return None
    if sum(row.parameters for row in known) < 0.9 * trace.parameters:
        return None
    own = [names[i] for i in whole.chosen]
    used = [own[i] for i in explanation.fit.indices] if explanation else own
    weights = np.array([row.parameters for row in known], float)
    table = np.array([[row.shares.get(name, 0.0) for name in used] for row in known])
    errors = np.array([[row.errors.get(name, 0.0) for name in used] for row in known])
    means = weights @ table / weights.sum()
    if not np.any(np.abs(table - means) > _SURE * errors + 1e-3):
        return None
    spread = np.sqrt(weights @ (table - means) ** 2 / weights.sum())
    return replace(
        trace,
        verdict="exact",
        shares=dict(zip(used, map(float, means), strict=True)),
        errors=dict(zip(used, map(float, spread), strict=True)),
        rho=float(np.nanmax([row.rho for row in known])),
        missing=0.0,
        scale=None,
        varies=True,
        layers=_layers(tensors, names),
    )


def _layers(tensors: Sequence[TensorSums], names: Sequence[str]) -> tuple[LabelTrace, ...]:
    """A trace for each kind of layer."""
    kinds: dict[str, list[TensorSums]] = {}
    for tensor in tensors:
        kinds.setdefault(tensor.tensor.kind, []).append(tensor)
    found = []
    for kind, members in kinds.items():
        trace, _ = _explained(group(members), names, lambda sums, indices, _: Explanation(fit(sums, indices)))
        found.append(replace(trace, kind=kind))
    return tuple(found)


def _dtype(tensors: Sequence[TensorSums]) -> str:
    """The dtype that most elements have."""
    counts: dict[str, int] = {}
    for t in tensors:
        name = t.tensor.infos[0].dtype.name
        counts[name] = counts.get(name, 0) + t.tensor.elements
    return max(counts, key=counts.__getitem__)
