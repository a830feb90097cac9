"""How a point gets its score: by a function of the user's own, or by images that a reward scores."""

from __future__ import annotations

import contextlib
import inspect
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..checkpoints.errors import UnetscopeError, in_words
from ..checkpoints.text import counted
from .errors import NO_IMAGE, OUT_OF_ORDER, SearchError
from .image_requests import ImageRequest, picture_hash
from .pruning import is_hopeless
from .records import TrialRecord
from .search_space import Template
from .study import Study
from .study_settings import Pruning
from .user_code import load_function

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..merge.recipe import Recipe
    from .generators.contract import Generator
    from .rewards.contract import Reward


@dataclass
class Measured:
    """What became of a point.

    Attributes:
        scores: image name -> score.
        parts: image name -> part of the reward -> raw score.
        score: the weighted mean of `scores`; None when it failed.
        pruned: whether the panel was not finished.
        seconds: `merge`, `generate`, `reward`.
        pictures: image name -> hash of the picture.
        note: why it failed, or what was odd.
    """

    scores: dict[str, float] = field(default_factory=dict)
    parts: dict[str, dict[str, float]] = field(default_factory=dict)
    score: float | None = None
    pruned: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)
    note: str = ""


Keep = Callable[[str, "Image"], None]


class Objective(ABC):
    """Gives points scores.

    Attributes:
        name: for reports.
        higher_is_better, is_preference, measures: as a reward's.
        caution: what its reward's says.
        needs_calibration: whether scores mean something only when all baselines are measured.
        requests: the panel; empty where there are no images.
    """

    name = "objective"
    higher_is_better = True
    is_preference = True
    measures = ""
    caution = ""
    needs_calibration = False
    requests: Sequence[ImageRequest] = ()

    def check(self, template: Template) -> None:  # noqa: B027 (a function has nothing to check)
        """Refuse what could never work, before anything heavy loads."""

    def load(self) -> None:  # noqa: B027
        """Load what is heavy; called once."""

    def measure(
        self, template: Template, point: Mapping[str, Any], incumbent: TrialRecord | None, keep: Keep
    ) -> Measured:
        """Score a point; whatever goes wrong with it makes a failed trial, with the reason as its note.

        Args:
            template: makes the recipe.
            point: what fills it.
            incumbent: the best trial, to compare with; None where nothing is pruned.
            keep: gets every picture.

        Raises:
            SearchError: the generator or the reward is out of order (`OUT_OF_ORDER`), so that no other point would do better.
        """
        measured = Measured()
        try:
            self._measure(measured, template, point, incumbent, keep)
        except UnetscopeError as error:
            if error.code == OUT_OF_ORDER:
                raise SearchError(f"{error}; the search has stopped, --resume continues", code=OUT_OF_ORDER) from None
            measured.score, measured.note = None, str(error)
        # An objective, a model or a driver may raise anything; one trial is lost, not the search.
        except Exception as error:
            measured.score, measured.note = None, in_words(error)
        return measured

    @abstractmethod
    def _measure(self, measured: Measured, template, point, incumbent, keep) -> None:
        """Fill `measured`."""

    def rescored(self, record: TrialRecord) -> dict[str, float]:
        """A trial's scores again, from the raw parts that were recorded."""
        return dict(record.scores)

    def calibrate(self, baselines: Sequence[TrialRecord]) -> list[str]:
        """Fix the scale of scores from the baselines; sentences about what is odd."""
        return []

    def close(self) -> None:  # noqa: B027
        """Give back what was loaded."""


class FunctionObjective(Objective):
    """A function of one's own: it gets {parameter: value}, and the recipe if it takes two arguments, and returns a score."""

    def __init__(self, function: Callable, name: str, higher_is_better: bool):
        self.function, self.name, self.higher_is_better = function, name, higher_is_better
        self._wants_recipe = _takes_two(function)

    def _measure(self, measured, template, point, incumbent, keep) -> None:
        begun = time.monotonic()
        more = [template.recipe(point)] if self._wants_recipe and template.roles else []
        value = self.function(dict(point), *more)
        measured.seconds["reward"] = time.monotonic() - begun
        try:
            score = float(value)
        except (TypeError, ValueError):
            raise SearchError(f"{self.name} must return a number, and returned {value!r:.80}") from None
        if not math.isfinite(score):
            raise SearchError(f"{self.name} returned {score}")
        measured.score = score


