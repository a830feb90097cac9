"""The kinds of model that are known: one file each, and `any.py` for every other file of weights.

`FAMILIES` holds the records by id; `family_of` turns an id into its record. A record says what its files look like, which
blocks they have and how others call them (`family.py`). What families share, UNET, text encoders, VAE, is in `parts/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

from ..errors import RecipeError
from ..registry import Registry
from .family import BESIDE_LABELS, BUFFER_LABELS, EMA_PREFIX, Component, Demo, Family, Slots, Vectors, Widths, is_buffer
from .parts.kinds import KINDS
from .parts.part import Opening, Part, Place, Spec
from .signs import Signs

__all__ = [
    "BESIDE_LABELS",
    "BUFFERS",
    "BUFFER_LABELS",
    "EMA_PREFIX",
    "FAMILIES",
    "MOST_STRANGE",
    "Component",
    "Demo",
    "Family",
    "Opening",
    "Part",
    "Place",
    "Slots",
    "Spec",
    "Vectors",
    "Widths",
    "component_names",
    "components_in_order",
    "families_with",
    "family_by",
    "family_of",
    "in_order",
    "is_buffer",
    "is_text",
    "kin_of",
    "kinds_in_order",
    "known_kinds",
    "known_labels",
    "known_parts",
    "layout",
    "part_of",
    "part_prefixes",
    "part_title",
    "short_title",
]

# What a file holds next to the weights that a model is made of, in the order in which tables list it.
BUFFERS = ("ema", "schedule", "marker", "extra", "other")


def _check(family: Family) -> None:
    """Refuse a record that names its blocks twice, or a convention as nobody could type it."""
    if len(set(family.labels)) < len(family.labels) or not family.labels:
        raise RecipeError(
            f"family {family.id}: its blocks need a label each, found {', '.join(family.labels) or 'none'}"
        )
    for tool in family.conventions:
        if tool != tool.casefold().replace("_", "-"):
            raise RecipeError(f"family {family.id}: the convention {tool!r} is written in small letters, with - for _")


FAMILIES: Registry[Family] = Registry(
    "model family", Family, __name__, "unetscope.families", check=_check, error=RecipeError
)


def family_of(family: str | Family) -> Family:
    """The record of an id; a record is its own.

    Raises:
        RecipeError: there is no such family, with the nearest names.

    Example:
        >>> sdxl = family_of("sdxl")
        >>> sdxl.labels[:3]
        ('TIME_EMBED', 'LABEL_EMB', 'IN00')
        >>> sdxl.block_of("model.diffusion_model.input_blocks.4.1.proj_in.weight").label
        'IN04'
    """
    return family if isinstance(family, Family) else FAMILIES.named(family)


def layout(family: str | Family, *, widths: Widths = "real", in_channels: int | None = None) -> dict[str, Spec]:
    """Every key of a family's published checkpoint with its shape: see `Family.layout`."""
    return dict(family_of(family).layout(widths, in_channels))


def families_with(component: str) -> list[Family]:
    """The families that have this text encoder or VAE."""
    return [family for family in FAMILIES.values() if family.component(component) is not None]


# A kin may lack so much of its layout, measured by what its family has beyond it: a hole must not be half the difference.
_MOST_LOST = 0.5
# A denoiser with more names of its own than this share of the layout's is another model, whatever its other names resemble.
MOST_STRANGE = 0.1


def family_by(signs: Signs) -> Family | None:
    """The family whose denoiser these signs show: the first that knows it, or that one's kin; None where none knows it."""
    family = next((f for f in FAMILIES.values() if not f.parent and f.known_by and f.known_by(signs)), None)
    return family and kin_of(family, signs)


def kin_of(family: Family, signs: Signs) -> Family | None:
    """Of a family that knows a denoiser as its own and of its kin the one whose layout it has.

    A hole makes no kin: a file that lost tensors stays of its family. None where much of it is in no layout: it is another model.
    """
    if family.tensors is None:
        return family
    kin = [k for k in FAMILIES.values() if k.parent == family.id]
    told = next((k for k in kin if k.known_by and k.known_by(signs)), None)
    if told is None and signs.shapes.keys() == family.core_names:
        return family  # no other layout need be made
    best = told or _by_layout(family, kin, frozenset(signs.shapes))
    known = best.core_names.union(*(f.core_names for f in (family, *kin)))
    strange = [name for name in signs.shapes if name not in known and not name.startswith(best.optional)]
    return None if len(strange) > MOST_STRANGE * len(best.core_names) else best


def _by_layout(family: Family, kin: Iterable[Family], names: frozenset[str]) -> Family:
    """Of a family and its kin the one that lacks fewest names of its layout, of those that have all names that the file shares.

    A file that lacks everything that a kin is without, and little of the kin's own, is the kin.
    """
    relatives = [family, *(k for k in kin if k.known_by is None)]
    shared = names & frozenset().union(*(f.core_names for f in relatives))
    lacking = {f: len(f.core_names - shared) for f in relatives if shared <= f.core_names}
    holes = {k: n for k, n in lacking.items() if k is family or n <= _MOST_LOST * len(family.core_names - k.core_names)}
    return min(holes, key=holes.__getitem__, default=family)


@cache
def _parts(version: int) -> dict[str, Part]:
    return {c.id: c.part for family in FAMILIES.values() for c in family.components}


