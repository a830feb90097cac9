"""Methods that drop parts of each difference before they add them: by size, by chance, or by how much models disagree.

Each says what is left of a difference; `combining` says what the rest comes to. All work tensor by tensor.
"""

from __future__ import annotations

from typing import Literal

from ...checkpoints.kernels import kernel
from ..tensor_slice import TensorSlice
from .combining import Combine, Elect
from .declaring import statistics
from .lazy_numpy import np
from .method import Delta, Numbers, Share
from .other_tools import Mecha, Mergekit

Rescale = Literal["density", "l1", "none"]
# Bytes that a rank is counted in (`reductions`) for each model: 65,536 numbers of four bytes.
_COUNTERS = 1 << 18
# What mergekit's methods of this kind have in common.
_SPARSE: dict[str, tuple[str, float | None]] = {"lambda": ("alpha", 1.0), "density": ("density", 1.0)}
_SUM, _SIGNS, _UNSCALED = {"elect": "none", "combine": "sum"}, {"elect": "sum"}, {"rescale": False}
_ZERO = "where neither sign wins the base stays here; mergekit elects plus"
_CHANCE = "which elements are dropped depends on the generator of random numbers: never the same as mergekit's"


def _crumbs(fixed: dict[str, str], normalize: Literal["mean", "divide"], note: str = "") -> Mergekit:
    numbers = {**_SPARSE, "gamma": ("gamma", 0.01)}
    return Mergekit(numbers=numbers, fixed=fixed, normalize=(normalize, False), left_out=_UNSCALED, note=note)


def _by_chance(fixed: dict[str, str], normalize: Literal["mean", "divide"]) -> Mergekit:
    return Mergekit(numbers=_SPARSE, fixed=fixed, normalize=(normalize, False), rescale=True, note=_CHANCE)


def _by_rank(fixed: dict[str, str], normalize: Literal["mean", "divide"], usual: bool) -> Mergekit:
    numbers = {**_SPARSE, "epsilon": ("epsilon", 0.15)}
    return Mergekit(
        numbers=numbers,
        fixed=fixed,
        normalize=(normalize, usual),
        rescale=True,
        half_widths=("epsilon",),
        note=_CHANCE,
    )


@statistics(
    passes=5,
    working=_COUNTERS,
    mergekit={
        "ties": Mergekit(
            numbers=_SPARSE,
            fixed={"elect": "sum", "trim": "count"},
            normalize=("mean", True),
            left_out=_UNSCALED,
            note=_ZERO,
        )
    },
    mecha=(
        Mecha("ties_sum", "*models", read="trimmed", write="trimmed"),
        Mecha("ties_sum_extended", "*models", read="trimmed or stock", write=""),
    ),
)
def ties(
    *deltas: Delta,
    at: TensorSlice,
    weights: Numbers = 1.0,
    alpha: float = 1.0,
    density: Share = 0.2,
    elect: Literal["sum", "count"] = "sum",
    combine: Combine = "mean",
    trim: Literal["value", "count"] = "value",
):
    """base + alpha mean(d_t of the elected sign), d_t the largest elements of x_t - base: trim, elect sign, merge.

    Of each difference the share `density` of the elements is kept, the largest ones. The sign of the sum of w_t d_t is elected
    (`elect: count`: the sign that more models have); elements of the other sign are dropped, and the rest is averaged, weighted
    by w_t, over the models that still have one there (`combine: sum` adds them; `median` takes their geometric median). Where
    neither sign wins the base stays; mergekit elects plus.

    `trim: value` keeps everything that is as large as the last element kept, as the authors' program and sd-mecha do;
    `count` keeps int(density n) elements, the first of equals, as mergekit does. sd-mecha counts signs unless `vote_sgn` is set.

    Source: Yadav et al. 2023, "TIES-merging: resolving interference when merging models".

    Use: several fine-tunes of one base on different subjects. TIES-SOUP is density 1 with `elect: count`.
    """
    from ..reductions import Cuts, ranked
    from .combining import combined

    ranks = [max(_count(density, at.elements), 1)] * at.count
    found = yield from ranked(at.count, [[r] for r in ranks])
    least = [row[0].value for row in found]
    cuts = None
    if trim == "count":
        cuts = yield Cuts(least, [rank - row[0].above for rank, row in zip(ranks, found, strict=True)])

    def kept(tiles, start):
        out = np.empty((len(tiles), tiles[0].size), np.float32)
        for i, tile in enumerate(tiles):
            kernel().trim(tile, least[i], out[i])
            if cuts is not None and cuts[i] < start + tile.size - 1:
                late = max(cuts[i] + 1 - start, 0)
                out[i, late:][np.abs(tile[late:]) == least[i]] = 0
        return out

    return (yield from combined(kept if density > 0 else _nothing, weights, alpha, elect, combine))


