"""What the boxes of a UNET say: what is in a block, its output shape, its parameters, its numbers in weight vectors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from ..checkpoints.families import is_text
from ..checkpoints.families.conventions import Convention, lbw_index
from .graph import Graph, Node, Shape, Tensor
from .values import Member

_LAYER = re.compile(r"transformer_blocks\.(\d+)\.")
_WORDS = (
    ("resnets", "ResNet"),
    ("attentions", "transformer"),
    ("downsamplers", "downsample"),
    ("upsamplers", "upsample"),
    ("time_embedding", "embeds the timestep"),
    ("add_embedding", "embeds pooled text, size"),
    ("conv_in", "convolution"),
    ("conv_norm_out", "norm"),
    ("conv_out", "convolution"),
)


@dataclass
class Unit:
    """A part of the module level: a ResNet, a transformer, a down- or upsampler, a convolution."""

    name: str
    label: str
    nodes: list[Node] = field(default_factory=list)

    @property
    def tensors(self) -> list[Tensor]:
        return [t for node in self.nodes for t in node.tensors]

    @property
    def params(self) -> int:
        return sum(node.params for node in self.nodes)

    @property
    def depth(self) -> int:
        """The number of transformer layers."""
        return len({found[1] for node in self.nodes if (found := _LAYER.search(node.module + "."))})

    @property
    def what(self) -> str:
        word = next((word for part, word in _WORDS if part in self.name), self.name)
        return f"{word} ×{self.depth}" if self.depth else word

    @property
    def kind(self) -> str:
        """The class that paints it: `k-attn`, `k-res`, `k-emb` or `k-conv`."""
        if self.depth:
            return "k-attn"
        return "k-res" if "resnets" in self.name else "k-emb" if "embedding" in self.name else "k-conv"

    @property
    def prefix(self) -> str:
        """The longest dotted single-file prefix of its tensors."""
        keys = [key.split(".")[:-1] for key, _ in self.tensors]
        shared = []
        for parts in zip(*keys, strict=False):
            if len(set(parts)) > 1:
                break
            shared.append(parts[0])
        return ".".join(shared)

    def lost(self, graph: Graph) -> bool:
        """Whether the checkpoint that the graph was drawn on lacks every tensor of the part."""
        return bool(graph.missing) and all(key in graph.missing for key, _ in self.tensors)

    def members(self) -> list[Member]:
        """Its tensors; one without a value of its own takes that of its module, then that of the unit."""
        unit = (self.name, self.prefix)
        return [
            Member((key, key.rpartition(".")[0], node.module, *unit), prod(shape))
            for node in self.nodes
            for key, shape in node.tensors
        ]


@dataclass
class Block:
    """A canonical label with the units inside it, in the order in which tensors flow."""

    label: str
    units: list[Unit]
    output: Shape

    @property
    def params(self) -> int:
        return sum(unit.params for unit in self.units)

    @property
    def what(self) -> str:
        return " + ".join(unit.what for unit in self.units if unit.tensors)

    @property
    def kind(self) -> str:
        kinds = {unit.kind for unit in self.units}
        return next(k for k in ("k-attn", "k-res", "k-emb", "k-conv") if k in kinds)

    def members(self) -> list[Member]:
        return [member for unit in self.units for member in unit.members()]

    def lost(self, graph: Graph) -> bool:
        """Whether the checkpoint that the graph was drawn on lacks every tensor of the block."""
        return all(unit.lost(graph) for unit in self.units)


def blocks_of(graph: Graph) -> dict[str, Block]:
    """Every labelled block of a graph."""
    units: dict[str, Unit] = {}
    for node in graph.nodes:
        if node.label:
            units.setdefault(node.unit, Unit(node.unit, node.label)).nodes.append(node)
    order = _flow_order(list(units), graph.unit_edges())
    outputs = _outputs(graph)
    return {
        label: Block(label, [units[name] for name in order if units[name].label == label], outputs.get(label, ()))
        for label in graph.labels()
    }


def _flow_order(names: list[str], edges: list[tuple[str, str]]) -> list[str]:
    """Names so ordered that every edge goes forward; among equals, the order given."""
    known = set(names)
    waiting = {name: {a for a, b in edges if b == name and a in known} for name in names}
    ordered: list[str] = []
    while waiting:
        ready = next((n for n in waiting if not waiting[n]), next(iter(waiting)))
        ordered.append(ready)
        del waiting[ready]
        for before in waiting.values():
            before.discard(ready)
    return ordered


def _outputs(graph: Graph) -> dict[str, Shape]:
    """The shape, without the batch axis, of what leaves each block."""
    found: dict[str, Shape] = {}
    for a, b in graph.edges:
        node = graph.by_id[a]
        if node.label and node.label != graph.by_id[b].label:
            found.setdefault(node.label, node.outputs[0][1:])
    return found


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a label stands in the weight vectors.

    Attributes:
        index: its position in the MBW vector, its own or borrowed; None when it reads none.
        name: the slot that it reads.
        own: whether the slot is its own.
        lbw: its position in the LoRA vector; None when that lacks it.
    """

    index: int | None
    name: str
    own: bool
    lbw: int | None

    @property
    def mbw_text(self) -> str:
        if self.index is None:
            return "no slot: stays A"
        if self.own:
            return f"MBW {self.index}" if self.name != "BASE" else f"BASE, MBW {self.index}"
        return f"reads {self.name}"


def slots_of(labels: Mapping[str, object] | list[str], family: str, convention: Convention) -> dict[str, Slot]:
    """Every label's slot in a convention and in the LoRA vector of its architecture."""
    slots = {}
    for label in labels:
        index, name = convention.slot_of(label, family) or (None, "")
        own = name == label or name.startswith(f"{label}.") or (name == "BASE" and is_text(label))
        slots[label] = Slot(index, name, own, lbw_index(label, family))
    return slots
