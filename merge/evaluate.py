"""The value of a form on pieces of its inputs, in fp32, tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from ..checkpoints.dtypes import F32
from ..checkpoints.kernels import kernel
from .forms import Applied, Form, Model, Term
from .methods.elementwise import moved
from .spot import Spot

# fp32 elements: 256 KB an array.
_TILE = 1 << 16
_SMALLEST_TILE = 1 << 12


# A method on whole pieces: the tiles of its inputs and the first element's place -> values.
OnTiles = Callable[[list[np.ndarray], int], np.ndarray]
# What is known of steps that had to measure their tensor first: shares of their inputs, a function, or the whole result.
Solved = Mapping[Applied, "Form | OnTiles | np.ndarray"]


def tile_length(inputs: int) -> int:
    """Elements of a tile: fewer as there are more inputs, so that what is worked out from one stays in the cache."""
    return max(_SMALLEST_TILE, min(_TILE, _TILE * 8 // max(inputs, 1)))


def whole_rows(length: int, row: int) -> int:
    """The length of tiles or pieces that hold whole rows: as many as fit, at least one."""
    return max(length // row, 1) * row


def evaluate(
    form: Form,
    values: dict[int, np.ndarray],
    start: int = 0,
    spot: Spot | None = None,
    solved: Solved = MappingProxyType({}),
) -> np.ndarray:
    """The value of a form: model index -> fp32 array, all of one length, to an fp32 array; fp32 arithmetic throughout.

    Args:
        form: what to work out.
        values: pieces of the models' tensors.
        start: where in the tensor they begin.
        spot: the tensor, for methods that ask.
        solved: what is known of steps that measure or need whole tensors.
    """
    (out,) = evaluate_all([form], values, start, spot, solved)
    return out


def evaluate_all(
    forms: Sequence[Form], values: dict[int, np.ndarray], start: int, spot: Spot | None, solved: Solved
) -> list[np.ndarray]:
    """`evaluate` for several forms, whose common steps are worked out once."""
    size = next(iter(values.values())).size
    out = [np.empty(size, np.float32) for _ in forms]
    for tile, found in tiles(forms, values, start, spot, solved):
        for target, value in zip(out, found, strict=True):
            target[tile] = value
    return out


def tiles(
    forms: Sequence[Form],
    values: dict[int, np.ndarray],
    start: int,
    spot: Spot | None,
    solved: Solved,
    rows: bool = False,
) -> Iterator[tuple[slice, list[np.ndarray]]]:
    """The values of several forms, tile by tile: the tile's place in `values`, and a value for each form.

    With `rows` no tile ends inside a row, as where a step below the forms needs that.
    """
    size, steps = next(iter(values.values())).size, list(dict.fromkeys(s for form in forms for s in form.applied()))
    length = tile_length(len(values))
    if rows or any(step.method.rows for step in steps):
        length = whole_rows(length, spot.row)
    # Methods make a dozen intermediate arrays: in short tiles they stay in the cache.
    for first in range(0, size, length):
        tile = slice(first, min(first + length, size))
        known: dict[Term, np.ndarray] = {Model(i): v[tile] for i, v in values.items()}
        with np.errstate(all="ignore"):
            for step in steps:
                known[step] = _step(step, known, tile, start, spot, solved)
            found = [_sum(form, known, tile.stop - first) for form in forms]
        yield tile, found


def _step(
    step: Applied, known: dict[Term, np.ndarray], tile: slice, start: int, spot: Spot | None, solved: Solved
) -> np.ndarray:
    """A step that is not linear, on a tile."""
    found, size = solved.get(step), tile.stop - tile.start
    if isinstance(found, Form):
        return _sum(found, known, size)
    if isinstance(found, np.ndarray):
        return found[start + tile.start : start + tile.stop]
    inputs = [_sum(form, known, size) for form in step.inputs]
    if found is not None:
        return np.asarray(found(inputs, start + tile.start), np.float32)
    given = dict(step.values)
    if "at" in step.method.supplied:
        given["at"] = replace(spot, names=step.sources, start=start + tile.start)
    return step.method.function(*inputs, **given)


def _sum(form: Form, known: dict[Term, np.ndarray], size: int) -> np.ndarray:
    """The weighted sum of terms whose values are known.

    What methods make of differences is added last, to the sum of everything else: where it is 0, that comes out bit for bit.
    """
    if not form.terms:
        return np.zeros(size, np.float32)
    if 0 < sum(map(_is_change, form.terms)) < len(form.terms):
        models, changes = (_part(form, change) for change in (False, True))
        return moved(_sum(models, known, size), _sum(changes, known, size))
    if form.anchor == 0 and len(form.terms) == 1:
        return known[form.terms[0]]
    if form.coefficients == (1.0, -1.0):  # as the kernel has it, without copies
        return known[form.terms[0]] - known[form.terms[1]]
    if form.coefficients == (1.0, 1.0):
        return known[form.terms[0]] + known[form.terms[1]]
    rows = np.stack([known[term] for term in form.terms])
    out = np.empty(rows.shape[1], np.float32)
    coefficients = np.array(form.coefficients, np.float32)
    kernel().linear(rows, F32, coefficients, form.anchor, out, F32)
    return out


def _is_change(term: Term) -> bool:
    """Whether it is what a method made of differences."""
    return isinstance(term, Applied) and term.method.on_deltas


def _part(form: Form, change: bool) -> Form:
    """The terms of a form that are what methods made of differences, or those that are not."""
    kept = [i for i, term in enumerate(form.terms) if _is_change(term) == change]
    return Form(tuple(form.terms[i] for i in kept), tuple(form.coefficients[i] for i in kept))


def is_broken(values: dict[int, np.ndarray]) -> bool:
    """Whether any value is NaN or infinite."""
    return any(kernel().count_bad(v, F32) for v in values.values())


def mended(values: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """The same with 0 where a value is NaN or infinite."""
    return {i: np.where(np.isfinite(v), v, np.float32(0)) for i, v in values.items()}
