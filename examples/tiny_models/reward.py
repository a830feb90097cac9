"""A reward that measures: does the picture show the shape that its prompt names, in the colour that it names?

A plug-in of a search, named in a study as `reward: {kind: "reward.py:ShapeAndColour"}`. No model is needed: pictures are simple.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unetscope.search.rewards import Reward

# A search loads this file by its path, so its neighbour has to be made known.
sys.path.append(str(Path(__file__).resolve().parent))
from drawings import COLOURS, SHAPES, SIZE, Scene, coverage, scene_of

if TYPE_CHECKING:
    from PIL.Image import Image

# In steps of 0 to 255 over three channels: what is nearer to the background is background; a colour that is off by
# `TOLERANCE` scores 0.61. The nearest pair of named colours, orange and yellow, is 78 apart.
NOTHING_THERE = 50.0
TOLERANCE = 40.0
# Of the overlap with a template: a shape that fits by so much better than another is e times as likely.
SHARPNESS = 0.04


@dataclass(frozen=True)
class Seen:
    """What a picture shows: a score from 0 to 1 for each shape, and for each colour. All are 0 where nothing is there."""

    shapes: Mapping[str, float]
    colours: Mapping[str, float]

    @property
    def shape(self) -> str:
        """The shape that fits best."""
        return max(self.shapes, key=self.shapes.__getitem__)

    @property
    def colour(self) -> str:
        """The colour that is nearest."""
        return max(self.colours, key=self.colours.__getitem__)


def look(image: Image) -> Seen:
    """Measure a picture.

    What differs from the border is the foreground. Its mean colour c scores exp(-|c - named|² / 2 TOLERANCE²). Its mask is held
    against each shape, drawn with the same area and middle: a shape scores its overlap (intersection over union) times its
    share among all shapes (a softmax of overlaps).
    """
    rgb = np.asarray(image.convert("RGB").resize((SIZE, SIZE)), np.float64)
    border = np.concatenate([rgb[:2].reshape(-1, 3), rgb[-2:].reshape(-1, 3), *rgb[:, [0, 1, -2, -1]].swapaxes(0, 1)])
    away = np.linalg.norm(rgb - np.median(border, axis=0), axis=2)
    strongest = np.quantile(away, 0.97)
    if strongest < NOTHING_THERE:
        return Seen(dict.fromkeys(SHAPES, 0.0), dict.fromkeys(COLOURS, 0.0))
    mask = away > strongest / 2
    inside = away > strongest * 0.75
    return Seen(_shapes(mask), _colours(rgb[inside].mean(axis=0)))


def _colours(mean: np.ndarray) -> dict[str, float]:
    squares = {name: float(np.sum((mean - np.array(colour)) ** 2)) for name, colour in COLOURS.items()}
    return {name: float(np.exp(-square / (2 * TOLERANCE**2))) for name, square in squares.items()}


def _shapes(mask: np.ndarray) -> dict[str, float]:
    rows, columns = np.nonzero(mask)
    middle = ((columns.mean() + 0.5) / SIZE, (rows.mean() + 0.5) / SIZE)
    radius = np.sqrt(len(rows) / np.pi) / SIZE
    overlaps = {}
    for shape in SHAPES:
        template = coverage(shape, SIZE, radius, middle) > 0.5
        overlaps[shape] = np.sum(mask & template) / np.sum(mask | template)
    odds = {shape: np.exp((overlap - 1) / SHARPNESS) for shape, overlap in overlaps.items()}
    return {shape: float(overlaps[shape] * odds[shape] / sum(odds.values())) for shape in SHAPES}


class ShapeAndColour(Reward):
    """Shape times colour, each from 0 to 1: a picture scores only when both are right. The background does not count.

    A prompt that names no shape and colour scores NaN.
    """

    name = "shape_and_colour"
    is_preference = False
    measures = "whether an image has the shape and the colour that its prompt names"

    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> list[float]:
        return self.parts(images, prompts)[self.name]

    def parts(self, images: Sequence[Image], prompts: Sequence[str]) -> dict[str, list[float]]:
        """The product, and both factors, which are recorded next to it."""
        shape, colour = [], []
        for image, prompt in zip(images, prompts, strict=True):
            asked, seen = scene_of(prompt), look(image)
            shape.append(seen.shapes[asked.shape] if isinstance(asked, Scene) else np.nan)
            colour.append(seen.colours[asked.colour] if isinstance(asked, Scene) else np.nan)
        both = [s * c for s, c in zip(shape, colour, strict=True)]
        return {self.name: both, "shape": shape, "colour": colour}
