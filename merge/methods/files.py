"""Merge methods in Python files of the user's own: `methods: [mine.py]` in a recipe, `--methods mine.py` on the command line.

Taking in a file runs it, with all that its code does. So only two things do that: `load_methods`, for a file that the command line
names, and `Recipe.load`, for the files that a recipe names. Everything else (the app, a recipe in a file's metadata) asks
`loaded_methods`, which runs nothing and refuses what has not been taken in.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...checkpoints.errors import RecipeError, UnetscopeError, in_words
from ...checkpoints.text import unreadable
from .method import METHODS, Method

_SUFFIX = ".py"


@dataclass(frozen=True)
class MethodsFile:
    """A file whose methods are in the registry.

    Attributes:
        path: where it was read.
        sha256: of its text, which is what a recipe remembers of it.
        methods: what it holds.
    """

    path: Path
    sha256: str
    methods: tuple[str, ...]


# By their content: a file that is copied, or named twice, is one.
_FILES: dict[str, MethodsFile] = {}


def load_methods(path: Path | str, sha256: str | None = None) -> MethodsFile:
    """Run a file and register the methods at its top; one that is in already is not run again.

    A file that was changed since it was taken in replaces its own earlier methods.

    Args:
        path: of the file.
        sha256: what its text has to have, where that is known.

    Raises:
        RecipeError: there is no such file, it has another hash, cannot be run, holds no methods, or a method that is wrong or
            has the name of another one.
    """
    path = Path(path).expanduser()
    text = _text(path)
    digest = hashlib.sha256(text).hexdigest()
    if sha256 is not None and digest != sha256.lower():
        raise RecipeError(_other_content(path, digest, sha256))
    if digest in _FILES:
        return _FILES[digest]
    found = _run(path, text, digest)
    at = path.resolve()
    for earlier in [f for f in _FILES.values() if f.path == at]:
        forget_methods(earlier)
    registered: list[Method] = []
    try:
        for method in found:
            registered.append(METHODS.register(method, str(path)))
    except UnetscopeError:
        for method in registered:
            METHODS.forget(method.name)
        raise
    return _FILES.setdefault(digest, MethodsFile(at, digest, tuple(method.name for method in found)))


def with_methods_loaded(data: Any, folder: Path) -> Any:
    """A recipe's plain data, with the files that its `methods` name run and their hashes written next to them.

    Args:
        data: of a recipe; what is not well-formed stays, for whoever checks it.
        folder: where relative paths count from.

    Raises:
        RecipeError: as `load_methods`.
    """
    entries = data.get("methods") if isinstance(data, Mapping) else None
    if not isinstance(entries, list):
        return data
    return {**data, "methods": [_pinned(entry, Path(folder)) for entry in entries]}


def _pinned(entry: Any, folder: Path) -> Any:
    said = entry if isinstance(entry, Mapping) else {"path": entry}
    path, sha256 = said.get("path"), said.get("sha256")
    if not isinstance(path, str) or not isinstance(sha256, str | None):
        return entry
    here = Path(folder) / Path(path).expanduser()
    if sha256 is not None and sha256.lower() in _FILES and not here.exists():
        return entry  # named on the command line: the recipe comes from elsewhere
    return {**said, "sha256": load_methods(here, sha256).sha256}


def loaded_methods(path: str, sha256: str | None = None) -> MethodsFile:
    """The file that a recipe means, if it has been taken in; runs nothing.

    Args:
        path: as the recipe says it. One that is not here (it was on another machine) counts by its base name.
        sha256: as the recipe says it.

    Raises:
        RecipeError: it has not been taken in, or another content of it has.
    """
    base = _base(path)
    sha256 = sha256 or _digest(path)
    if sha256 is not None and (found := _FILES.get(sha256.lower())):
        return found
    called = [file for file in _FILES.values() if file.path.name == base]
    if sha256 is None and len(called) == 1:
        return called[0]
    if called and sha256 is not None:
        raise RecipeError(_other_content(called[0].path, called[0].sha256, sha256))
    raise RecipeError(
        f"{path}: the recipe takes methods from this Python file, which has not been loaded, for that runs its code; if you trust "
        f"it, start with --methods {base}"
    )


def file_of(method: Method) -> MethodsFile | None:
    """The user's file that a method stands in; None for built-in methods and those of packages."""
    return next(
        (file for file in _FILES.values() if METHODS.get(method.name) is method and method.name in file.methods), None
    )


def forget_methods(file: MethodsFile) -> None:
    """Take a file's methods out again."""
    for name in file.methods:
        METHODS.forget(name)
    _FILES.pop(file.sha256, None)


def all_files() -> Sequence[MethodsFile]:
    """Every file that has been taken in."""
    return list(_FILES.values())


def _run(path: Path, text: bytes, digest: str) -> list[Method]:
    from ..user_code import run_file

    try:
        # No two files share a module's name, whatever folders they are in.
        module = run_file(path, f"_unetscope_methods_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{digest[:12]}", text)
    except UnetscopeError as error:
        raise RecipeError(str(error)) from None
    except Exception as error:  # whatever a user's code does when it is run
        raise RecipeError(f"{path}: cannot be run: {in_words(error)}") from error
    # What it imports of ours is in the registry already.
    own = [m for m in vars(module).values() if isinstance(m, Method) and METHODS.get(m.name) is not m]
    if not own:
        raise RecipeError(
            f"{path}: holds no merge methods; expected functions under @linear, @elementwise, @statistics, @whole or @structural "
            "of unetscope.merge"
        )
    return list(dict.fromkeys(own))


def _text(path: Path) -> bytes:
    if path.suffix.lower() != _SUFFIX:
        raise RecipeError(f"{path}: merge methods stand in a Python file, whose name ends in {_SUFFIX}")
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: cannot be read ({unreadable(error)})") from None


def _digest(path: str) -> str | None:
    """The hash of a file's text; None where there is no such file, or nobody knows where its path counts from."""
    try:
        here = Path(path).is_absolute() and Path(path).is_file()
        return hashlib.sha256(Path(path).read_bytes()).hexdigest() if here else None
    except (OSError, ValueError):
        return None


def _base(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


def _other_content(path: Path, found: str, expected: str) -> str:
    return (
        f"{path}: is not the file that the recipe was written with: expected the SHA-256 {expected[:16]}, found {found[:16]}; give "
        "that one (--methods FILE), or take its sha256 out of the recipe"
    )
