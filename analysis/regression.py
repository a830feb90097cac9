"""Weighted least squares on inner products: which shares of the candidates, adding up to one, come nearest to the merge.

All sums are of z_i = (x_i - y) / length, one row per candidate x_i of the merge y: with shares that add up to one,
y - sum c_i x_i is - sum c_i z_i, so its weighted square is c' G c, and nothing large cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

# Directions in which candidates differ by less than this share of the largest are not solved for.
_SINGULAR = 1e-13
# For two ingredients, and for more: see `_pattern`.
_PATTERN = (2.5, 1.0)


@dataclass(frozen=True)
class Sums:
    """What a pass leaves of some tensors.

    Attributes:
        gram: (N + 1, N + 1) float64, inner products of the rows z_1..z_N and, last, y / length.
        expected: sum of (spacing / length)^2 over the active elements: 12 times what one rounding would leave.
        active: elements that are rounded: not those where all candidates agree on a number that the merge can hold.
        own: (N,) what the rounding of each candidate itself adds, in the unit of `expected`.
        equal: (N,) elements in which a candidate has the merge's value.
        elements: all of them, active or not.
        plain: (N, N) inner products of x_i - y as they are. Where an ingredient is missing, what is left has nothing to do
            with rounding, and weights of rounding would let the smallest numbers speak for all.
    """

    gram: np.ndarray
    expected: float
    active: int
    own: np.ndarray
    equal: np.ndarray
    elements: int
    plain: np.ndarray

    @classmethod
    def none(cls, candidates: int) -> Sums:
        square = np.zeros((candidates, candidates))
        return cls(
            np.zeros((candidates + 1, candidates + 1)), 0.0, 0, np.zeros(candidates), np.zeros(candidates), 0, square
        )

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.gram + other.gram,
            self.expected + other.expected,
            self.active + other.active,
            self.own + other.own,
            self.equal + other.equal,
            self.elements + other.elements,
            self.plain + other.plain,
        )

    def take(self, indices: Sequence[int]) -> Sums:
        """The sums of some of the candidates."""
        rows = [*indices, len(self.gram) - 1]
        square = np.ix_(rows[:-1], rows[:-1])
        return replace(
            self,
            gram=self.gram[np.ix_(rows, rows)],
            own=self.own[rows[:-1]],
            equal=self.equal[rows[:-1]],
            plain=self.plain[square],
        )

    def distance(self, i: int, j: int) -> float:
        """The squared distance of two candidates in units of what one rounding leaves."""
        g = self.gram
        return max(float(g[i, i] + g[j, j] - 2 * g[i, j]), 0.0) * 12 / max(self.expected, 1e-300)

    def rho(self, squares: float, parameters: int = 0) -> float:
        """Squared residuals in units of what one rounding leaves; NaN for too few elements, infinite where none is rounded."""
        if self.expected == 0:
            return float("inf") if squares > 0 else 0.0
        if self.active <= parameters:
            return float("nan")
        return float(squares) * 12 / self.expected * self.active / (self.active - parameters)


@dataclass(frozen=True)
class Fit:
    """Shares of some candidates.

    Attributes:
        indices: which candidates.
        shares: of each; they add up to one.
        covariance: of the shares, for residuals that are rounding and no smaller than it.
        systematic: what the pattern of rounding may add to each error, see `_pattern`.
        equal: how often the merge has the value of an ingredient, of the one where that is rarest.
        squares: the weighted sum of squared residuals.
        rho: the same in units of what one rounding leaves.
    """

    indices: tuple[int, ...]
    shares: np.ndarray
    covariance: np.ndarray
    systematic: np.ndarray
    equal: float
    squares: float
    rho: float

    @property
    def random(self) -> np.ndarray:
        """The standard error of each share if rounding were random."""
        return np.sqrt(np.maximum(np.diagonal(self.covariance), 0))

    @property
    def errors(self) -> np.ndarray:
        """The standard error of each share."""
        return np.hypot(self.random, self.systematic)


def fit(sums: Sums, indices: Sequence[int]) -> Fit:
    """The shares, adding up to one, with the smallest weighted residual."""
    indices = tuple(indices)
    shares, spread, squares = _solve(sums.gram[np.ix_(indices, indices)])
    rho = sums.rho(squares, len(indices) - 1)
    variance = max(rho, 1.0) / 12 if np.isfinite(rho) else 1 / 12
    systematic, equal = _pattern(sums, indices, shares, np.sqrt(np.maximum(np.diagonal(spread), 0) / 12))
    return Fit(indices, shares, variance * spread, systematic, equal, squares, rho)


def _pattern(sums: Sums, indices: tuple[int, ...], shares: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, float]:
    """How far the pattern of rounding may shift each share.

    Candidates lie on a grid, and where they differ by few steps of it, the rounding error follows from the steps alone: with
    the share 0.3, one step is always rounded off. Over all steps k that are about equally frequent, k times their errors
    adds up like a random walk over the multiples of the shares, as many as differences have places: 1 / p, with p the
    frequency of no difference, spread over as many axes as there are ingredients besides the first. The factors are those
    that simulations of fp16 and bf16 merges with differences from 1e-4 to 0.1 call for. Candidates that are not ingredients
    take no part in the pattern. The second number is `Fit.equal`.
    """
    out = np.zeros(len(shares))
    if len(shares) < 2:
        return out, 0.0
    by_size = np.argsort(-np.abs(shares))
    used = sorted({n for n in range(len(shares)) if abs(shares[n]) > 4 * errors[n]} | set(by_size[:2].tolist()))
    at = [indices[n] for n in used]
    equal = float(np.min(sums.equal[at])) / max(sums.elements, 1)
    if equal == 0.0:  # candidates of a finer dtype than the merge's have no grid in common with it
        return out, 0.0
    axes = len(used) - 1
    _, spread, _ = _solve(sums.gram[np.ix_(at, at)])
    out[used] = _PATTERN[axes > 1] * equal ** (0.5 - 1 / axes) * sums.active * np.maximum(np.diagonal(spread), 0) / 12
    return out, equal


def plain_fit(sums: Sums, indices: Sequence[int]) -> tuple[Fit, float]:
    """The shares with the smallest residual, every element counted alike: for merges of which something is missing.

    Returns:
        The fit (its `rho` is that of these shares under the weights of rounding), and the length of the residual relative
        to the distance of the nearest candidate.
    """
    indices = tuple(indices)
    g = sums.plain[np.ix_(indices, indices)]
    shares, spread, squares = _solve(g)
    variance = squares / max(sums.active - len(indices) + 1, 1)
    rho = sums.rho(float(shares @ sums.gram[np.ix_(indices, indices)] @ shares), len(indices) - 1)
    nearest = max(float(np.min(np.diagonal(g))), 1e-300)
    return Fit(indices, shares, variance * spread, np.zeros(len(indices)), 0.0, squares, rho), float(
        np.sqrt(squares / nearest)
    )


def _solve(g: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Shares that add up to one and make c' g c smallest, their covariance for unit residuals, and c' g c."""
    count, first = len(g), int(np.argmin(np.diagonal(g)))
    moves = np.delete(np.eye(count), first, axis=1) - np.eye(count)[:, [first]]
    inverse = _inverse(moves.T @ g @ moves)
    shares = np.eye(count)[first] - moves @ (inverse @ (moves.T @ g[:, first]))
    return shares, moves @ inverse @ moves.T, max(float(shares @ g @ shares), 0.0)


