"""The front door: any file or folder to a `Checkpoint`, by reading headers only."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import yaml

from .architecture import Architecture, reader_of, recognise, unknown_model
from .checkpoint import Checkpoint, Format, TensorInfo
from .diffusers_folder import read_folder
from .errors import CheckpointError
from .families import Family
from .families.any import any_family
from .naming import canonical_names, to_single_file
from .naming.translation import Translation
from .pickle_file import looks_like_zip, read_pickle
from .safetensors_file import read_header
from .tensors import StoredTensor
from .wording import counted

PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
_SIDECAR_LIMIT = 1 << 20


def open_checkpoint(path: Path | str, *, allow_truncated: bool = False) -> Checkpoint:
    """Open a .safetensors file, a .ckpt / .pt zip pickle, or a diffusers folder; only headers are read.

    Args:
        path: the file or folder.
        allow_truncated: open a .safetensors file that ends too early as well, to look at what it should hold.

    Raises:
        CheckpointError: there is nothing there, or it cannot be read as a checkpoint.
    """
    path = Path(path)
    if _is_folder(path):
        return _open_folder(path)
    form, stored, metadata = _read(path, allow_truncated)
    translation = canonical_names(stored)
    prediction, said_by = _prediction(path, translation.tensors, metadata)
    return _checkpoint(
        path, form, translation, metadata, prediction, said_by, [t.name for t in stored], path.stat().st_size
    )


def read_tensors(path: Path) -> tuple[Format, list[StoredTensor], dict[str, str]]:
    """The container, the tensors under the file's own names, and the metadata of one file; only the header is read.

    Raises:
        CheckpointError: there is no such file, or it cannot be read.
    """
    if _is_folder(path):
        raise CheckpointError(f"{path}: is a folder; expected one file")
    return _read(path, allow_truncated=False)


def _is_folder(path: Path) -> bool:
    try:
        kind = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path}: no such file or folder; check the name") from None
    except (OSError, ValueError) as error:  # no permission, a name that is too long, a null character
        raise CheckpointError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not (stat.S_ISDIR(kind) or stat.S_ISREG(kind)):
        raise CheckpointError(f"{path}: is neither a file nor a folder")
    return stat.S_ISDIR(kind)


def _read(path: Path, allow_truncated: bool) -> tuple[Format, list[StoredTensor], dict[str, str]]:
    pickled = path.suffix.lower() in PICKLE_SUFFIXES
    if looks_like_zip(path) or (pickled and not _looks_like_safetensors(path)):
        return "ckpt", *read_pickle(path)
    return "safetensors", *read_header(path, allow_truncated)


def _open_folder(path: Path) -> Checkpoint:
    folder = read_folder(path)
    if folder.alone:
        (component,) = folder.components.values()
        translation = canonical_names(component)
    else:
        translation = to_single_file(folder.components)
    translation.notes = [*folder.notes, *translation.notes]
    if translation.lacking:
        shown = ", ".join(translation.lacking[:3]) + (", ..." if len(translation.lacking) > 3 else "")
        translation.notes.append(
            f"the diffusers layout lacks {counted(len(translation.lacking), 'tensor')} of the single-file layout ({shown})"
        )
    return _checkpoint(
        path, "diffusers", translation, folder.metadata, folder.prediction, folder.prediction_from, (), folder.size
    )


def _checkpoint(path, form, translation: Translation, metadata, prediction, said_by, raw_names, size) -> Checkpoint:
    for names, what in (
        (translation.unknown, "have no known place"),
        (translation.dropped, "carry nothing and are left out"),
    ):
        if names:
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            translation.notes.append(f"{len(names)} tensors {what} ({shown})")
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
        prediction=prediction,
        prediction_from=said_by,
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
    floats = {name: stored.shape for name, stored in named.items() if stored.dtype.is_float}
    made = any_family(floats)
    if made is None:
        return architecture, family, named
    (prefix,) = made.prefixes
    of_any = replace(
        architecture, family=made.id, what="checkpoint", parts=(made.core,), name=unknown_model(named, made)
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


def _looks_like_safetensors(path: Path) -> bool:
    """Some .ckpt files are safetensors under another name: 8 bytes of length, then a JSON object."""
    with open(path, "rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{"


def _prediction(path: Path, keys, metadata: dict[str, str]) -> tuple[str | None, str]:
    """What the model predicts and what says so: marker keys, then metadata, then a .yaml beside the file."""
    for marker, kind in (("v_pred", "v"), ("edm_vpred.sigma_max", "v"), ("edm_mean", "edm")):
        if marker in keys:
            return kind, f"key {marker}"
    said = metadata.get("modelspec.prediction_type", "").lower()
    if said in ("v", "v_prediction", "epsilon"):
        return ("epsilon" if said == "epsilon" else "v"), "metadata modelspec.prediction_type"
    if metadata.get("modelspec.architecture", "").endswith("-v"):
        return "v", "metadata modelspec.architecture"
    sidecar = path.with_suffix(".yaml")
    kind = _sidecar_prediction(sidecar) if sidecar.is_file() else None
    return (kind, f"sidecar {sidecar.name}") if kind else (None, "")


def _sidecar_prediction(path: Path) -> str | None:
    """`parameterization` of a training configuration beside the checkpoint; None where the file says nothing."""
    try:
        if path.stat().st_size > _SIDECAR_LIMIT:
            return None
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        said = config["model"]["params"].get("parameterization")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    return {"v": "v", "eps": "epsilon"}.get(str(said))
