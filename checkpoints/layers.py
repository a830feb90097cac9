"""What kind of layer a tensor belongs to: `attn1.q`, `ff.in`, `norm`, `conv`...

The same short names select layers in a merge recipe, name the rows of a heatmap and the cells of a diagram.
"""

from __future__ import annotations

import re
from functools import lru_cache

from .blocks import place

# Kinds in the order in which tables list them; a group is what stands before the dot.
KINDS: tuple[str, ...] = (
    "conv",
    "skip",
    "norm",
    "emb",
    "proj",
    "attn1.q",
    "attn1.k",
    "attn1.v",
    "attn1.out",
    "attn2.q",
    "attn2.k",
    "attn2.v",
    "attn2.out",
    "attn.q",
    "attn.k",
    "attn.v",
    "attn.qkv",
    "attn.out",
    "ff.in",
    "ff.out",
    "other",
)
GROUPS: tuple[str, ...] = tuple(dict.fromkeys(k.split(".")[0] for k in KINDS))

# First match wins. Patterns see the key in single-file naming.
_UNET = [
    (r"\.(attn[12])\.to_([qkv])\.", r"\1.\2"),
    (r"\.(attn[12])\.to_out\.", r"\1.out"),
    (r"\.ff\.net\.0\.", "ff.in"),
    (r"\.ff\.net\.2\.", "ff.out"),
    (r"\.norm[123]?\.|\.in_layers\.0\.|\.out_layers\.0\.|\.out\.0\.", "norm"),
    (r"\.proj_(in|out)\.", "proj"),
    (r"\.skip_connection\.", "skip"),
    (r"\.emb_layers\.|\.time_embed\.|\.label_emb\.", "emb"),
    (r"\.in_layers\.2\.|\.out_layers\.3\.|\.op\.|\.conv\.|\.out\.2\.|input_blocks\.0\.0\.", "conv"),
]
_VAE = [
    (r"\.attn_\d+\.norm\.|\.norm\d?\.|\.norm_out\.", "norm"),
    (r"\.attn_\d+\.([qkv])\.", r"attn.\1"),
    (r"\.attn_\d+\.proj_out\.", "attn.out"),
    (r"\.nin_shortcut\.", "skip"),
    (r"conv", "conv"),
]
_TEXT = [
    (r"\.self_attn\.([qkv])_proj\.", r"attn.\1"),
    (r"\.self_attn\.out_proj\.|\.attn\.out_proj\.", "attn.out"),
    (r"\.attn\.in_proj_", "attn.qkv"),
    (r"\.mlp\.(fc1|c_fc)\.", "ff.in"),
    (r"\.mlp\.(fc2|c_proj)\.", "ff.out"),
    (r"\.layer_norm[12]\.|\.ln_[12]\.|\.ln_final\.|\.final_layer_norm\.|\.pre_layrnorm\.", "norm"),
    (r"embedding", "emb"),
    (r"text_projection", "proj"),
]
_TABLES = {"unet": _UNET, "vae": _VAE, "clip_l": _TEXT, "clip_h": _TEXT, "clip_g": _TEXT}


@lru_cache(maxsize=100_000)
def layer_kind(key: str) -> str:
    """The kind of layer of a key in single-file naming, one of `KINDS`; `other` where no pattern fits."""
    for pattern, kind in _TABLES.get(place(key).component, ()):
        if found := re.search(pattern, key):
            return found.expand(kind)
    return "other"


def in_group(kind: str, wanted: str) -> bool:
    """Whether a kind is `wanted` itself or belongs to that group: `attn1.q` is in `attn1` and in `attn1.q`."""
    return kind == wanted or kind.startswith(wanted + ".")
