"""The tensors of any one file under single-file keys, whether it holds a checkpoint or one component."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..blocks import UNET_PREFIX, VAE_PREFIX
from ..tensors import StoredTensor
from . import text, unet, vae
from .translation import TEXT_FOLDERS, Translation, to_single_file

Named = dict[str, StoredTensor]

_CHECKPOINT = (UNET_PREFIX, VAE_PREFIX, "cond_stage_model.", "conditioner.")
_BARE_TEXT = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
_LDM_UNET = ("time_embed.", "label_emb.", "input_blocks.", "middle_block.", "output_blocks.", "out.")
_LDM_VAE = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
_CONTROLNET = ("zero_convs.", "input_hint_block.", "control_model.", "controlnet_", "middle_block_out.")
# A lone text encoder gets the prefix of the oldest family that has it.
_LONE_TEXT = {
    "clip_l": TEXT_FOLDERS["sd1"]["text_encoder"][1],
    "clip_h": TEXT_FOLDERS["sd2"]["text_encoder"][1],
    "clip_g": TEXT_FOLDERS["sdxl"]["text_encoder_2"][1],
}


def canonical_names(tensors: Sequence[StoredTensor]) -> Translation:
    """The tensors of one file under single-file keys; what is not recognised keeps its name.

    A full checkpoint passes through (with small repairs, which `notes` names), a lone UNET, VAE or text encoder in
    either naming gets its canonical prefix. LoRAs, ControlNets and anything else come out as they are.
    """
    named = {t.name: t for t in tensors}
    if any(name.startswith(_CHECKPOINT) for name in named):
        return _checkpoint(named)
    if not any(name.startswith(_CONTROLNET) for name in named):
        for read in (_lone_unet, _lone_vae, _lone_text):
            translation = read(named)
            if translation is not None:
                return translation
    return Translation(tensors=named)


def _checkpoint(named: Named) -> Translation:
    """A checkpoint with its prefixes: `text_model.` put back where it is missing, VAE attention as convolutions."""
    out = Translation()
    restored = reshaped = 0
    for name, tensor in named.items():
        key = _with_text_model(name)
        if key != name and key not in named:
            restored += 1
        else:
            key = name
        if key.startswith(VAE_PREFIX) and vae.is_attention_matrix(key) and len(tensor.shape) in (2, 3):
            tensor = vae.as_convolution(tensor)
            reshaped += 1
        out.tensors[key] = tensor
    if restored:
        out.notes.append(f"{restored} text encoder keys lacked `text_model.`, as in some SD1 files; it was put back")
    if reshaped:
        out.notes.append(f"{reshaped} attention matrices of the VAE are linear layers here; read as 1x1 convolutions")
    return out


def _with_text_model(name: str) -> str:
    for prefix in _BARE_TEXT:
        if name.startswith(prefix):
            return prefix + text.with_text_model(name.removeprefix(prefix))
    return name


def _lone(named: Named, what: str, rename: Callable[[str], str | None]) -> Translation:
    """One component of which every name is renamed, or kept when `rename` has no answer."""
    out = Translation(notes=[f"the file is a {what} alone"])
    for name, tensor in named.items():
        key = rename(name)
        if key is None:
            out.unknown.append(name)
        elif vae.is_attention_matrix(key) and key.startswith(VAE_PREFIX):
            tensor = vae.as_convolution(tensor)
        out.tensors[key or name] = tensor
    return out


def _lone_unet(named: Named) -> Translation | None:
    if unet.is_diffusers_unet(named):
        family = unet.unet_family({name: tensor.shape for name, tensor in named.items()})
        return _as_component("unet", named, family) if family else None
    wrapper = next((w for w in ("diffusion_model.", "") if w + "input_blocks.0.0.weight" in named), None)
    if wrapper is None:
        return None
    starts = tuple(wrapper + start for start in _LDM_UNET)
    return _lone(named, "UNET", lambda n: UNET_PREFIX + n.removeprefix(wrapper) if n.startswith(starts) else None)


def _lone_vae(named: Named) -> Translation | None:
    wrapper = "vae." if all(name.startswith("vae.") for name in named) else ""
    bare = {name.removeprefix(wrapper): tensor for name, tensor in named.items()}
    if any(name.startswith(("encoder.down_blocks.", "decoder.up_blocks.")) for name in bare):
        return _as_component("vae", bare, None)
    if any(name.startswith(("encoder.down.", "decoder.up.")) for name in bare):
        return _lone(bare, "VAE", lambda name: VAE_PREFIX + name if name.startswith(_LDM_VAE) else None)
    return None


def _as_component(component: str, named: Named, family) -> Translation:
    """A lone component in diffusers naming."""
    out = to_single_file({component: list(_renamed(named))}, family)
    # A lone component is no pipeline: it lacks no schedule.
    out.lacking = []
    out.notes.append(f"the file is a {component.upper()} alone, in diffusers naming")
    return out


def _renamed(named: Named):
    return (StoredTensor(name, t.dtype, t.shape, t.pieces) for name, t in named.items())


def _lone_text(named: Named) -> Translation | None:
    """CLIP-L, -H or -G alone, in the naming of transformers or of OpenCLIP, whichever its kind's layout wants."""
    bare = _unwrapped(named)
    own = {new: (old, named[old]) for new, old in bare.items()}
    open_clip = "token_embedding.weight" in own and "transformer.resblocks.0.ln_1.weight" in own
    hugging = "text_model.embeddings.token_embedding.weight" in own
    kind = text.clip_kind(list(own)) if open_clip or hugging else None
    if kind is None:
        return None
    prefix = _LONE_TEXT[kind]
    out = Translation(notes=[f"the file is a text encoder alone, {kind.replace('_', '-').upper()} by its layers"])
    tensors = {new: tensor for new, (_, tensor) in own.items()}
    if hugging and kind != "clip_l":
        tensors.pop(text.POSITION_IDS, None)
        out.dropped += [old for new, (old, _) in own.items() if new == text.POSITION_IDS]
        translated, left = text.to_open_clip(tensors)
    elif open_clip and kind == "clip_l":
        translated, left = text.from_open_clip(tensors)
    else:
        left = [name for name in tensors if not name.startswith(_OWN_NAMES[hugging])]
        translated = {name: tensor for name, tensor in tensors.items() if name not in left}
    out.tensors = {prefix + name: tensor for name, tensor in translated.items()}
    for name in left:
        old, tensor = own[name]
        out.unknown.append(old)
        out.tensors[old] = tensor
    return out


# The beginnings of a text encoder's own names, by whether they are those of transformers; a full CLIP has others too.
_OWN_NAMES = {
    True: ("text_model.", "text_projection.weight"),
    False: ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection", "logit_scale"),
}


def _unwrapped(named: Named) -> dict[str, str]:
    """Names without what some tools put before them and with transformers' `text_model.` -> the file's own names."""
    if any(name.startswith("transformer.text_model.") for name in named):
        wrapper = "transformer."
    else:
        wrapper = "model." if any(name.startswith("model.") for name in named) else ""
    out: dict[str, str] = {}
    for name in named:
        new = text.with_text_model(name.removeprefix(wrapper))
        out[name if new in out else new] = name
    return out
