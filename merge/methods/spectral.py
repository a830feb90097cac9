"""Methods on the singular values of differences: whole tensors, a convolution as the matrix of its outputs by the rest.

The papers decompose matrices alone and average everything else (biases, norms), which have no directions; so it is here.
They are of linear layers; that convolutions count as matrices too is how the field uses them.

Every decomposition is that of the smaller Gram matrix in double precision: an eigenvalue problem of the short side, several
times faster than a singular value decomposition, and accurate for all that fp32 inputs tell. Directions whose singular value is
rounding (below that of the largest times the long side times the step of fp32, numpy's `matrix_rank`) have no direction that
could be told from another; they are left out, of means too, where the papers would give them one at random. It makes a
difference for LoRAs, which have few directions.
"""

from __future__ import annotations

from .declaring import whole
from .lazy_numpy import np
from .method import Delta, Numbers
from .other_tools import Mecha

_STEP = 2.0**-23  # of fp32


@whole(working=28)
def iso_c(*deltas: Delta, weights: Numbers = 1.0, alpha: float = 1.0, z: float = 0.0):
    """base + alpha U S' V, U S V = sum w_t (x_t - base), S' = m + z (S - m), m the mean of S: every direction equally strong.

    z = 0 is isotropic merging, 1 task arithmetic; between them the spectrum is flattened in part, above 1 sharpened ("Iso-Z" at
    0.8 and 2). Tensors with one axis get the weighted mean of their differences.

    Source: Marczak et al. 2025, "No task left behind: isotropic model merging with common and task-specific subspaces" (Iso-C);
    z is of "Iso-Z" recipes.

    Use: fine-tunes of one base whose directions compete: the strongest of one no longer drown those of others.
    """
    if deltas[0].ndim < 2:
        return alpha * _mean(deltas, weights)
    total = _sum(deltas, weights)
    values, polar = _polar(total)
    level = (1 - z) * (values.mean() if values.size else 0.0)
    total *= z
    total += np.multiply(polar, level, out=polar)
    return _shaped(alpha, total, deltas)


