"""How long a trial's new weights take: put into the live pipeline, against writing the file and loading it.

    python benchmarks/hot_swap.py [--quick] [--folder DIR] [--runs N] [--family sd1]

Two models of random weights are merged by ever new block weights. Everything is measured in one process with files in the page
cache; the median of the runs. Needs 8 GB of disk and 12 GB of memory for SD1; `--quick` takes narrow models, to see that it
works. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from unetscope.checkpoints.demo import write_demo
from unetscope.checkpoints.families.diffusers import write_pipeline_config
from unetscope.merge import Recipe, merge
from unetscope.merge.planner import planned
from unetscope.search.generators import make_generator
from unetscope.search.generators.tokenizer import write_tokenizer

TOKENIZERS = {"sd1": {"tokenizer": "clip_l"}, "sdxl": {"tokenizer": "clip_l", "tokenizer_2": "clip_g"}}


def recipe(paths: list[Path], alpha) -> Recipe:
    step = {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": alpha}
    return Recipe.parse({"models": dict(zip("ab", map(str, paths), strict=True)), "steps": {"out": step}})


def timed(work: Callable[[int], object], runs: int) -> float:
    """Median seconds; the first run, which warms up, does not count."""
    taken = []
    for run in range(runs + 1):
        began = time.perf_counter()
        work(run)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def from_file(path: Path, config: Path, family: str) -> None:
    """Load a file as a pipeline, the way that reloads do it."""
    import diffusers
    import torch

    kind = diffusers.StableDiffusionXLPipeline if family == "sdxl" else diffusers.StableDiffusionPipeline
    options = {} if family == "sdxl" else dict.fromkeys(("safety_checker", "feature_extractor"))
    kind.from_single_file(str(path), config=str(config), local_files_only=True, torch_dtype=torch.float32, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="narrow models")
    parser.add_argument("--folder", type=Path, help="where to write the models; removed after")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--family", choices=TOKENIZERS, default="sd1")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        print("\n".join(table(Path(scratch), given.family, not given.quick, given.runs)))


def table(folder: Path, family: str, full_size: bool, runs: int) -> list[str]:
    """The measurements as Markdown."""
    models = [
        write_demo(folder / f"{n}.safetensors", family, seed=i, full_size=full_size) for i, n in enumerate("ab", 1)
    ]
    config = write_pipeline_config(folder / "config", family, widths="real" if full_size else "narrow")
    for name, encoder in TOKENIZERS[family].items():
        write_tokenizer(config / name, encoder)
    out = folder / "out.safetensors"

    def share(run: int) -> float:
        return 0.1 + 0.03 * run

    def plan(run: int) -> None:
        with planned(recipe(models, {"*": share(run)})):
            pass

    def write(run: int) -> None:
        merge(recipe(models, {"*": share(run)}), out, overwrite=True, fsync=False)

    generator = make_generator("diffusers", folder)
    began = time.perf_counter()
    generator.prepare(recipe(models, 0.05))
    rows = [("building the pipeline and filling it (once)", time.perf_counter() - began)]
    for what, weights in (
        ("hot swap, UNET and text encoders", lambda run: {"*": share(run)}),
        ("hot swap, whole UNET", lambda run: {"*": share(run), "BASE": 0.05}),
        ("hot swap, one block (OUT05)", lambda run: {"*": 0.05, "OUT05": share(run)}),
        ("hot swap, one block (IN01)", lambda run: {"*": 0.05, "IN01": share(run)}),
        ("hot swap, nothing changed", lambda run: {"*": 0.05}),
    ):
        generator.prepare(recipe(models, weights(0)))
        rows.append((what, timed(lambda run, weights=weights: generator.prepare(recipe(models, weights(run))), runs)))
    generator.close()
    rows.append(("planning alone (in each of these)", timed(plan, runs)))
    rows.append(("writing the file", timed(write, runs)))
    rows.append(("loading the file with diffusers", timed(lambda run: from_file(out, config, family), min(runs, 3))))
    size = "full size" if full_size else "narrow"
    head = f"{family}, {size}, fp16 files, {generator.device}, {os.cpu_count()} cores, {platform.system()}, median of {runs}"
    return [head, "", "| what | seconds |", "|---|---|", *(f"| {what} | {seconds:.3f} |" for what, seconds in rows)]


if __name__ == "__main__":
    main()
