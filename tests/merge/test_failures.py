"""What is left when a merge is broken off; `tests/failures.py` does the same a hundred times."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys

import failures
import numpy as np
import pytest
from samples import others_long
from tiny import leftovers, load, raw

from unetscope.checkpoints import CheckpointError, OutputError, open_checkpoint
from unetscope.checkpoints.checkpoint import Checkpoint
from unetscope.checkpoints.dtypes import F16, F32
from unetscope.checkpoints.files.output import OutputFile
from unetscope.checkpoints.files.partial import PARTIAL, create_partial, remove_leftovers
from unetscope.checkpoints.files.system import _mounted_kind, largest_file
from unetscope.checkpoints.files.targets import check_target
from unetscope.merge import Recipe, merge
from unetscope.merge.lora.spool import Spool


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return failures.Place(tmp_path_factory.mktemp("failures"))


TRIALS = ["killed", "interrupted", "resumed", "folders_killed", "raced", "truncated", "disk_full"]
FEW = {("killed", 2), ("interrupted", 3), ("truncated", 1), ("disk_full", 1)}


@pytest.mark.parametrize(
    "trial, runs", others_long([*sorted(FEW), *((trial, 6) for trial in TRIALS)], lambda *case: case in FEW)
)
def test_a_merge_that_is_broken_leaves_no_incomplete_file_and_no_changed_input(trial, runs, place):
    assert sum(getattr(failures, trial)(place, runs).values()) >= 1


def recipe(*paths) -> Recipe:
    models = {f"m{i}": str(p) for i, p in enumerate(paths)}
    return Recipe.parse({"models": models, "steps": {"out": {"method": "uniform", "inputs": list(models)}}})


# -- leftovers ----------------------------------------------------------------------------------------------------------


def test_what_a_killed_run_left_is_removed_and_what_a_living_run_writes_is_not(tmp_path):
    target = tmp_path / "x[1].safetensors"
    dead = tmp_path / f"{target.name}{PARTIAL}{os.getpid()}-abcdef"
    other = tmp_path / f"other{PARTIAL}1-abcdef"
    for path in (dead, other):
        path.write_bytes(b"half")
    with create_partial(target) as living:
        assert remove_leftovers(target) == [dead]
        assert sorted(leftovers(tmp_path)) == sorted([other.name, os.path.basename(living.name)])
    assert [str(p) for p in remove_leftovers(target)] == [living.name]


def test_a_process_that_dies_lets_go_of_its_file(tmp_path):
    code = "import os, sys; from pathlib import Path; from unetscope.checkpoints.files.partial import create_partial\n"
    code += "f = create_partial(Path(sys.argv[1])); print(f.name, flush=True); os.kill(os.getpid(), 9)"
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True, text=True)
    assert [str(p) for p in remove_leftovers(tmp_path / "x")] == [run.stdout.strip()]


def test_links_and_folders_that_look_like_leftovers_stay(tmp_path):
    (tmp_path / "precious").write_bytes(b"1")
    (tmp_path / f"x{PARTIAL}1").symlink_to("precious")
    (tmp_path / f"x{PARTIAL}2").mkdir()
    assert remove_leftovers(tmp_path / "x") == []
    assert len(leftovers(tmp_path)) == 2


# -- putting it in place ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_target_that_another_program_holds_is_tried_again(overwrite, tmp_path, monkeypatch):
    refusals = [PermissionError(errno.EACCES, "Permission denied")] * 2
    for name in ("replace", "link"):
        real = getattr(os, name)

        def held(*paths, real=real):
            if refusals:
                raise refusals.pop()
            real(*paths)

        monkeypatch.setattr(os, name, held)
    monkeypatch.setattr("unetscope.checkpoints.files.system._WAITS", (0, 0))
    with OutputFile(tmp_path / "x", 3, overwrite=overwrite) as out:
        out.write_at(0, b"abc")
        out.commit()
    assert (tmp_path / "x").read_bytes() == b"abc"
    assert os.listdir(tmp_path) == ["x"]


def test_a_target_that_stays_held_is_explained_and_nothing_is_left(tmp_path, monkeypatch):
    def held(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", held)
    monkeypatch.setattr("unetscope.checkpoints.files.system._WAITS", (0, 0))
    with (
        pytest.raises(OutputError, match=r"Permission denied"),
        OutputFile(tmp_path / "x", 3, overwrite=True) as out,
    ):
        out.commit()
    assert os.listdir(tmp_path) == []


def test_where_links_do_not_exist_the_file_is_renamed(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with OutputFile(tmp_path / "x", 3) as out:
        out.commit()
    assert os.listdir(tmp_path) == ["x"]


# -- file systems -------------------------------------------------------------------------------------------------------

MOUNTS = r"""/dev/a / ext4 rw 0 0
/dev/b /media/my\040stick vfat rw 0 0
tmpfs /media/my\040stick/over tmpfs rw 0 0
/dev/c /media/my exfat rw 0 0
"""


@pytest.mark.parametrize(
    "folder, kind",
    [
        ("/home", "ext4"),
        ("/media/my stick/models", "vfat"),
        ("/media/my stick", "vfat"),
        ("/media/my stick/over", "tmpfs"),
        ("/media/my", "exfat"),
        ("/media/my stickers", "ext4"),
    ],
)
def test_the_mount_table_says_what_holds_a_folder(folder, kind):
    assert _mounted_kind(folder, MOUNTS) == kind


def test_a_file_too_large_for_fat_is_refused_before_writing(tmp_path, monkeypatch):
    assert largest_file(tmp_path) is None
    monkeypatch.setattr("unetscope.checkpoints.files.system._kind", lambda folder: "FAT32")
    check_target(tmp_path / "x", 4_000_000_000)
    with pytest.raises(OutputError, match=r"4\.30.*GB.*FAT32"):
        check_target(tmp_path / "x", 4_300_000_000)


@pytest.mark.parametrize("portable", ["0", "1"])
def test_a_file_larger_than_the_system_allows_is_refused_before_writing(portable, tmp_path, monkeypatch):
    monkeypatch.setenv("UNETSCOPE_PORTABLE_IO", portable)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(OutputError, match="no file that large"):
            OutputFile(tmp_path / "x", 1 << 21)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


def test_a_file_system_that_cannot_allocate_is_written_all_the_same(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    with OutputFile(tmp_path / "x", 5) as out:
        out.write_at(2, b"abc")
        out.commit()
    assert (tmp_path / "x").read_bytes() == b"\0\0abc"


@pytest.mark.parametrize("portable", ["0", "1"])
def test_a_disk_that_fills_up_between_the_look_and_the_first_byte_is_told_and_nothing_is_left(
    portable, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("UNETSCOPE_PORTABLE_IO", portable)
    monkeypatch.setattr("unetscope.checkpoints.files.positioned._allocate", full)
    with pytest.raises(OutputError, match=r"x: cannot be written \(No space left on device\)"):
        OutputFile(tmp_path / "x", 5)
    assert os.listdir(tmp_path) == []


def test_a_disk_that_is_full_while_a_loras_factors_are_set_aside_is_told_and_nothing_is_left(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, limits[1]))
    try:
        with pytest.raises(OutputError, match="writing failed"), Spool(tmp_path / "x.safetensors") as spool:
            spool.add("first", np.ones((32, 32)), F16)
            spool.add("second", np.ones((64, 64)), F16)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


def test_what_is_set_aside_comes_back_whatever_came_between(tmp_path):
    values = {str(n): np.arange(n * 1000, dtype=np.float32).reshape(n, 1000) for n in (1, 3, 0, 7)}
    with Spool(tmp_path / "x.safetensors") as spool:
        for name, array in values.items():
            spool.add(name, array, F32)
        for tensor in reversed(spool.tensors):
            out = np.empty(tensor.nbytes, np.uint8)
            tensor.fill(0, tensor.elements, out)
            assert out.tobytes() == values[tensor.name].tobytes()
    assert os.listdir(tmp_path) == []


# -- inputs -------------------------------------------------------------------------------------------------------------


def test_an_input_that_is_written_to_while_it_is_read_is_noticed(make_checkpoint, tmp_path, monkeypatch):
    (a, _), (b, _) = make_checkpoint("a", seed=1), make_checkpoint("b", seed=2)
    read, changed = Checkpoint.read_raw, []

    def read_and_touch(*arguments):
        read(*arguments)
        if not changed:
            changed.append(os.utime(b, ns=(1, 1)))

    monkeypatch.setattr(Checkpoint, "read_raw", read_and_touch)
    with pytest.raises(CheckpointError, match=r"b\.safetensors"):
        merge(recipe(a, b), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("portable", ["0", "1"])
def test_an_input_whose_disk_fails_or_that_is_gone_is_named(portable, make_checkpoint, tmp_path, monkeypatch):
    def failing(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setenv("UNETSCOPE_PORTABLE_IO", portable)
    path, _ = make_checkpoint("a")
    with open_checkpoint(path) as checkpoint:
        key = next(iter(checkpoint.tensors))
        reader = checkpoint._reader(path)
        with monkeypatch.context() as broken:
            broken.setattr(reader, "_read_some", failing)
            with pytest.raises(CheckpointError, match=r"a\.safetensors.*Input/output"):
                checkpoint.raw(key)
        checkpoint.close()
        path.unlink()
        with pytest.raises(CheckpointError, match=r"a\.safetensors: cannot be read \(No such file"):
            checkpoint.raw(key)


def test_paths_with_spaces_umlauts_and_backslashes_work_from_yaml(make_checkpoint, tmp_path):
    (a, x), (b, y) = make_checkpoint("mein modell äöü 模型", seed=1), make_checkpoint("back\\slash #1: 'x'", seed=2)
    plan = recipe(a, b).model_copy(update={"title": "日本"})
    (tmp_path / "ein rezept.yaml").write_text(plan.to_yaml(), encoding="utf-8")
    out = tmp_path / "ergebnis für dich.safetensors"
    merge(Recipe.load(tmp_path / "ein rezept.yaml"), out)
    key = "model.diffusion_model.out.2.weight"
    expected = ((x[key].float() + y[key].float()) / 2).half()
    assert raw(load(out)[key]) == raw(expected)
    assert open_checkpoint(out).metadata["modelspec.title"] == "日本"


@pytest.mark.parametrize("method", ["uniform", "train_difference"])
def test_portable_io_reads_and_writes_the_same_bytes_on_many_threads(method, make_checkpoint, tmp_path, monkeypatch):
    paths = [make_checkpoint(n, "sdxl", seed=i)[0] for i, n in enumerate("abc")]
    models = {f"m{i}": str(p) for i, p in enumerate(paths)}
    plan = Recipe.parse({"models": models, "steps": {"out": {"method": method, "inputs": list(models)}}, "title": "x"})
    written = []
    for portable in ("0", "1"):
        monkeypatch.setenv("UNETSCOPE_PORTABLE_IO", portable)
        merge(plan, tmp_path / "out.safetensors", threads=5, overwrite=True, reproducible=True)
        written.append((tmp_path / "out.safetensors").read_bytes())
    assert written[0] == written[1]
