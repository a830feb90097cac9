"""From a tree of steps to one weighted sum for each key.

A model takes no part in what it lacks: a mean is that of the others, a difference from the base is left out, a method of two
inputs gives the other one. Where no such rule says what the result is, it is `Lacking`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from math import prod

from ..checkpoints.errors import LabelError
from ..checkpoints.families import BESIDE_LABELS, FAMILIES, Family, Place, family_of, layout
from .block_weights import BlockWeights
from .errors import RecipeError
from .forms import Applied, Form, Lacking, Model
from .methods import Method
from .recipe import Recipe
from .resolved_weights import ResolvedWeights

# Shares that add up to the same, as far as double precision can say.
_EVEN = 1e-9


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
        self._orders: dict[str, Sequence[str]] = {}

    @property
    def family(self) -> Family:
        """The family that block weights are resolved for."""
        return self._family

    def form(self, source: str, key: str, merge_vae: bool = False, whole: bool = False) -> Form | Lacking:
        """The weighted sum that a step, model or component file comes to for a key in single-file naming.

        Args:
            merge_vae: whether the VAE was asked for by name. Otherwise a step that names no weight for it passes on the VAE of its
                first input that has one.
            whole: as if every model had the tensor: what the recipe means.
        """
        forms: dict[str, Form | Lacking] = {}

        def of(name: str) -> Form | Lacking:
            if name not in self._index:
                return forms[name]
            index = self._index[name]
            if whole or self._has(index, key):
                return Form.of(Model(index))
            # A LoRA changes some tensors, and adds 0 to all others.
            return Form((), ()) if name in self._recipe.loras else Lacking(frozenset((index,)))

        for name in self._order(source):
            forms[name] = self._step(name, key, [of(s) for s in self._recipe.steps[name].inputs], merge_vae)
        return of(source)

    def block_weights(self, source: str) -> list[ResolvedWeights]:
        """The block weights of the steps that a source comes to.

        Raises:
            LabelError: some do not fit the architecture.
        """
        return [weights for name in self._order(source) for weights in self._block_weights(name)]

    def _order(self, source: str) -> Sequence[str]:
        """The steps that a source comes to, each after its inputs; asked for every key, worked out once."""
        if source not in self._orders:
            self._orders[source] = self._recipe.order(source) if source in self._recipe.steps else ()
        return self._orders[source]

    def _step(self, name: str, key: str, inputs: list[Form | Lacking], merge_vae: bool) -> Form | Lacking:
        step, resolved = self._recipe.steps[name], self._resolved(name)
        method, place = step.kind, self._family.block_of(key)
        vae = place.component == "vae"
        passed_on = vae and not merge_vae and method.kind != "structural"
        if passed_on and all(weights.vae is None for weights in self._block_weights(name)):
            return next((form for form in inputs if isinstance(form, Form)), inputs[0])

        def number(weights) -> float:
            if place.label in BESIDE_LABELS:
                return weights.beside(key)
            return weights.vae_by_convention if vae and weights.vae is None else weights.weight(key)

        values = {
            p: v if _is_plain(v) else tuple(number(w) for w in v) if isinstance(v, list) else number(v)
            for p, v in resolved.items()
        }
        for p, parameter in method.parameters.items():
            if parameter.share:
                parameter.check_number(values[p], f"steps.{name}.{p} at {place.label}")
        if method.kind == "structural":
            chosen = self._chosen(method, inputs, key, place, values)
            found = isinstance(chosen, Form) or chosen.step or all(isinstance(form, Lacking) for form in inputs)
            return chosen if found else Lacking(chosen.models, name)
        sources = step.inputs
        if any(isinstance(form, Lacking) for form in inputs):
            there = [i for i, form in enumerate(inputs) if isinstance(form, Form)]
            if (found := self._without(name, method, inputs, there, values)) is not None:
                return found
            # Those that have it, each with its own number.
            first = len(method.inputs)
            values = {
                p: tuple(v[i - first] for i in there if i >= first) if isinstance(v, tuple) else v
                for p, v in values.items()
            }
            inputs, sources = [inputs[i] for i in there], [sources[i] for i in there]
        if not method.on_deltas:
            return self._applied(method, inputs, values, sources)
        base, *models = inputs
        deltas = [
            form if self._recipe.space_of(source) == "delta" else Form.combined((1.0, -1.0), [form, base])
            for form, source in zip(models, sources[1:], strict=True)
        ]
        return Form.combined((1.0, 1.0), [base, self._applied(method, deltas, values, sources[1:])])

    def _without(
        self, name: str, method: Method, inputs: Sequence[Form | Lacking], there: list[int], values: dict
    ) -> Form | Lacking | None:
        """What a step comes to where only the inputs `there` have the tensor; None: the method applied to those."""
        lacking = [form for form in inputs if isinstance(form, Lacking)]
        models = frozenset().union(*(form.models for form in lacking))
        delta = self._recipe.space_of(name) == "delta"
        if broken := next((form.step for form in lacking if form.step), ""):
            return Lacking(models, broken)
        if not any(inputs[i].terms for i in there):  # LoRAs that do not change it at most
            return Form((), ()) if delta else Lacking(models)
        unmet = Lacking(models, name)
        if method.on_deltas:
            return unmet if 0 not in there else inputs[0] if there == [0] else None
        sources = self._recipe.steps[name].inputs
        if not delta and all(self._recipe.space_of(sources[i]) == "delta" for i in there):
            return unmet  # a change of a model that is not there
        if method.kind == "linear":
            return _rest_of_sum(method.shares(len(inputs), values), inputs, there) or unmet
        if delta or method.deltas:
            return unmet
        if len(there) == 1 and (method.variadic or len(inputs) == 2 or there == [0]):
            return inputs[there[0]]
        return None if method.variadic else unmet

    def _applied(self, method: Method, inputs: list[Form], values: dict, sources: list[str]) -> Form:
        if method.kind == "linear":
            return Form.combined(method.shares(len(inputs), values), inputs)
        nothing = not any(any(form.coefficients) for form in inputs)
        if nothing and (method.on_deltas or not any(form.terms for form in inputs)):
            return Form((), ())  # no difference, no change
        named = tuple(sources) if method.kind == "statistics" or "at" in method.supplied else ()
        return Form.of(Applied(method, tuple(sorted(values.items())), tuple(inputs), named))

    def _chosen(
        self, method: Method, inputs: list[Form | Lacking], key: str, place: Place, values: dict
    ) -> Form | Lacking:
        if "place" in method.supplied:
            values = values | {"place": place}
        if "has" in method.supplied:
            values = values | {
                "has": lambda form: isinstance(form, Form) and all(self._has(i, key) for i in form.models())
            }
        if "ema" in method.supplied:
            values = values | {"ema": self._averaged}
        if "key" in method.supplied:
            values = values | {"key": key}
        return method.function(*inputs, **values)

    def _averaged(self, form: Form | Lacking) -> Form | Lacking:
        """The same with the EMA copies of the models."""
        if isinstance(form, Lacking):
            return form
        if any(isinstance(term, Applied) for term in form.terms):
            raise RecipeError("exchange_ema takes a model, or a weighted sum of models; apply it before other methods")
        return Form(tuple(Model(self._ema(term.index)) for term in form.terms), form.coefficients)

    def _resolved(self, name: str) -> dict:
        """A step's parameters, block weights resolved for this architecture."""
        if name not in self._weights:
            given = self._recipe.steps[name].weights(self._recipe.convention)
            self._weights[name] = {p: self._for_family(v, f"steps.{name}") for p, v in given.items()}
        return self._weights[name]

    def _block_weights(self, name: str) -> list[ResolvedWeights]:
        """Those of a step's parameters that may differ from tensor to tensor."""
        given = self._resolved(name).values()
        return [w for value in given for w in (value if isinstance(value, list) else [value]) if not _is_plain(w)]

    def _for_family(self, value, where: str):
        """A parameter's value for this family; a switch or number of the method is the same for all."""
        if _is_plain(value):
            return value
        try:
            return [w.resolve(self._family) for w in value] if isinstance(value, list) else value.resolve(self._family)
        except LabelError as error:
            raise LabelError(f"{where}: {error}") from None


