"""What a merged file says about itself: our recipe, and the same history in the forms that other tools read.

Only base names of files are written, never folders. Everything is a string, as the safetensors format wants it.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from .. import __version__
from ..checkpoints import Checkpoint
from ..checkpoints.hashes import known_sha256, legacy_hash, sha256
from ..checkpoints.text import readable
from .plan import Plan
from .recipe import Recipe

# The header's fields that differ from run to run of one merge; `--reproducible` leaves them out.
VARIABLE_FIELDS = ("modelspec.date", "unetscope.version", "unetscope.inputs", "sd_merge_models")


def anonymous(recipe: Recipe) -> Recipe:
    """The recipe with base names in place of paths."""
    return recipe.with_paths(_base)


def _base(path: str) -> str:
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]


def describe(plan: Plan, output: Path, *, hash_inputs: bool = False, reproducible: bool = False) -> dict[str, str]:
    """The metadata of a merge's output.

    Args:
        plan: what is merged.
        output: its base name becomes the title when the recipe has none.
        hash_inputs: compute the SHA-256 of inputs whose hash is not in the cache yet; it costs more than the merge.
        reproducible: leave out the `VARIABLE_FIELDS`, so that the same merge gives the same file.
    """
    recipe = anonymous(plan.recipe)
    hashes = [None if reproducible else _hash(c, hash_inputs) for c in plan.checkpoints]
    # A file that is to be the same under any name cannot be called by its name.
    title = recipe.title or ("" if reproducible else readable(Path(output).stem))
    out = {
        "format": "pt",
        "unetscope.recipe": recipe.to_yaml(),
        "unetscope.version": __version__,
        "unetscope.inputs": json.dumps(
            [
                {"name": name, "file": readable(c.path.name), "size": c.size, "sha256": digest}
                for name, c, digest in zip(plan.names, plan.checkpoints, hashes, strict=True)
            ]
        ),
        "sd_merge_recipe": json.dumps(_sd_merge_recipe(plan, hashes, title)),
        "sd_merge_models": json.dumps(_sd_merge_models(plan, hashes)),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": plan.architecture,
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": title,
        "modelspec.date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        "modelspec.merged_from": ", ".join(readable(c.path.name) for c in plan.checkpoints),
    }
    if not title:
        del out["modelspec.title"]
    if not out["modelspec.architecture"]:
        del out["modelspec.architecture"]
    if plan.prediction:
        out["modelspec.prediction_type"] = plan.prediction
    if reproducible:
        out = {k: v for k, v in out.items() if k not in VARIABLE_FIELDS}
    return out


def _hash(checkpoint: Checkpoint, compute: bool) -> str | None:
    """A file's SHA-256 where it is known or wanted; a folder has none."""
    if not checkpoint.path.is_file():
        return None
    return sha256(checkpoint.path) if compute else known_sha256(checkpoint.path)


def _sd_merge_recipe(plan: Plan, hashes: list[str | None], title: str) -> dict:
    """The recipe as the web UI writes it where its merger could have done it, else our own under type `unetscope`."""
    recipe, simple = plan.recipe, _webui_fields(plan, hashes)
    common = {"custom_name": title or None, "save_as_half": recipe.output.dtype == "fp16"}
    if simple:
        return {"type": "webui", **simple, **common, "config_source": 0, "discard_weights": "", "is_inpainting": False}
    models = [{"name": n, "sha256": h} for n, h in zip(plan.names, hashes, strict=True)]
    return {"type": "unetscope", "recipe": anonymous(recipe).to_plain(), "models": models, **common}


def _webui_fields(plan: Plan, hashes: list[str | None]) -> dict | None:
    """Primary, secondary and tertiary model, method and multiplier.

    None when the recipe is more than that, or a hash is not known.
    """
    recipe = plan.recipe
    step = recipe.steps.get(recipe.result)
    if step is None or recipe.components or not step.kind.webui:
        return None
    weight = step.given.get("alpha", step.kind.parameters["alpha"].default if "alpha" in step.kind.parameters else 0.0)
    if not isinstance(weight, int | float) or any(source not in recipe.models for source in step.inputs):
        return None
    index = {name: i for i, name in enumerate(plan.names)}
    if not all(source in index for source in step.inputs):
        return None
    known = [hashes[index[s]] for s in step.inputs]
    if None in known:  # this form has no place for names: the history would end here
        return None
    models = known + [None] * (3 - len(known))
    return {
        "primary_model_hash": models[0],
        "secondary_model_hash": models[1],
        "tertiary_model_hash": models[2],
        "interp_method": step.kind.webui,
        "multiplier": float(weight),
        "bake_in_vae": False,
    }


def _sd_merge_models(plan: Plan, hashes: list[str | None]) -> dict:
    """Every input whose hash is known or that is a merge itself, and all that the inputs say of theirs.

    The web UI keys entries by SHA-256. A merge whose hash is not known is filed under its name: better than losing its history.
    """
    found: dict = {}
    for checkpoint, digest in zip(plan.checkpoints, hashes, strict=True):
        found |= _read_json(checkpoint.metadata.get("sd_merge_models"), dict) or {}
        history = _read_json(checkpoint.metadata.get("sd_merge_recipe"), dict)
        if digest or history:
            name = readable(checkpoint.path.name)
            short = legacy_hash(checkpoint.path) if checkpoint.path.is_file() else None
            found[digest or name] = {"name": name, "legacy_hash": short, "sd_merge_recipe": history}
    return found


def _read_json(text: str | None, kind: type):
    """A JSON value of that type from a header's string; None for what is not."""
    try:
        value = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, kind) else None
