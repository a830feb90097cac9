"""The text encoders of Stable Diffusion: OpenAI's CLIP-L as transformers names it, OpenCLIP's -H and -G as open_clip does.

SD2 and SDXL files have OpenCLIP's names; both kinds are read for all of them. OpenCLIP keeps q, k and v in one tensor, and its
text projection stands the other way round: x @ P instead of x @ P.T.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...notices import Notice
from .modules import linear, named, norm
from .part import Opening, Part, Renamed, Tensors, renamed
from .tables import columns, turned

if TYPE_CHECKING:  # it needs numpy, without which a family is known
    from ...tensors import StoredTensor

VOCABULARY = 49408
TOKENS = 77


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """The sizes of a text encoder. Its MLP is four times as wide."""

    width: int
    layers: int
    heads: int


def clip(spec: TextEncoder) -> Tensors:
    """All tensors of CLIP-L, without its prefix."""
    return named("text_model", _clip(spec))


def _clip(spec: TextEncoder) -> Tensors:
    width = spec.width
    yield "embeddings.position_ids", (1, TOKENS)
    yield "embeddings.token_embedding.weight", (VOCABULARY, width)
    yield "embeddings.position_embedding.weight", (TOKENS, width)
    for i in range(spec.layers):
        layer = f"encoder.layers.{i}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from linear(f"{layer}.self_attn.{part}", width, width)
        yield from norm(f"{layer}.layer_norm1", width)
        yield from linear(f"{layer}.mlp.fc1", width, 4 * width)
        yield from linear(f"{layer}.mlp.fc2", 4 * width, width)
        yield from norm(f"{layer}.layer_norm2", width)
    yield from norm("final_layer_norm", width)


def open_clip(spec: TextEncoder) -> Tensors:
    """All tensors of an OpenCLIP text encoder, without its prefix."""
    width = spec.width
    yield "positional_embedding", (TOKENS, width)
    yield "text_projection", (width, width)  # used as x @ text_projection: inputs first
    yield "logit_scale", ()
    for i in range(spec.layers):
        block = f"transformer.resblocks.{i}"
        yield from norm(f"{block}.ln_1", width)
        yield f"{block}.attn.in_proj_weight", (3 * width, width)  # q, k, v
        yield f"{block}.attn.in_proj_bias", (3 * width,)
        yield from linear(f"{block}.attn.out_proj", width, width)
        yield from norm(f"{block}.ln_2", width)
        yield from linear(f"{block}.mlp.c_fc", width, 4 * width)
        yield from linear(f"{block}.mlp.c_proj", 4 * width, width)
    yield "token_embedding.weight", (VOCABULARY, width)
    yield from norm("ln_final", width)


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

Named = dict[str, "StoredTensor"]

KINDS = (
    (r"\.self_attn\.([qkv])_proj\.", r"attn.\1"),
    (r"\.self_attn\.out_proj\.|\.attn\.out_proj\.", "attn.out"),
    (r"\.attn\.in_proj_", "attn.qkv"),
    (r"\.mlp\.(fc1|c_fc)\.", "ff.in"),
    (r"\.mlp\.(fc2|c_proj)\.", "ff.out"),
    (r"\.layer_norm[12]\.|\.ln_[12]\.|\.ln_final\.|\.final_layer_norm\.|\.pre_layrnorm\.", "norm"),
    (r"embedding", "emb"),
    (r"text_projection", "proj"),
)
_TEXT_LAYER = re.compile(r"(?:encoder\.layers|transformer\.resblocks)\.(\d+)\.")


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
    """The transformers name of an OpenCLIP name that is not a fused q, k, v."""
    if layer := _OPEN_LAYER.fullmatch(name):
        number, module, kind = layer.groups()
        inner = _LAYER.get(module)
        return f"text_model.encoder.layers.{number}.{inner}.{kind}" if inner else None
    return f"text_model.{_WHOLE[name]}" if name in _WHOLE else None


def _fuse(parts: list[StoredTensor]) -> StoredTensor | None:
    """q, k and v stacked; None when one of them is missing or they do not fit together."""
    if len(parts) != len(_QKV) or any(p.dtype != parts[0].dtype or p.shape != parts[0].shape for p in parts):
        return None
    return type(parts[0]).concatenated(parts) if parts[0].shape else None


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


def sublabel(name: str) -> str:
    """`embeddings`, `layer 0`.. or `final` for a text encoder's tensor."""
    if layer := _TEXT_LAYER.search(name):
        return f"layer {int(layer[1])}"
    if "embedding" in name or "position_ids" in name:
        return "embeddings"
    return "final"


def is_open_clip(part: Part) -> bool:
    """Whether single files hold a text encoder under OpenCLIP's names."""
    return part.tensors is open_clip


def _as_they_are(named: Named) -> Renamed:
    return Renamed(dict(named))


