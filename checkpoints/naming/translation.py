"""Whole components between the diffusers and the single-file layout.

Nothing is read or copied: a translated tensor is the same byte ranges under another name, at most turned or stacked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..architecture import Family
from ..blocks import UNET_PREFIX, VAE_PREFIX, place
from ..layouts import layout
from ..tensors import StoredTensor
from . import text, unet, vae

# Family -> folder of a diffusers pipeline -> the text encoder in it and its prefix in the single-file layout.
TEXT_FOLDERS: dict[Family, dict[str, tuple[str, str]]] = {
    "sd1": {"text_encoder": ("clip_l", "cond_stage_model.transformer.")},
    "sd2": {"text_encoder": ("clip_h", "cond_stage_model.model.")},
    "sdxl": {
        "text_encoder": ("clip_l", "conditioner.embedders.0.transformer."),
        "text_encoder_2": ("clip_g", "conditioner.embedders.1.model."),
    },
    "sdxl_refiner": {"text_encoder_2": ("clip_g", "conditioner.embedders.0.model.")},
}
# What SD2's single file has of CLIP-H beyond the 23 layers that diffusers' SD2 folders hold.
_SD2_UNUSED = ("transformer.resblocks.23.", "text_projection")


@dataclass
class Translation:
    """Tensors under single-file keys, and what did not fit.

    Attributes:
        tensors: key in single-file naming -> tensor. Untranslated tensors are here too, as `<component>.<name>`.
        unknown: names that could not be translated.
        lacking: keys of the published single-file layout that the source does not have, of the components it has.
        dropped: names left out because the layout has no place for them and they carry nothing (position ids of CLIP-G).
        notes: what was renamed or reshaped, in sentences.
        family: the family whose layout the keys follow, where that was found out.
    """

    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    family: Family | None = None

    def take(self, component: str, prefix: str, translated: Mapping[str, StoredTensor], left: Sequence[str]) -> None:
        """Add a component's translated tensors; `left` names what could not be translated."""
        self.tensors |= {prefix + name: tensor for name, tensor in translated.items()}
        self.unknown += [f"{component}.{name}" for name in left]


@dataclass
class DiffusersTranslation:
    """Tensors by component and diffusers name, and the keys that the diffusers layout has no place for."""

    components: dict[str, dict[str, StoredTensor]] = field(default_factory=dict)
    unplaced: list[str] = field(default_factory=list)


def to_single_file(component_files: Mapping[str, Sequence[StoredTensor]], family: Family | None = None) -> Translation:
    """The components of a diffusers folder under single-file keys.

    Args:
        component_files: `unet`, `vae`, `text_encoder`, `text_encoder_2` -> the tensors of its files.
        family: whose layout; None to find it out from the components.
    """
    family = family or diffusers_family(component_files)
    out = Translation(family=family)
    for component, tensors in component_files.items():
        named = {t.name: t for t in tensors}
        prefix, translated, left = _component_to_single_file(component, named, family, out)
        out.take(component, prefix, translated, left)
        for name in left:
            out.tensors[f"{component}.{name}"] = named[name]
    if family is not None:
        out.lacking = _lacking(family, out.tensors, component_files)
    return out


def _component_to_single_file(component: str, named: dict[str, StoredTensor], family: Family | None, out: Translation):
    """The prefix, translated tensors and untranslated names of one component."""
    if component == "vae":
        return VAE_PREFIX, *_renamed(named, vae.vae_key, _vae_matrix)
    if component == "unet" and family:
        return UNET_PREFIX, *_renamed(named, lambda name: unet.unet_key(name, family))
    kind, prefix = TEXT_FOLDERS.get(family, {}).get(component, (None, ""))
    if kind == "clip_l":
        return prefix, *_renamed(named, _clip_l_key)
    if kind:
        out.dropped += [f"{component}.{n}" for n in named if text.with_text_model(n) == text.POSITION_IDS]
        kept = {n: t for n, t in named.items() if text.with_text_model(n) != text.POSITION_IDS}
        return prefix, *text.to_open_clip(kept)
    return "", {}, list(named)


