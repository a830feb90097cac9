"""The UNET of Stable Diffusion, named as the training code names it (without `model.diffusion_model.`) and as diffusers does.

Its blocks are numbered the way model mergers do: `input_blocks.4.` is IN04 in all of them. What differs between families, and
between a family and its kin, are the numbers in `Unet`: levels, blocks a level, transformer layers a block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..signs import Rule, Signs
from .modules import conv, linear, named, norm
from .part import Opening, Tensors
from .tables import columns

PREFIX = "model.diffusion_model."
FIRST_LAYER = "input_blocks.0.0.weight"
OUT_CHANNELS = 4
# Input channels of the first convolution: the latent image has 4, the rest is what the variant sees next to it.
VARIANTS = {4: "base", 9: "inpainting", 8: "instruct-pix2pix", 5: "depth"}
# Transformer layers of a level's blocks: the same number in all, or those of its encoder blocks and of its decoder blocks.
Depths = int | tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Unet:
    """The sizes of a UNET.

    Attributes:
        channels: per level, the finest first.
        depths: transformer layers per level; 0 where a block has no attention.
        mid_depth: transformer layers of the middle block; 0: it is one residual block; None: there is no middle block.
        context: width of the text features that cross-attention reads.
        heads: attention heads per level.
        linear: whether `proj_in` and `proj_out` are linear (2-D) or 1x1 convolutions (4-D).
        pooled: width of the pooled text or image that LABEL_EMB reads; 0 without a LABEL_EMB.
        size_ids: how many numbers (sizes, crops, aesthetic score) LABEL_EMB reads next to it; 0 where it reads an image alone.
        size_width: width of the embedding of each of them.
        sample: height and width of the latent image that it was trained on.
        resnets: residual blocks of a level's encoder; its decoder has one more.
        projected: width of the text features that a layer of its own turns into those of `context`; 0 without that layer.
    """

    channels: tuple[int, ...]
    depths: tuple[Depths, ...]
    mid_depth: int | None
    context: int
    heads: tuple[int, ...]
    linear: bool
    sample: int
    pooled: int = 0
    size_ids: int = 6
    size_width: int = 256
    groups: int = 32
    resnets: int = 2
    projected: int = 0

    @property
    def label_inputs(self) -> int:
        """Width of what LABEL_EMB reads: pooled text and embedded sizes side by side."""
        return self.pooled + self.size_ids * self.size_width

    def encoder_depths(self, level: int) -> tuple[int, ...]:
        """Transformer layers of each of the level's encoder blocks."""
        depths = self.depths[level]
        return (depths,) * self.resnets if isinstance(depths, int) else depths[0]

    def decoder_depths(self, level: int) -> tuple[int, ...]:
        """Transformer layers of each of the level's decoder blocks."""
        depths = self.depths[level]
        return (depths,) * (self.resnets + 1) if isinstance(depths, int) else depths[1]


def unet(spec: Unet, in_channels: int = 4) -> Tensors:
    """All tensors of a UNET, conditioning first, then IN blocks, middle block, OUT blocks and the last convolution."""
    first, time = spec.channels[0], spec.channels[0] * 4
    yield from embedding("time_embed", first, time)
    if spec.pooled:
        yield from embedding("label_emb.0", spec.label_inputs, time)
    if spec.projected:
        yield from linear("encoder_hid_proj", spec.projected, spec.context)
    skips, width = [first], first
    yield from conv("input_blocks.0.0", in_channels, first)
    for level, channels in enumerate(spec.channels):
        for depth in spec.encoder_depths(level):
            yield from stage(f"input_blocks.{len(skips)}", width, channels, time, depth, spec)
            width = channels
            skips.append(width)
        if level < len(spec.channels) - 1:
            yield from conv(f"input_blocks.{len(skips)}.0.op", width, width)
            skips.append(width)
    if spec.mid_depth is not None:
        yield from named("middle_block.0", resnet(width, width, time))
    if spec.mid_depth:
        yield from named("middle_block.1", transformer(width, spec.mid_depth, spec))
        yield from named("middle_block.2", resnet(width, width, time))
    yield from up_path(spec, skips, time)
    yield from norm("out.0", first)
    yield from conv("out.2", first, OUT_CHANNELS)


def up_path(spec: Unet, skips: list[int], time: int) -> Tensors:
    """The OUT blocks: each takes the last skip connection that is left; the last block of a level upsamples."""
    width, number, skips = skips[-1], 0, list(skips)
    for level in reversed(range(len(spec.channels))):
        channels, depths = spec.channels[level], spec.decoder_depths(level)
        for i, depth in enumerate(depths):
            block = f"output_blocks.{number}"
            yield from stage(block, width + skips.pop(), channels, time, depth, spec)
            width = channels
            if level and i == len(depths) - 1:
                yield from conv(f"{block}.{2 if depth else 1}.conv", width, width)
            number += 1


