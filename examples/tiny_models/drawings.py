"""Pictures drawn by code, and the prompts that describe them: "a red circle on white".

The tiny models are trained on them, and `reward.py` measures pictures against them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

SIZE = 64
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (220, 40, 40),
    "orange": (245, 150, 30),
    "yellow": (240, 225, 50),
    "green": (40, 165, 70),
    "blue": (40, 80, 220),
    "purple": (145, 50, 175),
}
BACKGROUNDS = {"white": (245, 245, 245), "black": (20, 20, 20)}

# Radius of a circle, as a share of the picture's width; the other shapes get the same area.
RADIUS = (0.22, 0.28)
# How far the middle may lie from the picture's, as a share of its width.
SHIFT = 0.06


@dataclass(frozen=True)
class Scene:
    """What a picture shows."""

    shape: str
    colour: str
    background: str

    @property
    def prompt(self) -> str:
        return f"{'an' if self.colour[0] in 'aeiou' else 'a'} {self.colour} {self.shape} on {self.background}"


SCENES = tuple(Scene(*words) for words in product(SHAPES, COLOURS, BACKGROUNDS))


def scene_of(prompt: str) -> Scene | None:
    """The scene that a prompt names, in whatever words around it; None when it names no shape or no colour."""
    words = prompt.lower().replace(",", " ").split()

    def first(names) -> str | None:
        return next((word for word in words if word in names), None)

    shape, colour = first(SHAPES), first(COLOURS)
    return Scene(shape, colour, first(BACKGROUNDS) or "white") if shape and colour else None


def coverage(shape: str, size: int = SIZE, radius: float = 0.3, middle: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    """How much of each pixel a shape covers, (size, size) from 0 to 1, with soft edges one pixel wide.

    Args:
        shape: one of `SHAPES`.
        size: of the picture, in pixels.
        radius: of the circle with the shape's area, as a share of the width.
        middle: x and y of the shape's middle, as shares of the width.
    """
    grid = (np.arange(size) + 0.5) / size
    x, y = grid[None, :] - middle[0], grid[:, None] - middle[1]
    outside = _DISTANCES[shape](x, y, radius)
    return np.clip(0.5 - outside * size, 0, 1)


def _circle(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.hypot(x, y) - radius


def _square(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - radius * np.sqrt(np.pi) / 2


def _triangle(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    inner = radius * np.sqrt(np.pi / np.sqrt(27))  # of an equilateral triangle: its area is sqrt(27) times its square
    return np.maximum(y - inner, np.abs(x) * np.sqrt(3) / 2 - y / 2 - inner)


def _cross(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    arm = radius * np.sqrt(np.pi / 5) / 2  # five squares of this half width
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - 3 * arm, y - arm), np.maximum(x - arm, y - 3 * arm))


_DISTANCES = {"circle": _circle, "square": _square, "triangle": _triangle, "cross": _cross}


def draw(scene: Scene, random: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """A picture of a scene, (size, size, 3) uint8: place, size and shade vary a little."""
    radius = random.uniform(*RADIUS)
    middle = 0.5 + random.uniform(-SHIFT, SHIFT, 2)
    covered = coverage(scene.shape, size, radius, tuple(middle))[..., None]
    front = np.array(COLOURS[scene.colour]) + random.normal(0, 6, 3)
    back = np.array(BACKGROUNDS[scene.background]) + random.normal(0, 3)
    return np.clip(front * covered + back * (1 - covered), 0, 255).round().astype(np.uint8)
