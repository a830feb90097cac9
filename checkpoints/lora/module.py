"""One weight that a LoRA changes, and the change, whole or in rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from ..checkpoint import Checkpoint, TensorInfo
from ..errors import CheckpointError
from ..tensors import Shape
from .formulas import Formula, Kind, Loaded, LowRank, block_rows
from .values import Rows


@dataclass(frozen=True, slots=True)
class ModulePart:
    """The change of one module of diffusers: all of a canonical tensor, a third of its rows, its first columns, or its transpose.

    A convolution that reads more input channels than the LoRA knows, as inpainting models have it, changes in the first alone.
    """

    name: str
    formula: Formula
    third: int | None = None
    transposed: bool = False


@dataclass(frozen=True)
class LoraModule:
    """The change of the tensor `key`, of shape `shape`; q, k and v of an OpenCLIP encoder are three parts of one tensor.

    `source` holds the LoRA's own tensors; `load` keeps the factors of the parts that are in use.
    """

    path: str
    key: str
    shape: Shape
    parts: tuple[ModulePart, ...]
    source: Checkpoint
    load: Callable[[ModulePart], Loaded]

    @property
    def of_bias(self) -> bool:
        """Whether it is a bias that changes, not a weight."""
        return self.key.endswith((".bias", "_bias"))

    @property
    def kind(self) -> Kind:
        return self.parts[0].formula.kind

    @property
    def rank(self) -> int | None:
        """The rank it was trained with: the largest of its parts; None for kinds without one."""
        return max((p.formula.rank for p in self.parts if p.formula.rank is not None), default=None)

    @property
    def alpha(self) -> float | None:
        """The alpha of its first part; None where the file stores none."""
        return self.parts[0].formula.alpha

    @property
    def scale(self) -> float:
        """What the product of the factors of its first part is multiplied by (alpha / rank); 1 for kinds without one."""
        formula = self.parts[0].formula
        scale = getattr(getattr(formula, "inner", formula), "scale", None)
        return 1.0 if scale is None else scale.factor

    @property
    def scaled_to_nothing(self) -> bool:
        """Whether all of it is multiplied by 0, as programs read an alpha of 0 (LyCORIS reads it as alpha = rank)."""
        return all(part.formula.is_zero for part in self.parts)

    def changes_something(self) -> bool:
        """Whether any number of the change is not 0. Reads the factors, and computes rows until one is found."""
        if self.needs_weight:
            return True
        if self.scaled_to_nothing:
            return False
        step = block_rows(prod(self.shape[1:]))
        starts = range(0, self.shape[0], step)
        return any(self.rows(start, min(start + step, self.shape[0]), None).any() for start in starts)

    @property
    def needs_weight(self) -> bool:
        """Whether the change follows from the weight that is changed: (IA)^3, DoRA."""
        return any(p.formula.needs_weight for p in self.parts)

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """The tensors of the file that the change is made of."""
        return tuple(t for p in self.parts for t in p.formula.tensors)

    def delta(self, weight: np.ndarray | None = None, rows: slice | None = None) -> np.ndarray:
        """The change, float32: computed in float64 and rounded once. Rows have the same numbers as the whole.

        Args:
            weight: the whole tensor that is changed, for the kinds that need it.
            rows: of the first axis; None for all.

        Raises:
            CheckpointError: the weight is needed and not given, or has another shape.
        """
        start, stop, step = (rows or slice(None)).indices(self.shape[0])
        if step != 1:
            raise ValueError(f"rows of a change follow one another, not in steps of {step}")
        reader = None
        if weight is not None:
            if weight.shape != self.shape:
                raise CheckpointError(
                    f"{self.path}: {self.key}: the LoRA changes a tensor of shape {list(self.shape)}, "
                    f"the weight has {list(weight.shape)}; use the model family that the LoRA was made for"
                )
            flat = weight.reshape(self.shape[0], -1)
            reader = lambda first, last: flat[first:last].astype(np.float64)  # noqa: E731
        stop = max(start, stop)
        return self.rows(start, stop, reader).reshape(stop - start, *self.shape[1:])

    def rows(self, start: int, stop: int, weight: Rows | None) -> np.ndarray:
        """Rows `start` to `stop` as a float32 matrix; `weight` reads rows of the tensor that is changed."""
        if weight is None and self.needs_weight:
            raise CheckpointError(
                f"{self.path}: {self.key} is changed by {self.kind}, which follows from the weight itself; "
                "give the checkpoint that the LoRA is for as its base"
            )
        columns = prod(self.shape[1:])
        out = np.zeros((stop - start, columns), np.float32)
        for part in self.parts:
            if part.transposed:
                turned = None if weight is None else _turned(weight, self.shape[0])
                whole = np.empty(self.shape[::-1], np.float32)
                self._fill(whole, part, 0, self.shape[1], turned)
                out[:] = whole.T[start:stop]
                continue
            size = self.shape[0] if part.third is None else self.shape[0] // 3
            first = (part.third or 0) * size
            low, high = max(start, first), min(stop, first + size)
            width = prod(part.formula.shape[1:])
            if low < high:
                own = None if weight is None else _inside(weight, first, None if width == columns else width)
                self._fill(out[low - start : high - start, :width], part, low - first, high - first, own)
        return out

    def _fill(self, out: np.ndarray, part: ModulePart, start: int, stop: int, weight: Rows | None) -> None:
        """Rows of a part, in blocks that lie the same wherever one starts to read: equal products, equal numbers."""
        change, outputs = self.load(part), part.formula.shape[0]
        step = block_rows(out.shape[1])
        for begin in range(start - start % step, stop, step):
            block = change.rows(begin, min(begin + step, outputs), weight)
            low, high = max(start, begin), min(stop, begin + step)
            out[low - start : high - start] = block[low - begin : high - begin]

    def factors(self) -> tuple[np.ndarray, np.ndarray]:
        """up (outputs, rank) and down (rank, inputs, kernel...), float64, whose product is the change.

        The scale (alpha / rank) is folded into `up`, a `mid` tensor into `down`. The parts of a fused tensor stand side by
        side: their ranks add up.

        Raises:
            CheckpointError: the change is not a product of two factors (any kind but LoRA and LoCon).
        """
        ups, downs, rank = [], [], 0
        for part in self.parts:
            if not isinstance(part.formula, LowRank):
                raise CheckpointError(f"{self.path}: {self.key} is a {self.kind}, which has no up and down factors")
            up, down = part.formula.factors(self.source)
            if part.transposed:
                up, down = down.T, up.T
            size = up.shape[0]
            first = (part.third or 0) * size
            ups.append((first, up))
            downs.append(down)
            rank += down.shape[0]
        whole, below, at = np.zeros((self.shape[0], rank)), np.zeros((rank, prod(self.shape[1:]))), 0
        for (first, up), down in zip(ups, downs, strict=True):
            whole[first : first + up.shape[0], at : at + up.shape[1]] = up
            below[at : at + up.shape[1], : down.shape[1]] = down
            at += up.shape[1]
        return whole, below.reshape(rank, *self.shape[1:])


def _inside(weight: Rows, first: int, columns: int | None) -> Rows:
    """The weight's rows from `first` on, and of these the first columns."""
    return lambda start, stop: np.ascontiguousarray(weight(first + start, first + stop)[:, :columns])


def _turned(weight: Rows, rows: int) -> Rows:
    return lambda start, stop: np.ascontiguousarray(weight(0, rows).T[start:stop])
