"""A run folder: everything that a search has learnt, in files that people and other tools can read.

study.yaml             the study as it was given, its recipe inside
setup.json             free parameters, architecture, reward and panel: what readers need and the study does not spell out
journal.log            the optimiser's memory (a shared storage has it instead)
trials/<worker>.jsonl  one `TrialRecord` a line, in the file of the worker that did it: what was measured; a journal that is lost
                       is made again from it
images/<trial>/<payload>-<seed>.png
best.yaml, best.json   the best recipe, for `unetscope merge run`, and its trial
confirmed.json         the best ones on prompts and seeds that the search never saw
workers/<worker>.lock  held as long as the worker lives
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.files.output import append_lines, replace_file
from ..checkpoints.text import counted, some
from .errors import SearchError
from .records import Confirmed, Setup, TrialRecord
from .validation import fitting

if TYPE_CHECKING:
    from PIL.Image import Image


# What has no place in a file's name; workers of a shared storage are called as they like.
_NO_NAME = re.compile(r"[^A-Za-z0-9_.-]")
# So many searches of an earlier version's tree are named.
_MOST_NODES = 10


class RunFolder:
    """Reads and writes a run folder. Reading needs nothing but the files, and may happen while workers write.

    Example:
        >>> RunFolder("study.run").exists
        False
    """

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
            # Of an earlier version, which searched trees of merges: each merge has a run folder of its own.
            if nodes := [path.parent.name for path in sorted(self.path.glob("nodes/*/setup.json"))]:
                raise SearchError(
                    f"{self.path}: holds {counted(len(nodes), 'search', 'searches')}, one for each merge of a tree; "
                    f"name one of them: {some([f'nodes/{name}' for name in nodes], _MOST_NODES)}"
                )
            raise SearchError(f"{self.path}: is not a run folder of a search (it has no study.yaml and setup.json)")
        return self

    def study(self) -> dict[str, Any]:
        """The study, as plain data."""
        from ..merge.recipe_file import read_yaml

        return read_yaml(self.require()._file("study.yaml"))

    def setup(self, left_out: list[str] | None = None) -> Setup:
        """What was found out before the first trial: see `write_setup`.

        Args:
            left_out: gets a sentence for each part that is damaged, and the rest is taken.

        Raises:
            SearchError: something in it is damaged, and `left_out` is None.
        """
        path = self.require()._file("setup.json")
        return _read(Setup, path, left_out) or Setup()

    def trials(self, left_out: list[str] | None = None) -> list[TrialRecord]:
        """Every finished trial by number; of several lines about one trial, the one that was written last.

        Args:
            left_out: gets a sentence for each line, and each part of one, that cannot be used.
        """
        found: dict[int, TrialRecord] = {}
        left_out = [] if left_out is None else left_out
        for path in sorted(self._file("trials").glob("*.jsonl")):
            for record in _read_lines(path, left_out):
                known = found.get(record.number)
                if known is None or record.finished >= known.finished:
                    found[record.number] = record
        return [found[number] for number in sorted(found)]

    def best(self) -> TrialRecord | None:
        """The complete trial with the best score, the earliest of equals; None before there is one."""
        return best_of(self.trials(), self.setup().reward.higher_is_better)

    def best_recipe(self) -> Path | None:
        """`best.yaml`, if there is one yet."""
        path = self._file("best.yaml")
        return path if path.is_file() else None

    def images(self, number: int) -> dict[str, Path]:
        """Image name -> picture of a trial, as far as they were kept."""
        return {path.stem: path for path in sorted(self.images_of(number).glob("*.png"))}

    def images_of(self, number: int) -> Path:
        """The folder of a trial's pictures, whether or not there are any."""
        return self._file("images") / f"{number:05d}"

    def confirmation(self, left_out: list[str] | None = None) -> Confirmed | None:
        """What `search confirm` found, or None when it was not run. Arguments and errors as those of `setup`."""
        path = self._file("confirmed.json")
        return _read(Confirmed, path, left_out) if path.is_file() else None

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

    def append(self, record: TrialRecord) -> None:
        """Add a trial to the file of the worker that did it; who writes holds the folder's lock `trials`."""
        worker = _NO_NAME.sub("-", record.worker).lstrip(".")
        path = self._file("trials") / f"{worker or 'imported'}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        append_lines(path, to_line(record).encode() + b"\n")

    def write_best(self, record: TrialRecord, recipe_text: str | None) -> None:
        """Make a trial the best one: first the recipe, then its description, each complete or not there at all."""
        if recipe_text is not None:
            replace_file(self._file("best.yaml"), recipe_text)
        plain = _plain(record) | ({"recipe": "best.yaml"} if recipe_text is not None else {})
        replace_file(self._file("best.json"), json.dumps(plain, indent=1, ensure_ascii=False))

    def write_confirmation(self, plain: Mapping[str, Any]) -> None:
        """Keep what a confirmation has found, or what it has measured so far."""
        replace_file(self._file("confirmed.json"), json.dumps(_without_nan(dict(plain)), indent=1, ensure_ascii=False))

    def save_image(self, number: int, name: str, image: Image) -> None:
        """Keep a picture; little compression, for it is the search's time that would be spent on it."""
        folder = self.images_of(number)
        folder.mkdir(parents=True, exist_ok=True)
        save_picture(image, folder / f"{name}.png")

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


def from_line(line: str, where: str = "record", left_out: list[str] | None = None) -> TrialRecord | None:
    """The record in a line of JSON; fields that a later version added are passed over.

    Args:
        line: the text.
        where: its place, for sentences.
        left_out: gets a sentence for each part that does not fit.

    Returns:
        the record; None where there is none in the line.
    """
    left_out = [] if left_out is None else left_out
    try:
        plain = json.loads(line)
    except (ValueError, RecursionError):
        left_out.append(f"{where} is left out: it is not a record, or not a whole one")
        return None
    return fitting(TrialRecord, plain, where, left_out)


def _plain(record: TrialRecord) -> dict[str, Any]:
    # JSON has no NaN.
    return _without_nan(asdict(record))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_lines(path: Path, left_out: list[str]) -> Iterable[TrialRecord]:
    """The records of a file; what is not a record is left out, and a line that is not whole yet is passed over."""
    *lines, last = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if line.strip():
            record = from_line(line.decode("utf-8", "replace"), f"{path.name}, line {number}", left_out)
            if record is not None:
                yield record
    with contextlib.suppress(UnicodeDecodeError):
        if last and (record := from_line(last.decode())) is not None:
            yield record


def _read(kind: Any, path: Path, left_out: list[str] | None) -> Any:
    """A JSON file as an object, or None where nothing of it can be used.

    Raises:
        SearchError: it cannot be read or does not fit, and `left_out` is None.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if left_out is None:
            raise SearchError(f"{path}: cannot be read ({error})") from None
        left_out.append(f"{path.name} is left out: it cannot be read ({error})")
        return None
    return fitting(kind, plain, path.name if left_out is not None else str(path), left_out)
