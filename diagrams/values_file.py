"""Reading values to colour by from a file: JSON or CSV, keyed by label, module path or tensor key."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.text import unreadable

# Columns that may name a box, the first of them that is there.
NAMES = ("name", "key", "module", "label", "block")
_MISSING = ("", "nan", "none", "null", "missing", "mismatched")


def read_values(path: str | Path, column: str | None = None) -> dict[str, float | None]:
    """Values by name from a file.

    JSON is an object of numbers (null: missing), or a list of rows as objects. CSV has a header, or
    else a name and a number in a line. Rows are named by the
    column `key`, `module`, `label` or `block`, and valued by `column`, or by the first column that holds numbers.

    Raises:
        UnetscopeError: the file cannot be read, or holds no names or no numbers.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = json.loads(text) if path.suffix.lower() == ".json" else _table(text)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise UnetscopeError(f"{path}: cannot be read as a table of values ({unreadable(error)})") from None
    if isinstance(rows, dict):
        return {str(name): _number(path, name, value) for name, value in rows.items()}
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UnetscopeError(f"{path}: holds no rows; give an object of numbers, or rows with a name and a number")
    named = next((c for c in NAMES if c in rows[0]), None)
    if named is None:
        raise UnetscopeError(
            f"{path}: no column names what a value belongs to; call one of them {', '.join(NAMES[1:])}"
        )
    valued = column or next((c for c in rows[0] if c not in NAMES and _is_number(rows[0][c])), None)
    if valued is None or valued not in rows[0]:
        found = ", ".join(str(c) for c in rows[0])
        raise UnetscopeError(
            f"{path}: has no column {column!r}; found {found}" if column else f"{path}: no column holds numbers"
        )
    if nameless := [number for number, row in enumerate(rows, 1) if row.get(named) in (None, "")]:
        raise UnetscopeError(
            f"{path}: row {nameless[0]} has no {named}; every row needs the name that its value belongs to"
        )
    return {str(row[named]): _number(path, row[named], row.get(valued)) for row in rows}


def _table(text: str) -> list[dict]:
    """The rows of a CSV; without a header line, its first two columns are names and values."""
    lines = text.splitlines()
    first = next(csv.reader(lines[:1]), [])
    headless = len(first) > 1 and _is_number(first[1])
    return list(csv.DictReader(lines, ["name", "value"] if headless else None))


def _is_number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bool)


def _number(path: Path, name: object, value: object) -> float | None:
    if value is None or (isinstance(value, str) and value.strip().casefold() in _MISSING):
        return None
    if not _is_number(value):
        raise UnetscopeError(f"{path}: the value of {str(name)[:80]!r} is {str(value)[:40]!r}; a number is needed")
    return float(value)  # type: ignore[arg-type]
