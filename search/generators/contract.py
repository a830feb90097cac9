"""What a generator is: it makes images with the model that a recipe describes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import SearchError

if TYPE_CHECKING:
    from PIL.Image import Image

    from ...merge.recipe import Recipe
    from ..shots import Shot


class NoImageError(SearchError):
    """A model makes no image (NaN, all black). Its trial has failed; others may do better, so the search goes on."""


class Generator(ABC):
    """Makes images. Used by one thread; nothing heavy is loaded before the first `prepare`."""

    def check(self, recipe: Recipe, shots: Sequence[Shot]) -> None:  # noqa: B027 (most have nothing to add)
        """Refuse what could never work, before anything heavy loads.

        Args:
            recipe: one that a trial may ask for.
            shots: everything that will be asked for.

        Raises:
            SearchError: with what to change.
        """

    @abstractmethod
    def prepare(self, recipe: Recipe) -> None:
        """Make the result of a recipe the model that images are made with.

        Raises:
            OutOfOrderError: the generator cannot be reached, or takes no model at all.
            SearchError: the generator cannot take this one.
            MergeError, CheckpointError: the recipe cannot be merged.
        """

    @abstractmethod
    def images(self, shots: Sequence[Shot]) -> list[Image]:
        """An RGB image for each shot, in order, from the model that was prepared last.

        Raises:
            NoImageError: the model makes none.
            SearchError: the generator fails for good (after its own retries).
        """

    def close(self) -> None:  # noqa: B027
        """Give back memory, files and connections."""
