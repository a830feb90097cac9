"""`unetscope methods` and `unetscope presets`: what merges can be made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arguments import FamilyArgument, Json, Methods
from .screen import say, show_json, show_table

if TYPE_CHECKING:
    from ..merge.methods import Method


def methods(
    name: Annotated[str | None, typer.Argument(help="Explain this one.", show_default=False)] = None,
    more: Methods = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/methods.md.")] = False,
    json: Json = False,
) -> None:
    """List the merge methods with their inputs, parameters and kind; with a name, explain one."""
    from ..merge.methods import METHODS, method_named

    if name is not None:
        _explain(method_named(name), json)
    elif markdown:
        from ..merge.methods.page import page

        print(page(), end="")
    elif json:
        show_json([_plain(m) for m in METHODS.values()])
    else:
        rows = [[m.name, _inputs(m), _parameters(m), m.kind, m.passes, m.summary] for m in METHODS.values()]
        show_table("Merge methods", ["name", "inputs", "parameters", "kind", "passes", "formula"], rows)


def _explain(method: Method, json: bool) -> None:
    from ..merge.methods.page import cost, default, takes

    if json:
        show_json(_plain(method))
        return
    say(f"{method.name} ({method.kind}): {method.wanted}")
    for home in _from_elsewhere(method).values():
        say(f"from {home}")
    say()
    say(method.doc)
    say()
    for p in method.parameters.values():
        given = default(p)
        say(f"{p.name}: {takes(p).replace('`', '')}; " + (f"{given} by default" if given else "must be given"))
    say(cost(method))


def _plain(method: Method) -> dict[str, Any]:
    return {
        "name": method.name,
        "kind": method.kind,
        "passes": method.passes,
        "inputs": list(method.inputs) or None,
        "variadic": method.variadic,
        "parameters": {
            p.name: {"kind": p.kind, "default": p.default} | ({"choices": list(p.choices)} if p.choices else {})
            for p in method.parameters.values()
        },
        "source": method.said("Source"),
        "use": method.said("Use"),
        "doc": method.doc,
    } | _from_elsewhere(method)


def _from_elsewhere(method: Method) -> dict[str, str]:
    """Where a method that is not built in comes from."""
    from ..merge.methods import METHODS

    home = METHODS.home(method.name)
    return {} if _is_built_in(home) else {"from": home}


def _is_built_in(home: str) -> bool:
    return home.startswith("unetscope.merge.methods.")


def _inputs(method: Method) -> str:
    if method.variadic:
        return " + ".join([*method.inputs, "models"]) if method.inputs else "any number"
    return ", ".join(method.inputs)


def _parameters(method: Method) -> str:
    from ..merge.methods.page import default

    return ", ".join(f"{p.name} {default(p) or '|'.join(p.choices)}".strip() for p in method.parameters.values())


def presets(
    family: Annotated[str | None, FamilyArgument] = None,
    json: Json = False,
) -> None:
    """List the MBW presets and their values."""
    from ..checkpoints.families.presets import preset, preset_families, preset_names

    family = family or preset_families()[0].id
    found = {name: preset(name, family) for name in preset_names()}
    if json:
        show_json({name: list(vector) for name, vector in found.items()})
        return
    rows = [[name, " ".join(f"{x:.3g}" for x in vector)] for name, vector in found.items()]
    show_table(f"MBW presets for {family}: BASE, IN00..., M00, OUT00...", ["preset", "weights"], rows)
