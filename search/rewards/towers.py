"""Files of CLIP and BLIP under the names of OpenCLIP (HPS v2.1, LAION, OpenAI) and of ImageReward, as models of transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...checkpoints.dtypes import DTYPES
from ...checkpoints.families.parts.clip import from_open_clip
from ...checkpoints.families.parts.tables import columns
from ...checkpoints.tensors import StoredTensor, row_major
from ..errors import SearchError
from .weights import fill

if TYPE_CHECKING:
    import torch

    Tensors = Mapping[str, torch.Tensor]

# Without `blip.`.
_SEE, _READ = "visual_encoder.", "text_encoder."
# Of OpenCLIP's vision tower what is not a layer; its layers are named as the text encoder's.
_OPEN_CLIP = columns("""
    visual.class_embedding         vision_model.embeddings.class_embedding
    visual.positional_embedding    vision_model.embeddings.position_embedding.weight
    visual.conv1.weight            vision_model.embeddings.patch_embedding.weight
    visual.ln_pre.weight           vision_model.pre_layrnorm.weight
    visual.ln_pre.bias             vision_model.pre_layrnorm.bias
    visual.ln_post.weight          vision_model.post_layernorm.weight
    visual.ln_post.bias            vision_model.post_layernorm.bias
    logit_scale                    logit_scale
""")
# OpenCLIP's vision towers whose heads are not 64 wide: width -> heads (H, g, bigG).
_VISION_HEADS = {1280: 16, 1408: 16, 1664: 16}
# Of BLIP's vision transformer; its BERT has transformers' own names.
_BLIP = columns(r"""
    ^cls_token$             embeddings.class_embedding
    ^pos_embed$             embeddings.position_embedding
    ^patch_embed\.proj\.    embeddings.patch_embedding.
    ^norm\.                 post_layernorm.
    ^blocks\.               encoder.layers.
    \.norm([12])\.          .layer_norm\1.
    \.attn\.qkv\.           .self_attn.qkv.
    \.attn\.proj\.          .self_attn.projection.
