"""How long the methods take that measure tensors before they write: medians, TIES, DARE, SLERP, model stock.

    python benchmarks/methods.py [--quick] [--folder DIR] [--only TEXT] [--programs a,b] [--runs N] [--docs FILE]

Full-size SD1 files, a base and its fine-tunes; whole processes, start-up included, files in the page cache, one program after
the other. What Unetscope wrote is compared with numpy in double precision, tensor by tensor. A program is stopped after five
minutes. Needs 20 GB of disk; `--quick` takes narrow files. Prints Markdown and puts it between the markers of
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from measured import measured
from merge_check import Wrong
from methods_check import worst_error
from warm_memory import WarmMemory

from merge import DOCS, Result, kept_results, machine, put_between_markers
from unetscope.checkpoints.demo import write_demo

HERE = Path(__file__).parent
BEGIN, END = "<!-- methods: begin -->", "<!-- methods: end -->"
TIMEOUT = 300.0
# How many times as fast as sd-mecha.
GOALS = {"geometric_median": 10}
GOAL = 3
METHODS = {
    "slerp": {"alpha": 0.3},
    "geometric_median": {},
    "model_stock": {},
    "ties": {"density": 0.2},
    "dare": {"density": 0.5},
}
COUNTS = (2, 4, 8)


@dataclass(frozen=True)
class Job:
    """A method on a number of files; of methods on differences the first is the base."""

    method: str
    files: int

    @property
    def title(self) -> str:
        return f"{self.method}, {self.files} files"

    def recipe(self, inputs: list[Path]) -> str:
        models = {f"m{i}": str(path) for i, path in enumerate(inputs)}
        step = {"method": self.method, "inputs": list(models), **METHODS[self.method]}
        return yaml.safe_dump({"models": models, "steps": {"out": step}, "components": {"vae": "merge"}})


def jobs() -> list[Job]:
    """Every method on 2, 4 and 8 files, where it takes as many: SLERP has two, and stock of a base and one model is that model."""
    return [
        Job(m, n)
        for m in METHODS
        for n in COUNTS
        if not (m == "slerp" and n > 2) and not (m == "model_stock" and n == 2)
    ]


def commands(job: Job, inputs: list[Path], recipe: Path, output: Path) -> dict[str, list[str]]:
    """How each program is called."""
    paths = list(map(str, inputs))
    return {
        "floor": [sys.executable, str(HERE / "floor.py"), str(output), *paths],
        "Unetscope": [sys.executable, "-m", "unetscope", "merge", "run", str(recipe), "-o", str(output), "--no-fsync"],
        "sd-mecha": [sys.executable, str(HERE / "sd_mecha_methods.py"), job.method, str(output), *paths],
    }


def run_job(
    job: Job, inputs: list[Path], folder: Path, programs: list[str], runs: int, trial: bool
) -> dict[str, Result]:
    """Every program on one job, round by round."""
    recipe, output = folder / "recipe.yaml", folder / "out.safetensors"
    recipe.write_text(job.recipe(inputs), encoding="utf-8")
    results, memory = {name: Result() for name in programs}, WarmMemory(trial)
    for _ in range(runs):
        for name, result in results.items():
            if result.failure:
                continue
            output.unlink(missing_ok=True)
            with memory.ready(inputs):
                run = measured(commands(job, inputs, recipe, output)[name], TIMEOUT)
            result.failure = run.failure
            if not run.failure:
                result.runs.append(run)
                if name == "Unetscope":
                    _check(result, job, output, inputs)
            print(f"  {job.title}: {name}: {result.failure or f'{run.seconds:.2f} s'}", file=sys.stderr, flush=True)
    output.unlink(missing_ok=True)
    return results


def _check(result: Result, job: Job, output: Path, inputs: list[Path]) -> None:
    try:
        result.error = max(result.error, worst_error(job.method, output, inputs))
    except Wrong as wrong:
        result.failure = f"wrong result: {wrong}"


def report(results: dict[Job, dict[str, Result]], runs: int) -> Iterator[str]:
    """The lines between the markers."""
    yield f"{machine()}. Median of {runs}, wall clock of whole processes, peak of resident memory; no fsync."
    yield ""
    programs = list(next(iter(results.values())))
    yield f"| method | {' | '.join(programs)} | sd-mecha / Unetscope |"
    yield f"|---|{'---:|' * (len(programs) + 1)}"
    for job, row in results.items():
        yield f"| {job.title} | {' | '.join(row[name].cell() for name in programs)} | {_faster(row)} |"
    yield ""
    errors = {job.title: row["Unetscope"].error for job, row in results.items() if "Unetscope" in row}
    rounding = max((e for title, e in errors.items() if not title.startswith("dare")), default=0.0)
    yield f"Largest error of any weight of 12 tensors, in steps of fp16 (a half is the best that rounding allows): {rounding:.3g}."
    missed = [
        f"{job.title}: {times:.1f} times, not {GOALS.get(job.method, GOAL)}"
        for job, row in results.items()
        if (times := _times(row)) is not None and times < GOALS.get(job.method, GOAL)
    ]
    yield ""
    yield f"Goals against sd-mecha missed: {'; '.join(missed)}." if missed else "No goal against sd-mecha was missed."
    undecided = [job.title for job, row in results.items() if _is_undecided(job, row)]
    if undecided:
        yield f"Undecided, for sd-mecha was stopped too soon to tell: {'; '.join(undecided)}."


def _times(row: dict[str, Result]) -> float | None:
    if not all(name in row and row[name].runs for name in ("sd-mecha", "Unetscope")):
        return None
    return row["sd-mecha"].seconds / row["Unetscope"].seconds


def _is_undecided(job: Job, row: dict[str, Result]) -> bool:
    """Whether sd-mecha was stopped before the goal's multiple of our time had passed."""
    theirs, ours = row.get("sd-mecha"), row.get("Unetscope")
    stopped = theirs is not None and theirs.failure.startswith("stopped") and ours is not None and bool(ours.runs)
    return stopped and GOALS.get(job.method, GOAL) * ours.seconds > TIMEOUT


