"""`unetscope demo-checkpoint`: files to try things out on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..checkpoints.text import file_size
from .arguments import FamilyArgument, Json, Overwrite, Threads, WrittenDType
from .screen import progress, say, show_json


def demo_checkpoint(
    family: Annotated[str, FamilyArgument],
    output: Annotated[Path, typer.Option("-o", "--output", help="The .safetensors file to write.")],
    seed: Annotated[int, typer.Option(help="Other seeds give other weights.")] = 0,
    finetune_of: Annotated[
        Path | None, typer.Option(help="Perturb this checkpoint, some blocks more than others.")
    ] = None,
    theme: Annotated[int, typer.Option(help="Fine-tunes of one theme share their low-rank part.")] = 0,
    full_size: Annotated[
        bool, typer.Option("--full-size", help="True shapes (GBs) instead of narrow channels.")
    ] = False,
    dtype: Annotated[WrittenDType, typer.Option(help="Dtype of the weights.")] = "fp16",
    prediction: Annotated[Literal["epsilon", "v", "edm"] | None, typer.Option(help="Mark how it predicts.")] = None,
    in_channels: Annotated[
        int | None, typer.Option(help="Input channels: 9 inpainting, 8 instruct-pix2pix, 5 depth; else the base's 4.")
    ] = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write a checkpoint of random weights with the complete real key set: narrow and a few MB, or full size."""
    from ..checkpoints.demo import write_demo

    with progress("writing") as moved:
        path = write_demo(
            output,
            family,
            seed=seed,
            finetune_of=finetune_of,
            theme=theme,
            full_size=full_size,
            dtype=dtype,
            in_channels=in_channels,
            prediction=prediction,
            overwrite=overwrite,
            threads=threads,
            progress=moved,
        )
    if json:
        show_json({"output": str(path), "bytes": path.stat().st_size})
    else:
        say(f"wrote {path} ({file_size(path.stat().st_size)})")