@statistics(
    passes=4,
    working=2 * _COUNTERS,
    mergekit={"breadcrumbs": _crumbs(_SUM, "divide"), "breadcrumbs_ties": _crumbs(_SIGNS, "mean", _ZERO)},
)
def breadcrumbs(
    *deltas: Delta,
    at: TensorSlice,
    weights: Numbers = 1.0,
    alpha: float = 1.0,
    density: Share = 0.15,
    gamma: Share = 0.01,
    elect: Elect = "none",
    combine: Combine = "sum",
):
    """base + alpha sum w_t m_t (x_t - base), m_t keeping the share `density` of each difference below the largest `gamma` of it.

    Both the small changes and the outliers are left out. Where density + gamma is more than 1, fewer outliers are. Everything
    as large as the last element kept is kept. The authors' thresholds beta and gamma are 1 - density - gamma and 1 - gamma here;
    density and gamma are as in mergekit.

    Source: Davari and Belilovsky 2024, "Model breadcrumbs: scaling multi-task model merging with sparse masks".

    Use: many fine-tunes of one base; `elect: sum` with `combine: mean` is mergekit's `breadcrumbs_ties`.
    """
    from ..reductions import ranked
    from .combining import combined

    count = _count(density, at.elements)
    outliers = min(_count(gamma, at.elements), at.elements - count)
    found = yield from ranked(at.count, [[outliers + 1, outliers + max(count, 1)] if count else [1, 1]] * at.count)

    def kept(tiles, start):
        out = []
        for tile, (most, least) in zip(tiles, found, strict=True):
            size = np.abs(tile)
            out.append(np.where((size >= least.value) & (size <= most.value), tile, np.float32(0)))
        return out

    return (yield from combined(kept if count else _nothing, weights, alpha, elect, combine))


@statistics(
    passes=3,
    mergekit={"dare_linear": _by_chance(_SUM, "divide"), "dare_ties": _by_chance(_SIGNS, "mean")},
    mecha=(
        Mecha("ties_sum_with_dropout", "*deltas", read="dropped", write="dropped"),
        Mecha("dropout", "*deltas", read="dropped alone", write=""),
    ),
)
def dare(
    *deltas: Delta,
    at: TensorSlice,
    weights: Numbers = 1.0,
    alpha: float = 1.0,
    density: Share = 0.5,
    rescale: Rescale = "density",
    elect: Elect = "none",
    combine: Combine = "sum",
    seed: int = 0,
):
    """base + alpha sum w_t m_t (x_t - base) / density, m_t keeping each element with the probability `density`: drop and rescale.

    A mask depends on the seed, the model's name in the recipe, the tensor's key and the element's place, and on nothing else.
    `rescale: l1` gives what is left the sum of sizes that the whole difference had, as mergekit does; `none` leaves it.
    `elect` and `combine` are those of ties: with `sum` and `mean` it is "DARE-TIES"; with `elect: count` and `combine: median`
    the "TGMD" of recipes.

    Source: Yu et al. 2024, "Language models are super mario: absorbing abilities from homologous models as a free lunch" (their
    p is 1 - density).

    Use: several fine-tunes of one base: fewer of their changes meet.
    """
    from ..dropout import dropped, streams
    from .combining import combined

    chance = streams(at, seed)

    def kept(tiles, start):
        return dropped(tiles, start, chance, density)

    factors = [1 / density if rescale == "density" and density > 0 else 1.0] * at.count
    if rescale == "l1":
        factors = yield from _whole_by_left(at.count, kept)
    return (yield from combined(_scaled(kept, factors), weights, alpha, elect, combine))


