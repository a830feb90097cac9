"""The merge methods that measure tensors, with sd-mecha by its documented calls.

    python benchmarks/sd_mecha_methods.py METHOD OUTPUT INPUT...

Of methods on differences the first input is the base.
"""

from __future__ import annotations

import sys

import sd_mecha
import torch
from sd_mecha.extensions.builtin.merge_methods.linear import add_difference

NODES = {
    "slerp": lambda a, b: sd_mecha.slerp(a, b, alpha=0.3),
    "geometric_median": lambda *models: sd_mecha.geometric_median(*models),
    "model_stock": lambda base, *models: sd_mecha.n_model_stock(base, *models),
    # Their wrapper for it fails in this release.
    "ties": lambda base, *models: add_difference(
        base, sd_mecha.ties_sum(*(sd_mecha.subtract(m, base) for m in models), k=0.2, vote_sgn=True), alpha=1.0
    ),
    "dare": lambda base, *models: sd_mecha.dropout(base, *models, probability=0.5, alpha=1.0, seed=0),
}


def merge(method: str, output: str, inputs: list[str]) -> None:
    """Merge in fp32 and write fp16, on as many threads as it likes."""
    node = NODES[method](*(sd_mecha.model(path) for path in inputs))
    sd_mecha.merge(node, merge_dtype=torch.float32, output_dtype=torch.float16, output=output)


if __name__ == "__main__":
    merge(sys.argv[1], sys.argv[2], sys.argv[3:])
