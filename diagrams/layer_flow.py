"""The inside of a block at the layer level: which boxes there are and how tensors flow between them.

A box is a layer that holds parameters, a whole stack of transformer layers, an addition or concatenation, or a pill for
what comes from or goes to another block. Everything else that ran (views, activations, dropout) is contracted: its edges
join, so that every arrow is a path of the trace.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .graph import Graph, Node

# Functions that are shown, by what stands in their circle.
SHOWN = {"add": "+", "cat": "concat", "concat": "concat", "interpolate": "×2 size"}
_STACK = ".transformer_blocks."


@dataclass
class Item:
    """A box of the layer level: `kind` is `layer`, `stack`, `function`, `source` or `target`."""

    name: str
    kind: str
    text: str
    nodes: list[Node] = field(default_factory=list)


@dataclass
class Flow:
    """A block's boxes by name, in the order of the trace, and the arrows between them."""

    label: str
    items: dict[str, Item]
    edges: list[tuple[str, str]]


def flow_of(graph: Graph, label: str) -> Flow:
    """The layer level of one label."""
    items: dict[str, Item] = {}
    item_of: dict[str, str | None] = {}
    for node in graph.nodes:
        item = _item(node, label)
        if item is not None:
            item = items.setdefault(item.name, item)
            item.nodes.append(node)
        item_of[node.id] = item.name if item else None
    edges = _contracted(graph, label, item_of)
    _add_ends(graph, label, item_of, items, edges)
    joined = {end for edge in edges for end in edge}
    items = {name: item for name, item in items.items() if name in joined or item.kind in ("layer", "stack")}
    return Flow(label, items, list(dict.fromkeys(edges)))


def _item(node: Node, label: str) -> Item | None:
    if node.label != label:
        return None
    if _STACK in node.module:
        stack = node.module.split(_STACK)[0] + ".transformer_blocks"
        return Item(stack, "stack", stack)
    if node.tensors:
        return Item(node.module, "layer", node.module.removeprefix(node.unit).lstrip(".") or node.unit)
    if node.kind in SHOWN:
        return Item(node.id, "function", SHOWN[node.kind])
    return None


def _contracted(graph: Graph, label: str, item_of: dict[str, str | None]) -> list[tuple[str, str]]:
    """Edges between items of the label, through nodes that are not shown."""
    after: dict[str, list[str]] = {}
    for a, b in graph.edges:
        after.setdefault(a, []).append(b)
    edges = []
    for node in graph.nodes:
        start = item_of[node.id]
        if start is None:
            continue
        edges += [(start, end) for end in _reached(graph, label, node.id, after, item_of) if end != start]
    return edges


def _reached(graph: Graph, label: str, origin: str, after: dict, item_of: dict) -> list[str]:
    """The items that a node's output reaches without passing another item or leaving the label."""
    found, seen, waiting = [], set(), list(after.get(origin, ()))
    while waiting:
        at = waiting.pop(0)
        if at in seen or graph.by_id[at].label != label:
            continue
        seen.add(at)
        if item_of[at] is not None:
            found.append(item_of[at])
        else:
            waiting += after.get(at, ())
    return found


def _add_ends(graph: Graph, label: str, item_of: dict, items: dict[str, Item], edges: list) -> None:
    """Pills for the blocks and inputs that this block reads and feeds."""
    after: dict[str, list[str]] = {}
    before: dict[str, list[str]] = {}
    for a, b in graph.edges:
        after.setdefault(a, []).append(b)
        before.setdefault(b, []).append(a)
    inputs, outputs = [], []
    for a, b in graph.edges:
        source, target = graph.by_id[a], graph.by_id[b]
        if source.label != label and target.label == label:
            origin = source.label or source.unit
            ends = [item_of[b]] if item_of[b] else _reached(graph, label, b, after, item_of)
            inputs += [(origin, end) for end in ends]
        if source.label == label and target.label != label:
            goal = target.label or target.unit
            starts = [item_of[a]] if item_of[a] else _reached(graph, label, a, before, item_of)
            outputs += [(start, goal) for start in starts]
    goals = list(dict.fromkeys(goal for _, goal in outputs))
    merged = "every ResNet" if len(goals) > 3 else None
    for origin, end in dict.fromkeys(inputs):
        # What feeds several layers of a block (time, text) has a pill next to each, instead of arrows across the block.
        name = f"source {origin}" if origin not in ("TIME_EMBED", "input text") else f"source {origin} {end}"
        items.setdefault(name, Item(name, "source", _from(origin, label)))
        edges.append((name, end))
    for start, goal in dict.fromkeys((s, merged or g) for s, g in outputs):
        name = f"target {goal}"
        items.setdefault(name, Item(name, "target", f"to {goal.removeprefix('output ')}" + _skip(label, goal)))
        edges.append((start, name))


def _skip(a: str, b: str) -> str:
    return " (skip)" if a.startswith("IN") and b.startswith("OUT") else ""


def _from(origin: str, label: str) -> str:
    return origin.removeprefix("input ") if origin.startswith("input ") else f"from {origin}{_skip(origin, label)}"
