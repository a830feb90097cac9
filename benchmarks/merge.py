"""How long merges take, next to other mergers and next to the least that any could take.

    python benchmarks/merge.py [--quick] [--folder DIR] [--only TEXT] [--programs a,b] [--runs N] [--docs FILE]

Whole processes, start-up included, on files that are in the page cache, one program after the other in each round, the
median of the rounds; every output is compared with numpy: our first one whole, of the others the first thousands of weights
of each tensor. Needs 45 GB of disk; `--quick` takes narrow files instead, to see
that it works. Prints Markdown and puts it between the markers of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from measured import Measured, measured
from merge_check import Wrong, worst_error
from merge_jobs import JOBS, Job, make_inputs
from warm_memory import WarmMemory

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- merge: begin -->", "<!-- merge: end -->"
TIMEOUT = 900.0
# Programs that take seconds, so that the disk's moods show in them, are run more often than those that take minutes.
SHORT, MORE_RUNS = ("floor", "Unetscope"), 2
# What the project wants, without fsync: how many times faster than others, how near the floor, and how small.
GOALS = {"sd1": {"plain": 4, "sd-mecha": 20}, "sdxl": {"sd-mecha": 10}}
PEAK = 350e6

Command = Callable[[Job, Path, Path, Path, Path, bool], list[str]]
PROGRAMS: dict[str, Command] = {
    "floor": lambda job, files, _, __, out, fsync: [
        sys.executable, str(HERE / "floor.py"), str(out), *map(str, job.paths(files)), *(["--fsync"] if fsync else [])
    ],
    "Unetscope": lambda _, __, ___, recipe, out, fsync: [
        sys.executable, "-m", "unetscope", "merge", "run", str(recipe), "-o", str(out), "--fsync" if fsync else "--no-fsync"
    ],
    "plain": lambda _, __, spec, ___, out, ____: [sys.executable, str(HERE / "plain_merger.py"), str(spec), str(out)],
    "sd-mecha": lambda _, __, spec, ___, out, ____: [sys.executable, str(HERE / "sd_mecha_merger.py"), str(spec), str(out)],
}  # fmt: skip


@dataclass
class Result:
    """The runs of one program on one job."""

    runs: list[Measured] = field(default_factory=list)
    error: float = 0.0
    failure: str = ""

    @property
    def seconds(self) -> float:
        return statistics.median(run.seconds for run in self.runs)

    @property
    def peak(self) -> int:
        return max(run.peak for run in self.runs)

    def cell(self) -> str:
        if self.failure:
            return self.failure
        if not self.runs:
            return "-"
        memory = f"{self.peak / 1e9:.1f} GB" if self.peak > 1e9 else f"{self.peak / 1e6:.0f} MB"
        return f"{self.seconds:.2f} s, {memory}"


def run_job(
    job: Job, folder: Path, programs: list[str], runs: int, trial: bool, fsync: bool = False
) -> dict[str, Result]:
    """Every program on one job, round by round; those that take seconds in more rounds than the others."""
    spec, recipe = job.write_files(folder)
    shares, output = job.shares(folder), folder / "out.safetensors"
    results, memory = {name: Result() for name in programs}, WarmMemory(trial)
    for n in range(runs if runs == 1 else runs + MORE_RUNS):
        for name, result in results.items():
            if result.failure or (n >= runs and name not in SHORT):
                continue
            output.unlink(missing_ok=True)
            with memory.ready(job.paths(folder)):
                run = measured(PROGRAMS[name](job, folder, spec, recipe, output, fsync), TIMEOUT)
            result.failure = run.failure
            if not run.failure:
                result.runs.append(run)
                if name != "floor":
                    _check(result, output, job.paths(folder), shares, whole=n == 0 and name == "Unetscope")
            print(f"  {job.title}: {name}: {result.failure or f'{run.seconds:.2f} s'}", file=sys.stderr, flush=True)
    output.unlink(missing_ok=True)
    return results


def _check(result: Result, output: Path, inputs: list[Path], shares: dict, whole: bool) -> None:
    try:
        result.error = max(result.error, worst_error(output, inputs, shares, whole))
    except Wrong as wrong:
        result.failure = f"wrong result: {wrong}"


def kept_results(plain: dict) -> dict[str, Result]:
    """Results by program, as an earlier run of this program wrote them to JSON."""
    return {name: Result(**row | {"runs": [Measured(**run) for run in row["runs"]]}) for name, row in plain.items()}


# -- what is shown ----------------------------------------------------------------------------------------------------


def report(results: dict[Job, dict[str, Result]], synced: dict[Job, dict[str, Result]], runs: int) -> Iterator[str]:
    """The lines between the markers."""
    more = "" if runs == 1 else f" ({runs + MORE_RUNS} of the first two columns)"
    yield f"{machine()}. Median of {runs} runs{more}, wall clock of whole processes, peak of resident memory; no fsync."
    yield ""
    programs = list(next(iter(results.values())))
    yield f"| merge | {' | '.join(programs)} | Unetscope / floor |"
    yield f"|---|{'---:|' * (len(programs) + 1)}"
    for job, row in results.items():
        cells = [row[name].cell() for name in programs]
        yield f"| {job.title} | {' | '.join(cells)} | {_ratio(row, 'Unetscope', 'floor')} |"
    yield ""
    if synced:
        yield "With fsync, for Unetscope and the floor, one run each:"
        yield ""
        yield "| merge | floor | Unetscope |\n|---|---:|---:|"
        for job, row in synced.items():
            yield f"| {job.title} | {row['floor'].cell()} | {row['Unetscope'].cell()} |"
        yield ""
    yield "Largest error of any weight, in steps of fp16 (a half is the best that rounding allows):"
    yield ", ".join(
        f"{name} {max(row[name].error for row in results.values()):.3g}" for name in programs if name != "floor"
    )
    missed = list(_missed(results))
    yield ""
    yield "Goals missed: " + "; ".join(missed) if missed else "Every goal was met."


def _ratio(row: dict[str, Result], a: str, b: str) -> str:
    if not all(name in row and row[name].runs and not row[name].failure for name in (a, b)):
        return "-"
    return f"{row[a].seconds / row[b].seconds:.1f}"


def _missed(results: dict[Job, dict[str, Result]]) -> Iterator[str]:
    for job, row in results.items():
        ours = row.get("Unetscope")
        if ours is None or not ours.runs:
            continue
        for name, times in GOALS[job.family].items():
            if name in row and row[name].runs and row[name].seconds < times * ours.seconds:
                yield f"{job.title}: {row[name].seconds / ours.seconds:.1f} times as fast as {name}, not {times}"
        most = 2 if job.family == "sdxl" or job.models == 8 else 3
        if "floor" in row and row["floor"].runs and ours.seconds > most * row["floor"].seconds:
            yield f"{job.title}: {ours.seconds / row['floor'].seconds:.1f} times the floor, not {most}"
        if ours.peak > PEAK:
            yield f"{job.title}: a peak of {ours.peak / 1e6:.0f} MB, not {PEAK / 1e6:.0f}"


def machine() -> str:
    """The machine and the software, in one line."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{p} {importlib.metadata.version(p)}" for p in ("torch", "numba", "sd-mecha") if _installed(p)]
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}; {', '.join(versions)}"


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package.replace("-", "_")) is not None


