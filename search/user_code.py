"""Code of the user's own that a study names: `module:name`, or `file.py:name` with a path from the study's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..checkpoints.errors import nearest
from ..checkpoints.user_code import load_module
from .errors import SearchError


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
