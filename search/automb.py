"""AutoMBW's logs as trials: what somebody has measured already, for an optimiser to begin with, and to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints.families import FAMILIES
from ..checkpoints.families.conventions import CONVENTIONS
from ..merge.exchange.automb_log import Row, is_log, read_table
from .errors import SearchError
from .records import TrialRecord

_LARGEST = 100_000_000


@dataclass(frozen=True)
class Log:
    """A log.

    Attributes:
        name: of its file.
        family: the first with as many slots: `sd1` (27 columns; SD2 has the same blocks) or `sdxl` (22).
        trials: in the log's order; a point is block label -> share of model B.
        notes: what could not be read, or has no meaning here, in sentences.
    """

    name: str
    family: str
    trials: Sequence[TrialRecord]
    notes: Sequence[str]


def is_automb(path: Path) -> bool:
    """Whether a file begins like such a log."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return is_log(file.readline(10_000))
    except OSError:
        return False


def read_automb(path: Path, *, old: bool = False) -> Log:
    """The trials of an AutoMBW log (CSV: columns 0..26 or 0..21, score, and perhaps eval_times and iter_times).

    Args:
        path: the file.
        old: written by the old AutoMBW, which exchanged OUT and TIME_EMBED.

    Raises:
        SearchError: it cannot be read, or is not such a log.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _LARGEST:
            raise SearchError(f"{path}: is larger than {_LARGEST // 10**6} MB; an AutoMBW log is a small table")
        table = read_table(path.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise SearchError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise SearchError(f"{path}: is not an AutoMBW log: it {error}") from None
    family, slots = next(
        (family.id, slots)
        for family in FAMILIES.values()
        for slots in CONVENTIONS["automb"].vectors(family).slots
        if len(slots) == len(table.rows[0].values)
    )
    labels = list(slots)
    notes = [f"column {column!r} has no meaning here" for column in table.unknown]
    if bad := table.count - len(table.rows):
        notes.append(f"{bad} of {table.count} rows could not be read")
    if table.shared:
        notes.append(f"{table.shared} rows have the time of their whole run, which was divided among them")
    if old:
        out, time = labels.index("OUT"), labels.index("TIME_EMBED")
        labels[out], labels[time] = labels[time], labels[out]
        notes.append("OUT and TIME_EMBED were exchanged, as the old AutoMBW wrote them")
    return Log(path.name, family, [_trial(number, row, labels) for number, row in enumerate(table.rows)], notes)


def _trial(number: int, row: Row, labels: Sequence[str]) -> TrialRecord:
    point = dict(zip(labels, row.values, strict=True))
    return TrialRecord(number, "complete", point, row.score, baseline=_baseline(point), seconds=_seconds(row))


def _baseline(point: dict[str, float]) -> str:
    """The name of a point that a search would have tried as a baseline: all A, all B, or half of each."""
    values = set(point.values())
    return {0.0: "all A", 1.0: "all B", 0.5: "0.5"}.get(values.pop(), "") if len(values) == 1 else ""


def _seconds(row: Row) -> dict[str, float]:
    """A log has one number for merging, generating and scoring together, and one for the whole iteration."""
    if not math.isfinite(row.eval_seconds):
        return {}
    rest = row.iter_seconds - row.eval_seconds
    return {"evaluate": row.eval_seconds} | ({"other": rest} if math.isfinite(rest) and rest > 0 else {})
