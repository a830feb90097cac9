"""`unetscope lint`: what is questionable about a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .arguments import Json, Methods, Threads
from .screen import progress, say, show_json, show_table

if TYPE_CHECKING:
    from ..merge.lint import ComponentShares, LintReport

_SHOWN_MODELS = 40


def lint(
    recipe: Annotated[Path, typer.Argument(help="A recipe in YAML.", show_default=False)],
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every value of every model: NaN anywhere, exact copies.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="End with code 1 for warnings too.")] = False,
    methods: Methods = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Look for mistakes in a recipe before it is merged; ends with code 1 when there are errors."""
    from ..merge.lint import lint_file

    with progress("reading") as moved:
        report = lint_file(recipe, deep=deep, threads=threads, progress=moved)
    if json:
        show_json(report.to_plain())
    else:
        _show(report)
    if report.worst == "error" or (strict and report.worst == "warning"):
        raise typer.Exit(1)


def _show(report: LintReport) -> None:
    from ..merge.lint.finding import in_words

    for finding in report.findings:
        say(in_words(finding))
    if report.shares:
        rows = [row for part in report.shares for row in _rows(part)]
        show_table(
            "Shares of the models in the result", ["component", "model", "share", "lowest label", "highest label"], rows
        )
    counts = [(report.count(s), s) for s in ("error", "warning", "note")]
    said = ", ".join(f"{n} {word}{'s' if n != 1 else ''}" for n, word in counts if n)
    say(said or "nothing to complain about")


def _rows(part: ComponentShares) -> list[list[str]]:
    shown = list(part.shares.items())[:_SHOWN_MODELS]
    rows = []
    for name, share in shown:
        low, high = part.spread.get(name, ("", ""))
        number = "by method" if share is None else f"{share:.4g}"
        rows.append([part.component, name, number, *(f"{x:.4g}" if x != "" else "" for x in (low, high))])
    if len(part.shares) > len(shown):
        rows.append([part.component, f"... and {len(part.shares) - len(shown)} more", "", "", ""])
    return rows
