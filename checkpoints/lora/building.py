"""The tensors of one module, checked against each other, as a formula for its weight and one for its bias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from ..checkpoint import Checkpoint, TensorInfo
from ..errors import CheckpointError
from ..tensors import Shape
from .formulas import (
    LYCORIS_EPSILON,
    AlphaScale,
    Decomposed,
    Formula,
    FullDifference,
    Hadamard,
    Kronecker,
    LowRank,
    Multiplied,
)
from .roles import Role

# The largest tensor of the families has 63 million elements; a file that claims much more means harm.
MAX_ELEMENTS = 1 << 28
_ONLY_BESIDE: tuple[Role, ...] = ("alpha", "mid", "scale", "magnitude", "up_bias", "on_input")


@dataclass(frozen=True)
class Told:
    """What metadata says of a module's scale: alpha, and the factor (PEFT's rsLoRA divides by the root of the rank)."""

    alpha: float
    factor: float


@dataclass(frozen=True)
class LayerTensors:
    """The tensors of a module by their role.

    Attributes:
        path: of the file.
        name: the module as the file spells it.
        expected: the shapes that its weight may have, the likeliest first; the kernel is that of the first.
        told: the scale as metadata has it; for files that store no alpha.
        on_input: whether PEFT's (IA)^3 multiplies inputs, where its config says so.
    """

    path: Path
    name: str
    source: Checkpoint
    tensors: Mapping[Role, TensorInfo]
    expected: tuple[Shape, ...]
    told: Told | None = None
    on_input: bool | None = None

    @property
    def kernel(self) -> Shape:
        return self.expected[0][2:]

    def error(self, text: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {self.name}: {text}")

    def has(self, start: str) -> bool:
        return any(role.startswith(start) for role in self.tensors)

    def need(self, role: Role) -> TensorInfo:
        """A tensor without which the others mean nothing."""
        if role not in self.tensors:
            raise self.error(
                f"expected the tensor {role!r} next to {_listed(self.tensors)}, found none; the file is incomplete"
            )
        return self.tensors[role]

    def check(self, fits: bool, role: Role, expected: str) -> None:
        if not fits:
            info = self.tensors[role]
            raise self.error(f"expected {expected}, found {info.key} of shape {list(info.shape)}; the file is damaged")

    def scale(self, rank: int) -> AlphaScale:
        stored = self.tensors.get("alpha")
        if stored is not None:
            self.check(stored.elements == 1, "alpha", "one number as alpha")
        if rank < 1:
            raise self.error(f"expected a rank of at least 1, found {rank}; the file is damaged")
        if stored is None and self.told is not None:
            return AlphaScale(self.source, None, rank, self.told.factor, self.told.alpha)
        return AlphaScale(self.source, stored, rank)


def weight_formula(group: LayerTensors) -> Formula | None:
    """The change of the module's weight; None when it changes the bias alone.

    Raises:
        CheckpointError: tensors that do not fit together, or only some of them.
    """
    formula = _plain(group)
    if formula is None:
        lone = next((role for role in _ONLY_BESIDE if role in group.tensors), None)
        if lone is not None:
            raise group.error(f"has {_listed(group.tensors)} and no tensors to go with; the file is incomplete")
        return None
    if prod(formula.shape) > MAX_ELEMENTS:
        raise group.error(
            f"expected a weight like {list(group.expected[0])}, found factors of one of shape {list(formula.shape)}, "
            "larger than any of these models"
        )
    return _decomposed(group, formula)


def bias_formula(group: LayerTensors) -> Formula | None:
    """The change of the module's bias, if it has one."""
    for role, kind in (("diff_b", "full"), ("b_norm", "norm"), ("up_bias", "full")):
        if role in group.tensors:
            info = group.tensors[role]
            group.check(len(info.shape) == 1, role, "a bias of one axis")
            # PEFT's `lora_bias` belongs to the up projection and is scaled with it.
            scale = group.scale(group.need("down").shape[0]) if role == "up_bias" else None
            return FullDifference(info.shape, info, kind, scale)
    return None


