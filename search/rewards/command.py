"""Scores from a program: it reads which images there are, and prints their scores."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...checkpoints.text import counted
from ..errors import SearchError
from .contract import Reward

if TYPE_CHECKING:
    from PIL.Image import Image


class Command(Reward):
    """Runs a program once for all images of a trial, in the study's folder.

    It reads `{"images": [paths of PNG files], "prompts": [...]}` as JSON from its standard input and prints `{"scores": [...]}`,
    a bare list, or a number a line. What it prints to its standard error is shown only when it fails.

    Args:
        command: the program and its arguments, as a list, or as one line with quotes as in a shell. No shell is involved.
        timeout: seconds for one run.
        higher_is_better: what its scores mean.
    """

    name = "command"
    measures = "what a program of the user's prints"

    def __init__(
        self, command: list[str] | str, timeout: float = 600.0, higher_is_better: bool = True, base: Path = Path()
    ):
        self._words = shlex.split(command) if isinstance(command, str) else list(command)
        if not self._words:
            raise SearchError("reward command: the command is empty; write the program and its arguments")
        self._timeout, self._folder, self.higher_is_better = timeout, base.absolute(), higher_is_better

    def check(self) -> None:
        self._program()

    def _program(self) -> str:
        program = self._words[0]
        beside = self._folder / program
        found = str(beside) if beside.is_file() else shutil.which(program)
        if found is None:
            raise SearchError(
                f"reward command: there is no program {program!r}, neither in {self._folder} nor on the search path"
            )
        return found

    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> list[float]:
        with tempfile.TemporaryDirectory(prefix="unetscope-reward-") as folder:
            paths = [Path(folder) / f"{number:04d}.png" for number in range(len(images))]
            for path, image in zip(paths, images, strict=True):
                image.save(path)
            asked = json.dumps({"images": [str(path) for path in paths], "prompts": list(prompts)})
            return scores_of(self._run(asked), len(paths), f"reward command: {self._words[0]}")

    def _run(self, asked: str) -> str:
        words = [self._program(), *self._words[1:]]
        try:
            done = subprocess.run(
                words, input=asked, capture_output=True, text=True, encoding="utf-8", errors="replace",
                timeout=self._timeout, cwd=self._folder,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise SearchError(
                f"reward command: {words[0]}: no scores after {self._timeout:g} s; give it more with timeout"
            ) from None
        except OSError as error:
            raise SearchError(f"reward command: {words[0]}: cannot be run ({error.strerror or error})") from None
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:300]
            raise SearchError(f"reward command: {words[0]}: ended with code {done.returncode}: {last}")
        return done.stdout


def scores_of(text: str, count: int, who: str) -> list[float]:
    """Scores from `{"scores": [...]}`, from a bare JSON list, or from a number on each line; null and NaN are not scores.

    Raises:
        SearchError: it is none of these, or not `count` numbers.
    """
    found = _plain(text)
    if isinstance(found, dict):
        found = found.get("scores")
    if not isinstance(found, list) or not all(
        v is None or (isinstance(v, int | float) and not isinstance(v, bool)) for v in found
    ):
        shown = " ".join(text.split())[:120]
        raise SearchError(f'{who}: said {shown!r}; expected {{"scores": [numbers]}}')
    if len(found) != count:
        raise SearchError(f"{who}: gave {counted(len(found), 'score')} for {counted(count, 'image')}")
    return [math.nan if value is None else float(value) for value in found]


def _plain(text: str) -> Any:
    try:
        found = json.loads(text)
        return [found] if isinstance(found, int | float) else found
    except (ValueError, RecursionError):
        pass
    try:
        return [float(line) for line in text.split("\n") if line.strip()]
    except ValueError:
        return None
