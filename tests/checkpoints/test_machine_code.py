"""Compiled kernels are kept, loaded without numba, and read only where nobody else may write."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from unetscope.checkpoints.errors import NoticeWarning
from unetscope.checkpoints.kernels import machine_code
from unetscope.checkpoints.kernels.machine_code import is_own, usable

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows keeps rights in another way")


@pytest.fixture(autouse=True)
def _nothing_told(monkeypatch):
    monkeypatch.setattr(machine_code, "_TOLD", [])


@pytest.mark.parametrize(
    ("mode", "own"), [(0o700, True), (0o755, True), (0o777, False), (0o1777, False), (0o757, False)]
)
def test_a_folder_that_others_may_write_to_is_no_cache(mode, own, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(mode)
    assert usable(folder) is own
    assert usable(folder / "not" / "there" / "yet") is (own or mode == 0o1777)
    (folder / "below").mkdir()
    assert usable(folder / "below") is (own or mode == 0o1777)  # with the sticky bit others cannot touch what is ours


def test_a_link_is_judged_by_where_it_leads(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to("open")
    assert not usable(tmp_path / "link")


def test_a_group_of_others_may_write_and_ones_own_may(tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o775)
    for own in (True, False):
        monkeypatch.setattr(machine_code, "_own_group", lambda number, own=own: own)
        assert usable(tmp_path / "cache") is own


@pytest.mark.skipif(os.geteuid() != 0 if hasattr(os, "geteuid") else True, reason="only root gives files away")
def test_what_belongs_to_another_user_is_no_cache(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "cache", tmp_path / "file"):
        os.chown(path, 12345, 12345)
    assert not usable(tmp_path / "cache") and not is_own((tmp_path / "file").stat())


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two folders for machine code, and a loop to be compiled."""
    made = [tmp_path / "first", tmp_path / "second"]
    for folder in made:
        folder.mkdir()
    monkeypatch.setattr(machine_code, "_folders", lambda: made)
    monkeypatch.setattr(machine_code, "_LOOPS", {})
    return made


KEY = ("count_bad", ("F32",))


def works() -> bool:
    values = np.array([1, np.nan, 3], np.float32)
    return machine_code._prepared(*KEY)(values.ctypes.data, 3, 10.0) == 1


def planted(folder) -> None:
    """A file under the name of a kernel, whose digest is right and whose contents would not run."""
    name = f"unetscope-count_bad-F32-{machine_code._identity()}.machine-code"
    code = b"not machine code at all"
    (folder / name).write_bytes(machine_code.hashlib.sha256(code).digest() + code)


def test_a_planted_kernel_is_not_loaded_and_kernels_go_where_nobody_else_writes(folders):
    first, second = folders
    first.chmod(0o777)
    planted(first)
    assert works()
    assert len(os.listdir(first)) == 1 and len(os.listdir(second)) == 1


def test_a_planted_file_in_a_folder_of_ones_own_is_not_loaded(folders):
    planted(folders[0])
    for path in folders[0].iterdir():
        path.chmod(0o666)
    assert works()
    assert [path.stat().st_mode & 0o777 for path in folders[0].iterdir()] == [0o644]


def test_where_no_folder_is_ones_own_kernels_are_compiled_in_memory_and_that_is_told_once(folders):
    for folder in folders:
        folder.chmod(0o777)
        planted(folder)
    with pytest.warns(NoticeWarning) as told:
        assert works() and works()
    assert len(told) == 1
    assert all(len(os.listdir(folder)) == 1 for folder in folders)


def printed(*code: str, cache) -> str:
    """What a fresh process prints that keeps its machine code in `cache` alone."""
    start = "from pathlib import Path; from unetscope.checkpoints.kernels import machine_code as m; import sys, numpy as np\n"
    start += f"m._folders = lambda: [Path({str(cache)!r})]\n"
    start += "loop = lambda: m.loop('count_bad', ('F32',))\n"
    start += "x = np.float32([1, np.inf, 3]); count = lambda: loop()(x.ctypes.data, 3, 2.0)\n"
    out = subprocess.run([sys.executable, "-c", start + "\n".join(code)], capture_output=True, text=True, check=True)
    return out.stdout.strip()


@pytest.mark.long
def test_compiled_code_is_kept_loaded_without_numba_and_made_anew_when_it_is_damaged(tmp_path):
    count = "print(count(), 'numba' in sys.modules)"
    assert printed(count, cache=tmp_path) == "2 True"
    (kept,) = tmp_path.iterdir()
    content = kept.read_bytes()
    assert printed(count, cache=tmp_path) == "2 False"
    kept.write_bytes(content[:-1])
    assert printed(count, cache=tmp_path) == "2 True"
    assert kept.read_bytes()[-1:] == content[-1:]
    assert printed(count, cache="/dev/null/nowhere") == "2 True"
