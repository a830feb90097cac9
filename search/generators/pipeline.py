"""A diffusers pipeline of the right shape without weights, built offline: no file and no hub is asked for anything."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...checkpoints.families import FAMILIES, Family, Widths, is_buffer
from ...checkpoints.families.diffusers import text_configs, tokenizer_folder, unet_config, vae_config
from ...checkpoints.tensors import Shape
from ..errors import SearchError
from .samplers import make_scheduler
from .tokenizer import load_tokenizer, write_tokenizer


@dataclass(frozen=True)
class Parts:
    """A pipeline and its modules by diffusers' names.

    Attributes:
        pipeline: `StableDiffusionPipeline` or `StableDiffusionXLPipeline`.
        modules: `unet`, `vae`, `text_encoder`, `text_encoder_2`.
        tokenizers: `text_encoder`, `text_encoder_2` -> its tokenizer.
    """

    pipeline: Any
    modules: dict[str, Any]
    tokenizers: dict[str, Any]


def recognised_widths(family: Family, shapes: dict[str, Shape]) -> Widths:
    """Whether the tensors are of the published size or of a narrow demo.

    Raises:
        SearchError: neither; or no pipeline runs this family or UNET.
    """
    if family.pipeline is None or not family.pipeline.from_text:
        known = [f.title for f in FAMILIES.values() if not f.parent and f.pipeline and f.pipeline.from_text]
        raise SearchError(
            f"the generator diffusers makes images with {', '.join(known[:-1])} and {known[-1]}, not with {family.title}"
        )
    first = shapes.get(family.first_key)
    if first is not None and family.variants.get(first[1]) != "base":
        raise SearchError(
            f"the recipe's {family.core_title} has {first[1]} input channels (inpainting and the like); images from text need 4"
        )
    for widths in ("real", "narrow"):
        expected = family.layout(widths)
        if all(shapes[key] == spec.shape for key, spec in expected.items() if key in shapes and not is_buffer(key)):
            return widths
    raise SearchError(
        f"the recipe's result does not have the shapes of a published {family.title} model: its head counts are unknown"
    )


def empty_pipeline(family: Family, widths: Widths, prediction: str, device: Any, dtype: Any) -> Parts:
    """Build the pipeline; its weights are memory that nobody has written yet.

    The VAE is float32 whatever `dtype`: in half precision some of them make black images.
    """
    import diffusers
    import torch
    import transformers

    # They warn of packages for tasks that are none of ours.
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    kinds = {"clip_l": CLIPTextModel, "clip_h": CLIPTextModel, "clip_g": CLIPTextModelWithProjection}
    encoders = {held.folder: held.id for held in family.components if held.part.text}
    with torch.device("meta"):
        modules: dict[str, Any] = {
            "unet": diffusers.UNet2DConditionModel(**unet_config(family, widths)),
            "vae": diffusers.AutoencoderKL(**vae_config(family, widths)),
        }
        for folder, config in text_configs(family, widths).items():
            modules[folder] = kinds[encoders[folder]](CLIPTextConfig(**config))
    for name, module in modules.items():
        module.to(torch.float32 if name == "vae" else dtype).to_empty(device=device)
        module.eval().requires_grad_(False)
        _fill_buffers(module)
    tokenizers = _tokenizers(encoders)
    parts = {"scheduler": make_scheduler("Euler a", None, prediction), **modules}
    parts |= {tokenizer_folder(folder): tokenizer for folder, tokenizer in tokenizers.items()}
    extras = {name: None if value == [None, None] else value for name, value in family.pipeline.index.items()}
    pipeline = getattr(diffusers, family.pipeline.name)(**parts, **extras, **family.pipeline.arguments)
    pipeline.set_progress_bar_config(disable=True)
    return Parts(pipeline, modules, tokenizers)


def _tokenizers(encoders: dict[str, str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return {name: load_tokenizer(write_tokenizer(Path(folder, name), kind)) for name, kind in encoders.items()}


def _fill_buffers(module: Any) -> None:
    """Buffers that no checkpoint holds: the positions of a text encoder's tokens are the only ones."""
    import torch

    kept = module.state_dict().keys()
    for name, buffer in module.named_buffers():
        if name in kept:
            continue
        if not name.endswith("position_ids"):
            raise SearchError(
                f"this version of diffusers or transformers keeps {name} in {type(module).__name__}, which is "
                "unknown here; install the versions that constraints.txt names"
            )
        buffer.copy_(torch.arange(buffer.shape[-1]).expand(buffer.shape))
