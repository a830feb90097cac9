"""Break merges in every way that machines and people do, and count what is left behind.

    python tests/failures.py [RUNS]

Each trial is a real `unetscope merge` (or `convert`) in a process of its own, on narrow checkpoints, slowed down so that there
is time to break it. After each one the output is complete or absent (or the old one), the inputs are what they were, and
everything else in the folder is recognisable as a leftover. `tests/merge/test_failures.py` runs a few of each.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from tiny import leftovers, tensors_of

# The command line, with small pieces whose reads take four milliseconds longer, and journals that are written at once.
SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it
from unetscope.checkpoints import stream
from unetscope.checkpoints.files import resumable
from unetscope.checkpoints.checkpoint import Checkpoint
from unetscope.cli import main
resumable._EVERY, stream._BUFFER_BYTES = 0.01, 1 << 15
read = Checkpoint.read_raw
def slow(*arguments):
    time.sleep(0.004)
    read(*arguments)
Checkpoint.read_raw = slow
main(sys.argv[1:])
"""
# Seconds until a run is taken for hung.
PATIENCE = 600.0
# What a resumable merge leaves for the run that continues with it.
KEPT = ("out.safetensors.unetscope-journal", "out.safetensors.unetscope-resumable")


class Broken(AssertionError):
    """A failure left behind what it must not."""


