"""Everything that is settled before the first trial, checked before anything heavy loads."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__
from ..checkpoints.families import FAMILIES, family_of
from ..checkpoints.text import counted
from ..merge.planner import planned
from .baselines import Baseline, baselines
from .errors import SearchError
from .objective import Objective, make_objective
from .prior import read_prior
from .records import Setup
from .run_folder import RunFolder
from .search_space import Template
from .study import Study
from .validation import fitting


@dataclass(frozen=True)
class Prepared:
    """A study, ready to run.

    Attributes:
        study: of the file.
        template: its recipe.
        objective: gives points scores.
        baselines: what is scored first.
        prior: points and scores that are known already.
        notes: what the user should know, in sentences.
    """

    study: Study
    template: Template
    objective: Objective
    baselines: list[Baseline]
    prior: list[tuple[dict[str, Any], float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def prepare(study: Study) -> Prepared:
    """Check a study completely; reads headers and payloads, and loads nothing heavy.

    Raises:
        UnetscopeError: anything that could never work, in one sentence.
    """
    template = study.template()
    objective = make_objective(study)
    if template.roles:
        # Models that are not there or do not fit together would be noticed by the first trial, or by nobody before the end.
        with planned(template.recipe(template.middle())):
            pass
    try:
        objective.check(template)
    except SearchError as error:
        raise SearchError(f"{study.where}: {error}") from None
    if study.confirm is not None:
        study.held_out()
    found, notes = baselines(template, study.baselines, f"{study.where}: baselines")
    prior, more = read_prior(study, template)
    notes += more
    if objective.needs_calibration and not found:
        raise SearchError(f"{study.where}: baselines: this reward takes its scale from them, so there must be some")
    if len(found) >= study.trials:
        notes.append(
            f"the budget of {counted(study.trials, 'trial')} has room for little more than the {counted(len(found), 'baseline')}"
        )
    if objective.caution:
        notes.append(f"{objective.name}: {objective.caution[:1].lower()}{objective.caution[1:].removesuffix('.')}")
    return Prepared(study, template, objective, found, prior, notes)


def open_run(prepared: Prepared, path: Path, *, resume: bool, joining: bool) -> RunFolder:
    """The run folder: a new one, or the same study's.

    Args:
        prepared: what is to be run.
        path: the folder.
        resume: whether the user wants to continue with what is there.
        joining: whether the storage is shared, so that a folder that exists is nothing surprising.

    Raises:
        SearchError: there is a search in the folder that nobody wants to continue with, or another one.
    """
    run = RunFolder(path)
    setup = _setup(prepared, run)
    if run.exists:
        if not (resume or joining):
            trials = counted(len(run.trials()), "trial")
            raise SearchError(
                f"{path}: has a search with {trials}; continue with it by --resume, or choose another folder by -o"
            )
        _same(run, setup)
        run.write_setup(prepared.study.to_yaml(), setup)
        return run
    if Path(path).is_file():
        raise SearchError(f"{path}: is a file; choose a folder for the run by -o")
    run.write_setup(prepared.study.to_yaml(), setup)
    return run


def _setup(prepared: Prepared, run: RunFolder) -> dict[str, Any]:
    objective, template = prepared.objective, prepared.template
    family = family_of(template.family) if template.family else None
    own = family is not None and family.id not in FAMILIES
    return {
        "version": __version__,
        "title": prepared.study.title,
        "family": family.id if family is not None else None,
        # A model of no known family is drawn by its own names, also where its file is not.
        **({"layout": {key: list(spec.shape) for key, spec in family.layout().items()}} if own else {}),
        "parameters": [p.to_plain() for p in template.parameters],
        "reward": {
            "name": objective.name,
            "higher_is_better": objective.higher_is_better,
            "is_preference": objective.is_preference,
            "measures": objective.measures,
            "caution": objective.caution,
        },
        "shots": {
            s.name: {
                "prompt": s.prompt,
                "negative_prompt": s.negative_prompt,
                "seed": s.seed,
                "weight": s.weight,
                "steps": s.steps,
                "cfg_scale": s.cfg_scale,
                "width": s.width,
                "height": s.height,
                "sampler_name": s.sampler_name,
            }
            for s in objective.requests
        },
        "baselines": [b.name for b in prepared.baselines],
        "queued": len(prepared.baselines),
        "folder": _seen_from(prepared.study.folder, run.path),
    }


def _same(run: RunFolder, setup: Mapping[str, Any]) -> None:
    """Refuse to continue with a search in which something else is free, or other images are made: scores would not compare."""
    old, new = run.setup(), fitting(Setup, json.loads(json.dumps(setup)), "setup")
    changed = {
        "the free numbers of the study have": old.parameters != new.parameters,
        "the prompts, seeds or image settings of the study have": old.shots != new.shots,
        # How a reward is described may change; which one it is may not.
        "the reward of the study has": (old.reward.name, old.reward.higher_is_better)
        != (new.reward.name, new.reward.higher_is_better),
    }
    for what, has in changed.items():
        if has:
            raise SearchError(f"{run.path}: {what} changed since this search began; choose another folder by -o")


def load_run(path: Path | str) -> tuple[RunFolder, Study]:
    """A run folder and its study.

    Raises:
        SearchError: there is no search in the folder.
    """
    run = RunFolder(path).require()
    folder = Path(os.path.normpath(run.path / run.setup().folder))
    return run, Study.parse(run.study(), str(run.path / "study.yaml"), folder)


def _seen_from(path: Path, folder: Path) -> str:
    """A path as seen from a folder; absolute where that is on another drive."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        return Path(path).resolve().as_posix()
