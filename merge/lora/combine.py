"""Several LoRAs as one, or one at another rank."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...checkpoints.checkpoint import Checkpoint
from ...checkpoints.dtypes import dtype_named
from ...checkpoints.errors import RecipeError
from ...checkpoints.families import family_of
from ...checkpoints.lora import Lora, open_lora
from ...checkpoints.lora.names import usual_channels
from ...checkpoints.lora.own import OwnNames, joined
from ...checkpoints.notices import Notice
from ...checkpoints.opening import open_checkpoint
from ...checkpoints.stream import Pass, Progress, Span
from ..block_weights import BlockWeights, ResolvedWeights
from .changes import Change, changes_of, one_family
from .layers import STYLES, Layer, style_named
from .low_rank import Cut, Factors, error_squares, resized, summed
from .report import LoraReport, Losses
from .uses import LoraUse
from .writing import LoraWriter, file_name, kept_metadata


def merge_loras(
    loras: Sequence[LoraUse],
    output: Path | str,
    *,
    rank: int | None = None,
    energy: float | None = None,
    base: Path | str | None = None,
    dtype: str = "fp16",
    style: str | None = None,
    overwrite: bool = False,
    threads: int = 1,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> LoraReport:
    """Write the sum of LoRAs as one LoRA: its change is the sum of strength times change of each.

    Without a rank or an energy the sum is exact but for the rounding to `dtype`: factors stand side by side and ranks add up
    (where they exceed what the layer has, the SVD makes them as few as that). The strength multiplies each change once.
    LoHa, LoKr and whole differences become factors by the SVD of their change first.

    Args:
        loras: the files and their strengths; those of strength 0 everywhere are left out.
        output: the .safetensors file to write.
        rank, energy: resize the sum, as `resize_lora` does.
        base: the checkpoint that the LoRAs are for; needed where a change follows from the weight itself ((IA)^3, DoRA).
        dtype: of the file.
        style: how tensors are named; None: as in the first LoRA.
        threads: layers that are worked on at a time; the result does not depend on it. numpy's linear algebra uses all cores
            by itself, so that more gain little and hold more in memory.

    Raises:
        UnetscopeError: files that cannot be read or are for different architectures, an output that cannot be written.
    """
    if not loras:
        raise RecipeError("name at least one LoRA to merge")
    cut = Cut(rank, energy) if rank is not None or energy is not None else None
    how = _How(Path(output), cut, dtype, style, overwrite, Pass(threads, progress, cancel))
    with ExitStack() as files:
        checkpoint = files.enter_context(open_checkpoint(base)) if base is not None else None
        opened = _opened(files, loras, checkpoint)
        family = one_family(opened)
        weights = [_resolved(use, family) for use in loras]
        parts = [{"file": file_name(use.path), "weights": use.weights()} for use in loras]
        return _combine(opened, weights, checkpoint, how, {"operation": "merge", "loras": parts}, {})


def resize_lora(
    lora: Path | str,
    output: Path | str,
    *,
    rank: int | None = None,
    energy: float | None = None,
    adapter: str | None = None,
    base: Path | str | None = None,
    dtype: str = "fp16",
    style: str | None = None,
    overwrite: bool = False,
    threads: int = 1,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> LoraReport:
    """Write a LoRA at another rank: the best approximation of each layer's change, by the SVD of its factors.

    A layer whose rank is no larger than `rank` keeps its factors. No layer's change is formed, but for kinds that have no
    factors. What the file says of its training is kept.

    Args:
        lora: the file.
        rank: the largest rank of a layer.
        energy: as few directions as hold this share of the square of each layer's change.
        adapter: PEFT's name of the one that is meant, of a file that holds several.

    Raises:
        UnetscopeError: neither a rank nor an energy, a file that cannot be read, an output that cannot be written.
    """
    if rank is None and energy is None:
        raise RecipeError("give the rank to resize to (--rank 16) or the energy to keep (--energy 0.95)")
    how = _How(Path(output), Cut(rank, energy), dtype, style, overwrite, Pass(threads, progress, cancel))
    with ExitStack() as files:
        checkpoint = files.enter_context(open_checkpoint(base)) if base is not None else None
        (opened,) = _opened(files, [LoraUse(Path(lora), adapter=adapter)], checkpoint)
        weights = [BlockWeights.parse(1.0).resolve(opened.family)]
        opened.check_effect()
        origin = {"operation": "resize", "lora": file_name(opened.path), "rank": rank, "energy": energy}
        return _combine([opened], weights, checkpoint, how, origin, kept_metadata(opened.metadata))


def _resolved(use: LoraUse, family: str) -> ResolvedWeights:
    """A LoRA's block weights for its family."""
    try:
        return BlockWeights.parse(use.weights()).resolve(family)
    except RecipeError as error:
        raise RecipeError(f"block weights of {use.path}: {error}") from None


def _opened(files: ExitStack, loras: Sequence[LoraUse], base: Checkpoint | None) -> list[Lora]:
    """The LoRAs, by the names of the model that they are for, or else by their own, which are joined where no family has them."""
    known = base.family if base is not None and base.family.keeps_names else None
    opened = [files.enter_context(open_lora(use.path, family=known, adapter=use.adapter)) for use in loras]
    for lora in opened if base is not None else ():
        if family_of(lora.family).id != base.family.id:
            raise RecipeError(f"{base.path}: is {base.architecture.name}; {lora.path} is a {lora.architecture.name}")
    records = [lora.family for lora in opened]
    if len(opened) > 1 and all(isinstance(record, OwnNames) for record in records):
        for lora in opened[1:]:
            if not _alike(lora.family, opened[0].family):
                raise RecipeError(
                    f"{lora.path} changes no layer that {opened[0].path} changes: nothing shows that they are for one "
                    "model; give it (--base)"
                )
        same = joined(records)
        return [files.enter_context(open_lora(use.path, family=same, adapter=use.adapter)) for use in loras]
    return opened


