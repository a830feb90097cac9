"""Baselines: what a search has to beat. They are scored first, and a search that does not beat them says so."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.families import family_of
from ..checkpoints.families.presets import has_presets, is_preset
from ..merge.block_weights import BlockWeights
from ..merge.recipe import Recipe, Step
from .errors import SearchError
from .parameters import FreeParameter
from .search_space import Template

# Parents are baselines of their own accord up to this number of models.
_MOST_PARENTS = 8
_ALL = re.compile(r"all ([A-Z])", re.IGNORECASE)


@dataclass(frozen=True)
class Baseline:
    """A point with a name."""

    name: str
    point: Mapping[str, float | str]


def baselines(template: Template, wanted: Sequence[Any] | None, where: str) -> tuple[list[Baseline], list[str]]:
    """The points that a search begins with.

    Args:
        template: the recipe (or the parameters of an objective).
        wanted: what the study lists: `all A`, `all B`..., `uniform`, a number, a preset, `{name: block weights}`, or `{name:
            {parameter: value}}`; None for all parents, 0.5, uniform, GRAD_V and GRAD_A.
        where: names the list in errors.

    Returns:
        the baselines that fit into what is free, each point once, and a sentence about each one that was asked for and does not.

    Raises:
        SearchError: no such baseline.
    """
    usual = wanted is None
    maker = _Maker(template)
    found: list[Baseline] = []
    notes: list[str] = []
    for i, entry in enumerate(maker.usual() if usual else wanted, 1):
        name, point = maker.read(entry, f"{where}.{i}")
        if point is None:
            if not usual:
                notes.append(f"baseline {name} does not fit into what is free, and was left out")
        elif same := next((b for b in found if dict(b.point) == point), None):
            if not usual:
                notes.append(f"baseline {name} is the same as {same.name}")
        else:
            found.append(Baseline(name, point))
    return found, notes


class _Maker:
    """Makes points of names."""

    def __init__(self, template: Template):
        self.template = template
        self.middle = template.middle()
        self.numbers = [p for p in template.parameters if not p.is_choice]
        self.recipe: Recipe | None = template.recipe(self.middle) if template.roles else None
        self.parents = template.parents(self.recipe) if self.recipe else []

    def usual(self) -> list[Any]:
        if self.recipe is None:
            return [0.5] if all(p.nearest(0.5) is not None for p in self.numbers) else []
        parents = [f"all {chr(ord('A') + i)}" for i in range(len(self.parents))]
        family = self.template.family
        presets = ["GRAD_V", "GRAD_A"] if family is not None and has_presets(family_of(family)) else []
        return [*(parents if len(parents) <= _MOST_PARENTS else []), "0.5", "uniform", *presets]

    def read(self, entry: Any, where: str) -> tuple[str, dict[str, float | str] | None]:
        """The name and the point of an entry of the study's list; None where it does not fit."""
        if isinstance(entry, Mapping) and len(entry) == 1:
            name, value = next(iter(entry.items()))
            if isinstance(value, Mapping) and any(k in self.middle for k in value):
                return str(name), self._given(value, f"{where}.{name}")
            return str(name), self._blocks(value, f"{where}.{name}")
        if isinstance(entry, int | float) and not isinstance(entry, bool):
            return f"{entry:g}", self._everywhere(float(entry))
        if not isinstance(entry, str):
            raise SearchError(f"{where}: must be a name, a number or {{name: weights}}, found {entry!r:.80}")
        if found := _ALL.fullmatch(entry.strip()):
            letter = found[1].upper()
            index = ord(letter) - ord("A")
            if self.recipe is None or index >= len(self.parents):
                raise SearchError(f"{where}: there is no model {letter}; the search mixes {len(self.parents)}")
            return self._named(f"all {letter}", self._by_rules(index))
        if entry.strip().lower() == "uniform":
            return self._named("uniform", self._by_rules(None))
        try:
            return entry, self._everywhere(float(entry))
        except ValueError:
            pass
        if not is_preset(entry):
            raise SearchError(f"{where}: {entry!r} is neither a preset, a number, 'all A' (or B, C...) nor uniform")
        return entry, self._blocks(entry, where)

    def _given(self, value: Mapping, where: str) -> dict[str, float | str]:
        """A point that the study spells out; what it leaves out is in the middle."""
        point = dict(self.middle)
        by_name = {p.name: p for p in self.template.parameters}
        for name, x in value.items():
            p = by_name.get(name)
            if p is None:
                raise SearchError(f"{where}: {name!r} is not free")
            fits = str(x) if p.is_choice and str(x) in p.choices else None
            if not p.is_choice and isinstance(x, int | float):
                fits = p.nearest(float(x))
            if fits is None:
                allowed = f"one of {', '.join(p.choices)}" if p.is_choice else f"a number from {p.low:g} to {p.high:g}"
                raise SearchError(f"{where}.{name}: must be {allowed}, found {x!r:.80}")
            point[name] = fits
        return point

    def _everywhere(self, value: float) -> dict[str, float | str] | None:
        """Every weight the same; numbers that are not weights keep to their middle."""
        return self._fitted({p.name: value for p in self.numbers if self._is_weight(p)})

    def _is_weight(self, p: FreeParameter) -> bool:
        role = self.template.roles.get(p.name)
        return role is None or role.field in ("alpha", "beta", "weights")

    def _by_rules(self, chosen: int | None) -> dict[str, float | str] | None:
        """The result is one model, or the mean of all of them."""
        values: dict[str, float] = {}
        for p in self.numbers:
            role = self.template.roles[p.name]
            if not self._is_weight(p):
                continue
            target = self._step_values(self.recipe.steps[role.step], chosen).get(role.field)
            target = target[role.position] if isinstance(target, list) else target
            if target is None:
                return None
            values[p.name] = target
        return self._fitted(values)

    def _step_values(self, step: Step, chosen: int | None) -> dict[str, Any]:
        """What a step's numbers have to be."""
        rule = step.kind.becomes
        if rule is None:
            return {}
        below = [self.template.parents(self.recipe, source) for source in step.inputs]
        at = None
        if chosen is not None:
            # A step that the model is not below of does not matter.
            at = next((i for i, parents in enumerate(below) if self.parents[chosen] in parents), 0)
        return rule(at, [max(1, len(self.recipe.models_of(source))) for source in step.inputs])

    def _blocks(self, value: Any, where: str) -> dict[str, float | str] | None:
        """Block weights (a preset, a vector, lines) as the point that means them."""
        if self.template.family is None:
            raise SearchError(f"{where}: block weights need a recipe, or parameters named by their values")
        try:
            weights = BlockWeights.parse(value, self.recipe.convention if self.recipe else "supermerger")
            by_label = weights.resolve(self.template.family).by_label()
        except UnetscopeError as error:
            raise SearchError(f"{where}: {error}") from None
        values: dict[str, float] = {}
        for p in self.numbers:
            if not self._is_weight(p):
                continue
            given = {round(by_label[x], 9) for x in p.labels if x in by_label}
            if len(given) != 1 or self.template.roles.get(p.name) is None:
                return None
            values[p.name] = given.pop()
        return self._fitted(values)

    def _fitted(self, values: Mapping[str, float]) -> dict[str, float | str] | None:
        """The nearest allowed point; None when a value is outside of what is free."""
        point = dict(self.middle)
        for p in self.numbers:
            if p.name in values:
                point[p.name] = p.nearest(values[p.name])
        return None if not values or None in point.values() else point

    def _named(self, name: str, point: dict[str, float | str] | None) -> tuple[str, dict[str, float | str] | None]:
        """A baseline of models says so in its name when frozen weights keep it from being just that."""
        if point is None:
            return name, None
        recipe = self.template.recipe(point)
        for step_name in {self.template.roles[p.name].step for p in self.numbers}:
            step = recipe.steps[step_name]
            for given in step.weights(recipe.convention).values():
                each = given if isinstance(given, list) else [given]
                blocks = [x.resolve(self.template.family) for x in each if isinstance(x, BlockWeights)]
                if any(len(set(x.by_label().values())) > 1 or not x.is_uniform for x in blocks):
                    return f"{name} where free", point
        return name, point
