"""Conversion: any format to one .safetensors file or a diffusers folder; dtype, pruning and repairs on the way."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from ..checkpoints.checkpoint import Checkpoint, TensorInfo
from ..checkpoints.diffusers_output import FolderPlan
from ..checkpoints.dtypes import I64, DType, dtype_named
from ..checkpoints.errors import CheckpointError, OutputError, nearest
from ..checkpoints.families import Family
from ..checkpoints.families.parts.position_ids import can_be_counted, is_position_ids
from ..checkpoints.families.parts.schedule import CONTINUOUS, is_marker
from ..checkpoints.files.folder import OutputFolder
from ..checkpoints.files.targets import check_target, refuse_holders, refuse_inputs
from ..checkpoints.formats import FORMATS, is_model_name, written_as
from ..checkpoints.hashes import OWN_DIGESTS
from ..checkpoints.notices import Notice, texts
from ..checkpoints.opening import open_checkpoint
from ..checkpoints.stream import Pass, Progress
from ..checkpoints.tensors import StoredTensor
from ..checkpoints.text import counted, listed, some
from ..checkpoints.transfer import Converter, Outgoing, copied, counting, write_tensors
from ..library.fingerprint import short_name
from ..library.inspection import missing_weights
from ..library.needless import needless

To = Literal["single-file", "diffusers"]

_SHOWN = 6


@dataclass
class ConvertReport:
    """What a conversion did.

    Attributes:
        source: what was read.
        target: the file or folder that was written.
        to: `single-file` or `diffusers`.
        architecture: what the source is, in one line.
        tensors: how many were written.
        size: bytes of the files with weights.
        dtypes: `F32 -> F16` -> how many tensors; `F16` for those that kept theirs.
        dropped: reason -> keys that were left out.
        kept: of a pruned file, keys of no known component, which stay.
        filled: keys that came from the donor.
        notes: what else to know, in sentences.
        seconds: how long it took.
    """

    source: Path
    target: Path
    to: To
    architecture: str
    tensors: int = 0
    size: int = 0
    dtypes: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    filled: list[str] = field(default_factory=list)
    notes: list[Notice] = field(default_factory=list)
    seconds: float = 0.0

    def to_plain(self) -> dict[str, Any]:
        """The same as dictionaries and lists, ready for JSON."""
        return {**vars(self), "source": str(self.source), "target": str(self.target), "notes": texts(self.notes)}


def convert(
    source: Path | str,
    target: Path | str,
    *,
    dtype: str | None = None,
    prune: bool = False,
    drop: Sequence[str] = (),
    fix_position_ids: bool = False,
    to: To = "single-file",
    donor: Path | str | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> ConvertReport:
    """Write a checkpoint anew. The output appears complete or not at all; the source is only read.

    Values stay as they are unless a dtype is given; then they are rounded once, to nearest. NaN and infinite weights stay
    so. The schedule, markers, `position_ids` and scalars keep their dtype. Tokenizers are not part of a checkpoint: copy their
    folders next to a diffusers folder from another one. The metadata is kept, but for digests that would be wrong.

    Args:
        source: a .safetensors file, a .ckpt or a diffusers folder.
        target: a .safetensors file, or the folder to make.
        dtype: `fp16`, `bf16`, `fp32`, `fp8_e4m3`...; None keeps every tensor's own.
        prune: leave out what is known to be needless: the EMA copy, where it is a copy, what training left (optimiser states,
            counters), and second copies of components. Markers stay, and so does what is not known, which the report lists.
        drop: tensors to leave out by name: a whole one, what it begins with (`embedder.`), or a glob.
        fix_position_ids: write the text encoders' `position_ids` as the integers 0..76, whatever they were.
        to: `single-file` (keys in single-file naming) or `diffusers`.
        donor: a checkpoint of the same architecture. Keys of the layout that the source lacks, of the components that it
            has, are copied from it: a diffusers folder has no noise schedule, for instance, and SD2's no last text layer.
        overwrite: replace what is there.
        threads: None for as many as there are cores.
        progress: called with (bytes done, bytes in all, name).
        cancel: set it to stop; nothing is left behind.

    Raises:
        CheckpointError: the source or the donor cannot be read or does not fit; values are too large for the dtype.
        OutputError: the target cannot be written.
        Cancelled: `cancel` was set.
    """
    began = time.perf_counter()
    with ExitStack() as files:
        checkpoint = files.enter_context(open_checkpoint(source))
        helper = files.enter_context(open_checkpoint(donor)) if donor is not None else None
        target = Path(target)
        _check_target(target, checkpoint, helper, to, overwrite)
        conversion = _Conversion(checkpoint, target, to, dtype_named(dtype) if dtype else None, fix_position_ids)
        tensors = conversion.chosen(prune, drop, helper)
        how = _How(threads, progress, cancel, overwrite)
        if to == "diffusers":
            conversion.write_folder(FORMATS[to].write(checkpoint, tensors), how)
        else:
            conversion.write_file(tensors, how)
        conversion.report.seconds = time.perf_counter() - began
        return conversion.report


@dataclass(frozen=True, slots=True)
class _How:
    """How to run, whatever is converted."""

    threads: int | None
    progress: Progress | None
    cancel: threading.Event | None
    overwrite: bool

    def run(self, done: int, total: int) -> Pass:
        """A pass for one of several files, `done` bytes of `total` being written before it."""
        show = self.progress
        moved = (lambda now, _, name: show(done + now, total, name)) if show else None
        return Pass(self.threads, moved, self.cancel)


def _renamed(info: TensorInfo, family: Family) -> StoredTensor:
    """A donor's tensor under the name that the file's own tensors have."""
    return replace(info.stored, name=family.file_name(info.key)) if family.keeps_names else info.stored


class _Conversion:
    """One conversion, and the report on it that grows."""

    def __init__(self, checkpoint: Checkpoint, target: Path, to: To, dtype: DType | None, fix_position_ids: bool):
        if dtype is not None and not dtype.is_float:
            raise CheckpointError(f"weights cannot be stored as {dtype}; use fp32, fp16, bf16 or fp8_e4m3")
        self._checkpoint, self._target = checkpoint, target
        self._dtype, self._fix = dtype, fix_position_ids
        self._converter = Converter(dtype) if dtype else None
        notes = [note.of(checkpoint.path.name) for note in checkpoint.notes]
        self.report = ConvertReport(checkpoint.path, target, to, checkpoint.architecture.name, notes=notes)
        self._dtypes: Counter[str] = Counter()

    def chosen(self, prune: bool, drop: Sequence[str], donor: Checkpoint | None) -> dict[str, StoredTensor]:
        """The tensors to write, by key."""
        architecture = self._checkpoint.architecture
        tensors = {key: info.stored for key, info in self._checkpoint.tensors.items()}
        if donor is not None:
            tensors |= self._from_donor(donor)
        if drop:
            self._drop(tensors, drop)
        if prune:  # behind what is left out by name, which is then not said to be kept
            self._prune(tensors)
        if (drop or prune) and not tensors:
            raise CheckpointError(f"{self._checkpoint.path}: nothing would be left of it", code="convert.nothing_left")
        if architecture.what in ("checkpoint", "component"):
            self._count_missing(tensors)
        return tensors

    def _prune(self, tensors: dict[str, StoredTensor]) -> None:
        """Leave out what is known to be needless, and list what is not known."""
        architecture, family = self._checkpoint.architecture, self._checkpoint.family
        if architecture.what not in ("checkpoint", "component"):
            raise CheckpointError(
                f"{self._checkpoint.path}: is {architecture.name}; pruning would leave nothing of it. Convert it without pruning"
            )
        for reason, keys in needless(self._checkpoint).items():
            gone = [key for key in keys if key in tensors]
            if gone:
                self.report.dropped[reason] = gone
            for key in gone:
                del tensors[key]
        if unknown := [key for key in tensors if family.block_of(key).component == "other"]:
            self.report.kept = unknown
            text = (
                f"{counted(len(unknown), 'tensor')} of no known component: kept ({some(unknown)}); --drop NAME leaves out what "
                "you know to be needless"
            )
            self.report.notes.append(Notice("convert.kept", text, tuple(unknown)))

    def _drop(self, tensors: dict[str, StoredTensor], patterns: Sequence[str]) -> None:
        """Leave out tensors by name: a whole one, what it begins with, or a glob, of a key or of the file's own name."""
        left_out: dict[str, None] = {}
        for pattern in patterns:
            keys = [
                key for key, stored in tensors.items() if _is_named(pattern, key) or _is_named(pattern, stored.name)
            ]
            if not keys:
                raise CheckpointError(
                    f"{self._checkpoint.path}: has no tensor that is called or begins with {pattern!r}{nearest(pattern, tensors)}"
                )
            left_out |= dict.fromkeys(keys)
        self.report.dropped["by name"] = list(left_out)
        for key in left_out:
            del tensors[key]

    def _count_missing(self, tensors: dict[str, StoredTensor]) -> None:
        """Say what is not there of the layout: a conversion mends nothing."""
        for component, keys in missing_weights(self._checkpoint, tensors).items():
            if needed := [key for key in keys if short_name(key, self._checkpoint.family) is not None]:
                text = f"{component} lacks {counted(len(needed), 'tensor')} of its layout ({some(needed)})"
                self.report.notes.append(Notice("convert.lacking", text, (component, *needed)))

    def _from_donor(self, donor: Checkpoint) -> dict[str, StoredTensor]:
        mine, family = self._checkpoint, donor.told_family
        strange = mine.tensors.keys() - donor.tensors.keys() if mine.family.keeps_names else ()
        if family is None or family.id != mine.architecture.family or strange:
            raise CheckpointError(
                f"{donor.path}: is {donor.architecture.name} and no donor for {mine.architecture.name}"
            )
        here = set(mine.architecture.parts) | (
            {"schedule", "ema"} if mine.family.core in mine.architecture.parts else set()
        )
        for key in mine.tensors:
            if key in donor and donor[key].shape != mine[key].shape and donor[key].component in here:
                raise CheckpointError(
                    f"{donor.path}: is not a donor for {mine.path}: {key} has the shape {list(donor[key].shape)} in it, "
                    f"and {list(mine[key].shape)} there"
                )
        filled = {
            key: _renamed(donor[key], mine.family)
            for key in family.layout()
            if key not in mine and key in donor and donor[key].component in here
        }
        self.report.filled = list(filled)
        return filled

    def write_file(self, tensors: dict[str, StoredTensor], how: _How) -> None:
        """Write one .safetensors file."""
        if self._checkpoint.family.keeps_names:
            tensors = {stored.name: stored for stored in tensors.values()}
        if self._checkpoint.noise == CONTINUOUS and not any(map(is_marker, tensors)):
            why = self._checkpoint.prediction_from
            text = f"it was trained on {CONTINUOUS} ({why}), which nothing in a single file of it says"
            self.report.notes.append(Notice("convert.noise_unmarked", text, (CONTINUOUS,)))
        outgoing = self._outgoing(tensors, "")
        size = sum(t.nbytes for t in outgoing)
        self._write(self._target, outgoing, _metadata(self._checkpoint), how.run(0, size), how.overwrite)
        self._finish()

    def write_folder(self, plan: FolderPlan, how: _How) -> None:
        """Write a diffusers folder."""
        if plan.unplaced:
            self.report.dropped["no place in the diffusers layout"] = list(plan.unplaced)
        self.report.notes += plan.notes
        files = {path: self._outgoing(named, path.split("/")[0]) for path, named in plan.files.items()}
        sizes = {path: sum(t.nbytes for t in outgoing) for path, outgoing in files.items()}
        done, total = 0, sum(sizes.values())
        with OutputFolder(self._target, total, overwrite=how.overwrite) as out:
            plan.write_configs(out.partial)
            for path, outgoing in files.items():
                metadata = _metadata(self._checkpoint) if path.startswith("unet/") else {"format": "pt"}
                self._write(out.partial / path, outgoing, metadata, how.run(done, total), False)
                done += sizes[path]
            out.commit()
        self._finish()

    def _write(self, path: Path, tensors: list[Outgoing], metadata: dict[str, str], run: Pass, overwrite: bool) -> None:
        self.report.size += write_tensors(
            path, tensors, metadata, run, overwrite=overwrite, check=self._refuse_overflow
        )
        self.report.tensors += len(tensors)

    def _outgoing(self, tensors: Mapping[str, StoredTensor], component: str) -> list[Outgoing]:
        """Tensors as they are written; `component` where the names are diffusers'."""
        return [self._one(name, stored, component) for name, stored in tensors.items()]

    def _one(self, name: str, stored: StoredTensor, component: str) -> Outgoing:
        # A stored tensor knows its file, so one checkpoint reads the donor's tensors as well.
        info = TensorInfo(f"{component}: {name}" if component else name, stored, self._checkpoint.family)
        positions = name.endswith("embeddings.position_ids") if component else is_position_ids(name)
        if positions and self._fix and can_be_counted(stored.shape):
            self._dtypes[_change(stored.dtype, I64)] += 1
            return Outgoing(name, I64, stored.shape, counting(stored.shape))
        keeps = not stored.dtype.is_float or positions or not stored.shape
        keeps = keeps or info.component in ("schedule", "marker")
        if self._dtype is None or keeps or stored.dtype == self._dtype:
            self._dtypes[stored.dtype.name] += 1
            return Outgoing(name, stored.dtype, stored.shape, copied(self._checkpoint, info))
        self._dtypes[_change(stored.dtype, self._dtype)] += 1
        return Outgoing(name, self._dtype, stored.shape, self._converter.converted(self._checkpoint, info))

    def _refuse_overflow(self) -> None:
        if self._converter and self._converter.overflows:
            raise CheckpointError(
                f"{self._checkpoint.path}: values too large for {self._dtype}: {_listed(self._converter.overflows)}. "
                "Nothing was written; choose a wider dtype (bf16, fp32)",
                code="convert.too_large",
            )

    def _finish(self) -> None:
        self.report.dtypes = dict(self._dtypes)
        if self._converter and self._converter.not_finite:
            found = self._converter.not_finite
            text = f"NaN or infinite values were there before and still are: {_listed(found)}"
            self.report.notes.append(Notice("convert.not_finite", text, tuple(found)))


