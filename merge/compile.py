"""From a tree of steps to one linear combination for each key.

A model takes no part in what it lacks: a mean is that of the others, a difference from the base is left out, a method of two
inputs gives the other one. Where no such rule says what the result is, it is `Missing`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from ..checkpoints.errors import RecipeError
from ..checkpoints.families import FAMILIES, Family, Place, family_of, layout
from .block_weights import BlockWeights, ResolvedWeights
from .linear_combination import LinearCombination, MethodCall, Missing, Model, Result
from .methods import Method
from .recipe import Recipe

# Shares that add up to the same, as far as double precision can say.
_EVEN = 1e-9


@dataclass(frozen=True)
class _Source:
    """A step, model or component file, and what of it may differ from tensor to tensor.

    Attributes:
        steps: that it is made from, each after its inputs.
        models: the numbers of the models and LoRAs below it.
        weights: the block weights of its steps.
        asks: what methods of its steps want to be told of a tensor.
    """

    name: str
    steps: tuple[str, ...]
    models: tuple[int, ...]
    weights: tuple[ResolvedWeights, ...]
    asks: frozenset[str]
    _numbers: dict[tuple[str, str], tuple[float, ...] | None] = field(default_factory=dict)

    def told_apart(self, family: Family, key: str) -> tuple:
        """What the steps know a tensor by: two for which it is equal come to the same where the same models have them."""
        place, kind = family.block_of(key), family.kind_of(key)
        of_tensors = place if "place" in self.asks else place.component == "vae"
        return of_tensors, key if "key" in self.asks else "", self._numbers_at(key, place.label, kind)

    def _numbers_at(self, key: str, label: str, kind: str) -> tuple[float, ...]:
        """The number of every block weight for a tensor; looked up once for a label's tensors of one kind, if that tells them."""
        if (label, kind) not in self._numbers:
            by_key = any(weights.differ_by(label) == "key" for weights in self.weights)
            self._numbers[label, kind] = None if by_key else tuple(weights.at(key) for weights in self.weights)
        known = self._numbers[label, kind]
        return tuple(weights.at(key) for weights in self.weights) if known is None else known


