"""Saving a diagram: SVG and DOT as text, PNG and PDF made from the SVG.

PNG and PDF come from `typst`, a wheel for Linux, Windows and macOS that needs nothing of the system, reads our stylesheet
right, keeps a PDF's text as text, and has fonts of its own where a machine has none. (MuPDF and Skia ignore the
stylesheet, svglib drops bold text and patterns, cairosvg needs a system library.)
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints.errors import OutputError
from ..checkpoints.output import write_output
from .architectures import DrawingError

if TYPE_CHECKING:
    from .drawing import Drawing

SUFFIXES = (".svg", ".png", ".pdf", ".dot")
PIXELS_PER_INCH = 192.0  # a PNG has twice the pixels that the SVG states
# Beyond this many pixels a PNG of a whole layer level would take gigabytes of memory.
MOST_PIXELS = 100e6
_PAGE = "#set page(width: auto, height: auto, margin: 0pt)\n#image({picture}, width: {width:.1f}pt)\n"


def save_drawing(drawing: Drawing, path: Path) -> Path:
    """Write a drawing in the format of the path's suffix; see `Drawing.save`."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DrawingError(
            f"{path}: a diagram cannot be saved as {suffix or 'a file without suffix'!r}; use {', '.join(SUFFIXES)}"
        )
    if suffix in (".png", ".pdf"):
        data = render(drawing, suffix.removeprefix("."))
    else:
        data = (drawing.svg if suffix == ".svg" else drawing.dot).encode("utf-8")
    try:
        write_output(path, data)
    except OutputError as error:
        raise DrawingError(str(error)) from None
    return path


def render(drawing: Drawing, form: str) -> bytes:
    """A drawing as the bytes of a `png` or `pdf`, in its forced theme, or light when it follows the reader's.

    Raises:
        DrawingError: typst is not installed.
    """
    try:
        import typst
    except ImportError:
        raise DrawingError(
            f"saving a diagram as {form.upper()} needs typst: pip install typst (SVG needs nothing)"
        ) from None
    theme = "light" if drawing.theme == "auto" else drawing.theme
    svg, (width, height) = drawing.canvas.document(drawing.title, theme), drawing.size
    points = width * 0.75  # CSS pixels are 1/96 inch
    resolution = min(PIXELS_PER_INCH, 96 * (MOST_PIXELS / (width * height)) ** 0.5) if form == "png" else None
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "picture.svg").write_text(svg, encoding="utf-8")
        page = Path(folder) / "page.typ"
        page.write_text(_PAGE.format(picture='"picture.svg"', width=points), encoding="utf-8")
        return typst.compile(str(page), format=form, ppi=resolution)
