"""A study: what STUDY.yaml says, checked for everything that can be checked without loading anything heavy.

    recipe: {models: {...}, steps: {mix: {method: weighted_sum, inputs: [a, b], alpha: {free: [0, 1], per: block}}}}
    payloads: payloads/
    seeds: [1, 2]
    generator: {kind: diffusers}
    reward: {kind: aesthetic, weights: aesthetic.safetensors}
    trials: 120
    stop: {patience: 27}

`docs/search.md` describes every field.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.families import FAMILIES
from ..checkpoints.settings import Settings
from ..checkpoints.spelling import respelt
from ..merge.methods.files import with_methods_loaded
from ..merge.recipe_file import read_yaml
from ..merge.validation_errors import explained
from .errors import SearchError
from .image_requests import ImageRequest
from .search_space import Template, read_parameters, read_template
from .study_settings import (
    Confirm,
    OptimiserSettings,
    Positive,
    Pruning,
    Seed,
    Stop,
    named_optimiser,
    switched,
)


def known_family(name: str | None) -> str | None:
    """A family's id, checked by pydantic."""
    if name is not None and name not in FAMILIES:
        raise PydanticCustomError("unknown_family", "must be one of {known}", {"known": ", ".join(FAMILIES)})
    return name


class Study(Settings):
    """A study.

    Attributes:
        title: names the study in reports and in a shared storage; the file's name when left out.
        recipe: with something free in it: the recipe itself, or its file.
        parameters: without a recipe: what is free, for an objective that knows what it means.
        family: of the models, where there is no recipe: `per: block` needs it.
        payloads: prompts: a file, a folder, or written in place.
        seeds: one image for each payload and seed.
        generator, reward: their settings.
        objective: instead of these: `module:function` or `file.py:function`, which gets {parameter: value} and returns a score.
        direction: whether larger or smaller scores of the objective are better. Rewards know this themselves.
        optimiser: its name, or settings.
        baselines: what is scored first; left out: all parents, 0.5, uniform, GRAD_V and GRAD_A, as far as they fit.
        prior: logs of earlier searches (run folders, AutoMBW's CSV files) that the optimiser may learn from.
        trials: the budget: complete and pruned ones, baselines included.
        stop: what ends it sooner.
        pruning: settings, `true` or `false`.
        images: which pictures are kept: `all`, those of the `best` trials and the baselines, or `none`.
        batch: how many images the generator is asked for at once.
        confirm: what happens at the end; `false` for nothing.

    Example:
        >>> data = {"parameters": {"x": {"free": [0, 1]}}, "objective": "mine.py:score", "trials": 40}
        >>> study = Study.parse(data)
        >>> study.trials, [one.name for one in study.template().parameters]
        (40, ['x'])
    """

    title: str = ""
    recipe: Any = None
    parameters: Any = None
    family: Annotated[str | None, AfterValidator(known_family)] = None
    payloads: Any = None
    seeds: list[Seed] = Field(default_factory=lambda: [1], min_length=1)
    generator: Any = None
    reward: Any = None
    objective: str | None = None
    direction: Literal["maximise", "minimise"] | None = None
    optimiser: Annotated[OptimiserSettings, BeforeValidator(named_optimiser)] = Field(default_factory=OptimiserSettings)
    baselines: list[Any] | None = None
    prior: list[str] = Field(default_factory=list)
    trials: Positive = 120
    stop: Stop = Field(default_factory=Stop)
    pruning: Annotated[Pruning | None, BeforeValidator(switched)] = None
    images: Literal["all", "best", "none"] = "best"
    batch: Positive = 4
    confirm: Annotated[Confirm | None, BeforeValidator(switched)] = None

    _where: str = PrivateAttr("study")
    _folder: Path = PrivateAttr(Path())

    # -- reading ------------------------------------------------------------------------------------------------------

    @classmethod
    def parse(cls, data: Any, where: str = "study", folder: Path = Path()) -> Study:
        """A study from plain data; relative paths count from `folder`.

        Raises:
            SearchError: naming the place in the study, what is wrong and what would be right.
        """
        if not isinstance(data, Mapping):
            raise SearchError(f"{where}: a study is a mapping with a recipe, payloads, a generator and a reward")
        # Of an earlier version, whose run folders of a tree's merges have `tree: null`.
        if data.get("tree") is not None:
            raise SearchError(
                f"{where}: tree: is no longer there; search one merge after the other, with the steps of each best.yaml in the "
                "recipe of the next"
            )
        try:
            study = cls(**{name: value for name, value in data.items() if name != "tree"})
        except ValidationError as error:
            raise SearchError(f"{where}: {explained(error, _known)}") from None
        except UnetscopeError as error:
            raise SearchError(f"{where}: {error}") from None
        except TypeError:
            raise SearchError(f"{where}: the names at the top must be words") from None
        study._where, study._folder = where, Path(folder)
        return study

    @classmethod
    def load(cls, path: Path) -> Study:
        """A study from a YAML file.

        Raises:
            SearchError, RecipeError: the file cannot be read, is not YAML, or is not a valid study.
        """
        path = Path(path)
        study = cls.parse(read_yaml(path), str(path), path.parent)
        return study if study.title else study.changed(title=path.stem)

    def changed(self, **fields: Any) -> Study:
        """The same study with other fields."""
        return Study.parse(
            self.model_dump(exclude_unset=True) | respelt(fields, Study.model_fields), self._where, self._folder
        )

    @property
    def where(self) -> str:
        return self._where

    @property
    def folder(self) -> Path:
        """Where relative paths count from."""
        return self._folder

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        given = [name for name in ("recipe", "parameters") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise SearchError(f"a study has one of recipe and parameters; this one has {found}")
        images = [name for name in ("payloads", "generator", "reward") if getattr(self, name) is not None]
        if self.objective is not None:
            if images:
                raise SearchError(
                    f"{images[0]}: a study with an objective of its own makes no images; drop one of them"
                )
            if self.pruning is not None or self.confirm is not None:
                name = "pruning" if self.pruning is not None else "confirm"
                raise SearchError(f"{name}: needs a panel of images, and this study has an objective of its own")
        elif missing := [name for name in ("payloads", "generator", "reward") if name not in images]:
            raise SearchError(
                f"{missing[0]}: is missing; a study needs payloads, a generator and a reward, or an objective"
            )
        if self.parameters is not None and self.objective is None:
            raise SearchError("parameters: only an objective knows what they mean; a generator needs a recipe")
        if self.family is not None and self.parameters is None:
            raise SearchError("family: the models of the recipe say it; leave it out")
        if self.direction is not None and self.objective is None:
            raise SearchError("direction: the reward knows it; leave it out")
        if len(set(self.seeds)) < len(self.seeds):
            raise SearchError("seeds: names a seed twice")
        if self.stop.target is not None and not math.isfinite(self.stop.target):
            raise SearchError("stop.target: must be a finite number")
        return self

    # -- what it says -------------------------------------------------------------------------------------------------

    def recipe_data(self) -> tuple[Any, str, Path]:
        """The recipe as plain data, what to call it in errors, and the folder that its paths count from."""
        if isinstance(self.recipe, str):
            path = self._folder / self.recipe
            return read_yaml(path), str(path), path.parent
        return self.recipe, f"{self._where}: recipe", self._folder

    def template(self) -> Template:
        """What is free, and the recipe around it.

        Raises:
            SearchError, RecipeError, CheckpointError: see `read_template`.
            RecipeError: a file of merge methods that the recipe names cannot be taken. Its code is run.
        """
        if self.parameters is not None:
            template = read_parameters(self.parameters, self.family, f"{self._where}: parameters")
        else:
            data, where, folder = self.recipe_data()
            template = read_template(with_methods_loaded(data, folder), where, folder)
        choices = [p.name for p in template.parameters if p.is_choice]
        if choices and self.optimiser.name == "cmaes":
            raise SearchError(f"{self._where}: optimiser: cmaes cannot choose ({choices[0]}); use gp or tpe")
        return template

    def image_requests(self) -> list[ImageRequest]:
        """The panel of images: every payload with every seed; empty for an objective."""
        return [] if self.objective is not None else self._image_requests(self.payloads, self.seeds)

    def held_out(self) -> list[ImageRequest]:
        """The panel that the best ones are confirmed on.

        Raises:
            SearchError: it has an image of the search's own panel.
        """
        confirm = self.confirm or Confirm()
        payloads = self.payloads if confirm.payloads is None else confirm.payloads
        requests = self._image_requests(payloads, confirm.seeds, "confirm: ")
        seen = {(s.prompt, s.negative_prompt, s.seed) for s in self.image_requests()}
        if again := [s.name for s in requests if (s.prompt, s.negative_prompt, s.seed) in seen]:
            raise SearchError(
                f"{self._where}: confirm: {again[0]} is an image that the search sees too; give other payloads or other seeds"
            )
        return requests

    def _image_requests(self, payloads: Any, seeds: list[int], part: str = "") -> list[ImageRequest]:
        from .payloads import image_requests, load_payloads

        try:
            requests = image_requests(load_payloads(payloads, self._folder), seeds)
        except SearchError as error:
            raise SearchError(f"{self._where}: {part}{error}") from None
        if not requests:
            raise SearchError(f"{self._where}: {part}payloads: there is no prompt in them")
        # Every prompt once, then every prompt a second time: a pruned trial has seen as many prompts as it can.
        seen: Counter[str] = Counter()
        rounds = []
        for request in requests:
            payload = request.name.rpartition("-")[0]
            rounds.append(seen[payload])
            seen[payload] += 1
        return [request for _, request in sorted(zip(rounds, requests, strict=True), key=lambda pair: pair[0])]

    def to_yaml(self) -> str:
        """The study as YAML, with the recipe of a file written in place; paths still count from `folder`."""
        plain = self.model_dump(exclude_unset=True, mode="json")
        if isinstance(self.recipe, str):
            data, _, folder = self.recipe_data()
            plain["recipe"] = _moved(data, folder, self._folder)
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)


