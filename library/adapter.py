"""What a LoRA (or a relative of it) tells by its header: what it changes, how, at what rank, and how it was trained."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.errors import CheckpointError
from ..checkpoints.families import FAMILIES, Family, family_of, in_order
from ..checkpoints.recognition.architecture import known_id

if TYPE_CHECKING:
    from ..checkpoints.lora.module import LoraModule
    from ..checkpoints.lora.opening import Lora

# What trainers say in the metadata, by the word that stands for it in a report.
_SAID = {
    "base": ("ss_base_model_version", "modelspec.architecture"),
    "trained on": ("ss_sd_model_name",),
    "network": ("ss_network_module",),
    "arguments": ("ss_network_args",),
    "rank": ("ss_network_dim",),
    "alpha": ("ss_network_alpha",),
    "epochs": ("ss_num_epochs", "ss_epoch"),
    "steps": ("ss_max_train_steps", "ss_steps"),
    "images": ("ss_num_train_images",),
    "resolution": ("ss_resolution",),
    "learning rate": ("ss_learning_rate",),
    "unet learning rate": ("ss_unet_lr",),
    "text encoder learning rate": ("ss_text_encoder_lr",),
    "optimizer": ("ss_optimizer",),
}
_TOP_TAGS = 20


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA at a glance.

    Attributes:
        modules: part (`unet`, `text encoder`, `text encoder 2`) -> how many of its layers are changed.
        ranks: rank -> how many layers have it.
        said: what its metadata says about itself and its training.
        style: how its names are written (`kohya`, `peft`...); empty when it could not be read as a LoRA.
        family: whose weights it changes, or None.
        kinds: `lora`, `loha`... -> how many layers.
        alphas: alpha -> how many layers; layers without one are not counted.
        labels: block label -> how many layers, in network order.
        needs_base: whether its changes follow from the weights that they change.
        tags: the tags that it was trained on and how often, the most frequent first.
        unknown: names that no layer of the family has.
        problem: why it cannot be used, in a sentence; empty when it can.
        families: those that it fits alike, the likeliest first: a text encoder alone may be several families'.
    """

    modules: dict[str, int]
    ranks: dict[int, int]
    said: dict[str, str]
    style: str = ""
    family: str | None = None
    kinds: dict[str, int] = field(default_factory=dict)
    alphas: dict[float, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    needs_base: bool = False
    tags: dict[str, int] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    problem: str = ""
    families: tuple[str, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        """The same as dictionaries, ready for JSON."""
        return asdict(self) | {
            "ranks": {str(rank): count for rank, count in self.ranks.items()},
            "alphas": {f"{alpha:g}": count for alpha, count in self.alphas.items()},
            "unknown": list(self.unknown),
        }


def look_at_adapter(path: Path, metadata: Mapping[str, str]) -> Adapter:
    """Describe a LoRA. One that cannot be used is described by its metadata, and `problem` says why."""
    from ..checkpoints.lora.opening import open_lora

    said = {word: text for word, names in _SAID.items() if (text := next(filter(None, map(metadata.get, names)), None))}
    tags = _top_tags(metadata.get("ss_tag_frequency", ""))
    try:
        with open_lora(path) as lora:
            return _described(lora, _fitting(path, lora), said, tags)
    except CheckpointError as error:
        return Adapter({}, {}, said, tags=tags, problem=str(error))


def _described(lora: Lora, families: tuple[str, ...], said: dict[str, str], tags: dict[str, int]) -> Adapter:
    layers = [(module, part.formula) for module, part in lora.layers.values()]
    family = family_of(lora.family)
    labels = Counter(family.block_of(module.key).label for module, _ in layers)
    alphas = (formula.alpha for _, formula in layers)
    return Adapter(
        modules=dict(Counter(_part(family, module.key) for module, _ in layers)),
        ranks=dict(sorted(Counter(f.rank for _, f in layers if f.rank is not None).items())),
        said=said,
        style=lora.style,
        family=next(iter(families), None),
        kinds=lora.kinds,
        alphas=dict(sorted(Counter(alpha for alpha in alphas if alpha is not None).items())),
        labels={label: labels[label] for label in in_order(labels)},
        needs_base=lora.needs_base,
        tags=tags,
        unknown=tuple(lora.unknown),
        families=families,
    )


def _part(family: Family, key: str) -> str:
    """A key's component as diffusers' folders name it: `unet`, `text encoder`, `text encoder 2`."""
    component = family.block_of(key).component
    held = family.component(component)
    return held.folder.replace("_", " ") if held else component


def _top_tags(text: str) -> dict[str, int]:
    """The most frequent tags of all folders of `ss_tag_frequency`, a JSON object of objects; none where it is no such thing."""
    try:
        folders = json.loads(text)
        counts: Counter[str] = Counter()
        for folder in folders.values():
            counts.update({str(tag).strip(): int(count) for tag, count in folder.items()})
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        return {}
    return dict(counts.most_common(_TOP_TAGS))


def _fitting(path: Path, lora: Lora) -> tuple[str, ...]:
    """The families that a LoRA fits alike, by names and widths: several only where it changes no denoiser, and no metadata tell."""
    from ..checkpoints.lora.opening import open_lora
    from ..checkpoints.lora.trainer import said_family

    own = family_of(lora.family)
    if known_id(own) is None:
        return ()
    if said_family(lora.metadata) or any(own.block_of(key).core for key in lora.modules):
        return (own.id,)
    found = []
    for record in (r for r in FAMILIES.values() if r.lora is not None and not r.parent):
        try:
            with open_lora(path, family=record) as other:
                if len(other.modules) == len(lora.modules) and all(
                    _in_layout(record, m) for m in other.modules.values()
                ):
                    found.append(record)
        except CheckpointError:  # its tensors do not fit together in this one
            continue
    # The family first whose trainers write such names before others'.
    usual = [r for r in found if any(n.startswith(c.trained_as[:1]) for c in r.components for n in lora.tensors)]
    return tuple(dict.fromkeys(r.id for r in (*usual, *found))) or (own.id,)


def _in_layout(record: Family, module: LoraModule) -> bool:
    """Whether a change has the shape of its tensor in published models of a family, or in narrow ones."""
    layouts = (record.layout("real"), record.layout("narrow"))
    return any(module.key in layout and tuple(layout[module.key].shape) == tuple(module.shape) for layout in layouts)