def _check_target(target: Path, source: Checkpoint, donor: Checkpoint | None, to: To, overwrite: bool) -> None:
    """Refuse a target that is, or holds, what is read, or whose name says something else than what is written."""
    if to not in ("single-file", "diffusers"):
        raise OutputError(f"there is no layout {to!r}; use single-file or diffusers")
    inputs = [checkpoint.path for checkpoint in (source, donor) if checkpoint is not None]
    refuse_inputs(target, inputs)
    if to == "diffusers":
        if is_model_name(target.name):
            raise OutputError(
                f"{target}: is the name of a file, and a diffusers folder is to be written; name a folder"
            )
        refuse_holders(target, inputs)
        return
    written_as(target)  # else refused
    check_target(target, 0, overwrite)


def _metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """The metadata for the output: a folder's is its UNET's, where a conversion to a folder puts it."""
    found = checkpoint.metadata
    if checkpoint.format == "diffusers":
        found = {key.removeprefix("unet."): text for key, text in found.items() if key.startswith("unet.")}
        if checkpoint.prediction in ("v", "flow"):
            # The folder says so in its scheduler, which a single file does not have.
            found["modelspec.prediction_type"] = checkpoint.prediction
    return {"format": "pt"} | {key: text for key, text in found.items() if key not in OWN_DIGESTS}


def _is_named(pattern: str, name: str) -> bool:
    return fnmatchcase(name, pattern) if any(c in pattern for c in "*?[") else name.startswith(pattern)


def _change(before: DType, after: DType) -> str:
    return before.name if before == after else f"{before} -> {after}"


def _listed(found: Counter[str]) -> str:
    return listed([f"{key} ({count:,} values)" for key, count in sorted(found.items())], _SHOWN, "tensor")
