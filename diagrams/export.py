"""A finished diagram, and how it is saved: SVG and DOT as text, PNG and PDF made from the SVG.

PNG and PDF come from `typst`, a wheel for Linux, Windows and macOS that needs nothing of the system, reads our stylesheet
right, keeps a PDF's text as text, and has fonts of its own where a machine has none. (MuPDF and Skia ignore the
stylesheet, svglib drops bold text and patterns, cairosvg needs a system library.)
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.files.output import write_output
from .svg import MARGIN, Canvas
from .theme import Theme

SUFFIXES = (".svg", ".png", ".pdf", ".dot")
PIXELS_PER_INCH = 192.0  # a PNG has twice the pixels that the SVG states
# Beyond this many pixels a PNG of a whole layer level would take gigabytes of memory.
MOST_PIXELS = 100e6
_PAGE = "#set page(width: auto, height: auto, margin: 0pt)\n#image({picture}, width: {width:.1f}pt)\n"


@dataclass(frozen=True)
class Drawing:
    """A finished diagram. In a notebook it shows itself.

    Attributes:
        title: what it shows, in plain text.
        theme: `light`, `dark`, or `auto` for both in one SVG.
        unused: the names of values that belong to nothing in this diagram.
    """

    canvas: Canvas
    title: str
    theme: Theme = "auto"
    unused: tuple[str, ...] = ()
    _dot: Callable[[], str] = field(default=str, repr=False)

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in pixels."""
        return self.canvas.width + 2 * MARGIN, self.canvas.height + 2 * MARGIN

    @property
    def svg(self) -> str:
        """The self-contained SVG file."""
        return self.canvas.document(self.title, self.theme)

    @property
    def dot(self) -> str:
        """The same graph as DOT source, for Graphviz."""
        return self._dot()

    def save(self, path: str | Path) -> Path:
        """Write the diagram; the suffix says how: `.svg`, `.png`, `.pdf` or `.dot`.

        Raises:
            UnetscopeError: for another suffix, or when a library that PNG or PDF needs is not installed.
        """
        return save_drawing(self, Path(path))

    def _repr_svg_(self) -> str:
        return self.svg


def save_drawing(drawing: Drawing, path: Path) -> Path:
    """Write a drawing in the format of the path's suffix; see `Drawing.save`."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UnetscopeError(
            f"{path}: a diagram cannot be saved as {suffix or 'a file without suffix'!r}; use {', '.join(SUFFIXES)}"
        )
    if suffix in (".png", ".pdf"):
        data = render(drawing, suffix.removeprefix("."))
    else:
        data = (drawing.svg if suffix == ".svg" else drawing.dot).encode("utf-8")
    write_output(path, data)
    return path


def render(drawing: Drawing, form: str) -> bytes:
    """A drawing as the bytes of a `png` or `pdf`, in its forced theme, or light when it follows the reader's.

    Raises:
        UnetscopeError: typst is not installed.
    """
    try:
        import typst
    except ImportError:
        raise UnetscopeError(
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