@whole(working=60)
def iso_cts(*deltas: Delta, weights: Numbers = 1.0, alpha: float = 1.0, common: float = 0.8):
    """base + alpha m U V: the strongest directions of the sum, and own ones of each model in place of its weakest, equally strong.

    U and V are the first `common` of the directions of D = sum w_t d_t, d_t = x_t - base, and for each model an equal number of
    the strongest of w_t (d_t - P d_t), P the projection on the common left ones; all made orthogonal (to the nearest orthogonal
    matrix). m is the mean of their singular values. Tensors with one axis get the weighted mean of their differences.

    Source: Marczak et al. 2025, "No task left behind: isotropic model merging with common and task-specific subspaces" (Iso-CTS).

    Use: as iso_c, with more than a few models.
    """
    if deltas[0].ndim < 2:
        return alpha * _mean(deltas, weights)
    total = _sum(deltas, weights)
    sides, count = min(total.shape), len(deltas)
    # Rounded as the authors do, so that their number of directions is ours; never more than there are.
    own = min(round((sides - int(sides * common)) / count), sides // count)
    lefts, values, rights = _decomposed(total, sides - own * count)
    found = [(lefts, values, rights)]
    if own:
        found += [_own(_matrix(d, w), lefts, own) for d, w in zip(deltas, weights, strict=True)]
    lefts, values, rights = _joined(found)
    level = values.mean() if values.size else 0.0
    return _shaped(alpha * level, _polar(lefts)[1] @ _polar(rights)[1], deltas)


@whole(working=40)
def tsv(*deltas: Delta, weights: Numbers = 1.0, alpha: float = 1.0, keep: float = 0.0):
    """base + alpha sum U_t S_t V_t: the strongest directions of each w_t (x_t - base), made orthogonal to the other models'.

    Each of n models keeps 1 / n of its directions, at least one; `keep` names another share. All U_t together, and all V_t, are
    replaced by the nearest orthogonal matrix, so that models do not interfere. Tensors with one axis get the weighted mean of
    their differences.

    Source: Gargiulo et al. 2025, "Task singular vectors: reducing task interference in model merging" (TSV-Merge).

    Use: many fine-tunes of one base with different subjects.
    """
    if deltas[0].ndim < 2:
        return alpha * _mean(deltas, weights)
    sides = min(deltas[0].shape[0], deltas[0].size // max(deltas[0].shape[0], 1))
    kept = min(max(int(sides * (keep or 1 / len(deltas))), 1), sides)
    lefts, values, rights = _joined([_decomposed(_matrix(d, w), kept) for d, w in zip(deltas, weights, strict=True)])
    return _shaped(alpha, (_polar(lefts)[1] * values) @ _polar(rights)[1], deltas)


@whole(
    working=40,
    result="first",
    mecha=Mecha(
        "truncate_rank",
        "a rank use_approximate_basis approximate_basis_iters approximate_basis_seed",
        read="rank",
        write="",
        note="sd-mecha finds the strongest directions by chance unless use_approximate_basis is false; here they are exact",
    ),
)
def truncate_rank(difference: Delta, *, rank: int = 8) -> Delta:
    """U_r S_r V_r of a difference: its strongest `rank` directions, as a LoRA of that rank has.

    Tensors with one axis stay as they are; rank 0 leaves nothing of the others.

    Source: `truncate_rank` of sd-mecha; Eckart and Young 1936.

    Use: what a difference comes to when it is extracted as a LoRA, in the middle of a recipe.
    """
    if difference.ndim < 2:
        return difference
    lefts, values, rights = _decomposed(_matrix(difference, 1.0), max(rank, 0))
    return _shaped(1.0, (lefts * values) @ rights, [difference])


def _matrix(delta, weight: float):
    """A difference as a matrix in double precision, times its weight."""
    return np.multiply(delta.reshape(delta.shape[0], -1), weight, dtype=np.float64)


def _sum(deltas, weights):
    total = _matrix(deltas[0], weights[0])
    for delta, weight in zip(deltas[1:], weights[1:], strict=True):
        total += _matrix(delta, weight)
    return total


def _mean(deltas, weights):
    total = sum(np.multiply(d, w, dtype=np.float64) for d, w in zip(deltas, weights, strict=True))
    return (total / len(deltas)).astype(np.float32)


def _shaped(factor: float, matrix, deltas):
    """The result in the tensor's shape, in fp32."""
    return np.multiply(matrix, factor, out=matrix).astype(np.float32).reshape(deltas[0].shape)


def _spectrum(matrix, least: float = 0.0):
    """The eigenvalues of the smaller Gram matrix that are not rounding, as singular values, descending, and their vectors."""
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    squares, vectors = np.linalg.eigh(short @ short.T)
    values = np.sqrt(np.maximum(squares[::-1], 0))
    largest = values[0] if values.size else 0.0
    kept = int(np.count_nonzero(values > max(least, largest * max(matrix.shape) * _STEP)))
    return values[:kept], vectors[:, ::-1][:, :kept]


def _own(matrix, common, most: int):
    """The strongest directions of a matrix without the common left ones; a matrix may have no others."""
    # From above, of the whole matrix: what is left of one without others is rounding.
    least = float(np.linalg.norm(matrix)) * max(matrix.shape) * _STEP
    matrix -= common @ (common.T @ matrix)
    return _decomposed(matrix, most, least)


def _decomposed(matrix, most: int, least: float = 0.0):
    """The strongest directions of a matrix, at most so many: left ones as columns, singular values, right ones as rows."""
    values, vectors = _spectrum(matrix, least)
    values, vectors = values[:most], vectors[:, :most]
    if matrix.shape[0] <= matrix.shape[1]:
        return vectors, values, (vectors.T @ matrix) / values[:, None]
    return (matrix @ vectors) / values, values, vectors.T


def _joined(found):
    lefts, values, rights = zip(*found, strict=True)
    return np.concatenate(lefts, axis=1), np.concatenate(values), np.concatenate(rights)


def _polar(matrix):
    """The singular values of U S V, and U V: the nearest orthogonal matrix."""
    values, vectors = _spectrum(matrix)
    if matrix.shape[0] <= matrix.shape[1]:
        return values, ((vectors / values) @ vectors.T) @ matrix
    return values, matrix @ ((vectors / values) @ vectors.T)
