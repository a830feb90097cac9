"""Changes of low rank: a matrix as the product of two thin ones, and the best such product for a matrix.

A weight of a linear layer is a matrix (outputs, inputs) as it is; that of a convolution becomes one: (outputs, inputs x height x
width). The best approximation of a rank keeps the largest singular values (Eckart and Young 1936).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...checkpoints.errors import RecipeError

# Up to this side a matrix is decomposed in full: a sketch would hardly be smaller.
_SMALL = 256
# A sketch has half as many directions again as are wanted, at least so many more. It is refined by subspace iteration
# until a round lowers the squared error by less than this share of it; where that takes too long, the matrix is decomposed.
_MORE, _ROUNDS, _SETTLED = 16, 12, 1e-3
# Columns of a large matrix that are in fp64 at a time.
_COLUMNS = 2048
# Singular values below this share of the largest are what rounding leaves of zero in fp32.
_NOTHING = 3e-7


@dataclass(frozen=True, slots=True)
class Cut:
    """How much of a change to keep: `rank` directions, or as few as hold `energy` of its square, or, with both, at most `rank`.

    With neither, all directions that are more than rounding.
    """

    rank: int | None = None
    energy: float | None = None

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise RecipeError(f"a LoRA's rank must be at least 1, found {self.rank}")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise RecipeError(f"the energy to keep is a share between 0 and 1, such as 0.95; found {self.energy:g}")

    def of(self, values: np.ndarray) -> int:
        """How many of these singular values (all of them, descending) are kept; at least one."""
        count = int(np.sum(values > values[0] * _NOTHING))
        if self.energy is not None and self.energy < 1:
            squares = np.cumsum(values.astype(np.float64) ** 2)
            count = min(count, int(np.searchsorted(squares, self.energy * squares[-1])) + 1)
        return max(1, count if self.rank is None else min(count, self.rank))


@dataclass(frozen=True, slots=True)
class Factors:
    """A matrix `up @ down`: (outputs, rank) by (rank, inputs), fp32 or fp64."""

    up: np.ndarray
    down: np.ndarray

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def matrix(self) -> np.ndarray:
        """The product."""
        return self.up @ self.down

    def squares(self) -> float:
        """The sum of the squares of the product's elements, without the product."""
        one = self.up.astype(np.float64)
        other = self.down.astype(np.float64)
        return max(0.0, float(np.sum((one.T @ one) * (other @ other.T))))

    def balanced(self) -> Factors:
        """The same product with columns of `up` and rows of `down` of about equal size, so that neither underflows in fp16.

        The factors are powers of two: nothing is rounded.
        """
        out, into = np.linalg.norm(self.up, axis=0), np.linalg.norm(self.down, axis=1)
        usable = (out > 0) & (into > 0)
        ratio = np.sqrt(np.where(usable, into, 1.0) / np.where(usable, out, 1.0))
        factor = np.exp2(np.round(np.log2(ratio))).astype(np.float32)
        return Factors(self.up * factor, self.down / factor[:, None])

    def widened(self, columns: int) -> Factors:
        """The same with further columns, which are zeros."""
        more = columns - self.down.shape[1]
        return Factors(self.up, np.pad(self.down, ((0, 0), (0, more)))) if more else self


def summed(parts: Sequence[tuple[float, Factors]]) -> Factors:
    """The exact sum of strengths times changes: the factors side by side, the strength in `up`. Ranks add up."""
    ups = [strength * part.up for strength, part in parts]
    return Factors(np.concatenate(ups, axis=1), np.concatenate([part.down for _, part in parts], axis=0))


def error_squares(before: Factors, after: Factors) -> float:
    """The squared Frobenius norm of `before - after`, from QR decompositions of the factors; no matrix is formed."""
    left, right = _corners(summed([(1.0, before), (-1.0, after)]))
    return float(np.sum((left[1] @ right[1].T) ** 2))


