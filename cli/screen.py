"""What commands show: tables, progress, and plain sentences."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..checkpoints.text import printable

if TYPE_CHECKING:
    import pandas as pd

_SHOWN_MODELS = 5


def console(stderr: bool = False):
    """A rich console; output that goes into a file or pipe is not cut to the window's width."""
    from rich.console import Console

    plain = Console(stderr=stderr, highlight=False)
    return plain if plain.is_terminal else Console(stderr=stderr, highlight=False, width=160)


def show_json(data: Any) -> None:
    """Print plain data as JSON, in ASCII where the output's encoding lacks characters."""
    ascii_only = not (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")
    print(json.dumps(data, indent=2, ensure_ascii=ascii_only, default=str))


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; numbers are aligned right. Nothing in a cell is read as markup: names come from files."""
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(printable(title)) if title else None,
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for i, name in enumerate(columns):
        numeric = all(_is_number(row[i]) for row in rows) and rows
        table.add_column(Text(printable(name)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console().print(table)


def show_frame(title: str, frame: pd.DataFrame) -> None:
    """Print a DataFrame: four significant digits, nothing for what is undefined."""
    show_table(
        title, [str(c) for c in frame.columns], [[_cell(v) for v in row] for row in frame.itertuples(index=False)]
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.4g}"
    if isinstance(value, bool) or type(value).__name__ == "bool_":
        return "yes" if value else ""
    if isinstance(value, tuple | list):
        return "x".join(map(str, value))
    return f"{value:,}" if type(value).__name__ in ("int", "int64") else "" if value is None else str(value)


def bar(value: float, largest: float, width: int = 16) -> str:
    """A bar of blocks, on a log scale over four decades: differences are seldom of one size."""
    if not value > 0 or not largest > 0:
        return ""
    share = 1 + math.log10(value / largest) / 4
    return "\u2588" * max(1, round(width * share))


def say(text: str = "") -> None:
    """Print a line as it is."""
    print(printable(text))


def note(text: str) -> None:
    """Print a line on stderr: what happened next to the result."""
    print(printable(text), file=sys.stderr)


def warn(text: str) -> None:
    """Print a warning on stderr."""
    print(f"warning: {printable(text)}", file=sys.stderr)


def _is_number(cell: Any) -> bool:
    return (
        str(cell).replace(",", "").replace(".", "").replace("-", "").replace("+", "").replace("e", "").isdigit()
        or cell == ""
    )


def tree(root: Any, line: Callable[[Any], str], children: Callable[[Any], Sequence[Any]], indent: str = "") -> None:
    """Print a tree, one node a line."""
    say(f"{indent}{line(root)}")
    for child in children(root):
        tree(child, line, children, indent + "  ")


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar on stderr with rate and time left; yields the callback that moves it."""
    if not sys.stderr.isatty():
        yield lambda done, total, key: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(printable(what), total=None)
        yield lambda done, total, key: bar.update(task, completed=done, total=total or None)


def show_report(report) -> None:
    """A merge's report (`merge.Report`) as tables and sentences."""
    names = list(dict.fromkeys(name for row in report.labels for name in row.shares))
    few = len(names) <= _SHOWN_MODELS
    columns = ["label", "tensors", "parameters", *(names if few else ["shares"]), "note"]
    rows = []
    for row in report.labels:
        note = ", ".join([*row.methods, *(["differs by layer"] if row.varies else [])])
        shares = [f"{row.shares[n]:.4g}" if n in row.shares else "" for n in names] if few else [_many(row.shares)]
        rows.append([row.label, row.tensors, f"{row.parameters:,}", *shares, note])
    for name, file in report.models.items():
        if name not in (file, file.rpartition(".")[0]):
            say(f"{name} = {file}")
    show_table(f"What each label is made of ({report.family}, {report.tensors:,} tensors)", columns, rows)
    for warning in report.warnings:
        warn(str(warning))
    if report.equal_to:
        say(f"equal to {report.equal_to}")


def _many(shares: dict[str, float]) -> str:
    """The shares of many models in a few words."""
    if len(shares) <= 2:
        return ", ".join(f"{name} {share:.4g}" for name, share in shares.items())
    low, high = min(shares.values()), max(shares.values())
    return f"{len(shares)} models, {low:.4g}" + ("" if high - low < 1e-9 else f" to {high:.4g}") + " each"
