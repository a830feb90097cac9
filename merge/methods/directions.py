"""Methods that turn from one tensor's direction towards another's: what each tensor's angle is has to be measured first.

A tensor is taken as one vector. All of these return shares of their inputs.
"""

from __future__ import annotations

import math
from typing import Literal

from ..fixed_order import product
from ..tensor_slice import TensorSlice
from .declaring import statistics
from .lazy_numpy import np
from .method import Numbers
from .other_tools import Mecha, Mergekit


@statistics(
    passes=2,
    mergekit={
        "slerp": Mergekit(
            weighted=False,
            numbers={"t": ("alpha", None)},
            fixed={"norms": "slerp"},
            note="mergekit's slerp is a weighted sum below 1.8 degrees; here it is one between parallels alone",
        )
    },
    mecha=Mecha("slerp", "a b alpha", {"alpha": ("alpha", 0.5)}, {"norms": "lerp"}),
)
def slerp(a, b, *, at: TensorSlice, alpha: float = 0.5, norms: Literal["lerp", "slerp"] = "lerp"):
    """(sin((1 - alpha) w) a / |a| + sin(alpha w) b / |b|) / sin w, w the angle between a and b, times a length: a turn towards b.

    `norms: lerp` gives it the length (1 - alpha) |a| + alpha |b|, as sd-mecha does; `slerp` applies the same two factors to a
    and b as they are, as mergekit does. Where a tensor is 0, or the two point the same or opposite ways, it is
    (1 - alpha) a + alpha b. mergekit does that at angles under 1.8 degrees too, where the two formulas differ in the fifth digit.

    Source: Shoemake 1985, "Animating rotation with quaternion curves".

    Use: two models that lie far apart: a weighted sum of those is shorter than either, which pales the picture.
    """
    from ..reductions import GramMatrix

    gram = yield GramMatrix(2)
    size_a, size_b = np.sqrt(np.diagonal(gram)).tolist()
    if not size_a or not size_b:
        return 1 - alpha, alpha
    from_a, from_b = _turned(_angle(gram[0, 1] / (size_a * size_b)), alpha)
    if norms == "slerp":
        return from_a, from_b
    length = (1 - alpha) * size_a + alpha * size_b
    return from_a * length / size_a, from_b * length / size_b


@statistics(
    passes=2,
    mergekit={
        "nuslerp": Mergekit(
            "optional",
            place="alpha",
            without_base=("slerp", {"norms": "slerp"}),
            left_out={"nuslerp_flatten": True, "nuslerp_row_wise": False},
        )
    },
)
def nuslerp(base, a, b, *, at: TensorSlice, alpha: float = 0.5):
    """base + (sin((1 - alpha) w) (a - base) + sin(alpha w) (b - base)) / sin w, w the angle between a - base and b - base.

    SLERP of what two models learnt, in place of the models, which all point nearly the same way. mergekit's two weights are
    1 - alpha and alpha. Where a difference is 0, or the two point the same or opposite ways, it is
    base + (1 - alpha) (a - base) + alpha (b - base).

    Source: `nuslerp` of mergekit, with a base model and whole tensors.

    Use: two fine-tunes of one base, each of which should keep its strength.
    """
    from ..reductions import GramMatrix

    gram = yield GramMatrix(2, lambda tiles, start: [tiles[1] - tiles[0], tiles[2] - tiles[0]])
    size = math.sqrt(gram[0, 0] * gram[1, 1])
    from_a, from_b = _turned(_angle(gram[0, 1] / size), alpha) if size else (1 - alpha, alpha)
    return 1 - from_a - from_b, from_a, from_b


@statistics(
    passes=2, mergekit={"multislerp": Mergekit("optional", on_changes=True, left_out={"normalize_weights": True})}
)
def multislerp(*models, at: TensorSlice, weights: Numbers = 1.0):
    """A mean of directions: x_t / |x_t|, averaged in the tangent space at their weighted mean m, times the mean length.

    With u_t = x_t / |x_t| and weights that are made to add up to one: m is the direction of sum w_t u_t,
    v = sum w_t (u_t - (u_t m) m), and the result is sum w_t |x_t| times cos |v| m + sin |v| v / |v|. Tensors that are 0 count
    in the mean length alone; where the directions cancel out it is the weighted mean.

    Source: `multislerp` of mergekit.

    Use: SLERP of more than two models.
    """
    from ..reductions import GramMatrix

    gram = yield GramMatrix(at.count)
    sphere = _Sphere(gram, weights)
    mean = sphere.mean()
    if mean is None:
        return sphere.weights.tolist()
    return sphere.shares(sphere.walked(mean, sphere.mean_of(sphere.tangents(mean))))


