"""What killed runs left in a folder: found by name, with size and age, and told from what living runs are at."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from unetscope.checkpoints.files.folder import OutputFolder
from unetscope.checkpoints.files.partial import JOURNAL, PARTIAL, RESUMABLE, create_partial, leftovers
from unetscope.checkpoints.files.resumable import Journal


def test_files_of_the_dead_and_of_the_living_are_told_apart(tmp_path):
    dead = tmp_path / f"a.safetensors{PARTIAL}{os.getpid()}-abcdef"  # the number of a living process, but nobody's lock
    dead.write_bytes(bytes(1000))
    os.utime(dead, (time.time() - 500, time.time() - 500))
    (tmp_path / "sound.safetensors").write_bytes(b"1")
    with create_partial(tmp_path / "b.safetensors"):
        first, second = leftovers(tmp_path)
    assert (first.path, first.target, first.size) == (dead, tmp_path / "a.safetensors", 1000)
    assert 499 < first.age < 1000 and not first.alive and not first.resumable and first.paths == (dead,)
    assert second.target == tmp_path / "b.safetensors" and second.alive


def test_a_killed_process_is_not_alive(tmp_path):
    code = "import os, sys; from pathlib import Path; from unetscope.checkpoints.files.partial import create_partial\n"
    code += "f = create_partial(Path(sys.argv[1])); f.write(b'12'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True)
    (found,) = leftovers(tmp_path)
    assert found.size == 2 and not found.alive


def test_a_resumable_one_is_held_by_its_journal(tmp_path):
    target = tmp_path / "x"
    journal = Journal(target, "work", {})
    (tmp_path / f"x{RESUMABLE}").write_bytes(b"123")
    (found,) = leftovers(tmp_path)
    assert found.alive and found.resumable and found.target == target
    assert found.paths == (tmp_path / f"x{RESUMABLE}", tmp_path / f"x{JOURNAL}")
    journal.close()
    (found,) = leftovers(tmp_path)
    assert not found.alive and found.size == 3


def test_folders_count_with_all_their_files_and_one_that_was_moved_aside_is_no_leftover(tmp_path):
    with OutputFolder(tmp_path / "living", 10) as living:
        (living.partial / "unet").mkdir()
        (living.partial / "unet" / "x").write_bytes(b"12345")
        dead = tmp_path / f"dead{PARTIAL}1-abcdef"
        dead.mkdir()
        (dead / "x").write_bytes(b"123")
        (tmp_path / f"old{PARTIAL}1-abcdef-old").mkdir()
        found = {entry.target.name: entry for entry in leftovers(tmp_path)}
    assert found.keys() == {"living", "dead"}
    assert found["living"].size == 5 and found["living"].alive
    assert found["dead"].size == 3


@pytest.mark.parametrize("number", ["", "x", "9" * 30])
def test_strange_names_are_no_obstacle(number, tmp_path):
    (tmp_path / f"x{PARTIAL}{number}").mkdir()
    (found,) = leftovers(tmp_path)
    assert not found.alive and found.size == 0
