"""`unetscope methods` and `unetscope presets`: what merges can be made of."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from .arguments import Json
from .screen import say, show_json, show_table


def methods(
    name: Annotated[str | None, typer.Argument(help="Explain this one.", show_default=False)] = None, json: Json = False
) -> None:
    """List the merge methods with their inputs, parameters and kind; with a name, explain one."""
    from ..merge.methods import METHODS, method_named

    if name is not None:
        method = method_named(name)
        say(f"{method.name} ({method.kind}): inputs {_inputs(method)}; parameters {_parameters(method) or 'none'}")
        say(method.doc)
        return
    if json:
        show_json(
            [
                {
                    "name": m.name,
                    "kind": m.kind,
                    "inputs": list(m.inputs) or None,
                    "parameters": {p.name: {"kind": p.kind, "default": p.default} for p in m.parameters.values()},
                    "doc": m.doc,
                }
                for m in METHODS.values()
            ]
        )
        return
    rows = [[m.name, _inputs(m), _parameters(m), m.kind, m.summary] for m in METHODS.values()]
    show_table("Merge methods", ["name", "inputs", "parameters", "kind", "formula"], rows)


def _inputs(method) -> str:
    return ", ".join(method.inputs) or "any number"


def _parameters(method) -> str:
    def default(value) -> str:
        return "" if value is None else f" {str(value).lower()}"

    return ", ".join(p.name + default(p.default) for p in method.parameters.values())


def presets(
    family: Annotated[Literal["sd1", "sd2", "sdxl", "sdxl_refiner"], typer.Argument(help="The architecture.")] = "sd1",
    json: Json = False,
) -> None:
    """List the MBW presets and their values."""
    from ..checkpoints.presets import preset, preset_names

    found = {name: preset(name, family) for name in preset_names()}
    if json:
        show_json({name: list(vector) for name, vector in found.items()})
        return
    rows = [[name, " ".join(f"{x:.3g}" for x in vector)] for name, vector in found.items()]
    show_table(f"MBW presets for {family}: BASE, IN00..., M00, OUT00...", ["preset", "weights"], rows)
