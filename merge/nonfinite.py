"""What is done about values that are not finite.

A merge meets few of them or none, so the fast path only counts them. When the count is not zero the piece is done again
here, where the reason is found: an input that holds NaN or infinity, or a result too large for its dtype.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np

from ..checkpoints.dtypes import F32, carrier
from ..checkpoints.errors import RecipeError
from ..checkpoints.kernels import kernel
from ..checkpoints.notices import Notice
from ..checkpoints.text import listed
from .evaluate import Measured, evaluate, has_nonfinite, nonfinite_as_zero
from .plan import Plan, TensorPlan

# How many tensors a message names.
_NAMED = 6


class NonFinite:
    """Collects values that are not finite, and applies what the recipe says about them."""

    def __init__(self, plan: Plan):
        self._plan = plan
        self._nan, self._overflow = plan.recipe.output.nan, plan.recipe.output.overflow
        self._inputs: dict[str, Counter[str]] = {}
        self._results: Counter[str] = Counter()
        self._lock = threading.Lock()

    def value(
        self,
        tensor: TensorPlan,
        values: dict[int, np.ndarray],
        start: int = 0,
        measured: Measured = MappingProxyType({}),
    ) -> np.ndarray:
        """The value of a tensor on fp32 pieces of its inputs, with everything that is not finite repaired or noted."""

        def worked_out(values: dict[int, np.ndarray]) -> np.ndarray:
            return evaluate(tensor.combination, values, start, tensor.slice, measured)

        result = self._mended(tensor, values, worked_out) if has_nonfinite(values) else worked_out(values)
        if kernel().count_bad(result, F32, tensor.dtype):
            large = ~(np.abs(result) <= tensor.dtype.limit)
            with self._lock:
                self._results[tensor.key] += int(large.sum())
            result = np.clip(np.nan_to_num(result, nan=0.0), -tensor.dtype.max, tensor.dtype.max).astype(np.float32)
        return result

    def _mended(self, tensor: TensorPlan, values: dict[int, np.ndarray], worked_out: Callable) -> np.ndarray:
        """The combination with inputs that are not finite counted as 0, or its result replaced by the first finite input."""
        broken = {i: ~np.isfinite(v) for i, v in values.items()}
        self.note(tensor.key, {i: int(b.sum()) for i, b in broken.items()})
        result = worked_out(nonfinite_as_zero(values))
        if self._nan != "copy":
            return result
        finite = np.zeros(result.size, np.float32)
        for i in reversed(values):
            finite = np.where(broken[i], finite, values[i])
        return np.where(np.logical_or.reduce(list(broken.values())), finite, result)

    def mend_copy(self, tensor: TensorPlan, raw: np.ndarray) -> None:
        """Note values that are not finite in a tensor that is copied as it is, and put 0 in their place."""
        elements, values = raw.view(carrier(tensor.dtype)), np.empty(raw.size // tensor.dtype.size, np.float32)
        kernel().decode(raw, tensor.dtype, values)
        broken = ~np.isfinite(values)
        self.note(tensor.key, {tensor.combination.single.index: int(broken.sum())})
        elements[broken] = 0

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

    def is_note(self, note: Any) -> bool:
        """Whether this is what `noted` gives, of this plan."""
        if not isinstance(note, dict):
            return False
        inputs, results = note.get("inputs", {}), note.get("results", 0)
        counts = [*inputs.values(), results] if isinstance(inputs, dict) else [None]
        return (
            set(note) <= {"inputs", "results"}
            and set(inputs) <= set(self._plan.names)
            and all(isinstance(count, int) and count >= 0 for count in counts)
        )

    def restore(self, key: str, note: dict) -> None:
        """Note again what an earlier run noted of a tensor."""
        for name, count in note.get("inputs", {}).items():
            self._inputs.setdefault(name, Counter())[key] += count
        if note.get("results"):
            self._results[key] += note["results"]

    def refuse(self) -> None:
        """Fail for what the recipe does not allow.

        Raises:
            RecipeError: naming the models, the tensors and how many values.
        """
        if self._nan == "error" and self._inputs:
            what = "; ".join(f"{name}: {_listed(found)}" for name, found in self._inputs.items())
            raise RecipeError(
                f"weights that are NaN or infinite: {what}. Nothing was written; repair them with output.nan (--nan zero or "
                "--nan copy), or leave the model out"
            )
        if self._overflow == "error" and self._results:
            dtype = self._plan.recipe.output.dtype
            raise RecipeError(
                f"results too large for {dtype}: {_listed(self._results)}. Nothing was written; choose a wider dtype "
                "(bf16, fp32) or output.overflow (--overflow clamp)"
            )

    def repairs(self) -> list[Notice]:
        """What was repaired, for the report."""
        how = {
            "zero": "counted as 0",
            "copy": "replaced by the first input that is finite there and has a share (0 where none is)",
        }.get(self._nan, "")
        said = [
            Notice("merge.not_finite", f"NaN or infinite values {how}: {_listed(found)}", tuple(sorted(found))).of(name)
            for name, found in self._inputs.items()
        ]
        if self._results:
            text = f"results too large for the output, clamped: {_listed(self._results)}"
            said.append(Notice("merge.clamped", text, tuple(sorted(self._results))))
        return said


def _listed(found: Counter[str]) -> str:
    return listed([f"{key} ({count:,} values)" for key, count in sorted(found.items())], _NAMED, "tensor")
