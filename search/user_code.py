"""Code that a study names: a kind of reward or generator, or the user's own: `module:name`, or `file.py:name` next to the study."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..checkpoints.errors import nearest
from ..checkpoints.on_demand import OnDemand
from ..merge.user_code import load_module
from .errors import SearchError


def find_kind(kinds: OnDemand, kind: str, folder: Path, what: str, missing: str) -> Any:
    """What a kind stands for: a name that is registered, `package.module:Class`, or `FILE.py:Class`.

    Args:
        kinds: the names.
        kind: as the study says it.
        folder: that relative paths count from.
        what: it has to be (`class`, `class or function`).
        missing: how the message begins when there is none of that name.

    Raises:
        SearchError: there is no such kind, it cannot be imported, or it is not what it has to be.
    """
    where = f"{kinds.kind} {kind}"
    if kind in kinds:
        made = kinds.imported(kind)
        if not callable(made):
            raise SearchError(f"{where}: is a {type(made).__name__}; expected a {what} ({kinds.home(kind)})")
        return made
    if ":" in kind:
        return load_function(kind, folder, where, what)
    raise SearchError(
        f"{missing} {kind!r}{nearest(kind, kinds)}; there are {', '.join(kinds)}, module:Class and FILE.py:Class"
    )


def load_function(spec: str, folder: Path, where: str, what: str = "function") -> Callable:
    """Run the file or import the module, and find the name in it.

    Args:
        spec: as the study says it; the path of a file may hold a colon of its own (`C:/mine.py:score`).
        folder: that relative paths count from.
        where: the place in the study, for errors.
        what: the name has to be.

    Raises:
        SearchError: there is no such module, file or name, the file cannot be run, or the name is nothing that can be called.
    """
    source, _, name = spec.rpartition(":")
    if not source or not name.isidentifier():
        raise SearchError(f"{where}: write module:{what} or file.py:{what}, found {spec!r:.80}")
    module = load_module(source, folder, where, SearchError)
    found = getattr(module, name, None)
    if found is None:
        there = [n for n, x in vars(module).items() if callable(x) and not n.startswith("_")]
        raise SearchError(f"{where}: {source} has no {what} {name!r}{nearest(name, there)}")
    if not callable(found):
        raise SearchError(f"{where}: {name} of {source} is of the type {type(found).__name__}; expected a {what}")
    return found