def _moved(recipe: Any, old: Path, new: Path) -> Any:
    """A recipe's plain data with relative paths that count from another folder."""

    def moved(path: Any) -> Any:
        if isinstance(path, Mapping) and "path" in path:
            return {**path, "path": moved(path["path"])}
        return Path(os.path.relpath(old / path, new)).as_posix() if isinstance(path, str) else path

    if old.resolve() == new.resolve() or not isinstance(recipe, Mapping):
        return recipe
    out = dict(recipe)
    for part in ("models", "loras"):
        if isinstance(recipe.get(part), Mapping):
            out[part] = {name: moved(path) for name, path in recipe[part].items()}
    if isinstance(recipe.get("methods"), list):
        out["methods"] = [moved(path) for path in recipe["methods"]]
    names = {"merge", *out.get("models", {}), *out.get("loras", {}), *(out.get("steps") or {})}
    if isinstance(recipe.get("components"), Mapping):
        parts = recipe["components"]
        out["components"] = {k: moved(v) if isinstance(v, str) and v not in names else v for k, v in parts.items()}
    return out


def _known(place: Sequence[str]) -> Collection[str]:
    """The names that may stand in a place of a study."""
    parents = {"optimiser": OptimiserSettings, "stop": Stop, "pruning": Pruning, "confirm": Confirm}
    return parents.get(place[0] if place else "", Study).model_fields
