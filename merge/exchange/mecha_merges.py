"""sd-mecha's methods by name, and the steps that they become.

Our methods declare which of sd-mecha's they are, and how a node of it is read (`methods.other_tools.Mecha`): most as the record
says, the others by a translation that stands here, or in `mecha_sparse`. A translation gets the graph, the arguments by name and
our method, and returns what the node comes to (`mecha_graph`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...checkpoints.families import component_names
from ..methods import METHODS, Method
from ..methods.other_tools import Mecha
from .draft import one_line
from .mecha_graph import ComponentNode, Delta, Mask, MechaGraph, Refused, Waiting, Weights, Without
from .mecha_sparse import SPARSE

# sd-mecha's components of a checkpoint -> ours.
_COMPONENTS = {"vae": "vae", "clip_l": "clip_l", "clip_g": "clip_g", "diffuser": "unet", "unet": "unet"}

Build = Callable[[MechaGraph, dict[str, Any], Method], Any]


def _plain(graph: MechaGraph, given: dict, method: Method, said: Mecha) -> Any:
    """A node that is a step of inputs in one space, with the numbers that the record names."""
    values = {ours: graph.number(given, theirs, usual) for theirs, (ours, usual) in said.numbers.items()}
    inputs: list[Any] = []
    for name in (n for n in said.takes.split() if n not in said.numbers):
        inputs += given.get(name[1:]) or [] if name.startswith("*") else [given.get(name)]
    name = graph.step(method.name, [graph.source(x) for x in inputs], **values, **said.fixed)
    return Weights(name) if isinstance(inputs[0], Weights) else Delta(name)


def _added(graph: MechaGraph, given: dict, method: Method) -> Any:
    a, b, alpha = given.get("a"), given.get("b"), given.get("alpha")
    if "alpha" not in given and not graph.versioned:
        graph.draft.note(
            "import.alpha_default",
            f"line {graph.line.number}: add_difference has no alpha; 0.5 was taken, the default of that time",
        )
    if isinstance(alpha, Mask):
        return _masked(graph, graph.weights(a), graph.delta(b), alpha)
    alpha = graph.number(given, "alpha", 1.0 if graph.versioned else 0.5)
    if isinstance(b, Waiting) and isinstance(a, Weights):
        return Weights(graph.added(graph.weights(a), b, alpha))
    b = graph.delta(b)
    if b.of and isinstance(a, Weights):
        return Weights(graph.step(method.name, [graph.weights(a), *b.of], alpha=alpha))
    name = graph.step("add", [graph.source(a), b.name], alpha=alpha)
    return Weights(name) if isinstance(a, Weights) else Delta(name)


def _masked(graph: MechaGraph, a: str, b: Delta, mask: Mask) -> Weights:
    """a + mask (b - c), which our methods do in one."""
    if not b.of or mask.models != (a, *b.of):
        raise Refused("a mask is made from other models than those that it is applied to")
    return Weights(graph.step(mask.method, list(mask.models), alpha=mask.alpha))


def _mask(graph: MechaGraph, given: dict, method: Method) -> Mask:
    a, b, c = (graph.weights(given.get(x)) for x in "abc")
    return Mask(method.name, (a, b, c), graph.number(given, "alpha", 1.0))


def _minus(graph: MechaGraph, given: dict, method: Method) -> Delta:
    return graph.minus(graph.weights(given.get("a")), graph.weights(given.get("b")))


def _scale(graph: MechaGraph, given: dict, method: Method) -> Delta:
    delta, alpha = graph.delta(given.get("a")), graph.number(given, "alpha", 1.0)
    return Delta(graph.step(method.name, [delta.name], weights=[alpha], normalise=False))


def _clamp(graph: MechaGraph, given: dict, method: Method) -> Any:
    bounds = given.get("bounds") or []
    if graph.plain(given, "stiffness", 0.0):
        raise Refused("clamp with stiffness has no equivalent")
    if len(bounds) != 2:
        raise Refused(f"clamp to {len(bounds)} bounds has no equivalent; two have")
    name = graph.step(method.name, [graph.source(x) for x in (given.get("a"), *bounds)])
    return Weights(name) if isinstance(given.get("a"), Weights) else Delta(name)


def _fallback(graph: MechaGraph, given: dict, method: Method) -> Any:
    a, default = given.get("a"), given.get("default")
    if isinstance(a, ComponentNode) and isinstance(default, Weights):
        return Weights(default.name, {**default.components, a.component: a.name})
    if isinstance(a, Without) and isinstance(default, Weights):
        return Weights(a.name, {a.component: graph.weights(default)})
    first = a.name if isinstance(a, Weights) else ""
    while first in graph.draft.steps:
        first = graph.draft.steps[first]["inputs"][0]
    if isinstance(default, Weights) and isinstance(a, Weights) and first == default.name:
        return a  # what the first model has is what a merge here falls back to anyway
    name = graph.step(method.name, [graph.source(a), graph.source(default)])
    return Weights(name) if isinstance(a, Weights) else Delta(name)


def _rank(graph: MechaGraph, given: dict, method: Method) -> Delta:
    rank = graph.plain(given, "rank", 8)
    if isinstance(rank, bool | str) or rank is None:
        raise Refused("rank is not a number")
    return Delta(graph.step(method.name, [graph.delta(given.get("a")).name], rank=round(rank)))


def _omitted(graph: MechaGraph, given: dict, method: Method) -> Without:
    part = _component(graph, given, method)
    return Without(part.component, part.name)


def _component(graph: MechaGraph, given: dict, method: Method) -> ComponentNode:
    component = given.get("component")
    ours = _COMPONENTS.get(component) if isinstance(component, str) else None
    if ours not in component_names():
        raise Refused(f"component {one_line(component, 40)} cannot be taken apart here")
    return ComponentNode(ours, graph.weights(given.get("a")))


def _of_model(graph: MechaGraph, given: dict, method: Method) -> Weights:
    return Weights(graph.step(method.name, [graph.weights(given.get("model"))]))


def _median(graph: MechaGraph, given: dict, method: Method) -> Any:
    if limits := [f"{x}={one_line(given[x], 20)}" for x in ("eps", "maxiter", "ftol") if x in given]:
        graph.draft.note("import.median_bounds", f"the median's limits ({', '.join(limits)}) are left out")
    return _plain(graph, given, method, Mecha(takes="*models"))


def _whole(graph: MechaGraph, given: dict, method: Method) -> Any:
    """A method of a, b and c that older releases had in one piece."""
    graph.draft.note(
        "import.release", f"sd-mecha's {method.name} differed from release to release; here it is that of its last ones"
    )
    alpha = graph.number(given, "alpha", 1.0)
    name = graph.step(method.name, [graph.source(given.get(x)) for x in "abc"], alpha=alpha)
    return Weights(name) if isinstance(given.get("a"), Weights) else Delta(name)


def _cast(graph: MechaGraph, given: dict) -> Any:
    graph.draft.note(
        "import.cast",
        f"line {graph.line.number}: a cast to another dtype or device is left out; all is worked out in fp32",
    )
    return given.get("a")


# By the name of the translation that a method declares (`Mecha.read`).
_READ: dict[str, Build] = {
    "added": _added,
    "bounds": _clamp,
    "component": _component,
    "default": _fallback,
    "mask": _mask,
    "median": _median,
    "minus": _minus,
    "model": _of_model,
    "omitted": _omitted,
    "rank": _rank,
    "scale": _scale,
    "whole": _whole,
    **SPARSE,
}
# A node that is not a merge.
_CAST = "cast"


def reader(name: str) -> tuple[str, Callable[[MechaGraph, dict[str, Any]], Any]] | None:
    """The arguments of one of sd-mecha's methods, and what makes a node of it ours; None for one that has no equivalent."""
    if name == _CAST:
        return "a device dtype", _cast
    for method in METHODS.values():
        for said in method.mecha:
            if said.read and name in (said.name, *said.also):
                return said.takes, _reading(method, said)
    return None


def _reading(method: Method, said: Mecha) -> Callable[[MechaGraph, dict[str, Any]], Any]:
    def read(graph: MechaGraph, given: dict[str, Any]) -> Any:
        graph.draft.differs(said.note)
        if said.read == "plain":
            return _plain(graph, given, method, said)
        return _READ[said.read](graph, given, method)

    return read
