"""Scores from an ONNX file, by onnxruntime: any scorer that its author exported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import SearchError
from .contract import Reward
from .pixels import Fit, pixels
from .weights import require, require_package

if TYPE_CHECKING:
    from PIL.Image import Image

_TEXT, _FLOAT = "tensor(string)", "tensor(float)"


class OnnxFile(Reward):
    """Runs a model with an image input, float32 of shape (N, 3, height, width), RGB; and, if it has one, a text input, strings
    of shape (N). Its output has a number for each image: (N) or (N, 1).

    Args:
        weights: the file.
        size: side of the square that it takes; by default what the file says.
        mean, std: of each channel: pixels go in as (p - mean) / std, where p is 0 to 1. By default p itself.
        fit: `crop`, `pad` or `stretch` what is not square.
        output: name of the output; by default `score` if there is one, else the first.
        batch: images at a time; files with a fixed first dimension get as many as they take.
        higher_is_better: what its scores mean.
        is_preference: whether it was trained on what people like.
    """

    name = "onnx"

    def __init__(
        self,
        weights: Path,
        size: int | None = None,
        mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
        std: tuple[float, float, float] = (1.0, 1.0, 1.0),
        fit: Fit = "crop",
        output: str | None = None,
        batch: int = 8,
        higher_is_better: bool = True,
        is_preference: bool = True,
    ):
        if not all(std):
            raise SearchError("reward onnx: std holds a 0, by which nothing can be divided")
        self._path, self._size, self._mean, self._std, self._fit = weights, size, mean, std, fit
        self._output, self._batch = output, max(batch, 1)
        self.higher_is_better, self.is_preference = higher_is_better, is_preference
        self.measures = f"what the ONNX file {weights.name} says of an image"
        self._session: Any = None
        self._image = self._text = ""

    def check(self) -> None:
        require_package("onnxruntime", self.name, "onnxruntime")
        require(self._path, self.name, "the model", "whoever made it")

    def load(self) -> None:
        import onnxruntime

        providers = [
            p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in onnxruntime.get_available_providers()
        ]
        try:
            self._session = onnxruntime.InferenceSession(str(self._path), providers=providers)
        except Exception as error:  # onnxruntime's own classes derive from nothing more precise
            line = " ".join(str(error).split())[:200]
            raise SearchError(f"reward onnx: {self._path}: cannot be loaded ({line})") from None
        self._inputs()
        names = [output.name for output in self._session.get_outputs()]
        self._output = self._output or ("score" if "score" in names else names[0])
        if self._output not in names:
            raise SearchError(f"reward onnx: {self._path}: has no output {self._output!r}; it has {', '.join(names)}")

    def _inputs(self) -> None:
        inputs = self._session.get_inputs()
        images = [one for one in inputs if one.type == _FLOAT and len(one.shape) == 4]
        texts = [one for one in inputs if one.type == _TEXT]
        if len(images) != 1 or len(images) + len(texts) != len(inputs) or len(texts) > 1:
            found = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
            raise SearchError(
                f"reward onnx: {self._path}: takes {found}; expected floats (N, 3, height, width), and strings at most"
            )
        count, _, height, _ = images[0].shape
        self._image, self._text = images[0].name, texts[0].name if texts else ""
        self._batch = count if isinstance(count, int) and count > 0 else self._batch
        self._fixed = isinstance(count, int) and count > 1
        self._size = self._size or (height if isinstance(height, int) else None)
        if not self._size:
            raise SearchError(f"reward onnx: {self._path}: does not say which size of image it takes; give size")

    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> list[float]:
        if self._session is None:
            self.load()
        found: list[float] = []
        for start in range(0, len(images), self._batch):
            found += self._scored(images[start : start + self._batch], prompts[start : start + self._batch])
        return found

    def _scored(self, images: Sequence[Image], prompts: Sequence[str]) -> list[float]:
        count = len(images)
        fill = self._batch - count if self._fixed else 0  # a file of a fixed batch gets its last image again
        images, prompts = [*images, *[images[-1]] * fill], [*prompts, *[prompts[-1]] * fill]
        given: dict[str, Any] = {self._image: pixels(images, self._size, self._fit, self._mean, self._std)}
        if self._text:
            given[self._text] = np.array(prompts, dtype=object)
        try:
            (answer,) = self._session.run([self._output], given)
        except Exception as error:
            line = " ".join(str(error).split())[:200]
            raise SearchError(f"reward onnx: {self._path}: fails ({line})") from None
        scores = np.asarray(answer, np.float64).reshape(-1)
        if scores.size != len(images):
            raise SearchError(
                f"reward onnx: {self._path}: {self._output} has shape {np.shape(answer)}; expected a number for each image"
            )
        return scores[:count].tolist()
