"""Recipes with free numbers and choices: where these stand, and the recipe that a point of the search means.

Wherever a number or a block weight may stand in a recipe, something free may stand instead:

    alpha: {free: [0, 1]}                            # one number
    alpha: {free: [0, 1], step: 0.1}                 # on a grid
    alpha: {free: [0, 1], per: block}                # one for each slot of the convention's vector: 26, 20 or 27
    alpha: {free: [0, 1], per: block, BASE: 0}       # ... but the text encoders are frozen; any line may follow
    alpha: {free: [0, 1], per: [BASE, IN*, M00, OUT*]}      # grouped: one for each selector
    alpha: {IN04-IN08: {free: [0, 1]}, OUT*: {free: [0, 0.5], per: block}, M00: 0.3}
    alpha: {preset: GRAD_V, scale: {free: [0, 1]}}
    weights: [{free: [0, 1]}, {free: [0, 1], per: block}]
    method: {choose: [weighted_sum, tensor_sum]}     # a choice: methods, inputs, presets, switches, components
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice, product
from pathlib import Path
from typing import Any

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.families import Family
from ..checkpoints.spelling import respelt, spelt
from ..merge.block_weights import BlockWeights
from ..merge.errors import RecipeError
from ..merge.methods import METHODS
from ..merge.recipe import Recipe
from ..merge.recipe_file import named_steps
from .errors import SearchError
from .parameters import FreeParameter, Point
from .placeholders import Placeholder, choice, filled, is_choice, is_free, placeholders
from .weight_placeholders import Role, read_weights

# Combinations of choices that are tried out before a search begins.
_MOST_COMBINATIONS = 64


@dataclass(frozen=True)
class Template:
    """A recipe with placeholders in it.

    Attributes:
        data: the recipe as plain data, with `Placeholder`s.
        parameters: what fills them, in the recipe's order.
        roles: parameter -> which step's number it is a part of.
        family: of the models.
        where: the file that it is from, for errors.
        folder: where relative paths count from.
    """

    data: Any
    parameters: tuple[FreeParameter, ...]
    roles: Mapping[str, Role] = field(default_factory=dict)
    family: str | Family | None = None
    where: str = "recipe"
    folder: Path = Path()

    def plain(self, point: Point) -> Any:
        """The recipe at a point as plain data."""
        return filled(self.data, point)

    def recipe(self, point: Point) -> Recipe:
        """The recipe at a point, its paths seen from the working directory.

        Raises:
            RecipeError: there is no such recipe.
        """
        return Recipe.parse(self.plain(point), self.where).relative_to(self.folder)

    def middle(self) -> dict[str, float | str]:
        """The point in the middle of everything free, with the first of every choice."""
        return {p.name: p.choices[0] if p.is_choice else p.at(0.5) for p in self.parameters}

    def parents(self, recipe: Recipe, source: str | None = None) -> list[str]:
        """What the search mixes: the models below the result (or `source`), and the steps in which nothing is free any more.

        Args:
            recipe: any of the template's.
            source: a step or model of it.
        """
        open_steps = {name for name, step in (self.data.get("steps") or {}).items() if next(placeholders(step), None)}
        found: dict[str, None] = {}

        def visit(at: str) -> None:
            if at in recipe.steps and open_steps & set(recipe.order(at)):
                for below in recipe.steps[at].inputs:
                    visit(below)
            elif recipe.space_of(at) == "weight":
                found[at] = None

        visit(source or recipe.result)
        return list(found)

    def check(self) -> None:
        """Try the corners and the choices.

        Raises:
            RecipeError: some of the points are not recipes.
        """
        middle = self.middle()
        self.recipe(middle)
        for share in (0.0, 1.0):
            self.recipe(middle | {p.name: p.at(share) for p in self.parameters if not p.is_choice})
        choices = [[(p.name, x) for x in p.choices] for p in self.parameters if p.is_choice]
        for combination in islice(product(*choices), _MOST_COMBINATIONS):
            self.recipe(middle | dict(combination))


def read_template(data: Any, where: str = "recipe", folder: Path = Path()) -> Template:
    """Find everything free in a recipe.

    Args:
        data: the recipe as plain data.
        where: names it in errors.
        folder: where relative paths count from; the first model's header is read there, for its architecture.

    Raises:
        SearchError: something free is written wrongly, or stands where nothing free can stand, or nothing is free.
        RecipeError, CheckpointError: it is not a recipe, or the first model cannot be read.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("models"), Mapping) or not data["models"]:
        raise RecipeError(f"{where}: a recipe is a mapping with models and steps")
    data = named_steps({**data, "steps": _choices_kept(data.get("steps") or {})})
    family = _family(data, folder)
    found: list[FreeParameter] = []
    roles: dict[str, Role] = {}
    try:
        steps = data["steps"]
        if not isinstance(steps, Mapping):
            raise SearchError("steps: must be a mapping of names")
        read = {name: _step(str(name), step, data, family, found, roles) for name, step in steps.items()}
        rest = {key: _rest(str(key), value, found) for key, value in data.items() if key != "steps"}
        names = [p.name for p in found]
        if not found:
            raise SearchError("nothing is free; write e.g. alpha: {free: [0, 1], per: block}")
        if twice := [name for name in names if names.count(name) > 1]:
            raise SearchError(f"two free numbers would be called {twice[0]}; give the steps other names")
    except UnetscopeError as error:
        raise SearchError(f"{where}: {error}") from None
    whole = {key: read if key == "steps" else rest[key] for key in data}
    template = Template(whole, tuple(found), roles, family, where, Path(folder))
    template.check()
    try:
        return _with_labels(template)
    except SearchError:
        raise
    except UnetscopeError as error:  # a preset for other blocks
        raise SearchError(f"{where}: {error}") from None


