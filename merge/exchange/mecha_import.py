"""A graph of sd-mecha as steps of a recipe.

Weights and deltas are different spaces on both sides, so most nodes become one step. Three things differ: a delta that some
method makes of other deltas (TIES, model stock...) waits here for the model that it is added to, which is our method's base; a
mask waits for the difference that it multiplies; and block weights are nodes there, values here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...checkpoints.errors import UnetscopeError
from ..block_weights import BlockWeights
from ..recipe import COMPONENT_NAMES
from .draft import Draft, Imported, Request, one_line
from .mecha_blocks import lines_of
from .mecha_text import Line, Reference, parse_mecha

# sd-mecha's components of a checkpoint -> ours.
_COMPONENTS = {"vae": "vae", "clip_l": "clip_l", "clip_g": "clip_g", "diffuser": "unet", "unet": "unet"}


@dataclass(frozen=True)
class Weights:
    """A model or step; some components of it may be another's."""

    name: str
    components: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Delta:
    """A step whose result is a difference; `of` holds a and b where it is a - b."""

    name: str
    of: tuple[str, str] | None = None


@dataclass(frozen=True)
class Waiting:
    """A delta that our method can only make while it adds it to a base."""

    method: str
    deltas: tuple[Delta, ...]
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Mask:
    """A factor for b - c that depends on a, b and c."""

    method: str
    models: tuple[str, str, str]
    alpha: Any


@dataclass(frozen=True)
class Blocks:
    """Block weights, as our recipes write them."""

    weights: Any


@dataclass(frozen=True)
class Component:
    """One component of a model."""

    component: str
    name: str


class _Refused(Exception):
    """A node that has no equivalent, with the reason."""


def from_mecha(text: str, name: str, request: Request) -> Imported:
    """The recipe that a `.mecha` text stands for.

    Raises:
        RecipeError: text that is no such recipe; a node that has no equivalent here.
    """
    where = one_line(name)
    version, lines = parse_mecha(text, where)
    dialect = f"version {version}" if version else "of before versions"
    graph = _Graph(Draft(f"{name} (sd-mecha recipe, {dialect})", request), bool(version))
    return graph.imported(lines)


