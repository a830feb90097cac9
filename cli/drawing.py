"""`unetscope diagram` and `unetscope layers`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..checkpoints.text import file_size
from .arguments import Methods, Overwrite
from .screen import say, show_table, warn

if TYPE_CHECKING:
    from ..checkpoints import Family
    from ..diagrams import TreeNode
    from ..merge import Recipe

# Names of recipes, ours and sd-mecha's.
_RECIPES = (".yaml", ".yml", ".mecha")
_SUBJECT = typer.Argument(help="sd1, sd2, sdxl, sdxl_refiner..., a checkpoint, or a recipe.", show_default=False)
_OUTPUT = typer.Option("-o", "--output", help="The file to write: .svg, .png, .pdf or .dot.")
_VALUES = typer.Option(
    help="Numbers to colour by: CSV (name,value) or JSON {name: value}; names are labels, modules or keys."
)
_BADGES = typer.Option(help="Block weights to show as bars: a vector, preset, @file or lines, as in merges.")


def diagram(
    subject: Annotated[str, _SUBJECT],
    output: Annotated[Path, _OUTPUT],
    level: Annotated[Literal["block", "module", "layer"], typer.Option(help="How much detail.")] = "block",
    block: Annotated[str | None, typer.Option(help="One label at layer level (IN05), or CLIP_L, VAE...")] = None,
    values: Annotated[Path | None, _VALUES] = None,
    column: Annotated[
        str | None, typer.Option(help="The column of the values file; else its first with numbers.")
    ] = None,
    weights: Annotated[str | None, _BADGES] = None,
    title: Annotated[str | None, typer.Option(help="Replaces the title.")] = None,
    units: Annotated[str, typer.Option(help="What the values are, for the legend.")] = "",
    scale: Annotated[Literal["log", "linear"], typer.Option(help="Of the colours.")] = "log",
    theme: Annotated[Literal["auto", "light", "dark"], typer.Option(help="`auto` follows the reader's mode.")] = "auto",
    convention: Annotated[str, typer.Option(help="Whose weight vector the MBW numbers count.")] = "supermerger",
    methods: Methods = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw a UNET with its block labels, or the tree of a merge recipe."""
    from ..checkpoints.files.targets import check_target
    from ..diagrams import draw, read_values

    check_target(output, overwrite=overwrite)
    if Path(subject).suffix.lower() in _RECIPES:
        drawing = _recipe_drawing(Path(subject), title, theme)
    else:
        drawing = draw(
            _opened(subject),
            level,
            block=block,
            values=read_values(values, column) if values else None,
            badges=_badges(subject, weights, convention) if weights else None,
            title=title,
            units=units,
            scale=scale,
            theme=theme,
            convention=convention,
        )
    if drawing.unused:
        warn(f"values that belong to nothing in this diagram: {', '.join(drawing.unused[:8])}")
    drawing.save(output)
    say(f"wrote {output} ({file_size(output.stat().st_size)})")


def layers(
    subject: Annotated[str, typer.Argument(help="sd1, sd2, sdxl, sdxl_refiner, or a checkpoint.", show_default=False)],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A .json or .csv file; else a table.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """List every parameter tensor: key, module, label, lbw, kind, shape, params."""
    from ..checkpoints.files.targets import check_target
    from ..diagrams import layers as listed
    from ..diagrams import save_layers

    rows = listed(_opened(subject))
    if output is None:
        columns = ["key", "label", "kind", "shape", "params"]
        cells = [[r["key"], r["label"], r["kind"], "x".join(map(str, r["shape"])), f"{r['params']:,}"] for r in rows]
        show_table("", columns, cells)
        return
    check_target(output, overwrite=overwrite)
    save_layers(rows, output)
    say(f"wrote {output} ({len(rows):,} tensors)")


def _opened(subject: str):
    """An architecture's name as it is, anything else as a checkpoint."""
    from ..checkpoints import open_checkpoint
    from ..checkpoints.errors import UnetscopeError
    from ..diagrams.architectures import drawn_families, family_named

    if subject in drawn_families():
        return subject
    path = Path(subject)
    if not path.suffix and path.name == subject and not os.path.lexists(path):
        try:
            return family_named(subject)
        except UnetscopeError as error:
            raise UnetscopeError(f"{subject}: no such file, and {error}") from None
    return open_checkpoint(path, to_look=True)


def _badges(subject: str, weights: str, convention: str) -> dict[str, float]:
    from ..merge.block_weights import BlockWeights, parse_weights

    opened = _opened(subject)
    family = opened if isinstance(opened, str) else opened.family
    return BlockWeights.parse(parse_weights(weights), convention).resolve(family).by_label()


def _recipe_drawing(path: Path, title: str | None, theme: str):
    from ..diagrams import draw_tree
    from ..merge import Recipe

    if path.suffix.lower() == ".mecha":
        from ..merge.exchange import import_recipe

        imported = import_recipe(path)
        recipe = imported.recipe.relative_to(path.parent)
        family = family_of(recipe, imported.family)
    else:
        recipe = Recipe.load(path)
        family = family_of(recipe)
    root = recipe_tree(recipe, family)
    return draw_tree(
        root, title or recipe.title or path.stem, f"the {family.core_title}'s parameters, {family.title}", theme
    )


def family_of(recipe: Recipe, said: Family | None = None) -> Family:
    """The architecture that a recipe is for: its first model's if that can be read, else the one that its file names, else one
    that its weights fit."""
    from ..checkpoints import UnetscopeError, open_checkpoint
    from ..merge.compile import fitting_families

    try:
        found = open_checkpoint(recipe.models[recipe.models_of(recipe.result)[0]], to_look=True).told_family
    except UnetscopeError:
        found = None
    if found or said:
        return found or said
    return fitting_families(recipe)[0]


def recipe_tree(recipe: Recipe, family: str | Family) -> TreeNode:
    """A recipe as the plain tree that `diagrams.draw_tree` draws; a step that is used again is not unfolded again."""
    from ..diagrams import TreeNode
    from ..merge.compile import leaf_shares

    shares = leaf_shares(recipe, family)
    unfolded: set[str] = set()

    def node(name: str, role: str) -> TreeNode:
        if name in recipe.models or name in recipe.loras:
            path = recipe.models[name] if name in recipe.models else recipe.loras[name].path
            detail = name if name in recipe.models else f"{name}, LoRA"
            return TreeNode(
                path.replace("\\", "/").rpartition("/")[2], detail=detail, share=shares.get(name), role=role
            )
        step = recipe.steps[name]
        if name in unfolded:
            return TreeNode(name, detail="as above", role=role)
        unfolded.add(name)
        models = step.kind.models(len(step.inputs)) if step.kind.variadic else 0
        weights = step.given.get("weights")
        each = [_short(w) for w in weights] if isinstance(weights, list) else [""] * models
        roles = [*step.kind.inputs, *each]
        detail = ", ".join(f"{k} {_short(v)}" for k, v in step.given.items() if k != "weights")
        children = tuple(node(source, r) for source, r in zip(step.inputs, roles, strict=True))
        label = step.method if name == recipe.result else f"{name}: {step.method}"
        return TreeNode(label, detail=detail, role=role, children=children)

    return node(recipe.result, "")


def _short(value: Any) -> str:
    """Block weights in a few words."""
    if isinstance(value, float | int | str):
        return f"{value:g}" if isinstance(value, float | int) else value
    if isinstance(value, list):
        return f"{len(value)} block weights"
    return ", ".join(f"{k} {_short(v)}" for k, v in value.items())
