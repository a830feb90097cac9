"""The merge methods: one function each, and the registry that recipes, the command line and the docs read.

A `linear` method returns the share of each input; the engine adds steps, nested or not, into one weighted sum per tensor.
An `elementwise` method computes the result from pieces of its inputs, fp32 arrays of equal length.

A parameter annotated `float` is a number that may differ by block and layer; `Numbers` is one of those for every input;
`bool` is a switch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..checkpoints.errors import nearest
from .errors import RecipeError

Numbers = Sequence[float]


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method; `default` is None where a value must be given."""

    name: str
    kind: Literal["number", "numbers", "switch"]
    default: float | bool | None


@dataclass(frozen=True)
class Method:
    """A registered merge method.

    Attributes:
        name: as recipes write it (`add_difference`).
        kind: `linear` or `elementwise`.
        inputs: the names of its inputs; empty for any number of them.
        parameters: what else it takes, by name.
        function: the formula.
    """

    name: str
    kind: Literal["linear", "elementwise"]
    inputs: tuple[str, ...]
    parameters: dict[str, Parameter]
    function: Callable

    @property
    def command(self) -> str:
        """The name on the command line: `add-difference`."""
        return self.name.replace("_", "-")

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.function) or ""

    @property
    def summary(self) -> str:
        return self.doc.split("\n")[0]

    def check_inputs(self, count: int, where: str) -> None:
        """Refuse a wrong number of inputs.

        Raises:
            RecipeError: naming `where` and what the method takes.
        """
        wanted = f"{len(self.inputs)} ({', '.join(self.inputs)})" if self.inputs else "one or more"
        if count != len(self.inputs) if self.inputs else count < 1:
            raise RecipeError(f"{where}: {self.name} takes {wanted} inputs, {count} given")

    def shares(self, count: int, values: dict) -> tuple[float, ...]:
        """The share of each of `count` inputs, of a linear method with these parameter values."""
        if self.inputs:
            return self.function(**values)
        return tuple(self.function(count, **values))


METHODS: dict[str, Method] = {}
_KINDS = {"float": "number", "Numbers": "numbers", "bool": "switch"}


def method_named(name: str) -> Method:
    """The method of that name; `-` and `_` are the same.

    Raises:
        RecipeError: there is none, with the nearest names.
    """
    try:
        return METHODS[str(name).replace("-", "_")]
    except KeyError:
        raise RecipeError(
            f"there is no merge method {name!r}{nearest(name, METHODS)}; there are {', '.join(METHODS)}"
        ) from None


def linear(inputs: str = ""):
    """Register a linear method: its function returns the shares of `inputs`; with none named, it takes their number first."""

    def register(function: Callable) -> Callable:
        parameters = list(inspect.signature(function).parameters.values())
        _register(function, "linear", tuple(inputs.split()), parameters if inputs else parameters[1:])
        return function

    return register


def elementwise(function: Callable) -> Callable:
    """Register an elementwise method: positional parameters are its inputs, keyword-only ones its parameters."""
    signature = inspect.signature(function).parameters.values()
    inputs = tuple(p.name for p in signature if p.kind is p.POSITIONAL_OR_KEYWORD)
    _register(function, "elementwise", inputs, [p for p in signature if p.kind is p.KEYWORD_ONLY])
    return function


def _register(function: Callable, kind, inputs: tuple[str, ...], parameters) -> None:
    table = {
        p.name: Parameter(p.name, _KINDS[p.annotation], None if p.default is p.empty else p.default) for p in parameters
    }
    METHODS[function.__name__] = Method(function.__name__, kind, inputs, table, function)


def _moved(a, change):
    """a + change, but a itself where nothing changes: adding 0.0 would turn -0.0 into 0.0."""
    import numpy as np

    return np.where(change == 0, a, a + change)


@linear()
def uniform(n):
    """The mean of any number of models, each with the share 1 / n.

    All models enter with the same weight in one step; a chain of two-model merges at 0.5 would not do that.
    "Model soup" (Wortsman et al. 2022).
    """
    return (1 / n,) * n


@linear("a b")
def weighted_sum(alpha: float = 0.5):
    """(1 - alpha) a + alpha b: alpha is the share of b; 0 gives a, 1 gives b.

    "Weighted sum" of the A1111 merger; with a weight for each block it is the block-weighted merge, MBW.
    """
    return 1 - alpha, alpha


@linear()
def weighted_average(n, weights: Numbers, normalise: bool = True):
    """sum w_i x_i / sum w_i over any number of models; with `normalise: false` just sum w_i x_i."""
    total = sum(weights) if normalise else 1.0
    if total == 0:
        raise RecipeError(f"weighted_average: the {n} weights sum to 0 and cannot be normalised")
    return tuple(w / total for w in weights)


@linear("a b c")
def add_difference(alpha: float = 1.0):
    """a + alpha (b - c): move a by what turned c into b.

    "Add difference" of the A1111 merger; one step of task arithmetic (Ilharco et al. 2023). alpha may exceed 1 or be negative.
    """
    return 1.0, alpha, -alpha


@linear("a b c")
def sum_twice(alpha: float = 0.5, beta: float = 0.5):
    """(1 - beta) ((1 - alpha) a + alpha b) + beta c: two weighted sums, one after the other, rounded once.

    "Sum twice" of SuperMerger.
    """
    return (1 - beta) * (1 - alpha), (1 - beta) * alpha, beta


@linear("a b c")
def triple_sum(alpha: float = 0.33, beta: float = 0.33):
    """(1 - alpha - beta) a + alpha b + beta c.

    "Triple sum" of SuperMerger.
    """
    return 1 - alpha - beta, alpha, beta


@elementwise
def train_difference(a, b, c, *, alpha: float = 1.0):
    """a + 1.8 alpha s (b - c), s = |b - a| / (|b - a| + |b - c|): add b's training on top of a, less where a is near b.

    "Train difference" of SuperMerger. Where a = b = c, s is 0.
    """
    from_a, from_c = abs(b - a), abs(b - c)
    both = from_a + from_c
    return _moved(a, 1.8 * alpha * (from_a / (both + (both == 0))) * (b - c))


@linear("a")
def copy():
    """a, unchanged but for the output's dtype and the components taken from elsewhere."""
    return (1.0,)
