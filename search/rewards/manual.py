"""Scores that a person gives: the search waits and asks."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...checkpoints.files.output import append_lines
from ..errors import SearchError
from .contract import Reward

if TYPE_CHECKING:
    from PIL.Image import Image

_ANSWERS = "answers.jsonl"


class Manual(Reward):
    """Asks in the terminal for a number for each image, and says where the image's file lies.

    Every answer is written down at once, by what the image shows: a search that goes on after it was stopped, or that makes
    an image again, asks for nothing twice. `-` gives no score.

    Args:
        folder: for the images and the answers; `manual-scores` next to the study.
        lowest, highest: the numbers that are taken.
    """

    name = "manual"
    measures = "the numbers that a person gave to images"

    def __init__(self, folder: str = "manual-scores", lowest: float = 0.0, highest: float = 10.0, base: Path = Path()):
        if not lowest < highest:
            raise SearchError(f"reward manual: lowest {lowest:g} is not below highest {highest:g}")
        self._folder, self._lowest, self._highest = (base / Path(folder).expanduser()).absolute(), lowest, highest
        self._known: dict[str, float] | None = None

    def check(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SearchError(f"reward manual: {self._folder}: cannot be made ({error.strerror or error})") from None

    def load(self) -> None:
        self.check()
        self._known = {}
        answers = self._folder / _ANSWERS
        for line in answers.read_text(encoding="utf-8").splitlines() if answers.is_file() else []:
            try:
                said = json.loads(line)
                self._known[str(said["image"])] = math.nan if said["score"] is None else float(said["score"])
            except (ValueError, KeyError, TypeError):  # the last line of a run that was killed may be half a line
                continue

    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> list[float]:
        if self._known is None:
            self.load()
        return [
            self._answer(image, prompt, f"{number} of {len(images)}")
            for number, (image, prompt) in enumerate(zip(images, prompts, strict=True), 1)
        ]

    def _answer(self, image: Image, prompt: str, which: str) -> float:
        rgb = image.convert("RGB")
        name = hashlib.sha256(f"{rgb.size} {prompt}\n".encode() + rgb.tobytes()).hexdigest()[:16]
        if name not in self._known:
            path = self._folder / f"{name}.png"
            rgb.save(path)
            print(f"\nimage {which}: {path}\n  prompt: {' '.join(prompt.split())}")
            self._known[name] = self._asked()
            self._write(name, prompt, self._known[name])
        return self._known[name]

    def _asked(self) -> float:
        while True:
            try:
                said = input(f"  score from {self._lowest:g} to {self._highest:g} (- for none): ").strip()
            except EOFError:
                raise SearchError(
                    "reward manual: there is no terminal to ask in; run the search in one, or choose another reward"
                ) from None
            if said == "-":
                return math.nan
            try:
                value = float(said.replace(",", "."))
            except ValueError:
                value = math.nan
            if self._lowest <= value <= self._highest:
                return value
            print(f"  {said!r} is not a number from {self._lowest:g} to {self._highest:g}")

    def _write(self, name: str, prompt: str, score: float) -> None:
        line = {"image": name, "prompt": prompt, "score": None if math.isnan(score) else score}
        append_lines(self._folder / _ANSWERS, (json.dumps(line, ensure_ascii=False) + "\n").encode())
