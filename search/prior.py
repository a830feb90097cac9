"""What is known already: earlier searches, from which the optimiser may learn before its first trial."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoints.errors import UnetscopeError
from .errors import SearchError
from .parameters import FreeParameter
from .records import TrialRecord
from .run_folder import RunFolder
from .search_space import Template
from .study import Study


def read_prior(study: Study, template: Template) -> tuple[list[tuple[dict[str, Any], float]], list[str]]:
    """Points and scores of the logs that a study names; scores must mean what the study's own will mean.

    Returns:
        those that fit into what is free, and a sentence about each log.

    Raises:
        SearchError: a log cannot be read.
    """
    found: list[tuple[dict[str, Any], float]] = []
    notes: list[str] = []
    for i, name in enumerate(study.prior, 1):
        path = study.folder / name
        try:
            records = _records(path)
        except UnetscopeError as error:
            raise SearchError(f"{study.where}: prior.{i}: {error}") from None
        points = [
            (_point(r.point, template), r.score) for r in records if r.state == "complete" and r.score is not None
        ]
        fitting = [(point, score) for point, score in points if point is not None]
        notes.append(f"prior {name}: {len(fitting)} of {len(points)} trials fit into what is free")
        found += fitting
    return found, notes


def _records(path: Path) -> list[TrialRecord]:
    if path.is_dir():
        return RunFolder(path).require().trials()
    from .automb import read_automb

    return list(read_automb(path).trials)


def _point(given: Mapping[str, float | str], template: Template) -> dict[str, Any] | None:
    """A point in the study's own parameters: by their names, or by the blocks that they move; None when it does not fit."""
    point = {}
    for p in template.parameters:
        value = given[p.name] if p.name in given else _of_labels(p, given)
        fits = (value if value in p.choices else None) if p.is_choice else _nearest(p, value)
        if fits is None:
            return None
        point[p.name] = fits
    return point


def _of_labels(p: FreeParameter, given: Mapping[str, float | str]) -> float | str | None:
    """The weight that all of a parameter's blocks have in a log that names blocks."""
    values = {given[label] for label in p.labels if label in given}
    return values.pop() if len(values) == 1 else None


def _nearest(p: FreeParameter, value: Any) -> float | None:
    return p.nearest(float(value)) if isinstance(value, int | float) else None
