"""The front door: any file or folder to a `Checkpoint`, by reading headers only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .checkpoint import Checkpoint, TensorInfo
from .dtypes import F32
from .encodings.sorting import Stored, refuse_undecoded, sort_out, together
from .errors import CheckpointError
from .families import Family
from .families.any import any_family
from .families.parts.schedule import marks, said_by_markers, said_by_word
from .formats import Contents, is_folder, read_file, read_model
from .notices import Notice
from .recognition import canonical_names, to_single_file
from .recognition.architecture import Architecture, reader_of, recognise, unknown_model
from .recognition.translation import Translation
from .tensors import StoredTensor
from .text import counted, some

_SIDECAR_LIMIT = 1 << 20


def open_checkpoint(path: Path | str, *, to_look: bool = False) -> Checkpoint:
    """Open a model file or folder of any format; only headers are read.

    Args:
        path: the file or folder.
        to_look: open also what no number can be taken from: a file that ends too early, and one whose tensors are codes of an
            encoding that is not decoded. To say what it is, not to compute with it.

    Raises:
        CheckpointError: there is nothing there, it cannot be read as a checkpoint, or (unless it is only looked at) its tensors are
            codes that nothing decodes.

    Example:
        >>> with open_checkpoint("c.safetensors") as model:
        ...     print(model.family.labels, model.tensors["layers.1.weight"].shape, model.numpy("layers.2.weight").mean())
        ('LAYERS00', 'LAYERS01', 'LAYERS02') (4, 4) 2.0
    """
    path = Path(path)
    form, contents = read_model(path, to_look)
    translation, metadata, stored = _as_numbers(contents)
    if not to_look:
        refuse_undecoded(path, stored)
    translation.notes = [*contents.notes, *translation.notes]
    raw_names = () if form.folder else [tensor.name for tensor in contents.tensors]
    size = contents.size or path.stat().st_size
    opened = _checkpoint(path, form.id, translation, metadata, raw_names, size)
    opened.stored = stored
    if form.folder:
        opened.prediction, opened.noise = contents.prediction, contents.noise
        opened.prediction_from = contents.prediction_from
        opened.tensors |= _marks(opened)
    else:
        opened.prediction, opened.noise, opened.prediction_from = _prediction(path, translation.tensors, metadata)
    return opened


def read_tensors(path: Path) -> tuple[str, list[StoredTensor], dict[str, str]]:
    """The container, the tensors under the file's own names, and the metadata of one file; only the header is read.

    Raises:
        CheckpointError: there is no such file, it cannot be read, or its tensors are codes that nothing decodes.
    """
    if is_folder(path):
        raise CheckpointError(f"{path}: is a folder; expected one file")
    form, contents = read_file(path)
    found = sort_out(contents.tensors, contents.metadata)
    refuse_undecoded(path, found.stored)
    return form.id, found.tensors, found.metadata


def _as_numbers(contents: Contents) -> tuple[Translation, dict[str, str], tuple[Stored, ...]]:
    """The tensors as numbers under single-file names, the metadata that still fit them, and how they are stored."""
    if not contents.components:
        found = sort_out(contents.tensors, contents.metadata)
        return canonical_names(found.tensors), found.metadata, found.stored
    components, stored, metadata = {}, [], dict(contents.metadata)
    for name, tensors in contents.components.items():
        mine = {k.removeprefix(f"{name}."): k for k in contents.metadata if k.startswith(f"{name}.")}
        found = sort_out(tensors, {short: contents.metadata[k] for short, k in mine.items()})
        for gone in mine.keys() - found.metadata.keys():
            del metadata[mine[gone]]
        components[name] = found.tensors
        stored += found.stored
    translation = to_single_file(components)
    if translation.lacking:
        lacking = (
            f"{counted(len(translation.lacking), 'tensor')} of the single-file layout ({some(translation.lacking)})"
        )
        translation.notes.append(Notice("names.lacking", f"the diffusers layout lacks {lacking}"))
    return translation, metadata, together(stored)


def _checkpoint(path, form, translation: Translation, metadata, raw_names, size) -> Checkpoint:
    for code, names, what in (
        ("names.unknown", translation.unknown, "have no known place"),
        ("names.dropped", translation.dropped, "carry nothing and are left out"),
    ):
        if names:
            translation.notes.append(Notice(code, f"{len(names)} tensors {what} ({some(names)})"))
    architecture = recognise({key: stored.shape for key, stored in translation.tensors.items()}, raw_names)
    architecture, family, named = _read_by(architecture, translation.tensors)
    tensors = {key: TensorInfo(key, stored, family) for key, stored in named.items()}
    if architecture.what == "lora":
        architecture = _of_lora(architecture, path, tensors, metadata)
    return Checkpoint(
        path=path,
        format=form,
        tensors=tensors,
        metadata=metadata,
        architecture=architecture,
        notes=translation.notes,
        size=size,
    )


def _read_by(
    architecture: Architecture, named: dict[str, StoredTensor]
) -> tuple[Architecture, Family, dict[str, StoredTensor]]:
    """The record that reads a file's keys, and the keys: a model of no known family is read by one made of its own names."""
    family = reader_of(architecture)
    if architecture.what != "other":
        return architecture, family, named
    codes = any(not s.dtype.is_float and len(s.shape) > 1 and name.endswith("weight") for name, s in named.items())
    floats = {name: stored.shape for name, stored in named.items() if stored.dtype.is_float}
    made = None if codes else any_family(floats, fragments=not architecture.told)
    if made is None:
        return architecture, family, named
    (prefix,) = made.prefixes
    of_any = replace(
        architecture, family=made.id, what="checkpoint", parts=made.component_ids, name=unknown_model(named, made)
    )
    return of_any, made, {name.removeprefix(prefix): stored for name, stored in named.items()}


