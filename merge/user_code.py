"""Python files of the user's own: rewards, generators and objectives of a search, and merge methods. Importing one runs it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from ..checkpoints.errors import UnetscopeError, in_words


def run_file(path: Path, name: str, text: bytes | None = None) -> ModuleType:
    """Run a Python file as a module of that name; raises whatever its code raises.

    Args:
        path: of the file.
        name: of the module.
        text: of the file, where it has been read.
    """
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles of the file look for their module there.
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        # Not by its loader: that would take what is compiled for the text where both are of one second and one size.
        exec(compile(path.read_bytes() if text is None else text, spec.origin, "exec"), module.__dict__)
    except BaseException:
        sys.modules.pop(name, None)
        if before is not None:
            sys.modules[name] = before
        raise
    return module


def load_module(source: str, folder: Path, where: str, error: type[UnetscopeError] = UnetscopeError) -> ModuleType:
    """Run a file (`mine.py`, a path from `folder`), or import a module by its name.

    Raises:
        UnetscopeError: of the class `error`: there is no such file or module, or it cannot be run.
    """
    path = Path(folder) / Path(source).expanduser()
    if source.endswith(".py") and not path.is_file():
        raise error(f"{where}: there is no file {path}; paths begin at the study's folder")
    try:
        return run_file(path, f"_unetscope_{path.stem}") if source.endswith(".py") else importlib.import_module(source)
    except Exception as raised:  # whatever a user's code does when it is run
        raise error(f"{where}: {source} cannot be imported: {in_words(raised)}") from raised
