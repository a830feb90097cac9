"""How a merge method is written: a function whose signature is the declaration, under a decorator that says its kind.

    @elementwise
    def midpoint(a, b, *, alpha: float = 0.5):
        "(1 - alpha) a + alpha b: between the two."
        return (1 - alpha) * a + alpha * b

Positional parameters are inputs; `*models` is any number of them. `*deltas: Delta` is a base and any number of models, of which
the formula gets the differences from the base (task vectors) alone, and returns what is added to the base. An input that is
annotated `Delta` has to be a difference; `-> Delta` says that the result is one.

Keyword-only parameters are the method's: `float` is a number that may differ by block and layer, `Share` one from 0 to 1,
`Numbers` one for every model, `bool` a switch, `int` a whole number, `Literal[...]` a choice, `Component` a component that some
family has. One without a default must be given.
A few have a meaning of their own and are supplied: `at` (the tensor, a `TensorSlice`), and for structural methods `key`, `place`
(its block and component), `has`, `ema`.

Kinds, by what a method has to know before it can write an element:

- `linear`: nothing but the weights; returns the share of each input, whose parameters stand for their places (0, 1, ...). Nested
  linear steps become one weighted sum.
- `elementwise`: the same element of each input; works on pieces (fp32, 1-D, equal lengths).
- `statistics`: numbers about whole tensors (inner products, thresholds). A generator: it yields reductions, each of which is
  fed the tensor once, gets their results, and returns shares or a function on tiles. Inputs stand for their places.
- `whole`: whole tensors, in their shape.
- `structural`: where a tensor is taken from; works on what is planned, not on numbers.

The docstring's first line is the formula; paragraphs that begin with `Source:` and `Use:` say where it comes from and what for.

What a decorator takes besides says what other parts of the house know of a method (attributes of `Method`). Everything is checked
here, before a merge begins: a wrong method is refused in a sentence that names the function, its file and line.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, Literal, TypedDict, Unpack, get_args, get_origin, overload

from ...checkpoints.errors import RecipeError
from ...checkpoints.families import component_names
from .method import Becomes, Component, Delta, Kind, Method, MethodParameter, Numbers, ParameterKind, Share
from .other_tools import Mecha, Mergekit, Supermerger

_KINDS: dict[Any, ParameterKind] = {
    float: "number", Share: "number", Numbers: "numbers", bool: "switch", int: "integer", Component: "choice",
}  # fmt: skip
_ANNOTATIONS = "float, Share, Numbers, bool, int, Component or Literal[...]"
# What the engine supplies to methods of each kind.
_SUPPLIED: dict[Kind, tuple[str, ...]] = {
    "linear": (), "elementwise": ("at",), "statistics": ("at",), "whole": ("at",), "structural": ("key", "place", "has", "ema"),
}  # fmt: skip
_ANY_SUPPLIED = ("at", "key", "place", "has", "ema")
# Fields of a step, and options that every merge command has: a parameter cannot be called so.
RESERVED = frozenset({
    "method", "inputs", "models", "blocks", "output", "dtype", "convention", "vae", "text_encoders", "unet", "position_ids", "nan",
    "overflow", "mix_predictions", "allow_missing", "part", "title", "threads", "dry_run",
    "json", "save_recipe", "overwrite", "hash", "reproducible",
    "resumable", "fsync", "methods", "options", "help",
})  # fmt: skip
# Commands next to those of methods.
_COMMANDS = ("run", "grid")
_TRIED = 3  # models that a linear method of any number is tried with


class Facts(TypedDict, total=False):
    """What a decorator of any kind may say; attributes of `Method`."""

    result: Literal["same", "first"]
    base: str
    becomes: Becomes
    webui: str
    supermerger: Supermerger | tuple[Supermerger, ...]
    sdnext: bool
    chattiori: str
    mergekit: dict[str, Mergekit]
    mecha: Mecha | tuple[Mecha, ...]


_Decorator = Callable[[Callable], Method]


@overload
def linear(function: Callable, /) -> Method: ...
@overload
def linear(**facts: Unpack[Facts]) -> _Decorator: ...
def linear(function=None, /, **facts):
    """A linear method: its function returns the shares of its inputs.

    Raises:
        RecipeError: the function is not a method; so do the other decorators.

    Example:
        >>> @linear
        ... def toward(a, b, *, alpha: float = 0.5):
        ...     "(1 - alpha) a + alpha b: the share of each."
        ...     return 1 - alpha, alpha
        >>> toward.inputs, toward.parameters["alpha"].default, toward(1, 3, alpha=0.25)
        (('a', 'b'), 0.5, (0.75, 0.25))
    """
    return _declared("linear", function, facts)


@overload
def elementwise(function: Callable, /) -> Method: ...
@overload
def elementwise(**facts: Unpack[Facts]) -> _Decorator: ...
def elementwise(function=None, /, **facts):
    """An elementwise method: its function gets pieces of its inputs. `at` is the tile's `TensorSlice`.

    Example:
        >>> @elementwise
        ... def midpoint(a, b, *, alpha: float = 0.5):
        ...     "(1 - alpha) a + alpha b: between the two."
        ...     return (1 - alpha) * a + alpha * b
        >>> midpoint(1.0, 3.0, alpha=0.25)
        1.5
    """
    return _declared("elementwise", function, facts)


def statistics(*, passes: int, working: int = 0, rows: bool = False, **facts: Unpack[Facts]) -> _Decorator:
    """A method that measures tensors first.

    Its function is a generator that yields reductions (`merge.reductions`), each of which sees the whole tensor once, and
    returns shares of its inputs, or a function (tiles, start) -> values. `passes` counts the reductions and the pass that
    writes; `working` is what a reduction holds for each input, in bytes; with `rows` no tile ends inside a row.
    """
    return _declared("statistics", None, {**facts, "passes": passes, "working": working, "rows": rows})


def whole(*, working: int, **facts: Unpack[Facts]) -> _Decorator:
    """A method on whole tensors: as `elementwise`, with arrays in the tensor's shape.

    `working` is the most that it holds next to its inputs, in bytes for each element of each input.
    """
    return _declared("whole", None, {**facts, "working": working})


@overload
def structural(function: Callable, /) -> Method: ...
@overload
def structural(**facts: Unpack[Facts]) -> _Decorator: ...
def structural(function=None, /, **facts):
    """A method that chooses among its inputs, key by key.

    Its function takes the inputs' linear combinations and returns one. `key` is the tensor's; `has` a function that says whether
    the models of a combination have the tensor; `ema` one that gives the combination of their EMA copies.
    """
    return _declared("structural", function, facts)


def _declared(kind: Kind, function: Any, facts: dict[str, Any]) -> Any:
    if function is None:
        return lambda function: _Declaration(kind, function).method(facts)
    return _Declaration(kind, function).method(facts)


class _Declaration:
    """A function on its way to a method."""

    def __init__(self, kind: Kind, function: Any):
        self.kind, self.function = kind, function
        if not inspect.isfunction(function):
            raise RecipeError(
                f"@{kind} stands above a function, whose positional parameters are the inputs; found {function!r:.80}"
            )
        self.name, code = function.__name__, function.__code__
        self.where = f"{code.co_filename}, line {code.co_firstlineno}: {self.name}"

    def error(self, text: str) -> RecipeError:
        return RecipeError(f"{self.where}: {text}")

    def method(self, facts: dict[str, Any]) -> Method:
        """The record.

        Raises:
            RecipeError: naming the function, its file and line, and what is wrong.
        """
        self._check_function()
        signature = self._signature()
        inputs, variadic, deltas = self._inputs(signature)
        parameters, supplied = self._parameters(signature)
        if signature.return_annotation == Delta:
            facts = {**facts, "result": "delta"}
        for tool, one in (("mecha", Mecha), ("supermerger", Supermerger)):
            facts[tool] = (said,) if isinstance(said := facts.get(tool, ()), one) else tuple(said)
        if "base" in inputs:
            facts.setdefault("base", "base")
        method = Method(
            self.name, self.kind, inputs, variadic, parameters, self.function, supplied, deltas=deltas, **facts
        )
        self._check_facts(method)
        if self.kind == "linear":
            self._try_shares(method)
        return method

    def _check_function(self) -> None:
        name, doc = self.name, inspect.getdoc(self.function) or ""
        if not name.isidentifier() or name.startswith("_") or name != name.lower():
            raise self.error("a method's name is of small letters, digits and _, and begins with a letter")
        if name in _COMMANDS:
            raise self.error(f"`merge {name}` is another command; give the method another name")
        if not doc.split("\n")[0].strip():
            raise self.error("has no docstring; its first line is the formula, which people are shown")
        generates = inspect.isgeneratorfunction(self.function)
        if self.kind == "statistics" and not generates:
            raise self.error(
                "a method of the kind statistics yields what it wants to be measured, and this one never does"
            )
        if self.kind != "statistics" and (generates or inspect.iscoroutinefunction(self.function)):
            raise self.error(f"a method of the kind {self.kind} returns its result, and this one yields or awaits")

    def _signature(self) -> inspect.Signature:
        try:
            return inspect.signature(self.function, eval_str=True)
        except Exception as error:  # annotations are code of the user's
            raise self.error(f"its annotations cannot be read ({type(error).__name__}: {error})") from None

    def _inputs(self, signature: inspect.Signature) -> tuple[tuple[str, ...], bool, frozenset[str]]:
        """The names of the inputs, whether any number follows, and which have to be differences."""
        inputs, deltas, several = [], [], None
        for p in signature.parameters.values():
            if p.kind is p.VAR_POSITIONAL:
                several = p
            elif p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
                self._check_input(p)
                inputs.append(p.name)
                deltas += [p.name] if p.annotation == Delta else []
        if several is not None and inputs:
            raise self.error(
                f"*{several.name} follows other inputs; write *models for any number of models, or *deltas: Delta for those of "
                "models that are counted from a base"
            )
        if several is None and not inputs:
            raise self.error("takes no inputs; its positional parameters are the models, (a, b, *, alpha: float = 0.5)")
        if several is None:
            return tuple(inputs), False, frozenset(deltas)
        return (("base",) if several.annotation == Delta else ()), True, frozenset()

    def _check_input(self, p: inspect.Parameter) -> None:
        if p.name in _ANY_SUPPLIED:
            raise self.error(f"{p.name} is supplied, not an input; write it behind the * of the signature")
        if p.default is not p.empty or p.annotation in (*_KINDS,) or get_origin(p.annotation) is Literal:
            raise self.error(
                f"the input {p.name} looks like a parameter; parameters stand behind the * of the signature"
            )
        if p.name in RESERVED:
            raise self.error(f"an input cannot be called {p.name}, as an option of every merge is")

    def _parameters(self, signature: inspect.Signature) -> tuple[dict[str, MethodParameter], tuple[str, ...]]:
        """The method's own parameters, and the names of what it is supplied with."""
        parameters, supplied = {}, []
        for p in signature.parameters.values():
            if p.kind is p.VAR_KEYWORD:
                raise self.error(f"**{p.name}: a method names each of its parameters")
            if p.kind is not p.KEYWORD_ONLY:
                continue
            if p.name in _SUPPLIED[self.kind]:
                supplied.append(p.name)
            elif p.name in _ANY_SUPPLIED:
                kinds = " and ".join(kind for kind, names in _SUPPLIED.items() if p.name in names)
                raise self.error(
                    f"{p.name} is supplied to methods of the kind {kinds} alone, and this one is {self.kind}"
                )
            elif p.name in RESERVED:
                raise self.error(
                    f"a parameter cannot be called {p.name}, as a field of steps or an option of every merge is"
                )
            else:
                parameters[p.name] = self._parameter(p)
        return parameters, tuple(supplied)

    def _parameter(self, p: inspect.Parameter) -> MethodParameter:
        offered: tuple[str, ...] | Callable[[], tuple[str, ...]] = ()
        try:
            kind = "choice" if get_origin(p.annotation) is Literal else _KINDS.get(p.annotation)
        except TypeError:  # an annotation that is not a type at all
            kind = None
        if p.annotation == Component:
            offered = component_names
        elif kind == "choice":
            offered = get_args(p.annotation)
            kind = kind if offered and all(isinstance(c, str) for c in offered) else None
        if kind is None:
            found = "nothing" if p.annotation is p.empty else inspect.formatannotation(p.annotation)
            raise self.error(f"the parameter {p.name} is annotated {_ANNOTATIONS} (of words), found {found:.80}")
        made = MethodParameter(
            p.name, kind, None if p.default is p.empty else p.default, offered, p.annotation == Share
        )
        if p.default is not p.empty and not _is_default(made):
            raise self.error(
                f"the default of {p.name} is {p.default!r:.80}, which is not a value of {inspect.formatannotation(p.annotation)}; "
                "leave it out where a value must be given"
            )
        return made

    def _check_facts(self, method: Method) -> None:
        if method.result not in ("same", "first", "delta"):
            raise self.error(
                f"result is same or first, found {method.result!r:.80}; -> Delta says that it is a difference"
            )
        if method.base and method.base not in method.inputs:
            raise self.error(f"base is {method.base!r:.80}, which is not an input; they are {', '.join(method.inputs)}")
        if self.kind == "statistics" and (not isinstance(method.passes, int) or method.passes < 2):
            raise self.error(
                f"passes counts the reductions and the pass that writes, at least 2; found {method.passes!r:.80}"
            )
        if not isinstance(method.working, int) or method.working < 0:
            raise self.error(f"working is a number of bytes, found {method.working!r:.80}")

    def _try_shares(self, method: Method) -> None:
        """Call a linear method once with its defaults: it gives one number for each input."""
        count = _TRIED if method.variadic else len(method.inputs)
        values = {name: _usual(parameter, count) for name, parameter in method.parameters.items()}
        try:
            found = method.shares(count, values)
            numbers = [float(share) for share in found]
        except Exception as error:  # the user's formula
            raise self.error(f"cannot be called with its defaults ({type(error).__name__}: {error})") from None
        if len(numbers) != count:
            models = " that it was tried with" if method.variadic else f" ({', '.join(method.inputs)})"
            raise self.error(
                f"returns {len(numbers)} {'share' if len(numbers) == 1 else 'shares'} for {count} inputs{models}; a linear method "
                "returns one for each"
            )


def _is_default(p: MethodParameter) -> bool:
    value = p.default
    if p.kind in ("switch", "integer"):
        return type(value) is {"switch": bool, "integer": int}[p.kind]
    if p.kind == "choice":
        return value in p.choices
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return number and (not p.share or 0 <= value <= 1)


def _usual(p: MethodParameter, count: int) -> Any:
    """A value to try: the default, or one that any formula takes."""
    given = {"number": 0.5, "numbers": 0.5, "switch": False, "integer": 0, "choice": next(iter(p.choices), "")}
    value = given[p.kind] if p.default is None else p.default
    return (value,) * count if p.kind == "numbers" else value