def _takes_two(function: Callable) -> bool:
    """Whether a function has a place for a second argument that it needs."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False
    placed = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    return len(placed) >= 2


class ImageObjective(Objective):
    """Images of a panel, made with the merge and scored by a reward."""

    def __init__(
        self,
        generator: Generator,
        reward: Reward,
        requests: Sequence[ImageRequest],
        *,
        batch: int = 4,
        pruning: Pruning | None = None,
    ):
        self.generator, self.reward, self.requests = generator, reward, tuple(requests)
        self.batch, self.pruning = batch, pruning
        self.name, self.higher_is_better = reward.name, reward.higher_is_better
        self.is_preference, self.needs_calibration = reward.is_preference, reward.needs_calibration
        self.measures, self.caution = reward.measures, reward.caution()
        self.weights = {request.name: request.weight for request in requests}

    def check(self, template: Template) -> None:
        self.reward.check()
        self.generator.check(template.recipe(template.middle()), self.requests)

    def load(self) -> None:
        self.reward.load()

    def _measure(self, measured, template, point, incumbent, keep) -> None:
        self.measure_recipe(template.recipe(point), keep, incumbent, measured)

    def measure_recipe(
        self, recipe: Recipe, keep: Keep, incumbent: TrialRecord | None = None, measured: Measured | None = None
    ) -> Measured:
        """Score a recipe.

        Args:
            recipe: what makes the images.
            keep: gets every picture.
            incumbent: the best trial; where it is given, a recipe that is worse is not finished.
            measured: what is filled, so that it holds how far things came before an error.

        Raises:
            UnetscopeError: there is no image, or no score.
        """
        measured = measured or Measured()
        clock = _Clock(measured.seconds)
        with clock("merge"):
            self.generator.prepare(recipe)
        black = []
        for start in range(0, len(self.requests), self.batch):
            batch = self.requests[start : start + self.batch]
            with clock("generate"), _for_good():
                images = self.generator.images(batch)
            if len(images) != len(batch):
                raise SearchError(f"the generator made {counted(len(images), 'image')} of {len(batch)}")
            with clock("reward"), _for_good():
                parts = self.reward.parts(images, [request.prompt for request in batch])
                scores = self.reward.combine(parts)
            for i, (request, image) in enumerate(zip(batch, images, strict=True)):
                measured.scores[request.name] = float(scores[i])
                measured.parts[request.name] = {part: float(values[i]) for part, values in parts.items()}
                measured.pictures[request.name] = picture_hash(image)
                black += [request.name] if not image.getbbox() else []
                keep(request.name, image)
            if incumbent is not None and self._is_hopeless(measured, incumbent):
                measured.pruned = True
                break
        measured.score, measured.note = self._verdict(measured, black)
        return measured

    def _is_hopeless(self, measured: Measured, incumbent: TrialRecord) -> bool:
        finite = all(math.isfinite(x) for x in measured.scores.values())
        better = {"higher_is_better": self.higher_is_better}
        return finite and is_hopeless(measured.scores, incumbent.scores, self.weights, self.pruning, **better)

    def _verdict(self, measured: Measured, black: list[str]) -> tuple[float | None, str]:
        """The score of a panel, and what is odd about it."""
        made = len(measured.scores)
        if len(black) == made:
            return None, "all images are black, as they are when a model's numbers are not finite (NaN)"
        if missing := [name for name, x in measured.scores.items() if not math.isfinite(x)]:
            return None, f"no score (NaN) for {len(missing)} of {counted(made, 'image')}, {missing[0]} among them"
        note = f"black: {len(black)} of {counted(made, 'image')}, {black[0]} among them" if black else ""
        return self.mean(measured.scores), note

    def mean(self, scores: Mapping[str, float]) -> float:
        """The weighted mean of an image's scores."""
        weights = [self.weights[name] for name in scores]
        return sum(w * x for w, x in zip(weights, scores.values(), strict=True)) / sum(weights)

    def rescored(self, record: TrialRecord) -> dict[str, float]:
        names = list(record.parts)
        if not names:
            return dict(record.scores)
        parts = {part: [record.parts[name][part] for name in names] for part in record.parts[names[0]]}
        return dict(zip(names, map(float, self.reward.combine(parts)), strict=True))

    def calibrate(self, baselines: Sequence[TrialRecord]) -> list[str]:
        return self.reward.calibrate([record.parts for record in baselines])

    def close(self) -> None:
        self.generator.close()


class _Clock:
    """Adds up where time goes."""

    def __init__(self, seconds: dict[str, float]):
        self.seconds = seconds

    def __call__(self, what: str) -> _Clock:
        self._what = what
        return self

    def __enter__(self) -> None:
        self._begun = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self.seconds[self._what] = self.seconds.get(self._what, 0.0) + time.monotonic() - self._begun


@contextlib.contextmanager
def _for_good() -> Iterator[None]:
    """What generators and rewards raise, by their contracts, when they have given up; a model without images is not that."""
    try:
        yield
    except SearchError as error:
        if error.code == NO_IMAGE:
            raise
        raise SearchError(str(error), code=OUT_OF_ORDER) from None


def image_objective(study: Study, requests: Sequence[ImageRequest]) -> ImageObjective:
    """A study's generator and reward over images; nothing heavy is loaded.

    Raises:
        SearchError: a generator or a reward that there is not.
    """
    from .generators import make_generator
    from .rewards import make_reward

    settings = {"kind": study.generator} if isinstance(study.generator, str) else study.generator
    try:
        if not isinstance(settings, Mapping):
            raise SearchError(f"generator: must be a mapping with a kind, found {settings!r:.80}")
        generator = make_generator(dict(settings), study.folder)
        reward = make_reward(study.reward, study.folder)
    except SearchError as error:
        raise SearchError(f"{study.where}: {error}") from None
    return ImageObjective(generator, reward, requests, batch=study.batch, pruning=study.pruning)


def make_objective(study: Study) -> Objective:
    """The objective that a study asks for; nothing heavy is loaded.

    Raises:
        SearchError: a function, generator, reward or payload that there is not.
    """
    if study.objective is not None:
        function = load_function(study.objective, study.folder, f"{study.where}: objective")
        return FunctionObjective(function, study.objective, study.direction != "minimise")
    return image_objective(study, study.image_requests())
