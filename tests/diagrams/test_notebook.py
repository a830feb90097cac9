"""The notebook runs from top to bottom."""

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "01_unet_diagrams.ipynb"


def test_the_notebook_of_diagrams_runs_and_draws():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("typst")
    notebook = nbformat.read(NOTEBOOK, 4)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    pictures = [
        out for cell in notebook.cells for out in cell.get("outputs", ()) if "image/svg+xml" in out.get("data", {})
    ]
    assert len(pictures) == 6
