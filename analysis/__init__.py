"""Numbers about weights: statistics, health, differences, distances, where a merge comes from, and their plots.

Everything streams over the files in one pass, on several threads, in a small constant of memory; results are pandas
DataFrames with one row per tensor, and group-bys of them.
This room uses `checkpoints` and nothing above it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .errors import AnalysisError
    from .gram import GramTable, gram_matrices

__all__ = ["AnalysisError", "GramTable", "gram_matrices"]

_HOME = {
    "AnalysisError": "errors",
    "GramTable": "gram",
    "gram_matrices": "gram",
}


def __getattr__(name: str):
    """Import a public name when it is first used: the command line's help must not wait for numpy and pandas."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOME[name]}", __name__), name)