@statistics(
    passes=4,
    working=1 << 19,
    rows=True,
    mergekit={"della": _by_rank(_SIGNS, "mean", True), "della_linear": _by_rank(_SUM, "divide", False)},
    mecha=Mecha(read="", write="dropped by rank"),
)
def della(
    *deltas: Delta,
    at: TensorSlice,
    weights: Numbers = 1.0,
    alpha: float = 1.0,
    density: Share = 0.5,
    epsilon: float = 0.1,
    ranks: Literal["row", "tensor"] = "row",
    rescale: Rescale = "density",
    elect: Elect = "sum",
    combine: Combine = "mean",
    seed: int = 0,
):
    """base + alpha mean(m_t (x_t - base) / p of the elected sign), m_t keeping each element with the probability p of its rank.

    p runs from density - epsilon / 2 for the smallest to density + epsilon / 2 for the largest element of a row (the weights of
    one output; `ranks: tensor` ranks the whole tensor, by the first 16 bits of the sizes, and equals share a rank). Where it
    leaves 0..1 it is 0 or 1. A negative epsilon keeps small changes rather than large ones. Each element is divided by its own
    p (`rescale: density`); `l1` and `none` are those of dare, as are the masks; elect and combine are those of ties.

    mergekit's epsilon is half of this one, and it rescales by l1. sd-mecha's `della_eps` ranks the tensor and divides by
    1 - probability; with `ranks: tensor`, `elect: count` and `combine: median` it is the "DGMLA" of recipes.

    Source: Deep et al. 2024, "DELLA-merging: reducing interference in model merging through magnitude-based sampling".

    Use: as dare, with large changes kept more often than small ones.
    """
    from ..dropout import streams
    from ..reductions import RankTable
    from .combining import combined

    chance, row = streams(at, seed), at.row
    table = (yield RankTable(at.count)) if ranks == "tensor" else None

    def kept(tiles, start):
        out = np.empty((len(tiles), tiles[0].size), np.float32)
        places = np.empty(tiles[0].size, np.float32)
        for i, tile in enumerate(tiles):
            if table is None:
                kernel().row_ranks(tile, row, places)
            else:
                places = _looked_up(table[i], tile)
            chances = np.clip(density + epsilon * (places - 0.5), 0, 1)
            kernel().keep_by_chance(tile, chances, chance[i], start, rescale == "density", out[i])
        return out

    factors = [1.0] * at.count
    if rescale == "l1":
        factors = yield from _whole_by_left(at.count, kept)
    return (yield from combined(_scaled(kept, factors), weights, alpha, elect, combine))


@statistics(
    passes=4,
    working=_COUNTERS,
    mergekit={
        "sce": Mergekit(
            weighted=False,
            numbers={"select_topk": ("density", 1.0)},
            note=f"{_ZERO}; and it weighs models evenly where their changes are tiny (mean squares below 1e-6)",
        )
    },
)
def sce(*deltas: Delta, at: TensorSlice, alpha: float = 1.0, density: Share = 0.1):
    """base + alpha sum(e_t d_t) / sum(e_t) over models of the elected sign, d_t = x_t - base where the models differ most.

    Select: the share `density` of the elements that differ between the models is kept, those with the largest variance over the
    models, and all as large as the last. What all models changed alike is not among them and goes back to the base, a text
    encoder that they share for one; density 1 keeps every element. Calculate: e_t is the mean square of what is left of d_t.
    Erase: elements whose sign is not that of the sum of d_t are dropped; where neither sign wins the base stays (mergekit elects
    plus).

    Source: Wan et al. 2024, "FuseChat: knowledge fusion of chat models" (SCE).

    Use: several fine-tunes of one base, of which those that changed a tensor most shall decide it.
    """
    from ..reductions import ArraySums, ranked
    from .combining import ELECTIONS, combined

    def spread(tiles, start):
        # From the first model: the mean of equal numbers may be another one, and where models agree nothing differs.
        apart = [tile - tiles[0] for tile in tiles]
        mean = sum(apart[1:], apart[0]) / len(tiles)
        return [sum(((tile - mean) ** 2 for tile in apart), np.zeros_like(mean))]

    found = []
    if density < 1:
        (found,) = yield from ranked(
            1, lambda present: [[_count(density, present)] if _count(density, present) else []], spread
        )

    def kept(tiles, start):
        if density >= 1:
            return tiles
        if not found:
            return _nothing(tiles, start)
        keep = spread(tiles, start)[0] >= found[0].value
        return [np.where(keep, tile, np.float32(0)) for tile in tiles]

    def agreeing(tiles, start):
        return kernel().elected(kept(tiles, start), [1.0] * at.count, ELECTIONS["sum"])

    energies = yield ArraySums(
        at.count, lambda tiles, start: [np.square(x, dtype=np.float64) for x in kept(tiles, start)]
    )
    return (yield from combined(agreeing, energies.tolist(), alpha, "none", "mean"))


def _count(share: float, elements: int) -> int:
    """The whole part of a share of elements; 0.3 of 10 is 3, whatever binary fractions say."""
    return min(int(share * elements + 1e-6), elements)


def _nothing(tiles, start):
    return [np.zeros_like(tile) for tile in tiles]


def _scaled(kept, factors):
    """What is left of each difference, times a factor."""
    if all(factor == 1 for factor in factors):
        return kept
    column = np.asarray(factors, np.float32)[:, None]
    return lambda tiles, start: np.asarray(kept(tiles, start)) * column


def _whole_by_left(count: int, kept):
    """Measures the sum of sizes of each difference, divided by that of what is left of it; 1 where nothing is."""
    from ..reductions import ArraySums

    sums = yield ArraySums(2 * count, lambda tiles, start: [abs(x) for x in (*tiles, *kept(tiles, start))])
    return [float(whole / left) if left > 0 else 1.0 for whole, left in zip(sums[:count], sums[count:], strict=True)]


def _looked_up(shares, tile):
    """The rank of each element from a table by the first 16 bits of its size."""
    from ...checkpoints.kernels.reference import sizes

    return shares[sizes(tile) >> np.uint32(15)]
