"""Block weights: one number for a whole model, or another for every block, kind of layer or key.

Any number of a recipe step may be one of these (YAML; 0 is all A, the first model, 1 is all B):

    alpha: 0.5                                   # a number: UNET and text encoders
    alpha: [0, 0.1, 0.2, ...]                    # a vector, read by a convention; "0,0.1,0.2,..." is the same
    alpha: GRAD_V                                # a preset
    alpha:                                       # lines: what to select, and its weight; later lines win
      IN04-IN08: 0.7                             # a range in network order; it may cross M00: IN05-OUT05
      OUT*: 0.3                                  # a glob
      NOT M00 OUT03: 0                           # everything else, text encoders too
      IN04, IN05 OUT03-OUT05: 0.2                # several; MID and M0 are M00
      BASE: 0.4                                  # the text encoders (also TEXT, or one: CLIP_L)
      attn1: 0.6                                 # a kind of layer, wherever there is one: `layers.KINDS` and groups
      UNET norm: 0                               # ... in the UNET only
      IN04-IN08 attn2.k: 0.4                     # ... in these blocks only
      "key:*.proj_in.*": 0.1                     # keys that a glob fits
      /transformer_blocks\\.[0-4]\\./: 0.2         # keys in which a regular expression is found
      default: 0.1                               # what no line names; without it 0, which is A
    alpha:
      IN00-OUT11: {gradient: [0, 1], curve: cosine}      # from block to block; linear without a curve, 2 or more stops
    alpha: {preset: GRAD_V, scale: 0.5, base: 0.3, OUT: 1}              # a preset, changed by lines
    alpha: {vector: [...], convention: automb, base: 0.2, IN05: 0.9}    # a vector, changed by lines
    alpha: "MIDD; IN05-OUT05:attn:0"                                    # lines of LoRA block weight's elements, in text
    alpha: {preset: MIDD, IN04: 0.7, strength: [0.8, 0.5]}              # all of it times 0.8, in text encoders times 0.5

Options and lines share one mapping, for no label is called preset, vector, convention, scale, strength or default; `base` is the
line BASE. `scale` multiplies the weights of the vector or preset, not those of the lines; `strength` multiplies all, with a second
number for the text encoders.

A label without a slot in vectors (TIME_EMBED, LABEL_EMB, OUT) follows the slot that the convention reads, in vectors
and in lines, unless a line selects it as a whole. The VAE has a weight only when a line names it literally; schedule
buffers, EMA copies and markers never have one; what stands next to the blocks (further models, unknown keys) has that
of BASE. Presets are MBW vectors: with a convention of another order (automb, comfyui) they are read as supermerger reads
them. The presets of LoRA block weight (INS, MIDD, ALL...) exist
in the conventions lbw and lbw-kohya only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal

from ..checkpoints.errors import RecipeError, nearest
from ..checkpoints.families import BESIDE_LABELS, Family, family_of, in_order
from ..checkpoints.families.conventions import CONVENTIONS, DEFAULT_CONVENTION, Convention, convention_named, lengths_of
from ..checkpoints.families.presets import is_lbw_preset, is_preset, lbw_preset, lbw_preset_names, preset, preset_names
from ..checkpoints.text import shown
from .selectors import BASE, Selector, denoiser_words, is_block, parse_selector
from .weights_text import empty_weights, only_elements, parse_weights, plain_from_text, split_line

__all__ = ["BlockWeights", "Gradient", "ResolvedWeights", "WeightLine", "parse_weights"]

OPTIONS = ("preset", "vector", "convention", "scale", "strength", "default")
CURVES = ("linear", "cosine")
# Of fp32, in which coefficients are applied.
_LARGEST = (2 - 2**-23) * 2.0**127


@dataclass(frozen=True, slots=True)
class Gradient:
    """Weights that run over blocks in network order, evenly from the first stop to the last."""

    stops: tuple[float, ...]
    curve: str = "linear"

    def at(self, t: float) -> float:
        """The weight at t = 0 (first block) .. 1 (last block)."""
        along = t * (len(self.stops) - 1)
        left = min(int(along), len(self.stops) - 2)
        share = along - left
        if self.curve == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return (1 - share) * self.stops[left] + share * self.stops[left + 1]


@dataclass(frozen=True, slots=True)
class WeightLine:
    """A selector and its weight."""

    selector: Selector
    value: float | Gradient

    def values(self, family: Family) -> dict[str, float]:
        """The weight that this line gives each label it selects."""
        labels = self.selector.labels(family)
        if not isinstance(self.value, Gradient):
            return dict.fromkeys(labels, self.value)
        blocks = [x for x in family.labels if x in labels and is_block(x)]
        return {x: self.value.at(i / max(1, len(blocks) - 1)) for i, x in enumerate(blocks)}


@dataclass(frozen=True, slots=True)
class LabelWeight:
    """A label's weight as a whole, and the lines that change some of its layers."""

    value: float
    parts: tuple[tuple[Selector, float], ...]

    def of(self, key: str, kind: str) -> float:
        value = self.value
        for selector, x in self.parts:
            if selector.matches_kind(kind) and selector.matches_key(key):
                value = x
        return value


