"""`unetscope import` and `unetscope export`: recipes of other tools."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..checkpoints.text import counted
from .arguments import FamilyOption, Json, Methods, Overwrite
from .screen import note, say, show_json, show_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..merge import Recipe
    from ..merge.exchange import Imported

_FILE = Annotated[
    Path,
    typer.Argument(
        help="A merged checkpoint, ComfyUI's nodes, a .mecha file, AutoMBW's recipe or log, supermerger's weights, mergekit's "
        "YAML.",
        show_default=False,
    ),
]
_TARGET = Annotated[Path | None, typer.Option("-o", "--output", help="The recipe to write; else it is printed.")]
_MODELS = Annotated[
    list[str] | None, typer.Option("--models", help="Folders in which models are found by hash or name.")
]
_INPUTS = Annotated[
    list[str] | None, typer.Option("--inputs", help="The models, in order, where the file does not name them.")
]
_MODE = Annotated[str, typer.Option(help="supermerger's mode, for weights that come without one.")]
_OLD = Annotated[
    bool, typer.Option("--old-automb", help="Weights of the old AutoMBW, which exchanged OUT and TIME_EMBED.")
]
_PARTIAL = Annotated[
    bool, typer.Option("--partial", help="Write what is possible; what is not is named in the recipe.")
]
_FAMILY = Annotated[str | None, FamilyOption]


def import_(
    file: _FILE,
    output: _TARGET = None,
    models: _MODELS = None,
    inputs: _INPUTS = None,
    mode: _MODE = "",
    old_automb: _OLD = False,
    partial: _PARTIAL = False,
    family: _FAMILY = None,
    methods: Methods = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Read the recipe of another tool: unetscope import merged.safetensors -o recipe.yaml."""
    from ..merge.exchange import Request, import_recipe

    request = Request(
        partial=partial,
        inputs=tuple(inputs or ()),
        mode=mode,
        old_automb=old_automb,
        family=family,
        find=_finder(models or []),
    )
    imported = import_recipe(file, request)
    if output is not None:
        text = imported.to_yaml(_seen_from(imported, output.parent))
        _write(output, text, [file, *map(Path, imported.recipe.files())], overwrite)
    if json:
        show_json(imported.to_plain())
    elif output is None:
        say(imported.to_yaml().rstrip("\n"))
    else:
        _show(imported, output)


def export(
    recipe: Annotated[Path, typer.Argument(help="A recipe, YAML.", show_default=False)],
    to: Annotated[Literal["mecha"], typer.Option("--to", help="mecha: a recipe of sd-mecha.")] = "mecha",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file to write; else it is printed.")
    ] = None,
    family: _FAMILY = None,
    methods: Methods = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a recipe for another tool: unetscope export recipe.yaml --to mecha -o recipe.mecha."""
    from ..merge import Recipe
    from ..merge.exchange import to_mecha

    read = Recipe.load(recipe)
    # sd-mecha takes relative paths from folders that it is told, so they stand as they are written.
    text = to_mecha(Recipe.as_written(recipe), family or _family_of(read))
    if output is None:
        say(text)
        return
    # sd-mecha takes an empty line, and so a line break at the end, for a command.
    _write(output, text, [recipe, *map(Path, read.files())], overwrite)
    nodes = [line for line in text.splitlines()[1:] if not line.startswith("#")]
    say(f"wrote {output}: {counted(len(nodes), 'node')}")


def _finder(folders: list[str]) -> Callable[[str], Path | None]:
    """What finds a file by a recorded hash or name in these folders."""
    if not folders:
        return lambda said: None
    from ..library.hash_index import HashIndex

    index = HashIndex.load(folders)
    return index.find


def _family_of(recipe: Recipe):
    """The architecture of the first model, where its file is there to tell."""
    from ..checkpoints import open_checkpoint
    from ..checkpoints.errors import UnetscopeError

    path = recipe.models[recipe.models_of(recipe.result)[0]]
    try:
        with open_checkpoint(Path(path), to_look=True) as checkpoint:
            return checkpoint.told_family
    except (UnetscopeError, OSError, ValueError):
        return None  # a recipe may be exported where its models are not; what needs the architecture says so


def _seen_from(imported: Imported, folder: Path) -> Recipe:
    """The recipe with paths of files that are there counting from the folder it is written to; the others as recorded."""

    def moved(path: str) -> str:
        try:
            return Path(os.path.relpath(path, folder)).as_posix() if Path(path).exists() else path
        except (OSError, ValueError):  # another drive, or no path at all
            return path

    recipe = imported.recipe
    models = {name: path if name in imported.missing else moved(path) for name, path in recipe.models.items()}
    loras = {
        name: lora if name in imported.missing else lora.model_copy(update={"path": moved(lora.path)})
        for name, lora in recipe.loras.items()
    }
    components = {k: _with_slash(moved(v)) if recipe.is_file(v) else v for k, v in recipe.components.items()}
    methods = [source.model_copy(update={"path": moved(source.path)}) for source in recipe.methods]
    return recipe.model_copy(update={"models": models, "loras": loras, "components": components, "methods": methods})


def _with_slash(path: str) -> str:
    return path if "/" in path else f"./{path}"


def _write(output: Path, text: str, inputs: list[Path], overwrite: bool) -> None:
    from ..checkpoints.files.output import write_output
    from ..checkpoints.files.targets import check_target, refuse_inputs

    refuse_inputs(output, inputs)
    check_target(output, overwrite=overwrite)
    write_output(output, text)


def _show(imported: Imported, output: Path) -> None:
    recipe = imported.recipe
    if imported.shares:
        rows = [
            [
                name,
                "not linear" if share is None else f"{share:.4g}",
                "" if name not in imported.missing else "not found",
            ]
            for name, share in imported.shares.items()
        ]
        show_table("Shares", ["model", "share of the blocks", ""], rows)
    for notice in imported.notes:
        note(str(notice))
    if imported.missing:
        note(f"{len(imported.missing)} models were not found: put their paths into {output}, or give --models FOLDER")
    say(f"wrote {output}: {counted(len(recipe.models), 'model')}, {counted(len(recipe.steps), 'step')}")
