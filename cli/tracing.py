"""`unetscope trace`, `predict` and `spectrum`: where a merge comes from, where one would go, what kind of change it is."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .analysing import PICTURES, RECIPES, TABLES, check_results, opened, several, write_csv
from .arguments import Methods, Overwrite, Threads
from .screen import note, progress, say, show_frame, show_json, show_table, warn

if TYPE_CHECKING:
    from ..analysis.trace_report import TraceReport

_JSON = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
_CSV = Annotated[Path | None, typer.Option(help="Write the table to this CSV file.")]
_AMONG = Annotated[list[str], typer.Option("--among", help="The candidates: files, patterns, or @list.txt.")]
_FEW = 6


def trace(
    merged: Annotated[Path, typer.Argument(help="A finished merge.", show_default=False)],
    among: _AMONG,
    base: Annotated[Path | None, typer.Option(help="What the candidates were tuned from; one more candidate.")] = None,
    save_recipe: Annotated[Path | None, typer.Option(help="Write the recovered recipe to this YAML file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the shares per label: .png, .svg or .pdf.")] = None,
    csv: _CSV = None,
    dark: Annotated[bool, typer.Option("--dark", help="Plots for a dark background.")] = False,
    threads: Threads = None,
    overwrite: Overwrite = False,
    json: _JSON = False,
) -> None:
    """Recover the recipe of a merge: the share of every candidate in every label, how sure it is, and what is missing."""
    from ..analysis import draw_shares, save
    from ..analysis.trace import trace as traced
    from ..checkpoints.files.output import write_output

    check_results(overwrite, (save_recipe, RECIPES), (plot, PICTURES), (csv, TABLES))
    with ExitStack() as files, progress("tracing") as moved:
        whole = opened(files, merged)
        candidates = several(files, among)
        origin = opened(files, base) if base else None
        found = traced(whole, candidates, base=origin, threads=threads, progress=moved)
    if json:
        show_json(found.to_plain())
    else:
        _show(found)
    if csv:
        write_csv(found.by_label(), csv)
    if plot:
        save(draw_shares(found, dark=dark), plot)
        note(f"wrote {plot}")
    if save_recipe:
        if found.recipe is None:
            warn("there is no recipe to save: the shares could not be found")
        else:
            write_output(save_recipe, found.recipe_yaml())
            note(f"wrote {save_recipe}")


def _show(found: TraceReport) -> None:
    used = [n for n in found.names if any(abs(label.shares.get(n, 0)) > 1e-6 for label in found.labels)]
    shown = used if len(used) <= _FEW else []
    rows = []
    for label in found.labels:
        shares = [_share(label, name) for name in shown] or [
            f"{sum(abs(s) > 1e-6 for s in label.shares.values())} models"
        ]
        rows.append([label.label, label.verdict, *shares, f"{label.rho:.3g}" if label.rho == label.rho else ""])
    columns = ["label", "verdict", *(shown or ["shares (--json has them)"]), "rho"]
    show_table(f"{found.merged}: shares, with the half width of their 95 % interval", columns, rows)
    for sentence in found.sentences:
        say(sentence)
    if found.recipe is not None:
        say("\n" + found.recipe_yaml().rstrip())


def _share(label, name: str) -> str:
    share, error = label.shares.get(name), label.errors.get(name)
    if share is None:
        return "?"
    return f"{share:.4f}" + (f" ±{1.96 * error:.1g}" if error else "")


def predict(
    recipe: Annotated[Path, typer.Argument(help="A recipe, YAML, with linear steps.", show_default=False)],
    by: Annotated[Literal["tensor", "label", "component"], typer.Option(help="What a row is.")] = "label",
    methods: Methods = None,
    csv: _CSV = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    json: _JSON = False,
) -> None:
    """Say how far the result of a recipe will be from each of its models, without merging."""
    from ..analysis import records
    from ..checkpoints.text import counted, some
    from ..merge import Recipe
    from ..merge.predict import predict as predicted

    check_results(overwrite, (csv, TABLES))
    with progress("measuring") as moved:
        table = predicted(Recipe.load(recipe), by, threads=threads, progress=moved)
    if json:
        show_json(records(table))
    else:
        show_frame(f"Distance of the result of {recipe.name} to its models", table)
    reasons: dict[str, list[str]] = {}
    for key, why in table.attrs["left_out"].items():
        reasons.setdefault(why, []).append(key)
    for why, keys in reasons.items():
        warn(f"{counted(len(keys), 'tensor')} left out ({why}): {some(keys)}")
    if csv:
        write_csv(table, csv)


def spectrum(
    a: Annotated[Path, typer.Argument(help="Before.", show_default=False)],
    b: Annotated[Path, typer.Argument(help="After.", show_default=False)],
    by: Annotated[Literal["layer", "label", "component"], typer.Option(help="What a row is.")] = "label",
    seed: Annotated[int, typer.Option(help="Of the randomised decomposition.")] = 0,
    csv: _CSV = None,
    overwrite: Overwrite = False,
    json: _JSON = False,
) -> None:
    """Tell a LoRA baked in from a full fine-tune: singular values of the difference, layer by layer. Takes minutes."""
    from ..analysis import records
    from ..analysis.spectrum import spectrum as spectra

    check_results(overwrite, (csv, TABLES))
    with ExitStack() as files, progress("decomposing") as moved:
        table = spectra(opened(files, a), opened(files, b), by, seed=seed, progress=moved)
    if json:
        show_json(records(table))
    else:
        show_frame(f"{b.name} - {a.name} by {by}", table)
    if csv:
        write_csv(table, csv)
