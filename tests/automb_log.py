"""A log as AutoMBW writes it."""

from __future__ import annotations

from pathlib import Path
from random import Random


def write_log(path: Path, trials: int = 60) -> None:
    """A log of 27 weights as AutoMBW writes it, of a formula that likes the first blocks of B and the last ones of A."""
    random = Random(1)
    lines = [",".join([*map(str, range(27)), "score", "eval_times", "iter_times"])]
    best, centre = -1.0, [0.5] * 27
    for _ in range(trials):
        weights = [round(min(max(w + random.gauss(0, 0.25), 0), 1), 1) for w in centre]
        score = 6 - sum((w - (1 - i / 27)) ** 2 / (1 + i / 4) for i, w in enumerate(weights)) + random.gauss(0, 0.05)
        if score > best:
            best, centre = score, weights
        seconds = random.uniform(38, 46)
        lines.append(",".join(map(str, [*weights, round(score, 4), round(seconds, 2), round(seconds + 1.4, 2)])))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