""")


# -- OpenCLIP -----------------------------------------------------------------------------------------------------------


def open_clip_model(tensors: Tensors, path: Path, reward: str, quick_gelu: bool) -> Any:
    """The `CLIPModel` of these tensors; its sizes follow from their shapes.

    Raises:
        SearchError: the names are none of OpenCLIP's, or one is missing.
    """
    from transformers import CLIPConfig, CLIPModel

    tensors = _Named(tensors, f"reward {reward}: {path}: ", "OpenCLIP's names, or a folder of transformers")
    config = CLIPConfig(**_open_clip_config(tensors, "quick_gelu" if quick_gelu else "gelu"))
    vision = {name.removeprefix("visual."): t for name, t in tensors.items() if name.startswith("visual.transformer.")}
    found = _under_transformers_names({name: t for name, t in tensors.items() if not name.startswith("visual.")})
    layers = _under_transformers_names(vision)
    found |= {name.replace("text_model.", "vision_model.", 1): tensor for name, tensor in layers.items()}
    found |= {_OPEN_CLIP[name]: tensor for name, tensor in tensors.items() if name in _OPEN_CLIP}
    found["visual_projection.weight"] = tensors["visual.proj"].T.contiguous()
    return fill(CLIPModel(config), found, path, reward)


def _under_transformers_names(tensors: Tensors) -> dict[str, torch.Tensor]:
    """A transformer of OpenCLIP as the record of its text encoders renames, splits and turns it."""
    import torch

    # One byte an element, so that offsets count elements.
    tagged = {name: StoredTensor.at(name, DTYPES["U8"], tuple(t.shape), Path(name), 0) for name, t in tensors.items()}
    found = {}
    for name, stored in from_open_clip(tagged)[0].items():
        (piece,) = stored.pieces
        whole, strides = tensors[str(piece.path)].contiguous(), piece.strides or row_major(stored.shape)
        found[name] = torch.as_strided(whole, stored.shape, strides, piece.offset).contiguous()
    return found


def _open_clip_config(tensors: Tensors, activation: str) -> dict[str, Any]:
    """Sizes of both towers."""
    width, patch = tensors["visual.conv1.weight"].shape[0], tensors["visual.conv1.weight"].shape[-1]
    words, text_width = tensors["token_embedding.weight"].shape

    def tower(start: str, width: int, heads: int) -> dict[str, Any]:
        return {
            "hidden_size": width,
            "intermediate_size": tensors[f"{start}0.mlp.c_fc.weight"].shape[0],
            "num_hidden_layers": _depth(tensors, start),
            "num_attention_heads": heads,
            "hidden_act": activation,
            "projection_dim": tensors["visual.proj"].shape[1],
        }

    vision = tower("visual.transformer.resblocks.", width, _VISION_HEADS.get(width, max(width // 64, 1)))
    text = tower("transformer.resblocks.", text_width, max(text_width // 64, 1))
    return {
        "projection_dim": tensors["visual.proj"].shape[1],
        "vision_config": vision
        | {"patch_size": patch, "image_size": _side(tensors["visual.positional_embedding"].shape[0]) * patch},
        "text_config": text
        | {
            "max_position_embeddings": tensors["positional_embedding"].shape[0],
            "vocab_size": words,
            # The last two tokens of CLIP's vocabulary; a prompt's embedding is read where it ends.
            "bos_token_id": words - 2,
            "eos_token_id": words - 1,
        },
    }


# -- BLIP ---------------------------------------------------------------------------------------------------------------


def blip_models(tensors: Tensors, path: Path, reward: str) -> tuple[Any, Any]:
    """The vision transformer, and the BERT that looks at the image by cross-attention; their sizes follow from the shapes.

    Raises:
        SearchError: a tensor is missing.
    """
    from transformers import BlipVisionConfig, BlipVisionModel
    from transformers.models.blip.configuration_blip import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    blip = {name.removeprefix("blip."): tensor for name, tensor in tensors.items() if name.startswith("blip.")}
    blip = _Named(blip, f"reward {reward}: {path}: blip.", "the file ImageReward.pt")
    patches, words = blip[f"{_SEE}patch_embed.proj.weight"], blip[f"{_READ}embeddings.word_embeddings.weight"]
    vision = BlipVisionConfig(
        hidden_size=patches.shape[0],
        intermediate_size=blip[f"{_SEE}blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=_depth(blip, f"{_SEE}blocks."),
        num_attention_heads=max(patches.shape[0] // 64, 1),
        image_size=_side(blip[f"{_SEE}pos_embed"].shape[1]) * patches.shape[-1],
        patch_size=patches.shape[-1],
        # The authors' ViT has 1e-6, where transformers' default is 1e-5.
        layer_norm_eps=1e-6,
    )
    text = BlipTextConfig(
        vocab_size=words.shape[0],
        hidden_size=words.shape[1],
        encoder_hidden_size=blip[f"{_READ}encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=blip[f"{_READ}encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=_depth(blip, f"{_READ}encoder.layer."),
        num_attention_heads=max(words.shape[1] // 64, 1),
        max_position_embeddings=blip[f"{_READ}embeddings.position_embeddings.weight"].shape[0],
    )
    seeing, reading = (
        {name.removeprefix(start): tensor for name, tensor in blip.items() if name.startswith(start)}
        for start in (_SEE, _READ)
    )
    for ours, theirs in _BLIP.items():
        seeing = {re.sub(ours, theirs, name): tensor for name, tensor in seeing.items()}
    return (
        fill(BlipVisionModel(vision), seeing, path, reward),
        fill(BlipTextModel(text, add_pooling_layer=False), reading, path, reward),
    )


# -- both ---------------------------------------------------------------------------------------------------------------


class _Named(dict):
    """Tensors by name, of which one that is missing is told in a sentence."""

    def __init__(self, tensors: Tensors, where: str, expected: str):
        super().__init__(tensors)
        self._where, self._expected = where, expected

    def __missing__(self, name: str) -> torch.Tensor:
        raise SearchError(f"{self._where}{name} is missing; expected {self._expected}")


def _side(places: int) -> int:
    """Patches along an image's side, of the places of a vision tower: one is the class's."""
    return round((places - 1) ** 0.5)


def _depth(tensors: Tensors, start: str) -> int:
    return 1 + max(int(name.removeprefix(start).partition(".")[0]) for name in tensors if name.startswith(start))
