"""An output file is there completely or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from types import SimpleNamespace

import pytest

from unetscope.checkpoints.errors import OutputError
from unetscope.checkpoints.files.output import OutputFile
from unetscope.checkpoints.files.partial import PARTIAL
from unetscope.checkpoints.files.targets import check_target


def names(folder):
    return sorted(os.listdir(folder))


@pytest.fixture(params=["0", "1"], ids=["positioned", "portable"], autouse=True)
def way_of_io(request, monkeypatch):
    monkeypatch.setenv("UNETSCOPE_PORTABLE_IO", request.param)


@pytest.mark.parametrize("fsync", [True, False])
def test_a_committed_file_has_what_was_written_wherever_it_was_written(tmp_path, fsync):
    target = tmp_path / "x.bin"
    with OutputFile(target, 10, fsync=fsync) as out:
        out.write_at(6, b"wxyz")
        out.write_at(0, b"abc")
        assert not target.exists()
        out.commit()
    assert target.read_bytes() == b"abc\0\0\0wxyz"
    assert names(tmp_path) == ["x.bin"]


def test_without_commit_nothing_is_left_and_an_old_file_stays(tmp_path):
    target = tmp_path / "x.bin"
    target.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), OutputFile(target, 10, overwrite=True) as out:
        out.write_at(0, b"new")
        raise ZeroDivisionError
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["x.bin"]


def test_a_file_that_is_replaced_is_there_until_the_new_one_is_complete(tmp_path):
    target = tmp_path / "x.bin"
    target.write_bytes(b"old")
    with OutputFile(target, 3, overwrite=True) as out:
        out.write_at(0, b"new")
        assert target.read_bytes() == b"old"
        out.commit()
    assert target.read_bytes() == b"new"


def test_targets_that_cannot_be_written_are_refused_in_one_sentence(tmp_path):
    (tmp_path / "there").write_text("x")
    (tmp_path / "folder").mkdir()
    cases = {
        tmp_path / "no" / "x": "folder .*no does not exist; make it first",
        tmp_path / "there" / "x": "does not exist",
        tmp_path / "folder": "is a folder; name a file",
        tmp_path / "there": "exists already; choose another name or allow it to be replaced",
        tmp_path
        / ("x" * 255): "the name is too long: while it is written",  # room for the name, but not for the partial file's
        tmp_path / ("x" * 300): "cannot be written",
        tmp_path / "null\0byte": "cannot be written",
    }
    for target, said in cases.items():
        with pytest.raises(OutputError, match=said):
            check_target(target)
        with pytest.raises(OutputError, match=said):
            OutputFile(target, 1)
    assert names(tmp_path) == ["folder", "there"]


def test_a_folder_without_permission_is_refused_and_says_why(tmp_path, monkeypatch):
    # The tests may run as root, whom permissions do not stop.
    def denied(path, mode="r", *rest, **named):
        if "x" in mode:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open(path, mode, *rest, **named)

    monkeypatch.setattr("unetscope.checkpoints.files.targets.open", denied, raising=False)
    with pytest.raises(OutputError, match=r"cannot be written \(Permission denied\)"):
        check_target(tmp_path / "x")


def test_too_small_a_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**9))
    with pytest.raises(OutputError, match=r"2\.50.*GB.*1\.00.*GB"):
        OutputFile(tmp_path / "x", 2_500_000_000)
    assert names(tmp_path) == []


@pytest.mark.parametrize("failing", ["write", "sync", "replace"])
def test_a_disk_that_fails_leaves_nothing_and_keeps_the_old_file(failing, tmp_path, monkeypatch):
    target = tmp_path / "x"
    target.write_bytes(b"old")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match="No space left on device"), OutputFile(target, 3, overwrite=True) as out:
        if failing == "write":
            monkeypatch.setattr(out._writer, "write_at", fail)
        elif failing == "sync":
            monkeypatch.setattr(os, "fsync", fail)
        else:
            monkeypatch.setattr(os, "replace", fail)
        out.write_at(0, b"new")
        out.commit()
    monkeypatch.undo()
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["x"]


def test_of_two_writers_of_one_target_the_second_does_not_replace_the_firsts_file(tmp_path):
    target = tmp_path / "x"
    with pytest.raises(OutputError, match="another file of this name"), OutputFile(target, 3) as second:
        with OutputFile(target, 3) as first:
            first.write_at(0, b"abc")
            second.write_at(0, b"def")
            first.commit()
        second.commit()
    assert target.read_bytes() == b"abc"
    assert names(tmp_path) == ["x"]


def test_what_a_killed_run_left_behind_is_in_nobodys_way(tmp_path):
    (tmp_path / f"x{PARTIAL}{os.getpid()}").write_bytes(b"killed")
    with OutputFile(tmp_path / "x", 3) as out:
        out.write_at(0, b"abc")
        out.commit()
    assert (tmp_path / "x").read_bytes() == b"abc"


def test_an_empty_file_can_be_written(tmp_path):
    with OutputFile(tmp_path / "x", 0) as out:
        out.commit()
    assert (tmp_path / "x").read_bytes() == b""


def test_a_link_to_a_file_is_replaced_and_what_it_points_to_is_not(tmp_path):
    (tmp_path / "real").write_bytes(b"precious")
    (tmp_path / "link").symlink_to("real")
    with OutputFile(tmp_path / "link", 3, overwrite=True) as out:
        out.write_at(0, b"new")
        out.commit()
    assert (tmp_path / "real").read_bytes() == b"precious"
    assert (tmp_path / "link").read_bytes() == b"new"
