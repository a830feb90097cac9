"""Containers: one file each, and everything that the house asks about one stands in its record.

A container is a `Format` at the top of a module of this folder, or of another package (entry point group `unetscope.formats`).
`read_model(path)` finds the one that a file or folder is, by its first bytes, and reads its headers. What is not a model is
named by what it is (`not_models`).
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, OutputError, UnetscopeError
from ..notices import Notice
from ..registry import Registry
from ..text import counted, dead_link, readable, unreadable

if TYPE_CHECKING:
    from ..tensors import StoredTensor

# Enough for every container's first bytes, and to tell a web page or a pointer from a model.
HEAD_BYTES = 4096


@dataclass(frozen=True)
class Contents:
    """What a container's headers say.

    Attributes:
        tensors: under the container's own names, in its order. Empty where there are `components`.
        metadata: its strings.
        components: `unet`, `vae`, `text_encoder`... -> tensors, of a container that keeps the parts of a model apart.
        prediction: `epsilon`, `v`, `edm`, `flow` where the container itself says what the model predicts, None where it does not.
        noise: of what noise, where that is not the usual schedule (`families.parts.schedule`).
        prediction_from: what says so, for people.
        notes: what was noticed.
        size: bytes on disk; 0 for the size of the file.
    """

    tensors: list[StoredTensor]
    metadata: dict[str, str] = field(default_factory=dict)
    components: Mapping[str, list[StoredTensor]] = field(default_factory=dict)
    prediction: str | None = None
    noise: str = ""
    prediction_from: str = ""
    notes: tuple[Notice, ...] = ()
    size: int = 0


@dataclass(frozen=True)
class Format:
    """A container.

    Attributes:
        id: what `Checkpoint.format` says.
        title: for people, as in "expected a ...".
        suffixes: of its files, in lower case, with the dot; `()` for a folder.
        read: the contents of a path, by its headers alone. The second argument is whether the file is only looked at: then one
            that ends too early is listed as well. Raises `CheckpointError` for what is damaged.
        magic: whether a file that begins with these bytes (up to `HEAD_BYTES`) is one; None for a folder.
        folder: whether it is a folder.
        markers: of a folder, the file names that tell it from a folder of models when a folder is scanned.
        scanned: whether a scan of a folder takes it.
        write: lays out a new one, where it can be written. A file: (name, dtype, shape) of each tensor and the metadata -> the
            first bytes, name -> byte offset, size. A folder: (checkpoint, tensors by key) -> a `FolderPlan`.
        check: reads back what was written, (path, entries), and raises an `OutputError` where it differs. Of a file.
    """

    id: str
    title: str
    suffixes: tuple[str, ...]
    read: Callable[[Path, bool], Contents]
    magic: Callable[[bytes], bool] | None = None
    folder: bool = False
    markers: tuple[str, ...] = ()
    scanned: bool = True
    write: Callable[..., Any] | None = None
    check: Callable[..., None] | None = None


def _can_work(form: Format) -> None:
    for suffix in form.suffixes:
        if suffix != suffix.lower() or not suffix.startswith(".") or len(suffix) < 2:
            raise UnetscopeError(
                f"format {form.id!r}: the suffix {suffix!r} must be in lower case and begin with a dot"
            )
    if form.write is not None and form.check is None and not form.folder:
        raise UnetscopeError(
            f"format {form.id!r}: what is written has to be read back; give it `check` besides `write`"
        )
    if form.folder == (form.magic is not None):
        raise UnetscopeError(f"format {form.id!r}: a file is known by its magic, and a folder has none")
    if not form.folder and not form.suffixes:
        raise UnetscopeError(f"format {form.id!r}: a file needs a suffix, by which folders and recipes know it")


FORMATS: Registry[Format] = Registry("format", Format, __name__, "unetscope.formats", check=_can_work)


# -- names ------------------------------------------------------------------------------------------------------------


def suffixes(of: Callable[[Format], bool] = lambda form: True) -> tuple[str, ...]:
    """The suffixes of files, each once, in the order of the formats: of all of them, or of those that `of` says."""
    return tuple(dict.fromkeys(s for form in FORMATS.values() if not form.folder and of(form) for s in form.suffixes))


def is_model_name(name: str) -> bool:
    """Whether a name is that of a model file."""
    return name.lower().endswith(suffixes())


def is_scanned_name(name: str) -> bool:
    """Whether a scan of a folder takes a file of this name."""
    return not name.startswith(".") and name.lower().endswith(suffixes(lambda form: form.scanned))


def is_model_folder(names: Iterable[str]) -> bool:
    """Whether a folder with files of these names is a model, and not a folder of models."""
    marks = {mark for form in FORMATS.values() if form.folder and form.scanned for mark in form.markers}
    return not marks.isdisjoint(names)


def without_suffix(name: str) -> str:
    """A file's name without the suffix of a model file, if it has one."""
    suffix = next((s for s in suffixes() if name.lower().endswith(s)), "")
    return name[: -len(suffix)] if suffix else name


