"""Objectives, generators and rewards that cost nothing, for tests of the search."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from unetscope.search.generators.contract import Generator
from unetscope.search.rewards.contract import Reward
from unetscope.search.run_folder import RunFolder

DIMENSIONS = 27
PARAMETERS = {f"x{i}": {"free": [0, 1]} for i in range(DIMENSIONS)}


class Quadratic:
    """A rotated, noisy quadratic in 27 dimensions whose peak, 0, is somewhere inside; the same point has the same noise."""

    def __init__(self, seed: int = 0, noise: float = 0.05):
        rng = np.random.default_rng(seed)
        self.turn, _ = np.linalg.qr(rng.normal(size=(DIMENSIONS, DIMENSIONS)))
        self.peak, self.noise = rng.uniform(0.1, 0.9, DIMENSIONS), noise
        self.scales = np.geomspace(0.05, 5, DIMENSIONS)

    def true(self, x: np.ndarray) -> float:
        return -float(self.scales @ (self.turn @ (x - self.peak)) ** 2)

    def __call__(self, point) -> float:
        x = np.array([point[f"x{i}"] for i in range(DIMENSIONS)])
        key = int.from_bytes(hashlib.sha256(x.tobytes()).digest()[:8], "little")
        return self.true(x) + self.noise * float(np.random.default_rng(key).normal())


# Seconds until a process is taken for hung; a busy machine needs far less.
PATIENCE = 600.0
# A study with this objective, for processes of their own; `pause` gives tests the time to interrupt it, and no trial ends before
# so many workers have begun one.
_OBJECTIVE = """
import os, time
def score(weights):
    with open("asked.txt", "a") as file:
        file.write(f"{{os.getpid()}}\\n")
    end = time.monotonic() + 300
    while len(set(open("asked.txt").read().split())) < {workers} and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep({pause})
    return -sum((x - 0.3) ** 2 for x in weights.values())
"""


def write_study(folder: Path, text: str, pause: float = 0.0, workers: int = 1) -> Path:
    """A study file and its objective next to it."""
    (folder / "objective.py").write_text(_OBJECTIVE.format(pause=pause, workers=workers))
    path = folder / "study.yaml"
    path.write_text(textwrap.dedent(text))
    return path


SMALL = """
    parameters: {x: {free: [0, 1]}, y: {free: [0, 1]}}
    objective: objective.py:score
    optimiser: {name: random, start: 3}
    trials: 12
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    """`unetscope search ...` as a process of its own."""
    command = [sys.executable, "-m", "unetscope", "search", *map(str, arguments)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def open_study(journal: Path, name: str):
    """What Optuna's own reader finds in a journal."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    from unetscope.search.journal import JournalFile

    try:
        storage = JournalStorage(JournalFileBackend(str(journal)))
    except (ValueError, TypeError, KeyError):  # it gives up at a line that is none
        storage = JournalStorage(JournalFile(journal))
    return optuna.load_study(study_name=name, storage=storage)


def wait_for_trials(run: Path, count: int, process: subprocess.Popen) -> None:
    """Until a run has so many finished trials."""
    end = time.monotonic() + PATIENCE
    while len(RunFolder(run).trials()) < count:
        if process.poll() is not None or time.monotonic() > end:
            raise AssertionError(process.communicate())
        time.sleep(0.05)


def interrupt(process: subprocess.Popen) -> None:
    """What Ctrl-C does."""
    os.kill(process.pid, signal.SIGINT)


class ColourGenerator(Generator):
    """Makes pictures of one colour: red is the mean of the recipe's weights, green the request's seed.

    Attributes:
        prepared, made: how many recipes and pictures it was asked for.
        frozen: whether it ignores the recipe, as a broken generator would.
        black: whether it makes black pictures.
    """

    def __init__(self, frozen: bool = False, black: bool = False):
        self.prepared, self.made, self.frozen, self.black, self.red = 0, 0, frozen, black, 0.5

    def prepare(self, recipe) -> None:
        self.prepared += 1
        if recipe.result in recipe.models:
            self.red = float(list(recipe.models).index(recipe.result) == 1)
        elif not self.frozen:
            step = recipe.steps[recipe.result]
            weights = step.weights(recipe.convention)["alpha"].resolve("sd1").by_label()
            self.red = float(np.mean(list(weights.values())))

    def images(self, requests: Sequence) -> list[Image.Image]:
        self.made += len(requests)
        colour = [round(255 * self.red), *(0, 0)]
        return [
            Image.new("RGB", (8, 8), (0, 0, 0) if self.black else (colour[0], 50 + request.seed % 200, 1))
            for request in requests
        ]


class RedReward(Reward):
    """Scores how near red is to `wanted`, with some noise that depends on the picture; NaN for `spoilt` prompts."""

    name = "red"

    def __init__(self, wanted: float = 0.7, spoilt: str = "", noise: float = 0.02):
        self.wanted, self.spoilt, self.noise, self.loads = wanted, spoilt, noise, 0

    def load(self) -> None:
        self.loads += 1

    def score(self, images, prompts):
        return [
            float("nan") if self.spoilt and self.spoilt in p else self._one(i)
            for i, p in zip(images, prompts, strict=True)
        ]

    def _one(self, image) -> float:
        red, green, _ = image.getpixel((0, 0))
        noise = np.random.default_rng(int(red) * 256 + int(green)).normal() * self.noise
        return float(1 - (red / 255 - self.wanted) ** 2 + green / 1000 + noise)
