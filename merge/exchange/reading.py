"""Which kind of recipe a file holds, and the recipe in it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from ...checkpoints.errors import RecipeError
from ...checkpoints.formats import is_model_name
from ...checkpoints.text import unreadable
from ..recipe_file import MOST_BYTES, parse_yaml
from .automb_log import from_log, is_log
from .comfyui import from_prompt, is_merge
from .draft import Imported, Request, fault, one_line
from .mecha_import import from_mecha
from .mecha_text import is_mecha
from .mergekit import from_mergekit, is_mergekit
from .recorded import from_metadata
from .weight_lines import from_weight_lines, is_weight_lines

READABLE = (
    "a checkpoint with merge metadata (A1111, supermerger, SD.Next, Chattiori-Model-Merger, ComfyUI, Unetscope), an sd-mecha "
    "recipe (.mecha), an AutoMBW recipe or log (CSV), supermerger weights or elemental lines (text), or a mergekit configuration "
    "(YAML)"
)


def import_recipe(path: Path, request: Request | None = None) -> Imported:
    """The recipe in a file of another tool.

    Args:
        path: a checkpoint, or a text file of any of the kinds in `READABLE`; what it holds decides, not its name.
        request: what the user said next to the file.

    Raises:
        CheckpointError: a checkpoint that cannot be read.
        RecipeError: a file that holds no recipe that can be read, or one with something that has no equivalent here.

    Example:
        >>> from unetscope.merge.exchange import Request
        >>> _ = Path("weights.txt").write_text(",".join(["0.25"] * 26))
        >>> found = import_recipe(Path("weights.txt"), Request(inputs=("a.safetensors", "b.safetensors")))
        >>> found.recipe.steps[found.recipe.result].method
        'weighted_sum'
    """
    path, request = Path(path), request or Request()
    if path.is_dir() or is_model_name(path.name):
        return _from_checkpoint(path, request)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise _no_recipe(path, f"has more than {MOST_BYTES:,} bytes and no name of a checkpoint")
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _no_recipe(path, "is not text") from None
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: cannot be read ({unreadable(error)})") from None
    return import_text(text, path.name, request)


def import_text(text: str, name: str, request: Request | None = None) -> Imported:
    """The recipe in a text of another tool; `name` is that of its file, for messages.

    Raises:
        RecipeError: as `import_recipe`.
    """
    request = request or Request()
    if is_mecha(text):
        return from_mecha(text, name, request)
    if is_log(text):
        return from_log(text, name, request)
    if metadata := _metadata(text, name):
        return _from_metadata(metadata, name, request)
    if is_weight_lines(text):
        return from_weight_lines(text, name, request)
    return _from_yaml(text, name, request)


def _from_yaml(text: str, name: str, request: Request) -> Imported:
    try:
        data = parse_yaml(text, name)
    except RecipeError:
        raise _no_recipe(one_line(name), "is not a recipe that can be read") from None
    if is_mergekit(data):
        return from_mergekit(data, name, request)
    if _is_prompt(data) and is_merge(text):
        return from_prompt(text, name, request)
    if isinstance(data, dict) and isinstance(data.get("models"), dict) and "steps" in data:
        text = f"{one_line(name)}: is a recipe of Unetscope already; unetscope merge run takes it as it is"
        raise RecipeError(text, code="import.own_recipe")
    raise _no_recipe(one_line(name), f"is not a recipe that can be read{_looks_like(data)}")


def _no_recipe(where: Path | str, why: str) -> RecipeError:
    return RecipeError(f"{where}: {why}; read are {READABLE}", code="import.not_a_recipe")


def _looks_like(data: object) -> str:
    """What a file is that is often taken for a recipe."""
    if isinstance(data, dict) and ("_class_name" in data or "_diffusers_version" in data):
        return " (it is the configuration of a diffusers model)"
    if isinstance(data, dict) and "nodes" in data and "links" in data:
        return " (it is a ComfyUI workflow)"
    return " (it is a ComfyUI prompt that saves no model)" if _is_prompt(data) else ""


def _is_prompt(data: object) -> bool:
    """Whether data are the nodes that ComfyUI runs."""
    return isinstance(data, dict) and any(isinstance(x, dict) and "class_type" in x for x in data.values())


def _metadata(text: str, name: str) -> dict[str, str]:
    """Merge metadata that was saved as JSON on its own; empty for anything else.

    Raises:
        RecipeError: it is such metadata, and no valid JSON.
    """
    if not text.lstrip().startswith("{") or ("sd_merge_recipe" not in text and "interp_method" not in text):
        return {}
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        text = f"holds a merge recipe, and is broken: no valid JSON ({one_line(error, 80)})"
        raise fault(name, text) from None
    inner = data.get("__metadata__") if isinstance(data, dict) else None
    data = inner if isinstance(inner, dict) else data
    if isinstance(data, dict) and "interp_method" in data:
        data = {"sd_merge_recipe": data}
    return data if isinstance(data, dict) and "sd_merge_recipe" in data else {}


def _from_checkpoint(path: Path, request: Request) -> Imported:
    from ...checkpoints import open_checkpoint

    with open_checkpoint(path, to_look=True) as checkpoint:
        metadata, family = checkpoint.metadata, checkpoint.told_family
    if request.family is None and family is not None:
        request = replace(request, family=family)
    return _from_metadata(metadata, path.name, request)


def _from_metadata(metadata: dict, name: str, request: Request) -> Imported:
    imported = from_metadata(metadata, name, request)
    if imported is None and is_merge(metadata.get("prompt")):
        return from_prompt(metadata["prompt"], name, request)
    if imported is None:
        text = f"{one_line(name)}: its metadata records no merge: it was not merged, or by a tool that does not write it down"
        raise RecipeError(text, code="import.no_record")
    return imported