def stage(block: str, inputs: int, outputs: int, time: int, depth: int, spec: Unet) -> Tensors:
    """A residual block and, where the block has attention, a transformer."""
    yield from named(f"{block}.0", resnet(inputs, outputs, time))
    if depth:
        yield from named(f"{block}.1", transformer(outputs, depth, spec))


def embedding(name: str, inputs: int, outputs: int) -> Tensors:
    yield from linear(f"{name}.0", inputs, outputs)
    yield from linear(f"{name}.2", outputs, outputs)


def resnet(inputs: int, outputs: int, time: int) -> Tensors:
    yield from norm("in_layers.0", inputs)
    yield from conv("in_layers.2", inputs, outputs)
    yield from linear("emb_layers.1", time, outputs)
    yield from norm("out_layers.0", outputs)
    yield from conv("out_layers.3", outputs, outputs)
    if inputs != outputs:
        yield from conv("skip_connection", inputs, outputs, size=1)


def transformer(width: int, depth: int, spec: Unet) -> Tensors:
    projection = linear if spec.linear else pointwise
    yield from norm("norm", width)
    yield from projection("proj_in", width, width)
    for i in range(depth):
        yield from named(f"transformer_blocks.{i}", transformer_layer(width, spec.context))
    yield from projection("proj_out", width, width)


def transformer_layer(width: int, context: int) -> Tensors:
    yield from attention("attn1", width, width)
    yield from linear("ff.net.0.proj", width, 8 * width)  # GEGLU: value and gate, four times the width each
    yield from linear("ff.net.2", 4 * width, width)
    yield from attention("attn2", width, context)
    for i in (1, 2, 3):
        yield from norm(f"norm{i}", width)


def attention(name: str, width: int, context: int) -> Tensors:
    yield from linear(f"{name}.to_q", width, width, bias=False)
    yield from linear(f"{name}.to_k", context, width, bias=False)
    yield from linear(f"{name}.to_v", context, width, bias=False)
    yield from linear(f"{name}.to_out.0", width, width)


def pointwise(name: str, inputs: int, outputs: int) -> Tensors:
    return conv(name, inputs, outputs, size=1)


# Inside a residual block: single file, diffusers. Inside a transformer both layouts use the same names.
RESNET = columns("""
    in_layers.0             norm1
    in_layers.2             conv1
    emb_layers.1            time_emb_proj
    out_layers.0            norm2
    out_layers.3            conv2
    skip_connection         conv_shortcut
""")
_ENDS = columns("""
    time_embed.0            time_embedding.linear_1
    time_embed.2            time_embedding.linear_2
    label_emb.0.0           add_embedding.linear_1
    label_emb.0.2           add_embedding.linear_2
    encoder_hid_proj        encoder_hid_proj
    input_blocks.0.0        conv_in
    out.0                   conv_norm_out
    out.2                   conv_out
""")
# A LABEL_EMB that reads an image embedding alone.
_OF_IMAGES = columns("""
    label_emb.0.0           class_embedding.linear_1
    label_emb.0.2           class_embedding.linear_2
""")
_MIDDLE = columns("""
    middle_block.0          mid_block.resnets.0
    middle_block.1          mid_block.attentions.0
    middle_block.2          mid_block.resnets.1
""")
# Where a UNET's names begin behind a prefix, in the two layouts; a VAE has the same inside `encoder.` and `decoder.`.
NATIVE = Opening(
    ("input_blocks.", "output_blocks."), re.compile(r"(?:^|(?<=\.))(?:input_blocks|output_blocks)\.\d+\.\d+\.")
)
TRANSLATED = Opening(
    ("down_blocks.", "up_blocks."),
    re.compile(
        r"(?:^|(?<=\.))(?<!encoder\.)(?<!decoder\.)(?:down_blocks|up_blocks)\.\d+\.(?:resnets|attentions)\.\d+\."
    ),
)
HEADS = ("time_embed.", "label_emb.", "encoder_hid_proj.", "input_blocks.", "middle_block.", "output_blocks.", "out.")
KINDS = (
    (r"\.(attn[12])\.to_([qkv])\.", r"\1.\2"),
    (r"\.(attn[12])\.to_out\.", r"\1.out"),
    (r"\.ff\.net\.0\.", "ff.in"),
    (r"\.ff\.net\.2\.", "ff.out"),
    (r"\.norm[123]?\.|\.in_layers\.0\.|\.out_layers\.0\.|\.out\.0\.", "norm"),
    (r"\.proj_(in|out)\.|\.encoder_hid_proj\.", "proj"),
    (r"\.skip_connection\.", "skip"),
    (r"\.emb_layers\.|\.time_embed\.|\.label_emb\.", "emb"),
    (r"\.in_layers\.2\.|\.out_layers\.3\.|\.op\.|\.conv\.|\.out\.2\.|input_blocks\.0\.0\.", "conv"),
)


@Rule
def whole_unet(signs: Signs) -> bool:
    """Both halves are there: a ControlNet has the encoder half alone."""
    return "output_blocks" in signs.halves or {"input_blocks", "out"} <= signs.halves