class ResolvedWeights:
    """Block weights for one architecture.

    Attributes:
        vae: the VAE's weight, or None when no line names the VAE.
        vae_by_convention: the weight that the VAE has for those who ask to merge it without naming a weight.
        is_uniform: whether every tensor of the UNET and the text encoders has the same weight (and the VAE, if named).
    """

    def __init__(self, family: Family, table: dict[str, LabelWeight], vae_by_convention: float, beside: LabelWeight):
        """`beside` is the weight of tensors that stand in no block: that of BASE."""
        self._family, self._table, self._beside = family, table, beside
        self.vae = table["VAE"].value if "VAE" in table else None
        self.vae_by_convention = vae_by_convention
        values = {x for w in self._table.values() for x in (w.value, *(value for _, value in w.parts))}
        self.is_uniform = len(values) == 1

    def weight(self, key: str) -> float:
        """The weight of a tensor named as in a single-file checkpoint; 0 (stays with A) for what has none."""
        found = self._table.get(self._family.block_of(key).label)
        if found is None:
            return 0.0
        return found.of(key, self._family.kind_of(key)) if found.parts else found.value

    def at(self, key: str) -> float:
        """The weight with which a step applies to a tensor, whatever component it is of.

        As `weight`, but for what stands in no block and may be trained, which has the weight of BASE, and for a VAE that no line
        names, which has that of the convention: whether it is merged at all is for the step to say.
        """
        place = self._family.block_of(key)
        if place.label in BESIDE_LABELS:
            return self._beside.of(key, self._family.kind_of(key))
        return self.vae_by_convention if place.component == "vae" and self.vae is None else self.weight(key)

    def differ_by(self, label: str) -> Literal["", "kind", "key"]:
        """What tells the weights of a label's tensors apart: nothing, their kind of layer, or their key."""
        found = self._beside if label in BESIDE_LABELS else self._table.get(label)
        if found is None or not found.parts:
            return ""
        return "key" if any(selector.patterns for selector, _ in found.parts) else "kind"

    def by_label(self) -> dict[str, float]:
        """The weight of every label as a whole, in network order; the VAE only when named.

        Lines on kinds of layers or keys do not show here: `changed_inside` has the labels that they touch.
        """
        return {label: self._table[label].value for label in in_order(self._table)}

    def changed_inside(self) -> tuple[str, ...]:
        """Labels in which some kinds of layer or keys have weights of their own, in network order."""
        return tuple(x for x in in_order(self._table) if self._table[x].parts)


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """Block weights as written, checked as far as that goes without knowing the architecture.

    Attributes:
        plain: what the user wrote, as plain data.
        convention: reads the vector, and says what labels without a slot follow.
        start: a number for everything, a vector, a preset's name, or None: lines alone.
        scale: multiplies the vector or preset.
        default: weight of what no line names, when there is no vector, preset or number.
        lines: in order; later ones win.
        strength: multiplies every weight: in the denoiser, and in text encoders.

    Example:
        >>> weights = BlockWeights.parse({"preset": "GRAD_V", "scale": 0.5, "M00": 0.3, "OUT*": 1})
        >>> by_label = weights.resolve("sd1").by_label()
        >>> by_label["M00"], by_label["OUT04"]
        (0.3, 1.0)
    """

    plain: Any = field(compare=False)
    convention: Convention
    start: float | tuple[float, ...] | str | None
    scale: float = 1.0
    default: float = 0.0
    lines: tuple[WeightLine, ...] = ()
    strength: tuple[float, float] = (1.0, 1.0)

    @staticmethod
    def parse(value: Any, convention: str = DEFAULT_CONVENTION) -> BlockWeights:
        """Checks and reads a number, vector, preset name, mapping, or text of one of these.

        Raises:
            RecipeError: an unknown label, kind, preset, convention or option (with the nearest names), a number that is
                not finite. Whether a vector has the length of a family's is known when it is resolved for one.
        """
        return value if isinstance(value, BlockWeights) else _parse(value, convention)

    def to_plain(self) -> Any:
        """What the user wrote, as data that YAML and JSON can hold; `parse` reads it back."""
        return plain_data(self.plain)

    def resolve(self, family: str | Family) -> ResolvedWeights:
        """The weights for an architecture.

        Raises:
            RecipeError: a vector of a length, or a line with a label, that this architecture does not have.
        """
        family = family_of(family)
        given = [line.values(family) for line in self.lines]
        starts, own, inside = self._starts(family)
        named: dict[str, tuple[int, float]] = {}
        for i, (line, values) in enumerate(zip(self.lines, given, strict=True)):
            if line.selector.whole:
                named |= {label: (i, x) for label, x in values.items()}

        def whole(label: str) -> float:
            if label in named:
                return named[label][1]
            if label in own:
                return starts[label]
            slot = self.convention.follows(label, family)
            return 0.0 if slot in (None, label) else whole(slot)

        table = {}
        for label in (BASE, *family.text_encoders, *family.labels, "VAE"):
            after = named.get(label, (-1, 0.0))[0] + 1
            later = zip(self.lines[after:], given[after:], strict=True)
            factor = self.strength[label in family.text_encoders]
            parts = [] if label in named else list(inside.get(label, ()))
            parts += [(x.selector, v[label]) for x, v in later if label in v and not x.selector.whole]
            table[label] = LabelWeight(factor * whole(label), tuple((selector, factor * x) for selector, x in parts))
        vae, beside = table.pop("VAE"), table.pop(BASE)
        if any("VAE" in values for values in given):
            # Where lines name only parts of the VAE, its rest stays with A.
            table["VAE"] = LabelWeight(vae.value if "VAE" in named else 0.0, vae.parts)
        return ResolvedWeights(family, table, vae.value, beside)

    def names_all(self, family: str | Family) -> bool:
        """Whether its lines name each slot of one of the convention's vectors for a family, one by one, and nothing else."""
        named = {x.selector.words[0] for x in self.lines if x.selector.whole and len(x.selector.words) == 1}
        return any(named == set(slots) for slots in self.convention.vectors(family).slots)

    def _starts(self, family: Family) -> tuple[dict[str, float], set[str], dict[str, list[tuple[Selector, float]]]]:
        """Weights before any line, the labels that have a weight of their own there and so follow nobody, and parts of labels
        that have weights of their own."""
        labels = (BASE, *family.text_encoders, *family.labels, "VAE")
        if isinstance(self.start, float):
            return dict.fromkeys(labels, self.start), set(labels), {}
        if self.start is None:
            usual = self.convention.lengths(family)
            free = not usual or self.convention.missing is not None
            slots = labels if free else self.convention.slots(family, usual[0])
            borrowing = {x for x in (*self.convention.vectors(family).follows, "VAE") if x not in slots}
            return dict.fromkeys(labels, self.default), set(labels) - borrowing, {}
        vector = self._preset(family) if isinstance(self.start, str) else self.start
        self._refuse_length(len(vector), family)
        slots = self.convention.slots(family, len(vector))
        whole, parts = self.convention.in_parts(vector, family, self.scale)
        reading = self.convention.read(whole, family, scale=self.scale)
        first = family.text_encoders[0] if family.text_encoders else None
        weights = reading.weights | {
            "VAE": reading.vae,
            BASE: reading.weights.get(first, reading.base),
        }
        own = {BASE, *family.text_encoders, *(x for x in labels if x in slots or is_block(x))}
        if self.convention.missing is not None:  # its labels follow nobody
            own = set(labels)
        inside = {label: [(parse_selector(f"/{p}/"), x) for p, x in found] for label, found in parts.items()}
        return {label: x or 0.0 for label, x in weights.items()}, own, inside

    def _refuse_length(self, length: int, family: Family) -> None:
        """Say of a vector that fits no family at all what vectors there are; what fits another one the convention says."""
        own, known = self.convention.lengths(family), lengths_of(self.convention)
        if not own or length in (*own, *known) or self.convention.name not in family.conventions:
            return
        others = [c.name for c in CONVENTIONS.values() if length in lengths_of(c)]
        hint = f"; {length} values fit convention {' or '.join(map(repr, others))}" if others else ""
        raise RecipeError(
            f"A weight vector of {length} values fits no architecture in convention {self.convention.name!r}, which has "
            f"vectors of {', '.join(map(str, known))} values{hint}"
        )

    def _preset(self, family: Family) -> tuple[float, ...]:
        if self.convention.layout == "lbw":
            return lbw_preset(self.start, self.convention.lengths(family)[0]) if self.convention.lengths(family) else ()
        return preset(self.start, family)


