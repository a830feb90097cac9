"""Code of the user's own that a study names: `module:name`, or `file.py:name` with a path from the study's folder."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from ..checkpoints.errors import nearest
from .errors import SearchError

_SHOWN = 300


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
    module = _module(source, folder, where)
    found = getattr(module, name, None)
    if found is None:
        there = [n for n, x in vars(module).items() if callable(x) and not n.startswith("_")]
        raise SearchError(f"{where}: {source} has no {what} {name!r}{nearest(name, there)}")
    if not callable(found):
        raise SearchError(f"{where}: {name} of {source} is of the type {type(found).__name__}; expected a {what}")
    return found


def _module(source: str, folder: Path, where: str) -> ModuleType:
    path = Path(folder) / Path(source).expanduser()
    if source.endswith(".py") and not path.is_file():
        raise SearchError(f"{where}: there is no file {path}; paths begin at the study's folder")
    try:
        if not source.endswith(".py"):
            return importlib.import_module(source)
        spec = importlib.util.spec_from_file_location(f"_unetscope_{path.stem}", path.resolve())
        module = importlib.util.module_from_spec(spec)
        # Dataclasses and pickles of the file look for their module there.
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's code does when it is run
        raise SearchError(f"{where}: {source} cannot be imported: {in_words(error)}") from error
    return module


def in_words(error: BaseException) -> str:
    """An error of the user's code in a line: its type, what it says, and where it arose."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f" ({Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno})" if trace else ""
    said = " ".join(str(error).split())[:_SHOWN]
    return f"{type(error).__name__}: {said}{place}"
