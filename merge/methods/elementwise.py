"""Elementwise methods: an element of the result needs the same element of each input and nothing else."""

from __future__ import annotations

import math
from typing import Literal

from ..tensor_slice import TensorSlice
from .declaring import elementwise
from .lazy_numpy import np
from .linear import first_alone
from .other_tools import Mecha, Mergekit, Supermerger


def add_preserving_zero(a, change):
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
    chattiori="train_difference",
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
    return add_preserving_zero(a, 1.8 * alpha * (from_a / (both + (both == 0))) * (b - c))


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
    return add_preserving_zero(a, 2 * alpha * (apart / (both + (both == 0))) * (b - c))


@elementwise(base="c", sdnext=True, chattiori="multiply_difference")
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
    return add_preserving_zero(c, np.copysign(np.exp2(exponent), (a - c) + beta * (b - a)).astype(np.float32))


def _logarithm(size, power: float):
    """log2(size^power), power 0 before size 0; 0 to a negative power counts as 0."""
    return np.where(size == 0, -np.inf if power else 0.0, power * np.log2(size, dtype=np.float64))


@elementwise(base="c", sdnext=True, chattiori="similarity_add_difference")
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
    return add_preserving_zero(a, added + similar * (averaged - added))


_DOWN = "tensor sum rounds to the nearest row here; supermerger rounds down"


@elementwise(
    sdnext=True,
    supermerger=(
        Supermerger("Weight sum", "tensor", note=_DOWN),
        Supermerger("Weight sum", "tensor2", {"along": "columns"}, note=_DOWN),
    ),
    chattiori="tensor_sum",
    mecha=Mecha(
        "tensor_sum",
        "a b width offset",
        {"width": ("alpha", 0.5), "offset": ("beta", 0.0)},
        {"along": "rows"},
        blocks=False,
    ),
)
def tensor_sum(
    a, b, *, at: TensorSlice, alpha: float = 0.5, beta: float = 0.0, along: Literal["rows", "columns"] = "rows"
):
    """Rows [n beta, n (alpha + beta)) of the n rows of each tensor from b, the others from a; around the end if need be.

    alpha is how many of the rows (outputs of a layer) come from b, beta where they begin. Where alpha + beta is more than 1 they
    continue from the first row: [n (alpha + beta - 1), n beta) are a's. Places are rounded to the nearest row (an odd half to the
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


@elementwise(mecha=Mecha("geometric_sum", "a b alpha", {"alpha": ("alpha", 0.5)}))
def geometric_sum(a, b, *, alpha: float = 0.5):
    """|a|^(1 - alpha) |b|^alpha, times the cosine of pi times the powers of what is negative: the geometric mean of two models.

    It is the real part of a^(1 - alpha) b^alpha with complex powers: where a and b have one sign it is that sign's mean, where
    they have two it passes through 0 on the way. 0 to the power 0 is 1, to any other power 0.

    Source: `geometric_sum` of sd-mecha.

    Use: experiments: what is small in one of the two stays small.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.exp2(_logarithm(abs(a), 1 - alpha) + _logarithm(abs(b), alpha))
    turn = np.pi * ((1 - alpha) * (a < 0) + alpha * (b < 0))
    return (size * np.cos(turn)).astype(np.float32)


@elementwise(base="c", mecha=Mecha("multiply_quotient", "a b c alpha", {"alpha": ("alpha", 1.0)}))
def multiply_quotient(a, b, c, *, alpha: float = 1.0):
    """a (b / c)^(alpha s), s = max(0, - log|a/c| log|b/c|) / max(log|a/c|^2, log|b/c|^2): multiply a by what multiplied c into b.

    Only where a grew and b shrank from c, or the other way round; there s is how alike the two factors are. Of negative
    quotients it is the real part. Where one of the three is 0 it is a.

    Source: `multiply_quotient` of sd-mecha.

    Use: experiments: add opposite, of factors in place of differences.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        of_a, of_b = (np.log(abs(x), dtype=np.float64) - np.log(abs(c), dtype=np.float64) for x in (a, b))
        power = alpha * np.maximum(-of_a * of_b / np.maximum(abs(of_a), abs(of_b)) ** 2, 0)
        factor = np.exp(power * of_b) * np.cos(np.pi * power * ((b < 0) != (c < 0)))
    known = np.isfinite(power) & (a != 0) & (b != 0) & (c != 0)
    return np.where(known, a * np.where(known, factor, 1), a).astype(np.float32)


@elementwise(base="a", mergekit={"nearswap": Mergekit(weighted=False, numbers={"t": ("t", None)})})
def nearswap(a, b, *, t: float = 0.001):
    """a + min(t / |a - b|, 1) (b - a): b where the two are nearer than t, else a, moved by t towards b.

    Source: `nearswap` of mergekit (alchemonaut's QuartetAnemoi, 2024).

    Use: take over what b changed a little, and little of what it changed much.
    """
    share = np.clip(np.float32(t) / np.maximum(abs(a - b), np.float32(1e-6)), 0, 1)
    return add_preserving_zero(a, share * (b - a))
