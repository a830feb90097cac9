"""A stack of transformer layers as a heat strip: a row per layer, a column per tensor."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..checkpoints.text import number
from . import text as texts
from .graph import Graph, Node, Shape
from .layer_flow import Item
from .svg import Canvas, Point
from .tensor_box import tensor_names, tensor_tooltip
from .ugrid import Look

_LAYER = re.compile(r"transformer_blocks\.(\d+)\.(.+)$")
# Groups of columns: what stands above them, and the parts of a layer in them.
_GROUPS = (
    ("norm1", ("norm1",)),
    ("self-attention", ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0")),
    ("norm2", ("norm2",)),
    ("cross-attention", ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")),
    ("norm3", ("norm3",)),
    ("feed-forward", ("ff.net.0.proj", "ff.net.2")),
)
_NAMES = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "out", "net.0.proj": "in", "net.2": "out"}
_ROW, _WEIGHT, _BIAS, _GAP = 20.0, 56.0, 14.0, 9.0
_TOP, _LEFT, _PAD = 58.0, 26.0, 8.0


@dataclass(frozen=True, slots=True)
class Cell:
    """A tensor of a layer: the row that it stands in, the part of the layer and the parameter that it is."""

    row: int
    part: str
    param: str
    node: Node
    key: str
    shape: Shape


def cells_of(item: Item) -> list[Cell]:
    """Every tensor of a stack."""
    cells = []
    for node in item.nodes:
        for key, shape in node.tensors:
            layer = _LAYER.search(node.module)
            cells.append(Cell(int(layer[1]), layer[2], key.rpartition(".")[2], node, key, shape))
    return cells


def _columns(
    cells: list[Cell],
) -> tuple[dict[tuple[str, str], tuple[float, float]], list[tuple[str, float, float]], float]:
    """Where columns stand: (part, parameter) -> (x, width); the groups above them (name, x, width); the whole width.

    Parts that no group names get one of their own at the end, so that nothing is left out.
    """
    present = list(dict.fromkeys((c.part, c.param) for c in cells))
    known = {part for _, parts in _GROUPS for part in parts}
    others = tuple(dict.fromkeys(part for part, _ in present if part not in known))
    x, columns, groups = _LEFT, {}, []
    for name, parts in (*_GROUPS, ("other", others)):
        start = x
        for part in parts:
            for param in [p for q, p in present if q == part]:
                w = _BIAS if param == "bias" else _WEIGHT
                columns[part, param] = (x, w)
                x += w
        if x > start:
            groups.append((name, start, x - start))
            x += _GAP
    return columns, groups, x - _GAP


def strip_size(item: Item) -> Point:
    """Width and height of a stack's box."""
    cells = cells_of(item)
    rows = max(c.row for c in cells) + 1
    return _columns(cells)[2] + _PAD, _TOP + rows * _ROW + _PAD


def draw_strip(canvas: Canvas, x: float, y: float, item: Item, look: Look, graph: Graph) -> None:
    """A stack with its upper left corner at (x, y)."""
    cells = cells_of(item)
    columns, groups, _ = _columns(cells)
    w, h = strip_size(item)
    with canvas.group(f"stack-{item.name}", "stack on-page", item.name):
        canvas.rect(x, y, w, h, "plate", rx=6)
        for name, left, width in groups:
            short = name if canvas.width_of(name, "sb") <= width + 4 else name[0] + name[-1]
            canvas.text(x + left + width / 2, y + 17, short, "sb", extra="mid")
        for (part, param), (left, width) in columns.items():
            first = next(c for c in cells if (c.part, c.param) == (part, param))
            if param == "bias":
                canvas.text(x + left + width / 2, y + 33, "b", "xs", extra="mid soft")
                continue
            name = next((short for long, short in _NAMES.items() if part.endswith(long)), "w")
            canvas.text(x + left + width / 2, y + 33, name, "xs", extra="mid")
            canvas.text(x + left + width / 2, y + 48, texts.shape(first.shape), "xxs", width + 12, extra="mid soft")
        for row in dict.fromkeys(c.row for c in cells):
            canvas.text(x + _LEFT - 6, y + _TOP + row * _ROW + 14, row, "xs", extra="end")
        for cell in cells:
            left, width = columns[cell.part, cell.param]
            _draw_cell(canvas, x + left, y + _TOP + cell.row * _ROW, width, cell, look, graph)


def _draw_cell(canvas: Canvas, x: float, y: float, width: float, cell: Cell, look: Look, graph: Graph) -> None:
    paint = look.values.paint(*tensor_names(cell.node, cell.key), lost=cell.key in graph.missing)
    tooltip = tensor_tooltip(cell.node, cell.key, cell.shape, paint.printed)
    with canvas.group(f"layer-{cell.key}", f"layer {paint.group}", tooltip, key=cell.key):
        canvas.rect(x, y, width - 1, _ROW - 1, paint.box, paint.fill, rx=2)
        if paint.value is not None and width > 30:
            canvas.text(x + width / 2, y + 13.5, number(paint.value), "xxs", width + 2, "mid")
