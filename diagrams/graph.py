"""The traced graph of a UNET: nodes that ran, edges along which tensors went. Read from `traces/*.json` without torch.

Every picture is drawn from a `Graph` and from nothing else: an edge that is not in the trace cannot appear, because a
coarser level is the same graph with nodes put together (`merged_edges`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from math import prod
from pathlib import Path

from ..checkpoints.families import Family, family_of

TRACES = Path(__file__).parent / "traces"

Shape = tuple[int, ...]
Tensor = tuple[str, Shape]


@dataclass(frozen=True, slots=True)
class Node:
    """One call of a module or function.

    Attributes:
        id: unique: the module's path, or the enclosing module's path and the function's name; `#2`.. for later calls.
        module: diffusers' qualified path of the module, or of the module that a function ran in.
        unit: the part of the module level that it belongs to (`down_blocks.0.resnets.1`, `input text`...).
        label: canonical block label; empty for the network's inputs and output.
        key: single-file key prefix, empty where the single-file layout has none.
        kind: class or function name (`Conv2d`, `cat`...).
        inputs, outputs: shapes, batch first.
        tensors: (key, shape) of the parameters that it holds itself.
    """

    id: str
    module: str
    unit: str
    label: str
    key: str
    kind: str
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    tensors: tuple[Tensor, ...] = ()

    @property
    def params(self) -> int:
        return sum(prod(shape) for _, shape in self.tensors)


@dataclass(frozen=True)
class Graph:
    """A traced network. `missing` holds the keys that a given checkpoint lacks, when it was drawn on one."""

    family: str | Family
    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...]
    missing: frozenset[str] = frozenset()
    name: str = ""

    @property
    def record(self) -> Family:
        """The family's record."""
        return family_of(self.family)

    @cached_property
    def by_id(self) -> dict[str, Node]:
        return {node.id: node for node in self.nodes}

    @cached_property
    def tensors(self) -> dict[str, Shape]:
        """Every parameter tensor: key in single-file naming -> shape, in network order."""
        return {key: shape for node in self.nodes for key, shape in node.tensors}

    @property
    def params(self) -> int:
        return sum(node.params for node in self.nodes)

    def merged_edges(self, name: Callable[[Node], str]) -> list[tuple[str, str]]:
        """The edges between groups of nodes, in the order of the trace; `name` gives a node's group."""
        group = {node.id: name(node) for node in self.nodes}
        pairs = ((group[a], group[b]) for a, b in self.edges)
        return list(dict.fromkeys((a, b) for a, b in pairs if a and b and a != b))

    def block_edges(self) -> list[tuple[str, str]]:
        """Edges between labels; inputs and output of the network appear as `input text` and the like."""
        return self.merged_edges(lambda node: node.label or node.unit)

    def unit_edges(self) -> list[tuple[str, str]]:
        """Edges between the parts of the module level."""
        return self.merged_edges(lambda node: node.unit)

    def labels(self) -> list[str]:
        return list(dict.fromkeys(node.label for node in self.nodes if node.label))

    def on(self, shapes: Mapping[str, Shape], name: str = "") -> Graph:
        """The same graph with a checkpoint's own tensors: their shapes, and the channels that follow from them.

        Tensors that the checkpoint lacks keep the architecture's shape and are listed in `missing`.
        """
        channels, ends = self._channels(shapes), self._ends(shapes)
        nodes = []
        for node in self.nodes:
            tensors = tuple((key, tuple(shapes.get(key, shape))) for key, shape in node.tensors)
            known = ends.get(node.id) or channels.get(node.label, {})
            outputs = tuple(_with_channels(s, known) for s in node.outputs)
            nodes.append(replace(node, tensors=tensors, outputs=outputs))
        missing = frozenset(key for key in self.tensors if key not in shapes)
        return Graph(self.family, tuple(nodes), self.edges, missing, name)

    def _ends(self, shapes: Mapping[str, Shape]) -> dict[str, dict[int, int]]:
        """The same for the network's own inputs and output, from the tensors that they meet."""
        met = [
            ("input latent", self.record.first_key, 1),
            ("output latent", self.record.prefix + "out.2.weight", 0),
            ("input text", next((key for key in self.tensors if key.endswith("attn2.to_k.weight")), ""), 1),
        ]
        return {
            end: {self.tensors[key][axis]: shapes[key][axis]} for end, key, axis in met if len(shapes.get(key, ())) > 1
        }

    def _channels(self, shapes: Mapping[str, Shape]) -> dict[str, dict[int, int]]:
        """Per label, how many channels the checkpoint has where the architecture has a given number."""
        found: dict[str, dict[int, int]] = {}
        for node in self.nodes:
            for key, shape in node.tensors:
                own = shapes.get(key)
                if (
                    own
                    and len(own) == len(shape)
                    and self.record.kind_of(key) in ("conv", "emb", "proj", "skip", "attn1.q")
                ):
                    found.setdefault(node.label, {})[shape[0]] = own[0]
        return found


