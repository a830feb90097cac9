"""The two towers of a BLIP file with its authors' names, as ImageReward stores them, as transformers' models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SearchError
from .weights import fill

if TYPE_CHECKING:
    import torch

VISION, TEXT = "blip.visual_encoder.", "blip.text_encoder."
_VISION_NAMES = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
    "norm.weight": "post_layernorm.weight",
    "norm.bias": "post_layernorm.bias",
}
_LAYER_NAMES = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)")


def vision_model(tensors: Mapping[str, torch.Tensor], path: Path, reward: str) -> Any:
    """The vision transformer; its sizes follow from the shapes.

    Raises:
        SearchError: a tensor is missing.
    """
    from transformers import BlipVisionConfig, BlipVisionModel

    patches = _of(tensors, VISION, "patch_embed.proj.weight", path, reward)
    places = _of(tensors, VISION, "pos_embed", path, reward)
    width, patch = patches.shape[0], patches.shape[-1]
    config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=_of(tensors, VISION, "blocks.0.mlp.fc1.weight", path, reward).shape[0],
        num_hidden_layers=_depth(tensors, f"{VISION}blocks."),
        num_attention_heads=max(width // 64, 1),
        image_size=round((places.shape[1] - 1) ** 0.5) * patch,
        patch_size=patch,
        # The authors' ViT has 1e-6, where transformers' default is 1e-5.
        layer_norm_eps=1e-6,
    )
    return fill(BlipVisionModel(config), _vision_tensors(tensors), path, reward)


def text_model(tensors: Mapping[str, torch.Tensor], path: Path, reward: str) -> Any:
    """The BERT that looks at the image by cross-attention; transformers kept its names.

    Raises:
        SearchError: a tensor is missing.
    """
    from transformers.models.blip.configuration_blip import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    words, width = _of(tensors, TEXT, "embeddings.word_embeddings.weight", path, reward).shape
    cross = _of(tensors, TEXT, "encoder.layer.0.crossattention.self.key.weight", path, reward)
    config = BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        encoder_hidden_size=cross.shape[1],
        intermediate_size=_of(tensors, TEXT, "encoder.layer.0.intermediate.dense.weight", path, reward).shape[0],
        num_hidden_layers=_depth(tensors, f"{TEXT}encoder.layer."),
        num_attention_heads=max(width // 64, 1),
        max_position_embeddings=_of(tensors, TEXT, "embeddings.position_embeddings.weight", path, reward).shape[0],
    )
    own = {name.removeprefix(TEXT): tensor for name, tensor in tensors.items() if name.startswith(TEXT)}
    return fill(BlipTextModel(config, add_pooling_layer=False), own, path, reward)


def _vision_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {}
    for name, tensor in tensors.items():
        rest = name.removeprefix(VISION) if name.startswith(VISION) else ""
        if rest in _VISION_NAMES:
            found[_VISION_NAMES[rest]] = tensor
        elif (block := _BLOCK.fullmatch(rest)) and block[2] in _LAYER_NAMES:
            found[f"encoder.layers.{block[1]}.{_LAYER_NAMES[block[2]]}.{block[3]}"] = tensor
    return found


def _of(tensors: Mapping[str, torch.Tensor], start: str, name: str, path: Path, reward: str) -> torch.Tensor:
    if start + name not in tensors:
        raise SearchError(f"reward {reward}: {path}: {start}{name} is missing; expected the file ImageReward.pt")
    return tensors[start + name]


def _depth(tensors: Mapping[str, torch.Tensor], start: str) -> int:
    return 1 + max(int(name.removeprefix(start).partition(".")[0]) for name in tensors if name.startswith(start))
