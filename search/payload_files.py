"""The files that payloads are read from: .json, .yaml and .toml."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.text import unreadable
from ..merge.recipe_file import parse_yaml
from .errors import SearchError

_SUFFIXES = (".json", ".yaml", ".yml", ".toml")
_MOST_BYTES = 10_000_000
# The folder of wildcard files, next to the study or the payloads, when nothing else is named.
WILDCARDS = "wildcards"


def located(folder: Path, path: Any, where: str) -> Path:
    """Where a path leads that counts from a folder.

    Raises:
        SearchError: it is not a path, or begins with the name of a user that there is not.
    """
    if not isinstance(path, str | Path):
        raise SearchError(f"{where}: must be the name of a file or folder, found {path!r}")
    try:
        return folder / Path(path).expanduser()
    except (RuntimeError, ValueError):  # no such user, or a null character in its name
        raise SearchError(f"{where}: {path}: there is no such user; write the whole path") from None


def payload_files(at: Path, where: str) -> list[Path]:
    """The files of payloads at a path: itself, or those in the folder that it is.

    Raises:
        SearchError: there are none, or they cannot be looked for.
    """
    try:
        if at.is_file():
            return [at]
        if not at.is_dir():
            raise SearchError(f"{where}: there is no {at}; name a file or a folder of payloads")
        files = sorted(f for f in at.rglob("*") if _is_payload(f.relative_to(at)))
    except (OSError, ValueError) as error:  # a folder that may not be read or vanishes, a null character
        raise SearchError(f"{where}: {at}: cannot be read ({unreadable(error)})") from None
    if not files:
        raise SearchError(f"{at}: holds no payload; put {', '.join(_SUFFIXES)} files there")
    return files


def _is_payload(file: Path) -> bool:
    return file.suffix.lower() in _SUFFIXES and WILDCARDS not in file.parts


def parsed(file: Path) -> Any:
    """What a file holds, as plain data.

    Raises:
        SearchError: it cannot be read, or is not what its name says.
    """
    kind = file.suffix.lower()
    if kind not in _SUFFIXES:
        raise SearchError(f"{file}: is not a payload; they are {', '.join(_SUFFIXES)} files")
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise SearchError(f"{file}: has more than {_MOST_BYTES:,} bytes: this is not a payload")
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise SearchError(f"{file}: cannot be read ({unreadable(error)})") from None
    try:
        if kind == ".json":
            return json.loads(text)
        if kind == ".toml":
            return tomllib.loads(text)
        return parse_yaml(text, str(file))
    except (ValueError, RecursionError) as error:  # of json and tomllib
        raise SearchError(f"{file}: is not valid {kind[1:].upper()}: {error}") from None
    except UnetscopeError as error:
        raise SearchError(str(error)) from None