class RecipeCompiler:
    """Works out what the steps of a recipe come to for a key.

    Tensors that nothing in the recipe tells apart come to the same, whatever the depth of its steps: that is worked out once.

    Args:
        recipe: the steps.
        family: the architecture that block weights are resolved for.
        index: the number of every model (and component file) by name; names of one file share a number.
        has: whether a model, by its number, has a tensor; without it every model has all.
        ema: the number under which a model's EMA copy goes; without it the model's own.

    Raises:
        RecipeError: a block weight does not fit the architecture.
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
        self._sources: dict[str, _Source] = {}
        self._compiled: dict[tuple, Result] = {}

    def combination(self, source: str, key: str, merge_vae: bool = False, whole: bool = False) -> Result:
        """The linear combination that a step, model or component file comes to for a key in single-file naming.

        Args:
            merge_vae: whether the VAE was asked for by name. Otherwise a step that names no weight for it passes on the VAE of its
                first input that has one.
            whole: as if every model had the tensor: what the recipe means.
        """
        known = self._source(source)
        lacking = frozenset(i for i in known.models if not self._has(i, key))
        alike = (source, merge_vae, whole, lacking, *known.told_apart(self._family, key))
        found = self._compiled.get(alike)
        if found is None:
            found = self._compiled[alike] = self._compile(known, key, merge_vae, frozenset() if whole else lacking)
        return found

    def _source(self, name: str) -> _Source:
        if name not in self._sources:
            steps = self._recipe.order(name) if name in self._recipe.steps else []
            leaves = self._recipe.leaves(name) if steps else [name]
            models = tuple(self._index[leaf] for leaf in leaves if leaf in self._index)
            weights = [weights for step in steps for weights in self._block_weights(step)]
            asks = frozenset(what for step in steps for what in self._recipe.steps[step].kind.supplied)
            self._sources[name] = _Source(name, tuple(steps), models, tuple(weights), asks)
        return self._sources[name]

    def _compile(self, source: _Source, key: str, merge_vae: bool, lacking: frozenset[int]) -> Result:
        found: dict[str, Result] = {}

        def of(name: str) -> Result:
            if name not in self._index:
                return found[name]
            index = self._index[name]
            if index not in lacking:
                return LinearCombination.of_model(index)
            # A LoRA changes some tensors, and adds 0 to all others.
            return LinearCombination((), ()) if name in self._recipe.loras else Missing(frozenset((index,)))

        for name in source.steps:
            found[name] = self._step(name, key, [of(s) for s in self._recipe.steps[name].inputs], merge_vae)
        return of(source.name)

    def _step(self, name: str, key: str, inputs: list[Result], merge_vae: bool) -> Result:
        step, resolved = self._recipe.steps[name], self._resolved(name)
        method, place = step.kind, self._family.block_of(key)
        passed_on = place.component == "vae" and not merge_vae and method.kind != "structural"
        if passed_on and all(weights.vae is None for weights in self._block_weights(name)):
            return next((each for each in inputs if isinstance(each, LinearCombination)), inputs[0])

        values = {
            p: v if _is_plain(v) else tuple(w.at(key) for w in v) if isinstance(v, list) else v.at(key)
            for p, v in resolved.items()
        }
        for p, parameter in method.parameters.items():
            if parameter.share:
                parameter.check_number(values[p], f"steps.{name}.{p} at {place.label}")
        if method.kind == "structural":
            chosen = self._chosen(method, inputs, key, place, values)
            found = (
                isinstance(chosen, LinearCombination)
                or chosen.step
                or all(isinstance(each, Missing) for each in inputs)
            )
            return chosen if found else Missing(chosen.models, name)
        sources = step.inputs
        if any(isinstance(each, Missing) for each in inputs):
            there = [i for i, each in enumerate(inputs) if isinstance(each, LinearCombination)]
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
            each if self._recipe.space_of(source) == "delta" else LinearCombination.combined((1.0, -1.0), [each, base])
            for each, source in zip(models, sources[1:], strict=True)
        ]
        return LinearCombination.combined((1.0, 1.0), [base, self._applied(method, deltas, values, sources[1:])])

    def _without(
        self, name: str, method: Method, inputs: Sequence[Result], there: list[int], values: dict
    ) -> Result | None:
        """What a step comes to where only the inputs `there` have the tensor; None: the method applied to those."""
        lacking = [each for each in inputs if isinstance(each, Missing)]
        models = frozenset().union(*(each.models for each in lacking))
        delta = self._recipe.space_of(name) == "delta"
        if broken := next((each.step for each in lacking if each.step), ""):
            return Missing(models, broken)
        if not any(inputs[i].terms for i in there):  # LoRAs that do not change it at most
            return LinearCombination((), ()) if delta else Missing(models)
        unmet = Missing(models, name)
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

    def _applied(
        self, method: Method, inputs: list[LinearCombination], values: dict, sources: list[str]
    ) -> LinearCombination:
        if method.kind == "linear":
            return LinearCombination.combined(method.shares(len(inputs), values), inputs)
        nothing = not any(any(each.coefficients) for each in inputs)
        if nothing and (method.on_deltas or not any(each.terms for each in inputs)):
            return LinearCombination((), ())  # no difference, no change
        named = tuple(sources) if method.kind == "statistics" or "at" in method.supplied else ()
        return LinearCombination.of(MethodCall(method, tuple(sorted(values.items())), tuple(inputs), named))

    def _chosen(self, method: Method, inputs: list[Result], key: str, place: Place, values: dict) -> Result:
        if "place" in method.supplied:
            values = values | {"place": place}
        if "has" in method.supplied:
            values = values | {
                "has": lambda given: (
                    isinstance(given, LinearCombination) and all(self._has(i, key) for i in given.models())
                )
            }
        if "ema" in method.supplied:
            values = values | {"ema": self._averaged}
        if "key" in method.supplied:
            values = values | {"key": key}
        return method.function(*inputs, **values)

    def _averaged(self, combination: Result) -> Result:
        """The same with the EMA copies of the models."""
        if isinstance(combination, Missing):
            return combination
        if any(isinstance(term, MethodCall) for term in combination.terms):
            raise RecipeError("exchange_ema takes a model, or a weighted sum of models; apply it before other methods")
        return LinearCombination(
            tuple(Model(self._ema(term.index)) for term in combination.terms), combination.coefficients
        )

    def _resolved(self, name: str) -> dict:
        """A step's parameters, block weights resolved for this architecture."""
        if name not in self._weights:
            given = self._recipe.steps[name].weights(self._recipe.convention)
            self._weights[name] = {p: self._for_family(v, f"steps.{name}") for p, v in given.items()}
        return self._weights[name]

    def _block_weights(self, name: str) -> list[ResolvedWeights]:
        """Those of a step's parameters that may differ from tensor to tensor."""
        return _each(self._resolved(name).values())

    def _for_family(self, value, where: str):
        """A parameter's value for this family; a switch or number of the method is the same for all."""
        if _is_plain(value):
            return value
        try:
            return [w.resolve(self._family) for w in value] if isinstance(value, list) else value.resolve(self._family)
        except RecipeError as error:
            raise RecipeError(f"{where}: {error}") from None


