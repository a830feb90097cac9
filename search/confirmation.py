"""Confirmation: the best trials again, on prompts and seeds that the search never saw, next to the parents and the baselines.

The score that a search ends with is flattered: it is the luckiest of many. Here every candidate and every parent make the same new
images; differences are taken image by image, and their mean gets a t interval (Student 1908). All intervals together hold with the
asked-for confidence (Bonferroni): choosing the best of k candidates against p parents must not make luck look like merit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..merge.recipe import MERGED, Recipe
from .errors import SearchError
from .objective import ImageObjective, image_objective
from .records import TrialRecord
from .run_folder import RunFolder, save_picture
from .run_setup import load_run
from .search_space import Template
from .storage import Workers
from .study import Study
from .study_settings import Confirm

Verdict = Literal["yes", "no", "cannot tell"]
_PARENT = re.compile("all [A-Z]")


@dataclass(frozen=True)
class Interval:
    """How much better a candidate is than something else: the mean difference over the images, and its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Candidate:
    """Something that was confirmed.

    Attributes:
        name: `trial 57`, a parent's name in the recipe, or a baseline's.
        role: what it is.
        trial: its number in the search; None for a parent.
        searched: its score in the search.
        score: its score on the held-out panel.
        scores: image name -> score there.
        against: of a trial: parent or baseline -> how much better it is (in the reward's direction).
        better: of a trial: whether it is better than all parents.
    """

    name: str
    role: Literal["trial", "parent", "baseline"]
    trial: int | None
    searched: float | None
    score: float
    scores: Mapping[str, float]
    against: Mapping[str, Interval]
    better: Verdict | None


@dataclass(frozen=True)
class Confirmation:
    """What came of it.

    Attributes:
        verdict: whether the best candidate is better than all parents.
        text: the same in a sentence.
        best: the name of the candidate that is best on the held-out panel.
        confidence: of all intervals together.
        new_prompts: whether the prompts were new too, not only the seeds.
        candidates: trials, then parents, then baselines.
    """

    verdict: Verdict
    text: str
    best: str
    confidence: float
    new_prompts: bool
    candidates: tuple[Candidate, ...]

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)


def confirm(path: Path | str, *, say: Callable[[str], None] = print, settings: Confirm | None = None) -> Confirmation:
    """Confirm the best trials of a run; what an interrupted confirmation has measured is not measured again.

    Args:
        path: the run folder. `confirmed.json` is written there, images into `images/confirm-<name>`.
        say: gets a line for each candidate.
        settings: instead of the study's.

    Raises:
        SearchError: there is nothing to confirm, or the held-out panel is not held out.
    """
    run, study = load_run(path)
    if study.objective is not None:
        raise SearchError(f"{run.path}: its objective makes no images, so there are no held-out prompts to confirm on")
    if settings is not None or study.confirm is None:
        study = study.changed(confirm=(settings or Confirm()).model_dump())
    if run.best() is None:
        raise SearchError(f"{run.path}: no trial is complete, so there is nothing to confirm")
    with Workers(run).alone("confirm"):
        return _confirm(run, study, say)


def _confirm(run: RunFolder, study: Study, say: Callable[[str], None]) -> Confirmation:
    objective = image_objective(study, study.held_out())
    template = study.template()
    chosen = _candidates(run, study, template)
    known = _measured(run, objective, say)
    try:
        missing = [name for name, *_ in chosen if name not in known]
        if missing:
            objective.load()
            _calibrate(objective, run)
        for name, _, _, recipe in chosen:
            if name not in known:
                known[name] = _score(objective, recipe, name, run)
                _keep(run, objective, known)
                say(f"{name}: {objective.mean(known[name]):.6g}")
    finally:
        objective.close()
    found = judge(
        [(name, role, record) for name, role, record, _ in chosen],
        known,
        objective.weights,
        higher_is_better=objective.higher_is_better,
        confidence=study.confirm.confidence,
        new_prompts=not {s.prompt for s in objective.requests} & {s.prompt for s in study.image_requests()},
    )
    _keep(run, objective, known, found)
    return found


def _candidates(run: RunFolder, study: Study, template: Template) -> list[tuple[str, str, TrialRecord | None, Recipe]]:
    """The top trials, every parent by itself, and the baselines that are not parents."""
    sign = 1 if run.setup().reward.higher_is_better else -1
    free = {p.name for p in template.parameters}
    # Parents are measured as what they are, and what is damaged has no recipe.
    complete = [
        t
        for t in run.trials()
        if t.state == "complete"
        and t.score is not None
        and free <= t.point.keys()
        and not _PARENT.fullmatch(t.baseline)
    ]
    ranked = sorted(complete, key=lambda t: (-sign * t.score, t.number))
    top: list[TrialRecord] = []
    for trial in ranked:
        if all(dict(trial.point) != dict(other.point) for other in top):
            top.append(trial)
    top = top[: study.confirm.top]
    if not top:
        raise SearchError(f"{run.path}: no trial but the parents is complete, so there is nothing to confirm")
    out = [(f"trial {t.number}{_baseline(t)}", "trial", t, template.recipe(t.point)) for t in top]
    whole = template.recipe(top[0].point)
    for name in template.parents(whole):
        out.append((name, "parent", None, _parent(whole, name)))
    taken = {t.number for t in top}
    for trial in complete:
        if trial.baseline and trial.number not in taken:
            out.append((f"baseline {trial.baseline}", "baseline", trial, template.recipe(trial.point)))
    return out


