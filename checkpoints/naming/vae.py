"""The VAE's names: modules of the single-file layout beside those of diffusers' `AutoencoderKL`.

Single-file names stand without `first_stage_model.`. The decoder's `up` blocks count from the image inwards in one
layout and outwards in the other. The middle attention is 1x1 convolutions here and linear layers there: the same numbers.
"""

from __future__ import annotations

from ..tensors import StoredTensor
from .tables import columns, inner_name, split_at, turned

VAE_MODULES = columns("""
    encoder.conv_in             encoder.conv_in
    encoder.down.0.block.0      encoder.down_blocks.0.resnets.0
    encoder.down.0.block.1      encoder.down_blocks.0.resnets.1
    encoder.down.0.downsample   encoder.down_blocks.0.downsamplers.0
    encoder.down.1.block.0      encoder.down_blocks.1.resnets.0
    encoder.down.1.block.1      encoder.down_blocks.1.resnets.1
    encoder.down.1.downsample   encoder.down_blocks.1.downsamplers.0
    encoder.down.2.block.0      encoder.down_blocks.2.resnets.0
    encoder.down.2.block.1      encoder.down_blocks.2.resnets.1
    encoder.down.2.downsample   encoder.down_blocks.2.downsamplers.0
    encoder.down.3.block.0      encoder.down_blocks.3.resnets.0
    encoder.down.3.block.1      encoder.down_blocks.3.resnets.1
    encoder.mid.block_1         encoder.mid_block.resnets.0
    encoder.mid.attn_1          encoder.mid_block.attentions.0
    encoder.mid.block_2         encoder.mid_block.resnets.1
    encoder.norm_out            encoder.conv_norm_out
    encoder.conv_out            encoder.conv_out
    quant_conv                  quant_conv
    post_quant_conv             post_quant_conv
    decoder.conv_in             decoder.conv_in
    decoder.mid.block_1         decoder.mid_block.resnets.0
    decoder.mid.attn_1          decoder.mid_block.attentions.0
    decoder.mid.block_2         decoder.mid_block.resnets.1
    decoder.up.3.block.0        decoder.up_blocks.0.resnets.0
    decoder.up.3.block.1        decoder.up_blocks.0.resnets.1
    decoder.up.3.block.2        decoder.up_blocks.0.resnets.2
    decoder.up.3.upsample       decoder.up_blocks.0.upsamplers.0
    decoder.up.2.block.0        decoder.up_blocks.1.resnets.0
    decoder.up.2.block.1        decoder.up_blocks.1.resnets.1
    decoder.up.2.block.2        decoder.up_blocks.1.resnets.2
    decoder.up.2.upsample       decoder.up_blocks.1.upsamplers.0
    decoder.up.1.block.0        decoder.up_blocks.2.resnets.0
    decoder.up.1.block.1        decoder.up_blocks.2.resnets.1
    decoder.up.1.block.2        decoder.up_blocks.2.resnets.2
    decoder.up.1.upsample       decoder.up_blocks.2.upsamplers.0
    decoder.up.0.block.0        decoder.up_blocks.3.resnets.0
    decoder.up.0.block.1        decoder.up_blocks.3.resnets.1
    decoder.up.0.block.2        decoder.up_blocks.3.resnets.2
    decoder.norm_out            decoder.conv_norm_out
    decoder.conv_out            decoder.conv_out
""")
_ATTENTION = columns("""
    norm        group_norm
    q           to_q
    k           to_k
    v           to_v
    proj_out    to_out.0
""")
# Files written before diffusers 0.18.
_OLD_ATTENTION = columns("""
    norm        group_norm
    q           query
    k           key
    v           value
    proj_out    proj_attn
""")
_RESNET = {name: name for name in ("norm1", "conv1", "norm2", "conv2")} | {"nin_shortcut": "conv_shortcut"}
_FROM_DIFFUSERS = turned(VAE_MODULES)
_RESNET_FROM_DIFFUSERS = turned(_RESNET)
_ATTENTION_FROM_DIFFUSERS = turned(_OLD_ATTENTION) | turned(_ATTENTION)


def _translated(name: str, modules: dict[str, str], resnet: dict[str, str], attention: dict[str, str]) -> str | None:
    found = split_at(name, modules)
    if found is None:
        return None
    module, rest = found
    pair = f"{module} {modules[module]}"  # one of the two is the diffusers name, which tells the kinds apart
    if ".resnets." in pair:
        rest = inner_name(rest, resnet)
    elif ".attentions." in pair:
        rest = inner_name(rest, attention)
    return f"{modules[module]}.{rest}" if rest else None


def vae_key(name: str) -> str | None:
    """The single-file name (without prefix) of a VAE tensor that diffusers calls `name`; None when there is none."""
    return _translated(name, _FROM_DIFFUSERS, _RESNET_FROM_DIFFUSERS, _ATTENTION_FROM_DIFFUSERS)


def vae_diffusers_name(name: str) -> str | None:
    """The diffusers name of a VAE tensor by its single-file name (without prefix); None when there is none."""
    return _translated(name, VAE_MODULES, _RESNET, _ATTENTION)


def is_attention_matrix(key: str) -> bool:
    """Whether a single-file VAE name is one of the four matrices of a middle attention."""
    module, _, last = key.rpartition(".")
    return last == "weight" and module.endswith(tuple(f".mid.attn_1.{m}" for m in ("q", "k", "v", "proj_out")))


def as_convolution(tensor: StoredTensor) -> StoredTensor:
    """A linear layer's (C, C) as the 1x1 convolution's (C, C, 1, 1); any other shape as it is."""
    return tensor.reshaped((*tensor.shape[:2], 1, 1)) if _is_pointwise(tensor) else tensor


def as_linear(tensor: StoredTensor) -> StoredTensor:
    """A 1x1 convolution's (C, C, 1, 1) or (C, C, 1) as the linear layer's (C, C); any other shape as it is."""
    return tensor.reshaped(tensor.shape[:2]) if _is_pointwise(tensor) else tensor


def _is_pointwise(tensor: StoredTensor) -> bool:
    return len(tensor.shape) >= 2 and all(n == 1 for n in tensor.shape[2:])
