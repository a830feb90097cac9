"""The models that the recipes of this folder name: whole SD1s and SDXLs with a few channels, and a model of no known family.

Which tensors a model has stands in `layouts.json.gz`, its numbers come from a hash of their place: neither depends on what the
package says of families or of demo checkpoints.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from functools import cache
from math import prod
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
# What a .safetensors file calls a dtype, and how fp32 numbers become its bytes.
DTYPES = {
    "F16": lambda x: x.astype("<f2").tobytes(),
    "F32": lambda x: x.astype("<f4").tobytes(),
    # Cut, not rounded: these are numbers, wherever they come from.
    "BF16": lambda x: (x.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes(),
    "I64": lambda x: x.astype("<i8").tobytes(),
}
# name -> layout, seed, seed of the change that a fine-tune has made of it (0: none), dtype of the weights.
MODELS = {
    "sd1-base": ("sd1", 1, 0, "F16"),
    "sd1-ink": ("sd1", 1, 11, "F16"),
    "sd1-photo": ("sd1", 1, 12, "F16"),
    "sd1-anime": ("sd1", 1, 13, "F16"),
    "sd1-fp32": ("sd1", 1, 15, "F32"),
    "sd1-bf16": ("sd1", 1, 16, "BF16"),
    "sd1-unet": ("sd1-unet", 1, 13, "F16"),
    "sd1-vae": ("sd1-vae", 2, 0, "F16"),
    "sd1-ema": ("sd1-ema", 1, 11, "F16"),
    "sd1-inpainting": ("sd1-inpainting", 1, 18, "F16"),
    "sd1-nan": ("sd1", 1, 19, "F16"),
    "sdxl-base": ("sdxl", 3, 0, "F16"),
    "sdxl-ink": ("sdxl", 3, 31, "F16"),
    "toy-base": ("toy", 5, 0, "F16"),
    "toy-ink": ("toy", 5, 51, "F16"),
    "toy-photo": ("toy", 5, 52, "F16"),
    "toy-anime": ("toy", 5, 53, "F32"),
}
# When every file was last changed, in nanoseconds since 1970: a part of what the caches know a file by.
CHANGED = 1_700_000_000_000_000_000


@cache
def layouts() -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    """Layout -> its tensors' names and shapes."""
    with gzip.open(HERE / "layouts.json.gz", "rt", encoding="utf-8") as file:
        return {name: [(key, tuple(shape)) for key, shape in rows] for name, rows in json.load(file).items()}


def numbers(seed: int, count: int) -> np.ndarray:
    """So many fp32 numbers between -1 and 1: splitmix64 of their places, the same on every machine and with every numpy."""
    with np.errstate(over="ignore"):
        x = np.arange(count, dtype=np.uint64) + np.uint64(seed * 1_000_003)
        x *= np.uint64(0x9E3779B97F4A7C15)
        x ^= x >> np.uint64(30)
        x *= np.uint64(0xBF58476D1CE4E5B9)
        x ^= x >> np.uint64(27)
        x *= np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)


@cache
def content(name: str) -> tuple[dict, bytes]:
    """A model's header and data."""
    layout, seed, tuned, dtype = MODELS[name]
    tensors = layouts()[layout]
    total = sum(prod(shape) for _, shape in tensors)
    values = numbers(seed, total) * np.float32(0.1)
    if tuned:
        values += numbers(tuned, total) * np.float32(0.01)
    if name == "sd1-nan":
        values[total // 2] = np.nan
    header, data, at = {}, bytearray(), 0
    for key, shape in tensors:
        count, kind = prod(shape), dtype
        own = values[at : at + count]
        if key.endswith("position_ids"):
            own, kind = np.arange(count), "I64"
        elif "." not in key:  # a schedule's buffer
            kind = "F32"
        header[key] = {"dtype": kind, "shape": list(shape), "data_offsets": [len(data)]}
        data += DTYPES[kind](own)
        header[key]["data_offsets"].append(len(data))
        at += count
    return header, bytes(data)


def write_model(name: str, folder: Path, metadata: dict[str, str] | None = None) -> Path:
    """Write a model into a folder as `<name>.safetensors`, with that metadata."""
    header, data = content(name)
    path = Path(folder) / f"{name}.safetensors"
    write_safetensors(path, ({"__metadata__": metadata} if metadata else {}) | header, data)
    return path


def write_safetensors(path: Path, header: dict, data: bytes = b"") -> None:
    """A .safetensors file by its definition: the header's length, the header, the data; last changed at `CHANGED`."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    os.utime(path, ns=(CHANGED, CHANGED))


def read_safetensors(path: Path) -> tuple[dict, dict, bytes]:
    """Metadata, header and data of a .safetensors file."""
    raw = Path(path).read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    return header.pop("__metadata__", {}), header, raw[end:]


def fingerprint(path: Path) -> tuple[str, float]:
    """Of a file's tensors: SHA-256 of their names, dtypes, shapes and bytes, in the order of their names; the root of the sum of
    the squares of all that are F16 or F32."""
    _, header, data = read_safetensors(path)
    digest, squares = hashlib.sha256(), 0.0
    for name in sorted(header):
        entry = header[name]
        start, stop = entry["data_offsets"]
        digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode() + data[start:stop])
        if entry["dtype"] in ("F16", "F32"):
            values = np.frombuffer(data[start:stop], {"F16": "<f2", "F32": "<f4"}[entry["dtype"]]).astype(np.float64)
            squares += float(values @ values)
    return digest.hexdigest(), squares**0.5
