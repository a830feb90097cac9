"""DOT source of every level, for Graphviz and the tools that read it.

It holds the same boxes, names and edges as the picture, with clusters per label; the exact U is the SVG writer's.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..checkpoints.text import amount
from . import text as texts
from .graph import Graph
from .graphviz import LIMITS, quoted
from .layer_flow import flow_of
from .summary import blocks_of
from .tensor_box import tensor_names
from .ugrid import Look
from .values import Paint, label_names


def dot_source(graph: Graph, level: str, block: str | None, look: Look, title: str) -> str:
    """The DOT source of a UNET at a level, or of one block of it."""
    lines = [
        "digraph unet {",
        f"graph [{LIMITS} label={text_of(title)} labelloc=t fontname=Helvetica compound=true]",
        'node [shape=box style="rounded,filled" fillcolor=white fontname=Helvetica fontsize=11]',
        'edge [color="#3d4756" fontname=Helvetica]',
    ]
    if level == "block":
        lines += _blocks(graph, look)
    elif level == "module":
        lines += _modules(graph, block, look)
    else:
        lines += _layers(graph, block, look)
    return "\n".join([*lines, "}"]) + "\n"


def text_of(*lines: object) -> str:
    """A DOT label of several lines; whatever is in them is shown as it is."""
    return '"' + "\\n".join(quoted(texts.plain(line))[1:-1] for line in lines if str(line)) + '"'


def _node(name: str, lines: Iterable[object], paint: Paint) -> str:
    style = ""
    if paint.printed == "missing":
        style = ' style="rounded,dashed"'
    elif paint.fill:
        style = f' fillcolor="{paint.fill}" fontcolor="{"#10151d" if paint.group == "on-light" else "#ffffff"}"'
    shown = [*lines, paint.printed] if paint.printed else list(lines)
    return f"{quoted(texts.plain(name))} [id={quoted(texts.plain(name))} label={text_of(*shown)}{style}]"


def _edge(a: str, b: str, skip: bool) -> str:
    style = " [style=dashed constraint=false]" if skip else ""
    return f"{quoted(texts.plain(a))} -> {quoted(texts.plain(b))}{style}"


def _blocks(graph: Graph, look: Look) -> list[str]:
    lines = []
    for label, block in blocks_of(graph).items():
        paint = look.values.paint(block.kind, label_names(label), block.members(), lost=block.lost(graph))
        facts = f"{texts.shape(block.output)}, {amount(block.params)}"
        lines.append(_node(label, (label, block.what, facts), paint))
    for a, b in graph.block_edges():
        lines.append(_edge(a, b, graph.record.skip_partner(a) == b))
    return lines


def _modules(graph: Graph, only: str | None, look: Look) -> list[str]:
    lines, drawn = [], set()
    for label, block in blocks_of(graph).items():
        if only not in (None, label):
            continue
        lines.append(f"subgraph {quoted('cluster_' + label)} {{ label={text_of(label)}")
        for unit in block.units:
            paint = look.values.paint(unit.kind, (unit.name, unit.prefix), unit.members(), (label,), unit.lost(graph))
            lines.append(_node(unit.name, (unit.what, unit.name, unit.prefix, amount(unit.params)), paint))
            drawn.add(unit.name)
        lines.append("}")
    label_of = {node.unit: node.label for node in graph.nodes}
    for a, b in graph.unit_edges():
        if only is None or (a in drawn and b in drawn):
            lines.append(_edge(a, b, graph.record.skip_partner(label_of[a]) == (label_of[b] or "-")))
    return lines


def _layers(graph: Graph, only: str | None, look: Look) -> list[str]:
    lines = []
    for label in graph.labels() if only is None else [only]:
        flow = flow_of(graph, label)
        lines.append(f"subgraph {quoted('cluster_' + label)} {{ label={text_of(label)}")
        for item in flow.items.values():
            name = f"{label} {item.name}"
            if item.kind == "layer":
                node = next(n for n in item.nodes if n.tensors)
                shapes = [f"{key.rpartition('.')[2]} {texts.shape(shape)}" for key, shape in node.tensors]
                paint = look.values.paint(
                    *tensor_names(node, node.tensors[0][0]), lost=node.tensors[0][0] in graph.missing
                )
                lines.append(_node(name, (item.text, node.key, *shapes), paint))
            else:
                said = item.text
                if item.kind == "stack":
                    tensors = [t for n in item.nodes for t in n.tensors]
                    said = f"{item.text}: {len(tensors)} tensors"
                lines.append(_node(name, (said,), Paint("", "", "on-page")))
        lines.append("}")
        lines += [_edge(f"{label} {a}", f"{label} {b}", False) for a, b in flow.edges]
    return lines
