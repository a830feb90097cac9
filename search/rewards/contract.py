"""What a reward is: it gives images numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


class Reward(ABC):
    """Scores images. Used by one thread; nothing heavy is loaded before `load`.

    Attributes:
        name: for reports (`aesthetic`, `composite`...).
        higher_is_better: whether a larger score is a better one.
        is_preference: whether it stands for what people like; plain image features do not, and reports say so.
    """

    name: str = ""
    higher_is_better: bool = True
    is_preference: bool = True

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
