"""What is where a model was expected: pointers, web pages, archives, other programs' models, half a download.

Each is told by its first bytes, whatever the file is called, and named with what to do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError

# Of a JSON document that is read whole to see what it says.
_MAX_JSON = 16 << 20
_SHOWN = 120


@dataclass(frozen=True)
class NotModel:
    """A kind of file that is not a model: `known(head)` tells it by its first bytes, `told` is the rest of the sentence."""

    told: str
    known: Callable[[bytes], bool]


def _begins(*starts: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(starts)


def _markup(head: bytes) -> bool:
    """HTML or XML, after a byte order mark, spaces and comments."""
    text = re.sub(rb"\A(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)*", b"", head, flags=re.DOTALL).lower()
    return text.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<error", b"<meta", b"<script"))


def _onnx(head: bytes) -> bool:
    """A protobuf message that begins as ONNX's ModelProto does: its version, then a field that such a message has, whole."""
    if len(head) < 8 or head[0] != 0x08 or not 1 <= head[1] <= 64:
        return False
    tag, length = head[2], head[3]
    if tag in (0x12, 0x1A, 0x22, 0x32):  # names of the producer, its version, the domain, a description
        text = head[4 : 4 + length]
        return 0 < length < 128 and len(text) == length and all(32 <= c < 127 for c in text)
    return tag in (0x3A, 0x42) and length > 0 and head[4:5] in (b"\x0a", b"\x12")  # the graph, the sets of operators


_UNPACK = "unpack it and give the model that is in it"
_OTHER = "give the model as .safetensors"

NOT_MODELS = [
    NotModel(
        "is a Git LFS pointer, the note that stands for a model that was not downloaded; run `git lfs pull` in its folder, "
        "or download the file itself",
        _begins(b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/"),
    ),
    NotModel(
        "is a git-annex pointer to a model that was not downloaded; run `git annex get`", _begins(b"/annex/objects/")
    ),
    NotModel(
        "is a web page, not a model: the site asked for a login or showed an error instead of sending the file; log in or use "
        "a token, and download it again",
        _markup,
    ),
    NotModel(f"is a GGUF file, a format that is not read yet; {_OTHER}", _begins(b"GGUF", b"FUGG")),
    NotModel(f"is a GGML file, a format that is not read; {_OTHER}", _begins(b"lmgg", b"fmgg", b"tjgg", b"algg")),
    NotModel(f"is an ONNX model, which holds a program and not a checkpoint; {_OTHER}", _onnx),
    NotModel(f"is an HDF5 file (Keras), a format that is not read; {_OTHER}", _begins(b"\x89HDF\r\n\x1a\n")),
    NotModel(f"is a TensorFlow Lite model, a format that is not read; {_OTHER}", lambda head: head[4:8] == b"TFL3"),
    NotModel(f"is a numpy array, not a checkpoint; {_OTHER}", _begins(b"\x93NUMPY")),
    NotModel(f"is a 7z archive; {_UNPACK}", _begins(b"7z\xbc\xaf\x27\x1c")),
    NotModel(f"is a RAR archive; {_UNPACK}", _begins(b"Rar!\x1a\x07")),
    NotModel(
        f"is a compressed file (gzip, bzip2, xz or zstd); {_UNPACK}",
        _begins(b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"),
    ),
    NotModel(f"is a tar archive; {_UNPACK}", lambda head: head[257:262] == b"ustar"),
    NotModel(
        "is a picture; a preview often has the model's name: give the model",
        lambda head: head.startswith((b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8")) or head[8:12] == b"WEBP",
    ),
    NotModel("is a program, not a model; do not run it", _begins(b"MZ\x90\0", b"\x7fELF")),
]

# What downloaders call a file that is not complete, and what they keep next to it meanwhile.
_UNFINISHED = (".part", ".partial", ".crdownload", ".aria2", ".incomplete", ".opdownload", ".download", ".!ut")
_BESIDE = (".part", ".crdownload", ".aria2")


def refuse_half_downloads(path: Path, size: int) -> None:
    """Refuse what a downloader has not finished: by its name, or by what is next to it.

    A file of the full size may still be full of holes while aria2 works on it; the other downloaders leave it empty.

    Raises:
        CheckpointError: it is half a download.
    """
    if path.suffix.lower() in _UNFINISHED:
        raise CheckpointError(
            f"{path}: is a download that is not finished ({path.suffix}); let it finish or download it again"
        )
    for suffix in _BESIDE:
        beside = path.with_name(path.name + suffix)
        if (suffix == ".aria2" or size == 0) and beside.is_file():
            raise CheckpointError(
                f"{path}: its download is not finished: {beside.name} is next to it; let it finish, or remove {beside.name} "
                "if the model is complete"
            )


def refuse_not_models(path: Path, head: bytes, size: int) -> None:
    """Refuse a file that is known to be something else than a model, and say what it is.

    Args:
        path: the file.
        head: its first bytes, which are those of no container.
        size: of the file.

    Raises:
        CheckpointError: it is one of these.
    """
    if told := _told(path, head, size):
        raise CheckpointError(f"{path}: {told}")


def _told(path: Path, head: bytes, size: int) -> str:
    """What such a file is and what to do, as the rest of a sentence; empty where nothing is known."""
    from .pickle_file import OLD_PICKLE, is_old_pickle

    if size == 0:
        return "is empty (0 bytes): its download or copy failed; download it again"
    if found := next((kind for kind in NOT_MODELS if kind.known(head)), None):
        return found.told
    if is_old_pickle(head):
        return OLD_PICKLE
    if len(head) >= 64 and not any(head):
        return (
            "begins with zeros: a download that kept the space and did not finish, or a damaged disk; download it again"
        )
    text = _text(head, whole=size == len(head))
    if text is None:
        return ""
    if text.lstrip()[:1] in ("{", "["):
        return _json_told(path, size)
    return f"is a text ({_quoted(text)}), not a model; download the model again"


def _text(head: bytes, whole: bool) -> str | None:
    """The beginning of a file as text, None where it is none."""
    for cut in (0,) if whole else range(4):  # the last character may go on behind the first bytes
        try:
            text = head[: len(head) - cut].decode("utf-8-sig")
        except UnicodeDecodeError:
            continue
        return text if text and all(c.isprintable() or c in "\n\r\t" for c in text) else None
    return None


def _json_told(path: Path, size: int) -> str:
    """What a JSON document is: an error that a site sent, the index of a model in several files, or something else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig")) if size <= _MAX_JSON else None
    except (OSError, ValueError, RecursionError):
        data = None
    if isinstance(data, dict):
        if isinstance(data.get("weight_map"), dict):
            return "is the index of a model in several files, not a model; give the folder that it is in"
        said = next((data[name] for name in ("error", "message", "detail", "errors") if data.get(name)), None)
        if said is not None:
            said = said.get("message", said) if isinstance(said, dict) else said
            return (
                f"is an error that a site sent instead of a model ({_quoted(str(said))}); check the address, log in or use a "
                "token, and download it again"
            )
    return "is a JSON document, not a model; give the model itself"


def _quoted(text: str) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= _SHOWN else flat[:_SHOWN] + "...")
