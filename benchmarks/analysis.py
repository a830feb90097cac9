"""What `diff`, `stats` and `compare` cost, next to reading the files and next to a plain script that loads both models.

    python benchmarks/analysis.py --family sd1 --folder /tmp/bench            # 2.1 GB a file
    python benchmarks/analysis.py --family sdxl --folder /tmp/bench --keep    # 6.9 GB a file

Every measurement is a process of its own (start and imports included); candidates take turns, and the median counts.
Files are random weights in the true layout, read from the page cache when they fit into memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

READ = """
import os, sys, threading
from concurrent.futures import ThreadPoolExecutor
def read(path, start, stop):
    buffer = bytearray(1 << 20)
    with open(path, "rb", buffering=0) as file:
        while start < stop:
            n = os.preadv(file.fileno(), [memoryview(buffer)[: min(1 << 20, stop - start)]], start)
            start += n
with ThreadPoolExecutor(2) as pool:
    for path in sys.argv[1:]:
        half = os.path.getsize(path) // 2
        jobs = [pool.submit(read, path, 0, half), pool.submit(read, path, half, os.path.getsize(path))]
        [job.result() for job in jobs]
"""
# What people write by hand: both models in memory, one tensor at a time in fp32, a few metrics.
PLAIN = """
import sys
import torch
from safetensors.torch import load_file
a, b = (load_file(path) for path in sys.argv[1:3])
for key, x in a.items():
    if key not in b or not x.is_floating_point():
        continue
    x, y = x.float().flatten(), b[key].float().flatten()
    d = y - x
    out = (d.norm() / x.norm(), torch.nn.functional.cosine_similarity(x, y, dim=0), d.abs().mean(), d.abs().max())
    out += ((d != 0).float().mean(), (x * y < 0).float().mean())
"""
DIFF = """
import sys
from unetscope.checkpoints import open_checkpoint
from unetscope.analysis import diff
diff(*map(open_checkpoint, sys.argv[1:]), threads=2).table("label")
"""
STATS = """
import sys
from unetscope.checkpoints import open_checkpoint
from unetscope.analysis import examine, measure
checkpoint = open_checkpoint(sys.argv[1])
measured = measure(checkpoint, threads=2)
measured.table("label"), examine(checkpoint, measured)
"""
COMPARE = """
import sys
from unetscope.checkpoints import open_checkpoint
from unetscope.analysis import compare
compare(list(map(open_checkpoint, sys.argv[1:])), threads=2).pairs("label")
"""


def run(code: str, paths: list[Path]) -> tuple[float, float, float]:
    """Seconds, seconds of processor time and peak memory in MB of one process."""
    outer = (
        "import json, resource, subprocess, sys, time\n"
        "began = time.perf_counter()\n"
        "subprocess.run([sys.executable, '-c', *sys.argv[1:]], check=True)\n"
        "seconds, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps([seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))"
    )
    command = [sys.executable, "-c", outer, code, *map(str, paths)]
    return tuple(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def files(folder: Path, family: str, count: int) -> list[Path]:
    from unetscope.checkpoints.demo import write_demo

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"bench-{family}-{i}.safetensors" for i in range(count)]
    for i, path in enumerate(paths):
        if not path.exists():
            print(f"writing {path.name}", flush=True)
            write_demo(path, family, seed=i, finetune_of=paths[0] if i else None, full_size=not i)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="sd1", choices=["sd1", "sd2", "sdxl"])
    parser.add_argument("--folder", type=Path, default=Path("bench"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--many", type=int, default=2, help="also compare this many files with each other")
    parser.add_argument("--without-plain", action="store_true", help="leave out the script that loads both models")
    parser.add_argument("--keep", action="store_true", help="keep the files")
    arguments = parser.parse_args()
    paths = files(arguments.folder, arguments.family, max(2, arguments.many))
    candidates = {
        "read both files": (READ, paths[:2]),
        "diff": (DIFF, paths[:2]),
        "diff with a base": (DIFF, [paths[0], paths[1], paths[min(2, len(paths) - 1)]]),
        "compare 2": (COMPARE, paths[:2]),
        "stats (one file)": (STATS, paths[:1]),
    }
    if arguments.many > 2:
        candidates[f"compare {arguments.many}"] = (COMPARE, paths)
    if not arguments.without_plain:
        candidates["load both, torch loop"] = (PLAIN, paths[:2])
    run(READ, paths)
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in candidates}
    for _ in range(arguments.runs):
        for name, (code, inputs) in candidates.items():
            results[name].append(run(code, inputs))
    medians = {name: [statistics.median(c) for c in zip(*runs, strict=True)] for name, runs in results.items()}
    floor = medians["read both files"]
    print(f"\n{arguments.family}, {os.path.getsize(paths[0]) / 1e9:.2f} GB a file, median of {arguments.runs}\n")
    print("| job | seconds | of reading both | processor seconds | of reading both | peak memory |")
    print("|---|---|---|---|---|---|")
    for name, (seconds, cpu, memory) in medians.items():
        times, work = f"{seconds / floor[0]:.1f} x", f"{cpu / floor[1]:.1f} x"
        print(f"| {name} | {seconds:.2f} | {times} | {cpu:.2f} | {work} | {memory:.0f} MB |")
    if not arguments.keep:
        for path in paths:
            path.unlink()


if __name__ == "__main__":
    main()