def written_suffixes() -> tuple[str, ...]:
    """The suffixes of files that can be written."""
    return suffixes(lambda form: form.write is not None)


def written_as(path: Path | str) -> Format:
    """The format that a file of this name is written in.

    Raises:
        OutputError: no format that is written has this suffix.
    """
    suffix = Path(path).suffix.lower()
    form = next((f for f in FORMATS.values() if f.write and not f.folder and suffix in f.suffixes), None)
    if form is None:
        known = written_suffixes()
        raise OutputError(f"{path}: only {' or '.join(known)} files are written; end the name in {known[0]}")
    return form


# -- reading ----------------------------------------------------------------------------------------------------------


def read_model(path: Path, to_look: bool = False) -> tuple[Format, Contents]:
    """The container and the headers of a file or folder.

    Args:
        path: the file or folder.
        to_look: take a file that ends too early as well.

    Raises:
        CheckpointError: there is nothing there, it is not a model, or it is damaged.
    """
    return read_folder_model(path) if is_folder(path) else read_file(path, to_look)


def read_folder_model(path: Path) -> tuple[Format, Contents]:
    """The container and the headers of a folder: of the format whose marker is in it, else of the first one, to say what is wrong.

    Raises:
        CheckpointError: the folder is not a model, or one of its files is damaged.
    """
    folders = [form for form in FORMATS.values() if form.folder]
    form = next((f for f in folders if any((path / mark).exists() for mark in f.markers)), folders[0])
    return form, _as_text(path, form.read(path, False))


def read_file(path: Path, to_look: bool = False) -> tuple[Format, Contents]:
    """The container and the headers of a file. Its first bytes decide, then its name.

    Raises:
        CheckpointError: as `read_model`.
    """
    from .not_models import refuse_half_downloads, refuse_not_models

    path = Path(path)
    head, size = _head(path)
    refuse_half_downloads(path, size)
    form = next((f for f in FORMATS.values() if f.magic is not None and f.magic(head)), None)
    if form is None:
        refuse_not_models(path, head, size)
        form = next((f for f in FORMATS.values() if path.suffix.lower() in f.suffixes), None)
    if form is None:
        known = ", ".join(f"{f.title} ({', '.join(f.suffixes)})" for f in FORMATS.values() if not f.folder)
        raise CheckpointError(
            f"{path}: is not a model: its first bytes are not those of any format that is read. Expected {known}"
        )
    return form, _as_text(path, form.read(path, to_look))


def _as_text(path: Path, contents: Contents) -> Contents:
    """Contents whose names and metadata any file can hold: halves of characters, which pickles allow, written out as `\\ud800`.

    Raises:
        CheckpointError: two tensors have one name then.
    """
    lists = [contents.tensors, *contents.components.values()]
    names = [tensor.name for tensors in lists for tensor in tensors]
    if all(map(_is_text, ["\n".join(names), *contents.metadata, *contents.metadata.values()])):
        return contents
    strange = sum(not _is_text(name) for name in names)
    text = (
        f"the names of {counted(strange, 'tensor')} hold halves of characters, written out here as \\ud800 and the like"
    )
    note = Notice("file.half_characters", text)
    tensors, *components = [[replace(t, name=readable(t.name)) for t in tensors] for tensors in lists]
    for made in (tensors, *components):
        if twice := [name for name, count in Counter(tensor.name for tensor in made).items() if count > 1]:
            raise CheckpointError(
                f"{path}: {twice[0]} is the name of two tensors when halves of characters are written out"
            )
    return replace(
        contents,
        tensors=tensors,
        components=dict(zip(contents.components, components, strict=True)),
        metadata={readable(key): readable(text) for key, text in contents.metadata.items()},
        notes=(*contents.notes, *([note] if strange else [])),
    )


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_folder(path: Path) -> bool:
    """Whether a path is a folder, and not a file.

    Raises:
        CheckpointError: there is nothing there, it cannot be looked at, or it is neither.
    """
    try:
        kind = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        if link := dead_link(path):
            raise CheckpointError(f"{path}: {link}; put the model there, or name another file") from None
        raise CheckpointError(f"{path}: no such file or folder; check the name") from None
    except (OSError, ValueError) as error:  # no permission, a name that is too long, a null character
        raise CheckpointError(f"{path}: cannot be read ({unreadable(error)})") from None
    if not (stat.S_ISDIR(kind) or stat.S_ISREG(kind)):
        raise CheckpointError(f"{path}: is neither a file nor a folder")
    return stat.S_ISDIR(kind)


def _head(path: Path) -> tuple[bytes, int]:
    """The first bytes of a file, and its size."""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({unreadable(error)})") from None
