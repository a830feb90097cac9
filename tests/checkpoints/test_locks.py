"""Locks: one holder at a time, gone with its process, and what is locked stays as it is."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from unetscope.checkpoints.files import system
from unetscope.checkpoints.files.locks import ProcessLock, lock, open_to_lock
from unetscope.checkpoints.files.output import OutputFile
from unetscope.checkpoints.files.partial import (
    JOURNAL,
    PARTIAL,
    RESUMABLE,
    leftovers,
    remove_abandoned,
    remove_leftover,
)
from unetscope.checkpoints.files.resumable import Journal


def test_a_file_has_one_holder_and_keeps_its_content(tmp_path):
    (tmp_path / "x").write_bytes(b"precious")
    with open_to_lock(tmp_path / "x") as first, open_to_lock(tmp_path / "x") as second:
        assert lock(first) is True
        assert lock(second) is False
        first.close()
        assert lock(second) is True
    assert (tmp_path / "x").read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["x"]


def test_what_others_read_is_not_locked_on_windows(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"1")
    monkeypatch.setattr(system, "WINDOWS", True)
    with open_to_lock(tmp_path / "x") as first, open_to_lock(tmp_path / "x") as second:
        assert lock(first, content=True) is None
        assert lock(second) is True


def test_where_there_are_no_locks_nothing_is_removed(tmp_path, monkeypatch):
    def unknown(*_, **__):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("filelock.lock_descriptor", unknown)
    (tmp_path / "x").write_bytes(b"1")
    assert not remove_abandoned(tmp_path / "x")
    assert (tmp_path / "x").exists()


def test_who_looks_is_not_taken_for_a_run(tmp_path):
    """A run begins in the moment in which another one looks whether its journal is held."""
    Journal(tmp_path / "out", "work", {}).close()
    looked = open_to_lock(tmp_path / f"out{JOURNAL}")
    assert lock(looked)
    threading.Timer(0.05, looked.close).start()
    Journal(tmp_path / "out", "work", {}).remove()


def test_a_process_lock_is_taken_by_one_and_let_go(tmp_path):
    one, other = ProcessLock(tmp_path / "new" / "lane.lock"), ProcessLock(tmp_path / "new" / "lane.lock")
    assert one.acquire() and not other.acquire()
    one.release()
    one.release()
    assert other.acquire() and not one.acquire(0.01)
    other.release()


def test_a_process_lock_is_waited_for(tmp_path):
    """Another thread has it for a moment, as another process might."""
    held, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with ProcessLock(tmp_path / "x.lock"):
            held.set()
            ended.wait(0.1)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with ProcessLock(tmp_path / "x.lock"):
        thread.join()
        assert not ProcessLock(tmp_path / "x.lock").acquire()


def test_a_process_lock_ends_with_its_process(tmp_path):
    code = "import os, sys, pathlib; from unetscope.checkpoints.files.locks import ProcessLock\n"
    code += "lock = ProcessLock(pathlib.Path(sys.argv[1])); assert lock.acquire(); print('held', flush=True); sys.stdin.read()"
    path = tmp_path / "lane.lock"
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"held\n"
        assert not ProcessLock(path).acquire()
        child.kill()
        child.wait()
        assert ProcessLock(path).acquire()


@pytest.mark.parametrize("windows", [False, True])
def test_what_a_killed_resumable_run_left_can_be_removed(windows, tmp_path, monkeypatch):
    monkeypatch.setattr(system, "WINDOWS", windows)
    Journal(tmp_path / "out", "work", {}).close()
    (tmp_path / f"out{RESUMABLE}").write_bytes(b"half")
    (tmp_path / f"out{PARTIAL}{2**22 + 1}-abcdef").write_bytes(b"half")
    found = leftovers(tmp_path)
    assert [one.alive for one in found] == [False, False]
    assert [remove_leftover(one) for one in found] == [True, True]
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_permissions_of_a_checkpoint_that_is_replaced_stay(tmp_path):
    (tmp_path / "x").write_bytes(b"old")
    os.chmod(tmp_path / "x", 0o600)
    with OutputFile(tmp_path / "x", 3, overwrite=True) as out:
        out.write_at(0, b"new")
        out.commit()
    assert (tmp_path / "x").read_bytes() == b"new" and (tmp_path / "x").stat().st_mode & 0o777 == 0o600
