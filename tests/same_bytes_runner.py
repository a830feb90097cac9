"""Runs command lines of the `unetscope` that is on the path, one after the other in one process: the child of `same_bytes.py`.

    python -P tests/same_bytes_runner.py TASKS.json RESULTS.jsonl

A task is `{"name": ..., "folder": ..., "commands": [[word, ...], ...]}`; a line of the results is
`{"name": ..., "codes": [...], "seconds": ...}`. What a command prints goes into the task's folder: `stdout.txt` when the task
asks for it (`"printed": true`), else the `.log` next to the folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
from pathlib import Path

# What is compared need not outlast a power cut.
os.fsync = lambda descriptor: None


def run(words: list[str], out: Path, log: Path) -> int | str:
    """The exit code of a command line; `traceback` when it ends with one."""
    from unetscope.cli import main

    with (
        out.open("a", encoding="utf-8") as stdout,
        log.open("a", encoding="utf-8") as stderr,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            main(words)
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except Exception:
            traceback.print_exc()
            return "traceback"
    return 0


def main(tasks: Path, results: Path) -> None:
    """Run the tasks; a line is written as soon as one is through, so that a crash takes only its own."""
    with results.open("w", encoding="utf-8") as lines:
        for task in json.loads(tasks.read_text(encoding="utf-8")):
            folder = Path(task["folder"])
            folder.mkdir(parents=True, exist_ok=True)
            log = folder.with_name(folder.name + ".log")
            out = folder / "stdout.txt" if task["printed"] else log
            begin = time.perf_counter()
            codes = [run(words, out, log) for words in task["commands"]]
            done = {"name": task["name"], "codes": codes, "seconds": time.perf_counter() - begin}
            print(json.dumps(done), file=lines, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
