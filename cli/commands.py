"""The commands of `unetscope`, gathered."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import __version__
from . import (
    analysing,
    converting,
    drawing,
    importing,
    indexing,
    linting,
    listing,
    looking,
    lora,
    making,
    merging,
    searching,
    tracing,
)
from . import app as dashboard
from .endings import Commands

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="See inside Stable Diffusion checkpoints, compare them layer by layer, and merge them.",
)
app.command("inspect")(looking.inspect)
app.command("stats")(analysing.stats)
app.command("diff")(analysing.diff)
app.command("compare")(analysing.compare)
tracing.register(app)
app.command("index")(indexing.index)
app.command("lint")(linting.lint)
app.command("convert")(converting.convert)
importing.register(app)
app.command("methods")(listing.methods)
app.command("presets")(listing.presets)
app.command("diagram")(drawing.diagram)
app.command("layers")(drawing.layers)
app.command("app")(dashboard.app)
app.command("demo-checkpoint")(making.demo_checkpoint)
app.add_typer(merging.app, name="merge")
app.add_typer(lora.app, name="lora")
app.add_typer(searching.app, name="search")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"unetscope {__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
