"""The numbers of a recipe's steps as sd-mecha takes them: one for all, or one for each slot of its block weights."""

from __future__ import annotations

from collections.abc import Callable

from ...checkpoints.errors import RecipeError, UnetscopeError
from ...checkpoints.families import FAMILIES, family_of
from ...checkpoints.families.conventions import CONVENTIONS
from ..block_weights import BlockWeights, ResolvedWeights
from ..recipe import MERGED, Recipe, Step

# One number, or slot -> number.
Number = float | dict[str, float]


def combined(formula: Callable[..., float], *numbers: Number) -> Number:
    """A formula of numbers, slot by slot where one of them has slots."""
    slots = next((x for x in numbers if isinstance(x, dict)), None)
    if slots is None:
        return float(formula(*numbers))
    return {slot: float(formula(*(x[slot] if isinstance(x, dict) else x for x in numbers))) for slot in slots}


class Numbers:
    """Reads the parameters of steps.

    Args:
        recipe: whose steps they are.
        family: the architecture, or None where it is not known: then block weights are an error.
    """

    def __init__(self, recipe: Recipe, family: str | None):
        self._recipe, self._family = recipe, None if family is None else family_of(family)
        self._vae = recipe.components.get("vae") == MERGED

    def of(self, name: str, step: Step, parameter: str) -> Number:
        """A parameter that is one number (or block weights) for the step."""
        return self._number(step.weights(self._recipe.convention)[parameter], f"steps.{name}.{parameter}")

    def shares(self, name: str, step: Step) -> list[Number]:
        """The share of each input of a linear step; of differences from a base, the share of each but the base."""
        given = step.weights(self._recipe.convention)
        names, numbers, sizes = [], [], []
        plain = {}
        for parameter, value in given.items():
            if isinstance(value, bool | int | str):
                plain[parameter] = value
                continue
            each = value if isinstance(value, list) else [value]
            names.append((parameter, isinstance(value, list)))
            sizes.append(len(each))
            numbers += [self._number(x, f"steps.{name}.{parameter}") for x in each]
        count = step.kind.models(len(step.inputs))

        def share(index: int) -> Callable[..., float]:
            def formula(*flat: float) -> float:
                values, at = dict(plain), 0
                for (parameter, several), size in zip(names, sizes, strict=True):
                    values[parameter] = flat[at : at + size] if several else flat[at]
                    at += size
                return step.kind.shares(count, values)[index]

            return formula

        return [combined(share(i), *numbers) for i in range(count)]

    def _number(self, weights: BlockWeights, where: str) -> Number:
        plain = weights.to_plain()
        if isinstance(weights.start, float) and not weights.lines:
            return weights.start
        if self._family is None:
            known = " or ".join(family.id for family in FAMILIES.values() if family.mecha)
            raise RecipeError(f"{where}: block weights depend on the architecture; give --family {known}")
        if self._family.mecha is None:
            known = " and ".join(family.title for family in FAMILIES.values() if family.mecha)
            raise RecipeError(f"{where}: sd-mecha has block weights for {known}, not for {self._family.title}")
        try:
            resolved = weights.resolve(self._family)
        except UnetscopeError as error:
            raise RecipeError(f"{where}: {error} ({plain!r:.80})") from None
        return self._slots(resolved, where)

    def _slots(self, resolved: ResolvedWeights, where: str) -> Number:
        """One number for each slot; labels that share a slot there have to agree."""
        family, convention = self._family, CONVENTIONS["sd-mecha"]
        if inside := resolved.changed_inside():
            raise RecipeError(
                f"{where}: sd-mecha has weights for blocks, not for kinds of layer or keys ({inside[0]} has such)"
            )
        labels = resolved.by_label()
        if "VAE" in labels and not self._vae:
            raise RecipeError(f"{where}: a weight for the VAE needs components: {{vae: merge}} to be said to sd-mecha")
        if self._vae:
            labels.setdefault("VAE", resolved.vae_by_convention)
        slots = convention.slots(family, family.mecha.slots)
        found: dict[str, tuple[str, float]] = {}
        for label in family.all_labels:
            at = convention.slot_of(label, family, len(slots))
            if label not in labels or at is None:
                continue
            first, value = found.setdefault(at[1], (label, labels[label]))
            if value != labels[label]:
                raise RecipeError(
                    f"{where}: sd-mecha has one weight for {first} and {label}, which have {value:g} and {labels[label]:g} here"
                )
        values = {slot: found[slot][1] if slot in found else 0.0 for slot in slots}
        return next(iter(values.values())) if len(set(values.values())) == 1 else values
