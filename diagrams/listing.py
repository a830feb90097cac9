"""The list of layers: a row per parameter tensor of a UNET, for tables and files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..checkpoints.conventions import lbw_index
from ..checkpoints.layers import layer_kind
from .drawing import subject_of
from .text import elements

if TYPE_CHECKING:
    from ..checkpoints.checkpoint import Checkpoint

COLUMNS = ("key", "module", "label", "lbw", "kind", "shape", "params")


def layers(architecture: str | Checkpoint) -> list[dict]:
    """Every parameter tensor of a UNET in network order.

    Args:
        architecture: `sd1`, `sd2`, `sdxl`, `sdxl_refiner`, or an opened checkpoint; tensors that a checkpoint lacks are
            left out, and shapes are its own.

    Returns:
        A dict per tensor: `key` (single-file naming), `module` (diffusers' path), `label`, `lbw` (whether the LoRA weight
        vector of the architecture has the label), `kind`, `shape` (a list), `params`.

    Raises:
        DrawingError: an unknown architecture, or a checkpoint without a known UNET.
    """
    graph = subject_of(architecture).graph
    return [
        {
            "key": key,
            "module": node.module,
            "label": node.label,
            "lbw": lbw_index(node.label, graph.family) is not None,
            "kind": layer_kind(key),
            "shape": list(shape),
            "params": elements(shape),
        }
        for node in graph.nodes
        for key, shape in node.tensors
        if key not in graph.missing
    ]
