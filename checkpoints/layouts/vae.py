"""The VAE's tensors, named as the training code names them (without `first_stage_model.`)."""

from __future__ import annotations

from .families import Vae
from .parts import Tensors, conv, named, norm

LATENT = 4
RESNETS_PER_LEVEL = 2


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
