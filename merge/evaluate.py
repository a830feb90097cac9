"""A form on pieces of its inputs, and what is done about values that are not finite.

A merge meets few such values or none, so the engine's fast path only counts them. When the count is not zero the piece is
done again here, where the reason is found: an input that holds NaN or infinity, or a result too large for its dtype.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from ..checkpoints import codec
from ..checkpoints.dtypes import F32
from .errors import MergeError
from .forms import Form, Model, Term

if TYPE_CHECKING:
    from .plan import Plan, TensorPlan

_NAMED = 6
# fp32 elements: 256 KB an array.
_TILE = 1 << 16


def evaluate(form: Form, values: dict[int, np.ndarray]) -> np.ndarray:
    """The value of a form: model index -> fp32 array, all of one length, to an fp32 array; fp32 arithmetic throughout."""
    size, steps = next(iter(values.values())).size, form.applied()
    out = np.empty(size, np.float32)
    # Methods make a dozen intermediate arrays: in short tiles they stay in the cache.
    for start in range(0, size, _TILE):
        tile = slice(start, start + _TILE)
        known: dict[Term, np.ndarray] = {Model(i): v[tile] for i, v in values.items()}
        with np.errstate(all="ignore"):
            for step in steps:
                known[step] = step.function(*(_sum(f, known) for f in step.inputs), **dict(step.values))
        out[tile] = _sum(form, known)
    return out


def _sum(form: Form, known: dict[Term, np.ndarray]) -> np.ndarray:
    """The weighted sum of terms whose values are known."""
    if form.anchor == 0 and len(form.terms) == 1:
        return known[form.terms[0]]
    rows = np.stack([known[term] for term in form.terms])
    out = np.empty(rows.shape[1], np.float32)
    coefficients = np.array(form.coefficients, np.float32)
    codec.kernel().linear(rows, coefficients, form.anchor, out, codec.finite_limit(F32))
    return out


class Faults:
    """Collects values that are not finite, and applies what the recipe says about them."""

    def __init__(self, plan: Plan):
        self._plan = plan
        self._nan, self._overflow = plan.recipe.output.nan, plan.recipe.output.overflow
        self._inputs: dict[str, Counter[str]] = {}
        self._results: Counter[str] = Counter()
        self._lock = threading.Lock()

    def value(self, tensor: TensorPlan, values: dict[int, np.ndarray]) -> np.ndarray:
        """The value of a tensor's form on fp32 pieces of its inputs, with everything that is not finite repaired or noted."""
        limit = codec.finite_limit(F32)
        if any(codec.kernel().count_bad(v, limit) for v in values.values()):
            result = self._mended(tensor, values)
        else:
            result = evaluate(tensor.form, values)
        if codec.kernel().count_bad(result, codec.finite_limit(tensor.dtype)):
            large = ~(np.abs(result) <= codec.finite_limit(tensor.dtype))
            with self._lock:
                self._results[tensor.key] += int(large.sum())
            result = np.clip(np.nan_to_num(result, nan=0.0), -tensor.dtype.max, tensor.dtype.max).astype(np.float32)
        return result

    def _mended(self, tensor: TensorPlan, values: dict[int, np.ndarray]) -> np.ndarray:
        """The form with inputs that are not finite counted as 0, or its result replaced by the first finite input."""
        broken = {i: ~np.isfinite(v) for i, v in values.items()}
        self.note(tensor.key, {i: int(b.sum()) for i, b in broken.items()})
        result = evaluate(tensor.form, {i: np.where(broken[i], np.float32(0), v) for i, v in values.items()})
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
