"""The benchmark of merges, on narrow files: it runs, checks what it measures, and writes its table where it belongs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

FOLDER = Path(__file__).parents[2] / "benchmarks"


def bench(*arguments: str) -> str:
    command = [sys.executable, str(FOLDER / "merge.py"), "--quick", *arguments]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def module(name: str):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found
    spec.loader.exec_module(found)
    return found


@pytest.mark.long
def test_a_quick_run_measures_checks_and_fills_the_page(tmp_path):
    page = tmp_path / "benchmarks.md"
    page.write_text("before\n<!-- merge: begin -->\nold\n<!-- merge: end -->\nafter\n")
    said = bench("--only", "block-weighted", "--programs", "floor,Unetscope,plain", "--docs", str(page))
    row = next(line for line in said.splitlines() if line.startswith("| SD1, block-weighted"))
    assert row.count(" s, ") == 3
    assert "Unetscope 0.5, plain" in said
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and row in text and "old" not in text


def test_a_program_that_fails_is_shown_as_such():
    measured = module("measured").measured
    assert measured([sys.executable, "-c", "raise SystemExit('no room')"], 60).failure == "failed: no room"
    assert measured([sys.executable, "-c", "import time; time.sleep(9)"], 0.3).failure == "stopped after 0 s"
    run = measured([sys.executable, "-c", "x = b'1' * 100_000_000"], 60)
    assert run.failure == "" and 100e6 < run.peak < 200e6


def test_a_wrong_weight_is_found_wherever_it_is(tmp_path):
    check = module("merge_check")
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(3_000_000).astype(np.float16) for _ in range(2))
    out = (0.25 * a.astype(np.float64) + 0.75 * b.astype(np.float64)).astype(np.float16)
    for name, values in (("a", a), ("b", b), ("out", out)):
        save_file({"w": values}, tmp_path / f"{name}.safetensors")
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    assert check.worst_error(tmp_path / "out.safetensors", paths, {"w": [0.25, 0.75]}, whole=True) <= 0.5
    out[2_999_999] += 1
    save_file({"w": out}, tmp_path / "out.safetensors")
    with pytest.raises(check.Wrong, match="steps of fp16"):
        check.worst_error(tmp_path / "out.safetensors", paths, {"w": [0.25, 0.75]}, whole=True)
    with pytest.raises(check.Wrong, match="missing"):
        check.worst_error(tmp_path / "out.safetensors", paths, {"v": [0.25, 0.75]}, whole=True)
