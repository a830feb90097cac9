"""What a tensor's box is called and says, wherever it is drawn."""

from __future__ import annotations

from . import text as texts
from .graph import Node, Shape


def tensor_names(node: Node, key: str) -> tuple[str, tuple[str, ...], tuple, tuple[str, ...]]:
    """How to look a tensor's value up: class of its box, its own names, members (none), names around it."""
    kind = "k-norm" if "Norm" in node.kind else "k-emb" if "emb" in node.module else "k-res"
    if node.kind == "Linear" and "emb" not in node.module:
        kind = "k-attn"
    layer = key.rpartition(".")[0]
    return kind, (key,), (), (layer, node.module, node.unit, node.label)


def tensor_tooltip(node: Node, key: str, shape: Shape, printed: str) -> str:
    """What hovering over a tensor says."""
    lines = [key, node.module, texts.shape(shape), f"{texts.elements(shape):,} parameters", node.label]
    return "; ".join([*lines, f"value {printed}"] if printed else lines)