def resized(change: Factors, cut: Cut) -> Factors:
    """The best approximation of a product, from QR decompositions of its factors: the SVD is of a rank x rank matrix."""
    if not change.up.any() or not change.down.any():
        return Factors(change.up[:, :1] * 0, change.down[:1] * 0)
    (left, small), (right, other) = _corners(change)
    u, values, vh = np.linalg.svd(small @ other.T)
    count = cut.of(values)
    root = np.sqrt(values[:count])
    up, down = left @ (u[:, :count] * root), (root[:, None] * vh[:count]) @ right.T
    return Factors(up.astype(np.float32), down.astype(np.float32))


def _corners(change: Factors):
    """QR decompositions of `up` and of `down` transposed, fp64."""
    return np.linalg.qr(change.up.astype(np.float64)), np.linalg.qr(change.down.T.astype(np.float64))


def decomposed(matrix: np.ndarray, cut: Cut, seed: int = 0) -> Factors:
    """The best approximation of a matrix (fp32), singular values shared by both factors.

    A given rank that is small against the matrix comes from a randomised sketch (Halko, Martinsson and Tropp 2011) with
    subspace iterations, 12 at most, until a round lowers the squared error by less than a thousandth; anything else
    from the eigenvectors of the smaller Gram matrix in fp64, which are exact.
    """
    if matrix.shape[0] > matrix.shape[1]:
        turned = decomposed(matrix.T, cut, seed)
        return Factors(turned.down.T, turned.up.T)
    if not matrix.any():
        return Factors(np.zeros((matrix.shape[0], 1), np.float32), np.zeros((1, matrix.shape[1]), np.float32))
    side, basis = matrix.shape[0], None
    if cut.energy is None and cut.rank is not None and side > max(_SMALL, 4 * cut.rank):
        basis = _sketched(matrix, cut.rank, seed)
    if basis is None:
        basis = _exact(matrix, cut)
    down = basis.T @ matrix
    # Rows of `down` are as long as the singular values; those of nothing but rounding stay as they are.
    root = np.sqrt(np.maximum(np.linalg.norm(down, axis=1), np.finfo(np.float32).tiny))
    return Factors(np.ascontiguousarray(basis * root), down / root[:, None])


def _exact(matrix: np.ndarray, cut: Cut) -> np.ndarray:
    """The leading left singular vectors, (side, rank) fp32."""
    gram = np.zeros((matrix.shape[0],) * 2)
    for start in range(0, matrix.shape[1], _COLUMNS):
        part = matrix[:, start : start + _COLUMNS].astype(np.float64)
        gram += part @ part.T
    squares, vectors = np.linalg.eigh(gram)
    values = np.sqrt(np.maximum(squares[::-1], 0.0))
    return vectors[:, ::-1][:, : cut.of(values)].astype(np.float32)


def _sketched(matrix: np.ndarray, rank: int, seed: int) -> np.ndarray | None:
    """The leading left singular vectors from a sketch, or None where it does not settle."""
    total = float(np.einsum("ij,ij->", matrix, matrix, dtype=np.float64))
    width = rank + max(_MORE, rank // 2)
    start = np.random.default_rng(seed).standard_normal((matrix.shape[1], width), dtype=np.float32)
    basis, kept = np.linalg.qr(matrix @ start)[0], 0.0
    for _ in range(_ROUNDS):
        basis = np.linalg.qr(matrix @ np.linalg.qr(matrix.T @ basis)[0])[0]
        shadow = (basis.T @ matrix).astype(np.float64)
        squares, turn = np.linalg.eigh(shadow @ shadow.T)
        before, kept = kept, float(np.sum(squares[-rank:]))
        if kept - before <= _SETTLED * max(total - kept, 0.0) + 1e-7 * total:
            leading = turn[:, ::-1][:, :rank]
            # Directions of nothing but rounding would only fill the file.
            count = max(1, int(np.sum(squares[::-1][:rank] > squares[-1] * _NOTHING**2)))
            return (basis @ leading[:, :count].astype(np.float32)).astype(np.float32)
    return None
