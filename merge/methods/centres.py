"""Methods that find the centre of many models from their inner products. Both return shares of their inputs."""

from __future__ import annotations

from ..tensor_slice import TensorSlice
from .declaring import statistics
from .lazy_numpy import np
from .method import Delta, Numbers
from .other_tools import Mecha, Mergekit

MECHA_MEDIAN = (
    "sd-mecha's median stops after 100 steps (maxiter), or where its sum of distances stands still; here steps go on until the "
    "shares do"
)


@statistics(
    passes=2,
    mergekit={
        "model_stock": Mergekit(
            weighted=False,
            left_out={"filter_wise": False},
            note="where models disagree altogether the base stays here and mergekit goes beyond it; it also takes models for less "
            "alike where their changes are tiny (products of lengths below 1e-6)",
        )
    },
    mecha=Mecha("model_stock", "*deltas", also=("model_stock_for_tensor",), read="stock", write=""),
)
def model_stock(*deltas: Delta, at: TensorSlice):
    """base + t mean(d), d_t = x_t - base, t = n c / (1 + (n - 1) c), c the mean cosine of all pairs of d.

    The less the models agree, the nearer the base. Where c is negative the formula leads beyond the base, and t is 0. One model
    is taken as it is. (sd-mecha takes the cosines of neighbours in the list alone, mergekit lets t be negative.)

    Source: Jang et al. 2024, "Model stock: all we need is just a few fine-tuned models", with the mean cosine of all pairs for
    more than two models, as mergekit has it.

    Use: fine-tunes of one base on the same subject that differ by chance. With many models t is near 1, the mean.
    """
    from ..reductions import GramMatrix

    gram = yield GramMatrix(at.count)
    lengths = np.sqrt(np.diagonal(gram))
    sizes = np.outer(lengths, lengths)
    cosines = np.where(sizes > 0, gram / np.where(sizes > 0, sizes, 1), 0.0)
    n = at.count
    cosine = float(cosines[np.triu_indices(n, 1)].mean()) if n > 1 else 1.0
    t = n * cosine / (1 + (n - 1) * cosine) if cosine > 0 else 0.0
    return [t / n] * n


@statistics(passes=2, mecha=Mecha("geometric_median", "*models", read="median", note=MECHA_MEDIAN))
def geometric_median(*models, at: TensorSlice, weights: Numbers = 1.0):
    """The point whose sum of weighted distances to all models is smallest: a mean in which outliers count less.

    Of each tensor by itself. It is a weighted mean of the models, and its weights are found without reading them again.
    Negative weights count as 0. (Medians of differences of which parts are dropped: `combine: median` of ties, dare, della and
    breadcrumbs.)

    Source: Weiszfeld 1937; Vardi and Zhang 2000. `geometric_median` of sd-mecha is the same, with at most 100 steps.

    Use: many models, some of which may be odd.
    """
    from ..reductions import GramMatrix
    from ..weiszfeld import median_shares

    # From the first model: what all have in common would cost digits.
    gram = yield GramMatrix(at.count, lambda tiles, start: [tile - tiles[0] for tile in tiles])
    sizes = np.maximum(np.asarray(weights, np.float64), 0)
    return median_shares(gram, sizes if sizes.any() else np.ones(at.count)).tolist()
