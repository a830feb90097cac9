"""How each relative of LoRA makes the change of a weight out of what it stores.

Weights are matrices here: (outputs, inputs x kernel), a bias or a norm has one column. A formula knows its shape from
headers; `load` reads its factors and answers with a function that computes rows of the change, in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import ClassVar, Literal, Protocol

import numpy as np

from ..checkpoint import Checkpoint, TensorInfo
from ..tensors import Shape
from .values import Rows, row_reader, scalar, values

Kind = Literal["lora", "locon", "loha", "lokr", "ia3", "full", "norm", "dora"]
# Rows `start` to `stop` of the change; the third argument reads rows of the weight that is changed.
Change = Callable[[int, int, Rows | None], np.ndarray]
# LyCORIS adds the epsilon of fp32 to the norms that it divides by.
LYCORIS_EPSILON = float(np.finfo(np.float32).eps)
# Columns times rows of one product: a block is computed whole, so that its numbers do not depend on who asks.
_BLOCK_ELEMENTS, _FEWEST_ROWS, _MOST_ROWS = 1 << 18, 8, 256


class Formula(Protocol):
    """The change of one weight. `shape` is (outputs, inputs, kernel...) as diffusers has the module."""

    kind: Kind
    shape: Shape
    rank: int | None
    alpha: float | None
    needs_weight: bool

    @property
    def is_zero(self) -> bool:
        """Whether it changes nothing, whatever its factors are: its alpha is 0."""

    @property
    def tensors(self) -> tuple[TensorInfo, ...]: ...

    def load(self, source: Checkpoint) -> Loaded: ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """A formula whose factors are in memory: `rows` computes, `nbytes` is what it keeps."""

    rows: Change
    nbytes: int


def block_rows(columns: int) -> int:
    """How many rows of a matrix with so many columns are computed in one product."""
    rows = max(_BLOCK_ELEMENTS // max(columns, 1), 1)
    return min(max(1 << (rows.bit_length() - 1), _FEWEST_ROWS), _MOST_ROWS)


@dataclass
class AlphaScale:
    """What the product of the factors is multiplied by: alpha / rank, or 1 where the file has no alpha.

    LyCORIS' rank-stabilised training (`rs_lora`) stores an alpha for which this holds; PEFT's is known from metadata and
    arrives here as `value`, with `said_alpha` for reports.
    """

    source: Checkpoint
    stored: TensorInfo | None
    rank: int
    value: float | None = None
    said_alpha: float | None = None

    @cached_property
    def alpha(self) -> float | None:
        return scalar(self.source, self.stored) if self.stored is not None else self.said_alpha

    @property
    def factor(self) -> float:
        if self.stored is None:
            return 1.0 if self.value is None else self.value
        return self.alpha / self.rank


@dataclass
class LowRank:
    """scale * up @ down (Hu et al. 2021); for convolutions (LoCon) with the kernel in `down`, or in a small `mid` tensor.

    With `mid` (Tucker, also called CP): delta[o, i, k] = sum_ab up[o, a] mid[a, b, k] down[b, i].
    """

    shape: Shape
    up: TensorInfo
    down: TensorInfo
    mid: TensorInfo | None
    scale: AlphaScale
    needs_weight: ClassVar[bool] = False

    @property
    def is_zero(self) -> bool:
        return self.scale.factor == 0

    @property
    def kind(self) -> Kind:
        return "locon" if self.mid is not None or prod(self.shape[2:]) > 1 else "lora"

    @property
    def rank(self) -> int:
        return self.scale.rank

    @property
    def alpha(self) -> float | None:
        return self.scale.alpha

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(t for t in (self.up, self.down, self.mid, self.scale.stored) if t is not None)

    def factors(self, source: Checkpoint) -> tuple[np.ndarray, np.ndarray]:
        """up (outputs, rank) with the scale folded in, and down (rank, inputs x kernel) with `mid` folded in."""
        up = values(source, self.up).reshape(self.shape[0], -1) * self.scale.factor
        down = values(source, self.down)
        if self.mid is None:
            return up, down.reshape(self.rank, -1)
        return up, _tucker_inner(values(source, self.mid), down.reshape(down.shape[0], -1))

    def load(self, source: Checkpoint) -> Loaded:
        up, down = self.factors(source)
        return Loaded(lambda start, stop, _: up[start:stop] @ down, up.nbytes + down.nbytes)


def _tucker_inner(core: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """core (a, b, k...) and inputs (b, i) as the matrix (a, i x k)."""
    flat = core.reshape(core.shape[0], core.shape[1], -1)
    return np.einsum("abk,bi->aik", flat, inputs).reshape(core.shape[0], -1)


@dataclass
class Hadamard:
    """LoHa: scale * (w1a @ w1b) * (w2a @ w2b), each half with a Tucker core `t` for convolutions (FedPara; LyCORIS)."""

    shape: Shape
    halves: tuple[tuple[TensorInfo, TensorInfo, TensorInfo | None], ...]
    scale: AlphaScale
    kind: ClassVar[Kind] = "loha"
    needs_weight: ClassVar[bool] = False

    @property
    def is_zero(self) -> bool:
        return self.scale.factor == 0

    @property
    def rank(self) -> int:
        return self.scale.rank

    @property
    def alpha(self) -> float | None:
        return self.scale.alpha

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        stored = [t for half in self.halves for t in half] + [self.scale.stored]
        return tuple(t for t in stored if t is not None)

    def load(self, source: Checkpoint) -> Loaded:
        (left1, right1), (left2, right2) = (_half(source, *half) for half in self.halves)
        left1 = left1 * self.scale.factor
        nbytes = sum(m.nbytes for m in (left1, right1, left2, right2))
        return Loaded(lambda i, j, _: (left1[i:j] @ right1) * (left2[i:j] @ right2), nbytes)


def _half(source: Checkpoint, a: TensorInfo, b: TensorInfo, core: TensorInfo | None) -> tuple[np.ndarray, np.ndarray]:
    """The two matrices of one product; with a core, `a` stands the other way round: (rank, outputs)."""
    left, right = values(source, a), values(source, b)
    right = right.reshape(right.shape[0], -1)
    if core is None:
        return left.reshape(left.shape[0], -1), right
    return np.ascontiguousarray(left.T), _tucker_inner(values(source, core), right)


@dataclass
class Kronecker:
    """LoKr: scale * kron(w1, w2), each whole or a product (Yeh et al. 2023; LyCORIS).

    `left` and `right` are (whole,) or (a, b) or, for the right, (a, b, core). Where both are whole LyCORIS uses
    no scale, PEFT does.
    """

    shape: Shape
    left: tuple[TensorInfo, ...]
    right: tuple[TensorInfo, ...]
    scale: AlphaScale
    kind: ClassVar[Kind] = "lokr"
    needs_weight: ClassVar[bool] = False

    @property
    def rank(self) -> int | None:
        return None if self.whole else self.scale.rank

    @property
    def alpha(self) -> float | None:
        return self.scale.alpha

    @property
    def unscaled(self) -> bool:
        return self.whole and self.scale.value is None

    @property
    def is_zero(self) -> bool:
        return not self.unscaled and self.scale.factor == 0

    @property
    def whole(self) -> bool:
        return len(self.left) == len(self.right) == 1

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        return (*self.left, *self.right, *((self.scale.stored,) if self.scale.stored else ()))

    def load(self, source: Checkpoint) -> Loaded:
        outer = _side(source, self.left) * (1.0 if self.unscaled else self.scale.factor)
        inner = _side(source, self.right)
        columns = outer.shape[1] * inner.shape[1]

        def rows(start: int, stop: int, _: Rows | None) -> np.ndarray:
            high, low = np.divmod(np.arange(start, stop), inner.shape[0])
            return (outer[high][:, :, None] * inner[low][:, None, :]).reshape(stop - start, columns)

        return Loaded(rows, outer.nbytes + inner.nbytes)


def _side(source: Checkpoint, parts: tuple[TensorInfo, ...]) -> np.ndarray:
    if len(parts) == 1:
        whole = values(source, parts[0])
        return whole.reshape(whole.shape[0], -1)
    left, right = _half(source, parts[0], parts[1], parts[2] if len(parts) == 3 else None)
    return left @ right


@dataclass
class Multiplied:
    """(IA)^3: a factor for each output, or each input, of the weight (Liu et al. 2022).

    LyCORIS stores what is added to 1 (delta = W * l), PEFT the factor itself (delta = W * (l - 1)): `less` is 0 or 1.
    """

    shape: Shape
    stored: TensorInfo
    on_input: bool
    less: float
    kind: ClassVar[Kind] = "ia3"
    rank: ClassVar[None] = None
    alpha: ClassVar[None] = None
    needs_weight: ClassVar[bool] = True
    is_zero: ClassVar[bool] = False

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        return (self.stored,)

    def load(self, source: Checkpoint) -> Loaded:
        factors = values(source, self.stored).reshape(-1) - self.less
        columns = np.repeat(factors, prod(self.shape[2:])) if self.on_input else None

        def rows(start: int, stop: int, weight: Rows | None) -> np.ndarray:
            across = columns[None, :] if columns is not None else factors[start:stop, None]
            return weight(start, stop) * across

        return Loaded(rows, factors.nbytes)


@dataclass
class FullDifference:
    """The change itself, stored as it is: LyCORIS' full training, its norms, and biases; times `factor` (PEFT's biases)."""

    shape: Shape
    stored: TensorInfo
    kind: Kind = "full"
    scale: AlphaScale | None = None
    rank: ClassVar[None] = None
    alpha: ClassVar[None] = None
    needs_weight: ClassVar[bool] = False

    @property
    def is_zero(self) -> bool:
        return self.scale is not None and self.scale.factor == 0

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        return (self.stored,)

    def load(self, source: Checkpoint) -> Loaded:
        read, factor = row_reader(source, self.stored), self.scale.factor if self.scale else 1.0
        return Loaded(lambda start, stop, _: read(start, stop) * factor, 0)


@dataclass
class Decomposed:
    """DoRA: magnitude * (W + delta) / |W + delta| - W (Liu et al. 2024), around any of the others.

    The norm is that of each output's weights (`per_output`: PEFT, and LyCORIS with `wd_on_out`), else of each input
    channel's over outputs and kernel (LyCORIS before 3.1). LyCORIS adds an epsilon to the norm, PEFT none. At another
    strength than 1 the whole change is scaled, magnitude and direction alike.
    """

    inner: Formula
    magnitude: TensorInfo
    per_output: bool
    epsilon: float
    kind: ClassVar[Kind] = "dora"
    needs_weight: ClassVar[bool] = True
    is_zero: ClassVar[bool] = False  # without a direction of its own it still gives the weight another magnitude

    @property
    def shape(self) -> Shape:
        return self.inner.shape

    @property
    def rank(self) -> int | None:
        return self.inner.rank

    @property
    def alpha(self) -> float | None:
        return self.inner.alpha

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        return (*self.inner.tensors, self.magnitude)

    def load(self, source: Checkpoint) -> Loaded:
        inner, magnitude = self.inner.load(source), values(source, self.magnitude).reshape(-1)
        norms: list[
            np.ndarray
        ] = []  # of the inputs, which take a pass over the whole weight: made when first asked for

        def rows(start: int, stop: int, weight: Rows | None) -> np.ndarray:
            before = weight(start, stop)
            moved = before + inner.rows(start, stop, weight)
            if self.per_output:
                norm = np.sqrt((moved * moved).sum(axis=1, keepdims=True)) + self.epsilon
                return moved * _ratio(magnitude[start:stop, None], norm) - before
            if not norms:
                norms.append(self._input_norms(inner, weight))
            ratio = np.repeat(_ratio(magnitude, norms[0]), prod(self.shape[2:]))
            return moved * ratio - before

        return Loaded(rows, inner.nbytes + magnitude.nbytes)

    def _input_norms(self, inner: Loaded, weight: Rows) -> np.ndarray:
        """The norm of each input channel of W + delta, over outputs and kernel; block by block, in order."""
        outputs, inputs, kernel = self.shape[0], self.shape[1], prod(self.shape[2:])
        step, total = block_rows(inputs * kernel), np.zeros(inputs * kernel)
        for start in range(0, outputs, step):
            stop = min(start + step, outputs)
            moved = weight(start, stop) + inner.rows(start, stop, weight)
            total += (moved * moved).sum(axis=0)
        return np.sqrt(total.reshape(inputs, kernel).sum(axis=1)) + self.epsilon


def _ratio(magnitude: np.ndarray, norm: np.ndarray) -> np.ndarray:
    """magnitude / norm; a weight that is all zeros has no direction and stays as it is."""
    return np.divide(magnitude, norm, out=np.ones_like(norm), where=norm > 0)
