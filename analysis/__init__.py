"""Numbers about weights: statistics, health, differences, distances, where a merge comes from, and their plots.

Everything streams over the files in one pass, on several threads, in a small constant of memory; results are pandas
DataFrames with one row per tensor, and group-bys of them. This room uses `library` and `checkpoints`, and nothing above them.

In the order in which data passes:

- `alignment`: checkpoints -> the tensors that all of them have
- `reduce`: pieces of these -> a few sums for each
- `grouping`: sums of tensors -> sums of layers, blocks, components
- `statistics`, `health`: one checkpoint, and whether it is sound
- `difference`, `metrics`, `rounding`, `summary`: two, and what is to be said of them
- `gram`, `collection`: many
- `trace`, `trace_pass`, `trace_label`, `regression`, `collinearity`, `shares`, `suggestion`, `verdict`, `trace_report`: where a
  merge comes from
- `spectrum`: a LoRA, or a full fine-tune?
- `plots`: pictures of all of these
"""

from typing import TYPE_CHECKING

from ..checkpoints.first_use import on_first_use

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
    from .statistics import Statistics, measure
    from .summary import sentences

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
__getattr__ = on_first_use(
    __name__,
    {
        "errors": ("AnalysisError",),
        "metrics": ("BASE_METRICS", "PAIR_METRICS"),
        "collection": ("Comparison", "compare"),
        "difference": ("Difference", "diff"),
        "gram": ("GramTable", "gram_matrices"),
        "statistics": ("Statistics", "measure"),
        "plots.clusters": ("draw_clusters",),
        "plots.heatmap": ("draw_heatmap",),
        "plots.histograms": ("draw_histograms",),
        "plots.map": ("draw_map",),
        "plots.traced": ("draw_shares",),
        "health": ("examine",),
        "grouping": ("records", "values_by_label"),
        "plots.style": ("save",),
        "summary": ("sentences",),
    },
)