def _baseline(trial: TrialRecord) -> str:
    """A baseline among the best trials says that nobody had to search for it."""
    return f" ({trial.baseline})" if trial.baseline else ""


def _parent(recipe: Recipe, name: str) -> Recipe:
    """What is mixed, by itself, with the parts that the recipe takes from elsewhere."""
    fixed = {k: v for k, v in recipe.components.items() if v not in recipe.steps and v != MERGED}
    steps = recipe.order(name)
    needed = {*recipe.leaves(name), *fixed.values()}
    plain = recipe.to_plain()
    for part, kept in (("models", needed), ("loras", needed), ("steps", steps)):
        plain[part] = {k: v for k, v in plain.get(part, {}).items() if k in kept}
    return Recipe.parse({**plain, "components": fixed, "result": name, "title": name}, f"parent {name}")


def _score(objective: ImageObjective, recipe: Recipe, name: str, run: RunFolder) -> dict[str, float]:
    folder = run.path / "images" / f"confirm-{''.join(c if c.isalnum() or c in '-_.' else '_' for c in name)}"
    folder.mkdir(parents=True, exist_ok=True)
    measured = objective.measure_recipe(recipe, lambda request, image: save_picture(image, folder / f"{request}.png"))
    if measured.score is None:
        raise SearchError(f"{name} cannot be confirmed: {measured.note}")
    return measured.scores


def _calibrate(objective: ImageObjective, run: RunFolder) -> None:
    """The scale of scores is that of the search: its baselines'."""
    if objective.needs_calibration:
        objective.calibrate([t for t in run.trials() if t.baseline and t.state == "complete"])


def _measured(run: RunFolder, objective: ImageObjective, say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """What an earlier confirmation on the same panel has measured; what is damaged is measured again."""
    left_out: list[str] = []
    old, panel = run.confirmation(left_out), _panel(objective)
    for note in left_out:
        say(note)
    if old is None or old.panel != panel:
        return {}
    return {name: scores for name, scores in old.measured.items() if scores.keys() == panel.keys()}


def _keep(run: RunFolder, objective: ImageObjective, known: Mapping, found: Confirmation | None = None) -> None:
    run.write_confirmation({"panel": _panel(objective), "measured": known} | (found.to_plain() if found else {}))


def _panel(objective: ImageObjective) -> dict[str, Any]:
    return {s.name: {"prompt": s.prompt, "seed": s.seed, "weight": s.weight} for s in objective.requests}


# -- the verdict --------------------------------------------------------------------------------------------------------


def judge(
    chosen: Sequence[tuple[str, str, TrialRecord | None]],
    known: Mapping[str, Mapping[str, float]],
    weights: Mapping[str, float],
    *,
    higher_is_better: bool,
    confidence: float,
    new_prompts: bool = False,
) -> Confirmation:
    """Compare trials with parents and baselines on what was measured.

    Args:
        chosen: name, role and record of each.
        known: name -> request -> score.
        weights: of the requests.
        higher_is_better: the reward's direction.
        confidence: of all intervals together.
        new_prompts: see `Confirmation`.
    """
    sign = 1.0 if higher_is_better else -1.0
    trials = [name for name, role, _ in chosen if role == "trial"]
    parents = [name for name, role, _ in chosen if role == "parent"]
    others = [name for name, role, _ in chosen if role != "trial"]
    level = 1 - (1 - confidence) / max(1, len(trials) * len(parents))
    candidates = []
    for name, role, record in chosen:
        against = (
            {o: paired_interval(known[name], known[o], weights, level, sign) for o in others} if role == "trial" else {}
        )
        better = _verdict([against[p] for p in parents]) if role == "trial" else None
        mean = _mean(known[name], weights)
        number, searched = (record.number, record.score) if record else (None, None)
        candidates.append(Candidate(name, role, number, searched, mean, known[name], against, better))
    best = max((c for c in candidates if c.role == "trial"), key=lambda c: sign * c.score)
    who = "both parents" if len(parents) == 2 else "its parent" if len(parents) == 1 else f"all {len(parents)} parents"
    text = f"{best.name} is better than {who}: {best.better}"
    verdict = best.better or "cannot tell"
    return Confirmation(verdict, text, best.name, confidence, new_prompts, tuple(candidates))


def paired_interval(
    mine: Mapping[str, float], other: Mapping[str, float], weights: Mapping[str, float], level: float, sign: float = 1.0
) -> Interval:
    """The weighted mean of differences, request by request, with a t interval; infinitely wide for fewer than two requests."""
    from scipy.stats import t

    names = [name for name in mine if name in other]
    differences = [sign * (mine[name] - other[name]) for name in names]
    shares = [weights[name] for name in names]
    total, n = sum(shares), len(names)
    mean = sum(w * d for w, d in zip(shares, differences, strict=True)) / total
    if n < 2:
        return Interval(mean, -math.inf, math.inf)
    spread = sum((w / total) ** 2 * (d - mean) ** 2 for w, d in zip(shares, differences, strict=True)) * n / (n - 1)
    half = float(t.ppf((1 + level) / 2, n - 1)) * math.sqrt(spread)
    return Interval(mean, mean - half, mean + half)


def _verdict(intervals: Sequence[Interval]) -> Verdict:
    """Better than all parents: sure of all of them, sure that not of one of them, or neither."""
    if all(x.low > 0 for x in intervals):
        return "yes"
    return "no" if any(x.high <= 0 for x in intervals) else "cannot tell"


def _mean(scores: Mapping[str, float], weights: Mapping[str, float]) -> float:
    return sum(weights[name] * x for name, x in scores.items()) / sum(weights[name] for name in scores)
