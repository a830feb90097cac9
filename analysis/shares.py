"""The shares of every label put side by side: who is used at all, and which numbers a person would have typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .trace_report import LabelTrace

# Shares smaller than this never make a candidate an ingredient, however small their error.
_LEAST = 1e-4
# How far a share may be from a number and still be it: standard errors, and a little for what is not linear in detail.
_SIGMAS, _SLACK, _APPROXIMATE = 4.0, 2e-6, 2e-3
_DIGITS = 8
_UNKNOWN = 0.05
# Denominators that averages of a few models have, and how well a share has to be known for one to be believed.
_FRACTIONS = (3, 6, 7, 8, 9, 11, 12)
_FINE = 5e-4


@dataclass(frozen=True)
class Share:
    """A share and how far from it the true one may be."""

    value: float
    tolerance: float

    def near(self, number: float) -> bool:
        return abs(self.value - number) <= self.tolerance

    @property
    def short(self) -> float:
        """The number that a person or a formula would have put there: few decimals, or a simple fraction, if one is near."""
        decimals = (round(self.value, digits) + 0.0 for digits in (0, 1, 2))
        fractions = (round(self.value * q) / q for q in _FRACTIONS) if self.tolerance < _FINE else ()
        for number in (*decimals, *fractions, round(self.value, 3) + 0.0):
            if self.near(number):
                return number
        return round(self.value, _DIGITS) + 0.0


Vector = Mapping[str, Share]


def significant(trace: LabelTrace, name: str) -> bool:
    """Whether a candidate has a share that its error does not explain."""
    return abs(trace.shares.get(name, 0.0)) > max(_SIGMAS * trace.errors.get(name, 0.0), _LEAST)


def known(labels: Sequence[LabelTrace]) -> list[LabelTrace]:
    return [label for label in labels if label.verdict != "unknown"]


def ingredients(labels: Sequence[LabelTrace], names: Sequence[str]) -> list[str]:
    """The candidates that the merge uses: those with a share of their own somewhere, then as few others as needed."""
    alone = {n for t in known(labels) for n in t.shares if n not in t.same and significant(t, n)}
    used = set(alone)
    for trace in known(labels):
        for name in trace.shares:
            group = (name, *trace.same.get(name, ()))
            if significant(trace, name) and not used.intersection(group):
                used.add(name)
    return [name for name in names if name in used]


def vectors(labels: Sequence[LabelTrace], used: Sequence[str]) -> dict[str, Vector]:
    """label -> share of every ingredient. What cannot be told apart in a label is divided as it is elsewhere."""
    usual = usual_shares(labels, used)
    return {trace.label: vector(trace, used, usual) for trace in known(labels)}


def usual_shares(labels: Sequence[LabelTrace], used: Sequence[str]) -> dict[str, float]:
    """The median share of each ingredient over the labels where it can be told from all others."""
    clear = [t for t in known(labels) if not any(n in used for n in _blurred(t))]
    return {n: float(np.median([t.shares.get(n, 0.0) for t in clear])) for n in used} if clear else {}


def vector(trace: LabelTrace, used: Sequence[str], usual: Mapping[str, float]) -> Vector:
    """The shares of one label."""
    out = {name: Share(0.0, 0.0) for name in used}
    if not any(significant(trace, name) for name in trace.shares):
        # Nothing can be told here: whatever the rest of the model has is as good as anything, and recipes stay short.
        return {name: Share(usual.get(name, trace.shares.get(name, 0.0)), _UNKNOWN) for name in used}
    for name, value in trace.shares.items():
        members = [n for n in (name, *trace.same.get(name, ())) if n in out]
        if not members or not (significant(trace, name) or len(members) > 1):
            continue
        share = Share(value, tolerance(trace, name))
        together = sum(usual.get(n, 0.0) for n in members)
        if len(members) > 1 and abs(together - value) <= share.tolerance + 1e-6:
            out |= {n: Share(usual[n], share.tolerance + 1e-6) for n in members}
        else:
            out[members[0]] = share
    return out


def tolerance(trace: LabelTrace, name: str) -> float:
    """How far the true share may be from the one that was found; 0 where the bits or the values are a candidate's own."""
    if trace.verdict in ("identical", "equal"):
        return 0.0
    slack = _APPROXIMATE if trace.approximate or trace.verdict in ("nearly", "incomplete") else _SLACK
    return _SIGMAS * trace.errors.get(name, 0.0) + slack


def _blurred(trace: LabelTrace) -> set[str]:
    return {n for first, others in trace.same.items() for n in (first, *others)}


def common(found: Mapping[str, Vector]) -> dict[str, Share] | None:
    """The shares that all labels have, if they have the same ones within their tolerances."""
    if not found:
        return None
    out: dict[str, Share] = {}
    for name in next(iter(found.values())):
        shares = [v[name] for v in found.values()]
        best = min(shares, key=lambda s: s.tolerance if s.tolerance else np.inf)
        if not all(abs(s.value - best.value) <= s.tolerance + best.tolerance + 1e-9 for s in shares):
            return None
        out[name] = best
    return out