class _Graph:
    """The nodes so far, as what they come to here."""

    def __init__(self, draft: Draft, versioned: bool):
        self.draft, self.versioned = draft, versioned
        self.nodes: list[Any] = []
        self.line = Line(0, "")

    def imported(self, lines: list[Line]) -> Imported:
        """All nodes; the last one is the result."""
        for self.line in lines:
            self.nodes.append(self._node())
        result = self.nodes[-1]
        if not isinstance(result, Weights):
            raise self.draft.error(f"line {self.line.number}: the last node is the result, and this one is no model")
        components = {"vae": "merge"} if self.versioned else {}
        components |= result.components
        if not self.versioned:
            self.draft.note("sd-mecha of that time left the VAE as it is: it is copied from the first model")
        self.draft.note(
            "what is rounded where is decided by sd-mecha's call, not by its recipe: the result is written as fp16"
        )
        return self.draft.finish(result.name, components=components)

    def _node(self) -> Any:
        line = self.line
        arguments = [self._known(value) for value in line.arguments]
        named = {name: self._known(value) for name, value in line.named.items()}
        try:
            return getattr(self, f"_{line.command}")(arguments, named)
        except _Refused as reason:
            self.draft.refuse(f"line {line.number}: {reason}")
            return next((x for x in arguments if isinstance(x, Weights | Delta)), None)

    def _known(self, value: Any) -> Any:
        return self.nodes[value.index] if isinstance(value, Reference) else value

    # -- nodes that are no merge --------------------------------------------------------------------------------------

    def _model(self, arguments: list, named: dict) -> Any:
        path = arguments[0] if arguments else named.get("path")
        if not isinstance(path, str) or not path:
            raise self.draft.error(f"line {self.line.number}: a model has no path")
        words = [x for x in (*arguments[1:], *named.values()) if isinstance(x, str)]
        if "delta" in words or any("lora" in word.lower() or "lycoris" in word.lower() for word in words):
            name = self.draft.model(path)
            self.draft.note(f"{name} is a difference or LoRA ({', '.join(words)})")
            return Delta(name)
        return Weights(self.draft.model(path))

    def _lora(self, arguments: list, named: dict) -> Any:
        return self._model([*arguments, "lora"], named)

    def _parameter(self, arguments: list, named: dict) -> Any:
        name = arguments[0] if arguments and isinstance(arguments[0], str) else "parameter"
        self.draft.note(f"{name} is a parameter of the recipe; write the model's path in below")
        return Weights(self.draft.model(name))

    def _dict(self, arguments: list, named: dict) -> Any:
        if not named and arguments and isinstance(arguments[0], Weights | Delta):
            raise _Refused("a dictionary of models has no equivalent")
        return dict(named)

    def _literal(self, arguments: list, named: dict) -> Any:
        value = arguments[0] if arguments else named.get("value_dict")
        words = [x for x in (*arguments[1:], *named.values()) if isinstance(x, str)]
        if isinstance(value, dict) and set(value) == {"key"}:
            return value["key"]
        if isinstance(value, dict):
            return self._blocks(value, words)
        return value

    def _blocks(self, values: dict, words: list[str] = ()) -> Blocks:
        try:
            weights, notes = lines_of(values, " ".join(words))
            BlockWeights.parse(weights)
        except UnetscopeError as error:
            raise _Refused(str(error)) from None
        for note in notes:
            self.draft.note(f"line {self.line.number}: {note}")
        return Blocks(weights)

    # -- merges -------------------------------------------------------------------------------------------------------

    def _call(self, arguments: list, named: dict) -> Any:
        return self._merge(arguments, named)

    def _merge(self, arguments: list, named: dict) -> Any:
        if not arguments or not isinstance(arguments[0], str):
            raise self.draft.error(f"line {self.line.number}: a merge does not name its method")
        method, *inputs = arguments
        if method.startswith("convert_"):
            if not inputs:
                raise _Refused(f"{method} has no input")
            return self._blocks(inputs[0], [method]) if isinstance(inputs[0], dict) else inputs[0]
        known = MERGES.get(method)
        if known is None:
            raise _Refused(f"sd-mecha's method {one_line(method, 60)!r} has no equivalent here")
        signature, build = known
        return build(self, _bound(signature, inputs, named, method))

    def step(self, method: str, inputs: list[str], **parameters: Any) -> str:
        return self.draft.step(method, inputs, parameters)

    def number(self, given: dict[str, Any], name: str, default: float) -> Any:
        """A parameter that may be block weights."""
        value = given.get(name, default)
        if isinstance(value, Blocks):
            return value.weights
        if isinstance(value, dict):
            return self._blocks(value).weights
        return self.plain(given, name, default)

    def plain(self, given: dict[str, Any], name: str, default: Any) -> Any:
        """A parameter that is one value for the whole model."""
        value = given.get(name, default)
        if value is not None and not isinstance(value, int | float | bool | str):
            raise _Refused(f"{name} is no number")
        if isinstance(default, float) and (isinstance(value, bool | str) or value is None):
            raise _Refused(f"{name} is {one_line(value, 40)}, no number")
        return float(value) if isinstance(default, float) else value

    def weights(self, value: Any) -> str:
        """The name of an input that has to be a model."""
        if not isinstance(value, Weights):
            raise _Refused("an input is no model")
        name = value.name
        for component, source in value.components.items():
            name = self.step("pick_component", [name, source], component=component)
        return name

    def source(self, value: Any) -> str:
        """The name of an input, model or difference."""
        return self.delta(value).name if isinstance(value, Delta | Waiting) else self.weights(value)

    def delta(self, value: Any) -> Delta:
        """An input that has to be a difference; one that waits is added to a model and that taken away again."""
        if isinstance(value, Waiting):
            base = self._any_model(value)
            return self.minus(self.added(base, value, 1.0), base)
        if not isinstance(value, Delta):
            raise _Refused("an input is no difference of models")
        return value

    def minus(self, a: str, b: str) -> Delta:
        return Delta(self.step("subtract", [a, b]), (a, b))

    def added(self, base: str, waiting: Waiting, alpha: Any) -> str:
        """base + alpha times what waits."""
        inputs = [d.of[0] if d.of and d.of[1] == base else d.name for d in waiting.deltas]
        done = self.step(waiting.method, [base, *inputs], **waiting.parameters)
        if alpha == 1.0:
            return done
        return self.step("weighted_sum", [base, done], alpha=alpha)

    def _any_model(self, waiting: Waiting) -> str:
        name = next((d.of[1] for d in waiting.deltas if d.of), None)
        if name is None:
            raise _Refused("no model stands below these differences")
        return name


