"""`unetscope lora ...`: bake LoRAs into a checkpoint, merge, extract, resize and rename them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..checkpoints.text import counted, file_size, some
from .arguments import Json, Overwrite
from .merging import Options, Output, _with_common, carry_out
from .screen import progress, say, show_json, show_table, warn

if TYPE_CHECKING:
    from ..merge.lora import LoraReport, LoraUse

app = typer.Typer(no_args_is_help=True, help="Bake LoRAs into checkpoints, extract, merge, resize and rename them.")

LoraDType = Literal["fp16", "bf16", "fp32"]
Style = Literal["kohya", "single-file", "diffusers", "peft"]
_File = Annotated[Path, typer.Argument(help="A LoRA, .safetensors or .pt.", show_default=False)]
_Rank = Annotated[int | None, typer.Option(help="The largest rank of a layer.")]
_Energy = Annotated[float | None, typer.Option(help="Keep this share of the square of each layer's change: 0.95.")]
_Threads = Annotated[int, typer.Option(help="Layers at a time; numpy uses all cores for one by itself.")]
_DType = Annotated[LoraDType, typer.Option(help="Dtype of the written factors.")]
_Style = Annotated[Style | None, typer.Option(help="Whose names the file uses.", show_default="the input's")]
_Lbw = Annotated[
    list[str] | None,
    typer.Option(
        "--lbw",
        help="LoRA block weights: a preset (INS), 17, 12, 26 or 20 numbers, lines 'OUT*: 0.5' or 'IN05-OUT05:attn:0'. One for all "
        "LoRAs, or one for each; 1 for none.",
    ),
]
_Missing = Annotated[
    Literal["0", "1"], typer.Option("--lbw-missing", help="Weight of blocks that a vector leaves out; kohya reads 1.")
]
_Adapter = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter", metavar="NAME", help="Which adapter of a file of several. One for all LoRAs, or one for each."
    ),
]
_OneAdapter = Annotated[
    str | None, typer.Option("--adapter", metavar="NAME", help="Which adapter of a file that holds several.")
]
_Base = Annotated[Path | None, typer.Option(help="The checkpoint that they are for: (IA)^3 and DoRA need it.")]


def _uses(files: list[str], lbw: list[str] | None, missing: str, adapter: list[str] | None) -> list[LoraUse]:
    """LoRAs as typed, `FILE[:UNET[:TEXT]]`, with their block weights."""
    from ..merge.lora import LoraUse

    blocks = _for_each(files, "--lbw", lbw, " (1 for none)")
    adapters = _for_each(files, "--adapter", adapter, " ('' for none)")
    given = zip(files, blocks, adapters, strict=True)
    return [LoraUse.parse(file, weights, int(missing), name or None) for file, weights, name in given]


def _for_each(files: list[str], option: str, given: list[str] | None, none: str) -> list[str | None]:
    """What an option says of each LoRA."""
    from ..checkpoints.errors import RecipeError

    if len(given or ()) not in (0, 1, len(files)):
        raise RecipeError(
            f"{option} is given {len(given)} times for {len(files)} LoRAs; give it once, or once for each{none}"
        )
    return list(given) if given and len(given) == len(files) else [given[0] if given else None] * len(files)


def _bake(
    base: Path,
    output: Path,
    lora: list[str],
    lbw: list[str] | None,
    lbw_missing: str,
    adapter: list[str] | None,
    options: Options,
) -> None:
    """Write a checkpoint with LoRAs baked in: base + strength x change of each, streamed like any merge."""
    from ..merge.lora import bake_recipe

    carry_out(bake_recipe(base, _uses(lora, lbw, lbw_missing, adapter)), output, options)


_BASE = Annotated[Path, typer.Argument(help="The checkpoint.", show_default=False)]
_LORA = Annotated[
    list[str],
    typer.Option(
        "--lora", metavar="FILE[:UNET[:TEXT]]", help="A LoRA and its strength in the UNET and the text encoders."
    ),
]
_OWN = [
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    for name, annotation, default in (
        ("base", _BASE, inspect.Parameter.empty),
        ("output", Output, inspect.Parameter.empty),
        ("lora", _LORA, inspect.Parameter.empty),
        ("lbw", _Lbw, None),
        ("lbw_missing", _Missing, "0"),
        ("adapter", _Adapter, None),
    )
]
app.command("bake")(_with_common(_bake, _OWN))


@app.command("merge")
def merge(
    loras: Annotated[
        list[str],
        typer.Argument(metavar="FILE[:UNET[:TEXT]]...", help="LoRAs and their strengths.", show_default=False),
    ],
    output: Output,
    rank: _Rank = None,
    energy: _Energy = None,
    lbw: _Lbw = None,
    lbw_missing: _Missing = "0",
    adapter: _Adapter = None,
    base: _Base = None,
    dtype: _DType = "fp16",
    style: _Style = None,
    threads: _Threads = 1,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write the sum of LoRAs as one LoRA: exactly, ranks adding up, or resized."""
    from ..merge.lora import merge_loras

    with progress("merging") as moved:
        report = merge_loras(
            _uses(loras, lbw, lbw_missing, adapter),
            output,
            rank=rank,
            energy=energy,
            base=base,
            dtype=dtype,
            style=style,
            overwrite=overwrite,
            threads=threads,
            progress=moved,
        )
    _show(report, json)


