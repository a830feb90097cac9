"""Images as the numbers that vision towers take: resized, cropped or padded, normalised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

# Of CLIP's training images, 0 to 1; BLIP takes the same.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# `crop`: the shorter side to the size, the middle cut out. `pad`: the longer side to the size, black around it.
Fit = Literal["crop", "pad"]


def pixels(
    images: Sequence[Image],
    size: int,
    fit: Fit = "crop",
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
) -> np.ndarray:
    """Images as float32 of shape (images, 3, size, size): bicubic, as the towers were trained."""
    stacked = np.stack([np.asarray(fitted(image.convert("RGB"), size, fit), np.float32) for image in images])
    normal = (stacked / 255 - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(normal.transpose(0, 3, 1, 2))


def fitted(image: Image, size: int, fit: Fit) -> Image:
    """An RGB image as a square of that size."""
    from PIL import Image as pillow

    width, height = image.size
    if fit == "crop":
        # Sides are cut to whole pixels as torchvision's Resize does, with which the towers were trained.
        short = min(width, height)
        resized = image.resize((int(size * width / short), int(size * height / short)), pillow.Resampling.BICUBIC)
        left, top = round((resized.width - size) / 2), round((resized.height - size) / 2)
        return resized.crop((left, top, left + size, top + size))
    scale = size / max(width, height)
    resized = image.resize((round(width * scale), round(height * scale)), pillow.Resampling.BICUBIC)
    square = pillow.new("RGB", (size, size))
    square.paste(resized, ((size - resized.width) // 2, (size - resized.height) // 2))
    return square
