"""From a tree of steps to one weighted sum for each key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from ..checkpoints.blocks import place
from ..checkpoints.layouts import Family, layout
from .forms import Applied, Form, Model
from .recipe import Recipe


class Collapse:
    """Works out what steps come to for a key.

    Args:
        recipe: the steps.
        family: the architecture that block weights are resolved for.
        index: the number of every model (and component file) by name; names of one file share a number.

    Raises:
        LabelError: a block weight does not fit the architecture.
    """

    def __init__(self, recipe: Recipe, family: Family, index: Mapping[str, int]):
        self._recipe, self._family, self._index = recipe, family, index
        self._weights: dict[str, dict] = {}

    def form(self, source: str, key: str, merge_vae: bool = False) -> Form:
        """The weighted sum that a step, model or component file comes to for a key in single-file naming.

        `merge_vae` says that the VAE was asked for by name. Otherwise a step that names no weight for it passes on its
        first input's.
        """
        forms: dict[str, Form] = {}

        def of(name: str) -> Form:
            return Form.of(Model(self._index[name])) if name in self._index else forms[name]

        for name in self._recipe.order(source) if source in self._recipe.steps else ():
            forms[name] = self._step(name, key, [of(s) for s in self._recipe.steps[name].inputs], merge_vae)
        return of(source)

    def _step(self, name: str, key: str, inputs: list[Form], merge_vae: bool) -> Form:
        method, resolved = self._recipe.steps[name].kind, self._resolved(name)
        vae = place(key).component == "vae"
        numbers = [w for v in resolved.values() if not isinstance(v, bool) for w in (v if isinstance(v, list) else [v])]
        if vae and not merge_vae and all(w.vae is None for w in numbers):
            return inputs[0]

        def number(weights) -> float:
            return weights.vae_by_convention if vae and weights.vae is None else weights.weight(key)

        values = {
            p: v if isinstance(v, bool) else [number(w) for w in v] if isinstance(v, list) else number(v)
            for p, v in resolved.items()
        }
        if method.kind == "linear":
            return Form.combined(method.shares(len(inputs), values), inputs)
        hashable = tuple((p, tuple(v) if isinstance(v, list) else v) for p, v in sorted(values.items()))
        return Form.of(Applied(method.name, method.function, hashable, tuple(inputs)))

    def _resolved(self, name: str) -> dict:
        """A step's parameters, block weights resolved for this architecture."""
        if name not in self._weights:
            step = self._recipe.steps[name]
            self._weights[name] = {
                p: v
                if isinstance(v, bool)
                else [w.resolve(self._family) for w in v]
                if isinstance(v, list)
                else v.resolve(self._family)
                for p, v in step.weights(self._recipe.convention).items()
            }
        return self._weights[name]


def leaf_shares(recipe: Recipe, family: Family) -> dict[str, float | None]:
    """The share of every model in the result's UNET: the mean of its coefficient over the architecture's parameters.

    Needs no files. None for a model that an elementwise method reads: it has no single share.
    """
    models = recipe.models_of(recipe.result)
    collapse = Collapse(recipe, family, {name: i for i, name in enumerate(models)})
    sums: dict[int, float] = defaultdict(float)
    indirect: set[int] = set()
    total = 0
    for key, spec in layout(family).items():
        if place(key).component != "unet":
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
