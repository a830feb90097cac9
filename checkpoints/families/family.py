"""What a family is: everything the house asks about one kind of model, stated once in its record.

A record reads like a data sheet; the methods below answer from it. The rest of the house asks a record and never compares its
name, so a new model is one file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from .parts.part import Opening, Part, Place, Spec, Tensors
from .parts.schedule import is_marker, is_schedule

if TYPE_CHECKING:
    from .signs import Signs

Widths = Literal["real", "narrow"]
EMA_PREFIX = "model_ema."
# A row of a table of blocks: label (without its number), first and last number (-1: none), beginnings of names.
Row = tuple[str, int, int, tuple[str, ...]]
# Slots of somebody's weight vector, in its order.
Slots = tuple[str, ...]

_RANGE = re.compile(r"([A-Z_]+)(\d+)-(\d+)")
_ABOUT = {
    "EMA": "a second UNET, averaged over training",
    "SCHEDULE": "noise schedule buffers",
    "MARKER": "prediction type markers",
    "EXTRA": "what the model needs next to its own weights",
    "OTHER": "keys that belong to no known component",
}
# Labels that are not blocks: no line of block weights names them.
BUFFER_LABELS = tuple(_ABOUT)
# Of these the ones whose tensors may be trained weights, which a merge averages.
BESIDE_LABELS = ("EXTRA", "OTHER")


@dataclass(frozen=True)
class Component:
    """A part as a family holds it.

    Attributes:
        part: which text encoder or autoencoder.
        prefix: where the family's single file keeps it.
        folder: the folder of a diffusers pipeline that holds it.
        real, narrow: its sizes, in published models and in narrow ones of the same structure.
        tells: whether a file of this part and no denoiser is this family's; of several families the one with the file's prefix.
        unused: beginnings of names that diffusers' folders leave out, since the model does not read them.
        trained_as: what LoRA trainers put before its modules' names, the usual one first (`lora_te1_`).
    """

    part: Part
    prefix: str
    folder: str
    real: Any
    narrow: Any
    tells: bool = False
    unused: tuple[str, ...] = ()
    trained_as: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return self.part.id

    def tensors(self, widths: Widths) -> Tensors:
        """Its tensors' names, without prefix, and shapes."""
        return self.part.tensors(self.real if widths == "real" else self.narrow)


@dataclass(frozen=True)
class Vectors:
    """What one tool's weight vectors are for a family.

    Attributes:
        slots: the vectors that the tool writes, the usual one first; each is its slots in order.
        follows: label without a slot of its own -> the slot that it reads; a label that is not here stays with the first model.
        about: one line for people, of a tool that no other family has vectors of.
        inverted: of such a tool, whether its numbers are shares of A, not of B.
    """

    slots: tuple[Slots, ...]
    follows: Mapping[str, str] = field(default_factory=dict)
    about: str = ""
    inverted: bool = False


@dataclass(frozen=True)
class LoraFacts:
    """How trainers write LoRAs for a family.

    Attributes:
        base_version: kohya's `ss_base_model_version`.
        said: words of `ss_base_model_version` or `modelspec.architecture` that tell the family.
        v2: kohya's `ss_v2`.
        denoiser: how kohya names the denoiser's modules: as diffusers does, or as single files do.
        slots: what a LoRA's block weight vector is for -> its slots (`lora`: attention only, `locon`: convolutions too).
    """

    base_version: str
    said: tuple[str, ...]
    v2: bool = False
    denoiser: Literal["kohya", "single-file"] = "kohya"
    slots: Mapping[str, Slots] = field(default_factory=dict)


@dataclass(frozen=True)
class AdapterSigns:
    """What tells that a LoRA or ControlNet is for a family, its names written with `_`.

    Attributes:
        width: of the text features that published models read.
        words: what only the family's names hold; `weak_words`: what tells where nothing else does.
        linear: whether `proj_in` is a linear layer, where that tells it from a family with the same names.
    """

    width: int
    words: tuple[str, ...] = ()
    weak_words: tuple[str, ...] = ()
    linear: bool | None = None


@dataclass(frozen=True)
class Pipeline:
    """How diffusers runs a family.

    Attributes:
        name: the pipeline's class.
        variants: variant -> the class that feeds a UNET with more input channels.
        encoders: folders of text encoders in `model_index.json`, those that are absent too.
        index: further entries of `model_index.json`.
        arguments: of the class, when it is built here.
        from_text: whether it makes images from text alone, as a search needs.
        pooled: whether the denoiser reads the pooled text, the size of the image, and the last text layer but one.
        empty_is_zero: whether an empty negative prompt is nothing at all instead of an encoded empty text.
    """

    name: str
    variants: Mapping[str, str] = field(default_factory=dict)
    encoders: tuple[str, ...] = ("text_encoder",)
    index: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    from_text: bool = True
    pooled: bool = False
    empty_is_zero: bool = False


