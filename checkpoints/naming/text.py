"""The text encoders' names: OpenCLIP's, which SD2 and SDXL files use for CLIP-H and -G, beside those of transformers.

CLIP-L has the names of transformers in both layouts. OpenCLIP keeps q, k and v in one tensor, and its text projection
stands the other way round: x @ P instead of x @ P.T.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace

from ..tensors import StoredTensor
from .tables import columns, turned

# Single-file names without prefix, and those of transformers without `text_model.`.
_WHOLE = columns("""
    token_embedding.weight      embeddings.token_embedding.weight
    positional_embedding        embeddings.position_embedding.weight
    ln_final.weight             final_layer_norm.weight
    ln_final.bias               final_layer_norm.bias
""")
# Inside `transformer.resblocks.N` and `encoder.layers.N`.
_LAYER = columns("""
    ln_1                        layer_norm1
    ln_2                        layer_norm2
    mlp.c_fc                    mlp.fc1
    mlp.c_proj                  mlp.fc2
    attn.out_proj               self_attn.out_proj
""")
_QKV = ("q_proj", "k_proj", "v_proj")
_WHOLE_FROM_HF, _LAYER_FROM_HF = turned(_WHOLE), turned(_LAYER)
_HF_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_HF_QKV = re.compile(r"encoder\.layers\.(\d+)\.self_attn\.([qkv]_proj)\.(weight|bias)")
_OPEN_LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)")
_OPEN_QKV = re.compile(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)")
_BARE = re.compile(r"(embeddings|encoder\.layers|final_layer_norm)\.")
_LAYER_NUMBER = re.compile(r"(?:(?:text_model\.)?encoder\.layers|transformer\.resblocks)\.(\d{1,4})\.")
POSITION_IDS = "text_model.embeddings.position_ids"

Named = dict[str, StoredTensor]


def with_text_model(name: str) -> str:
    """A transformers name with its `text_model.`, which transformers 5 leaves out of a bare text model."""
    return f"text_model.{name}" if _BARE.match(name) else name


def to_open_clip(tensors: Mapping[str, StoredTensor]) -> tuple[Named, list[str]]:
    """Tensors under transformers names -> under OpenCLIP names, q, k and v fused; and the names that have no place."""
    out: Named = {}
    left: list[str] = []
    fused: dict[str, dict[str, str]] = {}
    for full in tensors:
        name = with_text_model(full).removeprefix("text_model.")
        if qkv := _HF_QKV.fullmatch(name):
            number, part, kind = qkv.groups()
            key = f"transformer.resblocks.{number}.attn.in_proj_{kind}"
            if part in fused.setdefault(key, {}):
                left.append(full)
                continue
            fused[key][part] = full
            out.setdefault(key, tensors[full])  # holds the place in the order of the file
        elif (key := _open_clip_key(name)) is None or key in out:
            left.append(full)
        else:
            out[key] = tensors[full].transposed() if key == "text_projection" else tensors[full]
    for key, parts in fused.items():
        whole = _fuse([tensors[parts[part]] for part in _QKV if part in parts])
        if whole is None:
            del out[key]
            left.extend(parts.values())
        else:
            out[key] = whole
    return out, left


def from_open_clip(tensors: Mapping[str, StoredTensor]) -> tuple[Named, list[str]]:
    """Tensors under OpenCLIP names -> under transformers names with `text_model.`; and the names that have no place."""
    out: Named = {}
    left: list[str] = []
    for name, tensor in tensors.items():
        if qkv := _OPEN_QKV.fullmatch(name):
            number, kind = qkv.groups()
            parts = _thirds(tensor)
            if parts is None:
                left.append(name)
                continue
            for part, third in zip(_QKV, parts, strict=True):
                out[f"text_model.encoder.layers.{number}.self_attn.{part}.{kind}"] = third
        elif name == "text_projection":
            out["text_projection.weight"] = tensor.transposed()
        elif (key := _hf_name(name)) is None:
            left.append(name)
        else:
            out[key] = tensor
    return out, left


def _open_clip_key(name: str) -> str | None:
    """The OpenCLIP name of a transformers name (without `text_model.`) that is no q, k or v."""
    if name == "text_projection.weight":
        return "text_projection"
    if layer := _HF_LAYER.fullmatch(name):
        number, module, kind = layer.groups()
        inner = _LAYER_FROM_HF.get(module)
        return f"transformer.resblocks.{number}.{inner}.{kind}" if inner else None
    return _WHOLE_FROM_HF.get(name) or (name if name == "logit_scale" else None)


def _hf_name(name: str) -> str | None:
    """The transformers name of an OpenCLIP name that is no fused q, k, v."""
    if layer := _OPEN_LAYER.fullmatch(name):
        number, module, kind = layer.groups()
        inner = _LAYER.get(module)
        return f"text_model.encoder.layers.{number}.{inner}.{kind}" if inner else None
    return f"text_model.{_WHOLE[name]}" if name in _WHOLE else None


def _fuse(parts: list[StoredTensor]) -> StoredTensor | None:
    """q, k and v stacked; None when one of them is missing or they do not fit together."""
    if len(parts) != len(_QKV) or any(p.dtype != parts[0].dtype or p.shape != parts[0].shape for p in parts):
        return None
    return StoredTensor.concatenated(parts) if parts[0].shape else None


def _thirds(tensor: StoredTensor) -> list[StoredTensor] | None:
    """q, k and v out of a fused tensor, in one piece or in the three that it was fused of; None when it has no thirds."""
    if not tensor.shape or tensor.shape[0] % 3:
        return None
    size = tensor.shape[0] // 3
    if len(tensor.pieces) == 1:
        return [tensor.rows(i * size, (i + 1) * size) for i in range(3)]
    shape = (size, *tensor.shape[1:])
    if [piece.shape for piece in tensor.pieces] != [shape] * 3:
        return None
    return [replace(tensor, shape=shape, pieces=(piece,)) for piece in tensor.pieces]


def layer_count(names: Collection[str]) -> int:
    """How many transformer layers of the text encoder names of either kind number; a full CLIP has others beside."""
    found = (_LAYER_NUMBER.match(name) for name in names)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def clip_kind(names: Collection[str]) -> str | None:
    """`clip_l`, `clip_h` or `clip_g` by the number of layers; None when it is none of them.

    diffusers' SD2 folders leave out the last of CLIP-H's 24 layers, which SD2 does not use.
    """
    return {12: "clip_l", 23: "clip_h", 24: "clip_h", 32: "clip_g"}.get(layer_count(names))
