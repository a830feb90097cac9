"""Models whose blocks stand in a row: a box for each block, in columns that are read downwards; or a row of parts for each.

Such a model has no trace: its graph is made of its tensors' names, and an arrow says the order of blocks that names tell. Inside
a block nothing is known but what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

from ..checkpoints.families import Family
from ..checkpoints.text import amount, counted
from . import text as texts
from .boxes import HEIGHT, Content, draw_box
from .graph import Graph, Node, Shape
from .summary import Slot, slots_of
from .svg import Canvas
from .ugrid import BADGE, STEP, Look, Spot, around_tensors
from .values import Member, label_names

_WIDE, _GAP, _ROWS, _ACROSS = 250.0, 56.0, 12, 6
# What a box says next to its label: a slot's mark, and the space around it.
_BESIDE = 100.0
_KINDS = (("attn", "k-attn"), ("ff", "k-res"), ("conv", "k-conv"), ("emb", "k-emb"))
_WORDS = {"k-attn": "attention", "k-res": "MLP", "k-conv": "convolution", "k-emb": "embedding", "k-norm": "norm"}
# What the colours and the arrow of a chain stand for.
LEGEND = [
    ("k-attn", "with attention"),
    ("k-res", "MLP"),
    ("k-conv", "convolution"),
    ("k-emb", "embedding"),
    ("k-norm", "norm, or other layers"),
    ("k-words_box", "text encoder"),
    ("k-aside", "VAE"),
]
ORDER = [("flow", "order, as far as names tell")]


def chain_graph(family: Family, tensors: Mapping[str, Shape] | None = None, name: str = "") -> Graph:
    """The graph of a model from its keys and shapes: a node for each module, an edge from each block to the next.

    What a file (`tensors`) lacks of the family's published layout has the layout's shape and is listed in `missing`; without a
    file it is the layout that is drawn.
    """
    published = {} if family.tensors is None else {key: spec.shape for key, spec in family.layout().items()}
    shapes = published | dict(tensors or {})
    missing = frozenset() if tensors is None else frozenset(published.keys() - tensors.keys())
    held: dict[str, dict[str, list[tuple[str, Shape]]]] = {}
    for key, shape in shapes.items():
        label = family.block_of(key).label
        if label in family.labels:
            held.setdefault(label, {}).setdefault(key.rpartition(".")[0] or key, []).append((key, tuple(shape)))
    nodes: list[Node] = []
    ends: list[tuple[str, str]] = []
    for label in (label for label in family.labels if label in held):
        modules = held[label]
        for module, own in modules.items():
            kind = family.kind_of(own[0][0])
            nodes.append(Node(module, module, _unit(module, label, family), label, module, kind, (), (), tuple(own)))
        ends.append((next(iter(modules)), next(reversed(modules))))
    edges = tuple((before[1], after[0]) for before, after in pairwise(ends))
    return Graph(family, tuple(nodes), edges, missing, name)


def _unit(module: str, label: str, family: Family) -> str:
    """The part of a block that a module belongs to: the next word behind the block's own name."""
    words = module.removeprefix(family.prefix).split(".")
    for count in range(1, len(words)):
        if family.label_of(".".join(words[:count])) == label and any(word.isdigit() for word in words[:count]):
            return ".".join(words[: count + 1])
    return words[0]


