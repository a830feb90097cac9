"""The autoencoder of SD1, SD2 and SDXL: four latent channels, four levels.

Single-file names stand without `first_stage_model.`. The decoder's `up` blocks count from the image inwards in one layout and
outwards in diffusers' `AutoencoderKL`. The middle attention is 1x1 convolutions here and linear layers there: the same numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...notices import Notice
from .modules import conv, named, norm
from .part import Opening, Part, Renamed, Tensors, renamed
from .tables import columns, inner_name, split_at, turned

if TYPE_CHECKING:  # it needs numpy, without which a family is known
    from ...tensors import StoredTensor

LATENT = 4
RESNETS_PER_LEVEL = 2


@dataclass(frozen=True, slots=True)
class Vae:
    """Its sizes: channels per level, the finest first; two residual blocks a level; 4 latent channels.

    `scaling` is what latent images are multiplied by; `sample` height and width of the images that it was trained on; `groups`
    those of its norms.
    """

    channels: tuple[int, ...]
    scaling: float
    sample: int
    groups: int = 32


def vae(spec: Vae) -> Tensors:
    """All tensors of an autoencoder: encoder, decoder, and the 1x1 convolutions between them and the latent image."""
    yield from named("encoder", encoder(spec.channels))
    yield from named("decoder", decoder(spec.channels))
    yield from conv("quant_conv", 2 * LATENT, 2 * LATENT, size=1)  # mean and log variance
    yield from conv("post_quant_conv", LATENT, LATENT, size=1)


def encoder(channels: tuple[int, ...]) -> Tensors:
    width = channels[0]
    yield from conv("conv_in", 3, width)
    for level, outputs in enumerate(channels):
        for i in range(RESNETS_PER_LEVEL):
            yield from named(f"down.{level}.block.{i}", resnet(width, outputs))
            width = outputs
        if level < len(channels) - 1:
            yield from conv(f"down.{level}.downsample.conv", width, width)
    yield from named("mid", middle(width))
    yield from norm("norm_out", width)
    yield from conv("conv_out", width, 2 * LATENT)


def decoder(channels: tuple[int, ...]) -> Tensors:
    """The decoder; its levels are listed finest first, although data flows through the coarsest first."""
    last = channels[-1]
    yield from conv("conv_in", LATENT, last)
    yield from named("mid", middle(last))
    for level, outputs in enumerate(channels):
        width = channels[min(level + 1, len(channels) - 1)]
        for i in range(RESNETS_PER_LEVEL + 1):
            yield from named(f"up.{level}.block.{i}", resnet(width, outputs))
            width = outputs
        if level:
            yield from conv(f"up.{level}.upsample.conv", width, width)
    yield from norm("norm_out", channels[0])
    yield from conv("conv_out", channels[0], 3)


def middle(width: int) -> Tensors:
    yield from named("block_1", resnet(width, width))
    yield from norm("attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        yield from conv(f"attn_1.{part}", width, width, size=1)
    yield from named("block_2", resnet(width, width))


def resnet(inputs: int, outputs: int) -> Tensors:
    yield from norm("norm1", inputs)
    yield from conv("conv1", inputs, outputs)
    yield from norm("norm2", outputs)
    yield from conv("conv2", outputs, outputs)
    if inputs != outputs:
        yield from conv("nin_shortcut", inputs, outputs, size=1)


MODULES = columns("""
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
_INSIDE = {name: name for name in ("norm1", "conv1", "norm2", "conv2")} | {"nin_shortcut": "conv_shortcut"}
_FROM_DIFFUSERS = turned(MODULES)
_INSIDE_FROM_DIFFUSERS = turned(_INSIDE)
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
    return _translated(name, _FROM_DIFFUSERS, _INSIDE_FROM_DIFFUSERS, _ATTENTION_FROM_DIFFUSERS)


def vae_diffusers_name(name: str) -> str | None:
    """The diffusers name of a VAE tensor by its single-file name (without prefix); None when there is none."""
    return _translated(name, MODULES, _INSIDE, _ATTENTION)


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


