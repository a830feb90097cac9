"""The folders that the app may touch. Whatever is typed into a page, no path leaves them.

Files are named by their path below the models folder, with `/` between folders: `sdxl/photo.safetensors`.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.formats import written_suffixes
from .state_files import read_json, state_folder, write_json

MODELS_VARIABLE, OUTPUT_VARIABLE = "UNETSCOPE_MODELS", "UNETSCOPE_OUTPUT"
# Signs that Windows keeps for itself; a file that is to travel does without them.
_NOT_IN_NAMES = set('<>:"|?*')
# What `readable` writes for a byte of a file's name that is not UTF-8.
_WRITTEN_OUT = re.compile(r"\\u(d[89a-f][0-9a-f]{2})")


@dataclass(frozen=True)
class Folders:
    """The folders of this run.

    Attributes:
        models: where checkpoints are read, resolved.
        output: where merges are written, resolved; the models folder unless another was chosen.
        fixed: set by the command line or the environment, so that no page changes it.
    """

    models: Path
    output: Path
    fixed: bool = False

    @classmethod
    def at(cls, models: Path | str, output: Path | str | None = None, fixed: bool = False) -> Folders:
        """These folders, resolved.

        Raises:
            UnetscopeError: one of them is not a folder.
        """
        found = [folder_at(models, "models"), folder_at(output or models, "output")]
        return cls(found[0], found[1], fixed)

    def find(self, name: str) -> Path:
        """The file or folder of that name below the models folder.

        Raises:
            UnetscopeError: it is not there, or the name leads out of the folder.
        """
        path = _below(self.models, name)
        if not path.exists():
            raise UnetscopeError(f"{name}: is not in the models folder {self.models}; reload the page if it was moved")
        return path

    def target(self, name: str) -> Path:
        """The file to write for a name typed as the output's; `.safetensors` is added where it is missing.

        Raises:
            UnetscopeError: no name, a name with signs that file systems refuse, or one that leads out of the output folder.
        """
        name = name.strip()
        if not name:
            raise UnetscopeError("the output has no name yet; type one, such as my-merge")
        if not name.lower().endswith(written_suffixes()):
            name += written_suffixes()[0]
        if bad := sorted(c for c in set(name) if c in _NOT_IN_NAMES or not c.isprintable()):
            raise UnetscopeError(
                f"the output's name holds {' '.join(map(repr, bad))}, which file names cannot have; leave it out"
            )
        path = _below(self.output, name)
        if not path.parent.is_dir():
            raise UnetscopeError(f"{name}: the folder {path.parent.name} is not in the output folder; make it first")
        return path


def folder_at(path: Path | str, what: str) -> Path:
    """A folder of the app, resolved; `what` it is for stands in the message.

    Raises:
        UnetscopeError: it is not a folder.
    """
    try:
        found = Path(path).expanduser().resolve()
        there = found.is_dir()
    except (OSError, ValueError, RuntimeError) as error:
        raise UnetscopeError(f"{path}: cannot be the {what} folder ({error})") from None
    if not there:
        raise UnetscopeError(f"{path}: is not a folder, so it cannot be the {what} folder; make it or name another one")
    return found


def existing(path: Path) -> Path:
    """The file or folder of a path that may have been written by `readable`; the path itself where there is none."""
    if os.path.lexists(path):
        return path
    found = Path(_WRITTEN_OUT.sub(lambda written: chr(int(written[1], 16)), str(path)))
    return found if os.path.lexists(found) else path


def _below(root: Path, name: str) -> Path:
    """`root / name`, refused when it is not below `root` once links are followed."""
    parts = (*PurePosixPath(name).parts, *PureWindowsPath(name).parts)
    if not name or "\0" in name or PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor or ".." in parts:
        raise UnetscopeError(f"{name or 'an empty name'!r}: name a file below {root}, without `..` and without a drive")
    try:
        path = existing(root / name).resolve()
        path.exists()  # a name that is too long shows here
    except (OSError, ValueError, RuntimeError) as error:
        raise UnetscopeError(f"{name}: cannot be followed ({error})") from None
    if not path.is_relative_to(root) or path == root:
        raise UnetscopeError(
            f"{name}: leads out of {root} by a link; copy the file there, or start with --models on its folder"
        )
    return path


# -- which folders ----------------------------------------------------------------------------------------------------


def given_folders() -> tuple[str | None, str | None]:
    """The models and the output folder of the command line (`-- --models DIR --output DIR`) or the environment."""
    return _argument("--models") or os.environ.get(MODELS_VARIABLE), _argument("--output") or os.environ.get(
        OUTPUT_VARIABLE
    )


def _argument(name: str) -> str | None:
    for at, argument in enumerate(sys.argv[1:], 1):
        if argument == name and at + 1 < len(sys.argv):
            return sys.argv[at + 1]
        if argument.startswith(f"{name}="):
            return argument.removeprefix(f"{name}=")
    return None


def current_folders() -> Folders | None:
    """The folders of this run: given, else remembered; None before any was chosen.

    Raises:
        UnetscopeError: the folder that was given or remembered is not there.
    """
    models, output = given_folders()
    if models:
        return Folders.at(models, output, fixed=True)
    remembered = read_json(_settings_file())
    if not isinstance(remembered, dict) or not isinstance(remembered.get("models"), str):
        return None
    return Folders.at(remembered["models"], output or remembered.get("output"))


def choose_folders(models: str, output: str = "") -> Folders:
    """Remember folders for later runs, and take them for this one; an output folder that this run was started with stays.

    Raises:
        UnetscopeError: one of them is not a folder, or the models folder of this run is fixed.
    """
    fixed, given_output = given_folders()
    if fixed:
        raise UnetscopeError(
            f"the models folder was set by --models or {MODELS_VARIABLE}; start the app without it to choose here"
        )
    found = Folders.at(models.strip(), output.strip() or None)
    write_json(_settings_file(), {"models": str(found.models), "output": str(found.output)})
    return Folders.at(found.models, given_output or found.output)


def _settings_file() -> Path:
    return state_folder() / "settings.json"