class ChainLevel:
    """A chain at one level: `block`, `module` or `layer`; `only` is the one block to draw."""

    def __init__(self, graph: Graph, level: str, look: Look, prefix: str = "", only: str | None = None):
        self.graph, self.look = graph, look
        self.canvas = Canvas(prefix)
        self.slots = slots_of(graph.labels(), graph.family, look.convention)
        if level == "block" and only is None:
            self._blocks()
        else:
            self._parts(_group_of(level), [only] if only else graph.labels())

    def _blocks(self) -> None:
        """A box for each block, twelve in a column; text encoders and VAE that the file has stand in a column before them."""
        labels, family = self.graph.labels(), self.graph.family
        beside = [x for x in (*family.text_encoders, "VAE") if around_tensors(family, x, self.look.tensors or {})]
        wide = max(_WIDE, *(Canvas.room_for(label, "lb") + _BESIDE for label in (*labels, *beside)))
        height = HEIGHT + (BADGE if self.look.badges else 0.0)
        columns = -(-len(labels) // _ROWS)
        rows = -(-len(labels) // columns)
        for n, label in enumerate(beside):
            self._aside(label, Spot(0.0, n * (height + STEP), wide, height))
        first = wide + _GAP if beside else 0.0
        spots = {}
        for n, label in enumerate(labels):
            column, row = divmod(n, rows)
            spots[label] = Spot(first + column * (wide + _GAP), row * (height + STEP), wide, height)
        for a, b in self.graph.block_edges():
            with self.canvas.group(f"edge-{a}-{b}", "edge", f"{a} → {b}", source=a, target=b):
                draw_step(self.canvas, spots[a], spots[b])
        for label, spot in spots.items():
            nodes = [node for node in self.graph.nodes if node.label == label]
            self._box(label, label, nodes, spot, self.slots[label])

    def _parts(self, group: Callable[[Node], str], labels: list[str]) -> None:
        """The parts of each block side by side below its name, block after block."""
        y = 0.0
        for label in labels:
            self.canvas.text(0.0, y + 14, label, "lb", _WIDE)
            y += 22
            parts: dict[str, list[Node]] = {}
            for node in self.graph.nodes:
                if node.label == label:
                    parts.setdefault(group(node), []).append(node)
            for n, (name, nodes) in enumerate(parts.items()):
                row, column = divmod(n, _ACROSS)
                spot = Spot(column * (_WIDE + 12), y + row * (HEIGHT + 10), _WIDE, HEIGHT)
                self._box(label, name, nodes, spot, None)
            y += -(-len(parts) // _ACROSS) * (HEIGHT + 10) + 14
        self.canvas.grow(0, y)

    def _aside(self, label: str, spot: Spot) -> None:
        """A text encoder or the VAE, next to the blocks."""
        family, names = self.graph.family, label_names(label)
        tensors = around_tensors(family, label, self.look.tensors or {})
        members = [Member((key, key.rpartition(".")[0]), texts.elements(shape)) for key, shape in tensors.items()]
        paint = self.look.values.paint("k-aside" if label == "VAE" else "k-words_box", names, members)
        what, facts = family.describe(label), _facts(members)
        slot = slots_of([label], family, self.look.convention)[label]
        shown = None if slot.index is None else slot
        content = Content(label, what, facts, shown, self.look.badge(names), f"{label}: {what}; {facts}")
        draw_box(self.canvas, spot.x, spot.y, spot.w, content, paint, spot.h)

    def _box(self, label: str, name: str, nodes: list[Node], spot: Spot, slot: Slot | None) -> None:
        members = [
            Member((key, node.module, node.unit), texts.elements(shape))
            for node in nodes
            for key, shape in node.tensors
        ]
        kind = _kind(nodes)
        own = label_names(label) if name == label else (name,)
        around = () if name == label else label_names(label)
        lost = bool(self.graph.missing) and all(key in self.graph.missing for n in nodes for key, _ in n.tensors)
        paint = self.look.values.paint(kind, own, members, around, lost)
        params = sum(member.params for member in members)
        shown = name if name == label else _inside(name)
        facts = _facts(members)
        tooltip = f"{name}: {_what(nodes)}; {params:,} parameters in {len(members):,} tensors"
        badge = self.look.badge(own) if name == label else None
        draw_box(
            self.canvas,
            spot.x,
            spot.y,
            spot.w,
            Content(shown, _what(nodes), facts, slot, badge, tooltip),
            paint,
            spot.h,
        )


def _facts(members: list[Member]) -> str:
    return f"{counted(len(members), 'tensor')} · {amount(sum(member.params for member in members))}"


def _inside(name: str) -> str:
    """A part's name without that of its block."""
    words = name.split(".")
    at = next((i for i, word in enumerate(words[:-1]) if word.isdigit()), -1)
    return ".".join(words[at + 1 :])


def _group_of(level: str) -> Callable[[Node], str]:
    return (lambda node: node.unit) if level == "module" else (lambda node: node.module)


def _kinds(nodes: list[Node]) -> list[str]:
    found = [next((css for start, css in _KINDS if node.kind.startswith(start)), "k-norm") for node in nodes]
    return list(dict.fromkeys(found))


def _kind(nodes: list[Node]) -> str:
    """The colour of a box: attention first; what its layers mostly are where there is none."""
    found = _kinds(nodes)
    if css := next((css for css in ("k-attn", "k-res", "k-conv") if css in found), None):
        return css
    sizes: dict[str, int] = {}
    for node in nodes:
        css = _kinds([node])[0]
        sizes[css] = sizes.get(css, 0) + sum(texts.elements(shape) for _, shape in node.tensors)
    return max(sizes, key=sizes.__getitem__, default="k-norm")


def _what(nodes: list[Node]) -> str:
    """What the modules of a box are, in a few words."""
    known = [node for node in nodes if node.kind != "other"]
    found = [_WORDS[css] for _, css in _KINDS if css in _kinds(known)]
    if known and not found:
        found = ["norm"]
    return " + ".join([*found, *(["other layers"] if len(known) < len(nodes) else [])])


def draw_step(canvas: Canvas, a: Spot, b: Spot) -> None:
    """An arrow from a box to the next: below it, above it, or at the top of the next column."""
    if b.x > a.right:
        turn = (a.right + b.x) / 2
        middle, next_middle = (a.y + a.bottom) / 2, (b.y + b.bottom) / 2
        canvas.arrow([(a.right, middle), (turn, middle), (turn, next_middle), (b.x, next_middle)], "flow")
        return
    x = a.centre if a.w <= b.w else b.centre
    canvas.arrow([(x, a.bottom), (x, b.y)] if a.y < b.y else [(x, a.y), (x, b.bottom)], "flow")
