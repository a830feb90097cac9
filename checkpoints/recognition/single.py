"""The tensors of any one file under single-file keys, whatever their names begin with.

A component is found by what it holds: a UNET by `input_blocks.4.0.` or `down_blocks.1.resnets.0.`, a text encoder by its
layers. What stands before that is its prefix, be it `model.diffusion_model.`, `unet.`, `text_encoders.clip_l.` or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..families import FAMILIES, Family, Part, family_by, known_parts
from ..families.any import beside_parts
from ..families.parts.part import Renamed
from ..families.signs import Signs
from ..notices import Notice
from ..tensors import StoredTensor
from ..text import counted
from . import denoiser
from .other_models import lora_kind, name_forms
from .translation import Translation

Named = dict[str, StoredTensor]

_CONTROLNET = ("zero_convs.", "input_hint_block.", "control_model.", "controlnet_", "middle_block_out.")
# What some tools put around a text encoder's names, next to which single names stand without it.
_TEXT_WRAPPER = "transformer."
# What PEFT calls a layer inside of the one that it puts in its place.
_PEFT_LAYER = ".base_layer."
_TEXT_SINGLES = ("logit_scale", "text_projection", "text_projection.weight")


@dataclass(frozen=True, eq=False)
class Located:
    """A component in a file.

    Attributes:
        what: the family whose denoiser it is, or the text encoder or VAE.
        prefix: what its names begin with in the file.
        native: whether its names are those of single files, not those of diffusers and transformers.
        target: the prefix that its keys get.
    """

    what: Family | Part
    prefix: str
    native: bool
    target: str

    @property
    def title(self) -> str:
        return self.what.title if isinstance(self.what, Part) else self.what.core_title

    @property
    def naming(self) -> str:
        return "" if self.native else ", in the naming of diffusers or transformers"

    def holds(self, name: str) -> bool:
        """Whether a name of the file is the component's."""
        if name.startswith(self.prefix):
            return self.prefix == self.target or name.startswith(self.native_heads or "", len(self.prefix))
        around = self.prefix.removesuffix(_TEXT_WRAPPER)
        return around != self.prefix and name.startswith(around) and name[len(around) :] in _TEXT_SINGLES

    @property
    def native_heads(self) -> tuple[str, ...]:
        """Beginnings of its names, where they tell its names from others'."""
        if isinstance(self.what, Part):
            return self.what.heads if self.native else self.what.translated_heads
        return self.what.heads if self.native else ()


def canonical_names(tensors: Sequence[StoredTensor]) -> Translation:
    """The tensors of one file under single-file keys; what is not recognised keeps its name.

    A full checkpoint passes through (with small repairs, which `notes` names); components with other prefixes or names get
    their own, alone or side by side. LoRAs, ControlNets and anything else come out as they are.
    """
    named = {t.name: t for t in tensors}
    if lora_kind(name_forms(named)) is not None:
        return Translation(tensors=named)
    notes, named = _unwrapped(named)
    known = _known_prefixes()
    whole = any(name.startswith(known) for name in named)
    wrapper = "" if whole else _wrapper(named, known)
    if not whole and not wrapper and any(name.startswith(_CONTROLNET) for name in named):
        return Translation(tensors=named)
    own = {name.removeprefix(wrapper): tensor for name, tensor in named.items()}
    if len(own) < len(named):  # two names that differ in the wrapper alone
        own, wrapper = named, ""
    out = Translation(notes=notes)
    if wrapper:
        text = f"every name begins with `{wrapper}`, which was taken off"
        out.notes.append(Notice("names.wrapper", text, (wrapper,)))
    found, family = components_of(own)
    if family is None and found:
        parts = {name for members in _members(own, found).values() for name in members}
        if beside_parts({name: tensor.shape for name, tensor in own.items()}, parts):
            return Translation(tensors=named)
    if family is not None and not found[0].native:
        out.family = family.id
    _translate(own, found, out, lone=not whole and not wrapper)
    return out


