"""The tasks that measure: statistics, differences, comparisons, traces and inner products; and their results as objects."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.notices import Notice, from_plain, to_plain
from ..checkpoints.stream import Progress
from .results import kept
from .tasks import Task

if TYPE_CHECKING:
    from ..analysis.collection import Comparison
    from ..analysis.difference import Difference
    from ..analysis.statistics import Statistics


def _file(path: str | None) -> Path | None:
    return Path(path) if path else None


def _opened(stack: ExitStack, path: str | None):
    from ..checkpoints import open_checkpoint

    return stack.enter_context(open_checkpoint(Path(path))) if path else None


# -- one file ---------------------------------------------------------------------------------------------------------


def run_statistics(arguments: dict[str, Any], progress: Progress, cancel: threading.Event) -> dict[str, Any]:
    """Measure every tensor of `file` (a path): moments and histograms."""
    from ..analysis.statistics import measure

    with ExitStack() as stack:
        found = measure(_opened(stack, arguments["file"]), progress=progress, cancel=cancel)
    histograms = {}
    for label, counts in found.histograms.items():
        filled = counts.nonzero()[0]
        histograms[label] = {"bins": filled.tolist(), "counts": counts[filled].tolist()}
    return {"name": found.name, "terms": found.terms.to_dict("list"), "histograms": histograms}


def kept_statistics(key: str) -> Statistics | None:
    """What was measured of one file, by its key."""
    import numpy as np
    import pandas as pd

    from ..analysis.statistics import BINS, Statistics

    plain = kept("statistics", key)
    if plain is None:
        return None
    histograms = {}
    for label, found in plain["histograms"].items():
        histograms[label] = np.zeros(BINS, np.int64)
        histograms[label][found["bins"]] = found["counts"]
    return Statistics(plain["name"], pd.DataFrame(plain["terms"]), histograms)


# -- two files --------------------------------------------------------------------------------------------------------


def run_difference(arguments: dict[str, Any], progress: Progress, cancel: threading.Event) -> dict[str, Any]:
    """Compare `a` and `b`, with `base` or None (paths): the terms of every metric per tensor."""
    from ..analysis.difference import diff
    from ..analysis.summary import sentences

    with ExitStack() as stack:
        a, b, base = (_opened(stack, arguments.get(name)) for name in ("a", "b", "base"))
        found = diff(a, b, base, progress=progress, cancel=cancel)
    return {
        "a": found.a,
        "b": found.b,
        "base": found.base,
        "terms": found.terms.to_dict("list"),
        "left_out": found.left_out.to_dict("list"),
        "notes": [to_plain(note) for note in found.notes],
        "sentences": sentences(found),
    }


def kept_difference(key: str) -> Difference | None:
    """What was measured between two files, by its key."""
    import pandas as pd

    from ..analysis.difference import Difference

    plain = kept("difference", key)
    if plain is None:
        return None
    left_out = pd.DataFrame(plain["left_out"], dtype=str)
    return Difference(
        plain["a"],
        plain["b"],
        plain["base"],
        pd.DataFrame(plain["terms"]),
        left_out,
        tuple(_note(note, plain["base"]) for note in plain["notes"]),
    )


def _note(kept: dict[str, Any] | str, base: str) -> Notice:
    """A note of a difference; 0.1.0 kept the sentence alone, of the only kind that there was."""
    from ..analysis.difference import BASE_LACKING

    return from_plain(kept) if isinstance(kept, dict) else Notice(BASE_LACKING, kept, (base,))


# -- many files -------------------------------------------------------------------------------------------------------


def run_comparison(arguments: dict[str, Any], progress: Progress, cancel: threading.Event) -> dict[str, Any]:
    """Compare `files` (paths) with each other, seen from `reference` (one of them, or None)."""
    from ..analysis.collection import compare

    at = _reference_of(arguments)
    with ExitStack() as stack:
        models = [_opened(stack, path) for path in arguments["files"]]
        found = compare(models, reference=None if at is None else models[at], progress=progress, cancel=cancel)
    return {
        "names": list(found.names),
        "reference": found.reference,
        "products": {group: matrix.tolist() for group, matrix in found.products.items()},
        "same": {group: list(map(int, same)) for group, same in found.same.items()},
        "parameters": {group: int(count) for group, count in found.parameters.items()},
        "components": found.components,
        "left_out": found.left_out,
    }


def _reference_of(arguments: dict[str, Any]) -> int | None:
    """The position of the reference among the files."""
    files, reference = list(arguments["files"]), arguments.get("reference")
    return files.index(reference) if reference in files else None


def _compared(arguments: dict[str, Any]) -> list[Path | str | None]:
    at = _reference_of(arguments)
    return [*map(Path, arguments["files"]), None if at is None else str(at)]


def kept_comparison(key: str) -> Comparison | None:
    """What was measured of many files, by its key."""
    import numpy as np

    from ..analysis.collection import Comparison

    plain = kept("comparison", key)
    if plain is None:
        return None
    return Comparison(
        tuple(plain["names"]),
        plain["reference"],
        {group: np.array(matrix) for group, matrix in plain["products"].items()},
        {group: tuple(same) for group, same in plain["same"].items()},
        plain["parameters"],
        plain["components"],
        plain["left_out"],
    )


# -- a merge ----------------------------------------------------------------------------------------------------------


def run_trace(arguments: dict[str, Any], progress: Progress, cancel: threading.Event) -> dict[str, Any]:
    """Trace `merged` among `among`, with `base` or None (paths): the report, with its recipe as YAML."""
    from ..analysis.trace import trace

    with ExitStack() as stack:
        merged, base = (_opened(stack, arguments.get(name)) for name in ("merged", "base"))
        among = [_opened(stack, path) for path in arguments["among"]]
        report = trace(merged, among, base=base, progress=progress, cancel=cancel)
    return report.to_plain() | {"yaml": report.recipe_yaml()}


def _traced(arguments: dict[str, Any]) -> list[Path | None]:
    return [_file(path) for path in (arguments["merged"], arguments.get("base"), *arguments["among"])]


def run_gram(arguments: dict[str, Any], progress: Progress, cancel: threading.Event) -> dict[str, Any]:
    """Measure the inner products of `files` (paths), from which the distances of a merge are predicted, summed per label.

    Returns:
        `names`: of the files; `labels`: label -> matrix.
    """
    from ..analysis.gram import gram_matrices

    with ExitStack() as stack:
        checkpoints = [_opened(stack, path) for path in arguments["files"]]
        table = gram_matrices(checkpoints, progress=progress, cancel=cancel)
    return {"names": list(table.names), "labels": {x: matrix.tolist() for x, matrix in table.by_label().items()}}


STATISTICS = Task(
    "statistics", run_statistics, "analysis", "Measure statistics", inputs=lambda asked: [Path(asked["file"])]
)
DIFFERENCE = Task(
    "difference", run_difference, "analysis", "Compare two files",
    inputs=lambda asked: [_file(asked.get(name)) for name in ("a", "b", "base")],
)  # fmt: skip
COMPARISON = Task("comparison", run_comparison, "analysis", "Compare a collection", inputs=_compared)
TRACE = Task("trace", run_trace, "analysis", "Trace a merge", inputs=_traced)
GRAM = Task("gram", run_gram, "analysis", "Measure distances", inputs=lambda asked: [*map(Path, asked["files"])])