@app.command("extract")
def extract(
    tuned: Annotated[Path, typer.Argument(help="The tuned checkpoint.", show_default=False)],
    base: Annotated[Path, typer.Argument(help="What it was tuned from.", show_default=False)],
    output: Output,
    rank: Annotated[
        int | None, typer.Option(help="Rank of every layer, at most.", show_default="32 without --energy")
    ] = None,
    energy: _Energy = None,
    ranks: Annotated[str | None, typer.Option(help="Ranks by block: 'IN*: 16; OUT*: 64'; 0 leaves layers out.")] = None,
    conv: Annotated[
        bool, typer.Option("--conv/--no-conv", help="Convolutions and embeddings of the UNET too.")
    ] = False,
    conv_rank: Annotated[int | None, typer.Option(help="Rank of convolutions larger than 1x1.")] = None,
    text_encoders: Annotated[bool, typer.Option("--text-encoders/--no-text-encoders")] = True,
    dtype: _DType = "fp16",
    style: Annotated[
        Style | None, typer.Option(help="Whose names the file uses.", show_default="kohya; single-file for SDXL")
    ] = None,
    threads: _Threads = 1,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write the difference of two checkpoints as a LoRA, by the SVD of each layer, and say how near it comes."""
    from ..merge.lora import extract_lora
    from ..merge.weights_text import parse_weights

    with progress("extracting") as moved:
        report = extract_lora(
            tuned,
            base,
            output,
            rank=rank,
            energy=energy,
            ranks=None if ranks is None else parse_weights(ranks),
            conv=conv,
            conv_rank=conv_rank,
            text_encoders=text_encoders,
            dtype=dtype,
            style=style,
            overwrite=overwrite,
            threads=threads,
            progress=moved,
        )
    _show(report, json)


@app.command("resize")
def resize(
    source: _File,
    output: Output,
    rank: _Rank = None,
    energy: _Energy = None,
    adapter: _OneAdapter = None,
    base: _Base = None,
    dtype: _DType = "fp16",
    style: _Style = None,
    threads: _Threads = 1,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write a LoRA at a smaller rank, and say by block what that costs."""
    from ..merge.lora import resize_lora

    with progress("resizing") as moved:
        report = resize_lora(
            source,
            output,
            rank=rank,
            energy=energy,
            adapter=adapter,
            base=base,
            dtype=dtype,
            style=style,
            overwrite=overwrite,
            threads=threads,
            progress=moved,
        )
    _show(report, json)


@app.command("convert")
def convert(
    source: _File,
    output: Output,
    to: Annotated[Style, typer.Option(help="Whose names the file uses.", show_default=False)],
    adapter: _OneAdapter = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write a LoRA under the names of another trainer or program; values stay as they are."""
    from ..merge.lora import convert_lora

    _show(convert_lora(source, output, to=to, adapter=adapter, overwrite=overwrite), json)


def _show(report: LoraReport, json: bool) -> None:
    if json:
        show_json(report.to_plain())
        return
    if report.labels:
        rows = [
            [x.label, x.modules, _range(x.ranks), f"{x.norm:.4g}", f"{x.error:.3%}", f"{x.energy:.3%}"]
            for x in report.labels
        ]
        show_table(
            "Error of what was written, against the whole change",
            ["label", "layers", "rank", "norm of change", "error", "energy kept"],
            rows,
        )
    for reason, keys in report.left_out.items():
        say(f"left out, {reason}: {len(keys):,} ({some(keys)})")
    for notice in report.notes:
        warn(str(notice))
    total = f", error {report.error:.3%}, energy kept {report.energy:.3%}" if report.labels else ""
    say(
        f"wrote {report.output} ({file_size(report.size)}): {counted(report.modules, 'layer')}, rank {_range(report.ranks)}, "
        f"{report.style} names{total}, {report.seconds:.1f} s"
    )


def _range(ranks: tuple[int, int]) -> str:
    low, high = ranks
    return str(low) if low == high else f"{low}-{high}"
