"""sd-mecha's methods by name, and the steps that they become: those of two or three models, and of components.

Each builder gets the graph and the arguments by name, and returns what the node comes to (`mecha_nodes`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...checkpoints.families import component_names
from .draft import one_line
from .mecha_nodes import Component, Delta, Mask, Refused, Waiting, Weights
from .mecha_sparse import SPARSE

if TYPE_CHECKING:
    from .mecha_import import Graph

# sd-mecha's components of a checkpoint -> ours.
_COMPONENTS = {"vae": "vae", "clip_l": "clip_l", "clip_g": "clip_g", "diffuser": "unet", "unet": "unet"}

Build = Callable[["Graph", dict[str, Any]], Any]


def _pair(graph: Graph, given: dict, method: str, **parameters: Any) -> Any:
    """A method of a and b in one space."""
    a, b = given.get("a"), given.get("b")
    name = graph.step(method, [graph.source(a), graph.source(b)], **parameters)
    return Weights(name) if isinstance(a, Weights) else Delta(name)


def _weighted_sum(graph: Graph, given: dict) -> Any:
    return _pair(graph, given, "weighted_sum", alpha=graph.number(given, "alpha", 0.5))


def _n_average(graph: Graph, given: dict) -> Any:
    return _many(graph, given, "uniform")


def _many(graph: Graph, given: dict, method: str, **parameters: Any) -> Any:
    models = given.get("models") or []
    name = graph.step(method, [graph.source(m) for m in models], **parameters)
    return Weights(name) if isinstance(models[0], Weights) else Delta(name)


def _add_difference(graph: Graph, given: dict) -> Any:
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


def _masked(graph: Graph, a: str, b: Delta, mask: Mask) -> Weights:
    """a + mask (b - c), which our methods do in one."""
    if not b.of or mask.models != (a, *b.of):
        raise Refused("a mask is made from other models than those that it is applied to")
    return Weights(graph.step(mask.method, list(mask.models), alpha=mask.alpha))


def _mask(method: str) -> Build:
    def build(graph: Graph, given: dict) -> Mask:
        a, b, c = (graph.weights(given.get(x)) for x in "abc")
        return Mask(method, (a, b, c), graph.number(given, "alpha", 1.0))

    return build


def _subtract(graph: Graph, given: dict) -> Delta:
    return graph.minus(graph.weights(given.get("a")), graph.weights(given.get("b")))


def _scale(graph: Graph, given: dict) -> Delta:
    delta, alpha = graph.delta(given.get("a")), graph.number(given, "alpha", 1.0)
    return Delta(graph.step("weighted_average", [delta.name], weights=[alpha], normalise=False))


def _slerp(graph: Graph, given: dict) -> Any:
    return _pair(graph, given, "slerp", alpha=graph.number(given, "alpha", 0.5), norms="lerp")


def _clamp(graph: Graph, given: dict) -> Any:
    bounds = given.get("bounds") or []
    if graph.plain(given, "stiffness", 0.0):
        raise Refused("clamp with stiffness has no equivalent")
    if len(bounds) != 2:
        raise Refused(f"clamp to {len(bounds)} bounds has no equivalent; two have")
    name = graph.step("clamp", [graph.source(x) for x in (given.get("a"), *bounds)])
    return Weights(name) if isinstance(given.get("a"), Weights) else Delta(name)


def _fallback(graph: Graph, given: dict) -> Any:
    a, default = given.get("a"), given.get("default")
    if isinstance(a, Component) and isinstance(default, Weights):
        return Weights(default.name, {**default.components, a.component: a.name})
    first = a.name if isinstance(a, Weights) else ""
    while first in graph.draft.steps:
        first = graph.draft.steps[first]["inputs"][0]
    if isinstance(default, Weights) and isinstance(a, Weights) and first == default.name:
        return a  # what the first model has is what a merge here falls back to anyway
    return _pair(graph, {"a": a, "b": default}, "fallback")


def _component(graph: Graph, given: dict) -> Component:
    component = given.get("component")
    ours = _COMPONENTS.get(component) if isinstance(component, str) else None
    if ours not in component_names():
        raise Refused(f"component {one_line(component, 40)} cannot be taken apart here")
    return Component(ours, graph.weights(given.get("a")))


def _tensor_sum(graph: Graph, given: dict) -> Any:
    width, offset = graph.number(given, "width", 0.5), graph.number(given, "offset", 0.0)
    return _pair(graph, given, "tensor_sum", alpha=width, beta=offset)


def _exchange_ema(graph: Graph, given: dict) -> Weights:
    return Weights(graph.step("exchange_ema", [graph.weights(given.get("model"))]))


def _perpendicular(graph: Graph, given: dict) -> Any:
    return _pair(graph, given, "perpendicular")


def _geometric_median(graph: Graph, given: dict) -> Any:
    limits = [f"{x}={one_line(given[x], 20)}" for x in ("eps", "maxiter", "ftol") if x in given]
    if limits:
        graph.draft.note(
            f"the median's limits ({', '.join(limits)}) are left out; here it is worked out to the last digit"
        )
    return _many(graph, given, "geometric_median")


def _whole(method: str) -> Build:
    """A method of a, b and c that older releases had in one piece."""

    def build(graph: Graph, given: dict) -> Any:
        graph.draft.note(f"sd-mecha's {method} differed from release to release; here it is that of its last ones")
        name = graph.step(method, [graph.source(given.get(x)) for x in "abc"], alpha=graph.number(given, "alpha", 1.0))
        return Weights(name) if isinstance(given.get("a"), Weights) else Delta(name)

    return build


def _unchanged(graph: Graph, given: dict) -> Any:
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
    "train_difference": ("a b c alpha", _whole("train_difference")),
    "add_opposite": ("a b c alpha", _whole("add_opposite")),
    "geometric_median": ("*models", _geometric_median),
    "cast": ("a device dtype", _unchanged),
    **SPARSE,
}
