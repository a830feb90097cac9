"""Where a tensor lives: every key of a single-file checkpoint has exactly one canonical label.

The tables of this file are the only ones; diagrams, analysis and merging read them. A label follows from the key alone,
since the single-file layout numbers its blocks the way model mergers do: `input_blocks.4.` is IN04 in SD1 and in SDXL.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
EMA_PREFIX = "model_ema."

_EVERY = {
    "TIME_EMBED": "embeds the timestep",
    "LABEL_EMB": "embeds pooled text and image size (SDXL)",
    "OUT": "last norm and convolution",
    "CLIP_L": "text encoder, OpenAI CLIP ViT-L/14",
    "CLIP_H": "text encoder, OpenCLIP ViT-H/14",
    "CLIP_G": "text encoder, OpenCLIP ViT-bigG/14",
    "VAE": "image encoder and decoder",
    "EMA": "a second UNET, averaged over training",
    "SCHEDULE": "noise schedule buffers",
    "MARKER": "prediction type markers",
    "OTHER": "keys that belong to no known component",
}


def _unet(last_in: int, last_out: int, label_emb: bool) -> tuple[str, ...]:
    conditioning = ("TIME_EMBED", "LABEL_EMB") if label_emb else ("TIME_EMBED",)
    downs = (f"IN{i:02d}" for i in range(last_in + 1))
    ups = (f"OUT{i:02d}" for i in range(last_out + 1))
    return (*conditioning, *downs, "M00", *ups, "OUT")


# The UNET's labels in network order, by architecture family.
UNET_LABELS: dict[str, tuple[str, ...]] = {
    "sd1": _unet(11, 11, label_emb=False),
    "sd2": _unet(11, 11, label_emb=False),
    "sdxl": _unet(8, 8, label_emb=True),
    "sdxl_refiner": _unet(11, 11, label_emb=True),
}
TEXT_ENCODERS: dict[str, tuple[str, ...]] = {
    "sd1": ("CLIP_L",),
    "sd2": ("CLIP_H",),
    "sdxl": ("CLIP_L", "CLIP_G"),
    "sdxl_refiner": ("CLIP_G",),
}
TEXT_LABELS = ("CLIP_L", "CLIP_H", "CLIP_G")
# Labels that are no part of the trained weights that a merge averages.
BUFFER_LABELS = ("EMA", "SCHEDULE", "MARKER", "OTHER")
# Every label there is, text encoders first, in the order in which tables list them.
ALL_LABELS: tuple[str, ...] = (*TEXT_LABELS, *UNET_LABELS["sdxl_refiner"], "VAE", *BUFFER_LABELS)
COMPONENTS = ("unet", "clip_l", "clip_h", "clip_g", "vae", "ema", "schedule", "marker", "other")
COMPONENT_PREFIXES: dict[str, tuple[str, ...]] = {
    "unet": (UNET_PREFIX,),
    "clip_l": ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer."),
    "clip_h": ("cond_stage_model.model.",),
    "clip_g": ("conditioner.embedders.1.model.", "conditioner.embedders.0.model."),
    "vae": (VAE_PREFIX,),
    "ema": (EMA_PREFIX,),
}

# Buffers of the noise schedule: top-level names of the training code's `DDPM` classes.
_SCHEDULE = re.compile(
    r"^(betas|alphas_cumprod(_prev)?|sqrt_(one_minus_)?alphas_cumprod|sqrt_recip(m1)?_alphas_cumprod"
    r"|sqrt_recipm?1?_alphas_cumprod|log_one_minus_alphas_cumprod|posterior_(variance|log_variance_clipped|mean_coef[12])"
    r"|logvar|scale_factor|lvlb_weights|denoiser\.(sigmas|log_sigmas)|model\.sigmas)$"
)
# Keys whose presence says how the model predicts; their values carry little or nothing.
MARKER_KEYS = ("v_pred", "ztsnr", "edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key lives.

    Attributes:
        label: the canonical block label (`IN04`, `CLIP_L`, `VAE`...).
        component: `unet`, `clip_l`, `clip_h`, `clip_g`, `vae`, `ema`, `schedule`, `marker` or `other`.
        sublabel: inside a text encoder `embeddings`, `layer 0`...; inside a VAE `encoder.down.0`...; else empty.
    """

    label: str
    component: str
    sublabel: str = ""


