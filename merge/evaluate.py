"""A form on pieces of its inputs, and what is done about values that are not finite.

A merge meets few such values or none, so the engine's fast path only counts them. When the count is not zero the piece is
done again here, where the reason is found: an input that holds NaN or infinity, or a result too large for its dtype.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from ..checkpoints import codec
from ..checkpoints.dtypes import F32
from .errors import MergeError
from .forms import Applied, Form, Model, Term
from .spot import Spot

if TYPE_CHECKING:
    from .plan import Plan, TensorPlan

_NAMED = 6
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
    """The weighted sum of terms whose values are known."""
    if not form.terms:
        return np.zeros(size, np.float32)
    if form.anchor == 0 and len(form.terms) == 1:
        return known[form.terms[0]]
    if form.coefficients == (1.0, -1.0):  # as the kernel has it, without copies
        return known[form.terms[0]] - known[form.terms[1]]
    if form.coefficients == (1.0, 1.0):
        return known[form.terms[0]] + known[form.terms[1]]
    rows = np.stack([known[term] for term in form.terms])
    out = np.empty(rows.shape[1], np.float32)
    coefficients = np.array(form.coefficients, np.float32)
    codec.kernel().linear(rows, coefficients, form.anchor, out, codec.finite_limit(F32))
    return out


def is_broken(values: dict[int, np.ndarray]) -> bool:
    """Whether any value is NaN or infinite."""
    limit = codec.finite_limit(F32)
    return any(codec.kernel().count_bad(v, limit) for v in values.values())


def mended(values: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """The same with 0 where a value is NaN or infinite."""
    return {i: np.where(np.isfinite(v), v, np.float32(0)) for i, v in values.items()}


class Faults:
    """Collects values that are not finite, and applies what the recipe says about them."""

    def __init__(self, plan: Plan):
        self._plan = plan
        self._nan, self._overflow = plan.recipe.output.nan, plan.recipe.output.overflow
        self._inputs: dict[str, Counter[str]] = {}
        self._results: Counter[str] = Counter()
        self._lock = threading.Lock()

    def value(
        self, tensor: TensorPlan, values: dict[int, np.ndarray], start: int = 0, solved: Solved = MappingProxyType({})
    ) -> np.ndarray:
        """The value of a tensor's form on fp32 pieces of its inputs, with everything that is not finite repaired or noted."""

        def worked_out(values: dict[int, np.ndarray]) -> np.ndarray:
            return evaluate(tensor.form, values, start, Spot(tensor.key, tensor.merged_shape, ()), solved)

        result = self._mended(tensor, values, worked_out) if is_broken(values) else worked_out(values)
        if codec.kernel().count_bad(result, codec.finite_limit(tensor.dtype)):
            large = ~(np.abs(result) <= codec.finite_limit(tensor.dtype))
            with self._lock:
                self._results[tensor.key] += int(large.sum())
            result = np.clip(np.nan_to_num(result, nan=0.0), -tensor.dtype.max, tensor.dtype.max).astype(np.float32)
        return result

    def _mended(self, tensor: TensorPlan, values: dict[int, np.ndarray], worked_out: Callable) -> np.ndarray:
        """The form with inputs that are not finite counted as 0, or its result replaced by the first finite input."""
        broken = {i: ~np.isfinite(v) for i, v in values.items()}
        self.note(tensor.key, {i: int(b.sum()) for i, b in broken.items()})
        result = worked_out(mended(values))
        if self._nan != "copy":
            return result
        finite = np.zeros(result.size, np.float32)
        for i in reversed(values):
            finite = np.where(broken[i], finite, values[i])
        return np.where(np.logical_or.reduce(list(broken.values())), finite, result)

    def note(self, key: str, counts: dict[int, int]) -> None:
        """Record how many values of each input (by model index) are not finite in a tensor."""
        with self._lock:
            for index, count in counts.items():
                if count:
                    self._inputs.setdefault(self._plan.names[index], Counter())[key] += count

    def noted(self, key: str) -> dict:
        """What was noted of a tensor, as plain data that `restore` takes."""
        with self._lock:
            inputs = {name: found[key] for name, found in self._inputs.items() if key in found}
            return {"inputs": inputs, "results": self._results[key]} if inputs or self._results[key] else {}

    def restore(self, key: str, note: dict) -> None:
        """Note again what an earlier run noted of a tensor."""
        for name, count in note.get("inputs", {}).items():
            self._inputs.setdefault(name, Counter())[key] += count
        if note.get("results"):
            self._results[key] += note["results"]

    def refuse(self) -> None:
        """Fail for what the recipe does not allow.

        Raises:
            MergeError: naming the models, the tensors and how many values.
        """
        if self._nan == "error" and self._inputs:
            what = "; ".join(f"{name}: {_listed(found)}" for name, found in self._inputs.items())
            raise MergeError(
                f"weights that are NaN or infinite: {what}. Nothing was written; repair them with output.nan (--nan zero or "
                "--nan copy), or leave the model out"
            )
        if self._overflow == "error" and self._results:
            dtype = self._plan.recipe.output.dtype
            raise MergeError(
                f"results too large for {dtype}: {_listed(self._results)}. Nothing was written; choose a wider dtype "
                "(bf16, fp32) or output.overflow (--overflow clamp)"
            )

    def repairs(self) -> list[str]:
        """What was repaired, in sentences, for the report."""
        how = {
            "zero": "counted as 0",
            "copy": "replaced by the first input that is finite there and has a share (0 where none is)",
        }.get(self._nan, "")
        said = [f"{name}: NaN or infinite values {how}: {_listed(found)}" for name, found in self._inputs.items()]
        if self._results:
            said.append(f"results too large for the output, clamped: {_listed(self._results)}")
        return said


def _listed(found: Counter[str]) -> str:
    shown = [f"{key} ({count:,} values)" for key, count in sorted(found.items())[:_NAMED]]
    more = len(found) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more tensors" if more else "")