def _rest_of_sum(shares: Sequence[float], inputs: Sequence[Result], there: list[int]) -> LinearCombination | None:
    """A weighted sum without the inputs that lack the tensor; None where what is left is no such sum.

    What they lack cancels out, or it was a mean, which becomes that of the others; of two inputs the other one is left.
    """
    total, rest = sum(shares), sum(shares[i] for i in there)
    combinations = [inputs[i] for i in there]
    if abs(total - rest) < _EVEN:
        return LinearCombination.combined(tuple(shares[i] for i in there), combinations)
    if min(shares) >= 0:
        kept = tuple(shares[i] / rest * total for i in there) if rest > 0 else (total,) + (0.0,) * (len(there) - 1)
        return LinearCombination.combined(kept, combinations)
    return combinations[0] if len(inputs) == 2 and abs(total - 1) < _EVEN else None


def _is_plain(value) -> bool:
    """Whether a parameter is a switch, whole number or choice, the same for every tensor."""
    return isinstance(value, bool | int | str)


def _each(values: Iterable) -> list:
    """The block weights among a step's parameters, each of a list of them by itself."""
    return [w for value in values for w in (value if isinstance(value, list) else [value]) if not _is_plain(w)]


def fitting_families(recipe: Recipe) -> list[Family]:
    """The families that all block weights of a recipe fit, those that they name block for block first, then those that most tools
    know: what it may be for where no file tells.

    Raises:
        RecipeError: they fit none.
    """
    given = _block_weights(recipe)

    def last(family: Family) -> tuple:
        return (
            not any(weights.names_all(family) for weights in given), bool(family.parent),
            family.mecha is None, -len(family.conventions),
        )  # fmt: skip

    misfits = {family: _misfit(given, family) for family in sorted(FAMILIES.values(), key=last)}
    fitting = [family for family, misfit in misfits.items() if misfit is None]
    if not fitting:
        nearest = next(iter(misfits.values()))
        raise RecipeError(
            f"no model tells the architecture, and the block weights fit none that is known ({nearest}); mend them, or give a "
            "model that can be read"
        )
    return fitting


def _misfit(given: Sequence[BlockWeights], family: Family) -> RecipeError | None:
    """Why block weights do not fit a family; None where all do."""
    try:
        for weights in given:
            weights.resolve(family)
    except RecipeError as error:
        return error
    return None


def _block_weights(recipe: Recipe) -> list[BlockWeights]:
    """All block weights of a recipe's steps."""
    return [weights for step in recipe.steps.values() for weights in _each(step.weights(recipe.convention).values())]


def leaf_shares(recipe: Recipe, family: str | Family) -> dict[str, float | None]:
    """The share of every model in the result's UNET: the mean of its coefficient over the architecture's parameters.

    Needs no files. A LoRA's is its strength, as if it changed every tensor. None for a model that a method reads which is not
    linear: it has no single share.
    """
    return leaf_shares_by_block(recipe, family)[0]


def leaf_shares_by_block(recipe: Recipe, family: str | Family) -> tuple[dict[str, float | None], bool]:
    """`leaf_shares`, and whether they are means of shares that differ from block to block, and so rest on the family."""
    models, family = recipe.leaves(recipe.result), family_of(family)
    compiler = RecipeCompiler(recipe, family, {name: i for i, name in enumerate(models)})
    sizes: dict[Result, int] = defaultdict(int)
    for key, spec in layout(family).items():
        if family.block_of(key).core:
            sizes[compiler.combination(recipe.result, key)] += prod(spec.shape)
    sums: dict[int, float] = defaultdict(float)
    indirect: set[int] = set()
    for combination, size in sizes.items():
        for term, coefficient in combination.items():
            if isinstance(term, Model):
                sums[term.index] += coefficient * size
            else:
                indirect.update(term.models)
    total = sum(sizes.values())
    return {name: None if i in indirect else sums[i] / total for i, name in enumerate(models)}, len(sizes) > 1