def _plain(group: LayerTensors) -> Formula | None:
    if "up" in group.tensors or "down" in group.tensors:
        return _low_rank(group)
    if group.has("hada_"):
        return _hadamard(group)
    if group.has("lokr_"):
        return _kronecker(group)
    if "diff" in group.tensors or "w_norm" in group.tensors:
        return _whole(group)
    if "ia3" in group.tensors or "ia3_l" in group.tensors:
        return _multiplied(group)
    return None


def _low_rank(group: LayerTensors) -> LowRank:
    up, down, mid = group.need("up"), group.need("down"), group.tensors.get("mid")
    group.check(len(up.shape) >= 2 and len(down.shape) >= 2, "up", "factors of at least two axes")
    rank = prod(up.shape[1:])
    if mid is None:
        group.check(down.shape[0] == rank, "down", f"{rank} rows, as many as the up factor has columns,")
        inputs = _inputs(group, "down", down.shape[1:])
    else:
        group.check(mid.shape[:1] == (rank,) and len(mid.shape) >= 2, "mid", f"a core of {rank} rows")
        group.check(mid.shape[1] == down.shape[0], "down", f"{mid.shape[1]} rows, as the core has columns,")
        group.check(prod(mid.shape[2:]) == prod(group.kernel), "mid", f"a core with the kernel {list(group.kernel)}")
        inputs = prod(down.shape[1:])
    return LowRank((up.shape[0], inputs, *group.kernel), up, down, mid, group.scale(down.shape[0]))


def _inputs(group: LayerTensors, role: Role, axes: Shape) -> int:
    """How many inputs the axes behind the rank stand for: (inputs,), (inputs, kernel...) or (inputs x kernel,)."""
    kernel = prod(group.kernel)
    fits = prod(axes) % kernel == 0 and (len(axes) == 1 or prod(axes[1:]) == kernel)
    group.check(fits, role, f"inputs times the kernel {list(group.kernel) or 'of a linear layer'}")
    return prod(axes) // kernel


