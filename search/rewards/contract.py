"""What a reward is: it gives images numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...checkpoints.text import counted
from ..errors import SearchError

if TYPE_CHECKING:
    from PIL.Image import Image


# What one trial measured: image name -> part -> raw score. `TrialRecord.parts` holds it.
Parts = Mapping[str, Mapping[str, float]]


class Reward(ABC):
    """Scores images. Used by one thread; nothing heavy is loaded before `load`.

    A plain reward defines `score`, and that is all. A composite one has parts: `parts` measures them, `calibrate` fixes their
    scales from the baselines, `combine` turns raw parts into scores. A search always calls `parts` and then `combine`, and
    records the raw parts, so that every score can be computed again, to the same digits, from what was recorded.

    Attributes:
        name: for reports (`aesthetic`, `composite`...).
        higher_is_better: whether a larger score is a better one.
        is_preference: False where it is known that scores do not stand for what people like; reports say so.
        measures: what its scores stand for, as what follows "it measures"; empty where only its name tells.
        needs_calibration: whether scores mean something only after `calibrate`: until then no optimiser may see them.
    """

    name: str = ""
    higher_is_better: bool = True
    is_preference: bool = True
    measures: str = ""
    needs_calibration: bool = False

    def caution(self) -> str:
        """What a reader of its scores must know, in a sentence; empty where they stand for what people like, or may."""
        if self.is_preference:
            return ""
        return "This reward is not a model of what people like" + (
            f": it measures {self.measures}." if self.measures else "."
        )

    def check(self) -> None:  # noqa: B027 (some have nothing to check)
        """Refuse what could never work, before anything heavy loads.

        Raises:
            SearchError: a file is missing (where to get it and where to put it), a package is not installed.
        """

    def load(self) -> None:  # noqa: B027
        """Load what scoring needs; called once, before the first `score`.

        Raises:
            SearchError: it cannot be loaded.
        """

    @abstractmethod
    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> list[float]:
        """A score for each RGB image with its prompt, in order; NaN where there is none.

        Raises:
            SearchError: scoring fails for good.
        """

    def parts(self, images: Sequence[Image], prompts: Sequence[str]) -> dict[str, list[float]]:
        """Raw scores of each part, in the images' order; one part, called as the reward is, unless it is a composite one.

        Raises:
            SearchError: scoring fails for good, or does not give each image a number.
        """
        scores = [float(score) for score in self.score(images, prompts)]
        if len(scores) != len(images):
            raise SearchError(
                f"reward {self.name}: gave {counted(len(scores), 'score')} for {counted(len(images), 'image')}"
            )
        return {self.name: scores}

    def combine(self, parts: Mapping[str, Sequence[float]]) -> list[float]:
        """Scores from raw parts, in the same order; NaN where a part is NaN. Plain arithmetic, nothing is loaded.

        Raises:
            SearchError: a part is not there (it was recorded with another reward).
        """
        if self.name not in parts:
            raise SearchError(
                f"reward {self.name}: no scores of it were recorded; the run was made with another reward"
            )
        return list(parts[self.name])

    def calibrate(self, baselines: Sequence[Parts]) -> list[str]:
        """Fix the scales of the parts, from the raw parts of every baseline trial that was scored.

        The same baselines give the same scales, whatever their order.

        Returns:
            what was odd about them, in sentences (a part that never changes, too few baselines).
        """
        return []
