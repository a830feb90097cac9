"""The objective that makes images: a panel of them for each point, scored by a reward."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ..checkpoints.text import counted
from .errors import NO_IMAGE, OUT_OF_ORDER, SearchError
from .free import Template
from .objective import Keep, Measured, Objective
from .pruning import is_hopeless
from .records import TrialRecord
from .shots import Shot, picture_hash
from .study import Study
from .study_settings import Pruning

if TYPE_CHECKING:
    from ..merge.recipe import Recipe
    from .generators.contract import Generator
    from .rewards.contract import Reward


class PanelObjective(Objective):
    """Images of a panel, made with the merge and scored by a reward."""

    def __init__(
        self,
        generator: Generator,
        reward: Reward,
        shots: Sequence[Shot],
        *,
        batch: int = 4,
        pruning: Pruning | None = None,
    ):
        self.generator, self.reward, self.shots, self.batch, self.pruning = (
            generator,
            reward,
            tuple(shots),
            batch,
            pruning,
        )
        self.name, self.higher_is_better = reward.name, reward.higher_is_better
        self.is_preference, self.needs_calibration = reward.is_preference, reward.needs_calibration
        self.measures, self.caution = reward.measures, reward.caution()
        self.weights = {shot.name: shot.weight for shot in shots}

    def check(self, template: Template) -> None:
        self.reward.check()
        self.generator.check(template.recipe(template.middle()), self.shots)

    def load(self) -> None:
        self.reward.load()

    def measure_recipe(self, recipe: Recipe, keep: Keep) -> Measured:
        """Score a recipe on the whole panel, for confirmations."""
        measured = Measured()
        self._panel(measured, recipe, None, keep)
        return measured

    def _measure(self, measured, template, point, incumbent, keep) -> None:
        self._panel(measured, template.recipe(point), incumbent, keep)

    def _panel(self, measured: Measured, recipe: Recipe, incumbent: TrialRecord | None, keep: Keep) -> None:
        clock = _Clock(measured.seconds)
        with clock("merge"):
            self.generator.prepare(recipe)
        black = []
        for start in range(0, len(self.shots), self.batch):
            batch = self.shots[start : start + self.batch]
            with clock("generate"), _for_good():
                images = self.generator.images(batch)
            if len(images) != len(batch):
                raise SearchError(f"the generator made {counted(len(images), 'image')} of {len(batch)}")
            with clock("reward"), _for_good():
                parts = self.reward.parts(images, [shot.prompt for shot in batch])
                scores = self.reward.combine(parts)
            for i, (shot, image) in enumerate(zip(batch, images, strict=True)):
                measured.scores[shot.name] = float(scores[i])
                measured.parts[shot.name] = {part: float(values[i]) for part, values in parts.items()}
                measured.pictures[shot.name] = picture_hash(image)
                black += [shot.name] if not image.getbbox() else []
                keep(shot.name, image)
            if incumbent is not None and self._is_hopeless(measured, incumbent):
                measured.pruned = True
                break
        measured.score, measured.note = self._verdict(measured, black)

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


def panel_objective(study: Study, shots: Sequence[Shot]) -> PanelObjective:
    """The study's generator and reward over a panel."""
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
    return PanelObjective(generator, reward, shots, batch=study.batch, pruning=study.pruning)
