"""The tree of a merge recipe: models as leaves on the left, steps to the right of what they take, the result last.

The tree is plain data, so this room need not know what a recipe is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from . import text as texts
from .legend import draw_notes, draw_title, wrapped
from .svg import Canvas
from .theme import Theme

_LEAF_W, _LEAF_H, _LEAF_STEP = 340.0, 44.0, 56.0
_STEP_W, _BETWEEN = 230.0, 84.0
_LINE = 14.0
_SHARES = "Percentages: effective share of each model in the result. Shares below 0 subtract."
_NO_SHARES = "What each model gives to the result follows from the values of its weights, so there are no percentages."


@dataclass(frozen=True)
class TreeNode:
    """A model or a step.

    Attributes:
        name: the model's file name, or the step's method.
        detail: more about it (weights, parameters), wrapped to a few lines.
        share: of a leaf: its effective share of the result, 1 for all of it; None when it has no single one.
        role: what it is to the step that takes it (`a`, `b · 0.3`), written on the arrow.
        children: what a step takes, in its order; none for a model.
    """

    name: str
    detail: str = ""
    share: float | None = None
    role: str = ""
    children: Sequence[TreeNode] = ()


@dataclass
class _Spot:
    node: TreeNode
    column: int
    y: float  # the middle
    lines: list[str]
    below: list[_Spot] = field(default_factory=list)

    @property
    def height(self) -> float:
        return _step_height(self.lines) if self.node.children else _LEAF_H


def _step_height(lines: list[str]) -> float:
    return 30.0 + _LINE * len(lines)


def draw_tree(root: TreeNode, title: str = "Recipe", subtitle: str = "", theme: Theme = "auto"):
    """A recipe's tree as a `Drawing`.

    Example:
        >>> leaves = TreeNode("photo", share=0.7), TreeNode("anime", share=0.3)
        >>> draw_tree(TreeNode("weighted_sum", "alpha 0.3", children=leaves)).save("tree.svg").name
        'tree.svg'
    """
    from .drawing import Drawing, theme_named

    canvas = Canvas()
    top, bottom = draw_title(canvas, title, subtitle, 900.0) + 6, 0.0
    spot, end = _place(root, top)
    for one in _walk(spot):
        for child in one.below:
            _arrow(canvas, child, one)
    for number, one in enumerate(_walk(spot), 1):
        _box(canvas, one, number)
        bottom = max(bottom, one.y + one.height / 2)
    end = max(end, bottom)
    leaves = [one.node.share for one in _walk(spot) if not one.node.children]
    note = _SHARES if any(share is not None for share in leaves) else _NO_SHARES
    draw_notes(canvas, 0, end + 16, [note], 800.0)
    canvas.grow(_left(spot.column) + _STEP_W, end + 44)
    return Drawing(canvas, title, theme_named(theme), (), lambda: tree_dot(root, title))


def _left(column: int) -> float:
    return 0.0 if column == 0 else _LEAF_W + _BETWEEN + (column - 1) * (_STEP_W + _BETWEEN)


def _place(node: TreeNode, top: float) -> tuple[_Spot, float]:
    """A subtree below `top`; returns it and where the next one may begin."""
    if not node.children:
        return _Spot(node, 0, top + _LEAF_H / 2, []), top + _LEAF_STEP
    lines = wrapped(texts.plain(node.detail, 200), _STEP_W - 20, "xs")[:4] if node.detail else []
    tall = _step_height(lines)
    # A tall step above a single child would reach into the row above.
    below, at = [], top + (max(0.0, (tall - _LEAF_H) / 2) if len(node.children) == 1 else 0.0)
    for child in node.children:
        spot, at = _place(child, at)
        below.append(spot)
    own = _Spot(node, 1 + max(s.column for s in below), (below[0].y + below[-1].y) / 2, lines, below)
    return own, max(at, own.y + own.height / 2 + 12)


def _walk(spot: _Spot):
    yield spot
    for child in spot.below:
        yield from _walk(child)


def _arrow(canvas: Canvas, child: _Spot, parent: _Spot) -> None:
    """From a child's right side to its parent's left side; the last bend stands in the gap before the parent."""
    x0 = _left(child.column) + (_STEP_W if child.node.children else _LEAF_W)
    x1 = _left(parent.column)
    turn = x1 - 30
    points = [(x0, child.y), (turn, child.y), (turn, parent.y), (x1, parent.y)]
    if abs(child.y - parent.y) < 1:
        points = [points[0], points[-1]]
    with canvas.group("", "edge on-page", f"{child.node.name} → {parent.node.name}"):
        canvas.arrow(points, "flow")
        if child.node.role:
            canvas.text(x0 + 5, child.y - 5, child.node.role, "xs", max(turn - x0 - 6, 40), "soft")


def _box(canvas: Canvas, spot: _Spot, number: int) -> None:
    node, x, y = spot.node, _left(spot.column), spot.y - spot.height / 2
    tooltip = "; ".join(filter(None, (node.name, node.detail, percent(node.share))))
    if node.children:
        with canvas.group(f"step-{number}", "step on-page", tooltip):
            canvas.rect(x, y, _STEP_W, spot.height, "box k-attn")
            canvas.text(x + 10, y + 20, node.name, "mb", _STEP_W - 20)
            for n, line in enumerate(spot.lines):
                canvas.text(x + 10, y + 35 + n * _LINE, line, "xs", _STEP_W - 16)
        return
    with canvas.group(f"model-{number}", "model on-page", tooltip, share=percent(node.share)):
        canvas.rect(x, y, _LEAF_W, _LEAF_H, "box k-res")
        shown = percent(node.share)
        canvas.text(x + _LEAF_W - 10, y + 18, shown, "mb", extra="end")
        canvas.text(x + 10, y + 18, node.name, "mb", _LEAF_W - 30 - canvas.width_of(shown, "mb"))
        canvas.text(x + 10, y + 32, node.detail, "xs", _LEAF_W - 20, "dim")
        if node.share is not None:
            canvas.rect(x + 10, y + 37, _LEAF_W - 20, 4, "bar track", rx=2)
            canvas.rect(x + 10, y + 37, (_LEAF_W - 20) * min(abs(node.share), 1.0), 4, "bar", rx=2)


def percent(share: float | None) -> str:
    """A share as people read it: `12.5 %`, `−30 %`."""
    if share is None:
        return ""
    digits = 2 if 0 < abs(share) < 0.01 else 1
    return f"{100 * share:.{digits}f} %".replace("-", "−").replace(".0 %", " %")


def tree_dot(root: TreeNode, title: str) -> str:
    """The tree as DOT source."""
    from .dot import text_of

    lines = [f"digraph recipe {{ graph [rankdir=LR label={text_of(title)} labelloc=t fontname=Helvetica]",
             "node [shape=box style=rounded fontname=Helvetica]"]  # fmt: skip
    count = 0

    def add(node: TreeNode) -> int:
        nonlocal count
        count += 1
        own = count
        lines.append(f"n{own} [label={text_of(node.name, node.detail, percent(node.share))}]")
        for child in node.children:
            lines.append(f"n{add(child)} -> n{own}" + (f" [label={text_of(child.role)}]" if child.role else ""))
        return own

    add(root)
    return "\n".join([*lines, "}"]) + "\n"
