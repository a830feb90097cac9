"""Generators: where images come from."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from ...checkpoints.errors import nearest
from ..errors import SearchError
from .contract import Generator, NoImageError

__all__ = ["KINDS", "Generator", "NoImageError", "make_generator"]

# Kind -> module and class. Imported when it is asked for: most drag much behind them.
KINDS = {
    "diffusers": ("diffusers_live", "DiffusersGenerator"),
    "web_ui": ("web_ui", "WebUiGenerator"),
    "python": ("python_function", "FunctionGenerator"),
}


def make_generator(settings: Mapping[str, Any] | str, folder: Path) -> Generator:
    """The generator of a study.

    Args:
        settings: `{kind: diffusers, ...}`, or a kind alone.
        folder: that relative paths count from.

    Raises:
        SearchError: there is no such kind, or a setting is unknown or wrong.
    """
    if isinstance(settings, str):
        settings = {"kind": settings}
    if not isinstance(settings, Mapping) or "kind" not in settings:
        raise SearchError(f"generator: is {settings!r}; write {{kind: diffusers}}; there are {', '.join(KINDS)}")
    kind = settings["kind"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise SearchError(
            f"generator.kind: there is no {kind!r}{nearest(str(kind), KINDS)}; there are {', '.join(KINDS)}"
        )
    module, name = KINDS[kind]
    return getattr(import_module(f".{module}", __name__), name)(settings, Path(folder))
