"""sd-mecha's dictionaries of block weights as lines of ours.

Its newer releases name blocks as everybody does (`BASE`, `IN04`, `OUT11`, `VAE`); the older ones had names of their own, for
blocks (`unet_block_in4`) and for classes of layers (`unet_class_trans_attn1_q`, `txt_class_default`), of SDXL's two text
encoders apart (`l14_txt_class_q`, `g14_txt_block_in04`).
"""

from __future__ import annotations

import re
from typing import Any

from ...checkpoints.errors import RecipeError
from ...checkpoints.families import FAMILIES
from ...checkpoints.families.conventions import CONVENTIONS

_NEW = re.compile(r"BASE|VAE|M00|(?:IN|OUT)\d\d")
_OLD = re.compile(r"(?:([a-z0-9-]+)_)??(unet|txt2?|vae)_(?:(block|class)_(\w+)|default)")
_BLOCK = re.compile(r"(in|out)(\d{1,2})")
_OTHER_BLOCKS = {"mid": "M00", "mid0": "M00", "mid00": "M00", "out": "OUT", "time_embed": "TIME_EMBED"}
# What the first names of components mean; SDXL's text encoders are txt and txt2, or l14_txt and g14_txt.
_COMPONENTS = {"unet": "UNET", "vae": "VAE", "txt": "BASE", "txt2": "CLIP_G", "l14_txt": "CLIP_L", "g14_txt": "CLIP_G"}
# Classes of layers in the UNET -> our kinds.
_CLASSES = {
    "trans_attn1_q": "attn1.q", "trans_attn1_k": "attn1.k", "trans_attn1_v": "attn1.v", "trans_attn1_out": "attn1.out",
    "trans_attn2_q": "attn2.q", "trans_attn2_k": "attn2.k", "trans_attn2_v": "attn2.v", "trans_attn2_out": "attn2.out",
    "trans_ff_net0_proj": "ff.in", "trans_ff_net2": "ff.out",
}  # fmt: skip
_PARTS = {
    "in0": "input_blocks.0.0", "op": "*.op", "proj_in": "proj_in", "proj_out": "proj_out", "trans_norm1": "norm1",
    "trans_norm2": "norm2", "trans_norm3": "norm3", "emb_layers1": "emb_layers.1", "in_layers0": "in_layers.0",
    "in_layers2": "in_layers.2", "out_layers0": "out_layers.0", "out_layers3": "out_layers.3",
    "skip_connection": "skip_connection", "out0": "diffusion_model.out.0", "out2": "diffusion_model.out.2",
    "norm": "norm", "conv": "conv", "time_embed0": "time_embed.0", "time_embed2": "time_embed.2",
}  # fmt: skip
_TEXT_PARTS = {
    "pos_embed": "position_embedding", "token_embed": "token_embedding", "final_norm": "final_layer_norm",
    "layer_norm1": "layer_norm1", "layer_norm2": "layer_norm2", "mlp_fc1": "mlp.fc1", "mlp_fc2": "mlp.fc2",
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "out": "self_attn.out_proj",
    "embed": "embeddings", "final": "final_layer_norm",
}  # fmt: skip
# Of OpenCLIP's encoder, whose parameters are not all inside modules: parts of keys to their last letter.
_OPENCLIP_PARTS = {
    "positional_embedding": "positional_embedding", "pos_embed": "positional_embedding", "text_projection": "text_projection",
    "text_proj": "text_projection", "token_embedding": "token_embedding.", "token_embed": "token_embedding.",
    "ln_final": "ln_final.", "logit_scale": "logit_scale", "attn_in_proj": "attn.in_proj_", "attn_out_proj": "attn.out_proj.",
    "ln_1": "ln_1.", "ln_2": "ln_2.", "mlp_c_fc": "mlp.c_fc.", "mlp_c_proj": "mlp.c_proj.",
}  # fmt: skip


def lines_of(values: dict[str, Any], config: str = "") -> tuple[dict[str, Any], list[str]]:
    """Block weights as our recipes write them, and sentences on what they do not say.

    Args:
        values: name -> number.
        config: sd-mecha's word for what the names are (`sd1-supermerger_blocks`), as far as it is written.

    Raises:
        RecipeError: a name that is not a block or class, or a value that is not a number.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RecipeError(f"the weight of {name!r} is not a number")
    if all(_NEW.fullmatch(name) for name in values):
        return _new(values, config)
    return _old(values)


def _new(values: dict[str, float], config: str) -> tuple[dict[str, Any], list[str]]:
    out: dict[str, Any] = {"convention": "sd-mecha", **values}
    family = next((family for family in FAMILIES.values() if family.mecha and family.id in config), None)
    known = CONVENTIONS["sd-mecha"].slots(family, family.mecha.slots) if family else ()
    missing = [label for label in known if label not in values]
    if not missing:
        return out, []
    shown = ", ".join(missing[:6]) + (", ..." if len(missing) > 6 else "")
    return out, [f"the weights have no {shown}; those stay with the first model"]


def _old(values: dict[str, float]) -> tuple[dict[str, Any], list[str]]:
    """Defaults first, then what they are the default of."""
    defaults: dict[str, float] = {}
    lines: dict[str, dict[str, float]] = {}
    notes = []
    for name, value in values.items():
        match = _OLD.fullmatch(name)
        if not match:
            raise RecipeError(f"{name!r} is not a block or class of layers that is known here")
        prefix, component, kind, part = match.groups()
        label = _COMPONENTS.get(f"{prefix}_{component}") or _COMPONENTS[component]
        if label == "BASE" and "txt2" in "".join(values):
            label = "CLIP_L"
        if not kind or part == "default":
            defaults[label] = value
        else:
            lines.setdefault(label, {})[_line(label, kind, part, name)] = value
        if kind == "block" and component == "unet" and not notes:
            notes.append(
                "sd-mecha of that time gave TIME_EMBED the mean of several blocks' weights; here it follows one block"
            )
    # A component whose numbers are all its default needs no line for each of its layers.
    own = [x for label, x in lines.items() if set(x.values()) != {defaults.get(label)}]
    return defaults | {line: value for each in own for line, value in each.items()}, notes


def _line(label: str, kind: str, part: str, name: str) -> str:
    """The selector of one block or class of a component."""
    block = _BLOCK.fullmatch(part)
    if label == "UNET" and kind == "block":
        if block:
            return f"{block[1].upper()}{int(block[2]):02d}"
        if part in _OTHER_BLOCKS:
            return _OTHER_BLOCKS[part]
    elif label == "UNET" and part in _CLASSES:
        return f"UNET {_CLASSES[part]}"
    elif label == "UNET" and part in _PARTS:
        return f"UNET key:*{_PARTS[part]}.*"
    elif label == "CLIP_G" and part in _OPENCLIP_PARTS:
        return f"CLIP_G key:*.{_OPENCLIP_PARTS[part]}*"
    elif label == "CLIP_G" and block and block[1] == "in":
        return f"CLIP_G key:*transformer.resblocks.{int(block[2])}.*"
    elif label in ("BASE", "CLIP_L") and part in _TEXT_PARTS:
        return f"{label} key:*{_TEXT_PARTS[part]}.*"
    elif label in ("BASE", "CLIP_L") and block and block[1] == "in":
        return f"{label} key:*encoder.layers.{int(block[2])}.*"
    raise RecipeError(f"{name!r} is not a block or class of layers that is known here")