def _faster(row: dict[str, Result]) -> str:
    times, theirs, ours = _times(row), row.get("sd-mecha"), row.get("Unetscope")
    if times is not None:
        return f"{times:.0f} x"
    stopped = theirs is not None and theirs.failure.startswith("stopped") and ours is not None and ours.runs
    return f"over {TIMEOUT / ours.seconds:.0f} x" if stopped else "-"


def make_inputs(folder: Path, full_size: bool) -> list[Path]:
    """A base and seven fine-tunes of it, where they are not there yet."""
    paths = [folder / f"tuned-{n}.safetensors" for n in range(max(COUNTS))]
    for n, path in enumerate(paths):
        if not path.exists():
            write_demo(path, "sd1", seed=n, full_size=full_size, finetune_of=paths[0] if n else None)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="narrow files, one run, nothing put into the docs")
    parser.add_argument("--folder", type=Path, help="where inputs and results are kept; else they are removed")
    parser.add_argument("--only", default="", help="only jobs whose title holds this text")
    parser.add_argument("--programs", default="floor,Unetscope,sd-mecha", help="which of them, by name")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--docs", type=Path, help="the page to put the table into")
    given = parser.parse_args()
    runs, programs = 1 if given.quick else given.runs, given.programs.split(",")
    docs = given.docs or (None if given.quick or given.only else DOCS)
    results: dict[Job, dict[str, Result]] = {}
    with tempfile.TemporaryDirectory(prefix="unetscope-bench-") as own:
        folder = given.folder or Path(own)
        folder.mkdir(parents=True, exist_ok=True)
        paths = make_inputs(folder, full_size=not given.quick)
        for job in (j for j in jobs() if given.only in j.title):
            kept = folder / f"{job.title}.json"
            if kept.exists():
                results[job] = kept_results(json.loads(kept.read_text()))
                continue
            results[job] = run_job(job, paths[: job.files], folder, programs, runs, given.quick)
            kept.write_text(json.dumps({name: asdict(result) for name, result in results[job].items()}))
    text = "\n".join(report(results, runs))
    print(text)
    if docs:
        put_between_markers(text, docs, BEGIN, END)


if __name__ == "__main__":
    main()
