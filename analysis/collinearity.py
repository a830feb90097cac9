"""Candidates that are merges of other candidates, and what can still be said about a merge of them.

When M = 0.5 A + 0.5 B up to rounding, A, B and M together fit any merge of them equally well in infinitely many ways. The
split among the three is never reported from a joint fit. Each choice of candidates without such a relation is fitted on
its own, and the residuals are compared: the rounding of M itself is in the merge only if the file M was used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .regression import Fit, Sums, fit
from .rounding import bounds

# A candidate is a merge of others when the rest is no more than the rounding of all files in the relation.
_ROUNDING_OF_ALL = 1.5
# ... and when the relation explains it far better than the nearest single candidate does.
_BETTER = 0.25
_IN_RELATION = 6.0
_SIGNIFICANT = 4.0
# By how much the logarithm of the likelihood must favour one choice of candidates.
_DECISIVE = 20.0
_MOST_CHOICES = 400


@dataclass(frozen=True)
class Relation:
    """`candidate` is the sum of the others with these shares, up to rounding."""

    candidate: int
    shares: dict[int, float]

    @property
    def members(self) -> tuple[int, ...]:
        return (self.candidate, *self.shares)


@dataclass(frozen=True)
class Explanation:
    """The best fit and what limits it.

    Attributes:
        fit: of the candidates that were chosen.
        relations: between candidates; empty in the ordinary case.
        ambiguous: another choice of candidates fits as well; then `fit` is one of several descriptions of the same merge.
    """

    fit: Fit
    relations: tuple[Relation, ...] = ()
    ambiguous: bool = False


def explain(sums: Sums, indices: Sequence[int], dtype: str) -> Explanation:
    """The fit of candidates, of which none has the same values as another."""
    found: dict[frozenset[int], None] = {}
    relations: dict[tuple[int, ...], Relation] = {}
    pending, seen = [frozenset(indices)], set()
    while pending and len(seen) < _MOST_CHOICES:
        chosen = pending.pop()
        if chosen in seen:
            continue
        seen.add(chosen)
        relation = find_relation(sums, sorted(chosen))
        if relation is None:
            found[chosen] = None
            continue
        relations.setdefault(tuple(sorted(relation.members)), relation)
        pending += [chosen - {member} for member in reversed(relation.members)]
    if not relations:
        return Explanation(fit(sums, indices))
    related = {i for relation in relations.values() for i in relation.members}
    return _choose(sums, [sorted(c) for c in found], tuple(relations.values()), related, dtype)


def find_relation(sums: Sums, indices: Sequence[int]) -> Relation | None:
    """The clearest relation among candidates: one of them regressed on the others leaves no more than rounding."""
    best, clearest = None, np.inf
    for candidate in indices:
        others = [i for i in indices if i != candidate]
        if len(others) < 2:
            continue
        rest = fit(_centred(sums, candidate), others)
        nearest = min(sums.distance(candidate, i) for i in others)
        rounding = sums.own[candidate] + float(rest.shares**2 @ sums.own[others])
        left = rest.rho * sums.expected / rounding
        if not (left < _ROUNDING_OF_ALL and rest.rho < _BETTER * nearest):
            continue
        if rest.rho / nearest < clearest:
            shares = zip(others, rest.shares, rest.errors, strict=True)
            members = {i: float(s) for i, s, e in shares if abs(s) > max(_IN_RELATION * e, 1e-3)}
            best, clearest = Relation(candidate, members), rest.rho / nearest
    return best


def _centred(sums: Sums, candidate: int) -> Sums:
    """The sums with a candidate in the place of the merge."""
    g = sums.gram
    row = g[candidate]
    return replace(sums, gram=g - row[None, :] - row[:, None] + row[candidate])


def _choose(sums: Sums, choices: list[list[int]], relations, related: set[int], dtype: str) -> Explanation:
    scored: dict[frozenset[int], tuple[float, Fit]] = {}
    for choice in choices:
        whole = fit(sums, choice)
        used = frozenset(_without_idle(sums, whole, related))
        narrow = fit(sums, sorted(used))
        score = sums.active * np.log(max(narrow.squares, 1e-300)) + len(used) * np.log(max(sums.active, 2))
        if used not in scored or score < scored[used][0]:
            scored[used] = (score, whole)
    ranked = sorted(scored.values(), key=lambda pair: pair[0])
    best = ranked[0][1]
    complete = best.rho <= bounds(best.shares, best.errors, dtype, sums.active, best.equal)[1]
    decisive = len(ranked) == 1 or (complete and ranked[1][0] - ranked[0][0] > 2 * _DECISIVE)
    return Explanation(best, relations, ambiguous=not decisive)


def _without_idle(sums: Sums, whole: Fit, related: set[int]) -> list[int]:
    """The candidates of a fit without the related ones whose share is 0 within its error, dropped one after another."""
    while len(whole.indices) > 1:
        scores = {
            i: abs(s) / max(e, 1e-12)
            for i, s, e in zip(whole.indices, whole.shares, whole.errors, strict=True)
            if i in related
        }
        if not scores or min(scores.values()) > _SIGNIFICANT:
            break
        idle = min(scores, key=scores.__getitem__)
        whole = fit(sums, [i for i in whole.indices if i != idle])
    return list(whole.indices)