def _with_channels(shape: Shape, channels: Mapping[int, int]) -> Shape:
    """A shape with its channel axis (1 of a feature map, the last one otherwise) replaced."""
    axis = 1 if len(shape) == 4 else len(shape) - 1
    if axis < 1:
        return shape
    return (*shape[:axis], channels.get(shape[axis], shape[axis]), *shape[axis + 1 :])


_FIELDS = ("unit", "module after the unit", "call", "key after the unit's key", "kind", "inputs", "outputs", "tensors")


def write_graph(graph: Graph, path: Path) -> None:
    """Write a trace as compact JSON, one node a line; units, kinds and shapes are stored once, nodes refer to them.

    A node's row is what `fields` names; a null key is the same as the module, a tensor is [name after the key, shape].
    """
    units = {n.unit: [n.unit, n.label, _common_key(n.unit, graph)] for n in graph.nodes}
    unit_at, kinds, shapes = {unit: i for i, unit in enumerate(units)}, {}, {}

    def at(table: dict, value) -> int:
        return table.setdefault(value, len(table))

    lines = []
    for n in graph.nodes:
        module, key = _after(n.module, n.unit), _after(n.key, units[n.unit][2])
        call = n.id.removeprefix(n.module)
        rows = [[at(shapes, s) for s in side] for side in (n.inputs, n.outputs)]
        tensors = [[name.removeprefix(n.key + "."), at(shapes, s)] for name, s in n.tensors]
        row = [unit_at[n.unit], module, call, None if key == module else key, at(kinds, n.kind), *rows, tensors]
        lines.append(json.dumps(row, separators=(",", ":")))
    index = {node.id: i for i, node in enumerate(graph.nodes)}
    tables = {
        "family": graph.record.id,
        "fields": _FIELDS,
        "units": list(units.values()),
        "kinds": list(kinds),
        "shapes": list(shapes),
        "edges": [[index[a], index[b]] for a, b in graph.edges],
    }
    head = ",\n".join(f"{json.dumps(k)}:{json.dumps(v, separators=(',', ':'))}" for k, v in tables.items())
    path.write_text(f'{{{head},\n"nodes":[\n' + ",\n".join(lines) + "\n]}\n", encoding="utf-8", newline="\n")


def _common_key(unit: str, graph: Graph) -> str:
    """The longest dotted prefix that the keys of a unit share."""
    keys = [n.key.split(".") for n in graph.nodes if n.unit == unit and n.key]
    shared = []
    for parts in zip(*keys, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _after(path: str, start: str) -> str:
    """What follows `start` in a dotted path; the whole path, behind a `^`, when it starts otherwise."""
    return path.removeprefix(start) if path.startswith(start) else f"^{path}"


def _whole(rest: str, start: str) -> str:
    return rest[1:] if rest.startswith("^") else start + rest


def read_graph(path: Path) -> Graph:
    """Read what `write_graph` wrote."""
    data = json.loads(path.read_text(encoding="utf-8"))
    shapes = [tuple(s) for s in data["shapes"]]
    nodes = []
    for at, after, call, key_after, kind, inputs, outputs, tensors in data["nodes"]:
        unit, label, unit_key = data["units"][at]
        module = _whole(after, unit)
        key = _whole(after if key_after is None else key_after, unit_key)
        held = tuple((f"{key}.{name}", shapes[s]) for name, s in tensors)
        sides = (tuple(shapes[s] for s in inputs), tuple(shapes[s] for s in outputs))
        nodes.append(Node(module + call, module, unit, label, key, data["kinds"][kind], *sides, held))
    edges = tuple((nodes[a].id, nodes[b].id) for a, b in data["edges"])
    return Graph(data["family"], tuple(nodes), edges)


@cache
def architecture_graph(family: str) -> Graph:
    """The traced graph of `sd1`, `sd2`, `sdxl` or `sdxl_refiner`."""
    return read_graph(TRACES / f"{family}.json")
