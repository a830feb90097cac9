"""A LoRA's tensor names taken apart: the module, the part that the tensor plays in its formula, and the adapter's name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Role = Literal[
    "up", "down", "mid", "alpha", "scale", "magnitude", "up_bias", "diff", "diff_b", "w_norm", "b_norm",
    "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
    "ia3", "on_input", "ia3_l", "refused",
]  # fmt: skip

# Words of PEFT. `scale` is LyCORIS' magnitude, `magnitude` PEFT's.
_PEFT: dict[str, Role] = {"lora_B": "up", "lora_A": "down", "lora_magnitude_vector": "magnitude", "ia3_l": "ia3_l"}
# Words of LyCORIS, which PEFT has taken over.
_LYCORIS: dict[str, Role] = {
    role: role
    for role in (
        "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
        "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
    )
}  # fmt: skip
_KOHYA: dict[str, Role] = {
    "lora_up.weight": "up",
    "lora_down.weight": "down",
    "lora_mid.weight": "mid",
    "alpha": "alpha",
    "dora_scale": "scale",
    "diff": "diff",
    "diff_b": "diff_b",
    "w_norm": "w_norm",
    "b_norm": "b_norm",
    "weight": "ia3",
    "on_input": "on_input",
}


def _any_of(words: dict[str, Role]) -> str:
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True)))


# A module, a word, and behind PEFT's words the name of one of a model's adapters.
_WORD = re.compile(
    rf"(?P<module>.+?)[._](?P<word>{_any_of(_PEFT | _LYCORIS)})(?:\.(?P<adapter>.+?))??(?:\.(?P<last>weight|bias))?"
)
# diffusers: `to_q.lora.down.weight`, `q_proj.lora_linear_layer.down.weight`, and before 0.22 `processor.to_q_lora.down.weight`.
_SIDE = re.compile(r"(?P<module>.+?)[._]lora(?:_linear_layer)?[._](?P<side>up|down)\.weight")
_ENDING = re.compile(rf"(?P<module>.+?)(?:\.(?P<word>{_any_of(_KOHYA)})|_(?P<glued>lora_(?:up|down|mid)\.weight))")
# Relatives whose change is not a sum of products of stored factors, or that nobody here has asked for yet.
REFUSED = (
    ("OFT", re.compile(r"\.(oft_diag|oft_R(\.\w+)?|oft_blocks)$")),
    ("BOFT", re.compile(r"\.(boft_R|boft_s)$")),
    ("GLoRA", re.compile(r"\.(a1|a2|b1|b2|bm1|bm2)\.weight$")),
)


@dataclass(frozen=True, slots=True)
class Parted:
    """A tensor's name in its parts.

    Attributes:
        module: the name of what is changed, as the file has it.
        role: what the tensor is in the formula of the change.
        adapter: the name that PEFT gave the adapter; `default` where it left it out, None where names are not told.
        peft: whether PEFT's words are used.
    """

    module: str
    role: Role
    adapter: str | None = None
    peft: bool = False


# What PEFT calls an adapter that nobody gave a name.
UNNAMED = "default"


def split(name: str) -> Parted | None:
    """The parts of a tensor's name; None for an ending that no trainer uses."""
    if found := _WORD.fullmatch(name):
        word, adapter = found["word"], found["adapter"]
        if word in _LYCORIS:
            return Parted(found["module"], _LYCORIS[word], adapter, peft=adapter is not None)
        role = "up_bias" if (word, found["last"]) == ("lora_B", "bias") else _PEFT[word]
        return Parted(found["module"], role, adapter or UNNAMED, peft=True)
    if found := _SIDE.fullmatch(name):
        return Parted(found["module"], found["side"])
    if found := _ENDING.fullmatch(name):
        return Parted(found["module"], _KOHYA[found["word"] or found["glued"]])
    return None


def refused_kind(name: str) -> str | None:
    """`OFT`, `BOFT` or `GLoRA` for a tensor of one of them."""
    return next((kind for kind, pattern in REFUSED if pattern.search(name)), None)
