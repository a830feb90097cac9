"""The short forms of merges: arguments and options of a method, read off the registry, and the recipe that they stand for."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..checkpoints.text import free_name, readable
from .arguments import expand

if TYPE_CHECKING:
    from ..merge import Recipe
    from ..merge.methods import Method, MethodParameter

_BLOCKS_HELP = (
    "Alpha block by block: a vector (0,0.1,...), a preset (GRAD_V), @file, or lines ('IN04-IN08: 0.7; OUT*: 0.3'). "
    "What it leaves open has --alpha: a preset's text encoders, labels that no line names."
)


_OWN_STEP = re.compile(r"^(command line: )?(steps\.merge\d*: )?")


def option(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    """A parameter of a command."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def inputs(method: Method) -> list[inspect.Parameter]:
    """The arguments of a method's command: its inputs."""
    found = []
    for name in method.inputs:
        about = f"A LoRA, or another file of a {name}." if name in method.deltas else f"Model {name}."
        argument = typer.Argument(metavar=name.upper(), help=about, show_default=False)
        found.append(option(name, Annotated[Path, argument]))
    if method.variadic:
        about = (
            "Checkpoints, LoRAs, patterns, or @list.txt."
            if method.on_deltas
            else "Checkpoints, patterns, or @list.txt."
        )
        argument = typer.Argument(metavar="MODELS...", help=about, show_default=False)
        found.append(option("models", Annotated[list[str], argument]))
    return found


def parameters(method: Method) -> list[inspect.Parameter]:
    """The options of a method's command: its parameters, and --blocks."""
    found = [_parameter(p) for p in method.parameters.values()]
    if "alpha" in method.parameters:
        found.append(option("blocks", Annotated[str | None, typer.Option(help=_BLOCKS_HELP)], None))
    return found


def _parameter(p: MethodParameter) -> inspect.Parameter:
    given = inspect.Parameter.empty if p.default is None else p.default
    if p.kind == "switch":
        flag = p.name.replace("_", "-")
        return option(p.name, Annotated[bool, typer.Option(f"--{flag}/--no-{flag}")], given)
    if p.kind == "integer":
        return option(p.name, Annotated[int, typer.Option(help="A whole number.")], given)
    if p.kind == "choice":
        return option(p.name, Annotated[Literal[p.choices], typer.Option(help="One of these.")], given)
    about = "A number or block weights."
    if p.kind == "numbers":
        about = "One number for each model: 0.5,0.3,0.2" + ("" if p.default is None else "; or one for all.")
    if p.default is None:
        return option(p.name, Annotated[str, typer.Option(help=about)])
    return option(p.name, Annotated[str | None, typer.Option(help=about, show_default=f"{p.default:g}")], None)


def recipe(method: Method, given: dict[str, Any], convention: str | None = None) -> Recipe:
    """The recipe that arguments and options stand for; a convention says how vectors and presets among them are read.

    Raises:
        RecipeError: the values make no recipe, or one of which no model comes.
    """
    from ..merge import Recipe, RecipeError

    files = {name: given[name] for name in method.inputs}
    files |= _named(expand(given["models"]), set(files)) if method.variadic else {}
    models, loras = _sorted(method, files)
    if method.result == "delta" or not models:
        raise RecipeError(
            f"{method.command} makes a difference here, not a model that could be written; it is a step of recipes, of which "
            "another one adds the result to a model (add, task_arithmetic)"
        )
    step: dict[str, Any] = {"method": method.name, "inputs": list(files)}
    step |= {
        p.name: v for p in method.parameters.values() if (v := _value(p, given[p.name], method, files)) is not None
    }
    if given.get("blocks") is not None:
        step["alpha"] = _blocks(given["blocks"], step.get("alpha"))
    name = next(n for n in ("merge", *(f"merge{i}" for i in range(2, len(files) + 3))) if n not in files)
    data = {"models": models, "loras": loras, "steps": {name: step}, "result": name, "convention": convention}
    return Recipe.parse({k: v for k, v in data.items() if v}, "command line")


@contextmanager
def in_options() -> Iterator[None]:
    """Errors without the name of the step that a command stands for, which nobody has written."""
    from ..checkpoints.errors import UnetscopeError

    try:
        yield
    except UnetscopeError as error:
        error.args = (_OWN_STEP.sub("", str(error)),)
        raise


def _sorted(method: Method, files: dict[str, Path]) -> tuple[dict[str, str], dict[str, str]]:
    """Models and LoRAs apart; LoRAs are looked for where a difference may stand."""
    models, loras = {}, {}
    for name, path in files.items():
        text = str(path)
        may_be = name in method.deltas or (method.on_deltas and name != method.inputs[0])
        (loras if may_be and _is_lora(path) else models)[name] = text
    return models, loras


def _is_lora(path: Path) -> bool:
    from ..checkpoints import open_checkpoint
    from ..checkpoints.errors import UnetscopeError

    try:
        with open_checkpoint(path) as checkpoint:
            return checkpoint.architecture.what == "lora"
    except UnetscopeError:  # said when the merge opens it
        return False


def _value(p: MethodParameter, value: Any, method: Method, files: dict) -> Any:
    """What the recipe says of a parameter; None where it says nothing."""
    if value is None or (p.default is not None and not p.weighs and value == p.default):
        return None
    if not p.weighs:
        return value
    if p.kind == "number":
        return _plain_weights(value)
    numbers = [_plain_weights(part) for part in value.split(",")]
    return numbers * method.models(len(files)) if len(numbers) == 1 and p.default is not None else numbers


def _plain_weights(text: str) -> Any:
    from ..merge.block_weights import parse_weights

    return parse_weights(text)


def _blocks(text: str, alpha: Any) -> Any:
    """Block weights, with --alpha for what they leave open: the text encoders of a preset or vector, labels that no line names."""
    from ..checkpoints.families.parts.mbw import MBW_20, MBW_26
    from ..merge import RecipeError

    blocks = _plain_weights(text)
    if alpha is None:
        return blocks
    if not isinstance(alpha, int | float):
        raise RecipeError("--alpha and --blocks: with --blocks, --alpha must be a number")
    if isinstance(blocks, dict):
        return {"default": alpha, **blocks} if not {"preset", "vector"} & set(blocks) else {"base": alpha, **blocks}
    if isinstance(blocks, int | float):
        raise RecipeError("--alpha and --blocks are both numbers; give one of them")
    if isinstance(blocks, list) and len(blocks) in (len(MBW_26), len(MBW_20), len(MBW_20) + 1):
        raise RecipeError(
            f"--alpha and --blocks: the vector of {len(blocks)} values begins with BASE; leave --alpha out"
        )
    return {"vector" if isinstance(blocks, list) else "preset": blocks, "base": alpha}


def _named(paths: list[Path], taken: set[str]) -> dict[str, Path]:
    """A name for every file: its stem, with a number where that is taken (or `merge`, which is a word of recipes)."""
    names: dict[str, Path] = {}
    for path in paths:
        name = free_name(readable(path.stem), lambda free: free in names or free in taken or free == "merge")
        names[name] = path
    return names
