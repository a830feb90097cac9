"""What a file is, from its headers alone: no weight is read, so it takes no longer for a file of 7 GB."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..checkpoints.checkpoint import Checkpoint, TensorInfo
from ..checkpoints.encodings.sorting import Stored
from ..checkpoints.families import components_in_order, families_with, family_of, in_order
from ..checkpoints.notices import Notice, texts
from ..checkpoints.opening import open_checkpoint
from ..checkpoints.recognition.architecture import Architecture, missing_keys
from ..checkpoints.tensors import StoredTensor
from .adapter import Adapter, look_at_adapter
from .history import HistoryNode, merge_history
from .needless import TRAINING, needless


@dataclass(frozen=True, slots=True)
class Amount:
    """How much there is of something: tensors, parameters (elements), bytes; and how many tensors of each dtype.

    Of codes the bytes and dtypes are those in the file, and the parameters the numbers that they stand for.
    """

    tensors: int
    parameters: int
    bytes: int
    dtypes: dict[str, int]

    @classmethod
    def of(cls, tensors: Iterable[TensorInfo]) -> Amount:
        """The amount of these tensors."""
        tensors, dtypes = list(tensors), {}
        for tensor in tensors:
            dtypes[tensor.stored.kept_as] = dtypes.get(tensor.stored.kept_as, 0) + 1
        return cls(len(tensors), sum(t.elements for t in tensors), sum(t.stored.kept_bytes for t in tensors), dtypes)


@dataclass(frozen=True, slots=True)
class Truncation:
    """A file that ends too early: how long it should be and is, and how many tensors are whole."""

    promised_bytes: int
    present_bytes: int
    whole_tensors: int
    damaged_tensors: int

    def __str__(self) -> str:
        return (
            f"truncated: {self.present_bytes:,} of {self.promised_bytes:,} bytes are there "
            f"({self.present_bytes / self.promised_bytes:.1%}), {self.damaged_tensors:,} tensors are cut off or missing"
        )


@dataclass(frozen=True, slots=True)
class Listed:
    """A tensor of a file whose blocks are not known: its own name, its dtype in the file, its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint's headers tell.

    Attributes:
        path: the file or folder.
        format: `safetensors`, `ckpt` or `diffusers`.
        size: bytes on disk.
        architecture: family, variant, parts, and one line for people.
        prediction: `epsilon`, `v`, `edm`, `flow`, or None where nothing says; `prediction_from` is what said so.
        noise: of what noise, where that is not the usual schedule.
        total: everything in the file.
        dtypes: dtype -> how much is stored as it, the largest part first.
        components: `unet`, `clip_l`, `vae`, `ema`, `other`... -> how much there is.
        labels: block label -> how much there is, in network order.
        metadata: the header's strings, whole.
        history: what it was merged from, or None.
        missing: component -> keys of the family's layout that the file lacks. Buffers are never missing.
        absent: components that a whole checkpoint of the family has and this one lacks.
        junk: keys that belong to no known component, in a checkpoint or component (in a LoRA all keys are such).
        training: keys of what training left (optimiser states, counters), which nothing else needs; most are junk too.
        ema: a second UNET, averaged over training, or None.
        adapter: a LoRA's kinds, ranks, labels and training; None for anything else.
        stored: how the tensors are stored: a line for each encoding.
        truncation: how much of the file is there, when it ends too early.
        notes: what was noticed on opening, in sentences.
        about: block label -> a few words on what it is.
        tensors: every tensor of a file that is neither a model nor a LoRA or ControlNet: an embedding, an IP-Adapter...
    """

    path: Path
    format: str
    size: int
    architecture: Architecture
    prediction: str | None
    prediction_from: str
    total: Amount
    dtypes: dict[str, Amount]
    components: dict[str, Amount]
    labels: dict[str, Amount]
    metadata: dict[str, str]
    history: HistoryNode | None = None
    missing: dict[str, tuple[str, ...]] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    junk: tuple[str, ...] = ()
    training: tuple[str, ...] = ()
    ema: Amount | None = None
    adapter: Adapter | None = None
    stored: tuple[Stored, ...] = ()
    truncation: Truncation | None = None
    notes: tuple[Notice, ...] = ()
    about: dict[str, str] = field(default_factory=dict)
    tensors: tuple[Listed, ...] = ()
    noise: str = ""

    @property
    def predicts(self) -> str:
        """What it predicts, of what noise, and what says so: `v, zero terminal SNR (keys v_pred, ztsnr)`; empty for nothing."""
        told = ", ".join(filter(None, (self.prediction, self.noise)))
        return f"{told} ({self.prediction_from})" if told else ""

    def to_plain(self) -> dict[str, Any]:
        """The same as dictionaries, lists, strings and numbers, ready for JSON; nothing is shortened."""
        architecture = asdict(self.architecture) | {
            "prediction": self.prediction,
            "prediction_from": self.prediction_from,
            "noise": self.noise,
        }
        return {
            "path": str(self.path),
            "format": self.format,
            "size": self.size,
            "architecture": architecture,
            "total": asdict(self.total),
            "dtypes": {name: asdict(amount) for name, amount in self.dtypes.items()},
            "components": {name: asdict(amount) for name, amount in self.components.items()},
            "labels": [
                {"label": label, "description": self.about.get(label, ""), **asdict(amount)}
                for label, amount in self.labels.items()
            ],
            "metadata": self.metadata,
            "history": self.history.to_plain() if self.history else None,
            "missing": {component: list(keys) for component, keys in self.missing.items()},
            "absent": list(self.absent),
            "junk": list(self.junk),
            "training": list(self.training),
            "ema": asdict(self.ema) if self.ema else None,
            "adapter": self.adapter.to_plain() if self.adapter else None,
            "stored": [part.to_plain() for part in self.stored],
            "truncation": asdict(self.truncation) if self.truncation else None,
            "notes": texts(self.notes),
            "tensors": [asdict(tensor) for tensor in self.tensors],
        }


def inspect(path: Path | str) -> Inspection:
    """Look at a file or folder. A .safetensors file that was truncated is looked at as well, and said to be.

    Raises:
        CheckpointError: there is nothing there, or it cannot be read as a checkpoint.

    Example:
        >>> found = inspect("c.safetensors")
        >>> found.architecture.name
        'a model of no known family, blocks LAYERS00 to LAYERS02 (3)'
        >>> found.total.parameters, list(found.dtypes)
        (48, ['F32'])
    """
    with open_checkpoint(path, to_look=True) as checkpoint:
        return inspect_checkpoint(checkpoint)


def inspect_checkpoint(checkpoint: Checkpoint) -> Inspection:
    """Look at a checkpoint that is open already."""
    tensors = list(checkpoint.tensors.values())
    architecture = checkpoint.architecture
    components = _grouped(tensors, lambda t: t.component)
    labels = _grouped(tensors, lambda t: t.label)
    dtypes = _grouped(tensors, lambda t: t.stored.kept_as)
    of_a_model = architecture.what in ("checkpoint", "component")
    adapter = _adapter(checkpoint)
    if adapter and len(adapter.families) > 1:
        titles = " or ".join(family_of(family).title for family in adapter.families)
        architecture = replace(architecture, family=None, name=f"{architecture.kind} for {titles}")
    return Inspection(
        path=checkpoint.path,
        format=checkpoint.format,
        size=checkpoint.size,
        architecture=architecture,
        prediction=checkpoint.prediction,
        prediction_from=checkpoint.prediction_from,
        noise=checkpoint.noise,
        total=Amount.of(tensors),
        dtypes=dict(sorted(dtypes.items(), key=lambda item: -item[1].bytes)),
        components={name: components[name] for name in components_in_order(components)},
        labels={label: labels[label] for label in in_order(labels)},
        metadata=dict(checkpoint.metadata),
        history=merge_history(checkpoint.metadata, checkpoint.path.name),
        missing=missing_weights(checkpoint) if of_a_model else {},
        absent=absent_components(checkpoint),
        junk=tuple(t.key for t in tensors if t.component == "other") if of_a_model else (),
        training=tuple(needless(checkpoint, by_name=True).get(TRAINING, ())) if of_a_model else (),
        ema=components.get("ema"),
        adapter=adapter,
        stored=checkpoint.stored,
        truncation=_truncation(checkpoint),
        notes=tuple(checkpoint.notes),
        about={label: checkpoint.family.describe(label) for label in labels},
        tensors=tuple(Listed(t.stored.name, t.stored.kept_as, t.shape) for t in tensors)
        if architecture.what == "other"
        else (),
    )


def missing_weights(checkpoint: Checkpoint, keys: Collection[str] | None = None) -> dict[str, tuple[str, ...]]:
    """Component -> keys that its layout has and the checkpoint (or `keys` of it) lacks, of the components that are there."""
    found = {}
    for component in checkpoint.architecture.parts:
        # A part of no certain family is the same in all that have it.
        told = checkpoint.architecture.family is not None
        family = checkpoint.family if told else next(iter(families_with(component)), None)
        if family and (missing := missing_keys(family, checkpoint.tensors if keys is None else keys, component)):
            found[component] = missing
    return found


def absent_components(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Components that a whole checkpoint of its family has and this one lacks; of a lone component none."""
    architecture = checkpoint.architecture
    if architecture.what != "checkpoint" or architecture.family is None:
        return ()
    held = {*architecture.parts, *((checkpoint.family.core,) if architecture.ema_only else ())}
    return tuple(component for component in checkpoint.family.component_ids if component not in held)


