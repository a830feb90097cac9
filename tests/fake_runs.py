"""Run folders of searches that never ran: scores from a formula, images of one colour."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from places import UNET_LABELS

from unetscope.search.parameters import FreeParameter
from unetscope.search.records import TrialRecord
from unetscope.search.run_folder import RunFolder

BASELINES = {"all a": 0.0, "all b": 1.0, "0.5": 0.5}
SHOTS = {
    "castle-1": {"prompt": "a castle on a hill, oil painting", "seed": 1, "weight": 1.0},
    "castle-2": {"prompt": "a castle on a hill, oil painting", "seed": 2, "weight": 1.0},
    "portrait-1": {"prompt": "portrait of an old sailor", "seed": 1, "weight": 1.0},
}


def parameters(family: str = "sd1") -> list[FreeParameter]:
    """A weight for each block."""
    return [FreeParameter(f"mix.alpha.{label}", of="mix.alpha", labels=(label,)) for label in UNET_LABELS[family]]


def score_of(point: Mapping[str, Any], names: list[str]) -> float:
    """Best where early blocks are B's and late ones A's; the first ones count most."""
    return 6 - sum((point[name] - (1 - at / len(names))) ** 2 / (1 + at / 4) for at, name in enumerate(names))


def write_run(
    folder: Path,
    *,
    trials: int = 40,
    family: str | None = "sd1",
    images: bool = True,
    shots: Mapping[str, Mapping[str, Any]] = SHOTS,
    title: str = "photo and anime",
    reward: Mapping[str, Any] | None = None,
    confirmed: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> RunFolder:
    """A run of a reward that likes `score_of`; trial 5 failed, every seventh was given up early."""
    run, free, rng = RunFolder(folder), parameters(family or "sd1"), np.random.default_rng(seed)
    names = [p.name for p in free]
    run.write_setup(
        f"title: {json.dumps(title)}\n",
        {
            "version": "0",
            "title": title,
            "family": family,
            "parameters": [p.to_plain() for p in free],
            "reward": dict(reward or {"name": "aesthetic", "higher_is_better": True, "is_preference": True}),
            "shots": dict(shots),
            "queued": len(BASELINES),
            "folder": ".",
        },
    )
    best = dict.fromkeys(names, 0.5)
    for number in range(trials):
        baseline = list(BASELINES)[number] if number < len(BASELINES) else ""
        if baseline:
            point = dict.fromkeys(names, BASELINES[baseline])
        else:
            point = {n: float(np.clip(best[n] + rng.normal(0, 0.25), 0, 1)) for n in names}
        value = score_of(point, names)
        if value > score_of(best, names):
            best = point
        add_trial(run, number, point, value, baseline, shots, images, rng)
    if confirmed:
        run.write_confirmation(confirmed)
    return run


def add_trial(run: RunFolder, number: int, point, value: float, baseline: str, shots, images: bool, rng) -> None:
    """One trial with its images: the redder, the better."""
    state = "complete" if baseline else "failed" if number == 5 else "pruned" if number % 7 == 6 else "complete"
    made = list(shots)[:1] if state == "pruned" else [] if state == "failed" else list(shots)
    scores = {name: value + 0.1 * math.sin(at) for at, name in enumerate(made)}
    run.append(
        TrialRecord(
            number=number,
            state=state,
            point=point,
            score=None if state == "failed" else (float(np.mean(list(scores.values()))) if scores else value),
            scores=scores,
            baseline=baseline,
            seconds={"merge": 0.2, "generate": float(rng.uniform(6, 9)), "reward": 0.8, "other": 0.1},
            worker="box-1",
            finished=1000.0 + number,
            note="all images are black" if state == "failed" else "",
        )
    )
    for at, name in enumerate(made if images else []):
        level = int(np.clip(40 * value, 0, 255))
        image = Image.new("RGB", (96, 64), (level, 80, 40 + 60 * at))
        ImageDraw.Draw(image).ellipse((20, 10, 70, 56), fill=(255 - level, 200, 90))
        run.save_image(number, name, image)
