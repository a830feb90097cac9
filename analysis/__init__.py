"""Numbers about weights: statistics, health, differences, distances, where a merge comes from, and their plots.

Everything streams over the files in one pass, on several threads, in a small constant of memory; results are pandas
DataFrames with one row per tensor, and group-bys of them. This room uses `checkpoints` and nothing above it.

In the order in which data passes:

- `alignment`: checkpoints -> the tensors that all of them have
- `reduce`, `kernels`, `kernels_numba`, `kernels_numpy`: pieces of these -> a few sums for each
- `grouping`: sums of tensors -> sums of layers, blocks, components
- `statistics`, `health`: one checkpoint, and whether it is sound
- `difference`, `metrics`, `rounding`, `wording`: two, and what is to be said of them
- `gram`, `collection`: many
- `trace`, `trace_pass`, `trace_label`, `regression`, `collinearity`, `shares`, `suggestion`, `verdict`, `trace_report`: where a
  merge comes from
- `spectrum`: a LoRA, or a full fine-tune?
- `plots`: pictures of all of these
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .collection import Comparison, compare
    from .difference import Difference, diff
    from .errors import AnalysisError
    from .gram import GramTable, gram_matrices
    from .grouping import records, values_by_label
    from .health import examine
    from .metrics import BASE_METRICS, PAIR_METRICS
    from .plots.clusters import draw_clusters
    from .plots.heatmap import draw_heatmap
    from .plots.histograms import draw_histograms
    from .plots.map import draw_map
    from .plots.style import save
    from .plots.traced import draw_shares
    from .sentences import sentences
    from .statistics import Statistics, measure

__all__ = [
    "BASE_METRICS",
    "PAIR_METRICS",
    "AnalysisError",
    "Comparison",
    "Difference",
    "GramTable",
    "Statistics",
    "compare",
    "diff",
    "draw_clusters",
    "draw_heatmap",
    "draw_histograms",
    "draw_map",
    "draw_shares",
    "examine",
    "gram_matrices",
    "measure",
    "records",
    "save",
    "sentences",
    "values_by_label",
]

_HOME = {
    "AnalysisError": "errors",
    "BASE_METRICS": "metrics",
    "Comparison": "collection",
    "Difference": "difference",
    "GramTable": "gram",
    "PAIR_METRICS": "metrics",
    "Statistics": "statistics",
    "compare": "collection",
    "diff": "difference",
    "draw_clusters": "plots.clusters",
    "draw_heatmap": "plots.heatmap",
    "draw_histograms": "plots.histograms",
    "draw_map": "plots.map",
    "draw_shares": "plots.traced",
    "examine": "health",
    "gram_matrices": "gram",
    "measure": "statistics",
    "records": "grouping",
    "save": "plots.style",
    "sentences": "wording",
    "values_by_label": "grouping",
}


def __getattr__(name: str):
    """Import a public name when it is first used: the command line's help must not wait for numpy and pandas."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOME[name]}", __name__), name)
