"""Demo LoRAs: valid files of random numbers, of every kind and in every style, for tests, the demo and benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np

from ..dtypes import DTYPES, DType, dtype_named
from ..errors import CheckpointError
from ..families import family_of, layout
from ..formats import written_as
from ..lora.names import FUSED, STYLES, Style, Target, factor_ends, spelled, targets
from ..lora.numbered import text_order, unet_order
from ..opening import open_checkpoint
from ..stream import Pass
from ..tensors import Shape
from ..transfer import Outgoing, write_tensors

Modules = Literal["attention", "all"]
DemoKind = Literal["lora", "locon", "loha", "lokr", "ia3", "full", "norm", "dora"]
KINDS: tuple[DemoKind, ...] = ("lora", "locon", "loha", "lokr", "ia3", "full", "norm", "dora")

# What LoRA trainers leave alone: lookup tables, and the projection behind the second text encoder.
_NEVER = ("embedding", "text_projection")
_ATTENTION = (
    ".to_q",
    ".to_k",
    ".to_v",
    ".to_out.0",
    "_proj",
    ".proj_in",
    ".proj_out",
    ".ff.net.0.proj",
    ".ff.net.2",
    ".fc1",
    ".fc2",
)

Tensors = Iterator[tuple[str, np.ndarray]]


def write_demo_lora(
    path: Path,
    family: str,
    *,
    style: Style = "kohya",
    kind: DemoKind = "lora",
    rank: int = 4,
    alpha: float | None = None,
    seed: int = 0,
    base: Path | None = None,
    modules: Modules = "attention",
    dtype: str = "fp16",
    strength: float = 0.02,
    overwrite: bool = False,
) -> Path:
    """Write a LoRA of random numbers; the same arguments give the same bytes.

    Args:
        path: the .safetensors file to write.
        family: whose names.
        style: of the names. Only `lora`, `locon` and `dora` have names outside kohya's styles; `numbered` has only `lora`.
        kind: of the changes. `norm` changes the norms alone; `locon` the convolutions with a core (`mid`) where they are 3x3.
        rank: of the factors, at most what a module is wide.
        alpha: stored with each module; None stores none.
        base: a checkpoint whose widths it fits; None makes it for the narrow demo checkpoints.
        modules: `attention` for what trainers change by default, `all` for the residual blocks' layers too.
        strength: standard deviation of the changes, roughly.

    Raises:
        CheckpointError: the style has no names for the kind.
    """
    written_as(path)  # else refused
    if style not in STYLES or kind not in KINDS:
        raise CheckpointError(
            f"there is no LoRA of kind {kind!r} in style {style!r}; kinds are {', '.join(KINDS)}, styles {', '.join(STYLES)}"
        )
    allowed = {"kohya": KINDS, "single-file": KINDS, "numbered": ("lora",)}.get(style, ("lora", "locon", "dora"))
    if kind not in allowed:
        raise CheckpointError(f"the style {style} has no names for {kind}; it has {', '.join(allowed)}")
    if style == "numbered" and modules == "all":
        modules = "attention"  # the numbers count the layers of the attention
    shapes = _shapes(family, base)
    weights, out = dtype_named(dtype), {}
    for name, target in _chosen(family, style, kind, modules, shapes):
        rng = np.random.default_rng(int.from_bytes(sha256(f"{seed} {target.path}".encode()).digest()[:8], "little"))
        shape = _module_shape(target, shapes)
        for ending, values in _tensors(kind, style, target, shape, rank, alpha, strength, rng):
            out[name + ending] = (DTYPES["F32"] if ending in (".alpha", ".on_input") else weights, values)
    _write(Path(path), out, _metadata(family, kind, rank, alpha, style), overwrite)
    return Path(path)


def _shapes(family: str, base: Path | None) -> dict[str, Shape]:
    if base is None:
        return {key: spec.shape for key, spec in layout(family, widths="narrow").items()}
    with open_checkpoint(base) as checkpoint:
        if checkpoint.architecture.family != family:
            raise CheckpointError(f"{base}: is {checkpoint.architecture.name}; a LoRA for {family} does not fit it")
        return {key: info.shape for key, info in checkpoint.tensors.items()}


def _module_shape(target: Target, shapes: dict[str, Shape]) -> Shape:
    shape = shapes[target.weight]
    if target.third is not None:
        return (shape[0] // FUSED, *shape[1:])
    return shape[::-1] if target.transposed else shape


def _chosen(
    family: str, style: Style, kind: DemoKind, modules: Modules, shapes: dict[str, Shape]
) -> Iterator[tuple[str, Target]]:
    """The modules to change, by the name that the file gives them."""
    if style == "numbered":
        for component, order in (
            ("unet", unet_order(family, "before 0.15", False)),
            ("text_encoder", text_order(family)),
        ):
            yield from ((f"{component}:{number}", target) for number, target in enumerate(order))
        return
    for target in targets(family):
        shape = shapes.get(target.weight)
        if shape is None or any(word in target.module for word in _NEVER) or (len(shape) < 2) != (kind == "norm"):
            continue
        if kind == "norm" or modules == "all" or _by_default(target):
            yield spelled(target, family, style), target


def _by_default(target: Target) -> bool:
    return target.module.endswith(_ATTENTION) and ".resnets." not in target.module


def _tensors(
    kind: DemoKind,
    style: Style,
    target: Target,
    shape: Shape,
    rank: int,
    alpha: float | None,
    strength: float,
    rng: np.random.Generator,
) -> Tensors:
    """What a module stores, by the ending of its names."""

    def normal(*size: int, std: float = 1.0) -> np.ndarray:
        return (rng.standard_normal(size) * std).astype(np.float32)

    if kind == "norm":
        yield ".w_norm", normal(*shape, std=strength)
        yield ".b_norm", normal(*shape, std=strength)
        return
    outputs, inputs, *kernel = shape
    rank = min(rank, outputs, inputs)
    if kind == "full":
        yield ".diff", normal(*shape, std=strength)
    elif kind == "ia3":
        yield (
            ".weight",
            normal(outputs, std=strength) if not kernel else normal(1, outputs, *[1] * len(kernel), std=strength),
        )
        yield ".on_input", np.zeros((), np.float32)
    elif kind == "loha":
        for half in "12":
            yield f".hada_w{half}_a", normal(outputs, rank, std=(strength / rank) ** 0.5)
            yield f".hada_w{half}_b", normal(rank, inputs * prod(kernel))
    elif kind == "lokr":
        rows, columns = _divisor(outputs), _divisor(inputs)
        yield ".lokr_w1", normal(rows, columns)
        yield ".lokr_w2_a", normal(outputs // rows, rank, std=strength / rank**0.5)
        yield ".lokr_w2_b", normal(rank, inputs // columns * prod(kernel))
    else:
        yield from _low_rank(kind, style, target, shape, rank, strength, normal)
    if alpha is not None and kind not in ("full", "ia3"):
        yield ":alpha" if style == "numbered" else ".alpha", np.array(alpha, np.float32)


def _low_rank(
    kind: DemoKind, style: Style, target: Target, shape: Shape, rank: int, strength: float, normal
) -> Tensors:
    outputs, inputs, *kernel = shape
    down, up = factor_ends(target, style)
    ones = [1] * len(kernel)
    yield up, normal(outputs, rank, *ones, std=strength / rank**0.5)
    if kind == "locon" and prod(kernel) > 1 and style in ("kohya", "single-file"):
        yield down, normal(rank, inputs, *ones)
        yield ".lora_mid.weight", normal(rank, rank, *kernel, std=rank**-0.5)
    else:
        yield down, normal(rank, inputs, *kernel)
    if kind == "dora":
        size = np.abs(normal(outputs, *[1] * (len(shape) - 1), std=0.1)) + 1
        yield (".lora_magnitude_vector", size.reshape(-1)) if style == "peft" else (".dora_scale", size)


def _divisor(width: int) -> int:
    """The largest divisor up to 8, as LyCORIS' factor 8 splits a width."""
    return max(n for n in range(1, 9) if width % n == 0)


