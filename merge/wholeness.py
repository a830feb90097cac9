"""What models lack of the parts that they are merged in, and what the result would lack: refused, or counted aloud.

A model without a text encoder or VAE takes no part in these. One whose part has holes takes part in the rest of it, as long as no
block of it is missing; the rest is refused unless the recipe allows it (`output.allow_missing`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property

from ..checkpoints import Checkpoint, Family
from ..checkpoints.errors import RecipeError
from ..checkpoints.families import is_buffer
from ..checkpoints.notices import Notice
from ..checkpoints.recognition.architecture import missing_keys
from ..checkpoints.text import counted, some
from ..library.fingerprint import short_name
from .compatibility import renaming
from .linear_combination import LinearCombination, Missing
from .plan import TRAINED, TensorPlan

_ALLOW = "set output.allow_missing (--allow-missing)"
_SHOWN = 3


class Wholeness:
    """An account, kept while tensors are planned, of what is not there or not known.

    Args:
        family: of the result.
        checkpoints, names: the models by index.
        allowed: whether missing tensors are taken from the models that have them.
    """

    def __init__(self, family: Family, checkpoints: Sequence[Checkpoint], names: Sequence[str], allowed: bool):
        self._family, self._checkpoints, self._names, self._allowed = family, checkpoints, names, allowed
        self._lacking: dict[tuple[int, str], dict[str, LinearCombination]] = defaultdict(dict)
        self._unmet: dict[tuple[str, str, frozenset[int], int], list[str]] = defaultdict(list)
        self._merged: list[str] = []
        self._kept: dict[int, list[str]] = defaultdict(list)
        self._left: dict[int, list[str]] = defaultdict(list)

    # -- what is known -------------------------------------------------------------------------------------------------------

    @cached_property
    def _published(self) -> Mapping[str, frozenset[str]]:
        """Component -> its keys in the family's layout, of the components that have one."""
        found: dict[str, set[str]] = defaultdict(set)
        if self._family.keeps_names:
            return {}
        for key in self._family.layout():
            found[self._family.block_of(key).component].add(key)
        laid_out = {c.id for c in self._family.components}
        laid_out |= {self._family.core} if self._family.tensors is not None else set()
        return {component: frozenset(found[component]) for component in laid_out}

    def knows(self, component: str, key: str) -> bool:
        """Whether a key has a place: in the layout of its component, or in a component that has none."""
        if component in TRAINED:
            return False
        published = self._published.get(component)
        if published is None or key in published or is_buffer(key):
            return True
        optional = tuple(self._family.prefix + start for start in self._family.optional)
        return component == self._family.core and key.startswith(optional)

    # -- what is found -------------------------------------------------------------------------------------------------------

    def lacks(self, model: int, component: str, key: str, combination: LinearCombination) -> None:
        """A model that the recipe names for a tensor lacks it; `combination` is what the tensor is made of without that model."""
        self._lacking[model, component][key] = combination

    def unmet(self, lacking: Missing, component: str, key: str, owner: int) -> None:
        """A step has no result for a tensor, which would be the model `owner`'s."""
        self._unmet[lacking.step, component, lacking.models, owner].append(key)

    def merged(self, component: str, key: str) -> None:
        """A tensor without a place is merged, for all models have it."""
        if component != "extra":  # further models have a place
            self._merged.append(key)

    def kept(self, model: int, key: str) -> None:
        """A tensor without a place is a model's, for others lack it or have it in another shape."""
        self._kept[model].append(key)

    def left(self, model: int, key: str) -> None:
        """A tensor without a place is not in the result, for the first model lacks it."""
        self._left[model].append(key)

    # -- what follows --------------------------------------------------------------------------------------------------------

    def warnings(self, tensors: Iterable[TensorPlan]) -> list[Notice]:
        """What to say of it.

        Raises:
            RecipeError: a block or component of a model would not be merged, or would be missing from the result.
        """
        found = [*self._unmet_steps(), *self._holes(), *self._unknown()]
        return [*found, *self._missing(tensors)]

    def _unmet_steps(self) -> Iterable[Notice]:
        for (step, component, models, owner), keys in self._unmet.items():
            names, taken = _listed([self._names[i] for i in sorted(models)]), self._names[owner]
            if not self._allowed and any(self._is_needed(key, component) for key in keys):
                raise RecipeError(
                    f"steps.{step}: {names} lacks {self._tensors(keys, component)}, and without them the step has no result; "
                    f"take a model that has them, or {_ALLOW} to take them from {taken}"
                )
            text = f"{names} lacks {counted(len(keys), 'tensor')} of {component}: copied from {taken}"
            yield Notice("plan.step_unmet", text, (names, component, taken), step=step)

    def _holes(self) -> Iterable[Notice]:
        for (model, component), combinations in self._lacking.items():
            name, keys = self._names[model], list(combinations)
            if component not in self._checkpoints[model].keys_by_component:
                text = f"{name} has no {component} and takes no part in it"
                yield Notice("plan.component_lacking", text, (name, component))
                continue
            others = list(dict.fromkeys(self._names[i] for each in combinations.values() for i in each.models()))
            if not self._allowed:
                self._refuse(model, component, keys, others)
            instead = f"copied from {others[0]}" if len(others) == 1 else f"merged of {_listed(others)}"
            text = f"{name} lacks {counted(len(keys), 'tensor')} of {component}: {instead}"
            yield Notice("plan.tensors_lacking", text, (name, component, *others))

    def _refuse(self, model: int, component: str, keys: list[str], others: list[str]) -> None:
        """Refuse a hole that nothing says is one, or that takes a block of the model out of the merge."""
        name = self._names[model]
        if component not in self._published:
            raise RecipeError(
                f"{name} lacks {counted(len(keys), 'tensor')} that {others[0]} has, and no layout says which are right; leave "
                f"one of them out, or {_ALLOW} to take them from the model that has them"
            )
        needed = [key for key in keys if self._is_needed(key, component)]
        own = map(renaming(self._family, component), self._checkpoints[model].keys_by_component.get(component, ()))
        have = {_block(self._family, key) for key in own if key in self._published[component]}
        blocks = list(dict.fromkeys(b for key in needed if (b := _block(self._family, key)) not in have))
        lost = f"all of {_listed(blocks)}" if blocks else ""
        strange = [key for key in self._left[model] if self._family.block_of(key).component == component]
        strange += [key for key in self._kept[model] if self._family.block_of(key).component == component]
        if needed and strange:
            lost = f"and has {counted(len(strange), 'tensor')} that {self._family.title} does not know ({some(strange, _SHOWN)})"
        if lost:
            raise RecipeError(
                f"{name} ({self._checkpoints[model].path}): lacks {self._tensors(needed, component)}, {lost}: they would not be "
                f"merged; take a whole file, or {_ALLOW} to do without them"
            )

    def _is_needed(self, key: str, component: str) -> bool:
        """Whether programs use a tensor: not the last layer of SD2's text encoder, which diffusers' folders leave out."""
        return component not in self._published or short_name(key) is not None

    def _unknown(self) -> Iterable[Notice]:
        if self._merged:
            text = (
                f"{self._nameless(self._merged)} that all models have: merged with the weight of their block, or BASE's"
            )
            yield Notice("plan.unknown_merged", text, tuple(self._merged))
        for model, keys in self._kept.items():
            text = f"{self._nameless(keys)} that not all models have in that shape: kept as they are"
            yield Notice("plan.unknown_kept", text, tuple(keys)).of(self._names[model])
        for model, keys in self._left.items():
            text = f"{self._nameless(keys)} that the first model lacks: left out"
            yield Notice("plan.unknown_left_out", text, tuple(keys)).of(self._names[model])

    def _nameless(self, keys: Sequence[str]) -> str:
        return f"{counted(len(keys), 'tensor')} without a place in {self._family.title} ({some(keys, _SHOWN)})"

    def _missing(self, tensors: Iterable[TensorPlan]) -> Iterable[Notice]:
        """What the result would lack of its family's layout."""
        made: dict[str, list[str]] = defaultdict(list)
        sources: dict[str, dict[int, None]] = defaultdict(dict)
        for tensor in tensors:
            made[tensor.place.component].append(tensor.key)
            sources[tensor.place.component] |= dict.fromkeys(tensor.inputs)
        for component in made.keys() & self._published.keys():
            missing = missing_keys(self._family, made[component], component)
            lost = [key for key in missing if self._is_needed(key, component)]
            if not lost:
                continue
            files = _listed([self._names[i] for i in sources[component]])
            if not self._allowed:
                raise RecipeError(
                    f"the result would lack {self._tensors(lost, component)}, which the layout of {self._family.title} has and "
                    f"{files} lacks; take a whole {component} from another file, or {_ALLOW} to write it so"
                )
            text = f"the result lacks {counted(len(lost), 'tensor')} of {component}, as {files} does"
            yield Notice("plan.result_lacking", text, (component, *lost))

    @staticmethod
    def _tensors(keys: Collection[str], component: str) -> str:
        return f"{counted(len(keys), 'tensor')} of {component} ({some(list(keys), _SHOWN)})"


def _block(family: Family, key: str) -> str:
    """The part of a model that a key is in: a label, or a layer of a text encoder or level of a VAE."""
    place = family.block_of(key)
    return f"{place.component} {place.sublabel}" if place.sublabel else place.label


def _listed(names: Sequence[str]) -> str:
    if len(names) > _SHOWN + 1:
        return f"{', '.join(names[:_SHOWN])} and {len(names) - _SHOWN} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1] if names else "")))