@dataclass(frozen=True)
class MechaFacts:
    """What sd-mecha calls a family's block weights: the configuration, the method that turns them into keys, and how many."""

    blocks: str
    conversion: str
    slots: int


@dataclass(frozen=True)
class Demo:
    """A file of the demo collection, with which the demo and the tutorials work: narrow, of random weights.

    Attributes:
        name: without suffix.
        seed: which random weights, or which fine-tune.
        finetune_of: the name of the file that it is a fine-tune of; empty for a new model.
        old: whether it is written as old trainers did: a pickle, in fp32.
    """

    name: str
    seed: int
    finetune_of: str = ""
    old: bool = False


@dataclass(frozen=True, eq=False)
class Family:
    """One kind of model.

    Attributes:
        id: as recipes, metadata and the command line write it.
        title, name: for people, short and long.
        blocks: a table of two columns: labels in network order (`IN00-11` are twelve), and the beginnings of the denoiser's
            names that they hold (`input_blocks.{n}`), several where one label has several. Or its rows, already taken apart.
        known_by: whether a denoiser is this family's, by its names and ratios of shapes; None for a record that is never found
            that way. The first record that says yes is the file's.
        modelspec: what the header's `modelspec.architecture` says, by what the model predicts; None is the usual one.
        predicts: what a model without a mark predicts; None where it may be either.
        core: the denoiser's name as a component (`unet`), `core_title` for people.
        prefix: where a single file keeps the denoiser; `prefixes`: where other tools keep it.
        native, translated: how one of its names goes on behind a prefix, in the single-file layout and in diffusers'; with
            them it is found behind any prefix, without them behind `prefix` and `prefixes` only.
        heads: beginnings of its names; in a file without prefixes all other names are somebody else's.
        kinds: (pattern, kind of layer) for the denoiser's keys, the first match wins.
        about: label -> a few words on what it is; `IN*` speaks of all numbered ones.
        real, narrow: the denoiser's sizes, in published models and in narrow ones of the same structure.
        tensors: the denoiser's names and shapes from sizes and input channels; a file's own where no layout is published.
        names: the two layouts' names of its modules, from sizes: single file -> diffusers.
        inside: the same inside of residual blocks.
        optional: beginnings of the denoiser's names that may be there or not.
        components: text encoders and VAE.
        extras: beginnings of the keys of further models that it needs (an image encoder, a depth estimator): they are merged with
            the weight of BASE.
        buffers: what the training code's file holds before the denoiser; `leftovers`: behind it.
        first_layer: the denoiser's tensor whose input channels tell variants; `variants`: channels -> variant.
        conventions: tool -> its weight vectors; `*` stands for every tool.
        adapters: how LoRAs and ControlNets for it show.
        lora, pipeline, mecha: what other tools call it; None where they do not know it.
        drawing: `u` for a UNET, `chain` for blocks in a row.
        traced: whether a trace of it is shipped.
        gallery, gallery_blocks: the levels and blocks of which the gallery has pictures.
        skips: whether IN blocks feed OUT blocks.
        keeps_names: whether what is written gets the file's own names, not the keys: where no layout says which are right.
        parent: of a kin, the family whose layout it varies. What knows the parent knows its kin; which of them a file is, its
            whole layout tells, or `known_by` where a kin has one.
        demos: its files in the demo collection, a base before its fine-tunes.
    """

    id: str
    title: str
    name: str
    blocks: str | tuple[Row, ...]
    known_by: Callable[[Signs], bool] | None = None
    modelspec: Mapping[str | None, str] = field(default_factory=dict)
    predicts: str | None = "epsilon"
    core: str = "model"
    core_title: str = "model"
    prefix: str = "model.diffusion_model."
    prefixes: tuple[str, ...] = ()
    native: Opening | None = None
    translated: Opening | None = None
    heads: tuple[str, ...] = ()
    kinds: tuple[tuple[str, str], ...] = ()
    about: Mapping[str, str] = field(default_factory=dict)
    real: Any = None
    narrow: Any = None
    tensors: Callable[..., Tensors] | None = None
    names: Callable[[Any], Mapping[str, str]] | None = None
    inside: Mapping[str, str] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    components: tuple[Component, ...] = ()
    extras: tuple[str, ...] = ()
    buffers: tuple[tuple[str, Spec], ...] = ()
    leftovers: tuple[tuple[str, Spec], ...] = ()
    first_layer: str = ""
    variants: Mapping[int, str] = field(default_factory=dict)
    conventions: Mapping[str, Vectors] = field(default_factory=dict)
    adapters: AdapterSigns | None = None
    lora: LoraFacts | None = None
    pipeline: Pipeline | None = None
    mecha: MechaFacts | None = None
    drawing: Literal["u", "chain"] = "chain"
    traced: bool = False
    gallery: tuple[str, ...] = ()
    gallery_blocks: tuple[str, ...] = ()
    skips: bool = False
    keeps_names: bool = False
    parent: str = ""
    demos: tuple[Demo, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "_places", {})
        object.__setattr__(self, "_kinds", {})
        object.__setattr__(self, "_layouts", {})

    # -- labels ---------------------------------------------------------------------------------------------------------

    @cached_property
    def _rows(self) -> tuple[Row, ...]:
        """The table of blocks."""
        if not isinstance(self.blocks, str):
            return self.blocks
        rows = []
        for line in self.blocks.splitlines():
            if words := line.split():
                found = _RANGE.fullmatch(words[0])
                stem, first, last = (found[1], int(found[2]), int(found[3])) if found else (words[0], -1, -1)
                rows.append((stem, first, last, tuple(words[1:])))
        return tuple(rows)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The denoiser's labels in network order."""
        out: list[str] = []
        for stem, first, last, _ in self._rows:
            out += [stem] if first < 0 else [f"{stem}{n:02d}" for n in range(first, last + 1)]
        return tuple(out)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.labels)

    @cached_property
    def text_encoders(self) -> tuple[str, ...]:
        """The labels of its text encoders."""
        return tuple(c.part.label for c in self.components if c.part.text)

    @cached_property
    def text_widths(self) -> tuple[int, ...]:
        """The widths of its text encoders in published models, which are those of embeddings made for it."""
        return tuple(c.real.width for c in self.components if c.part.text and hasattr(c.real, "width"))

    @cached_property
    def has_vae(self) -> bool:
        return any(not c.part.text for c in self.components)

    @cached_property
    def all_labels(self) -> tuple[str, ...]:
        """Text encoders, denoiser, VAE: whatever a weight may be given to."""
        return (*self.text_encoders, *self.labels, *(("VAE",) if self.has_vae else ()))

    @cached_property
    def component_ids(self) -> tuple[str, ...]:
        """The components of a whole checkpoint: the denoiser first, the VAE last."""
        return (self.core, *(c.id for c in self.components if c.part.text), *(("vae",) if self.has_vae else ()))

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern[str], str, bool]]:
        patterns = []
        for stem, first, _, starts in self._rows:
            for start in starts:
                text = re.escape(start).replace(r"\{n\}", r"(\d+)")
                patterns.append((re.compile(text + (r"(?=\.|$)")), stem, first >= 0))
        return patterns

    def file_name(self, key: str) -> str:
        """What a file that keeps its names calls a key that it lacks: behind the prefix that its others have."""
        return (self.prefixes[0] if self.prefixes and self.block_of(key).core else "") + key

    def label_of(self, name: str) -> str:
        """The label of one of the denoiser's names (without prefix); OTHER for what no block holds, as `input_blocks.9` of SDXL."""
        for pattern, stem, numbered in self._patterns:
            if found := pattern.match(name):
                label = f"{stem}{int(found[1]):02d}" if numbered else stem
                return label if label in self._known else "OTHER"
        return "OTHER"

    def block_of(self, key: str) -> Place:
        """Where a key (in the family's single-file naming) lives; what nothing claims is OTHER."""
        places: dict[str, Place] = self._places
        found = places.get(key)
        if found is None:
            found = places[key] = self._place(key)
        return found

    def _place(self, key: str) -> Place:
        from . import part_of

        if key.startswith(self.prefix):
            label = self.label_of(key.removeprefix(self.prefix))
            if label != "OTHER" or self.prefix:
                return Place(label, self.core, core=True) if label != "OTHER" else Place("OTHER", "other")
        if self.extras and key.startswith(self.extras):
            return Place("EXTRA", "extra")
        for component in self.components:
            if key.startswith(component.prefix):
                return component.part.place(key.removeprefix(component.prefix))
        if found := part_of(key):
            return found[0].place(found[1])
        if key.startswith(EMA_PREFIX):
            return Place("EMA", "ema")
        if is_schedule(key):
            return Place("SCHEDULE", "schedule")
        if is_marker(key):
            return Place("MARKER", "marker")
        return Place("OTHER", "other")

    def kind_of(self, key: str) -> str:
        """The kind of layer of a key (`attn1.q`, `norm`...); `other` where no pattern fits."""
        kinds: dict[str, str] = self._kinds
        found = kinds.get(key)
        if found is None:
            found = kinds[key] = self._kind(key)
        return found

    def _kind(self, key: str) -> str:
        from . import known_parts

        component = self.block_of(key).component
        held = self.component(component)
        part = held.part if held else known_parts().get(component)
        table = self.kinds if component == self.core else part.kinds if part else ()
        for pattern, kind in table:
            if found := re.search(pattern, key):
                return found.expand(kind)
        return "other"

    def describe(self, label: str) -> str:
        """A few words on what a label is, for tables."""
        from . import known_parts

        held = self.component(label.lower())
        part = held.part if held else known_parts().get(label.lower())
        known = self.about.get(label) or self.about.get(label.rstrip("0123456789") + "*")
        return known or (part.about if part else _ABOUT.get(label, "block"))

    def skip_partner(self, label: str) -> str | None:
        """The OUT block that takes the skip connection of an IN block: IN k feeds OUT (last - k)."""
        ins = [x for x in self.labels if x.startswith("IN")] if self.skips else []
        return f"OUT{len(ins) - 1 - ins.index(label):02d}" if label in ins else None

    # -- components -----------------------------------------------------------------------------------------------------

    def component(self, name: str) -> Component | None:
        """The text encoder or VAE of that name (`clip_l`), where it has one."""
        return self._by_id.get(name)

    @cached_property
    def _by_id(self) -> dict[str, Component]:
        return {c.id: c for c in self.components}

    @cached_property
    def first_key(self) -> str:
        """The key of the denoiser's first layer, whose input channels tell variants; empty where none do."""
        return self.prefix + self.first_layer if self.first_layer else ""

    def prefixes_of(self, component: str) -> tuple[str, ...]:
        """Where files keep a component: this family's place first, then others' places of the same part."""
        from . import known_parts

        if component == self.core:
            return (self.prefix,)
        own, part = self.component(component), known_parts().get(component)
        shared = part.prefixes if part else ()
        return tuple(dict.fromkeys((*((own.prefix,) if own else ()), *shared)))

    # -- the layout -----------------------------------------------------------------------------------------------------

    def size(self, widths: Widths = "real") -> Any:
        """The denoiser's sizes."""
        return self.real if widths == "real" else self.narrow

    def layout(self, widths: Widths = "real", in_channels: int | None = None) -> Mapping[str, Spec]:
        """Every key of the family's published checkpoint, in the order of the training code's state dict.

        Args:
            widths: `real`, or `narrow` for the same keys with few channels.
            in_channels: of the first layer, for variants; None for the usual ones.
        """
        known: dict[tuple, dict[str, Spec]] = self._layouts
        asked = widths, in_channels
        if asked not in known:
            known[asked] = dict(self._laid_out(widths, in_channels))
        return known[asked]

    def _laid_out(self, widths: Widths, in_channels: int | None) -> Iterator[tuple[str, Spec]]:
        yield from self.buffers
        if self.tensors is not None:
            more = {} if in_channels is None else {"in_channels": in_channels}
            for name, shape in self.tensors(self.size(widths), **more):
                yield self.prefix + name, Spec(shape)
        yield from self.leftovers
        for component in sorted(self.components, key=lambda c: c.part.text):
            for name, shape in component.tensors(widths):
                yield component.prefix + name, Spec(shape, "I64" if name.endswith("position_ids") else "F32")

    @cached_property
    def core_names(self) -> frozenset[str]:
        """The denoiser's names in its layout, without prefix; empty where no layout is published."""
        sizes = self.size("narrow")
        return frozenset(name for name, _ in self.tensors(sizes)) if self.tensors is not None else frozenset()

    def kin(self, id: str, title: str, **changes: Any) -> Family:
        """The record of a model of nearly this layout: what it shares, and not what other tools say of this family alone.

        `changes` are fields of the record, or sizes of the denoiser, which are changed in published and narrow ones alike.
        """
        sizes = {name: changes.pop(name) for name in list(changes) if name not in Family.__dataclass_fields__}
        own = {
            "known_by": None,  # the whole layout tells
            "modelspec": {},
            "adapters": None,
            "lora": None,
            "mecha": None,
            "drawing": "chain",
            "traced": False,
            "gallery": (),
            "gallery_blocks": (),
            "demos": (),
            "real": replace(self.real, **sizes),
            "narrow": replace(self.narrow, **sizes),
        }
        return replace(self, id=id, title=title, name=title, parent=self.id, **(own | changes))

    def with_own_vector(self) -> Family:
        """The same where no tool has weight vectors for it: one number for each block of the denoiser, in every convention."""
        return replace(self, conventions={"*": Vectors((self.labels,))})

    def modelspec_architecture(self, prediction: str | None = None) -> str:
        """What the header's field `modelspec.architecture` says of a model that predicts so."""
        return self.modelspec.get(prediction) or self.modelspec.get(None, self.id)

    def __repr__(self) -> str:
        return f"<family {self.id}>"


def is_buffer(key: str) -> bool:
    """Whether a layout's key carries no trained weight: a file is whole without it."""
    return is_schedule(key) or key.startswith(EMA_PREFIX) or key.endswith((".position_ids", ".logit_scale"))
