"""Generators: where images come from. `make_generator` builds one from a study's settings; `Generator` is what one is.

Kinds are imported when a study asks for them. The files:

- `contract`, `settings`, `fields`: what a generator is, how its settings are checked, what it makes of a payload's fields
- `diffusers_live`, `prompts`, `tokenizer`, `conditioning`, `samplers`, `pipeline`, `live_weights`: diffusers in this process
- `web_ui`, `web_ui_client`, `trial_files`: a web UI that runs already
- `python_function`: a function of the user's own
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...checkpoints.on_demand import OnDemand
from ..errors import SearchError
from ..user_code import find_kind
from .contract import Generator

__all__ = ["KINDS", "Generator", "make_generator"]

# Modules are imported when asked for: most drag much behind them.
KINDS = OnDemand(
    "generator",
    __name__,
    "unetscope.generators",
    {
        "diffusers": "diffusers_live:DiffusersGenerator",
        "web_ui": "web_ui:WebUiGenerator",
        "python": "python_function:FunctionGenerator",
    },
    error=SearchError,
)


def make_generator(settings: Mapping[str, Any] | str, folder: Path) -> Generator:
    """The generator of a study.

    Args:
        settings: `{kind: diffusers, ...}`, or a kind alone. A kind is one of `KINDS` (those of the entry points of the group
            `unetscope.generators` are among them), `package.module:Class`, or `my_generator.py:Class`: a class derived from
            `Generator` that is called with the settings, `kind` among them, and the folder.
        folder: of the study file; relative paths begin there.

    Raises:
        SearchError: there is no such kind, or a setting is unknown or wrong.
    """
    if isinstance(settings, str):
        settings = {"kind": settings}
    if not isinstance(settings, Mapping) or "kind" not in settings:
        raise SearchError(f"generator: is {settings!r}; write {{kind: diffusers}}; there are {', '.join(KINDS)}")
    kind = settings["kind"]
    if not isinstance(kind, str) or not kind.strip():
        raise SearchError(f"generator.kind: there is no {kind!r}; there are {', '.join(KINDS)}")
    made = find_kind(KINDS, kind.strip(), Path(folder), "class", "generator.kind: there is no")
    if not (inspect.isclass(made) and issubclass(made, Generator)):
        raise SearchError(
            f"generator {kind}: {getattr(made, '__name__', made)} is not a Generator; derive it from "
            "unetscope.search.generators.Generator, or write {kind: python, function: ...} for a function"
        )
    try:
        inspect.signature(made).bind(settings, folder)
    except TypeError:
        raise SearchError(
            f"generator {kind}: {made.__name__} must be made with two arguments, the settings and the study's folder"
        ) from None
    return made(settings, Path(folder))
