"""Block weights for one architecture: the weight of every tensor, looked up by its key."""

from __future__ import annotations

from dataclasses import dataclass

from ..checkpoints.families import Family, in_order
from .selectors import Selector


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
        self._by_kind: dict[tuple[str, str], float] = {}
        self._by_key = {k for k, w in self._table.items() if any(s.patterns for s, _ in w.parts)}

    def weight(self, key: str) -> float:
        """The weight of a tensor named as in a single-file checkpoint; 0 (stays with A) for what has none."""
        label = self._family.block_of(key).label
        found = self._table.get(label)
        if found is None:
            return 0.0
        if not found.parts:
            return found.value
        if label in self._by_key:
            return found.of(key, self._family.kind_of(key))
        at = (label, self._family.kind_of(key))
        if at not in self._by_kind:
            self._by_kind[at] = found.of(key, at[1])
        return self._by_kind[at]

    def beside(self, key: str) -> float:
        """The weight of a tensor that stands in no block, but may be trained: that of BASE."""
        return self._beside.of(key, self._family.kind_of(key))

    def by_label(self) -> dict[str, float]:
        """The weight of every label as a whole, in network order; the VAE only when named.

        Lines on kinds of layers or keys do not show here: `changed_inside` has the labels that they touch.
        """
        return {label: self._table[label].value for label in in_order(self._table)}

    def changed_inside(self) -> tuple[str, ...]:
        """Labels in which some kinds of layer or keys have weights of their own, in network order."""
        return tuple(x for x in in_order(self._table) if self._table[x].parts)
