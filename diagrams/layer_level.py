"""The layer level: every parameter tensor once, in the frame of its label.

Graphviz places the boxes inside a frame (they have our sizes, the drawing is ours); the frames stand in the U. A stack of
equal transformer layers is one heat strip, a row per layer and a column per tensor, and not a column of boxes.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..checkpoints.text import amount
from . import text as texts
from .boxes import draw_pills
from .graph import Graph, Node
from .graphviz import Placed, lay_out
from .layer_flow import Flow, Item, flow_of
from .strip import draw_strip, strip_size
from .summary import Block
from .svg import Canvas, Point, num
from .tensor_box import tensor_names, tensor_tooltip
from .ugrid import Look, UGrid

_LAYER = (252.0, 50.0)
_BIAS = 58.0
_HEADER, _PAD = 34.0, 14.0


def item_size(item: Item) -> Point:
    """Width and height of an item's box."""
    if item.kind == "layer":
        return _LAYER
    if item.kind == "stack":
        return strip_size(item)
    if item.kind == "function":
        return (22.0, 22.0) if item.text == "+" else (Canvas.room_for(item.text, "xs") + 14, 20.0)
    return Canvas.room_for(item.text, "sb") + 18, 22.0


def direction(label: str) -> str:
    """The way in which tensors run: down in the encoder, up in the decoder, as in the U."""
    return "BT" if label.startswith("OUT") else "TB"


def flows_placed(
    graph: Graph, labels: list[str], ways: Mapping[str, str] | None = None
) -> dict[str, tuple[Flow, Placed]]:
    """The inside of several blocks, laid out in one run of Graphviz."""
    flows = [flow_of(graph, label) for label in labels]
    jobs = []
    for flow in flows:
        sizes = {name: item_size(item) for name, item in flow.items.items()}
        jobs.append((sizes, flow.edges, (ways or {}).get(flow.label) or direction(flow.label)))
    return dict(zip(labels, zip(flows, lay_out(jobs), strict=True), strict=True))


class LayerLevel(UGrid):
    """The layer level of a whole UNET, without title and legend."""

    gap = 110.0

    def prepare(self) -> None:
        self.placed = flows_placed(self.graph, list(self.blocks))
        columns = [p.width for label, (_, p) in self.placed.items() if label[:2] in ("IN", "OU")]
        self.wide = max(columns) + 2 * _PAD
        side = [p.width for label, (_, p) in self.placed.items() if label.endswith(("EMBED", "EMB"))]
        self.side = max([self.side, *(w + 2 * _PAD for w in side)])

    def block_height(self, block: Block) -> float:
        return self.placed[block.label][1].height + _HEADER + _PAD

    def m00_inset(self) -> float:
        room = 2 * self.wide + self.gap
        needed = max(0.0, (room - self.placed["M00"][1].width - 2 * _PAD) / 2)
        return min(needed, self.wide / 2 - 60)  # the arrows from and to both columns must meet it

    def skip_port(self, label: str) -> tuple[float, float, float]:
        spot = self.spots[label]
        return spot.x, spot.right, spot.bottom - 30

    def stub_ports(self, label: str, role: str) -> list[tuple[float, float]]:
        spot, shift = self.spots[label], 0 if role == "time" else 24
        if label == "M00":
            return [(spot.centre + (-60 if role == "time" else 60), spot.bottom)]
        return [(spot.right if label.startswith("OUT") else spot.x, spot.y + 24 + shift)]

    def draw_summary(self, block: Block) -> None:
        self.draw_block(block)

    def draw_block(self, block: Block) -> None:
        spot = self.spots[block.label]
        with self.canvas.group(f"frame-{block.label}", "frame on-page", self.tooltip(block, ""), label=block.label):
            self.canvas.rect(spot.x, spot.y, spot.w, spot.h, "plate", rx=10)
            self.canvas.text(spot.x + _PAD, spot.y + 23, block.label, "lb")
            at = spot.x + _PAD + self.canvas.width_of(block.label, "lb") + 12
            left = draw_pills(self.canvas, spot.right - _PAD, spot.y + 8, self.slots[block.label])
            facts = f"{block.what} · {amount(block.params)}"
            self.canvas.text(at, spot.y + 23, facts, "sm", left - at - 8, "soft")
        flow, placed = self.placed[block.label]
        x = spot.x + (spot.w - placed.width) / 2
        draw_flow(self.canvas, x, spot.y + _HEADER, flow, placed, self.look, self.graph)


