"""AutoMBW's log: a CSV with a column for each block, the score, and when it was measured. The best row is the recipe."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from dataclasses import dataclass, replace

from .draft import Draft, Imported, Request
from .supermerger import numbers
from .weight_lines import AUTOMB_SIZES, automb_recipe, automb_weights

_LONGEST_HEADER = 10_000
_OWN = ("score", "eval_times", "iter_times")


def is_log(text: str) -> bool:
    """Whether text begins with the header of such a log."""
    header = _header(text)
    return "score" in header and "0" in header


@dataclass(frozen=True)
class Row:
    """A measurement: its line in the table (from 1), the numbers in the log's order, the score, and its times in seconds (NaN where
    none are known)."""

    number: int
    values: tuple[float, ...]
    score: float
    eval_seconds: float
    iter_seconds: float


@dataclass(frozen=True)
class Table:
    """What a log holds: its readable rows, how many there are in all, columns without a meaning, and how many rows have the time of
    a whole run, which was divided among them."""

    rows: tuple[Row, ...]
    count: int
    unknown: tuple[str, ...]
    shared: int = 0


def from_log(text: str, name: str, request: Request) -> Imported:
    """The weights with the highest score, as a weighted sum of the models that `request.inputs` names.

    Raises:
        RecipeError: no row can be read, or the number of blocks is not a known one.
    """
    draft = Draft(f"{name} (AutoMBW log)", request)
    try:
        table = read_table(text)
    except ValueError as error:
        raise draft.error(str(error)) from None
    for column in table.unknown:
        draft.note("import.column", f"column {column!r} has no meaning here")
    best = max(table.rows, key=lambda row: (row.score, -row.number))
    draft.note(
        "import.best_row",
        f"row {best.number} of {table.count} was taken, the best by score: {best.score:g}; the other rows are left out",
    )
    if bad := table.count - len(table.rows):
        draft.note("import.rows_unread", f"{bad} rows could not be read")
    return automb_recipe(automb_weights(list(best.values), "automb", draft), ["", ""], "", draft)


def read_table(text: str) -> Table:
    """Every row that has a score and all numbers.

    Raises:
        ValueError: no row can be read, or the number of blocks is not a known one; the message says which.
    """
    text = _lines(text)
    header = _header(text)
    blocks = sorted((int(column), i) for i, column in enumerate(header) if column.isascii() and column.isdigit())
    if [number for number, _ in blocks] != list(range(len(blocks))) or len(blocks) not in AUTOMB_SIZES:
        raise ValueError(f"has {len(blocks)} numbered columns; AutoMBW has 0..26 (SD1) or 0..21 (SDXL)")
    if "score" not in header:
        raise ValueError("has no column 'score'")
    at = {column: i for i, column in enumerate(header)}
    rows, count = [], 0
    try:
        for count, cells in enumerate([cells for cells in csv.reader(io.StringIO(text)) if cells][1:], 1):
            score, times = _cell(cells, at["score"]), [_cell(cells, at.get(name, -1)) for name in _OWN[1:]]
            values = tuple(_cell(cells, i) for _, i in blocks)
            if all(map(math.isfinite, (score, *values))):
                rows.append(Row(count, values, score, *times))
    except csv.Error as error:
        raise ValueError(f"cannot be read as CSV ({error})") from None
    if not rows:
        raise ValueError(f"none of its {count} rows has a score and {len(blocks)} numbers")
    unknown = (column for column in header if not column.isdigit() and column not in (*_OWN, "", "unnamed: 0"))
    rows, shared = _each_its_time(rows)
    return Table(tuple(rows), count, tuple(unknown), shared)


def _each_its_time(rows: list[Row]) -> tuple[list[Row], int]:
    """Rows with times of their own: Hyperactive, which writes the log, puts the time of the whole run into every row of it.

    Returns:
        the rows, and how many of them had such a time.
    """
    times = Counter((row.eval_seconds, row.iter_seconds) for row in rows if math.isfinite(row.eval_seconds))
    out, shared = [], 0
    for row in rows:
        among = times.get((row.eval_seconds, row.iter_seconds), 1)
        shared += among > 1
        out.append(replace(row, eval_seconds=row.eval_seconds / among, iter_seconds=row.iter_seconds / among))
    return out, shared


def _lines(text: str) -> str:
    """Text with line breaks of one kind; a program on Windows may have written CR CR LF."""
    return text.replace("\r\r\n", "\n").replace("\r\n", "\n").replace("\r", "\n")


def _cell(cells: list[str], at: int) -> float:
    """A cell as a number, or NaN."""
    found = numbers([cells[at]]) if 0 <= at < len(cells) else None
    return found[0] if found else math.nan


def _header(text: str) -> list[str]:
    first = _lines(text.lstrip("\ufeff")[:_LONGEST_HEADER]).partition("\n")[0].strip()
    return [column.strip().strip('"').casefold() for column in first.split(",")]
