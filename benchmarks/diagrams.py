"""How long diagrams take and how large they are, next to torchview's own picture of the same network.

    python benchmarks/diagrams.py

Every row is a process of its own: imports count. torchview's pictures are `draw_graph(depth=3)` on the meta device, rendered
to SVG by the `dot` that Unetscope finds, with torchview's defaults and with nested clusters; a row that takes more than
TIMEOUT seconds is stopped. Prints a Markdown table.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

TIMEOUT = 120.0
RUNS = 3

OURS = "from unetscope.diagrams import draw; draw({family!r}, {level!r}).save({out!r})"
THEIRS = """
import torch
from diffusers import UNet2DConditionModel
from torchview import draw_graph
from unetscope.checkpoints.families.diffusers import unet_config
from unetscope.diagrams.architectures import input_shapes
from unetscope.diagrams.graphviz import run_dot

with torch.device("meta"):
    model = UNet2DConditionModel(**unet_config({family!r}))
given = {{k: torch.empty(s, device="meta") for k, s in input_shapes({family!r}).items()}}
inputs = dict(sample=given["latent"], timestep=torch.tensor(1, device="meta"), encoder_hidden_states=given["text"])
if "size" in given:
    inputs["added_cond_kwargs"] = dict(text_embeds=given["pooled text"], time_ids=given["size"])
with torch.no_grad():
    drawn = draw_graph(model, input_data=inputs, device="meta", depth=3, expand_nested={nested})
source = drawn.visual_graph.source
if {limits}:
    source = source.replace("{{", "{{ graph [nslimit=2 nslimit1=2];", 1)
open({out!r}, "w").write(run_dot(source, "svg"))
"""


def timed(code: str, out: Path, runs: int) -> str:
    """Median seconds and size of what a process writes, as two cells of the table."""
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        try:
            subprocess.run([sys.executable, "-c", code], check=True, timeout=TIMEOUT, capture_output=True)
        except subprocess.TimeoutExpired:
            return f"stopped after {TIMEOUT:.0f} | -"
        seconds.append(time.perf_counter() - start)
    return f"{sorted(seconds)[len(seconds) // 2]:.2f} | {out.stat().st_size / 1000:,.0f}"


def main() -> None:
    print("| picture | seconds | KB |\n|---|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "x.svg"
        for family in ("sd1", "sdxl"):
            for level in ("block", "module", "layer"):
                code = OURS.format(family=family, level=level, out=str(out))
                print(f"| Unetscope, {family}, {level} level | {timed(code, out, RUNS)} |", flush=True)
            for nested, limits, how in (
                ("False", "False", "defaults"),
                ("True", "False", "nested clusters"),
                ("True", "True", "nested clusters, nslimit=2"),
            ):
                code = THEIRS.format(family=family, nested=nested, limits=limits, out=str(out))
                print(f"| torchview, {family}, depth 3, {how} | {timed(code, out, 1)} |", flush=True)


if __name__ == "__main__":
    main()
