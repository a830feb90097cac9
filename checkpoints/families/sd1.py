"""Stable Diffusion 1 (CompVis, Stability AI and Runway, 2022): a UNET of four levels that reads CLIP-L."""

from __future__ import annotations

from .family import AdapterSigns, Component, Demo, Family, LoraFacts, MechaFacts, Pipeline
from .parts import unet
from .parts.clip import CLIP_L, TextEncoder
from .parts.mbw import LBW_17, MBW_26, four_levels
from .parts.schedule import DDPM_BUFFERS, DDPM_LEFTOVERS
from .parts.unet import Unet
from .parts.vae import VAE, Vae
from .signs import Rule, Signs

FOUR_LEVELS = """
    TIME_EMBED   time_embed
    IN00-11      input_blocks.{n}
    M00          middle_block
    OUT00-11     output_blocks.{n}
    OUT          out
"""
# Blocks that have a transformer in SD1 and SD2, and in no other UNET.
_ATTENTION = {"input_blocks.1", "input_blocks.2", "output_blocks.9", "output_blocks.10", "output_blocks.11"}

four_levels_with_attention = Rule(lambda signs: bool(signs.attention & _ATTENTION))


def _is_sd1(signs: Signs) -> bool:
    """SD1 or SD2: by the text's width where it is a real one, else by the rank of `proj_in`, else by the text encoder."""
    if signs.context_width in (768, 1024):
        return signs.context_width == 768
    if signs.projection_ranks:
        return signs.projection_ranks != {2}
    return "clip_h" not in signs.parts


SD1 = Family(
    id="sd1",
    title="SD1",
    name="Stable Diffusion 1",
    modelspec={None: "stable-diffusion-v1"},
    known_by=unet.whole_unet & ~unet.of_another_kind & four_levels_with_attention & Rule(_is_sd1),
    core="unet",
    core_title="UNET",
    blocks=FOUR_LEVELS,
    native=unet.NATIVE,
    translated=unet.TRANSLATED,
    heads=unet.HEADS,
    kinds=unet.KINDS,
    about=unet.ABOUT,
    tensors=unet.unet,
    names=unet.names,
    inside=unet.RESNET,
    real=Unet((320, 640, 1280, 1280), (1, 1, 1, 0), 1, context=768, heads=(8, 8, 8, 8), linear=False, sample=64),
    narrow=Unet(
        (16, 32, 48, 48),
        (1, 1, 1, 0),
        1,
        context=32,
        heads=(2, 2, 2, 2),
        linear=False,
        sample=8,
        groups=4,
        size_width=32,
    ),
    components=(
        Component(
            CLIP_L,
            prefix="cond_stage_model.transformer.",
            folder="text_encoder",
            real=TextEncoder(768, layers=12, heads=12),
            narrow=TextEncoder(32, layers=12, heads=2),
            trained_as=("lora_te_", "lora_te1_"),
        ),
        Component(
            VAE,
            prefix="first_stage_model.",
            folder="vae",
            real=Vae((128, 256, 512, 512), scaling=0.18215, sample=512),
            narrow=Vae((16, 32, 48, 48), scaling=0.18215, sample=64, groups=4),
        ),
    ),
    buffers=DDPM_BUFFERS,
    leftovers=DDPM_LEFTOVERS,
    first_layer=unet.FIRST_LAYER,
    variants=unet.VARIANTS,
    conventions=four_levels(),
    adapters=AdapterSigns(768, words=("down_blocks_0_attentions", "input_blocks_1_1_", "up_blocks_3_"), linear=False),
    lora=LoraFacts("sd_v1", said=("sd_v1", "diffusion-v1"), slots={"lora": LBW_17, "locon": MBW_26}),
    pipeline=Pipeline(
        "StableDiffusionPipeline",
        variants={
            "inpainting": "StableDiffusionInpaintPipeline",
            "instruct-pix2pix": "StableDiffusionInstructPix2PixPipeline",
        },
        index={"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False},
    ),
    mecha=MechaFacts("sd1-supermerger_blocks", "convert_sd1_blocks_to_ldm", slots=26),
    drawing="u",
    traced=True,
    gallery=("block", "module"),
    gallery_blocks=("IN05",),
    skips=True,
    demos=(
        Demo("sd1-base", seed=1),
        Demo("sd1-ink", seed=11, finetune_of="sd1-base"),
        Demo("sd1-photo", seed=12, finetune_of="sd1-base"),
        Demo("sd1-anime", seed=13, finetune_of="sd1-base"),
        Demo("sd1-old", seed=14, finetune_of="sd1-base", old=True),
    ),
)