def draw_layers_of(graph: Graph, label: str, look: Look, prefix: str = "") -> Canvas:
    """The layer level of one block."""
    canvas = Canvas(prefix)
    flow, placed = flows_placed(graph, [label], {label: "TB"})[label]
    draw_flow(canvas, 0, 0, flow, placed, look, graph)
    canvas.grow(placed.width, placed.height)
    return canvas


def draw_flow(canvas: Canvas, x: float, y: float, flow: Flow, placed: Placed, look: Look, graph: Graph) -> None:
    """A block's layers and arrows with the upper left corner at (x, y)."""
    for (a, b), points in placed.edges.items():
        moved = [(px + x, py + y) for px, py in points]
        role = _role(flow.items[a], flow.items[b])
        with canvas.group("", "edge", f"{flow.items[a].text} → {flow.items[b].text}"):
            _spline(canvas, moved, role)
    for name, item in flow.items.items():
        left, top = placed.nodes[name]
        _draw_item(canvas, x + left, y + top, item, look, graph)


def _role(a: Item, b: Item) -> str:
    if a.text == "text":
        return "words"
    if a.text.endswith("(skip)") or b.text.endswith("(skip)"):
        return "skip"
    return "time" if a.text == "from TIME_EMBED" else "flow"


def _spline(canvas: Canvas, points: list[Point], role: str) -> None:
    """A Graphviz spline: cubic curves, with our arrow head at its end."""
    curve = " ".join(f"{num(px)} {num(py)}" for px, py in points[1:])
    canvas.path(
        f"M{num(points[0][0])} {num(points[0][1])}C{curve}", role if role in ("flow", "skip") else f"rail {role}"
    )
    (x0, y0), (x1, y1) = points[-2], points[-1]
    away = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5 or 1.0
    canvas.head((x1, y1), ((x1 - x0) / away, (y1 - y0) / away), role)


def _draw_item(canvas: Canvas, x: float, y: float, item: Item, look: Look, graph: Graph) -> None:
    w, h = item_size(item)
    if item.kind == "layer":
        _draw_layer(canvas, x, y, next(node for node in item.nodes if node.tensors), item.text, look, graph)
    elif item.kind == "stack":
        draw_strip(canvas, x, y, item, look, graph)
    else:
        with canvas.group("", f"{item.kind} on-page"):
            canvas.rect(x, y, w, h, "plate", rx=h / 2)
            canvas.text(x + w / 2, y + h / 2 + 4, item.text, "sb" if item.kind != "function" else "xs", extra="mid")


def _draw_layer(canvas: Canvas, x: float, y: float, node: Node, name: str, look: Look, graph: Graph) -> None:
    """A layer: its weight as a box, its bias as a small box at the right end."""
    w, h = _LAYER
    for n, (key, shape) in enumerate(node.tensors):
        weight = n == 0
        width = w - (_BIAS if len(node.tensors) > 1 else 0) if weight else _BIAS
        left = x if weight else x + w - _BIAS
        paint = look.values.paint(*tensor_names(node, key), lost=key in graph.missing)
        with canvas.group(
            f"layer-{key}", f"layer {paint.group}", tensor_tooltip(node, key, shape, paint.printed), key=key
        ):
            canvas.rect(left, y, width, h, f"box {paint.box}".strip(), paint.fill, rx=5)
            value = paint.printed if look.values.given or paint.printed else ""
            if weight:
                taken = canvas.width_of(value, "sb") + 8 if value else 0
                canvas.text(left + 8, y + 16, name, "mb", width - 14 - taken)
                if value:
                    canvas.text(left + width - 7, y + 16, value, "sb", extra="end")
                canvas.text(left + 8, y + 30, node.key.removeprefix(graph.record.prefix), "xs", width - 14, "dim")
                canvas.text(left + 8, y + 43, texts.shape(shape), "xs", width - 14)
            else:
                canvas.text(left + 6, y + 16, key.rpartition(".")[2], "xs", width - 10)
                if value:
                    canvas.text(left + 6, y + 30, value, "xs", width - 10)
                canvas.text(left + 6, y + 43, texts.shape(shape), "xs", width - 10)
