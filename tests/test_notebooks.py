"""Every notebook runs from top to bottom, and is committed without its outputs' weight."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
# Seconds: only a cell that hangs takes longer.
PATIENCE = 3600
# How many pictures of the SVG kind a notebook shows.
PICTURES = {"01_unet_diagrams": 6}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_notebook_runs_from_top_to_bottom(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=PATIENCE, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert path.stat().st_size < 600_000, "clear the outputs, or draw less: notebooks are read in diffs"
    assert set(PICTURES) <= {p.stem for p in NOTEBOOKS}
    if path.stem in PICTURES:
        shown = [out.get("data", {}) for cell in notebook.cells for out in cell.get("outputs", ())]
        assert sum("image/svg+xml" in data for data in shown) == PICTURES[path.stem]
