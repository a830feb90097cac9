"""A LoRA's tensor names taken apart: the module, and the part that the tensor plays in its formula."""

from __future__ import annotations

import re
from typing import Literal

Role = Literal[
    "up", "down", "mid", "alpha", "scale", "magnitude", "up_bias", "diff", "diff_b", "w_norm", "b_norm",
    "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
    "ia3", "on_input", "ia3_l", "refused",
]  # fmt: skip

# Endings by trainer; the longest that fits is cut off. `scale` is LyCORIS' magnitude, `magnitude` PEFT's.
_KOHYA: dict[str, Role] = {
    ".lora_up.weight": "up",
    ".lora_down.weight": "down",
    ".lora_mid.weight": "mid",
    ".alpha": "alpha",
    ".dora_scale": "scale",
    ".diff": "diff",
    ".diff_b": "diff_b",
    ".w_norm": "w_norm",
    ".b_norm": "b_norm",
    ".weight": "ia3",
    ".on_input": "on_input",
}
_LYCORIS: dict[str, Role] = {
    f".{role}": role
    for role in (
        "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
        "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
    )
}  # fmt: skip
_PEFT: dict[str, Role] = {
    ".lora_B.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.bias": "up_bias",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".ia3_l": "ia3_l",
}
_DIFFUSERS: dict[str, Role] = {
    ".lora.up.weight": "up",
    ".lora.down.weight": "down",
    "_lora.up.weight": "up",
    "_lora.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
}
_ENDINGS: dict[str, Role] = dict(
    sorted((_KOHYA | _LYCORIS | _PEFT | _DIFFUSERS).items(), key=lambda item: -len(item[0]))
)
# Relatives whose change is no sum of products of stored factors, or that nobody here has asked for yet.
REFUSED = (
    ("OFT", re.compile(r"\.(oft_diag|oft_R(\.\w+)?|oft_blocks)$")),
    ("BOFT", re.compile(r"\.(boft_R|boft_s)$")),
    ("GLoRA", re.compile(r"\.(a1|a2|b1|b2|bm1|bm2)\.weight$")),
)
# The name of the adapter that PEFT puts in where a model holds several, and the word that trainers wrap a module in.
_ADAPTER = re.compile(r"\.(lora_[AB]|lora_magnitude_vector|ia3_l|hada_\w+|lokr_\w+)\.default(?=\.|$)")
_WRAPPERS = ("base_model.model.", "base_model.")
_OLD_PROCESSOR = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"}
_OLD_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


def split(name: str) -> tuple[str, Role] | None:
    """The module and the role of a tensor; None for an ending that no trainer uses.

    Module names come out in the spelling of `names.by_spelling`.
    """
    plain = _ADAPTER.sub(r".\1", name)
    for wrapper in _WRAPPERS:
        plain = plain.removeprefix(wrapper)
    for ending, role in _ENDINGS.items():
        if plain.endswith(ending):
            module = plain.removesuffix(ending)
            return (_without_processor(module) if ending.startswith("_lora.") else module), role
    return None


def refused_kind(name: str) -> str | None:
    """`OFT`, `BOFT` or `GLoRA` for a tensor of one of them."""
    return next((kind for kind, pattern in REFUSED if pattern.search(name)), None)


def _without_processor(module: str) -> str:
    """`attn1.processor.to_out` (diffusers before 0.22) as `attn1.to_out.0`; in a text encoder as `out_proj`."""
    parent, _, last = module.rpartition(".")
    if parent.endswith(".processor"):
        return f"{parent.removesuffix('.processor')}.{_OLD_PROCESSOR.get(last, last)}"
    if parent.endswith(".self_attn"):
        return f"{parent}.{_OLD_TEXT.get(last, last)}"
    return f"{parent}.{_OLD_PROCESSOR.get(last, last)}"
