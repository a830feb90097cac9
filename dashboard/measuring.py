"""The tasks that measure: statistics, differences, comparisons and traces; and where every measuring task keeps what it found.

What is kept is named after the files' identities, so it is found again after a restart and forgotten when a file changes.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.files.cache import cache_folder
from ..checkpoints.notices import from_plain, to_plain
from ..checkpoints.stream import Progress
from .library import identity_of
from .records import read_json, write_json
from .tasks import Task

if TYPE_CHECKING:
    from ..analysis.collection import Comparison
    from ..analysis.difference import Difference
    from ..analysis.statistics import Statistics

# Part of the name of what is kept; a change of its form counts as never measured.
_FORM = 2


def identity_for(kind: str, identities: Sequence[str | None]) -> str:
    """What a measurement of these files, in this order, is kept under; None stands for a file that was not given."""
    text = "\n".join([kind, str(_FORM), *(identity or "-" for identity in identities)])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _file(kind: str, identity: str) -> Path:
    return cache_folder() / kind / f"{identity}.json"


def kept(kind: str, identity: str) -> dict[str, Any] | None:
    """What was found, as plain data; None when it has not been measured."""
    file = _file(kind, identity)
    try:
        changed = file.stat().st_mtime_ns
    except OSError:
        return None
    return _read(file, changed)


@lru_cache(maxsize=16)
def _read(file: Path, changed: int) -> dict[str, Any] | None:
    found = read_json(file, shown=True)
    return found if isinstance(found, dict) else None


def keep(kind: str, identity: str, found: dict[str, Any]) -> dict[str, Any]:
    """Keep what was found, as plain data, for `kept`; what a measuring task returns."""
    write_json(_file(kind, identity), found)
    return {"identity": identity, "sentences": found.get("sentences", [])}


def _opened(stack: ExitStack, path: str | None):
    from ..checkpoints import open_checkpoint

    return stack.enter_context(open_checkpoint(Path(path))) if path else None


# -- one file ---------------------------------------------------------------------------------------------------------


def run_statistics(arguments: dict[str, Any], progress: Progress, cancel: threading.Event) -> dict[str, Any]:
    """Measure every tensor of `file` (a path), and keep moments and histograms."""
    from ..analysis.statistics import measure

    identity = identity_for("statistics", [identity_of(Path(arguments["file"]))])
    with ExitStack() as stack:
        found = measure(_opened(stack, arguments["file"]), progress=progress, cancel=cancel)
    histograms = {}
    for label, counts in found.histograms.items():
        filled = counts.nonzero()[0]
        histograms[label] = {"bins": filled.tolist(), "counts": counts[filled].tolist()}
    plain = {"name": found.name, "terms": found.terms.to_dict("list"), "histograms": histograms}
    return keep("statistics", identity, plain)


def kept_statistics(file_identity: str) -> Statistics | None:
    """What was measured of one file."""
    import numpy as np
    import pandas as pd

    from ..analysis.statistics import BINS, Statistics

    plain = kept("statistics", identity_for("statistics", [file_identity]))
    if plain is None:
        return None
    histograms = {}
    for label, found in plain["histograms"].items():
        histograms[label] = np.zeros(BINS, np.int64)
        histograms[label][found["bins"]] = found["counts"]
    return Statistics(plain["name"], pd.DataFrame(plain["terms"]), histograms)


# -- two files --------------------------------------------------------------------------------------------------------


def run_difference(arguments: dict[str, Any], progress: Progress, cancel: threading.Event) -> dict[str, Any]:
    """Compare `a` and `b`, with `base` or None (paths), and keep the terms of every metric per tensor."""
    from ..analysis.difference import diff
    from ..analysis.sentences import sentences

    paths = [arguments["a"], arguments["b"], arguments.get("base")]
    identity = identity_for("difference", [identity_of(Path(p)) if p else None for p in paths])
    with ExitStack() as stack:
        a, b, base = (_opened(stack, path) for path in paths)
        found = diff(a, b, base, progress=progress, cancel=cancel)
    plain = {
        "a": found.a,
        "b": found.b,
        "base": found.base,
        "terms": found.terms.to_dict("list"),
        "left_out": found.left_out.to_dict("list"),
        "notes": [to_plain(note) for note in found.notes],
        "sentences": sentences(found),
    }
    return keep("difference", identity, plain)


def kept_difference(identity: str) -> Difference | None:
    """What was measured between two files, by `identity_for("difference", ...)`."""
    import pandas as pd

    from ..analysis.difference import Difference

    plain = kept("difference", identity)
    if plain is None:
        return None
    left_out = pd.DataFrame(plain["left_out"], dtype=str)
    return Difference(
        plain["a"],
        plain["b"],
        plain["base"],
        pd.DataFrame(plain["terms"]),
        left_out,
        tuple(map(from_plain, plain["notes"])),
    )


# -- many files -------------------------------------------------------------------------------------------------------


def run_comparison(arguments: dict[str, Any], progress: Progress, cancel: threading.Event) -> dict[str, Any]:
    """Compare `files` (paths) with each other, seen from `reference` (one of them, or None)."""
    from ..analysis.collection import compare

    paths, reference = list(arguments["files"]), arguments.get("reference")
    at = paths.index(reference) if reference in paths else None
    identity = comparison_identity([identity_of(Path(p)) for p in paths], at)
    with ExitStack() as stack:
        models = [_opened(stack, path) for path in paths]
        found = compare(models, reference=None if at is None else models[at], progress=progress, cancel=cancel)
    plain = {
        "names": list(found.names),
        "reference": found.reference,
        "products": {group: matrix.tolist() for group, matrix in found.products.items()},
        "same": {group: list(map(int, same)) for group, same in found.same.items()},
        "parameters": {group: int(count) for group, count in found.parameters.items()},
        "components": found.components,
        "left_out": found.left_out,
    }
    return keep("comparison", identity, plain)


def comparison_identity(identities: Sequence[str], reference: int | None) -> str:
    """What a comparison of these files is kept under; `reference` is a position among them."""
    return identity_for("comparison", [*identities, None if reference is None else str(reference)])


def kept_comparison(identity: str) -> Comparison | None:
    """What was measured of many files, by `comparison_identity`."""
    import numpy as np

    from ..analysis.collection import Comparison

    plain = kept("comparison", identity)
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


# -- a merge and its candidates ---------------------------------------------------------------------------------------


def run_trace(arguments: dict[str, Any], progress: Progress, cancel: threading.Event) -> dict[str, Any]:
    """Trace `merged` among `among`, with `base` or None (paths), and keep the report with its recipe as YAML."""
    from ..analysis.trace import trace

    paths = [arguments["merged"], arguments.get("base"), *arguments["among"]]
    identity = identity_for("trace", [identity_of(Path(p)) if p else None for p in paths])
    with ExitStack() as stack:
        merged, base, *among = (_opened(stack, path) for path in paths)
        report = trace(merged, among, base=base, progress=progress, cancel=cancel)
    return keep("trace", identity, report.to_plain() | {"yaml": report.recipe_yaml()})


STATISTICS = Task("statistics", run_statistics, "analysis", "Measure statistics")
DIFFERENCE = Task("difference", run_difference, "analysis", "Compare two files")
COMPARISON = Task("comparison", run_comparison, "analysis", "Compare a collection")
TRACE = Task("trace", run_trace, "analysis", "Trace a merge")
