"""Linear methods: the share of each input follows from the weights alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...checkpoints.errors import RecipeError
from .declaring import linear
from .method import Delta, Numbers
from .other_tools import Mecha, Mergekit, Supermerger

# -- what numbers have to be for the result to be one input, or the mean of all models below (`Becomes`) ----------------


def _between(chosen: int | None, below: Sequence[int]) -> dict[str, Any]:
    return {"alpha": below[1] / sum(below) if chosen is None else float(chosen == 1)}


def _twice(chosen: int | None, below: Sequence[int]) -> dict[str, Any]:
    if chosen is None:
        return {"alpha": below[1] / (below[0] + below[1]), "beta": below[2] / sum(below)}
    return {"alpha": float(chosen == 1), "beta": float(chosen == 2)}


def _of_three(chosen: int | None, below: Sequence[int]) -> dict[str, Any]:
    if chosen is None:
        return {"alpha": below[1] / sum(below), "beta": below[2] / sum(below)}
    return {"alpha": float(chosen == 1), "beta": float(chosen == 2)}


def _averaged(chosen: int | None, below: Sequence[int]) -> dict[str, Any]:
    return {"weights": [n / sum(below) if chosen is None else float(i == chosen) for i, n in enumerate(below)]}


def _from_base(chosen: int | None, below: Sequence[int]) -> dict[str, Any]:
    return {"weights": _averaged(chosen, below)["weights"][1:], "alpha": 1.0}


def first_alone(chosen: int | None, below: Sequence[int]) -> dict[str, Any]:
    """Of methods that add something to their first input."""
    return {"alpha": 0.0} if chosen == 0 else {}


# -- the methods ------------------------------------------------------------------------------------------------------


@linear(mecha=Mecha("n_average", "*models"))
def uniform(*models):
    """The mean of any number of models, each with the share 1 / n.

    All models enter with the same weight in one step; a chain of two-model merges at 0.5 would not do that.

    Source: "model soup" (Wortsman et al. 2022).

    Use: many fine-tunes of one base, none of them preferred.
    """
    return (1 / len(models),) * len(models)


@linear(
    becomes=_between,
    webui="Weighted sum",
    supermerger=Supermerger("Weight sum"),
    chattiori="weighted_sum",
    sdnext=True,
    mecha=Mecha("weighted_sum", "a b alpha", {"alpha": ("alpha", 0.5)}),
)
def weighted_sum(a, b, *, alpha: float = 0.5):
    """(1 - alpha) a + alpha b: alpha is the share of b; 0 gives a, 1 gives b.

    With a weight for each block it is the block-weighted merge, MBW.

    Source: "weighted sum" of the A1111 merger.

    Use: the first thing to try with two models.
    """
    return 1 - alpha, alpha


@linear(
    becomes=_averaged,
    mergekit={"linear": Mergekit("ignored", normalize=("share", True))},
    mecha=Mecha("scale", "a alpha", read="scale", write="shares"),
)
def weighted_average(*models, weights: Numbers, normalise: bool = True):
    """sum w_i x_i / sum w_i over any number of models; with `normalise: false` just sum w_i x_i.

    Source: "greedy" and weighted soups (Wortsman et al. 2022).

    Use: many models, some of which shall count more.
    """
    total = sum(weights) if normalise else 1.0
    if total == 0:
        raise RecipeError(f"weighted_average: the {len(models)} weights sum to 0 and cannot be normalised")
    return tuple(w / total for w in weights)


@linear(
    result="first",
    base="c",
    becomes=first_alone,
    webui="Add difference",
    supermerger=Supermerger("Add difference"),
    chattiori="add_difference",
    sdnext=True,
    mecha=Mecha("add_difference", "a b alpha", read="added", write="added"),
)
def add_difference(a, b, c, *, alpha: float = 1.0):
    """a + alpha (b - c): move a by what turned c into b.

    alpha may exceed 1 or be negative. With a = c and alpha = 2 it is the amplified difference, 2 b - c.

    Source: "add difference" of the A1111 merger; one step of task arithmetic (Ilharco et al. 2023).

    Use: carry a style or an inpainting ability from one model to another; c has to be what b was trained from.
    """
    return 1.0, alpha, -alpha


@linear(
    becomes=_twice,
    supermerger=Supermerger("sum Twice"),
    sdnext=True,
    chattiori="sum_twice",
    mecha=Mecha(read="", write="twice"),
)
def sum_twice(a, b, c, *, alpha: float = 0.5, beta: float = 0.5):
    """(1 - beta) ((1 - alpha) a + alpha b) + beta c: two weighted sums, one after the other, rounded once.

    Source: "sum twice" of SuperMerger.

    Use: recipes that are written so.
    """
    return (1 - beta) * (1 - alpha), (1 - beta) * alpha, beta


@linear(
    becomes=_of_three,
    supermerger=Supermerger("Triple sum"),
    sdnext=True,
    chattiori="triple_sum",
    mecha=Mecha(read="", write="shares"),
)
def triple_sum(a, b, c, *, alpha: float = 0.33, beta: float = 0.33):
    """(1 - alpha - beta) a + alpha b + beta c.

    Source: "triple sum" of SuperMerger.

    Use: three models in one step.
    """
    return 1 - alpha - beta, alpha, beta


@linear(
    webui="No interpolation",
    chattiori="no_interpolation",
    mergekit={"passthrough": Mergekit("ignored", weighted=False, scaled=True)},
    mecha=Mecha(read="", write="same"),
)
def copy(a):
    """a, unchanged but for the output's dtype and the components taken from elsewhere.

    Source: "no interpolation" of the A1111 merger.

    Use: converting, pruning, or replacing a component.
    """
    return (1.0,)


@linear(base="b", mecha=Mecha("subtract", "a b", read="minus"))
def subtract(a, b) -> Delta:
    """a - b: what turned b into a (the task vector of a, when b is its base).

    The result is a difference, no model: other steps add it to one.

    Source: task vectors (Ilharco et al. 2023).

    Use: a difference that several steps need.
    """
    return 1.0, -1.0


@linear(
    result="first",
    becomes=first_alone,
    mecha=Mecha("add_difference", "a b alpha", {"alpha": ("alpha", 1.0)}, read=""),
)
def add(a, difference: Delta, *, alpha: float = 1.0):
    """a + alpha difference: add what `subtract` made, or a LoRA, to a model (or to another difference).

    Source: task arithmetic (Ilharco et al. 2023).

    Use: one difference with weights by block.
    """
    return 1.0, alpha


@linear(
    becomes=_from_base,
    mergekit={
        "task_arithmetic": Mergekit(
            numbers={"lambda": ("alpha", 1.0)},
            normalize=("divide", False),
            left_out={"rescale": False},
            without_effect=("density",),
        )
    },
    mecha=Mecha(read="", write="tasks"),
)
def task_arithmetic(*deltas: Delta, weights: Numbers = 1.0, alpha: float = 1.0):
    """base + alpha sum w_t (x_t - base): add the task vectors of any number of models, or LoRAs, to their base.

    A model enters with its difference from the base, a LoRA or a difference as it is.

    Source: Ilharco et al. 2023, "Editing models with task arithmetic".

    Use: LoRAs; several fine-tunes of one base, each at its own strength.
    """
    return tuple(alpha * w for w in weights)


@linear(sdnext=True, mecha=Mecha(read="", write="shares"))
def weighted_subtraction(a, b, *, alpha: float = 0.5, beta: float = 0.5):
    """(a - alpha beta b) / (1 - alpha beta): take b out of a, with the shares adding up to one.

    Source: "weighted subtraction" of sd-meh and sd-mecha.

    Use: undo a weighted sum whose other ingredient is known: a = (1 - w) x + w b gives x at alpha beta = w.
    """
    taken = alpha * beta
    if taken == 1:
        raise RecipeError("weighted_subtraction: alpha times beta is 1, which would divide by 0; choose less")
    return 1 / (1 - taken), -taken / (1 - taken)
