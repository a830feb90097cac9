"""sd-mecha's TIES, DARE, DELLA, dropout and model stock, which wait for the model that they are added to.

Its releases differ: until those whose recipes have a version, `vote_sgn` had signs counted; since then it has them weighed by
size, and otherwise they are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..methods import Method
from ..methods.centres import MECHA_MEDIAN
from .mecha_graph import Delta, MechaGraph, Refused, Waiting


def _ties(graph: MechaGraph, given: dict, method: Method) -> Waiting:
    return Waiting(
        method.name, _deltas(graph, given, "models"), _trimmed(graph, given, 1.0 if graph.versioned else 0.2)
    )


def _ties_extended(graph: MechaGraph, given: dict, method: Method) -> Waiting:
    _stock(graph, given)
    return Waiting(method.name, _deltas(graph, given, "models"), _trimmed(graph, given, 0.2))


def _trimmed(graph: MechaGraph, given: dict, usual: float) -> dict[str, Any]:
    """TIES' parameters; `usual` is the share that is kept by default."""
    density = graph.plain(given, "k", usual)
    if density != 1.0:
        graph.draft.note(
            "import.one_element_more", "sd-mecha keeps one element more of each difference than its k says"
        )
    return {"density": density, **_consensus(graph, given)}


def _stock(graph: MechaGraph, given: dict) -> None:
    """Notes what sd-mecha's releases make of `apply_stock` where no median is asked for."""
    if graph.versioned and not _switch(graph, given, "apply_median"):
        graph.draft.note(
            "import.apply_stock",
            "sd-mecha 1.1 reads apply_stock the wrong way round: true leaves model stock out, false multiplies every row by its "
            "factor; here the plain mean is taken either way",
        )


def _consensus(graph: MechaGraph, given: dict) -> dict[str, str]:
    """How signs are elected, and what agrees is put together."""
    stock, median = _switch(graph, given, "apply_stock"), _switch(graph, given, "apply_median")
    if stock and not graph.versioned and not median:
        raise Refused("TIES with apply_stock has no equivalent")
    limits = {"eps": 1e-6, "maxiter": 100, "ftol": 1e-20}
    if odd := [f"{x}={given[x]}" for x, usual in limits.items() if median and given.get(x, usual) != usual]:
        graph.draft.note("import.median_limits", f"the median's limits ({', '.join(odd)}) are left out")
    if median:
        graph.draft.differs(MECHA_MEDIAN)
    by_size = _switch(graph, given, "vote_sgn") == graph.versioned
    if "vote_sgn" in given:
        graph.draft.note(
            "import.vote_sgn",
            f"vote_sgn was read as sd-mecha's releases {'from' if graph.versioned else 'before'} 1.0 have it: signs are "
            f"elected by their {'sum' if by_size else 'count'}",
        )
    return {"elect": "sum" if by_size else "count", "combine": "median" if median else "mean"}


def _dropped(graph: MechaGraph, given: dict, method: Method) -> Waiting:
    """DARE, or DELLA where `della_eps` says so, with TIES' signs."""
    if graph.plain(given, "k", 0.2) != 1.0:
        raise Refused("dropout with k below 1 (TIES' trimming after it) has no equivalent")
    density, epsilon = _kept(graph, given), graph.plain(given, "della_eps", 0.0)
    rescaled = _switch(graph, given, "rescale", True) and not _switch(graph, given, "no_rescale")
    _stock(graph, given)
    parameters: dict[str, Any] = {"density": density, **_consensus(graph, given), **_seed(graph, given)}
    if not epsilon:
        parameters["rescale"] = "density" if rescaled else "none"
        return Waiting(method.name, _deltas(graph, given, "deltas"), parameters)
    # All elements are divided by the mean probability there, not each by its own.
    parameters |= {"epsilon": epsilon, "ranks": "tensor", "rescale": "none"}
    if rescaled and density > 0:
        parameters["alpha"] = 1.0 / density
    return Waiting("della", _deltas(graph, given, "deltas"), parameters)


def _dropout(graph: MechaGraph, given: dict, method: Method) -> Waiting:
    """DARE whose elements are averaged over the models that kept them."""
    if graph.plain(given, "overlap", 1.0) % 2 != 1.0 or graph.plain(given, "overlap_emphasis", 0.0):
        raise Refused("dropout whose masks depend on each other (overlap) has no equivalent")
    density, power = _kept(graph, given), graph.plain(given, "rescale", 1.0)
    graph.draft.note(
        "import.dropout_zeros", "dropout counts kept elements that are 0 in its mean; here they are left out of it"
    )
    parameters: dict[str, Any] = {"density": density, "elect": "none", "combine": "mean", **_seed(graph, given)}
    parameters["rescale"] = "density" if power == 1.0 else "none"
    if power not in (0.0, 1.0) and density > 0:
        parameters["alpha"] = density**-power
    return Waiting(method.name, _deltas(graph, given, "deltas"), parameters)


def _kept(graph: MechaGraph, given: dict) -> float:
    """The share of elements that is kept, without the dust of binary fractions."""
    return round(1.0 - graph.plain(given, "probability", 0.9), 12)


def _seed(graph: MechaGraph, given: dict) -> dict[str, int]:
    seed = given.get("seed")
    graph.draft.note(
        "import.random",
        "which elements are dropped depends on the generator of random numbers: never the same as sd-mecha's",
    )
    usable = isinstance(seed, int | float) and not isinstance(seed, bool) and 0 < seed < 1 << 63
    return {"seed": int(seed)} if usable else {}


def _model_stock(graph: MechaGraph, given: dict, method: Method) -> Waiting:
    graph.draft.note(
        "import.model_stock_rows",
        "sd-mecha's model stock compares rows of neighbouring models; here whole tensors of all models are compared",
    )
    return Waiting(method.name, _deltas(graph, given, "deltas"), {})


def _deltas(graph: MechaGraph, given: dict, name: str) -> tuple[Delta, ...]:
    return tuple(graph.delta(each) for each in given.get(name) or ())


def _switch(graph: MechaGraph, given: dict, name: str, usual: bool = False) -> bool:
    """A switch, which older releases had as a number."""
    value = graph.plain(given, name, usual)
    return value > 0 if isinstance(value, int | float) else bool(value)


# By the name of the translation that a method declares (`Mecha.read`).
SPARSE: dict[str, Callable[[MechaGraph, dict[str, Any], Method], Any]] = {
    "trimmed": _ties,
    "trimmed or stock": _ties_extended,
    "dropped": _dropped,
    "dropped alone": _dropout,
    "stock": _model_stock,
}
