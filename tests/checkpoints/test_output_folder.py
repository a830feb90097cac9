"""A diffusers folder is there completely or not at all, and what killed runs left goes away."""

from __future__ import annotations

import errno
import os

import pytest
from told import raising

from unetscope.checkpoints.errors import OutputError
from unetscope.checkpoints.files.folder import OutputFolder
from unetscope.checkpoints.files.partial import PARTIAL


def filled(out: OutputFolder, text: str) -> None:
    (out.partial / "unet").mkdir()
    (out.partial / "model_index.json").write_text(text)


def made(target, text: str = "new", overwrite: bool = False) -> None:
    with OutputFolder(target, 10, overwrite=overwrite) as out:
        filled(out, text)
        assert not target.exists() or overwrite
        out.commit()


def test_a_folder_appears_when_it_is_complete_and_holds_what_was_put_in_it(tmp_path):
    made(tmp_path / "x")
    assert os.listdir(tmp_path) == ["x"]
    assert sorted(os.listdir(tmp_path / "x")) == ["model_index.json", "unet"]


def test_without_commit_nothing_is_left_and_an_old_folder_stays(tmp_path):
    made(tmp_path / "x", "old")
    with pytest.raises(ZeroDivisionError), OutputFolder(tmp_path / "x", 10, overwrite=True) as out:
        filled(out, "new")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x" / "model_index.json").read_text() == "old"


def test_what_a_killed_run_left_is_removed_and_what_a_living_run_makes_is_not(tmp_path):
    target = tmp_path / "x[1]"
    killed, empty, strange = (tmp_path / f"x[1]{PARTIAL}{n}-abcdef" for n in range(3))
    for folder in (killed, empty, strange):
        folder.mkdir()
    (killed / ".unetscope-lock").touch()
    (killed / "unet").mkdir()
    (strange / "precious").touch()  # no run of ours makes this
    with OutputFolder(target, 10) as living:
        filled(living, "first")
        made(target, "second")
        assert sorted(os.listdir(tmp_path)) == sorted([target.name, strange.name, living.partial.name])
    assert sorted(os.listdir(tmp_path)) == sorted([target.name, strange.name])


def test_a_folder_that_a_killed_run_had_moved_aside_is_put_back(tmp_path):
    target, aside = tmp_path / "x", tmp_path / f"x{PARTIAL}1-abcdef-old"
    made(target, "old")
    target.rename(aside)
    with raising("output.exists", OutputError):
        OutputFolder(target, 10)
    assert os.listdir(tmp_path) == ["x"]
    assert (target / "model_index.json").read_text() == "old"


def test_a_folder_that_was_replaced_by_a_run_killed_after_that_is_removed(tmp_path):
    target, aside = tmp_path / "x", tmp_path / f"x{PARTIAL}1-abcdef-old"
    made(target, "new")
    made(aside, "old")
    made(target, "newer", overwrite=True)
    assert os.listdir(tmp_path) == ["x"]
    assert (target / "model_index.json").read_text() == "newer"


@pytest.mark.parametrize("refusals", [2, 99])
def test_a_folder_that_another_program_holds_is_tried_again_and_then_explained(refusals, tmp_path, monkeypatch):
    target, rename, left = tmp_path / "x", os.rename, [refusals]
    made(target, "old")

    def held(source, to):
        left[0] -= 1
        if left[0] >= 0 and str(source) != str(target):
            raise PermissionError(errno.EACCES, "Permission denied")
        rename(source, to)

    monkeypatch.setattr(os, "rename", held)
    monkeypatch.setattr("unetscope.checkpoints.files.system._WAITS", (0, 0, 0))
    if refusals < 9:
        made(target, "new", overwrite=True)
    else:
        with pytest.raises(OutputError, match=r"Permission denied"):
            made(target, "new", overwrite=True)
    monkeypatch.undo()
    leftover = [name for name in os.listdir(tmp_path) if name != "x"]
    assert leftover == [] or (refusals > 9 and leftover[0].endswith("-old"))
    if leftover:  # not even the old one could be put back: the next run does
        with raising("output.exists", OutputError):
            OutputFolder(target, 10)
    assert (target / "model_index.json").read_text() == ("new" if refusals < 9 else "old")
