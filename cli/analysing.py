"""`unetscope stats`, `diff` and `compare`: numbers about one, two, or many checkpoints."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..checkpoints.text import file_size
from .arguments import Overwrite, Threads, expand
from .screen import bar, note, progress, say, show_frame, show_json, show_table, warn

if TYPE_CHECKING:
    import pandas as pd

    from ..analysis import Comparison, Difference
    from ..checkpoints import Checkpoint

By = Literal["tensor", "layer", "label", "component", "kind"]

_FILE = Annotated[Path, typer.Argument(help="A checkpoint file or diffusers folder.", show_default=False)]
_JSON = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
_CSV = Annotated[Path | None, typer.Option(help="Write the table to this CSV file.")]
_BY = Annotated[By, typer.Option(help="What a row is.")]
_DARK = Annotated[bool, typer.Option("--dark", help="Plots for a dark background.")]


TABLES, PICTURES, RECIPES = (".csv",), (".png", ".svg", ".pdf"), (".yaml", ".yml")
# What fits a screen; the rest is in CSV and JSON.
_SHOWN_STATISTICS = ("parameters", "dtypes", "mean", "std", "l2", "min", "max", "zeros", "nan", "inf")
_SHOWN_METRICS = ("relative_l2", "rms", "max_abs", "changed", "sign_flip", "task_cosine", "sign_conflict")


def opened(files: ExitStack, path: Path) -> Checkpoint:
    """An open checkpoint that `files` closes."""
    from ..checkpoints import open_checkpoint

    return files.enter_context(open_checkpoint(path))


def several(files: ExitStack, words: list[str]) -> list[Checkpoint]:
    """Open checkpoints that `files` closes: those that are named, and those that patterns and lists (`@list.txt`) come to.

    Of patterns and lists, what cannot be used is told and left out; what is named has to be there.

    Raises:
        CheckpointError: a named file cannot be opened, or none of a pattern's or list's can.
    """
    from ..checkpoints import CheckpointError

    out: list[Checkpoint] = []
    for word in words:
        usable = 0
        for path in expand([word]):
            named = path == Path(word)
            try:
                checkpoint = opened(files, path)
                if not named and checkpoint.architecture.what not in ("checkpoint", "component"):
                    raise CheckpointError(f"{path}: is {checkpoint.architecture.name}")
            except CheckpointError as error:
                if named:
                    raise
                warn(f"left out: {error}")
            else:
                out.append(checkpoint)
                usable += 1
        if not usable:
            raise CheckpointError(f"{word}: none of its files can be used")
    return out


def check_results(overwrite: bool, *results: tuple[Path | None, tuple[str, ...]]) -> None:
    """Refuse files to write that cannot be, or whose ending says that they are something else: a checkpoint, say.

    Raises:
        OutputError: before any work is done.
    """
    from ..checkpoints.errors import OutputError
    from ..checkpoints.files.targets import check_target

    for path, suffixes in results:
        if path is None:
            continue
        if path.suffix.lower() not in suffixes:
            raise OutputError(f"{path}: expected a name that ends in {' or '.join(suffixes)}")
        check_target(path, overwrite=overwrite)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table, and say so."""
    from ..checkpoints.files.output import write_output

    write_output(path, table.to_csv(index=False, lineterminator=os.linesep))
    note(f"wrote {path} ({len(table):,} rows)")


