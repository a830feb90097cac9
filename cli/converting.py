"""`unetscope convert`: formats, dtypes, pruning, repairs, without a merge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..checkpoints.text import counted, file_size, some
from .arguments import Json, Overwrite, Threads, WrittenDType
from .screen import progress, say, show_json

_DTYPE = Annotated[
    WrittenDType | None,
    typer.Option(help="Dtype of the weights.", show_default="each tensor's own"),
]


def convert(
    source: Annotated[
        Path, typer.Argument(help="A .safetensors file, a .ckpt or a diffusers folder.", show_default=False)
    ],
    target: Annotated[Path, typer.Argument(help="The file or folder to write.", show_default=False)],
    dtype: _DTYPE = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Leave out the EMA copy, what training left, second copies.")
    ] = False,
    drop: Annotated[
        list[str] | None, typer.Option("--drop", help="Leave out tensors by name, its beginning, or a glob.")
    ] = None,
    fix_position_ids: Annotated[
        bool, typer.Option("--fix-position-ids", help="Write them as the integers 0..76.")
    ] = False,
    to: Annotated[Literal["single-file", "diffusers"], typer.Option(help="The layout to write.")] = "single-file",
    donor: Annotated[
        Path | None, typer.Option(help="Fill what the source's layout lacks from this checkpoint.")
    ] = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write a checkpoint in another format, dtype or layout, pruned or repaired."""
    from ..merge.convert import convert as converted

    with progress("converting") as moved:
        report = converted(
            source,
            target,
            dtype=dtype,
            prune=prune,
            drop=drop or (),
            fix_position_ids=fix_position_ids,
            to=to,
            donor=donor,
            overwrite=overwrite,
            threads=threads,
            progress=moved,
        )
    if json:
        show_json(report.to_plain())
        return
    kinds = ", ".join(f"{count:,} {change}" for change, count in report.dtypes.items())
    say(f"{report.architecture}: {counted(report.tensors, 'tensor')} ({kinds})")
    for reason, keys in report.dropped.items():
        say(f"left out, {reason}: {len(keys):,} ({some(keys)})")
    if report.filled:
        say(f"from the donor: {len(report.filled):,} tensors")
    for note in report.notes:
        say(f"! {note}")
    say(f"wrote {report.target} ({file_size(report.size)}) in {report.seconds:.1f} s")