def _metadata(family: str, kind: DemoKind, rank: int, alpha: float | None, style: Style) -> dict[str, str]:
    if style not in ("kohya", "single-file"):
        return {"format": "pt"}
    lycoris = kind not in ("lora", "dora")
    return {
        "format": "pt",
        "ss_base_model_version": family_of(family).lora.base_version,
        "ss_network_module": "lycoris.kohya" if lycoris else "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank if alpha is None else alpha),
        "ss_num_epochs": "10",
        "ss_steps": "1000",
        "ss_learning_rate": "0.0001",
        "ss_resolution": "(512, 512)",
        "ss_tag_frequency": '{"10_demo": {"ink": 40, "landscape": 25, "paper texture": 12}}',
    } | ({"ss_network_args": f'{{"algo": "{kind}"}}'} if lycoris else {})


def _write(path: Path, tensors: dict[str, tuple[DType, np.ndarray]], metadata: dict[str, str], overwrite: bool) -> None:
    from ..kernels import kernel

    def fill(dtype: DType, values: np.ndarray):
        flat = np.ascontiguousarray(values.reshape(-1), np.float32)
        return lambda start, stop, out: kernel().encode(flat[start:stop], dtype, out)

    outgoing = [Outgoing(name, dtype, values.shape, fill(dtype, values)) for name, (dtype, values) in tensors.items()]
    write_tensors(path, outgoing, metadata, Pass(None, None, None), overwrite=overwrite)