def _bound(signature: str, inputs: list, named: dict, method: str) -> dict[str, Any]:
    """Arguments by name; `*models` takes all that are left."""
    given, names = {}, signature.split()
    for i, name in enumerate(names):
        if name.startswith("*"):
            rest = [x for x in inputs[i:] if isinstance(x, Weights | Delta | Waiting)]
            given[name[1:]] = rest
            if not rest:
                raise _Refused(f"{method} has no models")
            break
        if i < len(inputs):
            given[name] = inputs[i]
    else:
        if len(inputs) > len(names):
            raise _Refused(f"{method} has {len(inputs)} arguments, and takes {len(names)}")
    return given | named


Build = Callable[[_Graph, dict[str, Any]], Any]


def _pair(graph: _Graph, given: dict, method: str, **parameters: Any) -> Any:
    """A method of a and b in one space."""
    a, b = given.get("a"), given.get("b")
    name = graph.step(method, [graph.source(a), graph.source(b)], **parameters)
    return Weights(name) if isinstance(a, Weights) else Delta(name)


def _weighted_sum(graph: _Graph, given: dict) -> Any:
    return _pair(graph, given, "weighted_sum", alpha=graph.number(given, "alpha", 0.5))


def _n_average(graph: _Graph, given: dict) -> Any:
    return _many(graph, given, "uniform")


def _many(graph: _Graph, given: dict, method: str, **parameters: Any) -> Any:
    models = given.get("models") or []
    name = graph.step(method, [graph.source(m) for m in models], **parameters)
    return Weights(name) if isinstance(models[0], Weights) else Delta(name)


def _add_difference(graph: _Graph, given: dict) -> Any:
    a, b, alpha = given.get("a"), given.get("b"), given.get("alpha")
    if "alpha" not in given and not graph.versioned:
        graph.draft.note(
            f"line {graph.line.number}: add_difference has no alpha; 0.5 was taken, the default of that time"
        )
    if isinstance(alpha, Mask):
        return _masked(graph, graph.weights(a), graph.delta(b), alpha)
    alpha = graph.number(given, "alpha", 1.0 if graph.versioned else 0.5)
    if isinstance(b, Waiting) and isinstance(a, Weights):
        return Weights(graph.added(graph.weights(a), b, alpha))
    b = graph.delta(b)
    if b.of and isinstance(a, Weights):
        return Weights(graph.step("add_difference", [graph.weights(a), *b.of], alpha=alpha))
    name = graph.step("add", [graph.source(a), b.name], alpha=alpha)
    return Weights(name) if isinstance(a, Weights) else Delta(name)


def _masked(graph: _Graph, a: str, b: Delta, mask: Mask) -> Weights:
    """a + mask (b - c), which our methods do in one."""
    if not b.of or mask.models != (a, *b.of):
        raise _Refused("a mask is made from other models than those that it is applied to")
    return Weights(graph.step(mask.method, list(mask.models), alpha=mask.alpha))


def _mask(method: str) -> Build:
    def build(graph: _Graph, given: dict) -> Mask:
        a, b, c = (graph.weights(given.get(x)) for x in "abc")
        return Mask(method, (a, b, c), graph.number(given, "alpha", 1.0))

    return build


def _subtract(graph: _Graph, given: dict) -> Delta:
    return graph.minus(graph.weights(given.get("a")), graph.weights(given.get("b")))


def _scale(graph: _Graph, given: dict) -> Delta:
    delta, alpha = graph.delta(given.get("a")), graph.number(given, "alpha", 1.0)
    return Delta(graph.step("weighted_average", [delta.name], weights=[alpha], normalise=False))


def _slerp(graph: _Graph, given: dict) -> Any:
    return _pair(graph, given, "slerp", alpha=graph.number(given, "alpha", 0.5), kind="directions")


def _clamp(graph: _Graph, given: dict) -> Any:
    bounds = given.get("bounds") or []
    if graph.plain(given, "stiffness", 0.0):
        raise _Refused("clamp with stiffness has no equivalent")
    if len(bounds) != 2:
        raise _Refused(f"clamp to {len(bounds)} bounds has no equivalent; two have")
    name = graph.step("clamp", [graph.source(x) for x in (given.get("a"), *bounds)])
    return Weights(name) if isinstance(given.get("a"), Weights) else Delta(name)


def _fallback(graph: _Graph, given: dict) -> Any:
    a, default = given.get("a"), given.get("default")
    if isinstance(a, Component) and isinstance(default, Weights):
        return Weights(default.name, {**default.components, a.component: a.name})
    first = a.name if isinstance(a, Weights) else ""
    while first in graph.draft.steps:
        first = graph.draft.steps[first]["inputs"][0]
    if isinstance(default, Weights) and isinstance(a, Weights) and first == default.name:
        return a  # what the first model has is what a merge here falls back to anyway
    return _pair(graph, {"a": a, "b": default}, "fallback")


