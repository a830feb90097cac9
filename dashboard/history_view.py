"""What a file was merged from, as a picture and as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from ..checkpoints.text import printable

if TYPE_CHECKING:
    from ..diagrams import TreeNode
    from ..library.history import HistoryNode

# A larger tree is shown as text alone.
_DRAWN_NODES = 60


def show_history(history: HistoryNode | None) -> None:
    """The tree, or that none is recorded."""
    if history is None:
        st.info(
            "Its metadata do not say what it was merged from. The page Where from can work it out from the weights."
        )
        return
    if count_nodes(history) <= _DRAWN_NODES:
        from ..diagrams import draw_tree

        theme = "dark" if st.context.theme.type == "dark" else "light"
        picture = draw_tree(_tree(history), title="Merged from", theme=theme)
        st.image(picture.svg, alt="The tree of models that this file was merged from; the text below says the same")
    else:
        st.caption("The tree is too large to draw; as text:")
    with st.expander("As text", expanded=count_nodes(history) > _DRAWN_NODES):
        st.code("\n".join(history_lines(history)), language=None)


def count_nodes(node: HistoryNode) -> int:
    """How many models and steps there are."""
    return 1 + sum(count_nodes(child) for child in node.children)


def history_lines(node: HistoryNode, depth: int = 0) -> list[str]:
    """A line for each model or step, indented."""
    digest = f"sha256 {node.hash[:10]}" if node.hash else ""
    parts = "  ".join(printable(part) for part in (node.name, node.method, node.detail, digest) if part)
    return ["  " * depth + parts] + [line for child in node.children for line in history_lines(child, depth + 1)]


def _tree(node: HistoryNode) -> TreeNode:
    from ..diagrams import TreeNode

    digest = f"sha256 {node.hash[:10]}" if node.hash else ""
    said = ", ".join(part for part in (node.method, node.detail, digest) if part)
    return TreeNode(node.name, said, children=[_tree(child) for child in node.children])
