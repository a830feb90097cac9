"""A model family as another package brings one: a transformer of two streams that nobody has published, in this one file."""

from __future__ import annotations

import re
from dataclasses import dataclass

from unetscope.checkpoints.families import Component, Family, Opening, Part, Vectors
from unetscope.checkpoints.families.parts.modules import linear
from unetscope.checkpoints.families.parts.vae import VAE, Vae
from unetscope.checkpoints.families.signs import has, lacks


@dataclass(frozen=True)
class Sizes:
    """Width of the two streams, and numbers of blocks of either kind."""

    width: int
    double: int = 4
    single: int = 6
    latent: int = 16


def transformer(sizes: Sizes, in_channels: int | None = None):
    """Names and shapes of the denoiser."""
    wide, latent = sizes.width, in_channels or sizes.latent
    yield from linear("image_in", latent, wide)
    yield from linear("words_in", 2 * wide, wide)
    yield from linear("time_in.0", 8, wide)
    for n in range(sizes.double):
        for stream in ("image", "words"):
            block = f"double_blocks.{n}.{stream}"
            yield f"{block}_norm.weight", (wide,)
            yield from linear(f"{block}_attn.qkv", wide, 3 * wide)
            yield from linear(f"{block}_attn.proj", wide, wide)
            yield from linear(f"{block}_mlp.0", wide, 2 * wide)
            yield from linear(f"{block}_mlp.2", 2 * wide, wide)
    for n in range(sizes.single):
        block = f"single_blocks.{n}"
        yield f"{block}.norm.weight", (wide,)
        yield from linear(f"{block}.linear1", wide, 5 * wide)
        yield from linear(f"{block}.linear2", 3 * wide, wide)
        yield from linear(f"{block}.modulation.lin", wide, 3 * wide)
    yield from linear("out_layer", wide, latent)


def words(width: int):
    """Names and shapes of the text encoder."""
    yield "shared.weight", (32, width)
    for n in range(2):
        yield f"encoder.block.{n}.norm.weight", (width,)
        yield f"encoder.block.{n}.attention.q.weight", (width, width)
        yield f"encoder.block.{n}.attention.o.weight", (width, width)
        yield f"encoder.block.{n}.dense.wi.weight", (2 * width, width)
        yield f"encoder.block.{n}.dense.wo.weight", (width, 2 * width)


WORDS = Part(
    "words",
    "text encoder Words",
    "a made-up text encoder",
    text=True,
    prefixes=("text_encoders.words.",),
    tensors=words,
    kinds=(
        (r"\.norm\.", "norm"),
        (r"\.attention\.q\.", "attn.q"),
        (r"\.attention\.o\.", "attn.out"),
        (r"\.wi\.", "ff.in"),
        (r"\.wo\.", "ff.out"),
    ),
    sublabel=lambda name: f"layer {name.split('.')[2]}" if name.startswith("encoder.") else "embeddings",
    native=Opening(("encoder.block.",), re.compile(r"(?:^|(?<=\.))encoder\.block\.\d+\.")),
    heads=("shared.", "encoder."),
    anchor="shared.weight",
    fits=lambda names: any(name.startswith("encoder.block.") for name in names),
)
_DOUBLE, _SINGLE = (tuple(f"{stem}{n:02d}" for n in range(count)) for stem, count in (("DOUBLE", 4), ("SINGLE", 6)))

MADEUP = Family(
    id="madeup",
    title="Made-up",
    name="Made-up One",
    known_by=has("double_blocks.0.image_attn.qkv.weight", "single_blocks.0.linear1.weight")
    & lacks("guidance_in.weight"),
    modelspec={None: "made-up-one"},
    predicts="epsilon",
    core="transformer",
    core_title="transformer",
    prefixes=("", "transformer."),
    blocks="""
        IN            image_in words_in time_in
        DOUBLE00-03   double_blocks.{n}
        SINGLE00-05   single_blocks.{n}
        OUT           out_layer""",
    kinds=(
        (r"norm\.", "norm"),
        (r"attn\.qkv\.", "attn.qkv"),
        (r"attn\.proj\.", "attn.out"),
        (r"(?:mlp\.0|linear1)\.", "ff.in"),
        (r"(?:mlp\.2|linear2)\.", "ff.out"),
        (r"modulation\.", "modulation"),
        (r"_in\.", "emb"),
    ),
    about={
        "IN": "embeds image, words and time",
        "DOUBLE*": "block of two streams",
        "SINGLE*": "block of one stream",
        "OUT": "last layer",
    },
    tensors=transformer,
    real=Sizes(512),
    narrow=Sizes(8),
    components=(
        Component(
            WORDS, prefix="text_encoders.words.", folder="text_encoder", real=64, narrow=8, trained_as=("lora_te_",)
        ),
        Component(
            VAE,
            prefix="first_stage_model.",
            folder="vae",
            real=Vae((128, 256, 512, 512), 0.5, 512),
            narrow=Vae((4, 8, 16, 16), 0.5, 64, groups=2),
        ),
    ),
    conventions={
        "made-up": Vectors(((*_DOUBLE, *_SINGLE),), {"IN": "DOUBLE00", "OUT": "SINGLE05"}, about="one number a block"),
        "*": Vectors((("BASE", "IN", *_DOUBLE, *_SINGLE, "OUT"),)),
    },
    drawing="chain",
)