def _rest_of_sum(shares: Sequence[float], inputs: Sequence[Form | Lacking], there: list[int]) -> Form | None:
    """A weighted sum without the inputs that lack the tensor; None where what is left is no such sum.

    What they lack cancels out, or it was a mean, which becomes that of the others; of two inputs the other one is left.
    """
    total, rest = sum(shares), sum(shares[i] for i in there)
    forms = [inputs[i] for i in there]
    if abs(total - rest) < _EVEN:
        return Form.combined(tuple(shares[i] for i in there), forms)
    if min(shares) >= 0:
        kept = tuple(shares[i] / rest * total for i in there) if rest > 0 else (total,) + (0.0,) * (len(there) - 1)
        return Form.combined(kept, forms)
    return forms[0] if len(inputs) == 2 and abs(total - 1) < _EVEN else None


def _is_plain(value) -> bool:
    """Whether a parameter is a switch, whole number or choice, the same for every tensor."""
    return isinstance(value, bool | int | str)


def fitting_families(recipe: Recipe) -> list[Family]:
    """The families that all block weights of a recipe fit, those that they name block for block first, then those that most tools
    know: what it may be for where no file tells.

    Raises:
        RecipeError: they fit none.
    """

    def last(family: Family) -> tuple:
        return (
            not any(weights.names_all(family) for weights in _block_weights(recipe)), bool(family.parent),
            family.mecha is None, -len(family.conventions),
        )  # fmt: skip

    misfits = {family: _misfit(recipe, family) for family in sorted(FAMILIES.values(), key=last)}
    fitting = [family for family, misfit in misfits.items() if misfit is None]
    if not fitting:
        nearest = next(iter(misfits.values()))
        raise RecipeError(
            f"no model tells the architecture, and the block weights fit none that is known ({nearest}); mend them, or give a "
            "model that can be read"
        )
    return fitting


