"""A LoRA from two checkpoints: the SVD of their difference, layer by layer."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from ...checkpoints.checkpoint import Checkpoint, TensorInfo
from ...checkpoints.dtypes import dtype_named
from ...checkpoints.errors import RecipeError
from ...checkpoints.families import Family
from ...checkpoints.lora.names import has_own_names
from ...checkpoints.notices import Notice
from ...checkpoints.opening import open_checkpoint
from ...checkpoints.stream import Pass, Progress, Span
from ...checkpoints.text import counted
from ..block_weights import BlockWeights
from ..compatibility import has_denoiser
from .layers import Layer, layers_of, style_named
from .low_rank import Cut, decomposed
from .report import LoraReport, Losses
from .writing import LoraWriter, file_name

# The rank where neither a rank nor an energy is asked for: what most LoRAs that people share have.
RANK = 32


@dataclass(frozen=True)
class RankChoice:
    """The rank of each layer.

    Attributes:
        cut: what holds where nothing else is said.
        conv_rank: for convolutions larger than 1x1; None: as the others.
        lines: ranks by block, layer kind or key; 0 leaves a layer out. None: the same everywhere.
    """

    cut: Cut
    conv_rank: int | None = None
    lines: Any = None

    def __post_init__(self):
        if self.conv_rank is not None:
            Cut(self.conv_rank)  # raises where it is not a rank

    def resolved(self, family: Family) -> _Resolved:
        if self.lines is None:
            return _Resolved(self, None)
        plain = self.lines
        if isinstance(plain, dict) and "default" not in plain:
            plain = {"default": self.cut.rank or RANK, **plain}
        return _Resolved(self, BlockWeights.parse(plain).resolve(family))


@dataclass(frozen=True)
class _Resolved:
    ranks: RankChoice
    weights: Any

    def cut(self, layer: Layer) -> Cut | None:
        """What to keep of a layer; None leaves it out."""
        cut, rank = self.ranks.cut, None
        if self.weights is not None:
            wanted = self.weights.weight(layer.key)
            if wanted != int(wanted) or wanted < 0:
                raise RecipeError(f"ranks are whole numbers, 0 to leave a layer out; {layer.key} has {wanted:g}")
            if wanted == 0:
                return None
            rank = int(wanted)
        elif layer.kernel > 1 and self.ranks.conv_rank is not None:
            rank = self.ranks.conv_rank
        return cut if rank is None else Cut(rank, cut.energy)


def extract_lora(
    tuned: Path | str,
    base: Path | str,
    output: Path | str,
    *,
    rank: int | None = None,
    energy: float | None = None,
    ranks: Any = None,
    conv: bool = False,
    conv_rank: int | None = None,
    text_encoders: bool = True,
    dtype: str = "fp16",
    style: str | None = None,
    overwrite: bool = False,
    threads: int = 1,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> LoraReport:
    """Write what turned `base` into `tuned` as a LoRA: base + LoRA is tuned, as near as the ranks allow.

    Every layer's difference is approximated by the directions that hold most of it (Eckart and Young 1936); how far that
    goes is reported by label. One layer a thread is in memory at a time. Nothing is clamped.

    Args:
        tuned, base: checkpoints of one architecture.
        output: the .safetensors file to write.
        rank: directions for each layer; 32 unless an energy or ranks are given.
        energy: as few directions as hold this share of the difference's square, at most `rank` if that is given too.
        ranks: ranks by block, as block weights are written (`{"IN*": 16, "OUT*": 64}`); 0 leaves layers out. What no line
            names has `rank`.
        conv: all linear layers and convolutions of the UNET, as a LoCon; without it those of the transformers, as a LoRA.
        conv_rank: for convolutions larger than 1x1.
        text_encoders: whether they are part of it.
        dtype: of the file.
        style: how tensors are named; None: as trainers do for this architecture.
        threads: layers that are worked on at a time; the result does not depend on it. numpy's linear algebra uses all cores
            by itself, so that more gain little and hold more in memory.

    Raises:
        UnetscopeError: files that cannot be read, are of different architectures or the same, options that contradict
            each other, an output that cannot be written.

    Example:
        >>> report = extract_lora("b.safetensors", "a.safetensors", "lora.safetensors", rank=1)
        >>> report.modules, round(report.energy, 6)  # the same number everywhere is of rank 1
        (3, 1.0)
    """
    began = time.perf_counter()
    if conv_rank is not None and not conv:
        raise RecipeError("a rank for convolutions is of use only where they are part of the LoRA; add --conv")
    chosen = RankChoice(Cut(rank if rank is not None or energy is not None else RANK, energy), conv_rank, ranks)
    with ExitStack() as files:
        one, other = (files.enter_context(open_checkpoint(path)) for path in (tuned, base))
        family = _family(one, other)
        style = style_named(style, family)
        writer = files.enter_context(
            LoraWriter(Path(output), [one.path, other.path], family, style, dtype_named(dtype), overwrite=overwrite)
        )
        work = _Extraction(one, other, chosen.resolved(family), writer, conv, text_encoders)
        work.run(Pass(threads, progress, cancel))
        if not work.losses.count:
            raise RecipeError(
                f"{tuned} and {base} are equal in every layer that this LoRA could change; there is nothing to extract"
            )
        report = LoraReport(str(output), family.id, style, [one.path.name, other.path.name])
        work.describe(report)
        origin = {
            "operation": "extract",
            "tuned": file_name(one.path),
            "base": file_name(other.path),
            "error": report.error,
        }
        writer.finish(report, origin)
        report.seconds = time.perf_counter() - began
        return report


def _family(tuned: Checkpoint, base: Checkpoint) -> Family:
    """The record that both are read by: the base's."""
    families = [c.architecture.family for c in (tuned, base)]
    for checkpoint, family in zip((tuned, base), families, strict=True):
        if family is None or not has_denoiser(checkpoint):
            raise RecipeError(
                f"{checkpoint.path}: is {checkpoint.architecture.name}; a LoRA is extracted from two checkpoints with a UNET"
            )
    if families[0] != families[1]:
        raise RecipeError(
            f"{tuned.path} is {tuned.architecture.name} and {base.path} is {base.architecture.name}; a LoRA is the "
            "difference of two checkpoints of one architecture"
        )
    if base.family.keeps_names and (strange := tuned.tensors.keys() ^ base.tensors.keys()):
        raise RecipeError(
            f"{tuned.path} and {base.path} differ by {counted(len(strange), 'tensor')} that one of them lacks "
            f"({min(strange)}, ...), and no layout says which are right; a LoRA is the difference of two checkpoints of one model"
        )
    return base.family


