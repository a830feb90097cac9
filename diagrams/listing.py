"""The list of layers: a row per parameter tensor of a UNET, for tables and files."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.families.conventions import lbw_index
from ..checkpoints.files.output import write_output
from .drawing import subject_of
from .text import elements

if TYPE_CHECKING:
    from ..checkpoints.checkpoint import Checkpoint

COLUMNS: tuple[str, ...] = ("key", "module", "label", "lbw", "kind", "shape", "params")


def layers(architecture: str | Checkpoint) -> list[dict]:
    """Every parameter tensor of a UNET in network order.

    Args:
        architecture: `sd1`, `sd2`, `sdxl`, `sdxl_refiner`, or an opened checkpoint; tensors that a checkpoint lacks are
            left out, and shapes are its own.

    Returns:
        A dict per tensor: `key` (single-file naming), `module` (diffusers' path), `label`, `lbw` (whether the LoRA weight
        vector of the architecture has the label), `kind`, `shape` (a list), `params`.

    Raises:
        UnetscopeError: an unknown architecture, or a checkpoint without a known UNET.

    Example:
        >>> rows = layers("sd1")
        >>> len(rows), rows[0]["key"], rows[0]["label"], rows[0]["shape"]
        (686, 'model.diffusion_model.input_blocks.0.0.weight', 'IN00', [320, 4, 3, 3])
    """
    graph = subject_of(architecture).graph
    return [
        {
            "key": key,
            "module": node.module,
            "label": node.label,
            "lbw": lbw_index(node.label, graph.family) is not None,
            "kind": graph.record.kind_of(key),
            "shape": list(shape),
            "params": elements(shape),
        }
        for node in graph.nodes
        for key, shape in node.tensors
        if key not in graph.missing
    ]


def save_layers(rows: list[dict], path: str | Path) -> Path:
    """Write what `layers` returned as `.json` (a list of objects) or `.csv` (shapes as `320x4x3x3`).

    Raises:
        UnetscopeError: for another suffix, or when the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        text = "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
    elif path.suffix.lower() == ".csv":
        table = io.StringIO()
        writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "shape": "x".join(map(str, row["shape"]))} for row in rows)
        text = table.getvalue()
    else:
        raise UnetscopeError(
            f"{path}: a list of layers is saved as .json or .csv, not as {path.suffix or 'no suffix'!r}"
        )
    write_output(path, text)
    return path
