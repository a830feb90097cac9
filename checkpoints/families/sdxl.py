"""Stable Diffusion XL (Stability AI, 2023): a UNET of three levels that reads CLIP-L and OpenCLIP-G, and the image's size."""

from __future__ import annotations

from .family import AdapterSigns, Component, Demo, Family, LoraFacts, MechaFacts, Pipeline
from .parts import unet
from .parts.clip import CLIP_G, CLIP_L, TextEncoder
from .parts.mbw import LBW_12, MBW_20, SDXL_CHANGES, three_levels
from .parts.unet import Unet
from .parts.vae import VAE, Vae
from .signs import Rule

# Blocks that have a transformer in SDXL and its refiner; SD1 and SD2 have further ones.
_ATTENTION = {"input_blocks.4", "input_blocks.5", "output_blocks.3", "output_blocks.4"}
attention_from_the_second_level = Rule(lambda signs: bool(signs.attention & _ATTENTION))
a_fourth_level = Rule(
    lambda signs: bool(signs.blocks & {"input_blocks.9", "input_blocks.10", "input_blocks.11", "output_blocks.9"})
)

SDXL = Family(
    id="sdxl",
    title="SDXL",
    name="SDXL",
    modelspec={None: "stable-diffusion-xl-v1-base"},
    known_by=unet.whole_unet & ~unet.of_another_kind & attention_from_the_second_level & ~a_fourth_level,
    core="unet",
    core_title="UNET",
    blocks="""
        TIME_EMBED   time_embed
        LABEL_EMB    label_emb
        IN00-08      input_blocks.{n}
        M00          middle_block
        OUT00-08     output_blocks.{n}
        OUT          out""",
    native=unet.NATIVE,
    translated=unet.TRANSLATED,
    heads=unet.HEADS,
    kinds=unet.KINDS,
    about=unet.ABOUT,
    tensors=unet.unet,
    names=unet.names,
    inside=unet.RESNET,
    real=Unet((320, 640, 1280), (0, 2, 10), 10, context=2048, heads=(5, 10, 20), linear=True, sample=128, pooled=1280),
    narrow=Unet(
        (16, 32, 48),
        (0, 2, 10),
        10,
        context=80,
        heads=(1, 2, 3),
        linear=True,
        sample=8,
        pooled=48,
        groups=4,
        size_width=32,
    ),
    components=(
        # The narrow text encoders have different widths, by which diffusers tells them apart.
        Component(
            CLIP_L,
            prefix="conditioner.embedders.0.transformer.",
            folder="text_encoder",
            real=TextEncoder(768, layers=12, heads=12),
            narrow=TextEncoder(32, layers=12, heads=2),
            trained_as=("lora_te1_", "lora_te_"),
        ),
        Component(
            CLIP_G,
            tells=True,
            prefix="conditioner.embedders.1.model.",
            folder="text_encoder_2",
            real=TextEncoder(1280, layers=32, heads=20),
            narrow=TextEncoder(48, layers=32, heads=3),
            trained_as=("lora_te2_",),
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
    conventions=three_levels(**SDXL_CHANGES),
    adapters=AdapterSigns(
        2048,
        words=("lora_te2_", "text_encoder_2_", "add_embedding", "label_emb"),
        weak_words=("transformer_blocks_1_",),
    ),
    lora=LoraFacts(
        "sdxl_base_v1-0",
        said=("sdxl", "xl-v1"),
        denoiser="single-file",
        slots={"lora": LBW_12, "locon": MBW_20},
    ),
    pipeline=Pipeline(
        "StableDiffusionXLPipeline",
        variants={
            "inpainting": "StableDiffusionXLInpaintPipeline",
            "instruct-pix2pix": "StableDiffusionXLInstructPix2PixPipeline",
        },
        encoders=("text_encoder", "text_encoder_2"),
        arguments={"add_watermarker": False},
        pooled=True,
        empty_is_zero=True,
    ),
    mecha=MechaFacts("sdxl-supermerger_blocks", "convert_sdxl_blocks_to_sgm", slots=21),
    drawing="u",
    traced=True,
    gallery=("block", "module"),
    gallery_blocks=("IN07", "VAE", "CLIP_G"),
    skips=True,
    demos=(Demo("sdxl-base", seed=2), Demo("sdxl-photo", seed=21, finetune_of="sdxl-base")),
)
