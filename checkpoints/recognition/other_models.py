"""Files that are not a Stable Diffusion checkpoint, and the names of tensors that give them away.

The patterns see names whose numbers are all written as 0 (`name_forms`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from functools import lru_cache

from ..tensors import Shape
from ..text import counted

# LoRA and its relatives, by the names of the trainers that write them. First match names the kind.
_LORA = [
    ("LoHa (LyCORIS)", re.compile(r"\.hada_[wt]")),
    ("LoKr (LyCORIS)", re.compile(r"\.lokr_[wt]")),
    ("IA3 (LyCORIS)", re.compile(r"\.on_input$|\.ia3_")),
    ("OFT", re.compile(r"\.oft_(blocks|diag|R)\b")),
    (
        "LoRA",
        re.compile(
            r"^lora_(unet|te\d?|transformer|prior)_|[._]lora_(down|up|mid|A|B)\b|[._]lora\.(down|up)\b"
            r"|\.lora_linear_layer\.|^((unet|text_encoder(_\d)?):)?\d+:(up|down)$"
            r"|\.(w_norm|b_norm|diff|diff_b|dora_scale|lora_magnitude_vector(\.weight)?)$"
        ),
    ),
]
_CONTROLNET = re.compile(
    r"^control_model\.|^controlnet_|^lora_controlnet$|(^|\.)(zero_convs|input_hint_block|middle_block_out)\.\d"
    r"|controlnet_cond_embedding\.|control_add_embedding\."
)

# What steers a model and may hold LoRA layers of its own.
_ADAPTERS = [
    ("IP-Adapter", re.compile(r"^(ip_adapter|image_proj)\.")),
    ("PhotoMaker", re.compile(r"^id_encoder\.")),
    # A pair of small networks, for keys and values, under each width of text and features.
    ("hypernetwork", re.compile(r"^0\.0\.linear\.?0\.(weight|bias)$")),
]

# Models whose UNET resembles ours: what they are, and a tensor name that only they have.
_UNETS = [
    ("a Stable Video Diffusion checkpoint", r"\.(time_stack|time_mixer|temporal_transformer_blocks)\."),
    ("a ModelScope text-to-video model", r"\.temopral_conv\.|\.temp_convs\."),
    ("a SUPIR upscaler, which steers SDXL", r"(^|\.)project_modules\.\d"),
    ("the Stable Diffusion x4 upscaler", r"^model\.diffusion_model\.label_emb\.weight$|^class_embedding\.weight$"),
]
# Models without such a UNET. In a file with one, these names are junk.
_MODELS = [
    ("an SD3 checkpoint (a transformer without UNET blocks)", r"(^|\.)joint_blocks\.\d"),
    ("a Flux checkpoint, or a relative of it (a transformer without UNET blocks)", r"(^|\.)(double_blocks|single_blocks)\.\d"),
    ("an SD3 or Flux transformer in diffusers naming", r"(^|\.)transformer_blocks\.\d+\.(norm1_context|ff_context|attn\.add_)"),
    ("an AnimateDiff motion module", r"motion_modules\.\d"),
    ("a Stable Cascade checkpoint", r"(^|\.)(clip_txt_mapper|clip_txt_pooled_mapper)\.|\.channelwise\.\d"),
    (
        "a diffusion transformer (PixArt, Hunyuan, Lumina, Wan or the like)",
        r"^(model\.diffusion_model\.)?(blocks|layers)\.\d+\.(?!residual_group\.).*(attn|adaLN)",
    ),
    ("a T2I-Adapter", r"^(adapter\.)?body\.\d+\.(resnets|block\d|in_conv)\b"),
    ("an image upscaler", r"^(body|RRDB_trunk|model\.\d\.sub)\.\d+\.(rdb|RDB|conv)|^params_ema\b|^conv_first\."),
    ("an image upscaler", r"^layers\.\d+\.residual_group\."),  # SwinIR
    ("a T5 text encoder", r"(^|\.)encoder\.block\.\d+\.layer\.\d+\.SelfAttention\."),
    ("a CLIP with its image encoder", r"^vision_model\.|^visual\."),
]  # fmt: skip
_FOREIGN_UNETS = [(name, re.compile(pattern)) for name, pattern in _UNETS]
_FOREIGN = _FOREIGN_UNETS + [(name, re.compile(pattern)) for name, pattern in _MODELS]
# Textual inversions by their usual names; `string_to_token` says which token they stand for.
_EMBEDDING = re.compile(r"^(emb_params|string_to_param\..*|clip_[lgh]|text_encoders_\d|(\d\.)?<.+>)$")
_TOKEN = re.compile(r"^string_to_token(\.|$)")
# A token has a name of one word; a bare tensor, which is called so when it is read, is an aesthetic embedding.
_ONE_WORD, _ALONE = re.compile(r"[^.]+"), "tensor"
_MOST_EMBEDDINGS = 8
# Tokens that a text encoder reads at once, without its marks of begin and end: more vectors than that are a layer's weights.
_CONTEXT = 75


def name_forms(names: Collection[str]) -> Counter[str]:
    """The names with every number written as 0, and how often each form occurs.

    A checkpoint's thousands of names have a few hundred forms: looking at those is ten times as fast.
    """
    return _forms("\n".join(names)) if names else Counter()


@lru_cache(maxsize=2)
def _forms(names: str) -> Counter[str]:
    """Reading a file asks twice."""
    return Counter(re.sub(r"\d+", "0", names).split("\n"))


def lora_kind(forms: Counter[str]) -> str | None:
    """`LoRA`, `LoHa (LyCORIS)`... when most of the names are a LoRA's; a few of them in a checkpoint are junk."""
    lora = [form for form in forms if any(pattern.search(form) for _, pattern in _LORA)]
    if 2 * sum(forms[form] for form in lora) <= forms.total():
        return None
    return next(kind for kind, pattern in _LORA if any(pattern.search(form) for form in lora))


