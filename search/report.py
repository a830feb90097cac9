"""The report of a search: a folder with a page that any browser opens, and every picture of it as a file of its own."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.files.output import replace_file
from ..checkpoints.text import counted
from .errors import SearchError
from .importance import importances
from .overview import Overview, compared, first, read_overview
from .plots.diagram import best_diagram
from .report_page import Material, page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Sides of the copies of images, in pixels, and how many are shown.
_SIDE, _QUALITY = 512, 90
MOST_REQUESTS = 24


def write_report(run: Path, folder: Path, *, top: int = 10, say: Callable[[str], None] = lambda text: None) -> Path:
    """Write the report of a search, finished or not.

    Args:
        run: a run folder, or an AutoMBW log (CSV).
        folder: where it goes; made if need be, files of an earlier report are replaced.
        top: over how many of the best trials the spread of weights is taken, and how many the table lists.
        say: gets a sentence for what is damaged in the run and left out; the page has them too.

    Returns:
        its `index.html`. Beside it: `plots/` (PNG and SVG, light and dark), `images/`, `trials.csv`.

    Raises:
        SearchError: there is no search, it has no trial yet, or the folder cannot be written.
    """
    run, folder = Path(run), Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _write_one(read_overview(run), folder, max(top, 1), say)
    except OSError as error:
        raise SearchError(f"{folder}: the report cannot be written ({error.strerror or error})") from None


def _write_one(overview: Overview, folder: Path, top: int, say: Callable[[str], None]) -> Path:
    if not overview.trials:
        why = f"no trial of it can be read ({overview.notes[0]})" if overview.notes else "has no finished trial yet"
        raise SearchError(f"{overview.path}: {why}, so there is nothing to report")
    for note in first(overview.notes):
        say(note)
    (folder / "plots").mkdir(exist_ok=True)
    material = Material(notes=first(overview.notes))
    _draw_plots(overview, folder, top, material)
    _draw_diagrams(overview, folder, top, material)
    _copy_images(overview, folder, material)
    _write_table(overview, folder / "trials.csv")
    index = folder / "index.html"
    replace_file(index, page(overview, material, top))
    return index


# -- plots --------------------------------------------------------------------------------------------------------------


def _draw_plots(overview: Overview, folder: Path, top: int, material: Material) -> None:
    from .plots.cost import draw_cost
    from .plots.course import draw_course
    from .plots.importance import draw_importance
    from .plots.weights import draw_weights

    name, best = overview.name, overview.best
    if best is not None:
        done = counted(len(overview.complete), "trial")
        words = f"Scores of {done} of {name}; the best is {best.score:.4g}, of trial {best.number}"
        _save(lambda dark: draw_course(overview, dark=dark), "course", words, folder, material)
    for number, of in enumerate(overview.moved()):
        if spread := overview.spread(of, top):
            limits, few = overview.limits(of), min(top, len(overview.complete))
            words = f"Weights of {of} by block in the best trial: " + ", ".join(
                f"{k} {s.best:.2f}" for k, s in spread.items()
            )
            plot = lambda dark, s=spread, f=few, e=limits: draw_weights(s, f, e, dark=dark)  # noqa: E731
            _save(plot, f"weights-{number}", words, folder, material)
    method, found = importances(overview)
    if found:
        material.importance = method
        first = list(found)[:3]
        words = f"Importance of {counted(len(found), 'free number')} ({method}); the largest: {', '.join(first)}"
        plot = lambda dark: draw_importance(found, method, overview.chance(), dark=dark)  # noqa: E731
        _save(plot, "importance", words, folder, material)
    if any(overview.costs(t) for t in overview.trials):
        total = sum(sum(overview.costs(t).values()) for t in overview.trials)
        words = f"Seconds of each trial by what they went to; {total:.0f} s in all"
        _save(lambda dark: draw_cost(overview, dark=dark), "cost", words, folder, material)


def _save(draw: Callable[[bool], Figure], name: str, words: str, folder: Path, material: Material) -> None:
    """A plot in both themes, as SVG for the page and as PNG to pass on."""
    from ..analysis.plots.style import save

    for dark, suffix in ((False, ""), (True, "-dark")):
        figure = draw(dark)
        for form in ("svg", "png"):
            save(figure, folder / "plots" / f"{name}{suffix}.{form}")
    material.plots[name] = (f"plots/{name}.svg", f"plots/{name}-dark.svg", words)


def _draw_diagrams(overview: Overview, folder: Path, top: int, material: Material) -> None:
    for number, of in enumerate(overview.moved()):
        name = f"unet-{number}"
        try:
            drawing = best_diagram(overview, of, top)
            if drawing is None:
                continue
            drawing.save(folder / "plots" / f"{name}.svg")
            drawing.save(folder / "plots" / f"{name}.png")
        except UnetscopeError as error:
            if not (folder / "plots" / f"{name}.svg").is_file():
                material.notes.append(f"No diagram of {of}: {error}")
                continue
            material.notes.append(f"No PNG of the diagram: {error}")
        words = (
            f"The model's blocks with the weights of {of} in the best trial; bars: how far the best trials are apart"
        )
        material.diagrams[of] = (f"plots/{name}.svg", words)


# -- files ----------------------------------------------------------------------------------------------------------------


def _copy_images(overview: Overview, folder: Path, material: Material) -> None:
    """Small copies of the images of the best trial and the baselines, on the prompts that the best one has."""
    from PIL import Image

    columns, requests = compared(overview)
    if not columns:
        if overview.requests:
            material.notes.append("No image of the best trials was kept, so none is shown.")
        return
    if len(requests) > MOST_REQUESTS:
        material.notes.append(f"{MOST_REQUESTS} of {len(requests)} prompts are shown.")
    material.columns, material.requests = [trial for trial, _ in columns], requests[:MOST_REQUESTS]
    for trial, images in columns:
        (folder / "images").mkdir(exist_ok=True)
        for row, request in enumerate(material.requests):
            if request not in images:
                continue
            name = f"images/{trial.number:05d}-{row:02d}.jpg"
            try:
                with Image.open(images[request]) as image:
                    small = image.convert("RGB")
            except Exception:  # still being written, or damaged: Pillow raises errors of many types
                material.notes.append(
                    f"{images[request].name} of trial {trial.number} cannot be read, and is not shown."
                )
                continue
            small.thumbnail((_SIDE, _SIDE))
            picture = io.BytesIO()
            small.save(picture, "JPEG", quality=_QUALITY)
            replace_file(folder / name, picture.getvalue(), fsync=False)
            material.images[trial.number, request] = name


def _write_table(overview: Overview, path: Path) -> None:
    """Every trial with its point and its time."""
    names = [p.name for p in overview.parameters]
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["trial", "state", "baseline", "score", *names, "seconds", "note"])
    for t in overview.trials:
        seconds = sum(overview.costs(t).values())
        row = [t.number, t.state, t.baseline, t.score, *(t.point.get(name, "") for name in names), f"{seconds:.2f}"]
        writer.writerow([_cell(value) for value in [*row, t.note]])
    replace_file(path, table.getvalue())


def _cell(value: Any) -> Any:
    """Text that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
