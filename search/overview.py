"""What there is to show of a search: of a run folder, also while it runs, or of an AutoMBW log. Reads files, computes little."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from .. import __version__
from ..checkpoints.families import in_order
from .automb import is_automb, read_automb
from .errors import SearchError
from .parameters import FreeParameter
from .records import TrialRecord
from .run_folder import RunFolder, best_of

# Where time goes, in the order in which it passes; logs of other tools have one number for the first three.
COSTS = ("merge", "generate", "reward", "evaluate", "other")
COST_WORDS = {
    "merge": "merge",
    "generate": "generate images",
    "reward": "reward",
    "evaluate": "merge, images and reward",
    "other": "other",
}
# Beside the best trial, the images of so many baselines are shown.
MOST_BASELINES = 5
_MOST_NOTES = 20
# Below so many trials, an order of parameters is nothing but chance.
FEWEST = 10


@dataclass(frozen=True)
class Spread:
    """A block's weight in the best trial, and among the best ones: their median, lowest and highest."""

    best: float
    middle: float
    low: float
    high: float


@dataclass(frozen=True)
class Overview:
    """A search, as far as it has come.

    Attributes:
        name: for people.
        path: run folder or log.
        family: of the models, or None when nobody says.
        layout: key -> shape of a model of no known family; empty for others.
        reward: `name`, `higher_is_better`, `is_preference`, `measures`, `caution`.
        parameters: what is free.
        trials: by number.
        requests: name -> `prompt`, `seed`, `weight`...; empty where there are no images.
        confirmed: what the confirmation found, or None.
        notes: what is odd, in sentences.
    """

    name: str
    path: Path
    family: str | None
    reward: Mapping[str, Any]
    parameters: tuple[FreeParameter, ...]
    trials: tuple[TrialRecord, ...]
    requests: Mapping[str, Mapping[str, Any]]
    confirmed: Mapping[str, Any] | None
    notes: tuple[str, ...]
    layout: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def higher_is_better(self) -> bool:
        return bool(self.reward.get("higher_is_better", True))

    @property
    def measures(self) -> str:
        """What scores stand for, as what follows "it measures"; empty where only the reward's name tells, or `caution` does."""
        said = str(self.reward.get("measures") or "")
        return "" if said in self.caution else said

    @property
    def caution(self) -> str:
        """What a reader of the scores must know, in sentences; empty where they stand for what people like, or may."""
        # Runs of earlier versions say no more than that.
        old = "This reward is not a model of what people like." if self.reward.get("is_preference") is False else ""
        said = str(self.reward.get("caution") or old)
        return said and f"{said} A better score need not be a picture that people like better."

    @property
    def complete(self) -> list[TrialRecord]:
        return [t for t in self.trials if t.state == "complete" and t.score is not None]

    @property
    def best(self) -> TrialRecord | None:
        return best_of(self.trials, self.higher_is_better)

    @property
    def baselines(self) -> list[TrialRecord]:
        """Complete baselines, the best one first."""
        return [t for t in self.ranked() if t.baseline]

    def ranked(self) -> list[TrialRecord]:
        """Complete trials, the best one first."""
        sign = 1 if self.higher_is_better else -1
        return sorted(self.complete, key=lambda t: (-sign * t.score, t.number))

    def best_so_far(self) -> list[tuple[int, float]]:
        """After each complete trial, in the order in which they were started: (number, best score until then)."""
        found, best = [], None
        for trial in self.complete:
            if best is None or (trial.score > best if self.higher_is_better else trial.score < best):
                best = trial.score
            found.append((trial.number, best))
        return found

    def called(self, trial: TrialRecord) -> str:
        """A trial by the baseline that it is, or by its number, and whether it is the best one."""
        best, name = self.best, trial.baseline or f"trial {trial.number}"
        return f"best: {name}" if best is not None and best.number == trial.number else name

    def images(self, number: int) -> dict[str, Path]:
        """Pictures of a trial by request, as far as they were kept."""
        return RunFolder(self.path).images(number) if self.path.is_dir() else {}

    def moved(self) -> list[str]:
        """What moves whole blocks: the numbers of the recipe that have a weight by block (`mix.alpha`)."""
        return list(dict.fromkeys(p.of for p in self.parameters if p.labels and not p.is_choice))

    def weights(self, trial: TrialRecord, of: str) -> dict[str, float]:
        """Block label -> weight of a trial, of the blocks that are free, in network order."""
        found = {
            label: float(trial.point[p.name])
            for p in self.parameters
            if p.of == of and not p.is_choice and isinstance(trial.point.get(p.name), int | float)
            for label in p.labels
        }
        return {label: found[label] for label in in_order(found)}

    def spread(self, of: str, top: int) -> dict[str, Spread]:
        """Each free block's weight in the best trial, and among the `top` best ones."""
        several = [self.weights(trial, of) for trial in self.ranked()[:top]]
        return {
            label: Spread(best, median(values), min(values), max(values))
            for label, best in (several[0] if several else {}).items()
            if (values := [weights[label] for weights in several if label in weights])
        }

    def limits(self, of: str) -> tuple[float, float]:
        """The ends of what the blocks' weights may be."""
        ends = [(p.low, p.high) for p in self.parameters if p.of == of and p.labels and not p.is_choice]
        return (min(low for low, _ in ends), max(high for _, high in ends)) if ends else (0.0, 1.0)

    def costs(self, trial: TrialRecord) -> dict[str, float]:
        """Seconds of a trial by what they went to, in the order of `COSTS`."""
        return {name: float(trial.seconds[name]) for name in COSTS if trial.seconds.get(name)}

    def correlations(self) -> dict[str, float]:
        """Spearman's rank correlation between each free number and the score, over complete trials; turned so that a positive
        one always means: more of it is better. Empty below `FEWEST` trials."""
        trials = self.complete
        if len(trials) < FEWEST:
            return {}
        sign, found = 1 if self.higher_is_better else -1, {}
        for p in self.parameters:
            having = [i for i, t in enumerate(trials) if isinstance(t.point.get(p.name), int | float)]
            if not p.is_choice and len(having) >= FEWEST:
                scores = ranks([sign * trials[i].score for i in having])
                found[p.name] = correlation(ranks([trials[i].point[p.name] for i in having]), scores)
        return found

    def chance(self) -> float:
        """The size that a rank correlation of nothing has at most in 19 of 20 cases, with that many trials."""
        return min(1.0, 1.96 / math.sqrt(max(len(self.complete) - 1, 1)))


def ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 0; equal values share the mean of theirs."""
    _, place, count = np.unique(np.asarray(values, float), return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return ((last - count) + (last - 1))[place] / 2


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation; 0 when one of them never changes."""
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / size if size else 0.0


# -- reading ------------------------------------------------------------------------------------------------------------


def read_overview(path: Path) -> Overview:
    """A run folder, or an AutoMBW log. What is damaged in a run folder is left out, and `notes` names it.

    Raises:
        SearchError: it is neither, or cannot be read.
    """
    path = Path(path)
    if path.is_file():
        return _of_log(path)
    run, left_out = RunFolder(path).require(), []
    setup, trials, confirmed = run.setup(left_out), run.trials(left_out), run.confirmation(left_out)
    parameters = tuple(setup.parameters) or _seen(trials)
    trials = [_fitted(trial, parameters, left_out) for trial in trials]
    if left_out and setup.version != __version__:
        left_out.append(f"The search was written by Unetscope {setup.version or '(not said)'}; this is {__version__}.")
    return Overview(
        name=setup.title or path.name,
        path=path,
        family=setup.family,
        reward=setup.reward.to_plain(),
        parameters=parameters,
        trials=tuple(trials),
        requests={name: request.to_plain() for name, request in setup.shots.items()},
        confirmed=confirmed.to_plain() if confirmed is not None else None,
        notes=tuple(left_out),
        layout=setup.layout,
    )