def stats(
    file: _FILE,
    by: _BY = "label",
    sort: Annotated[str | None, typer.Option(help="A column, largest first; else network order.")] = None,
    csv: _CSV = None,
    histograms: Annotated[Path | None, typer.Option(help="Draw a histogram per label: .png, .svg or .pdf.")] = None,
    dark: _DARK = False,
    threads: Threads = None,
    overwrite: Overwrite = False,
    json: _JSON = False,
) -> None:
    """Measure one checkpoint: mean, deviation, norms, extremes, zeros, NaN; its health in words, the worst first."""
    from ..analysis import draw_histograms, examine, measure, records, save
    from ..library.health import in_words, to_plain

    check_results(overwrite, (csv, TABLES), (histograms, PICTURES))
    with ExitStack() as files, progress("measuring") as moved:
        checkpoint = opened(files, file)
        measured = measure(checkpoint, threads=threads, progress=moved)
        health = examine(checkpoint, measured)
    table = measured.table(by, sort)
    if json:
        found = [to_plain(finding) for finding in health]
        show_json({"file": file.name, "by": by, "rows": records(table), "health": found})
    else:
        front = [c for c in (by, "key", "label", "component", "kind", "shape") if c in table]
        show_frame(
            f"{file.name} by {by} (--csv and --json have more)", table[[*dict.fromkeys(front), *_SHOWN_STATISTICS]]
        )
        for finding in health:
            say(f"! {in_words(finding)}")
        if not health:
            say("nothing broken, empty or suspicious")
    if csv:
        write_csv(table, csv)
    if histograms:
        save(draw_histograms(measured, dark=dark), histograms)
        note(f"wrote {histograms}")


def diff(
    a: _FILE,
    b: _FILE,
    base: Annotated[Path | None, typer.Option(help="A common ancestor: will these two merge well?")] = None,
    by: _BY = "label",
    metric: Annotated[str, typer.Option(help="The metric of bars, heatmap and diagram.")] = "relative_l2",
    sort: Annotated[bool, typer.Option("--sort", help="Largest first; else network order.")] = False,
    csv: _CSV = None,
    heatmap: Annotated[Path | None, typer.Option(help="Draw layer kinds by labels: .png, .svg or .pdf.")] = None,
    diagram: Annotated[
        Path | None, typer.Option(help="Draw the block diagram in these colours: .svg, .png, .pdf.")
    ] = None,
    dark: _DARK = False,
    threads: Threads = None,
    overwrite: Overwrite = False,
    json: _JSON = False,
) -> None:
    """Measure what B changed against A, block by block: what is equal, what differs, and how much."""
    from ..analysis import diff as difference
    from ..analysis import draw_heatmap, records, save, sentences
    from ..checkpoints.errors import UnetscopeError, nearest

    check_results(overwrite, (csv, TABLES), (heatmap, PICTURES), (diagram, PICTURES))
    with ExitStack() as files, progress("comparing") as moved:
        first = opened(files, a)
        second = opened(files, b)
        third = opened(files, base) if base else None
        found = difference(first, second, third, threads=threads, progress=moved)
    if metric not in found.metrics:
        raise UnetscopeError(
            f"there is no metric {metric!r}{nearest(metric, found.metrics)}; use {', '.join(found.metrics)}"
        )
    table = found.table(by, sort=metric if sort else None)
    if json:
        show_json(
            {
                "a": found.a,
                "b": found.b,
                "base": found.base,
                "by": by,
                "overall": records(found.overall().to_frame().T)[0],
                "rows": records(table),
                "left_out": records(found.left_out),
                "sentences": sentences(found),
            }
        )
    else:
        _show_difference(found, table, metric, by)
        for sentence in sentences(found):
            say(sentence)
    if csv:
        write_csv(table, csv)
    if heatmap:
        save(draw_heatmap(found, metric, dark=dark), heatmap)
        note(f"wrote {heatmap}")
    if diagram:
        _draw_difference(found, first, metric, diagram, dark)
        note(f"wrote {diagram}")


