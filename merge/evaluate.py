"""The value of a linear combination on pieces of its inputs, in fp32, tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from ..checkpoints.dtypes import F32
from ..checkpoints.kernels import kernel
from .linear_combination import LinearCombination, MethodCall, Model, Term
from .methods.elementwise import add_preserving_zero
from .tensor_slice import TensorSlice, tile_length, whole_rows

# A method on whole pieces: the tiles of its inputs and the first element's place -> values.
OnTiles = Callable[[list[np.ndarray], int], np.ndarray]
# What is known of calls that had to measure their tensor first: what they are of their inputs, a function, or the whole result.
Measured = Mapping[MethodCall, "LinearCombination | OnTiles | np.ndarray"]


def evaluate(
    combination: LinearCombination,
    values: dict[int, np.ndarray],
    start: int = 0,
    tensor: TensorSlice | None = None,
    measured: Measured = MappingProxyType({}),
) -> np.ndarray:
    """The value of a combination: model index -> fp32 array, all of one length, to an fp32 array; fp32 arithmetic throughout.

    Args:
        combination: what to work out.
        values: pieces of the models' tensors.
        start: where in the tensor they begin.
        tensor: the tensor, for methods that ask.
        measured: what is known of methods that measure or need whole tensors.
    """
    out = np.empty(next(iter(values.values())).size, np.float32)
    for tile, (found,) in tiles([combination], values, start, tensor, measured):
        out[tile] = found
    return out


def tiles(
    combinations: Sequence[LinearCombination],
    values: dict[int, np.ndarray],
    start: int,
    tensor: TensorSlice | None,
    measured: Measured,
    rows: bool = False,
) -> Iterator[tuple[slice, list[np.ndarray]]]:
    """The values of several combinations, tile by tile: the tile's place in `values`, and a value for each combination.

    With `rows` no tile ends inside a row, as where a method below the combinations needs that.
    """
    size, calls = (
        next(iter(values.values())).size,
        list(dict.fromkeys(call for each in combinations for call in each.calls())),
    )
    length = tile_length(len(values))
    if rows or any(call.method.rows for call in calls):
        length = whole_rows(length, tensor.row)
    # Methods make a dozen intermediate arrays: in short tiles they stay in the cache.
    for first in range(0, size, length):
        tile = slice(first, min(first + length, size))
        known: dict[Term, np.ndarray] = {Model(i): v[tile] for i, v in values.items()}
        with np.errstate(all="ignore"):
            for call in calls:
                known[call] = _called(call, known, tile, start, tensor, measured)
            found = [_sum(each, known, tile.stop - first) for each in combinations]
        yield tile, found


def _called(
    call: MethodCall,
    known: dict[Term, np.ndarray],
    tile: slice,
    start: int,
    tensor: TensorSlice | None,
    measured: Measured,
) -> np.ndarray:
    """A call of a method, on a tile."""
    found, size = measured.get(call), tile.stop - tile.start
    if isinstance(found, LinearCombination):
        return _sum(found, known, size)
    if isinstance(found, np.ndarray):
        return found[start + tile.start : start + tile.stop]
    inputs = [_sum(each, known, size) for each in call.inputs]
    if found is not None:
        return np.asarray(found(inputs, start + tile.start), np.float32)
    given = dict(call.values)
    if "at" in call.method.supplied:
        given["at"] = replace(tensor, names=call.sources, start=start + tile.start)
    return call.method.function(*inputs, **given)


def _sum(combination: LinearCombination, known: dict[Term, np.ndarray], size: int) -> np.ndarray:
    """The weighted sum of terms whose values are known.

    What methods make of differences is added last, to the sum of everything else: where it is 0, that comes out bit for bit.
    """
    if not combination.terms:
        return np.zeros(size, np.float32)
    if 0 < sum(map(_is_change, combination.terms)) < len(combination.terms):
        models, changes = (_part(combination, change) for change in (False, True))
        return add_preserving_zero(_sum(models, known, size), _sum(changes, known, size))
    if combination.anchor == 0 and len(combination.terms) == 1:
        return known[combination.terms[0]]
    if combination.coefficients == (1.0, -1.0):  # as the kernel has it, without copies
        return known[combination.terms[0]] - known[combination.terms[1]]
    if combination.coefficients == (1.0, 1.0):
        return known[combination.terms[0]] + known[combination.terms[1]]
    rows = np.stack([known[term] for term in combination.terms])
    out = np.empty(rows.shape[1], np.float32)
    coefficients = np.array(combination.coefficients, np.float32)
    kernel().linear(rows, F32, coefficients, combination.anchor, out, F32)
    return out


def _is_change(term: Term) -> bool:
    """Whether it is what a method made of differences."""
    return isinstance(term, MethodCall) and term.method.on_deltas


def _part(combination: LinearCombination, change: bool) -> LinearCombination:
    """The terms of a combination that are what methods made of differences, or those that are not."""
    kept = [i for i, term in enumerate(combination.terms) if _is_change(term) == change]
    return LinearCombination(
        tuple(combination.terms[i] for i in kept), tuple(combination.coefficients[i] for i in kept)
    )


def has_nonfinite(values: dict[int, np.ndarray]) -> bool:
    """Whether any value is NaN or infinite."""
    return any(kernel().count_bad(v, F32) for v in values.values())


def nonfinite_as_zero(values: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """The same with 0 where a value is NaN or infinite."""
    return {i: np.where(np.isfinite(v), v, np.float32(0)) for i, v in values.items()}