@dataclass(frozen=True)
class _Choice:
    """A choice among inputs, out of the sight of those who take mappings there for steps."""

    written: Mapping


def _choices_kept(value: Any) -> Any:
    """Steps with the choices among their inputs wrapped."""
    if isinstance(value, Mapping):
        return {
            k: [_Choice(i) if is_choice(i) else _choices_kept(i) for i in x]
            if k == "inputs" and isinstance(x, list)
            else _choices_kept(x)
            for k, x in value.items()
        }
    return value


def _family(data: Mapping, folder: Path) -> Family | None:
    """The architecture of the first model, from its header."""
    from ..checkpoints import open_checkpoint

    first = next(iter(data["models"].values()))
    first = first.get("path") if isinstance(first, Mapping) else first
    if not isinstance(first, str):
        raise RecipeError(f"models: the path of the first model must be text, not {first!r:.80}")
    with open_checkpoint(Path(folder) / first) as model:
        return model.told_family


def _step(
    name: str, step: Any, data: Mapping, family: Family | None, found: list[FreeParameter], roles: dict[str, Role]
) -> Any:
    """A step with placeholders."""
    if not isinstance(step, Mapping):
        return step
    out = {}
    step = respelt(step, {p for m in _methods(step) if m in METHODS for p in METHODS[m].parameters})
    convention = step.get("convention") or data.get("convention") or "supermerger"
    for key, value in step.items():
        where = f"{name}.{key}"
        if key == "inputs" and isinstance(value, list):
            out[key] = [
                choice(x.written, f"{where}.{i}", found) if isinstance(x, _Choice) else _rest(f"{where}.{i}", x, found)
                for i, x in enumerate(value, 1)
            ]
        elif key in ("method", "convention"):
            if key == "convention" and is_choice(value):
                raise SearchError(f"{where}: a convention cannot be chosen, for it says what the blocks are")
            out[key] = choice(value, where, found) if is_choice(value) else _rest(where, value, found)
        else:
            out[key] = _value(where, value, name, step, convention, family, found, roles)
    return out


def _value(where, value, name, step, convention, family, found, roles) -> Any:
    """A parameter of a step: a switch, a whole number or a choice as it stands, else block weights, one or several."""
    kind = _kind(where.rpartition(".")[2], step)
    field_name = where.removeprefix(f"{name}.")
    if kind == "numbers":
        models = [str(x) for x in step.get("inputs") or []][_bases(step) :]
        if is_free(value):
            value = [value] * len(models)
        if not isinstance(value, list):
            return value
        out = []
        for i, each in enumerate(value):
            model = models[i] if i < len(models) and models.count(models[i]) == 1 else str(i + 1)
            role = Role(name, field_name, i, len(value))
            out.append(read_weights(each, f"{where}.{model}", convention, family, found, roles, role))
        return out
    if kind == "integer" and is_free(value):
        value = {"step": 1, **value}
    role = Role(name, field_name)
    return read_weights(value, where, convention, family, found, roles, role, whole_numbers=kind == "integer")


