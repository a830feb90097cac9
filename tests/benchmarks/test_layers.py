"""What stands between a command and the kernel."""

from __future__ import annotations

import runpy
from pathlib import Path

LAYERS = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "layers.py"))


def test_a_merge_enters_the_kernel_by_way_of_its_run_its_executor_and_the_pass(make_checkpoint, tmp_path):
    (a, _), (b, _) = make_checkpoint("a", seed=1), make_checkpoint("b", seed=2)
    found = LAYERS["entered_by"](["merge", "weighted-sum", str(a), str(b), "-o", str(tmp_path / "out.safetensors")])
    assert (tmp_path / "out.safetensors").exists()
    between = [name for name in found if not name.startswith(("cli/", LAYERS["KERNELS"]))]
    assert between == ["merge/run.py", "merge/executor.py", "checkpoints/stream.py"]
    assert found[-1].startswith(LAYERS["KERNELS"])
    assert "merge/run.py" in LAYERS["report"](found)
