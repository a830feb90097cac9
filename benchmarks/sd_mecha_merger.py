"""The same job with sd-mecha, by its documented calls.

    python benchmarks/sd_mecha_merger.py JOB.json OUTPUT

JOB.json holds `inputs`, paths, `method`, and `alpha`: a number, or a number for each of sd-mecha's block names.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import sd_mecha
import torch


def merge(job: dict, output: str) -> None:
    """Merge in fp32 and write fp16, on as many threads as it likes."""
    models = [sd_mecha.model(path) for path in job["inputs"]]
    alpha = job["alpha"]
    if isinstance(alpha, dict):
        alpha = sd_mecha.convert(alpha, models[0])
    if job["method"] == "uniform":
        node = sd_mecha.n_average(*models)
    else:
        node = getattr(sd_mecha, job["method"])(*models, alpha=alpha)
    sd_mecha.merge(node, merge_dtype=torch.float32, output_dtype=torch.float16, output=output)


if __name__ == "__main__":
    merge(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.argv[2])