def _show_difference(found: Difference, table: pd.DataFrame, metric: str, by: str) -> None:
    """The table, with a bar for the chosen metric; percentages where the metric is one."""
    from ..analysis import BASE_METRICS, PAIR_METRICS

    about = (PAIR_METRICS | BASE_METRICS)[metric]
    largest = table[metric].abs().max()
    shown = table.assign(**{"": [bar(value, largest) for value in table[metric]]})
    front = [c for c in (by, "key", "label", "component", "kind") if c in shown][:2]
    others = (m for m in _SHOWN_METRICS if m in found.metrics and m != metric)
    columns = [*dict.fromkeys(front), "parameters", metric, "", *others, "identical"]
    show_frame(f"{found.b} against {found.a} by {by}; bars: {about.title}", shown[[c for c in columns if c in shown]])


def _draw_difference(found: Difference, first: Checkpoint, metric: str, target: Path, dark: bool) -> None:
    from ..analysis import BASE_METRICS, PAIR_METRICS, values_by_label
    from ..diagrams import draw

    about = (PAIR_METRICS | BASE_METRICS)[metric]
    values = values_by_label(found.table("label"), metric)
    draw(
        first,
        values=values,
        title=f"{found.b} against {found.a}",
        units=about.title,
        scale="log" if about.log else "linear",
        theme="dark" if dark else "auto",
    ).save(target)


def compare(
    files: Annotated[list[str], typer.Argument(help="Checkpoints, patterns, or @list.txt.", show_default=False)],
    reference: Annotated[
        Path | None, typer.Option(help="A common ancestor: cosines are of the changes from it.")
    ] = None,
    component: Annotated[str | None, typer.Option(help="Only this one: unet, clip_l, clip_g, clip_h, vae.")] = None,
    by: Annotated[Literal["model", "component", "label"], typer.Option(help="What pairs are measured by.")] = "model",
    csv: _CSV = None,
    plot: Annotated[Path | None, typer.Option(help="A folder for a clustered heatmap and a map.")] = None,
    dark: _DARK = False,
    threads: Threads = None,
    overwrite: Overwrite = False,
    json: _JSON = False,
) -> None:
    """Compare many checkpoints with each other, each read once: distances, neighbours, shared parts, clusters, a map."""
    from ..analysis import compare as compared
    from ..analysis import records

    check_results(overwrite, (csv, TABLES))
    with ExitStack() as stack, progress("comparing") as moved:
        models = several(stack, files)
        origin = opened(stack, reference) if reference else None
        found = compared(models, reference=origin, component=component, threads=threads, progress=moved)
    pairs = found.pairs(by)
    if json:
        shared = records(found.shared_parts())
        show_json({"models": list(found.names), "pairs": records(pairs), "shared": shared, "left_out": found.left_out})
    else:
        _show_comparison(found, pairs)
    if csv:
        write_csv(pairs, csv)
    if plot:
        _plot(found, by, plot, dark)


_FEW = 8


def _show_comparison(found: Comparison, pairs: pd.DataFrame) -> None:
    if len(found.names) <= _FEW or len(pairs) <= _FEW * _FEW:
        show_frame("Pairs", pairs)
    else:
        say(f"{len(pairs):,} pairs (--csv or --json has them)")
    show_frame("Nearest neighbours", found.neighbours())
    for row in found.shared_parts().itertuples():
        say(f"These {row.count} share one {row.component}, bit by bit: {', '.join(row.names)}")
    if found.not_finite:
        say(f"! NaN or infinite weights, not compared: {', '.join(found.not_finite)}")
    if found.left_out:
        reasons = sorted(found.left_out.items())
        show_table("Left out", ["key", "why"], reasons[:_FEW])
        if len(reasons) > _FEW:
            say(f"... and {len(reasons) - _FEW:,} more")


def _plot(found: Comparison, by: str, folder: Path, dark: bool) -> None:
    from ..analysis import draw_clusters, draw_map, save

    folder.mkdir(parents=True, exist_ok=True)
    for group in found.groups(by):
        for name, drawn in (("clusters", draw_clusters), ("map", draw_map)):
            target = folder / f"{group}_{name}.png"
            save(drawn(found, group, dark=dark), target)
            note(f"wrote {target} ({file_size(target.stat().st_size)})")