class Place:
    """A folder with two inputs, and what their merge has to be."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.output = folder / "out.safetensors"
        self.inputs = [folder / "a.safetensors", folder / "b.safetensors"]
        for seed, path in enumerate(self.inputs):
            save_file(tensors_of("sd1", seed), path, metadata={"format": "pt"})
        self.originals = [path.read_bytes() for path in self.inputs]
        for _ in range(2):  # the first may have to compile the kernel
            self.output.unlink(missing_ok=True)
            began = time.monotonic()
            code, said = self.start().finish()
            self.seconds = time.monotonic() - began
            if code:
                raise Broken(f"an undisturbed merge failed: {said}")
        self.expected = self.output.read_bytes()
        self.output.unlink()

    def start(self, *options: str, output: Path | None = None, **environment: str) -> Run:
        """Begin a merge."""
        target = output or self.output
        arguments = ["merge", "weighted-sum", *map(str, self.inputs), "-o", str(target), "--reproducible", "--no-fsync"]
        return Run([*arguments, "--title", "out", *options], target, environment)

    def check(self, old: bytes | None = None) -> str:
        """What the output is: `complete`, `old` or `absent`.

        Raises:
            Broken: it is anything else, an input was changed, or there is a file that nobody would recognise.
        """
        for path, original in zip(self.inputs, self.originals, strict=True):
            if path.read_bytes() != original:
                raise Broken(f"{path.name} was changed")
        strange = set(os.listdir(self.folder)) - {"a.safetensors", "b.safetensors", "out.safetensors", "cache"}
        strange -= {*leftovers(self.folder), *KEPT}
        if strange:
            raise Broken(f"there are files of unknown origin: {strange}")
        if not self.output.exists():
            return "absent"
        content = self.output.read_bytes()
        if content == old:
            return "old"
        if content != self.expected:
            raise Broken("an incomplete file has the output's name")
        with safe_open(self.output, "pt") as file:
            if not file.keys():
                raise Broken("the output holds nothing")
        return "complete"

    def clear(self) -> None:
        self.output.unlink(missing_ok=True)

    def kept(self) -> list[str]:
        """What is there for a run that goes on."""
        return [name for name in KEPT if (self.folder / name).exists()]


class Run:
    """A merge in a process of its own."""

    def __init__(self, arguments: list[str], target: Path, environment: dict[str, str]):
        self.target, self.told = target, ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", SLOW, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def wait_for_writing(self) -> None:
        """Until the run has begun a file under construction, or has ended."""
        until = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < until:
            names = os.listdir(self.target.parent)
            if any(f"partial-{self.process.pid}-" in name or name in KEPT for name in names):
                return
            time.sleep(0.002)

    def finish(self) -> tuple[int, str]:
        """Its exit code and what it said on stderr."""
        self.told, said = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, said


def killed(place: Place, runs: int) -> Counter[str]:
    """SIGKILL at random moments of the whole run; every second time over an older file."""
    counts: Counter[str] = Counter()
    for n in range(runs):
        place.clear()
        old = b"an older file" if n % 2 else None
        if old:
            place.output.write_bytes(old)
        run = place.start(*(["--overwrite"] if old else []))
        if n % 4:
            run.wait_for_writing()
            time.sleep(random.random() * place.seconds / 2)
        else:
            time.sleep(random.random() * place.seconds)
        run.process.kill()
        run.finish()
        state = place.check(old)
        if old and state == "absent":
            raise Broken("the older file is gone")
        counts[f"output {state}"] += 1
        counts["left a partial file"] += bool(leftovers(place.folder))
        if len(leftovers(place.folder)) > 1:
            raise Broken("leftovers pile up")
    place.clear()
    if place.start().finish()[0] or leftovers(place.folder):
        raise Broken("the next run did not remove what was left")
    counts["leftovers after the next run"] += len(leftovers(place.folder))
    place.clear()
    return counts


def interrupted(place: Place, runs: int) -> Counter[str]:
    """Ctrl-C or SIGTERM while it writes: exit code 130 or 143, one sentence, nothing left."""
    counts: Counter[str] = Counter()
    for n in range(runs):
        stop = signal.SIGTERM if n % 2 else signal.SIGINT
        place.clear()
        run = place.start()
        run.wait_for_writing()
        time.sleep(random.random() * place.seconds / 3)
        run.process.send_signal(stop)
        code, said = run.finish()
        if leftovers(place.folder):
            raise Broken(f"{stop.name} left {leftovers(place.folder)}")
        late = _after_the_end(code, place)
        if not late and (code not in (0, 128 + stop) or "Traceback" in said):
            raise Broken(f"{stop.name} ended with {code}: {said}")
        counts[f"exit {code}, output {place.check()}"] += 1
    if not any(name.startswith(("exit 130", "exit 143")) for name in counts):
        raise Broken("no run was stopped by a signal")
    place.clear()
    return counts


def _after_the_end(code: int, place: Place) -> bool:
    """Whether Ctrl-C came when all was done and Python, on its way out, had let go of the signal."""
    return code in (-signal.SIGINT, -signal.SIGTERM) and place.check() == "complete"


def resumed(place: Place, runs: int) -> Counter[str]:
    """Merges with `--resumable` that are killed, up to five times each, until one is through: the bytes of an undisturbed one."""
    counts: Counter[str] = Counter()
    for n in range(runs):
        place.clear()
        for attempt in range(6):
            before = place.kept()
            run = place.start("--resumable")
            if attempt < 5:
                run.wait_for_writing()
                # What an earlier run left looks like writing.
                time.sleep(random.random() * place.seconds / (1 if before else 2))
                run.process.send_signal(signal.SIGKILL if n % 4 or before else signal.SIGINT)
            code, said = run.finish()
            counts["runs that went on"] += "were finished by an earlier run" in run.told
            if code == 0:
                break
            if code == 130 and ("--resumable" in said) != bool(place.kept()) and not before:
                raise Broken(f"Ctrl-C said {said!r} and left {place.kept()}")
            if code not in (-signal.SIGKILL, 130) and not _after_the_end(code, place):
                raise Broken(f"a resumable merge ended with {code}: {said}")
            counts["killed or stopped"] += 1
            if place.check() == "complete":  # it was through when the signal came; its journal may be there still
                code, said = place.start("--overwrite").finish()
                break
        if code or place.check() != "complete" or place.kept() or leftovers(place.folder):
            raise Broken(f"a resumable merge did not come to its end: {code}, {said}, {os.listdir(place.folder)}")
        counts["same bytes as undisturbed"] += 1
    place.clear()
    return counts


def folders_killed(place: Place, runs: int) -> Counter[str]:
    """SIGKILL of a conversion to a diffusers folder, every second time over an older one."""
    counts: Counter[str] = Counter()
    target = place.folder / "cache" / "pipeline"
    target.parent.mkdir()
    command = ["convert", str(place.inputs[0]), str(target), "--to", "diffusers"]
    try:
        began = time.monotonic()
        if Run(command, target, {}).finish()[0]:
            raise Broken("an undisturbed conversion failed")
        seconds, expected = time.monotonic() - began, _contents(target)
        for n in range(runs):
            if n % 2 == 0:
                shutil.rmtree(target, ignore_errors=True)
            old = target.exists()
            run = Run([*command, *(["--overwrite"] if old else [])], target, {})
            run.wait_for_writing()
            time.sleep(random.random() * seconds / 2)
            run.process.kill()
            run.finish()
            if target.exists() and _contents(target) != expected:
                raise Broken("an incomplete folder has the output's name")
            counts["folder complete" if target.exists() else "folder absent"] += 1
            if len(leftovers(target.parent)) > 2:
                raise Broken(f"leftovers pile up: {leftovers(target.parent)}")
        if Run([*command, "--overwrite"], target, {}).finish()[0] or os.listdir(target.parent) != ["pipeline"]:
            raise Broken(f"the next run did not remove what was left: {os.listdir(target.parent)}")
        counts["leftovers after the next run"] += 0
    finally:
        shutil.rmtree(target.parent)
    return counts


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def raced(place: Place, runs: int) -> Counter[str]:
    """Two runs to one output at once: without --overwrite the slower is refused, with it both succeed."""
    counts: Counter[str] = Counter()
    for n in range(runs):
        place.clear()
        options = ["--overwrite"] if n % 2 else []
        both = [place.start(*options), place.start(*options)]
        ends = sorted(run.finish() for run in both)
        if place.check() != "complete" or leftovers(place.folder):
            raise Broken("two runs left no complete file, or more than one")
        if [code for code, _ in ends] != ([0, 0] if options else [0, 2]):
            raise Broken(f"two runs ended with {ends}")
        counts["both wrote it" if options else "one wrote it, one was refused"] += 1
    place.clear()
    return counts


def truncated(place: Place, runs: int) -> Counter[str]:
    """An input that loses its second half while it is read."""
    counts: Counter[str] = Counter()
    for _ in range(runs):
        place.clear()
        run = place.start()
        run.wait_for_writing()
        os.truncate(place.inputs[1], len(place.originals[1]) // 2)
        code, said = run.finish()
        place.inputs[1].write_bytes(place.originals[1])
        if code != 2 or "b.safetensors" not in said or "changed" not in said or leftovers(place.folder):
            raise Broken(f"a truncated input ended with {code}: {said}")
        counts[f"refused, output {place.check()}"] += 1
    return counts


@contextmanager
def small_disk(folder: Path, size: int, *options: str):
    """A file system of `size` bytes in memory at `folder`; yields whether it could be had."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        done = False
    try:
        yield done
    finally:
        if done:
            subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


