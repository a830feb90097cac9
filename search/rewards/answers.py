"""Scores out of what another program said."""

from __future__ import annotations

import json
import math
from typing import Any

from ...checkpoints.text import counted
from ..errors import SearchError


def scores_of(text: str, count: int, who: str) -> list[float]:
    """Scores from `{"scores": [...]}`, from a bare JSON list, or from a number on each line; null and NaN are no score.

    Raises:
        SearchError: it is none of these, or not `count` numbers.
    """
    found = _plain(text)
    if isinstance(found, dict):
        found = found.get("scores")
    if not isinstance(found, list) or not all(
        v is None or (isinstance(v, int | float) and not isinstance(v, bool)) for v in found
    ):
        shown = " ".join(text.split())[:120]
        raise SearchError(f'{who}: said {shown!r}; expected {{"scores": [numbers]}}')
    if len(found) != count:
        raise SearchError(f"{who}: gave {counted(len(found), 'score')} for {counted(count, 'image')}")
    return [math.nan if value is None else float(value) for value in found]


def _plain(text: str) -> Any:
    try:
        found = json.loads(text)
        return [found] if isinstance(found, int | float) else found
    except (ValueError, RecursionError):
        pass
    try:
        return [float(line) for line in text.split("\n") if line.strip()]
    except ValueError:
        return None
