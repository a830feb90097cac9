"""The UNET's tensors, named as the training code names them (without `model.diffusion_model.`)."""

from __future__ import annotations

from .families import Unet
from .parts import Tensors, conv, linear, named, norm

RESNETS_PER_LEVEL = 2
OUT_CHANNELS = 4


def unet(spec: Unet, in_channels: int = 4) -> Tensors:
    """All tensors of a UNET, conditioning first, then IN blocks, middle block, OUT blocks and the last convolution."""
    first, time = spec.channels[0], spec.channels[0] * 4
    yield from embedding("time_embed", first, time)
    if spec.pooled:
        yield from embedding("label_emb.0", spec.label_inputs, time)
    skips, width = [first], first
    yield from conv("input_blocks.0.0", in_channels, first)
    for level, channels in enumerate(spec.channels):
        for _ in range(RESNETS_PER_LEVEL):
            block = f"input_blocks.{len(skips)}"
            yield from stage(block, width, channels, time, spec.depths[level], spec)
            width = channels
            skips.append(width)
        if level < len(spec.channels) - 1:
            yield from conv(f"input_blocks.{len(skips)}.0.op", width, width)
            skips.append(width)
    yield from named("middle_block.0", resnet(width, width, time))
    yield from named("middle_block.1", transformer(width, spec.mid_depth, spec))
    yield from named("middle_block.2", resnet(width, width, time))
    yield from up_path(spec, skips, time)
    yield from norm("out.0", first)
    yield from conv("out.2", first, OUT_CHANNELS)


def up_path(spec: Unet, skips: list[int], time: int) -> Tensors:
    """The OUT blocks: each takes the last skip connection that is left; the last block of a level upsamples."""
    width, number, skips = skips[-1], 0, list(skips)
    for level in reversed(range(len(spec.channels))):
        channels, depth = spec.channels[level], spec.depths[level]
        for i in range(RESNETS_PER_LEVEL + 1):
            block = f"output_blocks.{number}"
            yield from stage(block, width + skips.pop(), channels, time, depth, spec)
            width = channels
            if level and i == RESNETS_PER_LEVEL:
                yield from conv(f"{block}.{2 if depth else 1}.conv", width, width)
            number += 1


def stage(block: str, inputs: int, outputs: int, time: int, depth: int, spec: Unet) -> Tensors:
    """A residual block and, where the level has attention, a transformer."""
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
