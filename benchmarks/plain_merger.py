"""A merger as most GUI tools do it: load every model into memory, combine tensor by tensor with torch, save the whole.

    python benchmarks/plain_merger.py JOB.json OUTPUT

JOB.json holds `inputs`, paths, and `shares`, for each key the share of every input. Sums are taken in the models' own dtype, as
those tools do, which is also the fastest way.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file


def merge(job: dict, output: str) -> None:
    """Merge every tensor that has shares; the rest is the first model's."""
    models = [load_file(path) for path in job["inputs"]]
    merged = models[0]
    for key, shares in job["shares"].items():
        total = shares[0] * models[0][key]
        for share, model in zip(shares[1:], models[1:], strict=True):
            total += share * model[key]
        merged[key] = total
    save_file(merged, output, metadata={"format": "pt"})


if __name__ == "__main__":
    merge(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.argv[2])