@Rule
def of_another_kind(signs: Signs) -> bool:
    """A video model's time layers, SUPIR's adaptors, or the x4 upscaler's labels: UNETs that resemble ours."""
    words = (".time_stack", ".time_mixer", ".temporal_transformer_blocks", ".temopral_conv.", "project_modules.")
    return "label_emb.weight" in signs.shapes or any(word in name for name in signs.shapes for word in words)


ABOUT = {
    "TIME_EMBED": "embeds the timestep",
    "LABEL_EMB": "embeds pooled text and image size (SDXL)",
    "OUT": "last norm and convolution",
    "IN*": "encoder block",
    "M00": "middle block",
    "OUT*": "decoder block",
}


@cache
def names(spec: Unet) -> Mapping[str, str]:
    """Single-file module -> diffusers module, of every module of a UNET.

    diffusers counts levels and blocks in a level, `down_blocks.1.resnets.0`, where single files count blocks.
    """
    ends = _ENDS if spec.size_ids else _ENDS | _OF_IMAGES
    table = dict(ends) | dict(_middle(spec)) | dict(_down(spec)) | dict(_up(spec))
    if len(set(table.values())) < len(table):
        raise ValueError("a name stands twice in a naming table")
    return table


def _middle(spec: Unet) -> Iterator[tuple[str, str]]:
    count = 0 if spec.mid_depth is None else len(_MIDDLE) if spec.mid_depth else 1
    yield from list(_MIDDLE.items())[:count]


def _down(spec: Unet) -> Iterator[tuple[str, str]]:
    number = 1
    for level in range(len(spec.channels)):
        for i, depth in enumerate(spec.encoder_depths(level)):
            yield from _block(f"input_blocks.{number}", f"down_blocks.{level}", i, depth)
            number += 1
        if level < len(spec.channels) - 1:
            yield f"input_blocks.{number}.0.op", f"down_blocks.{level}.downsamplers.0.conv"
            number += 1


def _up(spec: Unet) -> Iterator[tuple[str, str]]:
    number, last = 0, len(spec.channels) - 1
    for up, level in enumerate(reversed(range(len(spec.channels)))):
        depths = spec.decoder_depths(level)
        for i, depth in enumerate(depths):
            yield from _block(f"output_blocks.{number}", f"up_blocks.{up}", i, depth)
            if up < last and i == len(depths) - 1:
                yield f"output_blocks.{number}.{2 if depth else 1}.conv", f"up_blocks.{up}.upsamplers.0.conv"
            number += 1


def _block(single: str, diffusers: str, i: int, depth: int) -> Iterator[tuple[str, str]]:
    yield f"{single}.0", f"{diffusers}.resnets.{i}"
    if depth:
        yield f"{single}.1", f"{diffusers}.attentions.{i}"


def config(spec: Unet, in_channels: int = 4) -> dict[str, Any]:
    """Arguments of `diffusers.UNet2DConditionModel`."""
    encoder = [spec.encoder_depths(level) for level in range(len(spec.channels))]
    decoder = [spec.decoder_depths(level) for level in reversed(range(len(spec.channels)))]
    out = {
        "sample_size": spec.sample,
        "in_channels": in_channels,
        "out_channels": OUT_CHANNELS,
        "block_out_channels": list(spec.channels),
        "layers_per_block": spec.resnets,
        "down_block_types": ["CrossAttnDownBlock2D" if any(depths) else "DownBlock2D" for depths in encoder],
        "up_block_types": ["CrossAttnUpBlock2D" if any(depths) else "UpBlock2D" for depths in decoder],
        "attention_head_dim": list(spec.heads),  # diffusers' name for the number of heads
        "cross_attention_dim": spec.context,
        "transformer_layers_per_block": _layers(encoder),
        "use_linear_projection": spec.linear,
        "norm_num_groups": spec.groups,
    }
    if (
        spec.mid_depth
    ):  # diffusers reads the depth of the middle block there, and of a last level without attention none
        out["transformer_layers_per_block"][-1] = spec.mid_depth
    else:
        out["mid_block_type"] = None if spec.mid_depth is None else "UNetMidBlock2D"
    if not all(isinstance(depths, int) for depths in spec.depths):
        out["reverse_transformer_layers_per_block"] = _layers(decoder)
    if spec.pooled and spec.size_ids:
        out["addition_embed_type"] = "text_time"
        out["addition_time_embed_dim"] = spec.size_width
    elif spec.pooled:
        out["class_embed_type"] = "projection"
    if spec.pooled:
        out["projection_class_embeddings_input_dim"] = spec.label_inputs
    if spec.projected:
        out["encoder_hid_dim"], out["encoder_hid_dim_type"] = spec.projected, "text_proj"
    return out


def _layers(levels: list[tuple[int, ...]]) -> list[int | list[int]]:
    """Transformer layers of each level: one number where its blocks have the same; 1 where there is none to count."""
    return [list(depths) if len(set(depths)) > 1 else depths[0] or 1 for depths in levels]