_BLOCK = re.compile(r"(encoder|decoder)\.(?:(down|up)\.(\d+)|(mid)|(conv_in|conv_out|norm_out))")
KINDS = (
    (r"\.attn_\d+\.norm\.|\.norm\d?\.|\.norm_out\.", "norm"),
    (r"\.attn_\d+\.([qkv])\.", r"attn.\1"),
    (r"\.attn_\d+\.proj_out\.", "attn.out"),
    (r"\.nin_shortcut\.", "skip"),
    (r"conv", "conv"),
)


def sublabel(name: str) -> str:
    """`encoder.down.0`, `decoder.mid`, `encoder.conv_in`... or `quant` for a VAE's tensor."""
    if block := _BLOCK.match(name):
        side, way, number, mid, end = block.groups()
        return f"{side}.{way}.{number}" if way else f"{side}.{mid or end}"
    return "quant"


def _read(named: Mapping[str, StoredTensor]) -> Renamed:
    """A single file's VAE, its attention as convolutions."""
    flat = {name for name, t in named.items() if is_attention_matrix(name) and len(t.shape) in (2, 3)}
    out = Renamed({name: as_convolution(t) if name in flat else t for name, t in named.items()})
    if flat:
        text = f"{len(flat)} attention matrices of the VAE are linear layers here; read as 1x1 convolutions"
        out.notes.append(Notice("names.attention_linear", text, tuple(sorted(flat))))
    return out


def _from_diffusers(named: Mapping[str, StoredTensor]) -> Renamed:
    return renamed(named, vae_key, lambda key, tensor: as_convolution(tensor) if is_attention_matrix(key) else tensor)


def _to_diffusers(named: Mapping[str, StoredTensor]) -> Renamed:
    matrices = {vae_diffusers_name(name) for name in named if is_attention_matrix(name)}
    return renamed(named, vae_diffusers_name, lambda new, tensor: as_linear(tensor) if new in matrices else tensor)


_NATIVE = Opening(
    ("coder.down.", "coder.up."),
    re.compile(r"(?:^|(?<=\.))(?:encoder|decoder)\.(?:down|up)\.\d+\.(?:block|attn|downsample|upsample)\b"),
)
_TRANSLATED = Opening(
    ("encoder.down_blocks.", "decoder.up_blocks."),
    re.compile(r"(?:^|(?<=\.))(?:encoder\.down_blocks|decoder\.up_blocks)\.\d+\.(?:resnets|attentions)\."),
)
VAE = Part(
    "vae",
    "VAE",
    "image encoder and decoder",
    text=False,
    prefixes=("first_stage_model.",),
    tensors=vae,
    kinds=KINDS,
    sublabel=sublabel,
    native=Opening(
        ("encoder.down.", "encoder.up.", "decoder.down.", "decoder.up."),
        re.compile(r"(?:^|(?<=\.))(?:encoder|decoder)\.(?:down|up)\.\d+\.(?:block|attn|downsample|upsample)\b"),
    ),
    translated=Opening(
        ("encoder.down_blocks.", "decoder.up_blocks."),
        re.compile(r"(?:^|(?<=\.))(?:encoder\.down_blocks|decoder\.up_blocks)\.\d+\.(?:resnets|attentions)\."),
    ),
    heads=("encoder.", "decoder.", "quant_conv.", "post_quant_conv."),
    translated_heads=("encoder.", "decoder.", "quant_conv.", "post_quant_conv."),
    read=_read,
    read_translated=_from_diffusers,
    from_folder=_from_diffusers,
    to_folder=_to_diffusers,
)


def config(spec: Vae) -> dict[str, Any]:
    """Arguments of `diffusers.AutoencoderKL`."""
    levels = len(spec.channels)
    return {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": LATENT,
        "block_out_channels": list(spec.channels),
        "layers_per_block": RESNETS_PER_LEVEL,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "norm_num_groups": spec.groups,
        "sample_size": spec.sample,
        "scaling_factor": spec.scaling,
    }