def free_fit(sums: Sums, indices: Sequence[int]) -> tuple[float, float]:
    """The sum of the shares and rho when the shares need not add up to one: other sums hint at SLERP or scaling."""
    at = list(indices)
    to_y, y_y = sums.gram[-1, at], float(sums.gram[-1, -1])
    g = sums.gram[np.ix_(at, at)] + to_y[:, None] + to_y[None, :] + y_y
    shares = _inverse(g) @ (to_y + y_y)
    rest = 1.0 - float(shares.sum())
    z = sums.gram[np.ix_(at, at)]
    squares = rest**2 * y_y - 2 * rest * float(shares @ to_y) + float(shares @ z @ shares)
    return 1.0 - rest, sums.rho(max(squares, 0.0), len(at))


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """The inverse of a positive matrix, by its eigenvalues after bringing the diagonal to one."""
    if matrix.size == 0:
        return matrix
    scale = np.sqrt(np.maximum(np.diagonal(matrix), 0))
    scale = np.where(scale > 0, 1 / np.where(scale > 0, scale, 1), 0)
    values, vectors = np.linalg.eigh(matrix * scale[:, None] * scale[None, :])
    kept = values > _SINGULAR * max(values[-1], 1e-300)
    inner = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
    return inner * scale[:, None] * scale[None, :]