def _methods(step: Mapping) -> list[str]:
    given = step.get("method")
    given = given.get("choose") if is_choice(given) else [given]
    return [spelt(str(x).replace("-", "_"), METHODS) for x in given] if isinstance(given, list) else []


def _kind(parameter: str, step: Mapping) -> str:
    kinds = (METHODS[m].parameters for m in _methods(step) if m in METHODS)
    return next((k[parameter].kind for k in kinds if parameter in k), "number")


def _bases(step: Mapping) -> int:
    """How many inputs come before those that have a number each."""
    known = [METHODS[m] for m in _methods(step) if m in METHODS]
    return len(known[0].inputs) if known and known[0].variadic else 0


def _rest(where: str, value: Any, found: list[FreeParameter]) -> Any:
    """What is not a parameter of a step: choices may stand in it, but not for a file or a name that others refer to."""
    top = where.split(".")[0]
    if is_choice(value):
        if top in ("models", "loras", "title", "convention"):
            raise SearchError(f"{where}: cannot be chosen; name all models and choose among the inputs of a step")
        return choice(value, where, found)
    if is_free(value):
        raise SearchError(f"{where}: cannot be free; only the numbers of steps can")
    if isinstance(value, Mapping):
        return {k: _rest(f"{where}.{k}", x, found) for k, x in value.items()}
    return [_rest(f"{where}.{i}", x, found) for i, x in enumerate(value, 1)] if isinstance(value, list) else value


def _with_labels(template: Template) -> Template:
    """The template with the labels that each number moves: those whose weight differs between its ends."""
    middle, changed = template.middle(), []
    for p in template.parameters:
        role = template.roles.get(p.name)
        if p.is_choice or role is None:
            changed.append(p)
            continue
        low, high = (_by_label(template, role, middle | {p.name: p.at(share)}) for share in (0.0, 1.0))
        labels = tuple(x for x in high if low.get(x) != high[x]) if low is not None and high is not None else ()
        changed.append(replace(p, labels=labels))
        if role.whole and not labels and high is not None:
            raise SearchError(f"{template.where}: {p.name} moves nothing: later lines name the same blocks")
    return replace(template, parameters=tuple(changed))


def _by_label(template: Template, role: Role, point: Point) -> dict[str, float] | None:
    """The weights of a step's number at a point; None for what is not a block weight."""
    recipe = template.recipe(point)
    value = recipe.steps[role.step].weights(recipe.convention).get(role.field)
    if role.position is not None and isinstance(value, list):
        value = value[role.position]
    return value.resolve(template.family).by_label() if isinstance(value, BlockWeights) else None


def read_parameters(data: Any, family: str | None, where: str = "parameters") -> Template:
    """Free numbers and choices without a recipe, for an objective of one's own: name -> what may stand in a recipe.

    Raises:
        SearchError: as `read_template`; `per: block` needs a family.
    """
    if not isinstance(data, Mapping) or not data:
        raise SearchError(f"{where}: must be a mapping of names to something free, such as x: {{free: [0, 1]}}")
    found: list[FreeParameter] = []
    read: dict[str, Any] = {}
    for name, value in data.items():
        try:
            role = Role("", str(name))
            read[str(name)] = read_weights(value, str(name), "supermerger", family, found, {}, role)
        except UnetscopeError as error:
            raise SearchError(f"{where}.{error}") from None
        if not any(isinstance(x, Placeholder) for x in placeholders(read[str(name)])):
            raise SearchError(f"{where}.{name}: nothing in it is free; write e.g. {{free: [0, 1]}}")
    names = [p.name for p in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise SearchError(f"{where}: two free numbers would be called {twice[0]}")
    return Template(read, tuple(found), {}, family, where)
