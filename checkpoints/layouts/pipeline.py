"""A folder of configurations, without weights, from which diffusers loads a single file offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .configs import scheduler_config, text_configs, unet_config, vae_config
from .families import Family, Widths

_PIPELINES = {
    "sd1": "StableDiffusionPipeline",
    "sd2": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sdxl_refiner": "StableDiffusionXLImg2ImgPipeline",
}


def write_pipeline_config(
    folder: Path, family: Family, *, widths: Widths = "real", in_channels: int = 4, prediction: str = "epsilon"
) -> Path:
    """Write `model_index.json` and the configurations of UNET, VAE, text encoders and scheduler into a folder.

    It serves as `config=` of `from_single_file(path, config=folder, local_files_only=True, ...)`. Tokenizer files are not
    part of it: put them into `tokenizer` and `tokenizer_2`, or hand the tokenizers over as arguments.
    """
    folder = Path(folder)
    _write(folder / "model_index.json", _model_index(family))
    _write(folder / "unet/config.json", _of("UNet2DConditionModel", unet_config(family, widths, in_channels)))
    _write(folder / "vae/config.json", _of("AutoencoderKL", vae_config(family, widths)))
    _write(folder / "scheduler/scheduler_config.json", _of("DDIMScheduler", scheduler_config(prediction)))
    for name, config in text_configs(family, widths).items():
        _write(folder / name / "config.json", {"model_type": "clip_text_model", **config})
    return folder


def _model_index(family: Family) -> dict[str, Any]:
    index: dict[str, Any] = {
        "_class_name": _PIPELINES[family],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    xl = family.startswith("sdxl")
    folders = text_configs(family)
    for name in ("text_encoder", "text_encoder_2") if xl else ("text_encoder",):
        here = name in folders
        projected = name == "text_encoder_2"
        encoder = "CLIPTextModelWithProjection" if projected else "CLIPTextModel"
        index[name] = ["transformers", encoder] if here else [None, None]
        index[name.replace("text_encoder", "tokenizer")] = ["transformers", "CLIPTokenizer"] if here else [None, None]
    if not xl:
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    if family == "sdxl_refiner":
        index |= {"requires_aesthetics_score": True, "force_zeros_for_empty_prompt": False}
    return index


def _of(name: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"_class_name": name, **config}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