def _component(graph: _Graph, given: dict) -> Component:
    component = given.get("component")
    ours = _COMPONENTS.get(component) if isinstance(component, str) else None
    if ours not in COMPONENT_NAMES:
        raise _Refused(f"component {one_line(component, 40)} cannot be taken apart here")
    return Component(ours, graph.weights(given.get("a")))


def _tensor_sum(graph: _Graph, given: dict) -> Any:
    width, offset = graph.number(given, "width", 0.5), graph.number(given, "offset", 0.0)
    return _pair(graph, given, "tensor_sum", alpha=width, beta=offset)


def _exchange_ema(graph: _Graph, given: dict) -> Weights:
    return Weights(graph.step("exchange_ema", [graph.weights(given.get("model"))]))


def _perpendicular(graph: _Graph, given: dict) -> Any:
    return _pair(graph, given, "perpendicular")


def _ties(graph: _Graph, given: dict) -> Waiting:
    """TIES of deltas; sd-mecha elects signs by count unless `vote_sgn` says by sum, and by sum always in its first dialects."""
    by_sum = bool(graph.plain(given, "vote_sgn", False)) or not graph.versioned
    for name in ("apply_stock", "apply_median"):
        if given.get(name):
            raise _Refused(f"TIES with {name} has no equivalent")
    parameters = {
        "density": graph.plain(given, "k", 1.0 if graph.versioned else 0.2),
        "election": "sum" if by_sum else "count",
    }
    return Waiting("ties", tuple(graph.delta(m) for m in given.get("models") or ()), parameters)


def _model_stock(graph: _Graph, given: dict) -> Waiting:
    graph.draft.note(
        "sd-mecha's model stock compares rows of neighbouring models; here whole tensors of all models are compared"
    )
    return Waiting("model_stock", tuple(graph.delta(m) for m in given.get("deltas") or ()), {})


def _dare(graph: _Graph, given: dict) -> Waiting:
    """DARE, or DELLA where `della_eps` says so, with TIES' signs."""
    eps = graph.plain(given, "della_eps", 0.0)
    if eps or graph.plain(given, "k", 0.2) != 1.0 or given.get("apply_stock") or given.get("apply_median"):
        raise _Refused("dropout with della_eps, k below 1, apply_stock or apply_median has no equivalent")
    graph.draft.note(
        "which elements DARE drops depends on the generator of random numbers: never the same as sd-mecha's"
    )
    deltas = tuple(graph.delta(m) for m in given.get("deltas") or ())
    density = 1.0 - graph.plain(given, "probability", 0.9)
    signs = "sum" if graph.plain(given, "vote_sgn", False) else "count"
    return Waiting("dare", deltas, {"density": density, "signs": signs})


def _geometric_median(graph: _Graph, given: dict) -> Any:
    return _many(graph, given, "geometric_median")


def _unchanged(graph: _Graph, given: dict) -> Any:
    graph.draft.note(
        f"line {graph.line.number}: a cast to another dtype or device is left out; all is worked out in fp32"
    )
    return given.get("a")


MERGES: dict[str, tuple[str, Build]] = {
    "weighted_sum": ("a b alpha", _weighted_sum),
    "n_average": ("*models", _n_average),
    "add_difference": ("a b alpha", _add_difference),
    "subtract": ("a b", _subtract),
    "scale": ("a alpha", _scale),
    "slerp": ("a b alpha", _slerp),
    "clamp": ("a *bounds", _clamp),
    "clip": ("a *bounds", _clamp),
    "fallback": ("a default", _fallback),
    "pick_component": ("a component", _component),
    "tensor_sum": ("a b width offset", _tensor_sum),
    "exchange_ema": ("model", _exchange_ema),
    "exchange_ema_'sd1-ldm'": ("model", _exchange_ema),
    "perpendicular_component": ("a b", _perpendicular),
    "train_difference_mask": ("a b c alpha", _mask("train_difference")),
    "add_opposite_mask": ("a b c alpha", _mask("add_opposite")),
    "ties_sum": ("*models", _ties),
    "ties_sum_extended": ("*models", _ties),
    "ties_sum_with_dropout": ("*deltas", _dare),
    "model_stock": ("*deltas", _model_stock),
    "geometric_median": ("*models", _geometric_median),
    "cast": ("a device dtype", _unchanged),
}