@statistics(
    passes=2,
    mergekit={
        "karcher": Mergekit(
            "ignored",
            weighted=False,
            note="mergekit stops after ten steps or max_iter; here the mean is worked out to the last digit",
        )
    },
)
def karcher_mean(*models, at: TensorSlice, weights: Numbers = 1.0):
    """The direction whose weighted squared angles to x_t / |x_t| are smallest (Riemannian mean), times the mean length.

    Found by steps along the mean of logarithms until nothing moves. Tensors that are 0 count in the mean length alone; where the
    directions cancel out it is the weighted mean. A tensor opposite to the mean pulls nowhere.

    Source: Karcher 1977; `karcher` of mergekit, which has no weights and stops after ten steps.

    Use: as multislerp, for models far apart, where a single step would not reach the mean.
    """
    from ..reductions import GramMatrix

    gram = yield GramMatrix(at.count)
    sphere = _Sphere(gram, weights)
    mean = sphere.mean()
    if mean is None:
        return sphere.weights.tolist()
    for _ in range(100):
        # Opposite to the mean, but for what fp32 rounds, the logarithm has no direction: such a tensor pulls nowhere.
        stretched = [angle / math.sin(angle) if math.sin(angle) > 1e-6 else 1.0 for angle in sphere.angles(mean)]
        step = sphere.mean_of(sphere.tangents(mean) * np.array(stretched)[:, None])
        mean = sphere.walked(mean, step)
        if sphere.length(step) < 1e-12:
            break
    return sphere.shares(mean)


_NOTHING = "where the first difference is 0 sd-mecha takes nothing of the second, and all of it is taken here"


@statistics(passes=2, mecha=Mecha("perpendicular_component", "a b", note=_NOTHING))
def perpendicular(a, b, *, at: TensorSlice):
    """b - (a b / |a|^2) a: the part of b at right angles to a.

    Meant for differences. Where a is 0 it is b (sd-mecha's is 0 there).

    Source: `perpendicular_component` of sd-mecha.

    Use: what one fine-tune learnt that another has not.
    """
    from ..reductions import GramMatrix

    gram = yield GramMatrix(2)
    return -_along(gram), 1.0


@statistics(passes=2, result="first", base="c", mecha=Mecha(read="", write="right angles", note=_NOTHING))
def add_perpendicular(a, b, c, *, at: TensorSlice, alpha: float = 1.0):
    """a + alpha (d_b - (d_a d_b / |d_a|^2) d_a), d_a = a - c, d_b = b - c: add what b learnt at right angles to what a learnt.

    Where a is c it is add difference (sd-mecha leaves a as it is there).

    Source: `add_perpendicular` of sd-mecha.

    Use: add difference of two fine-tunes that share part of their training: it is not added twice.
    """
    from ..reductions import GramMatrix

    gram = yield GramMatrix(2, lambda tiles, start: [tiles[0] - tiles[2], tiles[1] - tiles[2]])
    along = _along(gram)
    return 1 - alpha * along, alpha, alpha * (along - 1)


def _along(gram) -> float:
    """How much of the first vector is in the second."""
    return float(gram[0, 1] / gram[0, 0]) if gram[0, 0] else 0.0


def _angle(cosine: float) -> float:
    """The angle between unit vectors of this inner product, which rounding may have put beyond -1 or 1."""
    return 2 * math.atan2(math.sqrt(max(2 - 2 * cosine, 0)), math.sqrt(max(2 + 2 * cosine, 0)))


def _turned(angle: float, t: float) -> tuple[float, float]:
    """The factors of two unit vectors this far apart in one between them; those of a weighted sum where no plane is known."""
    if math.sin(angle) < 1e-9:
        return 1 - t, t
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


class _Sphere:
    """Directions as unit vectors whose inner products are known; points are coefficients of them, in double precision.

    Args:
        gram: (N, N) inner products of the tensors.
        weights: N; made to add up to one.
    """

    def __init__(self, gram, weights):
        weights = np.asarray(weights, np.float64)
        total = weights.sum()
        self.weights = weights / total if abs(total) > 1e-12 else np.full(len(weights), 1 / len(weights))
        self._sizes = np.sqrt(np.diagonal(gram))
        self._scale = np.where(self._sizes > 0, 1 / np.where(self._sizes > 0, self._sizes, 1), 0.0)
        self._products = gram * np.outer(self._scale, self._scale)
        self._units = np.diag((self._sizes > 0).astype(np.float64))

    def length(self, point) -> float:
        return math.sqrt(max(float(product(product(self._products, point), point)), 0.0))

    def mean(self):
        """The direction of the weighted sum; None where there is none."""
        point = self.mean_of(self._units)
        length = self.length(point)
        return point / length if length > 1e-9 else None

    def mean_of(self, points):
        """The weighted mean of points (N, N), one a row."""
        return product(points.T, self.weights)

    def angles(self, point) -> list[float]:
        """From a unit vector to each direction, 0 for those that have none."""
        cosines = product(self._products, point)
        return [_angle(float(c)) if s else 0.0 for c, s in zip(cosines, self._sizes, strict=True)]

    def tangents(self, point):
        """(N, N): each direction's part at right angles to a unit vector, as coefficients."""
        return self._units - np.outer(product(self._products, point), point)

    def walked(self, point, tangent):
        """The end of a walk along the sphere from a unit vector."""
        length = self.length(tangent)
        return math.cos(length) * point + (math.sin(length) / length if length else 1.0) * tangent

    def shares(self, point) -> list[float]:
        """A unit vector, with the mean length, as shares of the tensors."""
        return (
            float(product(self.weights, self._sizes)) * point / max(self.length(point), 1e-300) * self._scale
        ).tolist()