def controlnet_signs(forms: Counter[str]) -> bool:
    """Whether there are tensors that only a ControlNet has."""
    return any(_CONTROLNET.search(form) for form in forms)


def foreign_model(forms: Counter[str], has_unet: bool) -> str | None:
    """What a whole model of another architecture is, or None; `has_unet`: the file has a UNET's keys."""
    known = _FOREIGN_UNETS if has_unet else _FOREIGN
    return next((kind for kind, pattern in known if any(pattern.search(form) for form in forms)), None)


def adapter_kind(forms: Counter[str]) -> str | None:
    """`IP-Adapter`, `hypernetwork`...: what steers a model and is not part of one."""
    return next((kind for kind, pattern in _ADAPTERS if any(pattern.search(form) for form in forms)), None)


def embeddings(shapes: Mapping[str, Shape], widths: Collection[int]) -> tuple[str, dict[int, int]] | None:
    """What a file of embeddings is, and how many vectors of which width it holds; None where it is something else.

    Args:
        shapes: the file's own names -> shapes.
        widths: of the text encoders that are known. Names that tell nothing count where the width is one of these, and the
            vectors are no more than a prompt has room for.
    """
    vectors = {name: shape for name, shape in shapes.items() if not _TOKEN.match(name)}
    if not vectors or any(len(shape) not in (1, 2) for shape in vectors.values()):
        return None
    if not all(_EMBEDDING.match(name) for name in vectors) and not (
        len(vectors) <= _MOST_EMBEDDINGS
        and all(_ONE_WORD.fullmatch(name) for name in vectors)
        and all(shape[-1] in widths and (len(shape) == 1 or shape[0] <= _CONTEXT) for shape in vectors.values())
    ):
        return None
    found: dict[int, int] = {}
    for shape in vectors.values():
        found[shape[-1]] = found.get(shape[-1], 0) + (shape[0] if len(shape) == 2 else 1)
    return "an aesthetic embedding" if list(vectors) == [_ALONE] else "a textual inversion embedding", found


def small_file(forms: Counter[str]) -> str:
    """What a file without any known component looks like."""
    if not forms:
        return "a file without tensors"
    return f"no Stable Diffusion UNET, VAE or text encoder among its {counted(forms.total(), 'tensor')}"