def known_parts() -> Mapping[str, Part]:
    """Every text encoder and VAE that a family has, by name."""
    return _parts(FAMILIES.version)


def part_of(key: str) -> tuple[Part, str] | None:
    """The text encoder or VAE that a key belongs to by its prefix, in whatever family, and its name there."""
    prefixes = part_prefixes()
    if not key.startswith(prefixes):
        return None
    prefix = next(prefix for prefix in prefixes if key.startswith(prefix))
    return _parts_by_prefix(FAMILIES.version)[prefix], key.removeprefix(prefix)


def part_prefixes() -> tuple[str, ...]:
    """What the keys of text encoders and VAEs begin with, in whatever family."""
    return tuple(_parts_by_prefix(FAMILIES.version))


@cache
def _parts_by_prefix(version: int) -> dict[str, Part]:
    return {prefix: part for part in _parts(version).values() for prefix in part.prefixes}


def is_text(label: str) -> bool:
    """Whether a label or component (`CLIP_L`, `clip_l`) is a text encoder."""
    part = known_parts().get(label.lower())
    return part is not None and part.text


def part_title(component: str, family: Family | None = None) -> str:
    """A component for people: `UNET`, `text encoder CLIP-L`, `VAE`."""
    part = known_parts().get(component)
    if part is not None:
        return part.title
    if family is not None and component == family.core:
        return family.core_title
    return next((f.core_title for f in FAMILIES.values() if f.core == component), component)


def short_title(component: str) -> str:
    """A component in a table: `UNET`, `CLIP-L`, `VAE`, `EMA`."""
    part = known_parts().get(component)
    if part is not None:
        return part.title.removeprefix("text encoder ")
    return "EMA" if component == "ema" else part_title(component)


@cache
def _ranks(version: int) -> dict[str, int]:
    families = list(FAMILIES.values())
    text = [c.part.label for f in families for c in f.components if c.part.text]
    # The family with most blocks says the order of those that several have.
    blocks = [label for f in sorted(families, key=lambda f: -len(f.labels)) for label in f.labels]
    order = [*text, *blocks, "VAE", *BUFFER_LABELS]
    return {label: i for i, label in enumerate(dict.fromkeys(order))}


def known_labels() -> Mapping[str, int]:
    """Every label that a record names, and its rank in tables: text encoders, conditioning, blocks, VAE, buffers."""
    return _ranks(FAMILIES.version)


@cache
def _ranks_of(version: int, labels: frozenset[str]) -> dict[str, int]:
    """The ranks of the denoiser's labels among these: those of families with other blocks say nothing about their order."""
    ranks = known_labels()
    own = {label for label in labels if not is_text(label) and label != "VAE" and label not in BUFFER_LABELS}
    for family in FAMILIES.values():
        if own <= set(family.labels):
            of_family = [label for label in family.labels if label in own]
            return dict(zip(of_family, sorted(ranks[label] for label in of_family), strict=True))
    return {}


@cache
def _kinds(version: int) -> tuple[str, ...]:
    tables = [record.kinds for record in (*FAMILIES.values(), *known_parts().values())]
    named = (kind for table in tables for _, kind in table if "\\" not in kind)
    return (*KINDS[:-1], *dict.fromkeys(kind for kind in named if kind not in KINDS), KINDS[-1])


def known_kinds() -> tuple[str, ...]:
    """Every kind of layer, in the order of tables: the usual ones (`layers.KINDS`), then those that a record brings."""
    return _kinds(FAMILIES.version)


def kinds_in_order(kinds: Iterable[str]) -> list[str]:
    """Kinds of layer as tables list them."""
    ranks = {kind: i for i, kind in enumerate(known_kinds())}
    return sorted(kinds, key=lambda kind: (ranks.get(kind, len(ranks)), kind))


def in_order(labels: Iterable[str]) -> list[str]:
    """Labels sorted into network order: text encoders, the denoiser's as its family has them, then VAE and buffers.

    The family is the one that has them all. Labels that no record names, which are those of files of no known family, stand
    between the text encoders and the VAE, in the order that their names tell.
    """
    from .any import name_rank

    labels = list(labels)
    ranks = {**known_labels(), **_ranks_of(FAMILIES.version, frozenset(labels))}

    def rank(label: str) -> tuple:
        if label not in ranks:
            return 1, 0, name_rank(label)
        after = label == "VAE" or label in BUFFER_LABELS
        return (2 if after else 0), ranks[label], ()

    return sorted(labels, key=rank)


def component_names() -> tuple[str, ...]:
    """What a recipe may take from somewhere else: denoisers, `text_encoders` (all of them), each text encoder, VAE."""
    from .any import CORE

    cores = dict.fromkeys(family.core for family in FAMILIES.values())
    return tuple(dict.fromkeys((*cores, "text_encoders", *components_in_order(known_parts()), CORE)))


def components_in_order(components: Iterable[str]) -> list[str]:
    """Components sorted as tables list them: denoiser, text encoders, VAE, then what is stored next to the weights."""
    texts = [label.lower() for label in known_labels() if is_text(label)]
    order = {c: i for i, c in enumerate((*texts, "vae", *BUFFERS))}
    return sorted(components, key=lambda c: order.get(c, -1))
