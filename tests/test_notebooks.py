"""Every notebook runs from top to bottom, and is committed without its outputs' weight."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
pytestmark = pytest.mark.long
# Seconds: only a cell that hangs takes longer.
PATIENCE = 3600
# How many pictures of the SVG kind a notebook shows.
PICTURES = {"01_unet_diagrams": 6}


# What a notebook begins with: no name of the one before it, and a folder of its own.
AFRESH = "import os\nos.chdir({folder!r})\n%reset -f"


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelManager]:
    """One kernel for all notebooks: each would import the same libraries anew, which takes longer than most of their cells."""
    manager = KernelManager()
    manager.start_kernel()
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_notebook_runs_from_top_to_bottom(path, tmp_path, kernel):
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(AFRESH.format(folder=str(tmp_path))))
    NotebookClient(notebook, km=kernel, timeout=PATIENCE).execute()
    assert path.stat().st_size < 600_000, "clear the outputs, or draw less: notebooks are read in diffs"
    assert set(PICTURES) <= {p.stem for p in NOTEBOOKS}
    if path.stem in PICTURES:
        shown = [out.get("data", {}) for cell in notebook.cells for out in cell.get("outputs", ())]
        assert sum("image/svg+xml" in data for data in shown) == PICTURES[path.stem]