def _misfit(recipe: Recipe, family: Family) -> LabelError | None:
    """Why the block weights of a recipe do not fit a family; None where all do."""
    try:
        for weights in _block_weights(recipe):
            weights.resolve(family)
    except LabelError as error:
        return error
    return None


def _block_weights(recipe: Recipe) -> list[BlockWeights]:
    """All block weights of a recipe's steps."""
    given = [value for step in recipe.steps.values() for value in step.weights(recipe.convention).values()]
    each = [weights for value in given for weights in (value if isinstance(value, list) else [value])]
    return [weights for weights in each if not _is_plain(weights)]


def leaf_shares(recipe: Recipe, family: str | Family) -> dict[str, float | None]:
    """The share of every model in the result's UNET: the mean of its coefficient over the architecture's parameters.

    Needs no files. A LoRA's is its strength, as if it changed every tensor. None for a model that a method reads which is not
    linear: it has no single share.
    """
    return leaf_shares_by_block(recipe, family)[0]


def leaf_shares_by_block(recipe: Recipe, family: str | Family) -> tuple[dict[str, float | None], bool]:
    """`leaf_shares`, and whether they are means of shares that differ from block to block, and so rest on the family."""
    models = recipe.leaves(recipe.result)
    family = family_of(family)
    collapse = Collapse(recipe, family, {name: i for i, name in enumerate(models)})
    groups = _groups(collapse, recipe.result)
    sums: dict[int, float] = defaultdict(float)
    indirect: set[int] = set()
    for key, size in groups:
        form = collapse.form(recipe.result, key)
        for term, coefficient in zip(form.terms, form.coefficients, strict=True):
            if isinstance(term, Model):
                sums[term.index] += coefficient * size
            else:
                indirect.update(term.models)
    total = sum(size for _, size in groups)
    return {name: None if i in indirect else sums[i] / total for i, name in enumerate(models)}, len(groups) > 1


def _groups(collapse: Collapse, source: str) -> list[tuple[str, int]]:
    """One UNET key for each set of tensors that all steps treat alike, and how many parameters the set has.

    Deep recipes take a while for every key; numbers are the same for all of them, block weights differ by block.
    """
    varied, family = [weights for weights in collapse.block_weights(source) if not weights.is_uniform], collapse.family
    found: dict[tuple, list] = {}
    for key, spec in layout(family).items():
        if family.block_of(key).core:
            group = found.setdefault(tuple(weights.weight(key) for weights in varied), [key, 0])
            group[1] += prod(spec.shape)
    return [(key, size) for key, size in found.values()]
