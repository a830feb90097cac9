"""A run folder: everything that a search has learnt, in files that people and other tools can read.

study.yaml             the study as it was given, its recipe inside
setup.json             free parameters, architecture, reward and panel: what readers need and the study does not spell out
journal.log            the optimiser's memory (a shared storage has it instead)
trials/<worker>.jsonl  one `TrialRecord` a line; one file a worker, so that several may write
images/<trial>/<shot>.png
best.yaml, best.json   the best recipe, for `unetscope merge run`, and its trial
confirmed.json         the best ones on prompts and seeds that the search never saw
workers/<worker>.lock  held as long as the worker lives
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.output import replace_file
from .errors import SearchError
from .parameters import Parameter
from .records import TrialRecord

if TYPE_CHECKING:
    from PIL.Image import Image


class RunFolder:
    """Reads and writes a run folder. Reading needs nothing but the files, and may happen while workers write."""

    def __init__(self, path: Path | str):
        self.path = Path(path)

    # -- reading ------------------------------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Whether there is a search in the folder."""
        return self._file("study.yaml").is_file() and self._file("setup.json").is_file()

    def require(self) -> RunFolder:
        """The folder itself.

        Raises:
            SearchError: there is no search in it.
        """
        if not self.exists:
            raise SearchError(f"{self.path}: is no run folder of a search (it has no study.yaml and setup.json)")
        return self

    def study(self) -> dict[str, Any]:
        """The study, as plain data."""
        from ..merge.recipe_file import read_yaml

        return read_yaml(self.require()._file("study.yaml"))

    def setup(self) -> dict[str, Any]:
        """What was found out before the first trial: see `write_setup`."""
        return _read_json(self.require()._file("setup.json"))

    def parameters(self) -> list[Parameter]:
        """The free parameters, in the recipe's order."""
        return [Parameter.from_plain(plain) for plain in self.setup()["parameters"]]

    def family(self) -> str | None:
        """The models' architecture (`sd1`, `sdxl`...), or None where the objective knows no models."""
        return self.setup().get("family")

    def reward(self) -> dict[str, Any]:
        """Of the reward: `name`, `higher_is_better`, `is_preference`, and in words what it `measures` and its `caution`."""
        return self.setup()["reward"]

    def trials(self) -> list[TrialRecord]:
        """Every finished trial by number; of several lines about one trial, the one that was written last."""
        found: dict[int, TrialRecord] = {}
        for path in sorted(self._file("trials").glob("*.jsonl")):
            for record in _read_lines(path):
                known = found.get(record.number)
                if known is None or record.finished >= known.finished:
                    found[record.number] = record
        return [found[number] for number in sorted(found)]

    def best(self) -> TrialRecord | None:
        """The complete trial with the best score, the earliest of equals; None before there is one."""
        return best_of(self.trials(), self.reward()["higher_is_better"])

    def best_recipe(self) -> Path | None:
        """`best.yaml`, if there is one yet."""
        path = self._file("best.yaml")
        return path if path.is_file() else None

    def images(self, number: int) -> dict[str, Path]:
        """Shot name -> picture of a trial, as far as they were kept."""
        return {path.stem: path for path in sorted(self.images_of(number).glob("*.png"))}

    def images_of(self, number: int) -> Path:
        """The folder of a trial's pictures, whether or not there are any."""
        return self._file("images") / f"{number:05d}"

    def confirmation(self) -> dict[str, Any] | None:
        """What `search confirm` found, or None when it was not run: see `confirmation.Confirmation.to_plain`."""
        path = self._file("confirmed.json")
        return _read_json(path) if path.is_file() else None

    # -- writing ------------------------------------------------------------------------------------------------------

    def write_setup(self, study_text: str, setup: Mapping[str, Any]) -> None:
        """Begin a run.

        Args:
            study_text: the study as YAML.
            setup: `parameters` (plain), `family`, `reward` (name, higher_is_better, is_preference, measures, caution), `shots`
                (name -> prompt, seed, weight), `folder` (of the study's file, from here), `version`.

        Raises:
            SearchError: the folder cannot be written.
        """
        try:
            for name in ("trials", "workers"):
                self._file(name).mkdir(parents=True, exist_ok=True)
            replace_file(self._file("study.yaml"), study_text)
            replace_file(self._file("setup.json"), json.dumps(setup, indent=1, ensure_ascii=False))
        except OSError as error:
            raise SearchError(f"{self.path}: the run folder cannot be written ({error.strerror or error})") from None

    def append(self, record: TrialRecord, worker: str | None = None) -> None:
        """Add a trial to the file of the worker that did it, or of the one that heard of it."""
        path = self._file("trials") / f"{worker or record.worker or 'imported'}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as file:
            # A worker that was killed may have left half a line.
            whole = not file.tell() or (file.seek(-1, os.SEEK_END) >= 0 and file.read(1) == b"\n")
            file.write(b"" if whole else b"\n")
            file.write(to_line(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def write_best(self, record: TrialRecord, recipe_text: str | None) -> None:
        """Make a trial the best one: first the recipe, then its description, each complete or not there at all."""
        if recipe_text is not None:
            replace_file(self._file("best.yaml"), recipe_text)
        plain = _plain(record) | ({"recipe": "best.yaml"} if recipe_text is not None else {})
        replace_file(self._file("best.json"), json.dumps(plain, indent=1, ensure_ascii=False))

    def write_confirmation(self, plain: Mapping[str, Any]) -> None:
        """Keep what a confirmation has found, or what it has measured so far."""
        replace_file(self._file("confirmed.json"), json.dumps(_without_nan(dict(plain)), indent=1, ensure_ascii=False))

    def save_image(self, number: int, shot: str, image: Image) -> None:
        """Keep a picture; little compression, for it is the search's time that would be spent on it."""
        folder = self.images_of(number)
        folder.mkdir(parents=True, exist_ok=True)
        save_picture(image, folder / f"{shot}.png")

    def forget_images(self, number: int) -> None:
        """Remove a trial's pictures."""
        folder = self.images_of(number)
        for path in folder.glob("*.png"):
            path.unlink(missing_ok=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()

    def _file(self, name: str) -> Path:
        return self.path / name


def best_of(trials: Iterable[TrialRecord], higher_is_better: bool = True) -> TrialRecord | None:
    """The complete trial with the best score, the earliest of equals. Pruned ones did not make their whole panel: they are out."""
    sign = 1 if higher_is_better else -1
    complete = [t for t in trials if t.state == "complete" and t.score is not None]
    return max(complete, key=lambda t: (sign * t.score, -t.number), default=None)


def save_picture(image: Image, path: Path) -> None:
    """Write a PNG in one step: a report may look at it meanwhile."""
    picture = io.BytesIO()
    image.save(picture, "PNG", compress_level=1)
    replace_file(path, picture.getvalue(), fsync=False)


def to_line(record: TrialRecord) -> str:
    """A record as one line of JSON."""
    return json.dumps(_plain(record), ensure_ascii=False, separators=(",", ":"))


def from_line(line: str) -> TrialRecord:
    """The record in a line of JSON; fields that a later version added are left out."""
    plain = json.loads(line)
    return TrialRecord(**{name: plain[name] for name in TrialRecord.__dataclass_fields__ if name in plain})


def _plain(record: TrialRecord) -> dict[str, Any]:
    # JSON has no NaN.
    return _without_nan(asdict(record))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_lines(path: Path) -> Iterable[TrialRecord]:
    """The records of a file; a line that is not whole (yet) is left out."""
    for line in path.read_bytes().splitlines():
        try:
            yield from_line(line.decode())
        except (ValueError, TypeError, AttributeError):
            continue


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SearchError(f"{path}: cannot be read ({error})") from None
