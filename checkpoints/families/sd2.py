"""Stable Diffusion 2 (Stability AI, 2022): SD1's blocks with linear projections, reading OpenCLIP-H."""

from __future__ import annotations

from .family import AdapterSigns, Component, Family, LoraFacts, Pipeline
from .parts import unet
from .parts.clip import CLIP_H, TextEncoder
from .parts.mbw import LBW_17, MBW_26, four_levels
from .parts.schedule import DDPM_BUFFERS, DDPM_LEFTOVERS
from .parts.unet import Unet
from .parts.vae import VAE, Vae
from .sd1 import FOUR_LEVELS, four_levels_with_attention

SD2 = Family(
    id="sd2",
    title="SD2",
    name="Stable Diffusion 2",
    modelspec={None: "stable-diffusion-v2-512", "v": "stable-diffusion-v2-768-v"},
    predicts=None,  # models for 512 pixels predict noise, those for 768 v
    known_by=unet.whole_unet & ~unet.of_another_kind & four_levels_with_attention,  # what SD1 leaves
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
    real=Unet((320, 640, 1280, 1280), (1, 1, 1, 0), 1, context=1024, heads=(5, 10, 20, 20), linear=True, sample=96),
    narrow=Unet(
        (16, 32, 48, 48),
        (1, 1, 1, 0),
        1,
        context=48,
        heads=(1, 2, 3, 3),
        linear=True,
        sample=8,
        groups=4,
        size_width=32,
    ),
    components=(
        Component(
            CLIP_H,
            tells=True,
            prefix="cond_stage_model.model.",
            folder="text_encoder",
            real=TextEncoder(1024, layers=24, heads=16),
            narrow=TextEncoder(48, layers=24, heads=3),
            # SD2 reads the last layer but one, and diffusers' folders leave the last out.
            unused=("transformer.resblocks.23.", "text_projection"),
            trained_as=("lora_te_", "lora_te1_"),
        ),
        Component(
            VAE,
            prefix="first_stage_model.",
            folder="vae",
            real=Vae((128, 256, 512, 512), scaling=0.18215, sample=768),
            narrow=Vae((16, 32, 48, 48), scaling=0.18215, sample=64, groups=4),
        ),
    ),
    extras=("depth_model.",),  # of the variant that sees depth
    buffers=DDPM_BUFFERS,
    leftovers=DDPM_LEFTOVERS,
    first_layer=unet.FIRST_LAYER,
    variants=unet.VARIANTS,
    conventions=four_levels(),
    adapters=AdapterSigns(1024, words=("down_blocks_0_attentions", "input_blocks_1_1_", "up_blocks_3_"), linear=True),
    lora=LoraFacts("sd_v2", said=("sd_v2", "diffusion-v2"), v2=True, slots={"lora": LBW_17, "locon": MBW_26}),
    pipeline=Pipeline(
        "StableDiffusionPipeline",
        variants={
            "inpainting": "StableDiffusionInpaintPipeline",
            "instruct-pix2pix": "StableDiffusionInstructPix2PixPipeline",
        },
        index={"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False},
    ),
    drawing="u",
    traced=True,
    gallery=("block", "module"),
    skips=True,
)
