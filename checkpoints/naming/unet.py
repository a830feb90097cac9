"""The UNET's names: modules of the single-file layout beside those of diffusers' `UNet2DConditionModel`.

Single-file names stand without `model.diffusion_model.`. One table per way of counting the blocks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..architecture import Family
from ..tensors import Shape
from .tables import columns, inner_name, split_at, turned

_CONDITIONING = """
    time_embed.0            time_embedding.linear_1
    time_embed.2            time_embedding.linear_2
    label_emb.0.0           add_embedding.linear_1
    label_emb.0.2           add_embedding.linear_2
"""
_ENDS = """
    input_blocks.0.0        conv_in
    middle_block.0          mid_block.resnets.0
    middle_block.1          mid_block.attentions.0
    middle_block.2          mid_block.resnets.1
    out.0                   conv_norm_out
    out.2                   conv_out
"""
# SD1 and SD2: four levels, attention on the first three.
_SD1 = """
    input_blocks.1.0        down_blocks.0.resnets.0
    input_blocks.1.1        down_blocks.0.attentions.0
    input_blocks.2.0        down_blocks.0.resnets.1
    input_blocks.2.1        down_blocks.0.attentions.1
    input_blocks.3.0.op     down_blocks.0.downsamplers.0.conv
    input_blocks.4.0        down_blocks.1.resnets.0
    input_blocks.4.1        down_blocks.1.attentions.0
    input_blocks.5.0        down_blocks.1.resnets.1
    input_blocks.5.1        down_blocks.1.attentions.1
    input_blocks.6.0.op     down_blocks.1.downsamplers.0.conv
    input_blocks.7.0        down_blocks.2.resnets.0
    input_blocks.7.1        down_blocks.2.attentions.0
    input_blocks.8.0        down_blocks.2.resnets.1
    input_blocks.8.1        down_blocks.2.attentions.1
    input_blocks.9.0.op     down_blocks.2.downsamplers.0.conv
    input_blocks.10.0       down_blocks.3.resnets.0
    input_blocks.11.0       down_blocks.3.resnets.1
    output_blocks.0.0       up_blocks.0.resnets.0
    output_blocks.1.0       up_blocks.0.resnets.1
    output_blocks.2.0       up_blocks.0.resnets.2
    output_blocks.2.1.conv  up_blocks.0.upsamplers.0.conv
    output_blocks.3.0       up_blocks.1.resnets.0
    output_blocks.3.1       up_blocks.1.attentions.0
    output_blocks.4.0       up_blocks.1.resnets.1
    output_blocks.4.1       up_blocks.1.attentions.1
    output_blocks.5.0       up_blocks.1.resnets.2
    output_blocks.5.1       up_blocks.1.attentions.2
    output_blocks.5.2.conv  up_blocks.1.upsamplers.0.conv
    output_blocks.6.0       up_blocks.2.resnets.0
    output_blocks.6.1       up_blocks.2.attentions.0
    output_blocks.7.0       up_blocks.2.resnets.1
    output_blocks.7.1       up_blocks.2.attentions.1
    output_blocks.8.0       up_blocks.2.resnets.2
    output_blocks.8.1       up_blocks.2.attentions.2
    output_blocks.8.2.conv  up_blocks.2.upsamplers.0.conv
    output_blocks.9.0       up_blocks.3.resnets.0
    output_blocks.9.1       up_blocks.3.attentions.0
    output_blocks.10.0      up_blocks.3.resnets.1
    output_blocks.10.1      up_blocks.3.attentions.1
    output_blocks.11.0      up_blocks.3.resnets.2
    output_blocks.11.1      up_blocks.3.attentions.2
"""
# SDXL: three levels, attention on the last two.
_SDXL = """
    input_blocks.1.0        down_blocks.0.resnets.0
    input_blocks.2.0        down_blocks.0.resnets.1
    input_blocks.3.0.op     down_blocks.0.downsamplers.0.conv
    input_blocks.4.0        down_blocks.1.resnets.0
    input_blocks.4.1        down_blocks.1.attentions.0
    input_blocks.5.0        down_blocks.1.resnets.1
    input_blocks.5.1        down_blocks.1.attentions.1
    input_blocks.6.0.op     down_blocks.1.downsamplers.0.conv
    input_blocks.7.0        down_blocks.2.resnets.0
    input_blocks.7.1        down_blocks.2.attentions.0
    input_blocks.8.0        down_blocks.2.resnets.1
    input_blocks.8.1        down_blocks.2.attentions.1
    output_blocks.0.0       up_blocks.0.resnets.0
    output_blocks.0.1       up_blocks.0.attentions.0
    output_blocks.1.0       up_blocks.0.resnets.1
    output_blocks.1.1       up_blocks.0.attentions.1
    output_blocks.2.0       up_blocks.0.resnets.2
    output_blocks.2.1       up_blocks.0.attentions.2
    output_blocks.2.2.conv  up_blocks.0.upsamplers.0.conv
    output_blocks.3.0       up_blocks.1.resnets.0
    output_blocks.3.1       up_blocks.1.attentions.0
    output_blocks.4.0       up_blocks.1.resnets.1
    output_blocks.4.1       up_blocks.1.attentions.1
    output_blocks.5.0       up_blocks.1.resnets.2
    output_blocks.5.1       up_blocks.1.attentions.2
    output_blocks.5.2.conv  up_blocks.1.upsamplers.0.conv
    output_blocks.6.0       up_blocks.2.resnets.0
    output_blocks.7.0       up_blocks.2.resnets.1
    output_blocks.8.0       up_blocks.2.resnets.2
