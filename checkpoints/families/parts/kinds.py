"""The kinds of layer that a tensor may belong to: `attn1.q`, `ff.in`, `norm`, `conv`... A family says which one it is.

The same short names select layers in a merge recipe, name the rows of a heatmap and the cells of a diagram.
"""

from __future__ import annotations

# Kinds in the order in which tables list them; a group is what stands before the dot.
KINDS: tuple[str, ...] = (
    "conv",
    "skip",
    "norm",
    "emb",
    "proj",
    "attn1.q",
    "attn1.k",
    "attn1.v",
    "attn1.out",
    "attn2.q",
    "attn2.k",
    "attn2.v",
    "attn2.out",
    "attn.q",
    "attn.k",
    "attn.v",
    "attn.qkv",
    "attn.out",
    "ff.in",
    "ff.out",
    "other",
)


def in_group(kind: str, wanted: str) -> bool:
    """Whether a kind is `wanted` itself or belongs to that group: `attn1.q` is in `attn1` and in `attn1.q`."""
    return kind == wanted or kind.startswith(wanted + ".")
