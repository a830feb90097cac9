"""AutoMBW's log: a CSV with a column for each block, the score, and when it was measured. The best row is the recipe."""

from __future__ import annotations

import csv
import io
import math

from .draft import Draft, Imported, Request
from .supermerger import numbers
from .weight_lines import AUTOMB_SIZES, automb_recipe, automb_weights

_OWN = ("score", "eval_times", "iter_times")


def is_log(text: str) -> bool:
    """Whether text begins with the header of such a log."""
    header = _header(text)
    return "score" in header and "0" in header


def from_log(text: str, name: str, request: Request) -> Imported:
    """The weights with the highest score, as a weighted sum of the models that `request.inputs` names.

    Raises:
        RecipeError: no row can be read, or the number of blocks is no known one.
    """
    draft = Draft(f"{name} (AutoMBW log)", request)
    header = _header(text)
    blocks = sorted((int(column), i) for i, column in enumerate(header) if column.isascii() and column.isdigit())
    if [number for number, _ in blocks] != list(range(len(blocks))) or len(blocks) not in AUTOMB_SIZES:
        raise draft.error(f"has {len(blocks)} numbered columns; AutoMBW has 0..26 (SD1) or 0..21 (SDXL)")
    for column in header:
        if not column.isdigit() and column not in (*_OWN, "", "unnamed: 0"):
            draft.note(f"column {column!r} has no meaning here")
    best, score, rows, bad = None, -math.inf, 0, 0
    try:
        for row in list(csv.reader(io.StringIO(text)))[1:]:
            rows += 1
            at = header.index("score")
            found = numbers([row[at]]) if at < len(row) else None
            values = numbers([row[i] for _, i in blocks]) if max(i for _, i in blocks) < len(row) else None
            if found is None or values is None or not all(map(math.isfinite, (*found, *values))):
                bad += 1
            elif found[0] > score:
                best, score = (rows, values), found[0]
    except csv.Error as error:
        raise draft.error(f"cannot be read as CSV ({error})") from None
    if best is None:
        raise draft.error(f"none of its {rows} rows has a score and {len(blocks)} numbers")
    draft.note(f"row {best[0]} of {rows} was taken, the best by score: {score:g}; the other rows are left out")
    if bad:
        draft.note(f"{bad} rows could not be read")
    return automb_recipe(automb_weights(best[1], "automb", draft), ["", ""], "", draft)


def _header(text: str) -> list[str]:
    first = text.lstrip("\ufeff").partition("\n")[0].strip()
    return [column.strip().strip('"').casefold() for column in first.split(",")]
