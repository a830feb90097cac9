"""What a generator is: it makes images with the model that a recipe describes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from ...merge.recipe import Recipe
    from ..image_requests import ImageRequest


class Generator(ABC):
    """Makes images. Used by one thread; nothing heavy is loaded before the first `prepare`."""

    def check(self, recipe: Recipe, requests: Sequence[ImageRequest]) -> None:  # noqa: B027 (most have nothing to add)
        """Refuse what could never work, before anything heavy loads.

        Args:
            recipe: one that a trial may ask for.
            requests: everything that will be asked for.

        Raises:
            SearchError: with what to change.
        """

    @abstractmethod
    def prepare(self, recipe: Recipe) -> None:
        """Make the result of a recipe the model that images are made with.

        Raises:
            SearchError: the generator cannot be reached, or takes no model at all (code `OUT_OF_ORDER`); it cannot take this one.
            RecipeError, CheckpointError: the recipe cannot be merged.
        """

    @abstractmethod
    def images(self, requests: Sequence[ImageRequest]) -> list[Image]:
        """An RGB image for each request, in order, from the model that was prepared last.

        Raises:
            SearchError: the model makes none (code `NO_IMAGE`), or the generator fails for good (after its own retries).
        """

    def close(self) -> None:  # noqa: B027
        """Give back memory, files and connections."""