def _seen(trials: Sequence[TrialRecord]) -> tuple[FreeParameter, ...]:
    """What was free, as far as the trials tell: the numbers that they all have, between the ends that were seen."""
    points = [trial.point for trial in trials]
    names = [name for name in points[0] if all(isinstance(p.get(name), int | float) for p in points)] if points else []
    columns = {name: [point[name] for point in points] for name in names}
    return tuple(FreeParameter(name, min(values), max(values), of=name) for name, values in columns.items())


def _fitted(trial: TrialRecord, parameters: Sequence[FreeParameter], left_out: list[str]) -> TrialRecord:
    """A trial without the values that its parameters cannot have."""
    wrong = [
        p.name
        for p in parameters
        if p.name in trial.point
        and not (trial.point[p.name] in p.choices if p.is_choice else isinstance(trial.point[p.name], int | float))
    ]
    for name in wrong:
        left_out.append(f"trial {trial.number}: {name} is left out: {trial.point[name]!r:.80} is not a value of it")
    kept = {name: value for name, value in trial.point.items() if name not in wrong}
    return dataclasses.replace(trial, point=kept) if wrong else trial


def _of_log(path: Path) -> Overview:
    if not is_automb(path):
        raise SearchError(
            f"{path}: is neither a run folder nor an AutoMBW log (a CSV with the columns 0, 1, 2... and score)"
        )
    log = read_automb(path)
    labels = list(log.trials[0].point)
    weights = [value for trial in log.trials for value in trial.point.values()]
    low, high = min(0.0, *weights), max(1.0, *weights)
    parameters = tuple(FreeParameter(label, low, high, of="alpha", labels=(label,)) for label in labels)
    notes = ("The log does not say which reward, models or prompts its scores come from.", *log.notes)
    return Overview(
        log.name, path, log.family, {"name": "AutoMBW's score"}, parameters, tuple(log.trials), {}, None, notes
    )


def verdict_of(overview: Overview) -> tuple[str, str]:
    """Whether the search was worth it: (`yes`, `no`, `cannot tell` or ``, a sentence)."""
    found = overview.confirmed or {}
    if found.get("verdict"):
        verdict, text = str(found["verdict"]), str(found.get("text") or "")
        if name := str(found.get("best") or ""):
            text = f"{name[:1].upper()}{name[1:]} was measured again on images that the search never saw."
        return verdict, text
    best, baselines = overview.best, overview.baselines
    if best is None:
        return "", "No trial is complete yet."
    if not baselines:
        return "", "No baseline was scored, so there is nothing to compare the best trial with."
    first = baselines[0]
    if best.baseline:
        return "", f"No proposal beats the baselines so far: the best score is that of {best.baseline}."
    difference = abs(best.score - first.score)
    return "", (
        f"The best trial is better than the best baseline ({first.baseline}) by {difference:.4g} on the prompts of the search. "
        "That is not confirmed on others yet, and the best of many is always flattered by luck."
    )


def compared(overview: Overview) -> tuple[list[tuple[TrialRecord, dict[str, Path]]], list[str]]:
    """The images that are shown side by side.

    Returns:
        a column for the best trial and for each of the best baselines, as far as images of it were kept: the trial, and its images
        by request; and the requests that the first column has, a row for each.
    """
    best = overview.best
    if best is None:
        return [], []
    trials = [best, *[t for t in overview.baselines if t.number != best.number][:MOST_BASELINES]]
    columns = [(trial, images) for trial in trials if (images := overview.images(trial.number))]
    if not columns:
        return [], []
    kept = columns[0][1]
    return columns, [request for request in overview.requests if request in kept] or list(kept)


def first(sentences: Sequence[str]) -> list[str]:
    """As many as somebody may read, and how many more there are."""
    more = len(sentences) - _MOST_NOTES
    return [*sentences[:_MOST_NOTES], *([f"and {more} more"] if more > 0 else [])]
