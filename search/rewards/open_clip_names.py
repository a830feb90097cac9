"""A CLIP file with OpenCLIP's names (HPS v2.1, LAION's and OpenAI's own models) as transformers' `CLIPModel`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SearchError
from .weights import fill

if TYPE_CHECKING:
    import torch

# OpenCLIP's vision towers whose heads are not 64 wide: width -> heads (H, g, bigG).
_VISION_HEADS = {1280: 16, 1408: 16, 1664: 16}
# Inside a layer: OpenCLIP's name -> transformers'. The joint projection of q, k and v is split.
_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_WHOLE = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
_TOWERS = {
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
    "transformer.resblocks.": "text_model.encoder.layers.",
}


def model_of(tensors: Mapping[str, torch.Tensor], path: Path, reward: str, quick_gelu: bool) -> Any:
    """The model of these tensors; its sizes follow from their shapes.

    Raises:
        SearchError: the names are none of OpenCLIP's, or one is missing.
    """
    from transformers import CLIPConfig, CLIPModel

    for name in (
        "visual.conv1.weight",
        "visual.proj",
        "text_projection",
        "token_embedding.weight",
        "positional_embedding",
    ):
        if name not in tensors:
            raise SearchError(
                f"reward {reward}: {path}: {name} is missing; expected OpenCLIP's names, or a folder of transformers"
            )
    renamed = renamed_tensors(tensors)
    model = CLIPModel(CLIPConfig(**_config(tensors, "quick_gelu" if quick_gelu else "gelu")))
    return fill(model, renamed, path, reward)


def renamed_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors under transformers' names; what these do not know is left out."""
    found = {_WHOLE[name]: tensor for name, tensor in tensors.items() if name in _WHOLE}
    found["visual_projection.weight"] = tensors["visual.proj"].T.contiguous()
    found["text_projection.weight"] = tensors["text_projection"].T.contiguous()
    for name, tensor in tensors.items():
        for start, target in _TOWERS.items():
            if name.startswith(start):
                number, _, rest = name.removeprefix(start).partition(".")
                found |= _layer(f"{target}{number}.", rest, tensor)
    return found


def _layer(target: str, rest: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
        part = rest.rpartition("_")[2]
        return {
            f"{target}self_attn.{name}_proj.{part}": piece.contiguous()
            for name, piece in zip("qkv", tensor.chunk(3), strict=True)
        }
    stem, _, part = rest.rpartition(".")
    return {f"{target}{_LAYER[stem]}.{part}": tensor} if stem in _LAYER else {}


def _config(tensors: Mapping[str, torch.Tensor], activation: str) -> dict[str, Any]:
    """Sizes of both towers."""
    vision, patch = tensors["visual.conv1.weight"].shape[0], tensors["visual.conv1.weight"].shape[-1]
    side = round((tensors["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    words, text = tensors["token_embedding.weight"].shape
    return {
        "projection_dim": tensors["visual.proj"].shape[1],
        "vision_config": {
            "hidden_size": vision,
            "intermediate_size": tensors["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            "num_hidden_layers": _depth(tensors, "visual.transformer.resblocks."),
            "num_attention_heads": _VISION_HEADS.get(vision, max(vision // 64, 1)),
            "patch_size": patch,
            "image_size": side * patch,
            "hidden_act": activation,
            "projection_dim": tensors["visual.proj"].shape[1],
        },
        "text_config": {
            "hidden_size": text,
            "intermediate_size": tensors["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            "num_hidden_layers": _depth(tensors, "transformer.resblocks."),
            "num_attention_heads": max(text // 64, 1),
            "max_position_embeddings": tensors["positional_embedding"].shape[0],
            "vocab_size": words,
            "hidden_act": activation,
            "projection_dim": tensors["text_projection"].shape[1],
            # The last two tokens of CLIP's vocabulary; a prompt's embedding is read where it ends.
            "bos_token_id": words - 2,
            "eos_token_id": words - 1,
        },
    }


def _depth(tensors: Mapping[str, torch.Tensor], start: str) -> int:
    return 1 + max(int(name.removeprefix(start).partition(".")[0]) for name in tensors if name.startswith(start))
