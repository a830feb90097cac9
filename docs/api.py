"""Writes `docs/api.md`, what each room offers to Python users, from its docstrings: `make docs`.

A room offers what `__all__` of its `__init__` names, so the page has no list of its own: of each name its signature and the first
paragraph of its docstring, of a class its methods and properties too.
"""

from __future__ import annotations

import inspect
import pkgutil
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

_HEAD = """\
# The rooms from Python
Written by `make docs` from the docstrings of what each room names in its `__init__`. Only the beginning of each stands here;
`help(name)` has the rest: arguments, units, errors, and examples, which the tests run. These find three files of three layers:
`a.safetensors` is full of ones, `b.safetensors` of threes, and in `c.safetensors` layer n is full of n.

"""
_LONGEST = 100


def page() -> str:
    """The page, in Markdown."""
    found = list(rooms())
    contents = "\n".join(f"- [{room.__name__}](#{room.__name__.replace('.', '')})" for room in found)
    return _HEAD + contents + "\n\n" + "\n".join(_section(room) for room in found)


def rooms() -> Iterator[ModuleType]:
    """Every package that names what others may use."""
    top = import_module("unetscope")
    packages = [
        one.name for one in pkgutil.walk_packages(top.__path__, "unetscope.", onerror=lambda name: None) if one.ispkg
    ]
    for name in sorted(packages):
        room = import_module(name)
        if getattr(room, "__all__", None):
            yield room


def _section(room: ModuleType) -> str:
    named = sorted(room.__all__, key=lambda name: (not name.islower(), name.isupper(), name.lower()))
    entries = [_entry(name, getattr(room, name)) for name in named]
    return "\n".join([f"## {room.__name__}", _text(room.__doc__), "", *entries])


def _entry(name: str, found: Any) -> str:
    if inspect.isclass(found):
        lines = [f"### {name}", _first_paragraph(found), ""]
        return "\n".join([*lines, *([*below, ""] if (below := list(_members(found))) else [])])
    if inspect.isroutine(found):
        return "\n".join([f"### {name}", "```python", _signature(name, found), "```", _first_paragraph(found), ""])
    return "\n".join([f"### {name}", _constant(found), ""])


def _members(one: type) -> Iterator[str]:
    """The methods and properties that a class has of its own, a line each."""
    for name, member in vars(one).items():
        function = getattr(member, "__func__", member)
        if isinstance(member, property):
            function, shown = member.fget, name
        elif inspect.isfunction(function):
            shown = _signature(name, function, bound=not isinstance(member, staticmethod), several_lines=False)
        else:
            continue
        # Whoever wrote no docstring did not mean it for others; models that are made of fields make methods of their own.
        if not name.startswith("_") and function.__doc__ and function.__module__ == one.__module__:
            yield f"- `{shown}`: {_first_paragraph(function)}"


def _signature(name: str, function: Any, bound: bool = False, several_lines: bool = True) -> str:
    """`name(a: int, *, b: str = '') -> list[str]`, as it was written."""
    signature = inspect.signature(function)
    parameters, seen_star = [], False
    for parameter in list(signature.parameters.values())[bound:]:
        if parameter.kind is parameter.KEYWORD_ONLY and not seen_star:
            parameters.append("*")
        seen_star |= parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        said = f"{stars}{parameter.name}"
        if parameter.annotation is not parameter.empty:
            said += f": {_written(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            said += f"{' = ' if ':' in said else '='}{_default(parameter.default)}"
        parameters.append(said)
    answer = "" if signature.return_annotation is signature.empty else f" -> {_written(signature.return_annotation)}"
    line = f"{name}({', '.join(parameters)}){answer}"
    if len(line) <= _LONGEST or not several_lines:
        return line
    return "\n".join([f"{name}(", *(f"    {parameter}," for parameter in parameters), f"){answer}"])


def _written(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _default(value: Any) -> str:
    plain = value is None or isinstance(value, bool | int | float | str | tuple)
    return repr(value) if plain else getattr(value, "__name__", "...")


def _constant(found: Any) -> str:
    if isinstance(found, str):
        return f"Text: {found}."
    if isinstance(found, dict):
        return f"Names: {', '.join(f'`{name}`' for name in found)}."
    said = _first_paragraph(type(found)) if type(found).__module__.startswith("unetscope") else ""
    return f"`{type(found).__name__}`. {said}".strip() if said else f"`{found!r}`"


def _first_paragraph(found: Any) -> str:
    return " ".join(_text(found.__doc__).partition("\n\n")[0].split())


def _text(docstring: str | None) -> str:
    return inspect.cleandoc(docstring or "")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    sys.stdout.write(page())