@dataclass(frozen=True)
class _Task:
    """A layer to work on."""

    key: str
    elements: int
    do: Callable[[], None]


class _Extraction:
    """Decomposes the difference of each layer that the LoRA can change, and measures that of all others."""

    def __init__(
        self, tuned: Checkpoint, base: Checkpoint, ranks: _Resolved, writer: LoraWriter, conv: bool, text_encoders: bool
    ):
        self._tuned, self._base, self._ranks, self._writer = tuned, base, ranks, writer
        self.losses = Losses(base.family)
        self._left_out: dict[str, list[str]] = defaultdict(list)
        self._outside: dict[str, float] = {}
        self.tasks: list[_Task] = []
        family = base.family
        others = {layer.target.path: layer for layer in layers_of(tuned, family)}
        covered = set()
        for layer in layers_of(base, family):
            if (layer.in_transformer or conv) and (not base[layer.key].place.text or text_encoders):
                covered.add(layer.key)
                self._take(layer, others.get(layer.target.path))
        for key, info in base.tensors.items():
            if key not in covered and (info.place.core or info.place.text) and info.dtype.is_float:
                self._measure(key)

    def _take(self, layer: Layer, other: Layer | None) -> None:
        cut = self._ranks.cut(layer)
        if other is None:
            self._left_out["not in the tuned checkpoint"].append(layer.key)
        elif other.shape != layer.shape:
            self._left_out["of another shape in the tuned checkpoint"].append(layer.key)
        elif cut is None:
            self._left_out["rank 0"].append(layer.key)
            self._measure(layer.key)
        else:
            self.tasks.append(_Task(layer.key, layer.elements, lambda: self._extract(layer, cut)))

    def _extract(self, layer: Layer, cut: Cut) -> None:
        change = layer.read(self._tuned)
        change -= layer.read(self._base)
        squares = _squares(change)
        if not np.isfinite(squares):
            self._refuse(layer)
        if squares == 0:
            self._left_out["equal in both"].append(layer.key)
            return
        factors = decomposed(change, cut, crc32(layer.target.path.encode()))
        change -= self._writer.add(layer, factors).matrix()
        self.losses.add(layer.target.path, layer.key, factors.rank, squares, _squares(change))

    def _refuse(self, layer: Layer) -> None:
        for checkpoint in (self._tuned, self._base):
            if not np.isfinite(layer.read(checkpoint)).all():
                raise RecipeError(
                    f"{checkpoint.path}: {layer.key} holds NaN or infinity; no LoRA can be extracted from it"
                )
        raise RecipeError(f"{layer.key}: the difference is too large for fp32; no LoRA can be extracted from it")

    def _measure(self, key: str) -> None:
        """Note how much a layer that the LoRA does not change differs."""
        if key in self._tuned and self._tuned[key].shape == self._base[key].shape:
            self.tasks.append(_Task(key, self._base[key].elements, lambda: self._note(key)))

    def _note(self, key: str) -> None:
        self._outside[key] = _squares(self._tuned.numpy(key) - self._base.numpy(key))

    def run(self, run: Pass) -> None:
        """Work on all layers, one a thread."""
        run.run(
            (Span(i, 0, task.elements) for i, task in enumerate(self.tasks)),
            lambda: lambda span: self.tasks[span.index].do(),
            weight=lambda span: 4 * span.elements,
            total=sum(4 * task.elements for task in self.tasks),
            key=lambda span: self.tasks[span.index].key,
        )

    def describe(self, report: LoraReport) -> None:
        """Put errors, and what the LoRA does not hold, into a report."""
        self.losses.fill(report)
        report.left_out = {reason: sorted(set(keys)) for reason, keys in self._left_out.items()}
        outside = sum(x for _, x in sorted(self._outside.items()) if np.isfinite(x))
        if outside:
            inside = sum(row.norm**2 for row in report.labels)
            core = self._base.family.core_title
            kinds = [
                name.format(core=core)
                for name, is_one in _OUTSIDE
                if any(x and is_one(self._base[key]) for key, x in self._outside.items())
            ]
            text = (
                f"{outside / (inside + outside):.2%} of the difference's square is where this LoRA changes nothing: "
                f"{', '.join(kinds)}"
            )
            report.notes.append(Notice("lora.outside", text, tuple(kinds)))


def _squares(change: np.ndarray) -> float:
    flat = change.reshape(-1)
    return float(np.einsum("i,i->", flat, flat, dtype=np.float64))


def _is_text(info: TensorInfo) -> bool:
    return info.place.text


def _is_vector(info: TensorInfo) -> bool:
    return info.key.endswith("bias") or info.kind == "norm"


# What a LoRA may leave out, in words.
_OUTSIDE: tuple[tuple[str, Callable[[TensorInfo], bool]], ...] = (
    ("norms and biases of the {core}", lambda info: not _is_text(info) and _is_vector(info)),
    (
        "layers of the {core} (convolutions and embeddings: --conv)",
        lambda info: not _is_text(info) and not _is_vector(info) and not has_own_names(info.family),
    ),
    (
        "other tensors of the {core}, no linear layers or convolutions",
        lambda info: not _is_text(info) and not _is_vector(info) and has_own_names(info.family),
    ),
    ("norms and biases of text encoders", lambda info: _is_text(info) and _is_vector(info)),
    ("embeddings or layers of text encoders", lambda info: _is_text(info) and not _is_vector(info)),
)
