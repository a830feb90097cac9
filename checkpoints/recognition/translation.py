"""Whole components between the diffusers and the single-file layout.

Nothing is read or copied: a translated tensor is the same byte ranges under another name, at most turned or stacked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..families import FAMILIES, Component, Family, family_of, layout
from ..families.parts import clip
from ..families.parts.part import renamed
from ..notices import Notice
from ..tensors import StoredTensor
from . import denoiser


@dataclass
class Translation:
    """Tensors under single-file keys, and what did not fit.

    Attributes:
        tensors: key in single-file naming -> tensor. Untranslated tensors are here too, as `<component>.<name>`.
        unknown: names that could not be translated.
        lacking: keys of the published single-file layout that the source does not have, of the components it has.
        dropped: names left out because the layout has no place for them and they carry nothing (position ids of CLIP-G).
        notes: what was renamed or reshaped, in sentences.
        family: the id of the family whose layout the keys follow, where that was found out.
    """

    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    notes: list[Notice] = field(default_factory=list)
    family: str | None = None

    def take(self, component: str, prefix: str, translated: Mapping[str, StoredTensor], left: Sequence[str]) -> None:
        """Add a component's translated tensors; `left` names what could not be translated."""
        self.tensors |= {prefix + name: tensor for name, tensor in translated.items()}
        self.unknown += [f"{component}.{name}" for name in left]


@dataclass
class DiffusersTranslation:
    """Tensors by component and diffusers name, and the keys that the diffusers layout has no place for."""

    components: dict[str, dict[str, StoredTensor]] = field(default_factory=dict)
    unplaced: list[str] = field(default_factory=list)


def to_single_file(
    component_files: Mapping[str, Sequence[StoredTensor]], family: str | Family | None = None
) -> Translation:
    """The components of a diffusers folder under single-file keys.

    Args:
        component_files: the folders `unet`, `vae`, `text_encoder`, `text_encoder_2` -> the tensors of their files.
        family: whose layout; None to find it out from the components.
    """
    family = family or diffusers_family(component_files)
    record = family_of(family) if family else None
    out = Translation(family=record.id if record else None)
    for folder, tensors in component_files.items():
        named = {t.name: t for t in tensors}
        prefix, translated, left = _folder_to_single_file(folder, named, record, out)
        out.take(folder, prefix, translated, left)
        for name in left:
            out.tensors[f"{folder}.{name}"] = named[name]
    if record is not None:
        out.lacking = _lacking(record, out.tensors, component_files)
    return out


def _in_folder(family: Family | None, folder: str) -> Component | None:
    """The component that a family's pipelines keep in a folder. A VAE of no certain family is that of all."""
    families = [family] if family else [f for f in FAMILIES.values() if folder == "vae"]
    return next((c for f in families for c in f.components if c.folder == folder), None)


def _folder_to_single_file(folder: str, named: dict[str, StoredTensor], family: Family | None, out: Translation):
    """The prefix, translated tensors and untranslated names of one folder."""
    if family and folder == family.core:
        done = denoiser.to_single_file(named, family)
        return family.prefix, done.tensors, done.left
    held = _in_folder(family, folder)
    if held is None:
        return "", {}, list(named)
    done = held.part.from_folder(named)
    out.dropped += [f"{folder}.{name}" for name in done.dropped]
    return held.prefix, done.tensors, done.left


def _lacking(family: Family, tensors: Mapping[str, StoredTensor], component_files: Mapping) -> list[str]:
    """Keys of the family's layout that are not there, of the components that are, and buffers of no component."""
    given = {c.id for c in family.components if c.folder in component_files}
    given |= {family.core, "schedule", "ema"} if family.core in component_files else set()
    return [key for key in layout(family) if key not in tensors and family.block_of(key).component in given]


def to_diffusers(tensors: Mapping[str, StoredTensor], family: str | Family) -> DiffusersTranslation:
    """Tensors under single-file keys as the components of a diffusers folder.

    Not placed are buffers, markers, EMA weights, unknown keys, and what the published folders leave out: the last layer
    and the projection of SD2's text encoder, `logit_scale`.
    """
    family = family_of(family)
    out = DiffusersTranslation()
    sorted_out: dict[str, dict[str, StoredTensor]] = {}
    prefixes = {family.core: family.prefix} | {c.folder: c.prefix for c in family.components}
    for key, tensor in tensors.items():
        folder = next((f for f, prefix in prefixes.items() if key.startswith(prefix)), None)
        if folder is None:
            out.unplaced.append(key)
        else:
            sorted_out.setdefault(folder, {})[key.removeprefix(prefixes[folder])] = tensor
    for folder, named in sorted_out.items():
        translated, left = _folder_to_diffusers(folder, named, family)
        out.unplaced += [prefixes[folder] + name for name in left]
        if translated:
            out.components[folder] = translated
    return out


def _folder_to_diffusers(folder: str, named: dict[str, StoredTensor], family: Family):
    if folder == family.core:
        done = renamed(named, lambda name: denoiser.diffusers_name(name, family))
        return done.tensors, done.left
    held = _in_folder(family, folder)
    unused = [n for n in named if held.unused and n.startswith(held.unused)]
    done = held.part.to_folder({n: t for n, t in named.items() if n not in unused})
    return done.tensors, unused + done.left


def diffusers_family(component_files: Mapping[str, Sequence[StoredTensor]]) -> str | None:
    """The family of a diffusers folder: its denoiser's, or the one whose text encoders it has."""
    if "unet" in component_files:
        return denoiser.diffusers_family({t.name: t.shape for t in component_files["unet"]})
    kinds = {
        folder: clip.clip_kind([t.name for t in tensors])
        for folder, tensors in component_files.items()
        if folder.startswith("text_encoder")
    }
    for family in FAMILIES.values():
        if kinds and kinds == {c.folder: c.id for c in family.components if c.part.text}:
            return family.id
    return None
