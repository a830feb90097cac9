"""Elementwise methods: an element of the result needs the same element of each input and nothing else."""

from __future__ import annotations

import math
from typing import Literal

from ..spot import Spot
from .declaring import elementwise
from .elsewhere import Mecha, Supermerger
from .linear import first_alone
from .numpy_later import np


def moved(a, change):
    """a + change, but a itself where nothing changes: adding 0.0 would turn -0.0 into 0.0."""
    out = a + change
    zero = out == 0
    if zero.any():  # nowhere else can the two differ
        np.copyto(out, a, where=zero & (change == 0))
    return out


@elementwise(
    base="c",
    becomes=first_alone,
    supermerger=Supermerger("Add difference", "trainDifference"),
    mecha=(
        Mecha("train_difference_mask", "a b c alpha", read="mask", write="masked"),
        Mecha("train_difference", "a b c alpha", read="whole", write=""),
    ),
)
def train_difference(a, b, c, *, alpha: float = 1.0):
    """a + 1.8 alpha s (b - c), s = |b - a| / (|b - a| + |b - c|): add b's training on top of a, less where a is near b.

    Where a = b = c, s is 0.

    Source: "train difference" of SuperMerger.

    Use: like add difference, when a may already hold part of what b learnt.
    """
    from_a, from_c = abs(b - a), abs(b - c)
    both = from_a + from_c
    return moved(a, 1.8 * alpha * (from_a / (both + (both == 0))) * (b - c))


@elementwise(
    base="c",
    mecha=(
        Mecha("add_opposite_mask", "a b c alpha", read="mask", write="masked"),
        Mecha("add_opposite", "a b c alpha", read="whole", write=""),
    ),
)
def add_opposite(a, b, c, *, alpha: float = 1.0):
    """a + 2 alpha s (b - c), s = |a - b| / (|a - b| + |a + b - 2 c|): add b's training where a went the other way from c.

    Where a and b moved alike, s is near 0; where they moved apart, near 1. Where a = b = c, s is 0.

    Source: `add_opposite_mask` of sd-mecha.

    Use: like train difference, of what b learnt that a unlearnt.
    """
    apart, alike = abs(a - b), abs((a - c) + (b - c))
    both = apart + alike
    return moved(a, 2 * alpha * (apart / (both + (both == 0))) * (b - c))


@elementwise(base="c", sdnext=True)
def multiply_difference(a, b, c, *, alpha: float = 0.5, beta: float = 0.5):
    """c + sign((1 - beta) a + beta b - c) |a - c|^(1 - alpha) |b - c|^alpha: the geometric mean of two changes.

    What only one of a and b changed stays as it is in c. 0 to the power 0 is 1, so alpha 0 gives the size of a's change and 1
    that of b's; 0 to a negative power counts as 0.

    Source: "multiply difference" of sd-meh and sd-mecha.

    Use: what two fine-tunes of c have in common.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        # In logarithms, in double precision: the powers alone may be too large or small for a number.
        exponent = _logarithm(abs(a - c), 1 - alpha) + _logarithm(abs(b - c), alpha)
    return moved(c, np.copysign(np.exp2(exponent), (a - c) + beta * (b - a)).astype(np.float32))


def _logarithm(size, power: float):
    """log2(size^power), power 0 before size 0; 0 to a negative power counts as 0."""
    return np.where(size == 0, -np.inf if power else 0.0, power * np.log2(size, dtype=np.float64))


@elementwise(base="c", sdnext=True)
def similarity_add_difference(a, b, c, *, alpha: float = 1.0, beta: float = 1.0):
    """(1 - s) (a + alpha (b - c)) + s ((1 - alpha / 2) a + alpha / 2 b), s = beta (a b / max(|a|, |b|)^2 + 1) / 2.

    s is near beta where a and b are alike, and there the two are averaged; near 0 where their signs differ, and there the
    difference is added. Where a = b = 0, s is beta.

    Source: "similarity add difference" of sd-meh and sd-mecha.

    Use: add difference, with less of it where b has nothing new.
    """
    largest = np.maximum(abs(a), abs(b))
    unit = np.where(largest == 0, 1, largest)
    # Quotients first: the square of a small weight would underflow.
    similar = np.where(largest == 0, beta, beta * ((a / unit) * (b / unit) + 1) / 2).astype(np.float32)
    added, averaged = alpha * (b - c), alpha / 2 * (b - a)
    return moved(a, added + similar * (averaged - added))


_DOWN = "tensor sum rounds to the nearest row here; supermerger rounds down"


@elementwise(
    sdnext=True,
    supermerger=(
        Supermerger("Weight sum", "tensor", note=_DOWN),
        Supermerger("Weight sum", "tensor2", {"along": "columns"}, note=_DOWN),
    ),
    mecha=Mecha(
        "tensor_sum",
        "a b width offset",
        {"width": ("alpha", 0.5), "offset": ("beta", 0.0)},
        {"along": "rows"},
        blocks=False,
    ),
)
def tensor_sum(a, b, *, at: Spot, alpha: float = 0.5, beta: float = 0.0, along: Literal["rows", "columns"] = "rows"):
    """Rows [n beta, n (alpha + beta)) of the n rows of each tensor from b, the others from a; around the end if need be.

    alpha is how many of the rows (outputs of a layer) come from b, beta where they begin. Where alpha + beta is more than 1 they
    go on from the first row: [n (alpha + beta - 1), n beta) are a's. Places are rounded to the nearest row (an odd half to the
    even row) as sd-mecha does; SuperMerger rounds down. A single number is b's where alpha is more than 0.5. Negative widths
    and offsets count from behind, as in sd-mecha.

    `along: columns` cuts the second axis (inputs of a layer) instead, where there is one; where that has at most 100 columns the
    places are still those of the rows. That is "tensor2" of SuperMerger.

    Source: "tensor sum" of SuperMerger; `tensor_sum` of sd-mecha.

    Use: experiments: nothing is averaged, so no detail is blurred.
    """
    if not at.shape:
        return b if alpha > 0.5 else a
    columns = along == "columns" and len(at.shape) > 1
    counted = at.shape[1] if columns and at.shape[1] > 100 else at.shape[0]
    start, stop, inside = _rows(alpha, beta, counted)
    if columns:
        of = (at.start + np.arange(a.size)) // max(math.prod(at.shape[2:]), 1) % max(at.shape[1], 1)
        return np.where(((of >= start) & (of < stop)) == inside, b, a)
    row = at.elements // max(at.shape[0], 1)
    first, last = (min(max(r * row - at.start, 0), a.size) for r in (start, stop))
    out, other = (a.copy(), b) if inside else (b.copy(), a)
    out[first:last] = other[first:last]
    return out


def _rows(width: float, offset: float, rows: int) -> tuple[int, int, bool]:
    """The rows between which b's are (True), or a's (False)."""
    if width < 0:
        width, offset = -width, offset + width
    width, offset = min(width, 1), math.fmod(offset, 1)
    offset = math.fmod(offset + 1, 1) if offset < 0 else offset
    end = width + offset
    if end <= 1:
        return round(offset * rows), round(end * rows), True
    return round((end - 1) * rows), round(offset * rows), False


@elementwise(mecha=Mecha("clamp", "a *bounds", also=("clip",), read="bounds"))
def clamp(x, a, b):
    """min(max(x, min(a, b)), max(a, b)): x, where it lies between a and b, else the nearer of the two.

    Source: `clamp` of sd-mecha.

    Use: after add difference and its relatives, to keep the result between the models that it was made from.
    """
    return np.clip(x, np.minimum(a, b), np.maximum(a, b))