_BLOCK = re.compile(r"(input_blocks|output_blocks)\.(\d+)\.")
_TEXT_LAYER = re.compile(r"(?:encoder\.layers|transformer\.resblocks)\.(\d+)\.")
_VAE_BLOCK = re.compile(r"(encoder|decoder)\.(?:(down|up)\.(\d+)|(mid)|(conv_in|conv_out|norm_out))")


@lru_cache(maxsize=100_000)
def place(key: str) -> Place:
    """The place of a key in single-file naming; a key that nothing else claims is OTHER."""
    if key.startswith(UNET_PREFIX):
        label = unet_label(key.removeprefix(UNET_PREFIX))
        return Place(label, "unet" if label != "OTHER" else "other")
    for component, prefixes in COMPONENT_PREFIXES.items():
        for prefix in prefixes:
            if key.startswith(prefix):
                rest = key.removeprefix(prefix)
                if component == "vae":
                    return Place("VAE", "vae", vae_sublabel(rest))
                return Place(component.upper(), component, text_sublabel(rest) if component != "ema" else "")
    if _SCHEDULE.match(key):
        return Place("SCHEDULE", "schedule")
    if key in MARKER_KEYS:
        return Place("MARKER", "marker")
    return Place("OTHER", "other")


def unet_label(name: str) -> str:
    """The label of a UNET tensor named without `model.diffusion_model.`; OTHER for what no block holds."""
    if block := _BLOCK.match(name):
        return f"{'IN' if block[1] == 'input_blocks' else 'OUT'}{int(block[2]):02d}"
    for prefix, label in _TOP:
        if name.startswith(prefix):
            return label
    return "OTHER"


_TOP = (("middle_block.", "M00"), ("time_embed.", "TIME_EMBED"), ("label_emb.", "LABEL_EMB"), ("out.", "OUT"))


def text_sublabel(name: str) -> str:
    """`embeddings`, `layer 0`.. or `final` for a text encoder's tensor."""
    if layer := _TEXT_LAYER.search(name):
        return f"layer {int(layer[1])}"
    if "embedding" in name or "position_ids" in name:
        return "embeddings"
    return "final"


def vae_sublabel(name: str) -> str:
    """`encoder.down.0`, `decoder.mid`, `encoder.conv_in`... or `quant` for a VAE's tensor."""
    if block := _VAE_BLOCK.match(name):
        side, way, number, mid, end = block.groups()
        return f"{side}.{way}.{number}" if way else f"{side}.{mid or end}"
    return "quant"


def describe_label(label: str) -> str:
    """A few words on what a label is, for tables."""
    if label == "M00":
        return "middle block"
    if label.startswith("IN"):
        return "encoder block"
    if label.startswith("OUT") and label != "OUT":
        return "decoder block"
    return _EVERY[label]


@cache
def skip_partner(label: str, family: str) -> str | None:
    """The OUT block that takes the skip connection of an IN block: IN k feeds OUT (last - k)."""
    ins = [x for x in UNET_LABELS[family] if x.startswith("IN")]
    return f"OUT{len(ins) - 1 - ins.index(label):02d}" if label in ins else None


def in_order(labels) -> list[str]:
    """Labels sorted into network order: text encoders, conditioning, IN, M00, OUT, then VAE and buffers."""
    rank = {label: i for i, label in enumerate(ALL_LABELS)}
    return sorted(labels, key=lambda x: rank.get(x, len(rank)))
