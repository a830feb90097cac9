"""System calls that fail, at every one that a small command makes on its own files: no wrong exit 0, no lost old file, no hang, no
traceback, and nothing in the way of the next run.

A sample is tried; UNETSCOPE_FUZZ tries them all. Needs gcc and Linux; elsewhere skipped aloud.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from samples import others_long

HERE = Path(__file__).parent
SAMPLE = {"merge": 6, "resumed": 6, "convert": 4, "extract": 4, "tables": 4, "index": 3, "search": 3}


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    if sys.platform != "linux" or not shutil.which("gcc"):
        pytest.skip("fault injection needs Linux and gcc")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "shim.c", "-ldl"], check=True)
    return library


@pytest.mark.parametrize("case", others_long(SAMPLE, lambda case: case == "merge"))
def test_system_calls_that_fail(case, shim, tmp_path):
    if case == "search":
        pytest.importorskip("optuna")
    how_many = "all" if "UNETSCOPE_FUZZ" in os.environ else str(SAMPLE[case])
    environment = os.environ | {"LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, HERE / "runner.py", tmp_path, case, how_many], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    *wrong, counts = map(json.loads, done.stdout.splitlines())
    assert counts["calls"] > 5 and counts["tried"] >= 3
    assert wrong == []
    # The faults are felt: a run that ends well has borne a half or interrupted call, or lost a cache.
    assert case == "index" or counts["ends"].get("2", 0) > 0
