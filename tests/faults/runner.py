"""Runs commands whose system calls fail, in a process that has the shim (LD_PRELOAD), each in a fork of it.

    LD_PRELOAD=shim.so python runner.py FOLDER CASE FAULTS

CASE is a name of `CASES`; FAULTS how many of its faults are tried, evenly spread, or `all`. Prints a line of JSON for each that
went wrong, and one with the counts at the end.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

KINDS = {"full": 1, "broken": 2, "interrupted": 3, "half": 4}
# Seconds until a command is taken for hung; an undisturbed one takes a tenth.
PATIENCE = 600.0
OLD = b"an older file"


@dataclass(frozen=True)
class Case:
    """A command on small files: what it makes, and what may not be said of it.

    Attributes:
        words: of the command line; `{d}` is the folder.
        outputs: files that are there before (`OLD`) and are replaced.
        alike: what of an output has to be equal to that of an undisturbed run; dates are not.
        before: makes what the command continues with.
    """

    words: str
    outputs: tuple[str, ...]
    alike: Callable[[bytes], object] = lambda content: content
    before: Callable[[Path], None] = field(default=lambda folder: None)


def tensors_part(content: bytes) -> bytes:
    """A .safetensors file without its header, which has a date; empty where it ends before its header says."""
    at = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:at])
    end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    return content[at:] if len(content) == at + end else b""


def half_made(folder: Path) -> None:
    """A resumable merge that was stopped when half of its tensors were written."""
    from unetscope.checkpoints.files.resumable import ResumableFile

    def stopped(self):
        self._settle()
        os._exit(9)

    ResumableFile.commit = stopped
    main_in_here(CASES["resumed"].words.format(d=folder).split())


def study(folder: Path) -> None:
    (folder / "mine.py").write_text("def score(w): return -sum((v - 0.3) ** 2 for v in w.values())\n")
    lines = [
        "title: t",
        "parameters: {a: {free: [0, 1]}}",
        "family: sd1",
        "objective: mine.py:score",
        "optimiser: random",
    ]
    (folder / "s.yaml").write_text("\n".join([*lines, "baselines: []", "trials: 3", ""]))


MERGE = "merge weighted-sum {d}/a.safetensors {d}/b.safetensors -o {d}/o.safetensors "
MERGE += "--overwrite --reproducible --title t --threads 1"
CASES = {
    "merge": Case(MERGE + " --hash --save-recipe {d}/r.yaml", ("o.safetensors", "r.yaml")),
    "resumed": Case(MERGE + " --resumable", ("o.safetensors",), before=half_made),
    "convert": Case("convert {d}/a.ckpt {d}/o.safetensors --dtype fp16 --overwrite --threads 1", ("o.safetensors",), tensors_part),
    "extract": Case(
        "lora extract {d}/a.safetensors {d}/b.safetensors -o {d}/o.safetensors --rank 2 --overwrite --threads 1",
        ("o.safetensors",), tensors_part,
    ),
    "tables": Case("layers {d}/a.safetensors -o {d}/t.csv --overwrite", ("t.csv",)),
    "index": Case("index {d} --compute --threads 1", ()),
    "search": Case("search {d}/s.yaml -o {d}/run", (), before=study),
}  # fmt: skip


def main_in_here(words: list[str]) -> None:
    from unetscope.cli import main

    main(words)


class Runner:
    """A case's commands with a fault each."""

    def __init__(self, folder: Path, case: str):
        self.folder, self.case, self.name = folder, CASES[case], case
        self.ends: Counter[str] = Counter()
        self.shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self.place = folder / "place"
        self.sources = folder / "sources"
        self.sources.mkdir()
        self.forked(self._make_sources)
        self.inputs = {path.name: path.read_bytes() for path in self.sources.iterdir()}
        code, said, self.calls = self.run(0, 0)
        if code:
            raise SystemExit(f"an undisturbed run of {case} fails: {said}")
        self.expected = {name: self.case.alike((self.place / name).read_bytes()) for name in self.case.outputs}
        self.expected_trials = self._trials()

    def _make_sources(self) -> None:
        """In a fork as well: a process with torch takes long to fork."""
        import torch
        from safetensors.torch import save_file

        for seed, name in enumerate("ab"):
            numbers = torch.Generator().manual_seed(seed)
            tensors = {
                f"net.blocks.{i}.{p}.weight": torch.randn(24, 24, generator=numbers) for i in range(2) for p in "xyz"
            }
            save_file(tensors, self.sources / f"{name}.safetensors", metadata={"format": "pt"})
            torch.save(tensors, self.sources / f"{name}.ckpt")

    def prepare(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.sources, self.place)
        self.forked(lambda: self.case.before(self.place))
        for name in self.case.outputs:
            (self.place / name).write_bytes(OLD)

    def run(self, at: int, kind: int) -> tuple[int | None, str, list[str]]:
        """Exit code (None of one that hung), what was said, and the calls that were seen."""
        self.prepare()
        log = self.folder / "calls"
        log.unlink(missing_ok=True)

        def command() -> None:
            listed = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            self.shim.fault_arm(f"{self.place}/".encode(), ctypes.c_long(at), kind, listed)
            main_in_here(self.case.words.format(d=self.place).split())

        code, said = self.forked(command)
        return code, said, log.read_text().splitlines()

    def again(self) -> tuple[int | None, str]:
        """The same command, undisturbed, on what is there now."""
        words = self.case.words.format(d=self.place).split()
        return self.forked(lambda: main_in_here([*words, *(["--resume"] if self.name == "search" else [])]))

    def forked(self, work: Callable[[], None]) -> tuple[int | None, str]:
        said = self.folder / "said"
        child = os.fork()
        if not child:
            code = 70
            try:
                out = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
                os.dup2(out, 1)
                os.dup2(out, 2)
                os.environ["UNETSCOPE_CACHE"] = str(self.place / "cache")
                work()
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status), said.read_text(errors="replace")
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return None, said.read_text(errors="replace")

    def _trials(self) -> int:
        lines = [
            line for path in (self.place / "run" / "trials").glob("*.jsonl") for line in path.read_bytes().splitlines()
        ]
        return len({json.loads(line)["number"] for line in lines if line.strip().endswith(b"}")})

    def faults(self) -> Iterator[tuple[int, str]]:
        for at in range(1, len(self.calls) + 1):
            for kind in KINDS:
                yield at, kind

    def wrong(self, at: int, kind: str) -> str:
        """What is wrong about the end of a command with this fault, empty where nothing is."""
        code, said, calls = self.run(at, KINDS[kind])
        call = calls[at - 1] if at <= len(calls) else "(not reached)"
        self.ends[str(code)] += 1
        if code is None:
            return f"{call}: hangs"
        if code not in (0, 2) or "Traceback" in said or "Exception ignored" in said:
            return f"{call}: exit {code}: {said.strip()[-500:]}"
        if code == 2 and len(said.strip().splitlines()) > 4:
            return f"{call}: more than a sentence: {said[-300:]}"
        for name, content in self.inputs.items():
            if (self.place / name).read_bytes() != content:
                return f"{call}: the input {name} was changed"
        for name in self.case.outputs:
            path = self.place / name
            now = path.read_bytes() if path.exists() else None
            if now is None or (now != OLD and self.case.alike(now) != self.expected[name]):
                return f"{call}: exit {code}, {name} is {'gone' if now is None else 'neither the old one nor right'}"
            if code == 0 and now == OLD:
                return f"{call}: exit 0, and {name} is the old one"
        if code == 0 and self._trials() != self.expected_trials:
            return f"{call}: exit 0 with {self._trials()} of {self.expected_trials} trials"
        partial = [name for name in os.listdir(self.place) if ".unetscope-partial-" in name]
        if partial and " unlink " not in call:
            return f"{call}: exit {code} leaves {partial}"
        after, told = self.again()
        if after or not all(self._is_right(name) for name in self.case.outputs):
            return f"{call}: exit {code}, and the next run ends with {after}: {told.strip()[-300:]}"
        return ""

    def _is_right(self, name: str) -> bool:
        return self.case.alike((self.place / name).read_bytes()) == self.expected[name]


def main() -> None:
    folder, case, how_many = Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3]
    # Everything that a command imports, before the forks: not again in each of them.
    import unetscope.cli.commands
    import unetscope.diagrams.listing
    import unetscope.merge.convert
    import unetscope.merge.lora.extract

    if case == "search":
        import optuna  # noqa: F401

        import unetscope.search.loop  # noqa: F401
    runner = Runner(folder, case)
    faults = list(runner.faults())
    if how_many != "all":
        faults = faults[:: max(1, len(faults) // int(how_many)) | 1]
    bad = 0
    for at, kind in faults:
        if found := runner.wrong(at, kind):
            bad += 1
            print(json.dumps({"case": case, "at": at, "kind": kind, "wrong": found}), flush=True)
    print(
        json.dumps({"case": case, "calls": len(runner.calls), "tried": len(faults), "bad": bad, "ends": runner.ends}),
        flush=True,
    )


if __name__ == "__main__":
    main()