def _unwrapped(named: Named) -> tuple[list[Notice], Named]:
    """The names without the word that PEFT puts into those of layers with an adapter, and a note on it.

    Names stay where the adapters are still there: what the layers do is in both, and the adapters' scale is not in the file.
    """
    wrapped = [name for name in named if _PEFT_LAYER in name]
    if not wrapped:
        return [], named
    if any(".lora_" in name for name in named):
        layers = counted(len(wrapped), "tensor")
        text = f"{layers} of layers with an adapter of PEFT, which is not merged: merge it where it was trained"
        return [Notice("names.adapter_not_merged", text)], named
    plain = {name.replace(_PEFT_LAYER, "."): tensor for name, tensor in named.items()}
    if len(plain) < len(named):
        return [], named
    text = f"{counted(len(wrapped), 'name')} of PEFT's layers were read without `{_PEFT_LAYER[1:]}`"
    return [Notice("names.adapter_layers", text)], plain


def _known_prefixes() -> tuple[str, ...]:
    """The prefixes of whole checkpoints."""
    own = {family.prefix for family in FAMILIES.values() if family.prefix}
    shared = {prefix for part in known_parts().values() for prefix in part.prefixes}
    return tuple(sorted(own | shared))


def _wrapper(named: Named, known: tuple[str, ...]) -> str:
    """What stands before every prefix of a checkpoint (`module.`); empty where there is no one such word."""
    found = {
        name[:at]
        for name in named
        for prefix in known
        if (at := name.find("." + prefix) + 1) and name[:at].count(".") < 3
    }
    if len(found) != 1:
        return ""
    (wrapper,) = found
    return wrapper if all(name.startswith(wrapper) for name in named) else ""


# -- where the components are ------------------------------------------------------------------------------------------------


def components_of(named: Named) -> tuple[list[Located], Family | None]:
    """The components that names and shapes show, the denoiser first, and the denoiser's family."""
    parts = _parts(named)
    core = _denoiser(named, tuple(part.id for part, _, _ in parts))
    family = core.what if core is not None else None
    found = [core] if core is not None else []
    for part, prefix, native in parts:
        if any(f.what is part for f in found):
            continue
        held = family.component(part.id) if family else None
        usual = held.prefix if held else part.prefixes[0]
        found.append(Located(part, prefix, native, prefix if native and prefix in part.prefixes else usual))
    return found, family


def _denoiser(named: Named, parts: tuple[str, ...]) -> Located | None:
    """The denoiser: behind the prefix of its family, or where most of its names are."""
    for family in FAMILIES.values():
        if family.native is None and (found := _behind_known_prefix(named, family, parts)):
            return found
    for native, translated, owner in _unet_patterns():
        for pattern in (native, translated):
            counted = pattern.prefixes(named)
            for prefix in sorted(counted, key=lambda p: (p != owner.prefix, -counted[p])):
                if found := _unet_at(named, prefix, pattern is native, owner, parts):
                    return found
    return None


def _unet_patterns():
    """(native pattern, translated pattern, a family that has them), each pair once."""
    pairs = {}
    for family in FAMILIES.values():
        if family.native is not None:
            pairs.setdefault((family.native, family.translated), family)
    return [(native, translated, family) for (native, translated), family in pairs.items()]


def _unet_at(named: Named, prefix: str, native: bool, owner: Family, parts: tuple[str, ...]) -> Located | None:
    """The denoiser behind a prefix, None when what is there is half a one (a ControlNet's encoder) or none."""
    if prefix.startswith(_CONTROLNET) or prefix.startswith("model_ema"):
        return None
    shapes = {n.removeprefix(prefix): t.shape for n, t in named.items() if n.startswith(prefix)}
    if not native:
        family = denoiser.diffusers_family(shapes) if denoiser.is_diffusers_unet(shapes) else None
        return Located(FAMILIES[family], prefix, False, FAMILIES[family].prefix) if family else None
    family = family_by(Signs(shapes, parts, [n for n in named if not n.startswith(prefix)] if prefix else ()))
    # A UNET of no known layout gets the usual prefix too: it is one, whoever's it is.
    if family is None and prefix != owner.prefix and owner.first_layer not in shapes:
        return None
    return Located(family or owner, prefix, True, (family or owner).prefix)