def _alike(one: OwnNames, other: OwnNames) -> bool:
    """Whether LoRAs of no known family change a layer in common."""
    return not {key.replace(".", "_") for key in one.layers}.isdisjoint(key.replace(".", "_") for key in other.layers)


@dataclass(frozen=True)
class _How:
    """Where the result goes, and how."""

    output: Path
    cut: Cut | None
    dtype: str
    style: str | None
    overwrite: bool
    run: Pass


def _combine(
    loras: list[Lora], weights: list[ResolvedWeights], base: Checkpoint | None, how: _How, origin: dict, kept: dict
) -> LoraReport:
    began = time.perf_counter()
    family = loras[0].family
    style = style_named(how.style or (loras[0].style if loras[0].style in STYLES else None), family)
    inputs = [lora.path for lora in loras] + ([base.path] if base is not None else [])
    with LoraWriter(how.output, inputs, family, style, dtype_named(how.dtype), overwrite=how.overwrite) as writer:
        work = _Combination(loras, weights, base, how.cut, writer)
        how.run.run(
            (Span(i, 0, layer.elements) for i, (layer, _) in enumerate(work.jobs)),
            lambda: lambda span: work.do(*work.jobs[span.index]),
            weight=lambda span: 4 * span.elements,
            total=sum(4 * layer.elements for layer, _ in work.jobs),
            key=lambda span: work.jobs[span.index][0].key,
        )
        report = LoraReport(str(how.output), family_of(family).id, style, [path.name for path in inputs])
        work.losses.fill(report)
        report.notes = work.notes
        writer.finish(report, {**origin, "error": report.error}, kept)
        report.seconds = time.perf_counter() - began
        return report


def _widest(parts: list[tuple[float, Change]]) -> Layer:
    """The layer as the change of most input channels has it: those of inpainting models know further ones."""
    return max((change.layer for _, change in parts), key=lambda layer: layer.elements)


class _Combination:
    """Adds up the changes of each module, and sets the factors of the sum aside."""

    def __init__(
        self,
        loras: list[Lora],
        weights: list[ResolvedWeights],
        base: Checkpoint | None,
        cut: Cut | None,
        writer: LoraWriter,
    ):
        self._loras, self._base, self._cut, self._writer = loras, base, cut, writer
        self.losses = Losses(family_of(loras[0].family))
        found: dict[tuple[str, bool], list[tuple[float, Change]]] = {}
        self.notes: list[Notice] = []
        for lora, weight in zip(loras, weights, strict=True):
            used = [(strength, c) for c in changes_of(lora) if (strength := weight.weight(c.key))]
            for strength, change in used:
                found.setdefault((change.layer.target.path, change.bias), []).append((strength, change))
            unused = Notice("lora.unused", "its strength is 0 wherever it changes anything: left out")
            said = [*(lora.check_effect() if used else [unused]), *lora.left_out()]
            self.notes += [notice.of(lora.path.name) for notice in said]
        self.jobs = [(_widest(parts), parts) for parts in found.values()]
        if not self.jobs:
            raise RecipeError("all strengths are 0 where the LoRAs change anything; nothing is left to write")
        for layer, parts in self.jobs:
            for _, change in parts:
                usual = usual_channels(change.key, layer.shape, loras[0].family)
                if change.layer.shape not in (layer.shape, usual):
                    other = next(c for _, c in parts if c.layer is layer)
                    raise RecipeError(
                        f"{change.lora.path}: {change.key} has the shape {list(change.layer.shape)}, in {other.lora.path} "
                        f"{list(layer.shape)}; LoRAs of different models cannot be merged"
                    )

    def do(self, layer: Layer, parts: list[tuple[float, Change]]) -> None:
        """A module's weight, or its bias."""
        if not parts[0][1].is_matrix:
            total = sum(strength * change.values(self._base).astype(np.float64) for strength, change in parts)
            written = self._writer.add_vector(layer, parts[0][1].bias, total)
            squares, wrong = (float(np.sum(np.square(x, dtype=np.float64))) for x in (total, total - written))
            self.losses.add(layer.target.path, parts[0][1].key, None, squares, wrong)
            return
        columns = layer.elements // layer.shape[0]
        changes = [(strength, change.low_rank(self._base).widened(columns)) for strength, change in parts]
        whole = changes[0][1] if len(changes) == 1 and changes[0][0] == 1.0 else summed(changes)
        self._refuse_not_finite(layer, whole, parts)
        result = self._resized(layer, whole)
        written = self._writer.add(layer, result)
        self.losses.add(layer.target.path, layer.key, result.rank, whole.squares(), error_squares(whole, written))

    def _resized(self, layer: Layer, change: Factors) -> Factors:
        most = min(layer.shape[0], layer.elements // layer.shape[0])
        cut = self._cut
        if cut is None:
            return change if change.rank <= most else resized(change, Cut(most))
        if cut.energy is None and change.rank <= cut.rank:
            return change
        return resized(change, cut)

    def _refuse_not_finite(self, layer: Layer, whole: Factors, parts: list[tuple[float, Change]]) -> None:
        if not (np.isfinite(whole.up).all() and np.isfinite(whole.down).all()):
            files = ", ".join(str(change.lora.path) for _, change in parts)
            raise RecipeError(f"{files}: the change of {layer.key} holds NaN or infinity; train or download it again")