def _parse(value: Any, convention: str) -> BlockWeights:
    chosen = convention_named(convention)
    read = plain_from_text(value) if isinstance(value, str) else value
    if isinstance(value, str) and chosen.missing is not None and only_elements(value):
        read = {"default": 1.0, **read}  # as the extension applies a LoRA that no vector changes
    if isinstance(read, Mapping):
        return _parse_mapping(value, read, chosen)
    if isinstance(read, str):
        return BlockWeights(value, _reads_preset(read, chosen), read)
    if isinstance(read, list | tuple):
        return BlockWeights(value, chosen, _vector(read))
    return BlockWeights(value, chosen, _number(read, "A weight"))


def _parse_mapping(value: Any, mapping: Mapping, chosen: Convention) -> BlockWeights:
    options: dict[str, Any] = {}
    lines = []
    for name, given in mapping.items():
        if not isinstance(name, str):
            raise RecipeError(f"Block weights {shown(name)} name no block; write e.g. IN04 or OUT00-OUT03")
        if given is None and ":" in name:  # a line as text: 'IN04: 0.7'
            name, given = split_line(name)
        if name.strip().lower() in OPTIONS:
            options[name.strip().lower()] = given
        else:
            lines.append(_line(name, given))
    if not mapping:
        raise empty_weights()
    if "convention" in options:
        chosen = convention_named(options["convention"])
    if "preset" in options and "vector" in options:
        raise RecipeError("Block weights have both a preset and a vector; give one of them", code="weights.two_sources")
    started = "preset" in options or "vector" in options
    if started and "default" in options:
        raise RecipeError(
            "Block weights have a default as well as a vector or preset, which leaves nothing to it; drop one",
            code="weights.default_unused",
        )
    if not started and "scale" in options:
        raise RecipeError(
            "Block weights have a scale but no vector or preset that it could multiply", code="weights.scale_unused"
        )
    start: tuple[float, ...] | str | None = None
    if "preset" in options:
        start, chosen = options["preset"], _reads_preset(options["preset"], chosen)
    elif "vector" in options:
        start = _vector(options["vector"])
    scale = _number(options.get("scale", 1.0), "The scale of block weights")
    default = _number(options.get("default", 0.0), "The default of block weights")
    strength = _strength(options.get("strength", 1.0))
    return BlockWeights(value, chosen, start, scale, default, tuple(lines), strength)


