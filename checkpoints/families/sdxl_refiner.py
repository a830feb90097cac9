"""SDXL's refiner (Stability AI, 2023): four levels, attention on the middle two, reading OpenCLIP-G and an aesthetic score."""

from __future__ import annotations

from .family import AdapterSigns, Component, Family, Pipeline
from .parts import unet
from .parts.clip import CLIP_G, TextEncoder
from .parts.mbw import SDXL_CHANGES, four_levels
from .parts.unet import Unet
from .parts.vae import VAE, Vae
from .sdxl import a_fourth_level, attention_from_the_second_level
from .signs import Rule

# The x4 upscaler has as many blocks, with attention in the coarsest level too.
_attention_at_the_bottom = Rule(lambda signs: bool(signs.attention & {"input_blocks.10", "input_blocks.11"}))

SDXL_REFINER = Family(
    id="sdxl_refiner",
    title="SDXL refiner",
    name="SDXL refiner",
    modelspec={None: "stable-diffusion-xl-v1-refiner"},
    known_by=unet.whole_unet & ~unet.of_another_kind & attention_from_the_second_level & a_fourth_level & ~_attention_at_the_bottom,
    core="unet",
    core_title="UNET",
    blocks="""
        TIME_EMBED   time_embed
        LABEL_EMB    label_emb
        IN00-11      input_blocks.{n}
        M00          middle_block
        OUT00-11     output_blocks.{n}
        OUT          out""",
    native=unet.NATIVE,
    translated=unet.TRANSLATED,
    heads=unet.HEADS,
    kinds=unet.KINDS,
    about=unet.ABOUT,
    tensors=unet.unet,
    names=unet.names,
    inside=unet.RESNET,
    real=Unet(
        (384, 768, 1536, 1536), (0, 4, 4, 0), 4, context=1280, heads=(6, 12, 24, 24), linear=True, sample=128, pooled=1280,
        size_ids=5,
    ),
    narrow=Unet(
        (16, 32, 48, 48), (0, 4, 4, 0), 4, context=48, heads=(1, 2, 3, 3), linear=True, sample=8, pooled=48, size_ids=5,
        groups=4, size_width=32,
    ),
    components=(
        Component(
            CLIP_G,
            tells=True,
            prefix="conditioner.embedders.0.model.",
            folder="text_encoder_2",  # the second one of its pipeline, which has no first
            real=TextEncoder(1280, layers=32, heads=20),
            narrow=TextEncoder(48, layers=32, heads=3),
        ),
        Component(
            VAE,
            prefix="first_stage_model.",
            folder="vae",
            real=Vae((128, 256, 512, 512), scaling=0.13025, sample=1024),
            narrow=Vae((16, 32, 48, 48), scaling=0.13025, sample=64, groups=4),
        ),
    ),
    first_layer=unet.FIRST_LAYER,
    variants=unet.VARIANTS,
    conventions=four_levels(automb=False, comfyui=False, lbw=False, **SDXL_CHANGES),
    adapters=AdapterSigns(1280),
    pipeline=Pipeline(
        "StableDiffusionXLImg2ImgPipeline",
        encoders=("text_encoder", "text_encoder_2"),
        index={"requires_aesthetics_score": True, "force_zeros_for_empty_prompt": False},
        from_text=False,
        pooled=True,
    ),
    drawing="u",
    traced=True,
    gallery=("block",),
    skips=True,
)  # fmt: skip