def _grouped(tensors: list[TensorInfo], group) -> dict[str, Amount]:
    groups: dict[str, list[TensorInfo]] = {}
    for tensor in tensors:
        groups.setdefault(group(tensor), []).append(tensor)
    return {name: Amount.of(members) for name, members in groups.items()}


def _adapter(checkpoint: Checkpoint) -> Adapter | None:
    if checkpoint.architecture.what != "lora":
        return None
    return look_at_adapter(checkpoint.path, checkpoint.metadata)


def _truncation(checkpoint: Checkpoint) -> Truncation | None:
    """How much of a single file is there, when its tensors reach past its end."""
    if checkpoint.format != "safetensors":
        return None
    ends = [_end(t.stored) for t in checkpoint.tensors.values()]
    promised, damaged = max(ends, default=0), sum(end > checkpoint.size for end in ends)
    return Truncation(promised, checkpoint.size, len(ends) - damaged, damaged) if damaged else None


def _end(stored: StoredTensor) -> int:
    """The last byte in the file that a tensor needs."""
    plain = [p.offset + stored.dtype.nbytes(p.span) for p in stored.pieces if p.decoded_by is None]
    coded = [p.decoded_by[1] for p in stored.pieces if p.decoded_by]
    return max([*plain, *(_end(t) for one in coded for t in (one.codes, *one.sides.values()))], default=0)