def _with_text_model(named: Named) -> Renamed:
    """CLIP-L of a single file, its `text_model.` put back where it is missing."""
    bare = {name for name in named if with_text_model(name) not in named}
    out = Renamed({with_text_model(name) if name in bare else name: tensor for name, tensor in named.items()})
    if bare:
        text = f"{len(bare)} text encoder keys lacked `text_model.`, as in some SD1 files; it was put back"
        out.notes.append(Notice("names.text_model_lacking", text, tuple(sorted(bare))))
    return out


def _of_transformers(named: Named) -> Renamed:
    """CLIP-L of a diffusers folder: both layouts have the names of transformers."""

    def key(name: str) -> str | None:
        full = with_text_model(name)
        return full if full.startswith("text_model.") or full == "text_projection.weight" else None

    return renamed(named, key)


def _read_open_clip(named: Named) -> Renamed:
    """CLIP-L under OpenAI's names, which are OpenCLIP's."""
    return Renamed(*from_open_clip(named))


def _read_transformers(named: Named) -> Renamed:
    """An OpenCLIP under the names of transformers; its positions carry nothing."""
    dropped = [name for name in named if with_text_model(name) == POSITION_IDS]
    tensors, left = to_open_clip({name: tensor for name, tensor in named.items() if name not in dropped})
    return Renamed(tensors, left, dropped)


# Where its names begin behind a prefix; an image encoder has the same inside `vision_model.` and `visual.`.
_HF = Opening(
    ("encoder.layers.", "embeddings.token_embedding."),
    re.compile(
        r"(?:^|(?<=\.))(?<!vision_model\.)(?:text_model\.)?"
        r"(?:encoder\.layers\.\d+\.(?:self_attn|mlp|layer_norm[12])\.|embeddings\.token_embedding\.)"
    ),
)
_OPEN = Opening(
    ("transformer.resblocks.", "ln_final."),
    re.compile(r"(?:^|(?<=\.))(?<!visual\.)(?:transformer\.resblocks\.\d+\.(?:attn|mlp|ln_[12])\b|ln_final\.)"),
)
_HF_HEADS = ("text_model.", "text_projection.weight", "embeddings.", "encoder.layers.", "final_layer_norm.")
_OPEN_HEADS = (
    "transformer.resblocks.",
    "token_embedding.",
    "positional_embedding",
    "ln_final.",
    "text_projection",
    "logit_scale",
)


CLIP_L = Part(
    "clip_l",
    "text encoder CLIP-L",
    "text encoder, OpenAI CLIP ViT-L/14",
    text=True,
    prefixes=("cond_stage_model.transformer.", "conditioner.embedders.0.transformer."),
    tensors=clip,
    kinds=KINDS,
    sublabel=sublabel,
    native=_HF,
    translated=_OPEN,
    heads=_HF_HEADS,
    translated_heads=_OPEN_HEADS,
    read=_with_text_model,
    read_translated=_read_open_clip,
    from_folder=_of_transformers,
    to_folder=_of_transformers,
    anchor="token_embedding.weight",
    fits=lambda names: clip_kind(names) == "clip_l",
)
CLIP_H = Part(
    "clip_h",
    "text encoder CLIP-H",
    "text encoder, OpenCLIP ViT-H/14",
    text=True,
    prefixes=("cond_stage_model.model.",),
    tensors=open_clip,
    kinds=KINDS,
    sublabel=sublabel,
    native=_OPEN,
    translated=_HF,
    heads=_OPEN_HEADS,
    translated_heads=(*_HF_HEADS, "logit_scale"),
    read=_as_they_are,
    read_translated=_read_transformers,
    from_folder=_read_transformers,
    to_folder=_read_open_clip,
    anchor="token_embedding.weight",
    fits=lambda names: clip_kind(names) == "clip_h",
)
CLIP_G = Part(
    "clip_g",
    "text encoder CLIP-G",
    "text encoder, OpenCLIP ViT-bigG/14",
    text=True,
    prefixes=("conditioner.embedders.1.model.", "conditioner.embedders.0.model."),
    tensors=open_clip,
    kinds=KINDS,
    sublabel=sublabel,
    native=_OPEN,
    translated=_HF,
    heads=_OPEN_HEADS,
    translated_heads=(*_HF_HEADS, "logit_scale"),
    read=_as_they_are,
    read_translated=_read_transformers,
    from_folder=_read_transformers,
    to_folder=_read_open_clip,
    anchor="token_embedding.weight",
    fits=lambda names: clip_kind(names) == "clip_g",
)


def config(spec: TextEncoder, part: Part, unused: int = 0) -> dict[str, Any]:
    """Arguments of `transformers.CLIPTextConfig`; `unused` is how many of its last layers diffusers leaves out."""
    return {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": TOKENS,
        "hidden_size": spec.width,
        "intermediate_size": 4 * spec.width,
        "num_hidden_layers": spec.layers - unused,
        "num_attention_heads": spec.heads,
        "hidden_act": "gelu" if is_open_clip(part) else "quick_gelu",
        "projection_dim": spec.width,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
