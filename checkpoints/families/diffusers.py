"""Families in the words of diffusers and transformers: arguments that build their models, and a folder of configurations.

From such a folder, without weights, diffusers loads a single file offline.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..files.output import replace_file
from . import Family, Widths, family_of
from .parts import clip, unet, vae
from .parts.schedule import STEPS


def unet_config(family: str | Family, widths: Widths = "real", in_channels: int = 4) -> dict[str, Any]:
    """Arguments of `diffusers.UNet2DConditionModel`."""
    return unet.config(family_of(family).size(widths), in_channels)


def vae_config(family: str | Family, widths: Widths = "real") -> dict[str, Any]:
    """Arguments of `diffusers.AutoencoderKL`."""
    held = family_of(family).component("vae")
    return vae.config(held.real if widths == "real" else held.narrow)


def text_configs(family: str | Family, widths: Widths = "real") -> dict[str, dict[str, Any]]:
    """Arguments of `transformers.CLIPTextConfig` by the folder that a diffusers pipeline keeps the encoder in.

    CLIP_L and CLIP_H are `CLIPTextModel`, CLIP_G is `CLIPTextModelWithProjection`.
    """
    return {
        held.folder: clip.config(
            held.real if widths == "real" else held.narrow,
            held.part,
            unused=sum(name.startswith("transformer.resblocks.") for name in held.unused),
        )
        for held in family_of(family).components
        if held.part.text
    }


def scheduler_config(prediction: str = "epsilon") -> dict[str, Any]:
    """Arguments of `diffusers.DDIMScheduler`; `prediction` is `epsilon` or `v`."""
    return {
        "num_train_timesteps": STEPS,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "prediction_type": "v_prediction" if prediction == "v" else "epsilon",
    }


def write_pipeline_config(
    folder: Path, family: str | Family, *, widths: Widths = "real", in_channels: int = 4, prediction: str = "epsilon"
) -> Path:
    """Write `model_index.json` and the configurations of UNET, VAE, text encoders and scheduler into a folder.

    It serves as `config=` of `from_single_file(path, config=folder, local_files_only=True, ...)`. Tokenizer files are not
    part of it: put them into `tokenizer` and `tokenizer_2`, or hand the tokenizers over as arguments.
    """
    folder, family = Path(folder), family_of(family)
    _write(folder / "model_index.json", _model_index(family))
    _write(folder / "unet/config.json", _of("UNet2DConditionModel", unet_config(family, widths, in_channels)))
    _write(folder / "vae/config.json", _of("AutoencoderKL", vae_config(family, widths)))
    _write(folder / "scheduler/scheduler_config.json", _of("DDIMScheduler", scheduler_config(prediction)))
    for name, config in text_configs(family, widths).items():
        _write(folder / name / "config.json", {"model_type": "clip_text_model", **config})
    return folder


def tokenizer_folder(encoder: str) -> str:
    """The folder of a text encoder's tokenizer: `tokenizer_2` next to `text_encoder_2`."""
    return encoder.replace("text_encoder", "tokenizer")


def _model_index(family: Family) -> dict[str, Any]:
    index: dict[str, Any] = {
        "_class_name": family.pipeline.name,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    here = {held.folder for held in family.components}
    for name in family.pipeline.encoders:
        projected = name == "text_encoder_2"
        encoder = "CLIPTextModelWithProjection" if projected else "CLIPTextModel"
        index[name] = ["transformers", encoder] if name in here else [None, None]
        index[tokenizer_folder(name)] = ["transformers", "CLIPTokenizer"] if name in here else [None, None]
    return index | dict(family.pipeline.index)


def _of(name: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"_class_name": name, **config}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(content, indent=2) + "\n")
