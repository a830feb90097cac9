"""A part: a text encoder or autoencoder that several families hold."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...notices import Notice

# As `tensors.Shape`, whose module needs numpy: what a family is must be known without.
Shape = tuple[int, ...]

Tensors = Iterator[tuple[str, Shape]]

if TYPE_CHECKING:
    from ...tensors import StoredTensor

    Named = Mapping[str, StoredTensor]


@dataclass(frozen=True, slots=True)
class Spec:
    """What a layout says of a tensor: its shape and the name of its dtype in a file saved at full precision."""

    shape: Shape
    dtype: str = "F32"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key lives.

    Attributes:
        label: the canonical block label (`IN04`, `CLIP_L`, `VAE`...).
        component: the denoiser's name (`unet`), a part's (`clip_l`, `vae`), `ema`, `schedule`, `marker` or `other`.
        sublabel: inside a text encoder `embeddings`, `layer 0`...; inside a VAE `encoder.down.0`...; else empty.
        core: whether it is in the denoiser.
        text: whether it is in a text encoder.
    """

    label: str
    component: str
    sublabel: str = ""
    core: bool = False
    text: bool = False


@dataclass(frozen=True, eq=False)
class Opening:
    """How names go on behind a prefix, by which the prefix is found.

    Attributes:
        words: one of them is in every such name: looking for them is ten times as fast as the pattern.
        pattern: where the name proper begins.
    """

    words: tuple[str, ...]
    pattern: re.Pattern[str]

    def prefixes(self, names: Collection[str]) -> Counter[str]:
        """What stands before it in names, and how often."""
        search = self.pattern.search
        candidates = dict.fromkeys(name for word in self.words for name in names if word in name)
        return Counter(name[: match.start()] for name in candidates if (match := search(name)))


@dataclass
class Renamed:
    """Tensors under other names.

    Attributes:
        tensors: new name -> tensor.
        left: names that have no place among the new ones.
        dropped: names left out because they carry nothing.
        notes: what was changed, in sentences.
    """

    tensors: dict[str, StoredTensor]
    left: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    notes: list[Notice] = field(default_factory=list)


def renamed(
    named: Mapping[str, StoredTensor],
    rename: Callable[[str], str | None],
    change: Callable[[str, StoredTensor], StoredTensor] = lambda _, tensor: tensor,
) -> Renamed:
    """Every tensor under its new name, and the names that have none or whose new name is taken already."""
    out = Renamed({})
    for name, tensor in named.items():
        key = rename(name)
        if key is None or key in out.tensors:
            out.left.append(name)
        else:
            out.tensors[key] = change(key, tensor)
    return out


def as_it_is(named: Named) -> Renamed:
    """Names that are the same in both layouts."""
    return Renamed(dict(named))


@dataclass(frozen=True, eq=False)
class Part:
    """A text encoder or autoencoder.

    Attributes:
        id: its name as a component (`clip_l`); the label is the same in capitals.
        title, about: for people: in a sentence, and in a table.
        text: whether it is a text encoder.
        prefixes: where single files keep it, whatever their family; the first is that of a lone file's keys.
        tensors: names and shapes from sizes.
        kinds: (pattern, kind of layer), the first match wins.
        sublabel: a name without prefix -> where in the part it is.
        native: how one of its names goes on behind the prefix that single files give it; it tells where the prefix ends.
        translated: the same for the other tools' names of it, which are translated.
        heads, translated_heads: beginnings of its names of either kind; in a file without prefixes all other names are
            somebody else's.
        read: names of single files, without prefix -> the same with small repairs; `read_translated`: other tools' names of it
            -> those of single files.
        from_folder, to_folder: names in a diffusers folder -> those of single files, and back. A part with one
            layout leaves all of these out.
        anchor: how one of its names ends that is there in every whole one; without it only the usual prefixes tell the part.
        fits: whether names of either kind, without prefix, are this part's: text encoders differ in their layers only.
    """

    id: str
    title: str
    about: str
    text: bool
    prefixes: tuple[str, ...]
    tensors: Callable[[Any], Tensors]
    kinds: tuple[tuple[str, str], ...]
    sublabel: Callable[[str], str]
    native: Opening
    heads: tuple[str, ...]
    translated: Opening | None = None
    translated_heads: tuple[str, ...] = ()
    read: Callable[[Named], Renamed] = as_it_is
    read_translated: Callable[[Named], Renamed] = as_it_is
    from_folder: Callable[[Named], Renamed] = as_it_is
    to_folder: Callable[[Named], Renamed] = as_it_is
    anchor: str = ""
    fits: Callable[[Collection[str]], bool] = lambda names: True

    @property
    def label(self) -> str:
        return self.id.upper()

    def place(self, name: str) -> Place:
        """The place of one of its names, without prefix."""
        return Place(self.label, self.id, self.sublabel(name), text=self.text)