def _strength(value: Any) -> tuple[float, float]:
    """The factors of the denoiser's weights and of the text encoders'; one number is both."""
    given = value if isinstance(value, list | tuple) else [value, value]
    if len(given) != 2:
        raise RecipeError(f"The strength of block weights is a number or two, e.g. [0.8, 0.5], found {shown(value)}")
    denoiser, text = (_number(x, "The strength of block weights") for x in given)
    return denoiser, text


def _line(text: str, value: Any) -> WeightLine:
    selector = parse_selector(text)
    where = f"The weight of {text.strip()!r}"
    if not isinstance(value, Mapping):
        return WeightLine(selector, _number(value, where))
    if unknown := [x for x in value if x not in ("gradient", "curve")]:
        raise RecipeError(f"{where} has an unknown part {shown(unknown[0])}; write {{gradient: [0, 1], curve: linear}}")
    stops, curve = value.get("gradient"), value.get("curve", "linear")
    if not isinstance(stops, list | tuple) or len(stops) < 2:
        raise RecipeError(
            f"{where} needs a gradient of two or more numbers, e.g. {{gradient: [0, 1]}}, found {shown(stops)}"
        )
    if curve not in CURVES:
        raise RecipeError(f"{where} has an unknown curve {shown(curve)}; known are {' and '.join(CURVES)}")
    if stray := [x for x in selector.words if not _runs_over_blocks(x)]:
        raise RecipeError(f"{where} is a gradient, which runs over IN, M00 and OUT blocks, not over {stray[0]}")
    return WeightLine(selector, Gradient(tuple(_number(x, where) for x in stops), curve))


