"""The commands of `unetscope`, gathered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from .. import __version__
from .arguments import ListCommand
from .exit_codes import Commands
from .lazy_commands import Maker, imported

_COMMANDS = {
    "inspect": imported("inspect", "inspecting.inspect"),
    "stats": imported("stats", "analysing.stats"),
    "diff": imported("diff", "analysing.diff"),
    "compare": imported("compare", "analysing.compare"),
    "trace": imported("trace", "tracing.trace", ListCommand),
    "predict": imported("predict", "tracing.predict"),
    "spectrum": imported("spectrum", "tracing.spectrum"),
    "index": imported("index", "indexing.index"),
    "lint": imported("lint", "linting.lint"),
    "convert": imported("convert", "converting.convert"),
    "import": imported("import", "importing.import_", ListCommand),
    "export": imported("export", "importing.export"),
    "methods": imported("methods", "listing.methods"),
    "presets": imported("presets", "listing.presets"),
    "diagram": imported("diagram", "drawing.diagram"),
    "layers": imported("layers", "drawing.layers"),
    "app": imported("app", "app.app"),
    "demo-checkpoint": imported("demo-checkpoint", "demo.demo_checkpoint"),
    "merge": imported("merge", "merging.app"),
    "lora": imported("lora", "lora.app"),
    "search": imported("search", "searching.app"),
}


class _Top(Commands):
    def makers(self) -> Mapping[str, Maker]:
        return _COMMANDS


app = typer.Typer(
    cls=_Top,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="See inside the checkpoints of diffusion models, compare them layer by layer, and merge them.",
)


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