def _clip_l_key(name: str) -> str | None:
    full = text.with_text_model(name)
    return full if full.startswith("text_model.") or full == "text_projection.weight" else None


def _vae_matrix(key: str, tensor: StoredTensor) -> StoredTensor:
    return vae.as_convolution(tensor) if vae.is_attention_matrix(key) else tensor


def _renamed(
    named: Mapping[str, StoredTensor],
    rename: Callable[[str], str | None],
    change: Callable[[str, StoredTensor], StoredTensor] = lambda _, tensor: tensor,
) -> tuple[dict[str, StoredTensor], list[str]]:
    """Every tensor under its new name, and the names that have none or whose new name is taken already."""
    out: dict[str, StoredTensor] = {}
    left = []
    for name, tensor in named.items():
        key = rename(name)
        if key is None or key in out:
            left.append(name)
        else:
            out[key] = change(key, tensor)
    return out, left


def _lacking(family: Family, tensors: Mapping[str, StoredTensor], component_files: Mapping) -> list[str]:
    """Keys of the family's layout that are not there, of the components that are, and buffers of no component."""
    given = {"unet", "vae"} & set(component_files)
    given |= {kind for folder, (kind, _) in TEXT_FOLDERS[family].items() if folder in component_files}
    given |= {"schedule", "ema"} if "unet" in given else set()
    return [key for key in layout(family) if key not in tensors and place(key).component in given]


def to_diffusers(tensors: Mapping[str, StoredTensor], family: Family) -> DiffusersTranslation:
    """Tensors under single-file keys as the components of a diffusers folder.

    Not placed are buffers, markers, EMA weights, unknown keys, and what the published folders leave out: the last layer
    and the projection of SD2's text encoder, `logit_scale`.
    """
    out = DiffusersTranslation()
    sorted_out: dict[str, dict[str, StoredTensor]] = {}
    prefixes = {"unet": UNET_PREFIX, "vae": VAE_PREFIX}
    prefixes |= {folder: prefix for folder, (_, prefix) in TEXT_FOLDERS[family].items()}
    for key, tensor in tensors.items():
        component = next((c for c, prefix in prefixes.items() if key.startswith(prefix)), None)
        if component is None:
            out.unplaced.append(key)
        else:
            sorted_out.setdefault(component, {})[key.removeprefix(prefixes[component])] = tensor
    for component, named in sorted_out.items():
        translated, left = _component_to_diffusers(component, named, family)
        out.unplaced += [prefixes[component] + name for name in left]
        if translated:
            out.components[component] = translated
    return out


def _component_to_diffusers(component: str, named: dict[str, StoredTensor], family: Family):
    if component == "vae":
        translated, left = _renamed(named, vae.vae_diffusers_name)
        matrices = {vae.vae_diffusers_name(name) for name in named if vae.is_attention_matrix(name)}
        return {n: vae.as_linear(t) if n in matrices else t for n, t in translated.items()}, left
    if component == "unet":
        return _renamed(named, lambda name: unet.unet_diffusers_name(name, family))
    kind, _ = TEXT_FOLDERS[family][component]
    if kind == "clip_l":
        return _renamed(named, _clip_l_key)
    unused = [n for n in named if family == "sd2" and n.startswith(_SD2_UNUSED)]
    translated, left = text.from_open_clip({n: t for n, t in named.items() if n not in unused})
    return translated, unused + left


def diffusers_family(component_files: Mapping[str, Sequence[StoredTensor]]) -> Family | None:
    """The family of a diffusers folder: its UNET's, or the one whose text encoders it has."""
    if "unet" in component_files:
        return unet.unet_family({t.name: t.shape for t in component_files["unet"]})
    kinds = {
        folder: text.clip_kind([t.name for t in tensors])
        for folder, tensors in component_files.items()
        if folder.startswith("text_encoder")
    }
    for family, folders in TEXT_FOLDERS.items():
        if kinds and kinds == {folder: kind for folder, (kind, _) in folders.items()}:
            return family
    return None