def _hadamard(group: LayerTensors) -> Hadamard:
    halves, shapes = [], []
    for half in ("1", "2"):
        a, b = group.need(f"hada_w{half}_a"), group.need(f"hada_w{half}_b")
        core = group.tensors.get(f"hada_t{half}")
        shapes.append(_product(group, f"hada_w{half}_a", f"hada_w{half}_b", f"hada_t{half}"))
        halves.append((a, b, core))
    group.check(shapes[0] == shapes[1], "hada_w2_a", f"halves of equal shape ({list(shapes[0])} the first one)")
    outputs, columns = shapes[0]
    group.check(columns % prod(group.kernel) == 0, "hada_w1_b", f"inputs times the kernel {list(group.kernel)}")
    shape = (outputs, columns // prod(group.kernel), *group.kernel)
    return Hadamard(shape, tuple(halves), group.scale(halves[0][1].shape[0]))


def _product(group: LayerTensors, a: Role, b: Role, t: Role) -> tuple[int, int]:
    """Rows and columns of a @ b, with a core t of a.T (t b)."""
    first, second, core = group.need(a), group.need(b), group.tensors.get(t)
    group.check(len(first.shape) >= 2, a, "a factor of at least two axes")
    group.check(len(second.shape) >= 2, b, "a factor of at least two axes")
    if core is None:
        rank = prod(first.shape[1:])
        group.check(second.shape[0] == rank, b, f"{rank} rows, as many as {a} has columns,")
        return first.shape[0], prod(second.shape[1:])
    group.check(len(first.shape) == 2, a, "a factor of two axes")
    group.check(
        core.shape[:2] == (first.shape[0], second.shape[0]), t, f"a core of {first.shape[0]} by {second.shape[0]}"
    )
    return first.shape[1], prod(second.shape[1:]) * prod(core.shape[2:])


def _kronecker(group: LayerTensors) -> Kronecker:
    left, (rows1, columns1) = _kronecker_side(group, "lokr_w1")
    right, (rows2, columns2) = _kronecker_side(group, "lokr_w2")
    columns, kernel = columns1 * columns2, prod(group.kernel)
    if columns % kernel:
        raise group.error(
            f"expected inputs times the kernel {list(group.kernel)}, found {columns} columns; the file is damaged"
        )
    # Where one side is a product its inner size is the rank; LyCORIS uses no scale where neither is.
    rank = next((side[1].shape[0] for side in (right, left) if len(side) > 1), 1)
    return Kronecker((rows1 * rows2, columns // kernel, *group.kernel), left, right, group.scale(rank))


def _kronecker_side(group: LayerTensors, name: str) -> tuple[tuple[TensorInfo, ...], tuple[int, int]]:
    if name in group.tensors:
        whole = group.tensors[name]
        group.check(len(whole.shape) >= 2, name, "a factor of at least two axes")
        return (whole,), (whole.shape[0], prod(whole.shape[1:]))
    core = "lokr_t2" if name == "lokr_w2" else "lokr_t1"
    size = _product(group, f"{name}_a", f"{name}_b", core)
    parts = (group.tensors[f"{name}_a"], group.tensors[f"{name}_b"])
    return (*parts, group.tensors[core]) if core in group.tensors else parts, size


def _whole(group: LayerTensors) -> FullDifference:
    if "w_norm" in group.tensors:
        info = group.tensors["w_norm"]
        group.check(len(info.shape) == 1, "w_norm", "one axis")
        return FullDifference(info.shape, info, "norm")
    info = group.tensors["diff"]
    if len(group.expected[0]) < 2:
        group.check(len(info.shape) == 1, "diff", "one axis")
        return FullDifference(info.shape, info)
    group.check(len(info.shape) >= 2, "diff", f"{len(group.expected[0])} axes")
    return FullDifference((info.shape[0], _inputs(group, "diff", info.shape[1:]), *group.kernel), info)


def _multiplied(group: LayerTensors) -> Multiplied:
    if "ia3" in group.tensors:
        info = group.tensors["ia3"]
        flag = group.tensors.get("on_input")
        on_input = flag is not None and _flag(group, flag)
    else:
        # PEFT: (1, inputs) before a linear layer, (outputs, 1) behind it; (1, either, 1, 1) at a convolution.
        info = group.tensors["ia3_l"]
        on_input = info.shape[:1] == (1,) if len(info.shape) == 2 else _conv_input(group, info)
    axis = 1 if on_input else 0
    shape = next((s for s in group.expected if len(s) >= 2 and s[axis] == info.elements), None)
    if shape is None:
        side, role = ("inputs" if on_input else "outputs"), ("ia3" if "ia3" in group.tensors else "ia3_l")
        group.check(False, role, f"a factor for each of the {side} of {list(group.expected[0])}")
    return Multiplied(shape, info, on_input, 0.0 if "ia3" in group.tensors else 1.0)


def _conv_input(group: LayerTensors, info: TensorInfo) -> bool:
    """Whether a factor of PEFT's (IA)^3 at a convolution is for its inputs: by its width, and the config where both fit."""
    outputs, inputs = ({s[axis] for s in group.expected if len(s) >= 2} for axis in (0, 1))
    if info.elements in outputs and info.elements in inputs:
        return bool(group.on_input)
    return info.elements in inputs


def _flag(group: LayerTensors, info: TensorInfo) -> bool:
    from .values import scalar

    group.check(info.elements == 1, "on_input", "one number")
    return scalar(group.source, info) != 0


def _decomposed(group: LayerTensors, formula: Formula) -> Formula:
    for role, epsilon in (("scale", LYCORIS_EPSILON), ("magnitude", 0.0)):
        info = group.tensors.get(role)
        if info is None:
            continue
        outputs, inputs = formula.shape[:2]
        # LyCORIS: (outputs, 1...) or (1, inputs, 1...); PEFT: (outputs,), for convolutions (1, outputs, 1...).
        per_output = role == "magnitude" or not (info.shape[:2] == (1, inputs) and outputs > 1)
        wanted = outputs if per_output else inputs
        group.check(info.elements == wanted, role, f"a magnitude for each of {outputs} outputs or {inputs} inputs")
        return Decomposed(formula, info, per_output, epsilon)
    return formula


def _listed(roles: Mapping[Role, TensorInfo]) -> str:
    return ", ".join(sorted(roles))
