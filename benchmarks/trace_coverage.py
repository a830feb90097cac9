"""Is `trace` to be believed? Random merges of correlated fine-tunes, traced with and without one of their ingredients.

    python benchmarks/trace_coverage.py [--merges 100] [--seed 0]

Fine-tunes share low-rank parts of their changes, as models trained on similar pictures do, and change blocks by 0.1 % to
10 %. Half of the merges are made by sd-mecha, half by this engine (there with weights of their own for every block); half are
saved as fp16, half as bf16. Candidates are the ingredients, the base, and two fine-tunes that have no part in the merge.
Prints a Markdown table: how often the 95 % interval holds the true share, and how often the verdict is right.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unetscope.analysis.trace import trace
from unetscope.analysis.trace_report import LabelTrace, TraceReport
from unetscope.checkpoints import open_checkpoint
from unetscope.checkpoints.demo import write_demo
from unetscope.checkpoints.families import family_of
from unetscope.merge import Recipe, merge

LABELS = (*family_of("sd1").text_encoders, *family_of("sd1").labels)
POOL = 9
DTYPES = {"fp16": "float16", "bf16": "bfloat16"}
Shares = dict[str, dict[str, float]]


@dataclass
class Tally:
    """Counts of one kind of merge.

    Attributes:
        scores: (found - true) / error of every share.
        approximate: whether each of them was called approximate.
        labels, exact: labels traced with all ingredients listed, and those found complete.
        withheld, missed: labels traced with one withheld, and those found complete all the same.
        missed_shares: the share of the withheld ingredient where it was missed.
        files, files_right: reports that say of a file as a whole that it is complete, or not, and are right.
    """

    scores: list[float] = field(default_factory=list)
    approximate: list[bool] = field(default_factory=list)
    labels: int = 0
    exact: int = 0
    withheld: int = 0
    missed: int = 0
    missed_shares: list[float] = field(default_factory=list)
    files: int = 0
    files_right: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--merges", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=20, help="print the table so far after so many merges")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tallies = run(Path(folder), args.merges, args.seed, args.every)
    print(table(tallies))


def run(folder: Path, merges: int, seed: int, every: int) -> dict[tuple[str, str], Tally]:
    rng = np.random.default_rng(seed)
    pool = make_pool(folder)
    tallies: dict[tuple[str, str], Tally] = defaultdict(Tally)
    began = time.perf_counter()
    for i in range(merges):
        engine, dtype = ("sd-mecha", "unetscope")[i % 2], ("fp16", "bf16")[i // 2 % 2]
        names = [f"tune{n}" for n in rng.permutation(POOL)]
        used, idle = names[: rng.integers(2, 7)], names[-2:]
        target = folder / "merged.safetensors"
        make = by_mecha if engine == "sd-mecha" else by_us
        truth = make(rng, {n: pool[n] for n in used}, target, dtype)
        check(tallies[engine, dtype], target, pool, truth, [*used, "base", *idle], used)
        print(f"{i + 1}/{merges} {engine} {dtype} {time.perf_counter() - began:.0f} s", flush=True)
        if (i + 1) % every == 0 and i + 1 < merges:
            print(table(tallies), flush=True)
    return tallies


def make_pool(folder: Path) -> dict[str, Path]:
    pool = {"base": write_demo(folder / "base.safetensors", "sd1", seed=1)}
    for n in range(POOL):
        path = folder / f"tune{n}.safetensors"
        pool[f"tune{n}"] = write_demo(path, "sd1", seed=100 + n, finetune_of=pool["base"], theme=n % 2)
    return pool


def by_us(rng: np.random.Generator, models: dict[str, Path], target: Path, dtype: str) -> Shares:
    """A weighted average with weights of its own in every label."""
    drawn = {label: rng.dirichlet(np.ones(len(models))) for label in LABELS}
    weights = [{label: float(drawn[label][i]) for label in LABELS} for i in range(len(models))]
    step = {"method": "weighted_average", "inputs": list(models), "weights": weights}
    recipe = {"models": {n: str(p) for n, p in models.items()}, "steps": {"out": step}, "output": {"dtype": dtype}}
    merge(Recipe.parse(recipe), target, overwrite=True, fsync=False)
    return {label: dict(zip(models, map(float, drawn[label]), strict=True)) for label in LABELS}


def by_mecha(rng: np.random.Generator, models: dict[str, Path], target: Path, dtype: str) -> Shares:
    """A chain of weighted sums, computed in fp32, with one set of weights for the whole model."""
    import sd_mecha
    import torch

    shares = rng.dirichlet(np.ones(len(models)))
    names = list(models)
    node, total = sd_mecha.model(models[names[0]]), shares[0]
    for name, share in zip(names[1:], shares[1:], strict=True):
        total += share
        node = sd_mecha.weighted_sum(node, sd_mecha.model(models[name]), alpha=float(share / total))
    sd_mecha.merge(
        node,
        merge_device="cpu",
        merge_dtype=torch.float32,
        output_dtype=getattr(torch, DTYPES[dtype]),
        threads=0,
        output=target,
    )
    return {label: dict(zip(names, map(float, shares), strict=True)) for label in LABELS}


def check(tally: Tally, target: Path, pool: dict[str, Path], truth: Shares, names: list[str], used: list[str]) -> None:
    whole = traced(target, pool, names)
    for label in whole.labels:
        if label.label in truth:
            tally.labels += 1
            tally.exact += label.complete
            add_scores(tally, label, truth[label.label])
    # The ingredient that is taken away has a share that counts, so that noticing it can be asked for.
    withheld = max(used, key=lambda n: truth["M00"][n])
    less = traced(target, pool, [n for n in names if n != withheld])
    for label in less.labels:
        if label.label in truth:
            tally.withheld += 1
            if label.complete:
                tally.missed += 1
                tally.missed_shares.append(truth[label.label][withheld])
    tally.files += 2
    tally.files_right += whole.complete + (not less.complete)


def traced(target: Path, pool: dict[str, Path], names: list[str]) -> TraceReport:
    candidates = [open_checkpoint(pool[n]) for n in names]
    with open_checkpoint(target) as merged:
        report = trace(merged, candidates, names, threads=1)
    for candidate in candidates:
        candidate.close()
    return report


def add_scores(tally: Tally, label: LabelTrace, truth: dict[str, float]) -> None:
    for name, share in label.shares.items():
        error = label.errors[name]
        if error > 0:
            tally.scores.append((share - truth.get(name, 0.0)) / error)
            tally.approximate.append(label.approximate)


def table(tallies: dict[tuple[str, str], Tally]) -> str:
    lines = [
        "| merged by | saved as | shares | in the 95 % interval | the others | approximate | complete, and found so "
        "| withheld, and found so | missed | files judged right |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (engine, dtype), t in sorted(tallies.items()):
        scores, rough = np.abs(t.scores), np.array(t.approximate)

        def inside(chosen: np.ndarray) -> str:
            return f"{np.mean(chosen < 1.96):.1%}" if chosen.size else "-"

        worst = f" (shares up to {max(t.missed_shares):.2g})" if t.missed_shares else ""
        lines.append(
            f"| {engine} | {dtype} | {scores.size:,} | {inside(scores[~rough])} | {inside(scores[rough])} "
            f"| {np.mean(rough):.0%} | {t.exact / t.labels:.1%} of {t.labels:,} labels "
            f"| {1 - t.missed / t.withheld:.1%} | {t.missed}{worst} | {t.files_right} of {t.files} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