def _of_lora(
    guessed: Architecture, path: Path, tensors: dict[str, TensorInfo], metadata: dict[str, str]
) -> Architecture:
    """A LoRA's architecture as those who apply it find it out: by every name and width, and the metadata."""
    from .lora.recognition import recognise_names

    try:
        family = recognise_names(path, {t.stored.name: t.shape for t in tensors.values()}, metadata).family
    except CheckpointError:  # of a kind or a model that is not supported, which the guess may know
        return guessed
    return guessed if family == guessed.family else guessed.for_family(family)


def _prediction(path: Path, keys, metadata: dict[str, str]) -> tuple[str | None, str, str]:
    """What the model predicts, of what noise, and what says so: marker keys, then metadata, then a .yaml next to the file."""
    prediction, noise, marked = said_by_markers(keys)
    said_by = f"key{'s' * (len(marked) > 1)} {', '.join(marked)}" if marked else ""
    if prediction is not None:
        return prediction, noise, said_by
    for name in ("modelspec.prediction_type", "modelspec.predict_key"):  # the second is ComfyUI's word for it
        if said := said_by_word(metadata.get(name)):
            return said, noise, f"metadata {name}"
    if metadata.get("modelspec.architecture", "").endswith("-v"):
        return "v", noise, "metadata modelspec.architecture"
    sidecar = path.with_suffix(".yaml")
    kind = _sidecar_prediction(sidecar) if sidecar.is_file() else None
    return (kind, noise, f"sidecar {sidecar.name}") if kind else (None, noise, said_by)


def _marks(folder: Checkpoint) -> dict[str, TensorInfo]:
    """What a folder's scheduler says, as a single file says it: empty tensors whose names tell.

    Where a file without a mark may predict either, its family's files are told by other signs, and get no such key.
    """
    usual = folder.family.predicts
    if usual is None or folder.family.core not in folder.architecture.parts:
        return {}
    said = None if folder.prediction == usual else folder.prediction
    said_by = folder.path / folder.prediction_from
    empty = [StoredTensor.at(key, F32, (0,), said_by, 0) for key in marks(said, folder.noise)]
    return {stored.name: TensorInfo(stored.name, stored, folder.family) for stored in empty}


def _sidecar_prediction(path: Path) -> str | None:
    """`parameterization` of a training configuration next to the checkpoint; None where the file says nothing."""
    from .files.yaml_text import plain_from_yaml  # few files have one, and the library takes 10 ms

    try:
        if path.stat().st_size > _SIDECAR_LIMIT:
            return None
        config = plain_from_yaml(path.read_text(encoding="utf-8"))
        said = config["model"]["params"].get("parameterization")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return said_by_word(said)
