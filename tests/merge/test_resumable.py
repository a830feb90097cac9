"""Merges that are stopped and gone on with: the bytes of an undisturbed run, whatever happened between."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
import xxhash
from safetensors.torch import load_file, save_file
from samples import others_long
from told import raising, the

from unetscope.checkpoints import OutputError
from unetscope.checkpoints.checkpoint import Checkpoint
from unetscope.checkpoints.errors import NoticeWarning
from unetscope.checkpoints.files.resumable import JOURNAL, RESUMABLE, Journal, ResumableFile
from unetscope.checkpoints.stream import Cancelled
from unetscope.merge import MergeError, Recipe, merge
from unetscope.merge.report import Report

# The command line, with reads that take longer, killed from inside after so many of them.
DYING = """
import os, sys, time
from unetscope.checkpoints.checkpoint import Checkpoint
from unetscope.checkpoints.files import resumable
from unetscope.cli import main
resumable._EVERY = 0.0
read, left = Checkpoint.read_raw, [int(sys.argv.pop(1))]
def dying(*arguments):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), 9)
    read(*arguments)
Checkpoint.read_raw = dying
main(sys.argv[1:])
"""


@pytest.fixture
def files(make_checkpoint, tmp_path):
    return [make_checkpoint(f"m{seed}", seed=seed)[0] for seed in range(3)]


def recipe(files, alpha=0.3, **output) -> Recipe:
    names = dict(zip("abc", map(str, files), strict=True))
    step = {"method": "train_difference", "inputs": list(names), "alpha": alpha}
    return Recipe.parse({"models": names, "steps": {"mix": step}, "output": output})


def left_behind(target) -> list[str]:
    return sorted(name for name in os.listdir(target.parent) if name.startswith(target.name) and name != target.name)


@pytest.mark.parametrize("reads", others_long([40, 400, 1500], lambda reads: reads == 400))
def test_a_killed_run_is_gone_on_with_and_gives_the_bytes_of_an_undisturbed_one(reads, files, tmp_path):
    target, whole, yaml = tmp_path / "out.safetensors", tmp_path / "whole.safetensors", tmp_path / "recipe.yaml"
    yaml.write_text(recipe(files).to_yaml())
    merge(recipe(files), whole, reproducible=True)
    command = ["merge", "run", str(yaml), "-o", str(target), "--resumable", "--reproducible"]
    killed = subprocess.run([sys.executable, "-c", DYING, str(reads), *command], capture_output=True)
    assert killed.returncode == -9 and not target.exists()
    assert left_behind(target) == [target.name + JOURNAL, target.name + RESUMABLE]
    report = merge(recipe(files), target, reproducible=True, resumable=True)
    assert 0 < report.resumed < report.tensors
    assert target.read_bytes() == whole.read_bytes() and left_behind(target) == []


def test_a_run_that_is_cancelled_keeps_what_is_finished_and_its_metadata(files, tmp_path, monkeypatch):
    monkeypatch.setattr("unetscope.checkpoints.files.resumable._EVERY", 0.0)
    target = tmp_path / "out.safetensors"
    _broken_off(recipe(files), target, monkeypatch, reproducible=False)
    header = (tmp_path / (target.name + RESUMABLE)).read_bytes()[:2000]
    report = merge(recipe(files), target, resumable=True)
    assert report.resumed > 0
    assert target.read_bytes()[:2000] == header  # the date of the first run, not of the second


def test_what_belongs_to_another_merge_or_to_inputs_that_have_changed_is_not_gone_on_with(files, tmp_path, monkeypatch):
    monkeypatch.setattr("unetscope.checkpoints.files.resumable._EVERY", 0.0)
    target, whole = tmp_path / "out.safetensors", tmp_path / "whole.safetensors"
    for second, touch in ((recipe(files, alpha=0.4), False), (recipe(files), True)):
        _broken_off(recipe(files), target, monkeypatch)
        if touch:
            os.utime(files[0], ns=(1, 1))
        report = merge(second, target, resumable=True, reproducible=True, overwrite=True)
        assert report.resumed == 0
        merge(second, whole, reproducible=True, overwrite=True)
        assert target.read_bytes() == whole.read_bytes()
        target.unlink()


def _broken_off(asked: Recipe, target, monkeypatch, reads: int = 500, reproducible: bool = True) -> None:
    """Run a resumable merge and cancel it after so many reads."""
    read, cancel, seen = Checkpoint.read_raw, threading.Event(), []

    def counted(*arguments):
        seen.append(1)
        if len(seen) >= reads:
            cancel.set()
            time.sleep(0.05)  # the others must not come to the end before they hear of it
        read(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "read_raw", counted)
        with pytest.raises(Cancelled):
            merge(asked, target, resumable=True, reproducible=reproducible, cancel=cancel)


def test_neighbours_that_are_merged_as_one_are_gone_on_with_in_their_middle(files, tmp_path, monkeypatch):
    monkeypatch.setattr("unetscope.checkpoints.files.resumable._EVERY", 0.0)
    monkeypatch.setattr("unetscope.checkpoints.stream._BUFFER_BYTES", 1 << 15)
    target, whole = tmp_path / "out.safetensors", tmp_path / "whole.safetensors"
    names = dict(zip("abc", map(str, files), strict=True))
    uniform = Recipe.parse({"models": names, "steps": {"mix": {"method": "uniform", "inputs": list(names)}}})
    merge(uniform, whole, reproducible=True)
    for reads in (100, 900):
        _broken_off(uniform, target, monkeypatch, reads=reads)
        resumed = merge(uniform, target, resumable=True, reproducible=True)
        assert 0 < resumed.resumed < resumed.tensors
        assert target.read_bytes() == whole.read_bytes()
        target.unlink()


def test_a_journal_whose_last_line_is_torn_tells_what_the_lines_before_say(files, tmp_path, monkeypatch):
    monkeypatch.setattr("unetscope.checkpoints.files.resumable._EVERY", 0.0)
    target, whole = tmp_path / "out.safetensors", tmp_path / "whole.safetensors"
    _broken_off(recipe(files), target, monkeypatch)
    journal = tmp_path / (target.name + JOURNAL)
    lines = journal.read_bytes().count(b"\n") - 1
    journal.write_bytes(journal.read_bytes()[:-9])
    report = merge(recipe(files), target, resumable=True, reproducible=True)
    assert report.resumed == lines - 1
    merge(recipe(files), whole, reproducible=True)
    assert target.read_bytes() == whole.read_bytes()


def stopped(file):
    raise Cancelled("at its very end")


class HalfMade:
    """A resumable merge that was stopped at its end: what it left, which can be put back, and the bytes that it has to come to."""

    def __init__(self, folder):
        self.target, names = folder / "out.safetensors", dict.fromkeys("ab")
        for seed, name in enumerate(names):
            numbers, names[name] = torch.Generator().manual_seed(seed), str(folder / f"{name}.safetensors")
            tensors = {
                f"net.blocks.{i}.{part}.weight": torch.randn(16, 16, generator=numbers)
                for i in range(4)
                for part in "xyz"
            }
            save_file(tensors, names[name], metadata={"format": "pt"})
        step = {"method": "train_difference", "inputs": ["a", "b", "b"], "alpha": 0.3}
        self.recipe = Recipe.parse({"models": names, "steps": {"mix": step}})
        merge(self.recipe, self.target, reproducible=True)
        self.whole = self.target.read_bytes()
        self.target.unlink()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(ResumableFile, "commit", stopped)
            with pytest.raises(Cancelled):
                merge(self.recipe, self.target, resumable=True, reproducible=True)
        self.paths = [self.target.with_name(self.target.name + name) for name in (JOURNAL, RESUMABLE)]
        self.left = [path.read_bytes() for path in self.paths]
        self.first, *self.rest = map(json.loads, self.left[0].splitlines())
        assert len(self.rest) == 12

    def again(self) -> Report:
        """Merge again, and check the result."""
        report = merge(self.recipe, self.target, resumable=True, reproducible=True)
        assert self.target.read_bytes() == self.whole and left_behind(self.target) == []
        return report

    def put_back(self) -> list[Path]:
        self.target.unlink(missing_ok=True)
        for path, content in zip(self.paths, self.left, strict=True):
            path.write_bytes(content)
        return self.paths


@pytest.fixture(scope="module")
def half_made(tmp_path_factory) -> HalfMade:
    return HalfMade(tmp_path_factory.mktemp("half"))


def _holed(path):
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 3)
        file.write(bytes(600))


@pytest.mark.parametrize(
    "damage, lost",
    [
        (lambda path: None, 0),
        (lambda path: os.truncate(path, path.stat().st_size + 4096), 0),
        (lambda path: os.truncate(path, 0), 12),
        (lambda path: os.truncate(path, path.stat().st_size // 2), 8),
        (_holed, 3),
        (os.unlink, 12),
        (lambda path: path.write_bytes(b"{" * 999_999), 12),
    ],
)
def test_a_half_made_file_that_was_damaged_since_is_made_again_where_it_was(damage, lost, half_made):
    _, partial = half_made.put_back()
    damage(partial)
    with pytest.warns(NoticeWarning) if lost else contextlib.nullcontext():
        resumed = half_made.again().resumed
    assert 12 - lost <= resumed <= 12 - bool(lost)


NOTES = [None, "x", [1], {"inputs": [1]}, {"inputs": {"a": "x"}}, {"inputs": {"zz": 3}}, {"results": [1]}, {"other": 1}]


@pytest.mark.parametrize(
    "change",
    [
        lambda first, rest: [{**first, "kept": None}, *rest],
        lambda first, rest: [{**first, "kept": {**first["kept"], "format": "\ud800"}}, *rest],
        lambda first, rest: [{**first, "identity": 5}, *rest],
        lambda first, rest: [first, {**rest[0], "note": {"results": 5}}, *rest[1:]],
        lambda first, rest: [first, {"key": "no such tensor", "note": {}, "checksum": "0"}, *rest[1:]],
        lambda first, rest: [{name: line[name] for name in line if name != "sum"} for line in (first, *rest)],
        *(partial(lambda note, first, rest: [first, resealed(rest[0], note=note), *rest[1:]], note) for note in NOTES),
        lambda first, rest: [first, resealed(rest[0], key="no such tensor"), *rest[1:]],
        lambda first, rest: [first, resealed(rest[0], checksum=rest[1]["checksum"]), *rest[1:]],
    ],
)  # fmt: skip
def test_a_damaged_journal_costs_time_and_nothing_else(change, half_made):
    journal, _ = half_made.put_back()
    lines = change(half_made.first, half_made.rest)
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.warns(NoticeWarning):
        assert half_made.again().resumed < 12


def resealed(line: dict, **changed) -> dict:
    """A line of a journal that says something else, with the checksum that belongs to it."""
    line = {**{name: value for name, value in line.items() if name != "sum"}, **changed}
    return line | {"sum": xxhash.xxh3_64_hexdigest(json.dumps(line, sort_keys=True).encode())}


def test_repairs_of_the_first_run_are_in_the_report_of_the_second(make_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("unetscope.checkpoints.files.resumable._EVERY", 0.0)
    files = [make_checkpoint(f"m{seed}", seed=seed)[0] for seed in range(3)]
    tensors = load_file(files[0])
    broken = next(k for k in tensors if k.startswith("cond_stage") and tensors[k].dtype.is_floating_point)
    tensors[broken].view(-1)[0] = float("nan")
    save_file(tensors, files[0])
    asked, target = recipe(files, nan="zero"), tmp_path / "out.safetensors"
    undisturbed = merge(asked, tmp_path / "whole.safetensors")
    _broken_off(asked, target, monkeypatch, reads=1500)
    report = merge(asked, target, resumable=True)
    assert report.resumed and broken in the(undisturbed.warnings, "merge.not_finite").subject
    assert the(report.warnings, "merge.not_finite") == the(undisturbed.warnings, "merge.not_finite")


def test_a_merge_that_can_never_be_finished_leaves_nothing(make_checkpoint, tmp_path):
    files = [make_checkpoint(f"m{seed}", seed=seed)[0] for seed in range(3)]
    tensors = load_file(files[0])
    next(t for k, t in tensors.items() if k.startswith("model.")).view(-1)[0] = float("inf")
    save_file(tensors, files[0])
    target = tmp_path / "out.safetensors"
    with pytest.raises(MergeError, match="NaN"):
        merge(recipe(files), target, resumable=True)
    assert not target.exists() and left_behind(target) == []


def test_two_resumable_runs_to_one_output_do_not_meet(tmp_path):
    target = tmp_path / "out.safetensors"
    first = Journal(target, "work", {})
    with raising("output.in_use", OutputError):
        Journal(target, "work", {})
    first.remove()
    Journal(target, "work", {}).remove()


def test_an_existing_file_is_not_replaced_unasked(files, tmp_path):
    target = tmp_path / "out.safetensors"
    target.write_bytes(b"mine")
    with raising("output.exists", OutputError):
        merge(recipe(files), target, resumable=True)
    assert target.read_bytes() == b"mine" and left_behind(target) == []


def test_what_is_kept_is_removed_when_the_output_is_made_without_it(files, tmp_path, monkeypatch):
    monkeypatch.setattr("unetscope.checkpoints.files.resumable._EVERY", 0.0)
    target = tmp_path / "out.safetensors"
    _broken_off(recipe(files), target, monkeypatch)
    assert len(left_behind(target)) == 2
    merge(recipe(files), target)
    assert target.exists() and left_behind(target) == []


def test_what_a_living_resumable_run_keeps_is_not_removed(files, tmp_path):
    target = tmp_path / "out.safetensors"
    living = Journal(target, "work", {})
    merge(recipe(files), target)
    assert left_behind(target) == [target.name + JOURNAL]
    living.remove()
    assert left_behind(target) == []


def test_a_link_in_the_place_of_a_journal_is_not_written_to(tmp_path):
    target, precious = tmp_path / "out.safetensors", tmp_path / "precious"
    precious.write_bytes(b"mine")
    for name in (JOURNAL, RESUMABLE):
        link = tmp_path / (target.name + name)
        link.symlink_to(precious)
        with pytest.raises(OutputError, match="is a link"):
            Journal(target, "work", {})
        link.unlink()
    assert precious.read_bytes() == b"mine"


def test_a_full_disk_is_told_by_the_journal(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unetscope.checkpoints.files.resumable._line", full)
    with pytest.raises(OutputError, match="No space left on device"):
        Journal(tmp_path / "out.safetensors", "work", {})