def _behind_known_prefix(named: Named, family: Family, parts: tuple[str, ...]) -> Located | None:
    for prefix in dict.fromkeys((family.prefix, *family.prefixes)):
        shapes = {n.removeprefix(prefix): t.shape for n, t in named.items() if n.startswith(prefix)}
        if shapes and family.known_by is not None and family.known_by(Signs(shapes, parts)):
            return Located(family, prefix, True, family.prefix)
    return None


def _parts(named: Named) -> list[tuple[Part, str, bool]]:
    """The text encoders and VAEs: each with its prefix, and whether its names are those of single files."""
    found = []
    openings = (p for part in known_parts().values() for p in (part.native, part.translated) if p is not None)
    for pattern in dict.fromkeys(openings):
        for prefix in pattern.prefixes(named):
            names = [n.removeprefix(prefix) for n in named if n.startswith(prefix)]
            fitting = (
                p
                for p in known_parts().values()
                if pattern in (p.native, p.translated)
                and p.fits(names)
                and (prefix in p.prefixes or any(name.endswith(p.anchor) for name in names))
            )
            if part := next(fitting, None):
                found.append((part, prefix, pattern is part.native))
    # Names of single files first: a component that is there twice is taken from them.
    return sorted(found, key=lambda item: not item[2])


# -- their keys --------------------------------------------------------------------------------------------------------------


def _translate(named: Named, found: list[Located], out: Translation, lone: bool) -> None:
    """Every tensor under its key, in the order of the file."""
    members = _members(named, found)
    taken = set().union(*members.values())
    rest = {name: tensor for name, tensor in named.items() if name not in taken}
    if lone and found:
        out.unknown += rest
    keys = dict(rest)
    for component, own in members.items():
        keys |= _keys(component, own, named, out)
    place = {tensor.name: i for i, tensor in enumerate(named.values())}
    out.tensors = dict(sorted(keys.items(), key=lambda item: place[item[1].name.partition(" + ")[0]]))
    _note(found, out, lone)


def _members(named: Named, found: list[Located]) -> dict[Located, Named]:
    """Component -> its tensors under the file's names; of two whose prefixes fit, the longer one's."""
    members: dict[Located, Named] = {}
    taken: set[str] = set()
    for component in sorted(found, key=lambda f: -len(f.prefix)):
        holds = component.holds
        own = {name: tensor for name, tensor in named.items() if name not in taken and holds(name)}
        members[component] = own
        taken |= own.keys()
    return {component: members[component] for component in found}


def _keys(component: Located, members: Named, named: Named, out: Translation) -> Named:
    """The tensors of a component under their keys; one whose key is another tensor's keeps the file's name."""
    prefix, around = component.prefix, component.prefix.removesuffix(_TEXT_WRAPPER)
    full = {name[len(prefix) :] if name.startswith(prefix) else name[len(around) :]: name for name in members}
    tensors = {short: members[name] for short, name in full.items()}
    done = _named(component, tensors)
    out.dropped += [full[short] for short in done.dropped]
    out.notes += done.notes if prefix == component.target else []
    keys: Named = {}
    for short, tensor in done.tensors.items():
        key = component.target + short
        taken = key in named and key not in members
        keys[f"{prefix}{short}" if taken else key] = tensor
    for short in done.left:
        out.unknown.append(full[short])
        keys[full[short]] = tensors[short]
    return keys


def _named(component: Located, tensors: Named) -> Renamed:
    """A component's tensors under single-file names without prefix."""
    what = component.what
    if isinstance(what, Part):
        return what.read(tensors) if component.native else what.read_translated(tensors)
    return Renamed(tensors) if component.native else denoiser.to_single_file(tensors, what)


def _note(found: list[Located], out: Translation, lone: bool) -> None:
    """What was renamed, in sentences."""
    for component in found:
        if lone and len(found) == 1:
            text = f"the file is a {component.title} alone{component.naming}"
            out.notes.append(Notice("names.component_alone", text, (component.title,)))
        elif component.prefix != component.target or not component.native:
            text = (
                f"the {component.title} stands behind `{component.prefix}`{component.naming}; "
                f"it was read as one behind `{component.target}`"
            )
            out.notes.append(Notice("names.component_elsewhere", text, (component.title,)))
