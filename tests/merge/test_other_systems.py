"""What merges need of the operating system: the bytes are the same where it offers as little as Windows does."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from functools import cache

import pytest
import torch
from safetensors.torch import save_file
from samples import others_long
from tiny import tensors_of

from unetscope.checkpoints import OutputError
from unetscope.checkpoints.demo import write_demo_lora
from unetscope.checkpoints.files.output import OutputFile
from unetscope.checkpoints.files.system import windows_fault
from unetscope.checkpoints.files.targets import check_target

# Takes away what Windows lacks, and refuses as it does to rename or remove a file that is open, or to rename onto another.
AS_WINDOWS = r"""
import builtins, errno, os, shutil, subprocess, sys, types  # these tell Windows by its msvcrt
for name in ("preadv", "pwrite", "pread", "pwritev", "posix_fallocate", "sched_getaffinity", "link", "nice", "fork"):
    if hasattr(os, name):
        delattr(os, name)
real_import = builtins.__import__
def without_posix(name, globals=None, *rest):
    if name in ("fcntl", "resource", "pwd", "grp", "termios") and (globals or {}).get("__name__", "").startswith("unetscope"):
        raise ImportError(f"No module named {name!r}")
    return real_import(name, globals, *rest)
builtins.__import__ = without_posix
def is_open(path):
    try:
        wanted = os.stat(path)
    except OSError:
        return False
    held = []
    for name in os.listdir("/proc/self/fd"):
        try:
            held.append(os.stat(f"/proc/self/fd/{name}"))
        except OSError:
            pass
    return any((h.st_dev, h.st_ino) == (wanted.st_dev, wanted.st_ino) for h in held)
def refusing(real, replaces):
    def call(path, *to, **named):
        if "dir_fd" not in named and is_open(path) or to and to[0] != path and is_open(to[0]):
            raise PermissionError(errno.EACCES, "The process cannot access the file", str(path))
        if to and not replaces and str(to[0]) != str(path) and os.path.lexists(to[0]):
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        return real(path, *to, **named)
    return call
os.unlink = os.remove = refusing(os.unlink, True)
os.rename, os.replace = refusing(os.rename, False), refusing(os.replace, True)
from unetscope.checkpoints.files import system
system.WINDOWS = True
from unetscope.checkpoints.files import resumable
resumable._EVERY = 0.1
from unetscope.cli import main
main(sys.argv[1:])
"""
PLAIN = "import sys; from unetscope.cli import main; main(sys.argv[1:])"
COMMANDS = {
    "a merge": ["merge", "weighted-sum", "a.safetensors", "b.safetensors", "-o", "OUT", "--reproducible", "--title", "x"],
    "a merge with statistics": ["merge", "slerp", "a.safetensors", "b.safetensors", "-o", "OUT", "--reproducible", "--title", "x"],
    "a resumable merge": [
        "merge", "train-difference", "a.safetensors", "b.safetensors", "a.safetensors", "-o", "OUT", "--reproducible",
        "--resumable", "--title", "x",
    ],
    "a conversion": ["convert", "b.safetensors", "OUT", "--dtype", "bf16"],
    "a conversion of a pickle": ["convert", "c.ckpt", "OUT"],
    "a baked LoRA": ["lora", "bake", "a.safetensors", "-o", "OUT", "--lora", "lora.safetensors:0.5", "--reproducible"],
}  # fmt: skip
SOME = others_long(COMMANDS, lambda what: what in ("a merge", "a conversion of a pickle"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate("ab"):
        save_file(tensors_of("sd1", seed), folder / f"{name}.safetensors")
    torch.save({"state_dict": tensors_of("sd1", 3)}, folder / "c.ckpt")
    write_demo_lora(folder / "lora.safetensors", "sd1", base=folder / "a.safetensors")
    return folder


def run(folder, code: str, command: list[str], out: str, **variables: str) -> str:
    """Run a command; returns a digest of what it wrote."""
    arguments = [out if word == "OUT" else word for word in command]
    environment = os.environ | {"UNETSCOPE_CACHE": str(folder.parent / "cache")} | variables
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-1500:]
    return hashlib.sha256((folder / out).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def here(folder):
    """`here("a merge")`: a digest of what a command writes on this system."""

    @cache
    def digest(what: str) -> str:
        made = run(folder, PLAIN, COMMANDS[what], "plain.safetensors")
        (folder / "plain.safetensors").unlink()
        return made

    return digest


@pytest.mark.parametrize("what", SOME)
def test_where_the_system_offers_what_windows_offers_the_bytes_are_the_same(what, folder, here):
    before, expected = set(os.listdir(folder)), here(what)
    assert run(folder, AS_WINDOWS, COMMANDS[what], "windows.safetensors") == expected
    again = [*COMMANDS[what], "--overwrite"]
    assert run(folder, AS_WINDOWS, again, "windows.safetensors") == expected
    assert set(os.listdir(folder)) - before == {"windows.safetensors"}
    (folder / "windows.safetensors").unlink()


@pytest.mark.parametrize("what", SOME)
def test_the_other_kernel_and_the_portable_way_of_io_give_the_same_bytes(what, folder, here):
    other = {"UNETSCOPE_KERNEL": "numpy", "UNETSCOPE_PORTABLE_IO": "1"}
    assert run(folder, PLAIN, COMMANDS[what], "other.safetensors", **other) == here(what)
    (folder / "other.safetensors").unlink()


@pytest.mark.parametrize(
    "name",
    ["con.safetensors", "NUL", "nul .safetensors", "Com1.x.safetensors", "lpt9", "a:b.safetensors", "a?", "a.", "a "],
)
def test_names_that_windows_cannot_have_are_refused_there(name, tmp_path, monkeypatch):
    assert windows_fault(name)
    check_target(tmp_path / name)
    monkeypatch.setattr("unetscope.checkpoints.files.system.WINDOWS", True)
    with pytest.raises(OutputError, match=r"Windows"):
        check_target(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["console.safetensors", "com10.safetensors", "a.con", ".safetensors", "模型 (1).safetensors"]
)
def test_names_that_only_look_like_those_are_taken(name, tmp_path, monkeypatch):
    monkeypatch.setattr("unetscope.checkpoints.files.system.WINDOWS", True)
    assert windows_fault(name) is None
    check_target(tmp_path / name)


def test_a_path_that_is_too_long_for_windows_is_explained(tmp_path, monkeypatch):
    def missing(path, mode="r", *rest, **named):
        if "x" in mode:
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return open(path, mode, *rest, **named)

    monkeypatch.setattr("unetscope.checkpoints.files.system.WINDOWS", True)
    monkeypatch.setattr("unetscope.checkpoints.files.targets.open", missing, raising=False)
    deep = tmp_path / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    with pytest.raises(OutputError, match=r"Windows.*259"):
        check_target(deep / "out.safetensors")


def test_a_target_that_another_program_holds_is_refused_before_the_work_on_windows(tmp_path, monkeypatch):
    def held(*_):
        raise PermissionError(13, "The process cannot access the file")

    (tmp_path / "x").write_bytes(b"old")
    monkeypatch.setattr("unetscope.checkpoints.files.system.WINDOWS", True)
    monkeypatch.setattr("unetscope.checkpoints.files.system._WAITS", (0,))
    monkeypatch.setattr(os, "rename", held)
    with pytest.raises(OutputError, match=r"cannot be replaced.*another program may have it open"):
        OutputFile(tmp_path / "x", 3, overwrite=True)
    assert (tmp_path / "x").read_bytes() == b"old"
