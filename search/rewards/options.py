"""Options of a reward, checked against what its class takes; paths found in the study's folder or that of the weights."""

from __future__ import annotations

import inspect
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ...checkpoints.errors import nearest
from ...checkpoints.spelling import respelt, spelt
from ...merge.validation_errors import wrong
from ..errors import SearchError

WEIGHTS_VARIABLE = "UNETSCOPE_REWARDS"
# The parameter by which a class asks for the study's folder; no option of users.
_BASE = "base"


def weights_folder() -> Path:
    """Where the weights of rewards are looked for by name: `UNETSCOPE_REWARDS`, or `rewards` in the user's data folder."""
    from platformdirs import user_data_path

    return Path(os.environ.get(WEIGHTS_VARIABLE) or user_data_path("unetscope") / "rewards")


def located(path: Path, folder: Path) -> Path:
    """A path of a study: absolute, or below the study's folder, or below `weights_folder()`; the first of these that exists."""
    path = path.expanduser()
    places = [folder / path, weights_folder() / path]
    return next((place for place in places if place.exists()), places[-1]).absolute()


def checked_options(made: type, options: Mapping[str, Any], kind: str, folder: Path) -> dict[str, Any]:
    """The keyword arguments of a class, defaults with paths included.

    A parameter annotated as a `Path` is `located`; one called `base` gets the study's folder.

    Raises:
        SearchError: an option that the class does not take, one that is missing, or a value of the wrong kind.
    """
    takes = {
        name: parameter
        for name, parameter in inspect.signature(made).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    anything = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(made).parameters.values())
    names = [name for name in takes if name != _BASE]
    options = respelt(options, names)
    for name in options:
        if name not in names and not anything:
            there = f"it takes {', '.join(names)}" if names else "it takes no options"
            raise SearchError(f"reward {kind}: has no option {name!r}{nearest(name, names)}; {there}")
    hints = _hints(made)
    found: dict[str, Any] = {name: value for name, value in options.items() if name not in takes}
    for name, parameter in takes.items():
        if name == _BASE:
            found[name] = folder
        elif name in options:
            found[name] = _value(options[name], hints.get(name), f"reward {kind}: {name}")
        elif parameter.default is parameter.empty:
            raise SearchError(f"reward {kind}: the option {name!r} is missing; add it next to kind")
        else:
            found[name] = parameter.default
    return {
        name: located(value, folder) if isinstance(value, Path) and name != _BASE else value
        for name, value in found.items()
    }


def _hints(made: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(made.__init__)
    except (NameError, TypeError):  # a plug-in may annotate with names that exist only for type checkers
        return {}


def _value(value: Any, hint: Any, where: str) -> Any:
    if hint is None or hint is Any:
        return value
    if typing.get_origin(hint) is typing.Literal:
        value = spelt(value, typing.get_args(hint))
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        raise SearchError(f"{where}: {wrong({**error.errors()[0], 'input': value}, _wanted(hint))}") from None
    except Exception:  # an annotation that pydantic does not know: the class has to look itself
        return value


def _wanted(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_wanted(one) for one in typing.get_args(hint) if one is not type(None))
    plain = {Path: "a path", int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return plain.get(hint) or getattr(hint, "__name__", str(hint))
