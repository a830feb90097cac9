"""The registry of merge methods: recipes, the command line, the app and the docs all read it.

A method is a function; its decorator says what kind it is and what it takes. `inputs` names its inputs ("a b c"); "base *" is a
base and any number of models, of which the function gets the differences from the base (task vectors) alone, and returns
what is added to the base; "*" is any number of models.

Kinds, by what a method has to know before it can write an element:

- `linear`: nothing but the weights; returns the share of each input. Nested linear steps become one weighted sum.
- `elementwise`: the same element of each input; works on pieces (fp32, 1-D, equal lengths).
- `statistics`: numbers about whole tensors (inner products, thresholds). A generator: it yields reductions, each of which is
  fed the tensor once, gets their results, and returns shares or a function on tiles.
- `whole`: whole tensors, in their shape.
- `structural`: where a tensor is taken from; works on what is planned, not on numbers.

Parameters are read off the signature: `float` is a number that may differ by block and layer, `Share` one from 0 to 1,
`Numbers` one for every model, `bool` a switch, `int` a whole number, `Literal[...]` a choice.

The docstring's first line is the formula; lines that begin with `Source:` and `Use:` say where it comes from and what for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from reprlib import Repr
from typing import Annotated, Any, Literal, get_args, get_origin

from ...checkpoints.errors import nearest
from ..errors import RecipeError

Numbers = Sequence[float]
# A number from 0 to 1: a share of something.
Share = Annotated[float, "share"]
Kind = Literal["linear", "elementwise", "statistics", "whole", "structural"]
ParameterKind = Literal["number", "numbers", "switch", "integer", "choice"]
# Weights of a model, or differences between two.
Space = Literal["weight", "delta"]
_SPACE_NAMES = {"weight": "a model", "delta": "a difference"}
_KINDS: dict[Any, ParameterKind] = {
    float: "number", Share: "number", Numbers: "numbers", bool: "switch", int: "integer",
}  # fmt: skip
# What is shown of a wrong value: YAML whose aliases multiply is larger than any memory, written out.
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
# Keyword parameters that the engine supplies.
_SUPPLIED = ("at", "has", "ema", "place")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method.

    Attributes:
        name, kind: as above.
        default: None where a value must be given; of `numbers`, the one number that each model has by default.
        choices: of a choice.
        share: a number from 0 to 1, wherever it is applied.
    """

    name: str
    kind: ParameterKind
    default: float | bool | int | str | None
    choices: tuple[str, ...] = ()
    share: bool = False

    def check(self, value: Any, where: str) -> None:
        """Refuse a switch, whole number or choice that is none.

        Raises:
            RecipeError: naming `where` and what is allowed.
        """
        if self.kind == "switch" and not isinstance(value, bool):
            raise RecipeError(f"{where}: must be true or false, not {_SHORT.repr(value)}")
        if self.kind == "integer" and (isinstance(value, bool) or not isinstance(value, int)):
            raise RecipeError(f"{where}: must be a whole number, not {_SHORT.repr(value)}")
        if self.kind == "choice" and value not in self.choices:
            hint = nearest(value, self.choices) if isinstance(value, str) else ""
            raise RecipeError(f"{where}: must be {' or '.join(self.choices)}, not {_SHORT.repr(value)}{hint}")

    def check_number(self, value: float, where: str) -> None:
        """Refuse a number that this parameter cannot have.

        Raises:
            RecipeError: naming `where`, what is allowed and what was found.
        """
        if self.share and not 0 <= value <= 1:
            hint = f"; {value:g} % is {value / 100:g}" if 2 <= value <= 100 else ""
            raise RecipeError(f"{where}: must be a share from 0 to 1, not {value:g}{hint}")

    @property
    def weighs(self) -> bool:
        """Whether its value is block weights, one or several."""
        return self.kind in ("number", "numbers")