def disk_full(place: Place, runs: int) -> Counter[str]:
    """A disk that is too small, and one that another program fills while we write."""
    counts: Counter[str] = Counter()
    size = len(place.expected)
    with small_disk(place.folder / "cache", 2 * size) as mounted:
        if not mounted:
            return Counter({"not tried: mounting a small disk needs root": 1})
        disk = place.folder / "cache"
        filler = disk / "filler"
        for n in range(runs):
            early = n % 2 == 0
            filler.write_bytes(bytes(int(1.2 * size)) if early else b"")
            # Without positioned I/O space is not allocated before writing, and the disk can fill up in between.
            run = place.start(output=disk / "x.safetensors", UNETSCOPE_PORTABLE_IO="1")
            run.wait_for_writing()
            if not early:
                with suppress(OSError):
                    filler.write_bytes(bytes(2 * size))
            code, said = run.finish()
            if code != 2 or os.listdir(disk) != ["filler"] or "Traceback" in said:
                raise Broken(f"a full disk ended with {code}: {said}, {os.listdir(disk)}")
            if (" free;" if early else "No space left") not in said:
                raise Broken(f"a full disk was explained as: {said}")
            counts["refused before writing" if early else "stopped while writing"] += 1
    return counts


def read_only(place: Place, runs: int) -> Counter[str]:
    """A folder that cannot be written."""
    with small_disk(place.folder / "cache", 1 << 20, "ro") as mounted:
        if not mounted:
            return Counter({"not tried: mounting a read-only disk needs root": 1})
        code, said = place.start(output=place.folder / "cache" / "x.safetensors").finish()
        if code != 2 or "Read-only file system" not in said:
            raise Broken(f"a read-only folder ended with {code}: {said}")
    return Counter({"refused before writing": 1})


TRIALS = {
    "SIGKILL at a random moment": killed,
    "Ctrl-C at a random moment": interrupted,
    "SIGKILL or Ctrl-C of `--resumable` merges, gone on with": resumed,
    "SIGKILL of a conversion to a folder": folders_killed,
    "two runs to one output": raced,
    "input truncated while it is read": truncated,
    "disk full": disk_full,
    "read-only folder": read_only,
}


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    print("| failure | trials | outcome |\n|---|---:|---|")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["UNETSCOPE_CACHE"] = str(Path(folder) / "hashes")
        (Path(folder) / "merge").mkdir()
        place = Place(Path(folder) / "merge")
        for name, trial in TRIALS.items():
            count = runs if trial is killed else 1 if trial is read_only else max(2, runs // 5)
            outcome = ", ".join(f"{what}: {n}" for what, n in sorted(trial(place, count).items()))
            print(f"| {name} | {count} | {outcome} |", flush=True)
    print("\nNever an incomplete file under the output's name, never a changed input.")


if __name__ == "__main__":
    main()
