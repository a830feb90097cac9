"""What a merge method is: its inputs, its parameters, its formula, and what other parts of the house know of it; and all of them.

A method stands at the top of a module of this folder, in a package that names it as an entry point of `unetscope.methods`, or in
a file of the user's (`files`). Recipes, the command line, the app and the docs read `METHODS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from ...checkpoints.errors import RecipeError, nearest
from ...checkpoints.registry import Registry
from ...checkpoints.spelling import spelt
from ...checkpoints.text import shown
from .other_tools import Mecha, Mergekit, Supermerger

Numbers = Sequence[float]
# A number from 0 to 1: a share of something.
Share = Annotated[float, "share"]
# A component of a model that some family has: `unet`, `clip_l`, `text_encoders`...
Component = Annotated[str, "component"]
# An input that is a difference between two models, or a result that is one.
Delta = Annotated[Any, "delta"]
Kind = Literal["linear", "elementwise", "statistics", "whole", "structural"]
ParameterKind = Literal["number", "numbers", "switch", "integer", "choice"]
# Weights of a model, or differences between two.
Space = Literal["weight", "delta"]
_SPACE_NAMES = {"weight": "a model", "delta": "a difference"}


def wrong_space(text: str) -> RecipeError:
    """A model where a difference is meant, or the other way round."""
    return RecipeError(text, code="recipe.space")


# What a method's numbers have to be for its result to be one of its inputs (or, without one, the mean of all models below
# them): takes which input it is, or None, and how many models are below each input.
Becomes = Callable[[int | None, Sequence[int]], dict[str, Any]]


@dataclass(frozen=True)
class MethodParameter:
    """A parameter of a method.

    Attributes:
        name, kind: as above.
        default: None where a value must be given; of `numbers`, the one number that each model has by default.
        offered: of a choice, the words; or what says them when it is asked, for records may be added to those that it looks at.
        share: a number from 0 to 1, wherever it is applied.
    """

    name: str
    kind: ParameterKind
    default: float | bool | int | str | None
    offered: tuple[str, ...] | Callable[[], tuple[str, ...]] = ()
    share: bool = False

    @property
    def choices(self) -> tuple[str, ...]:
        """The words of a choice."""
        return self.offered() if callable(self.offered) else self.offered

    def check(self, value: Any, where: str) -> None:
        """Refuse a switch, whole number or choice that is none.

        Raises:
            RecipeError: naming `where` and what is allowed.
        """
        if self.kind == "switch" and not isinstance(value, bool):
            raise RecipeError(f"{where}: must be true or false, not {shown(value)}")
        if self.kind == "integer" and (isinstance(value, bool) or not isinstance(value, int)):
            raise RecipeError(f"{where}: must be a whole number, not {shown(value)}")
        if self.kind == "choice" and value not in self.choices:
            hint = nearest(value, self.choices) if isinstance(value, str) else ""
            raise RecipeError(f"{where}: must be {' or '.join(self.choices)}, not {shown(value)}{hint}")

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


@dataclass(frozen=True, eq=False)
class Method:
    """A merge method. Calling it is calling its formula.

    Attributes:
        name: as recipes write it (`add_difference`).
        kind: what it has to know before it can write an element; see `declaring`.
        inputs: the names of its inputs; of a method of any number of models, those that come first (`base`, or none).
        variadic: whether any number of models follows.
        parameters: what else it takes, by name.
        function: the formula.
        supplied: what the engine hands to the formula next to its inputs: `at`, the tensor; `key`, its key; `has`, whether a
            combination has it; `ema`, a combination of the models' EMA copies.
        result: the space of its result: that of all inputs, which must agree (`same`), that of the first (`first`: the others
            must agree), or a difference (`delta`).
        deltas: inputs that must be differences.
        passes: how often each tensor is read, at most.
        working: of a method on whole tensors, the bytes that it holds for each element of each input next to the input; of one
            that measures, the bytes that it counts in for each input.
        rows: its tiles hold whole rows (the weights of one output).
        base: the input that the others are thought to come from; empty where there is none.
        becomes: the numbers of baselines of a search; None where no numbers make it one of its inputs.
        webui: its name in the merger of the web UI (A1111).
        supermerger: the modes of supermerger that it is.
        sdnext: SD.Next has it, under our name.
        chattiori: its mode in Chattiori-Model-Merger, in small letters and with _.
        mergekit: those of mergekit's methods that it is, by their names.
        mecha: those of sd-mecha's methods that it is; the first that can be is written.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    variadic: bool
    parameters: dict[str, MethodParameter]
    function: Callable
    supplied: tuple[str, ...] = ()
    result: Literal["same", "first", "delta"] = "same"
    deltas: frozenset[str] = frozenset()
    passes: int = 1
    working: int = 0
    rows: bool = False
    base: str = ""
    becomes: Becomes | None = None
    webui: str = ""
    supermerger: tuple[Supermerger, ...] = ()
    sdnext: bool = False
    chattiori: str = ""
    mergekit: Mapping[str, Mergekit] = field(default_factory=dict)
    mecha: tuple[Mecha, ...] = ()

    def __call__(self, *inputs: Any, **values: Any) -> Any:
        return self.function(*inputs, **values)

    def __reduce__(self):
        # Its function cannot be pickled by name: the name is the method's.
        return method_named, (self.name,)

    @property
    def home(self) -> Path:
        """The file that it stands in."""
        return Path(self.function.__code__.co_filename)

    @property
    def command(self) -> str:
        """The name on the command line: `add-difference`."""
        return self.name.replace("_", "-")

    @property
    def on_deltas(self) -> bool:
        """Whether it works on differences from its first input, the base."""
        return self.variadic and self.inputs == ("base",)

    @property
    def base_at(self) -> int | None:
        """The place of the input that the others are thought to come from."""
        return self.inputs.index(self.base) if self.base else None

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
                raise wrong_space(
                    f"{where}: {given[0][0]!r} is a difference, and the first input of {self.name} is the model that "
                    "differences are added to; put the base first"
                )
            return "weight"
        for role, (name, space) in zip(self.inputs, given, strict=False):
            if role in self.deltas and space == "weight":
                raise wrong_space(
                    f"{where}: {name!r} is a model, and {self.name} adds a difference there; use subtract to make one, "
                    "or add_difference, which takes the two models"
                )
        if self.deltas:
            return given[0][1]
        alike = given[1:] if self.result == "first" else given
        for name, space in alike:
            if space != alike[0][1]:
                raise wrong_space(
                    f"{where}: {alike[0][0]!r} is {_SPACE_NAMES[alike[0][1]]} and {name!r} is {_SPACE_NAMES[space]}; "
                    f"{self.name} cannot mix them: add the difference to a model first (task_arithmetic, add)"
                )
        return "delta" if self.result == "delta" else given[0][1]

    def shares(self, count: int, values: dict) -> tuple[float, ...]:
        """The share of each of `count` inputs (without a base), of a linear method with these parameter values."""
        return tuple(self.function(*range(count), **values))


METHODS: Registry[Method] = Registry(
    "merge method",
    Method,
    __package__,
    "unetscope.methods",
    name=lambda method: method.name,
    error=RecipeError,
    # The order in which methods are listed: what people begin with comes first.
    first=("linear", "elementwise", "filters", "directions", "centres", "sparse", "spectral", "structural"),
)


def method_named(name: str) -> Method:
    """The method of that name; `-` and `_` are the same.

    Raises:
        RecipeError: there is none, with the nearest names.

    Example:
        >>> method = method_named("weighted-sum")
        >>> method.inputs, method.shares(2, {"alpha": 0.25})
        (('a', 'b'), (0.75, 0.25))
    """
    try:
        return METHODS[spelt(str(name).replace("-", "_"), METHODS)]
    except KeyError:
        raise RecipeError(
            f"there is no merge method {name!r}{nearest(name, METHODS)}; `unetscope methods` lists all of them"
        ) from None