@dataclass(frozen=True)
class Method:
    """A registered merge method.

    Attributes:
        name: as recipes write it (`add_difference`).
        kind: see above.
        inputs: the names of its inputs; of a method of any number of models, those that come first (`base`, or none).
        variadic: whether any number of models follows.
        parameters: what else it takes, by name.
        function: the formula.
        result: the space of its result: that of all inputs, which must agree (`same`), that of the first (`first`: the others
            must agree), or a difference (`delta`).
        deltas: inputs that must be differences.
        passes: how often each tensor is read, at most.
        working: of a method on whole tensors, the bytes that it holds for each element of each input beside the input; of one
            that measures, the bytes that it counts in for each input.
        rows: its tiles hold whole rows (the weights of one output).
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    variadic: bool
    parameters: dict[str, Parameter]
    function: Callable
    result: Literal["same", "first", "delta"] = "same"
    deltas: frozenset[str] = frozenset()
    passes: int = 1
    working: int = 0
    rows: bool = False

    @property
    def command(self) -> str:
        """The name on the command line: `add-difference`."""
        return self.name.replace("_", "-")

    @property
    def on_deltas(self) -> bool:
        """Whether it works on differences from its first input, the base."""
        return self.variadic and self.inputs == ("base",)

    @property
    def supplied(self) -> tuple[str, ...]:
        """What the engine hands to the function beside its inputs: `at`, the tensor; `has`, whether a form has it; `ema`, a form of
        the models' EMA copies."""
        return tuple(name for name in _SUPPLIED if name in inspect.signature(self.function).parameters)

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.function) or ""

    @property
    def summary(self) -> str:
        return self.doc.split("\n")[0]

    def said(self, word: Literal["Source", "Use"]) -> str:
        """What the docstring says after `Source:` or `Use:`, to the end of its paragraph."""
        paragraphs = self.doc.split("\n\n")
        lines = next((p for p in paragraphs if p.startswith(f"{word}:")), "")
        return " ".join(lines.removeprefix(f"{word}:").split())

    @property
    def details(self) -> str:
        """The docstring between its first line and what it says of source and use."""
        paragraphs = self.doc.split("\n\n")[1:]
        return "\n\n".join(p for p in paragraphs if not p.startswith(("Source:", "Use:")))

    @property
    def wanted(self) -> str:
        """The inputs in words: `3 inputs (a, b, c)`."""
        if not self.variadic:
            return f"{len(self.inputs)} {'input' if len(self.inputs) == 1 else 'inputs'} ({', '.join(self.inputs)})"
        return "a base and one or more models" if self.inputs else "one or more inputs"

    def fits(self, count: int) -> bool:
        """Whether it takes this number of inputs."""
        return count > len(self.inputs) if self.variadic else count == len(self.inputs)

    def check_inputs(self, count: int, where: str) -> None:
        """Refuse a wrong number of inputs.

        Raises:
            RecipeError: naming `where` and what the method takes.
        """
        if not self.fits(count):
            raise RecipeError(f"{where}: {self.name} takes {self.wanted}, {count} given")

    def models(self, count: int) -> int:
        """Of `count` inputs, how many have a number each in `weights`: all but a base."""
        return count - len(self.inputs) if self.variadic else count

    def space(self, given: Sequence[tuple[str, Space]], where: str) -> Space:
        """The space of the result from the names and spaces of the inputs.

        Raises:
            RecipeError: a model stands where a difference is meant, or the other way round.
        """
        if self.on_deltas:
            if given[0][1] != "weight":
                raise RecipeError(
                    f"{where}: {given[0][0]!r} is a difference, and the first input of {self.name} is the model that "
                    "differences are added to; put the base first"
                )
            return "weight"
        for role, (name, space) in zip(self.inputs, given, strict=False):
            if role in self.deltas and space == "weight":
                raise RecipeError(
                    f"{where}: {name!r} is a model, and {self.name} adds a difference there; use subtract to make one, "
                    "or add_difference, which takes the two models"
                )
        if self.deltas:
            return given[0][1]
        alike = given[1:] if self.result == "first" else given
        for name, space in alike:
            if space != alike[0][1]:
                raise RecipeError(
                    f"{where}: {alike[0][0]!r} is {_SPACE_NAMES[alike[0][1]]} and {name!r} is {_SPACE_NAMES[space]}; "
                    f"{self.name} cannot mix them: add the difference to a model first (task_arithmetic, add)"
                )
        return "delta" if self.result == "delta" else given[0][1]

    def shares(self, count: int, values: dict) -> tuple[float, ...]:
        """The share of each of `count` inputs (without a base), of a linear method with these parameter values."""
        return tuple(self.function(count, **values) if self.variadic else self.function(**values))


