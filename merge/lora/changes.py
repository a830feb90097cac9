"""What a LoRA of any kind changes, module by module, as changes of low rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ...checkpoints.checkpoint import Checkpoint
from ...checkpoints.errors import RecipeError
from ...checkpoints.families import Family
from ...checkpoints.lora import Lora, LoraModule
from ...checkpoints.lora.formulas import LowRank
from ...checkpoints.lora.module import ModulePart
from ...checkpoints.lora.names import Target, targets, usual_channels
from .layers import Layer
from .low_rank import Cut, Factors, decomposed


@dataclass(frozen=True)
class Change:
    """The change that a LoRA makes to the weight or the bias of a module.

    Attributes:
        layer: the module; `shape` is that of what is changed.
        bias: whether it is the bias.
        lora, module, part: where it stands.
    """

    layer: Layer
    bias: bool
    lora: Lora
    module: LoraModule
    part: ModulePart

    @property
    def key(self) -> str:
        """The canonical key of what is changed."""
        return self.module.key

    @property
    def is_matrix(self) -> bool:
        """Whether it can be written as a product of two factors: not for biases and norms."""
        return len(self.layer.shape) > 1

    @property
    def rank(self) -> int | None:
        """Its rank, where it is a product of two factors already."""
        return self.part.formula.rank if isinstance(self.part.formula, LowRank) else None

    def low_rank(self, base: Checkpoint | None) -> Factors:
        """The change as factors, scale included: its own, or, for other kinds, those of its SVD at full numerical rank."""
        if isinstance(self.part.formula, LowRank):
            return Factors(*self.part.formula.factors(self.lora.source))
        return decomposed(np.ascontiguousarray(self.values(base).reshape(self.layer.shape[0], -1)), Cut())

    def values(self, base: Checkpoint | None) -> np.ndarray:
        """The change itself, fp32, in the module's shape."""
        weight = None
        if self.module.needs_weight:
            if base is None:
                raise RecipeError(
                    f"{self.lora.path}: its {self.module.kind} change of {self.key} follows from the weight itself; give the "
                    "checkpoint that it is for (--base)"
                )
            weight = base.numpy(self.key)
            if self.module.shape == usual_channels(self.key, weight.shape, self.lora.family):
                weight = weight[:, : self.module.shape[1]]
        if self.part.transposed:
            return np.ascontiguousarray(self.module.delta(weight).T)
        if self.part.third is None:
            return self.module.delta(weight)
        rows = self.layer.shape[0]
        return self.module.delta(weight, slice(self.part.third * rows, (self.part.third + 1) * rows))


@lru_cache(maxsize=32)  # records that files' own names make are many
def _by_place(family: str | Family) -> dict[tuple[str, int | None], tuple[Target, bool]]:
    """Canonical key and third -> the module, and whether the key is that of its bias."""
    found: dict[tuple[str, int | None], tuple[Target, bool]] = {}
    for target in targets(family):
        found[target.weight, target.third] = target, False
        if target.bias is not None:
            found[target.bias, target.third] = target, True
    return found


def changes_of(lora: Lora) -> list[Change]:
    """Everything that a LoRA changes."""
    table, out = _by_place(lora.family), []
    for key, module in lora.modules.items():
        for part in module.parts:
            target, bias = table[key, part.third]
            out.append(Change(Layer(target, lora.family, tuple(part.formula.shape)), bias, lora, module, part))
    return out


def one_family(loras: Sequence[Lora]) -> str:
    """The architecture that all of these LoRAs are for.

    Raises:
        RecipeError: they are for different ones.
    """
    first = loras[0]
    for lora in loras[1:]:
        if lora.family != first.family:
            raise RecipeError(
                f"{first.path} is {first.architecture.name} and {lora.path} is {lora.architecture.name}; LoRAs for "
                "different architectures cannot be merged"
            )
    return first.family