def put_between_markers(text: str, docs: Path, begin: str = BEGIN, end: str = END) -> None:
    """Replace what stands between the markers of a page."""
    page = docs.read_text(encoding="utf-8")
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    docs.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="narrow files, one run, nothing put into the docs")
    parser.add_argument(
        "--folder",
        type=Path,
        help="where inputs and results are kept: a run that was stopped continues with the next merge; else they are removed",
    )
    parser.add_argument("--only", default="", help="only jobs whose title holds this text")
    parser.add_argument("--programs", default=",".join(PROGRAMS), help="which of them, by name")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--docs", type=Path, help="the page to put the tables into")
    given = parser.parse_args()
    runs = 1 if given.quick else given.runs
    docs = given.docs or (None if given.quick or given.only else DOCS)
    programs = [p for p in PROGRAMS if p in given.programs.split(",") and (p != "sd-mecha" or _installed(p))]
    jobs = [job for job in JOBS if given.only in job.title]
    results: dict[Job, dict[str, Result]] = {}
    synced: dict[Job, dict[str, Result]] = {}
    with tempfile.TemporaryDirectory(prefix="unetscope-bench-") as own:
        folder = given.folder or Path(own)
        folder.mkdir(parents=True, exist_ok=True)
        for job in jobs:
            kept = folder / f"{job.title}.json"
            if kept.exists():
                results[job], synced[job] = map(kept_results, json.loads(kept.read_text()))
                continue
            make_inputs(job, folder, full_size=not given.quick)
            results[job] = run_job(job, folder, programs, runs, given.quick)
            if {"floor", "Unetscope"} <= set(programs):
                synced[job] = run_job(job, folder, ["floor", "Unetscope"], 1, given.quick, fsync=True)
            kept.write_text(
                json.dumps([{n: asdict(r) for n, r in row.items()} for row in (results[job], synced.get(job, {}))])
            )
    text = "\n".join(report(results, synced, runs))
    print(text)
    if docs:
        put_between_markers(text, docs)


if __name__ == "__main__":
    main()
