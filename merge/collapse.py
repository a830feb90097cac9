"""From a tree of steps to one weighted sum for each key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

from ..checkpoints.errors import LabelError
from ..checkpoints.families import FAMILIES, Family, Place, family_of, layout
from .errors import RecipeError
from .forms import Applied, Form, Model
from .methods import Method
from .recipe import Recipe


class Collapse:
    """Works out what steps come to for a key.

    Args:
        recipe: the steps.
        family: the architecture that block weights are resolved for.
        index: the number of every model (and component file) by name; names of one file share a number.
        has: whether a model, by its number, has a tensor; without it every model has all.
        ema: the number under which a model's EMA copy goes; without it the model's own.

    Raises:
        LabelError: a block weight does not fit the architecture.
    """

    def __init__(
        self,
        recipe: Recipe,
        family: str | Family,
        index: Mapping[str, int],
        has: Callable[[int, str], bool] = lambda index, key: True,
        ema: Callable[[int], int] = lambda index: index,
    ):
        self._recipe, self._family, self._index, self._has, self._ema = recipe, family_of(family), index, has, ema
        self._weights: dict[str, dict] = {}

    @property
    def family(self) -> Family:
        """The family that block weights are resolved for."""
        return self._family

    def form(self, source: str, key: str, merge_vae: bool = False) -> Form:
        """The weighted sum that a step, model or component file comes to for a key in single-file naming.

        `merge_vae` says that the VAE was asked for by name. Otherwise a step that names no weight for it passes on its
        first input's.
        """
        forms: dict[str, Form] = {}

        def of(name: str) -> Form:
            if name not in self._index:
                return forms[name]
            index = self._index[name]
            # A LoRA changes some tensors, and adds 0 to all others.
            return Form((), ()) if name in self._recipe.loras and not self._has(index, key) else Form.of(Model(index))

        for name in self._recipe.order(source) if source in self._recipe.steps else ():
            forms[name] = self._step(name, key, [of(s) for s in self._recipe.steps[name].inputs], merge_vae)
        return of(source)

    def _step(self, name: str, key: str, inputs: list[Form], merge_vae: bool) -> Form:
        step, resolved = self._recipe.steps[name], self._resolved(name)
        method, place = step.kind, self._family.block_of(key)
        vae = place.component == "vae"
        weights = [w for v in resolved.values() for w in (v if isinstance(v, list) else [v]) if not _is_plain(w)]
        if vae and not merge_vae and method.kind != "structural" and all(w.vae is None for w in weights):
            return inputs[0]

        def number(weights) -> float:
            return weights.vae_by_convention if vae and weights.vae is None else weights.weight(key)

        values = {
            p: v if _is_plain(v) else tuple(number(w) for w in v) if isinstance(v, list) else number(v)
            for p, v in resolved.items()
        }
        for p, parameter in method.parameters.items():
            if parameter.share:
                parameter.check_number(values[p], f"steps.{name}.{p} at {place.label}")
        if method.kind == "structural":
            return self._chosen(method, inputs, key, place, values)
        if not method.on_deltas:
            return self._applied(method, inputs, values, step.inputs)
        base, *models = inputs
        deltas = [
            form if self._recipe.space_of(source) == "delta" else Form.combined((1.0, -1.0), [form, base])
            for form, source in zip(models, step.inputs[1:], strict=True)
        ]
        return Form.combined((1.0, 1.0), [base, self._applied(method, deltas, values, step.inputs[1:])])

    def _applied(self, method: Method, inputs: list[Form], values: dict, sources: list[str]) -> Form:
        if method.kind == "linear":
            return Form.combined(method.shares(len(inputs), values), inputs)
        if not any(form.terms for form in inputs):
            return Form((), ())
        named = tuple(sources) if method.kind == "statistics" or "at" in method.supplied else ()
        return Form.of(Applied(method, tuple(sorted(values.items())), tuple(inputs), named))

    def _chosen(self, method: Method, inputs: list[Form], key: str, place: Place, values: dict) -> Form:
        if "place" in method.supplied:
            values = values | {"place": place}
        if "has" in method.supplied:
            values = values | {"has": lambda form: all(self._has(i, key) for i in form.models())}
        if "ema" in method.supplied:
            values = values | {"ema": self._averaged}
        if "key" in method.supplied:
            values = values | {"key": key}
        return method.function(*inputs, **values)

    def _averaged(self, form: Form) -> Form:
        """The same with the EMA copies of the models."""
        if any(isinstance(term, Applied) for term in form.terms):
            raise RecipeError("exchange_ema takes a model, or a weighted sum of models; apply it before other methods")
        return Form(tuple(Model(self._ema(term.index)) for term in form.terms), form.coefficients)

    def _resolved(self, name: str) -> dict:
        """A step's parameters, block weights resolved for this architecture."""
        if name not in self._weights:
            given = self._recipe.steps[name].weights(self._recipe.convention)
            self._weights[name] = {p: self._for_family(v, f"steps.{name}") for p, v in given.items()}
        return self._weights[name]

    def _for_family(self, value, where: str):
        """A parameter's value for this family; a switch or number of the method is the same for all."""
        if _is_plain(value):
            return value
        try:
            return [w.resolve(self._family) for w in value] if isinstance(value, list) else value.resolve(self._family)
        except LabelError as error:
            raise LabelError(f"{where}: {error}") from None


def _is_plain(value) -> bool:
    """Whether a parameter is a switch, whole number or choice, the same for every tensor."""
    return isinstance(value, bool | int | str)


def fitting_families(recipe: Recipe) -> list[Family]:
    """The families that all block weights of a recipe fit, those that most tools know first: what it may be for where no file
    tells."""
    known = sorted(
        FAMILIES.values(), key=lambda family: (bool(family.parent), family.mecha is None, -len(family.conventions))
    )
    return [family for family in known if _fits(recipe, family)]


def _fits(recipe: Recipe, family: Family) -> bool:
    try:
        for step in recipe.steps.values():
            for value in step.weights(recipe.convention).values():
                for weights in value if isinstance(value, list) else [value]:
                    if not _is_plain(weights):
                        weights.resolve(family)
    except LabelError:
        return False
    return True


def leaf_shares(recipe: Recipe, family: str | Family) -> dict[str, float | None]:
    """The share of every model in the result's UNET: the mean of its coefficient over the architecture's parameters.

    Needs no files. A LoRA's is its strength, as if it changed every tensor. None for a model that a method reads which is not
    linear: it has no single share.
    """
    models = recipe.leaves(recipe.result)
    family = family_of(family)
    collapse = Collapse(recipe, family, {name: i for i, name in enumerate(models)})
    sums: dict[int, float] = defaultdict(float)
    indirect: set[int] = set()
    total = 0
    for key, spec in layout(family).items():
        if not family.block_of(key).core:
            continue
        size = 1
        for n in spec.shape:
            size *= n
        total += size
        form = collapse.form(recipe.result, key)
        for term, coefficient in zip(form.terms, form.coefficients, strict=True):
            if isinstance(term, Model):
                sums[term.index] += coefficient * size
            else:
                indirect.update(i for inner in term.inputs for i in inner.models())
    return {name: None if i in indirect else sums[i] / total for i, name in enumerate(models)}