"""
# The SDXL refiner: four levels, attention on the middle two.
_REFINER = """
    input_blocks.1.0        down_blocks.0.resnets.0
    input_blocks.2.0        down_blocks.0.resnets.1
    input_blocks.3.0.op     down_blocks.0.downsamplers.0.conv
    input_blocks.4.0        down_blocks.1.resnets.0
    input_blocks.4.1        down_blocks.1.attentions.0
    input_blocks.5.0        down_blocks.1.resnets.1
    input_blocks.5.1        down_blocks.1.attentions.1
    input_blocks.6.0.op     down_blocks.1.downsamplers.0.conv
    input_blocks.7.0        down_blocks.2.resnets.0
    input_blocks.7.1        down_blocks.2.attentions.0
    input_blocks.8.0        down_blocks.2.resnets.1
    input_blocks.8.1        down_blocks.2.attentions.1
    input_blocks.9.0.op     down_blocks.2.downsamplers.0.conv
    input_blocks.10.0       down_blocks.3.resnets.0
    input_blocks.11.0       down_blocks.3.resnets.1
    output_blocks.0.0       up_blocks.0.resnets.0
    output_blocks.1.0       up_blocks.0.resnets.1
    output_blocks.2.0       up_blocks.0.resnets.2
    output_blocks.2.1.conv  up_blocks.0.upsamplers.0.conv
    output_blocks.3.0       up_blocks.1.resnets.0
    output_blocks.3.1       up_blocks.1.attentions.0
    output_blocks.4.0       up_blocks.1.resnets.1
    output_blocks.4.1       up_blocks.1.attentions.1
    output_blocks.5.0       up_blocks.1.resnets.2
    output_blocks.5.1       up_blocks.1.attentions.2
    output_blocks.5.2.conv  up_blocks.1.upsamplers.0.conv
    output_blocks.6.0       up_blocks.2.resnets.0
    output_blocks.6.1       up_blocks.2.attentions.0
    output_blocks.7.0       up_blocks.2.resnets.1
    output_blocks.7.1       up_blocks.2.attentions.1
    output_blocks.8.0       up_blocks.2.resnets.2
    output_blocks.8.1       up_blocks.2.attentions.2
    output_blocks.8.2.conv  up_blocks.2.upsamplers.0.conv
    output_blocks.9.0       up_blocks.3.resnets.0
    output_blocks.10.0      up_blocks.3.resnets.1
    output_blocks.11.0      up_blocks.3.resnets.2
"""
# Inside a residual block. Inside a transformer both layouts use the same names.
_RESNET = columns("""
    in_layers.0             norm1
    in_layers.2             conv1
    emb_layers.1            time_emb_proj
    out_layers.0            norm2
    out_layers.3            conv2
    skip_connection         conv_shortcut
""")

# Family -> single-file module -> diffusers module.
UNET_MODULES: dict[Family, dict[str, str]] = {
    "sd1": columns(_CONDITIONING + _SD1 + _ENDS),
    "sd2": columns(_CONDITIONING + _SD1 + _ENDS),
    "sdxl": columns(_CONDITIONING + _SDXL + _ENDS),
    "sdxl_refiner": columns(_CONDITIONING + _REFINER + _ENDS),
}
_FROM_DIFFUSERS = {family: turned(table) for family, table in UNET_MODULES.items()}
_RESNET_FROM_DIFFUSERS = turned(_RESNET)


def unet_key(name: str, family: Family) -> str | None:
    """The single-file name (without prefix) of a UNET tensor that diffusers calls `name`; None when there is none."""
    found = split_at(name, _FROM_DIFFUSERS[family])
    if found is None:
        return None
    module, rest = found
    inner = inner_name(rest, _RESNET_FROM_DIFFUSERS) if ".resnets." in module else rest
    return f"{_FROM_DIFFUSERS[family][module]}.{inner}" if inner else None


def unet_diffusers_name(name: str, family: Family) -> str | None:
    """The diffusers name of a UNET tensor by its single-file name (without prefix); None when there is none."""
    found = split_at(name, UNET_MODULES[family])
    if found is None:
        return None
    module = UNET_MODULES[family][found[0]]
    inner = inner_name(found[1], _RESNET) if ".resnets." in module else found[1]
    return f"{module}.{inner}" if inner else None


def is_diffusers_unet(names: Collection[str]) -> bool:
    """Whether names are those of a whole `UNet2DConditionModel`: not of a ControlNet, not of a LoRA."""
    ends = {"conv_in.weight", "conv_out.weight", "time_embedding.linear_1.weight"}
    return ends <= set(names) and any(n.startswith("up_blocks.") for n in names)


def unet_family(shapes: Mapping[str, Shape]) -> Family | None:
    """The family of a UNET in diffusers naming, by its structure; None when it is no Stable Diffusion UNET.

    Three levels with an added embedding are SDXL, four are its refiner. Without one, four levels whose transformers
    start with a convolution are SD1, with a linear layer SD2; where they have neither, the text's width decides.
    """
    levels = {n.split(".")[1] for n in shapes if n.startswith("down_blocks.")}
    if "add_embedding.linear_1.weight" in shapes:
        return {3: "sdxl", 4: "sdxl_refiner"}.get(len(levels))
    if len(levels) != 4:
        return None
    ranks = {len(shape) for n, shape in shapes.items() if n.endswith(".proj_in.weight")}
    if len(ranks) == 1:
        return {4: "sd1", 2: "sd2"}.get(ranks.pop())
    widths = {shape[-1] for n, shape in shapes.items() if n.endswith(".attn2.to_k.weight") and shape}
    return {768: "sd1", 1024: "sd2"}.get(widths.pop()) if len(widths) == 1 else None
