"""Plain measures of an image, no model of what people like: a baseline that works offline and shows that the rest does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...checkpoints.errors import nearest
from ...checkpoints.spelling import respelt
from ..errors import SearchError
from .contract import Reward

if TYPE_CHECKING:
    from PIL.Image import Image

# What each feature counts; noise counts against.
WEIGHTS = {"sharpness": 1.0, "exposure": 1.0, "colourfulness": 1.0, "noise": -1.0}


class Features(Reward):
    """The weighted sum of four features. It says nothing on whether anybody likes an image, or whether it fits its prompt.

    Args:
        weights: feature -> weight, instead of those of `WEIGHTS`.
    """

    name = "features"
    is_preference = False
    measures = "sharpness, exposure, colourfulness and noise, whatever an image shows"

    def __init__(self, weights: dict[str, float] | None = None):
        weights = None if weights is None else respelt(weights, WEIGHTS)
        for name in weights or {}:
            if name not in WEIGHTS:
                raise SearchError(
                    f"reward features: there is no feature {name!r}{nearest(name, WEIGHTS)}; there are {', '.join(WEIGHTS)}"
                )
        self._weights = WEIGHTS if weights is None else weights

    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> list[float]:
        found = [features(np.asarray(image.convert("RGB"), np.float64)) for image in images]
        return [float(sum(weight * values[name] for name, weight in self._weights.items())) for values in found]


def features(rgb: np.ndarray) -> Mapping[str, float]:
    """Four features of an image of shape (height, width, 3), 0 to 255; each is about 0 to 1.

    sharpness: log10(1 + variance of the Laplacian of luma) / 4.
    exposure: 1 - 2 |mean luma / 255 - 1/2|.
    colourfulness: Hasler and Süsstrunk 2003, / 100.
    noise: the standard deviation that Immerkaer 1996 estimates, / 25.
    """
    luma = rgb @ np.array([0.299, 0.587, 0.114])
    red_green = rgb[..., 0] - rgb[..., 1]
    yellow_blue = (rgb[..., 0] + rgb[..., 1]) / 2 - rgb[..., 2]
    spread = np.hypot(red_green.std(), yellow_blue.std())
    offset = np.hypot(red_green.mean(), yellow_blue.mean())
    return {
        "sharpness": float(np.log10(1 + _filtered(luma, _LAPLACIAN).var()) / 4),
        "exposure": float(1 - 2 * abs(luma.mean() / 255 - 0.5)),
        "colourfulness": float((spread + 0.3 * offset) / 100),
        "noise": float(np.sqrt(np.pi / 2) / 6 * np.abs(_filtered(luma, _IMMERKAER)).mean() / 25),
    }


_LAPLACIAN = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], float)
_IMMERKAER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], float)


def _filtered(plane: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """A plane under a 3x3 kernel, without its border; a plane smaller than the kernel gives one zero."""
    height, width = plane.shape
    if min(height, width) < 3:
        return np.zeros((1, 1))
    shifted = (kernel[y, x] * plane[y : height - 2 + y, x : width - 2 + x] for y in range(3) for x in range(3))
    return sum(shifted, np.zeros((height - 2, width - 2)))