METHODS: dict[str, Method] = {}


def method_named(name: str) -> Method:
    """The method of that name; `-` and `_` are the same.

    Raises:
        RecipeError: there is none, with the nearest names.
    """
    try:
        return METHODS[str(name).replace("-", "_")]
    except KeyError:
        raise RecipeError(
            f"there is no merge method {name!r}{nearest(name, METHODS)}; `unetscope methods` lists all of them"
        ) from None


def linear(inputs: str = "*", **more):
    """Register a linear method: its function returns the shares of its inputs.

    Where the number of models is open, the function takes it first.
    """
    return _registers("linear", inputs, 1 if "*" in inputs else 0, more)


def elementwise(inputs: str, **more):
    """Register an elementwise method: positional parameters are pieces of its inputs, keyword-only ones its parameters.

    A keyword-only `at` gets the tile's `Spot`: key, shape, where in the tensor, and the names of the inputs.
    """
    return _registers("elementwise", inputs, None, more)


def statistics(inputs: str, *, passes: int, **more):
    """Register a method that measures tensors first.

    Its function is a generator that takes the tensor's `Spot` and its parameters, yields reductions (`merge.reductions`), each
    of which sees the whole tensor once, and returns shares of its inputs, or a function (tiles, start) -> values.
    `passes` counts the reductions and the pass that writes; `working` is what a reduction holds for each input, in bytes;
    with `rows` no tile ends inside a row.
    """
    return _registers("statistics", inputs, 1, {**more, "passes": passes})


def whole(inputs: str, *, working: int, **more):
    """Register a method on whole tensors: as `elementwise`, with arrays in the tensor's shape.

    `working` is the most that it holds beside its inputs, in bytes for each element of each input.
    """
    return _registers("whole", inputs, None, {**more, "working": working})


def structural(inputs: str, **more):
    """Register a method that chooses among its inputs, key by key.

    Its function takes the inputs' forms, the key, and its parameters, and returns a form. A keyword-only `has` is a function
    that says whether the models of a form have the tensor; `ema` one that gives the form of their EMA copies.
    """
    return _registers("structural", inputs, None, more)


def _registers(kind: Kind, inputs: str, first: int | None, more: dict):
    """A decorator; parameters come after the `first` ones, or are the keyword-only ones when that is None."""
    names = inputs.split()

    def register(function: Callable) -> Callable:
        signature = list(inspect.signature(function, eval_str=True).parameters.values())
        own = [p for p in signature if p.kind is p.KEYWORD_ONLY] if first is None else signature[first:]
        parameters = {p.name: _parameter(p) for p in own if p.name not in _SUPPLIED}
        METHODS[function.__name__] = Method(
            function.__name__, kind, tuple(n for n in names if n != "*"), "*" in names, parameters, function, **more
        )
        return function

    return register


def _parameter(p: inspect.Parameter) -> Parameter:
    default = None if p.default is p.empty else p.default
    if get_origin(p.annotation) is Literal:
        return Parameter(p.name, "choice", default, get_args(p.annotation))
    return Parameter(p.name, _KINDS[p.annotation], default, share=p.annotation is Share)