def _runs_over_blocks(word: str) -> bool:
    return word in denoiser_words() or any(c in word for c in "*?[-") or is_block(word)


def _reads_preset(name: Any, chosen: Convention) -> Convention:
    """The convention that a preset of this name is read by: LoRA presets exist in the LoRA conventions only, where they
    come first."""
    lora, known = chosen.layout == "lbw", preset_names()
    if isinstance(name, str) and is_lbw_preset(name):
        if lora:
            return chosen
        if not is_preset(name):
            raise RecipeError(f"Preset {shown(name)} is one for LoRAs; it needs the convention lbw or lbw-kohya")
    if not isinstance(name, str) or not is_preset(name):
        hint = (
            isinstance(name, str) and nearest(name, (*lbw_preset_names(), *known) if lora else known)
        ) or "; it is not a number, vector or line 'IN04: 0.5' either"
        raise RecipeError(f"Unknown preset {shown(name)}{hint}")
    return chosen if chosen.layout == "mbw" else CONVENTIONS[DEFAULT_CONVENTION]


def _vector(value: Any) -> tuple[float, ...]:
    values = plain_from_text(value) if isinstance(value, str) else value
    if not isinstance(values, list | tuple):
        raise RecipeError(f"A weight vector is a list of numbers such as [0, 0.1, ...], found {shown(value)}")
    return tuple(_number(x, f"Value {i} of the weight vector") for i, x in enumerate(values))


def _number(value: Any, what: str) -> float:
    # YAML reads 1e-3 as text.
    if isinstance(value, bool) or not isinstance(value, Real | str):
        raise RecipeError(f"{what} has to be a number, found {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    except ValueError:
        raise RecipeError(f"{what} has to be a number, found {shown(value)}") from None
    if not math.isfinite(number):
        raise RecipeError(f"{what} has to be a finite number, found {shown(value)}")
    if abs(number) > _LARGEST:
        raise RecipeError(
            f"{what} has to be at most {_LARGEST:.1e}, for merges are worked out in fp32; found {number:g}"
        )
    return number


def plain_data(value: Any) -> Any:
    """A value with everything in it as YAML and JSON can hold it."""
    if isinstance(value, BlockWeights):
        return value.to_plain()
    if isinstance(value, Mapping):
        return {name: plain_data(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [plain_data(x) for x in value]
    return float(value) if isinstance(value, Real) and not isinstance(value, bool | int) else value
