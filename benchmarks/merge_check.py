"""Whether a merged file is right: every weight against numpy in double precision."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from unetscope.checkpoints.formats.safetensors_file import read_header

# A piece and what is worked out from it stay in the cache.
_PIECE = 1 << 16
_EXPONENT = np.uint64(0x7FF0000000000000)
# Mergers that compute in fp16 round at every step; what is further off than this is not rounding.
ALLOWED = 4.0


class Wrong(Exception):
    """A result that is not what the job asks for."""


def worst_error(output: Path, inputs: list[Path], shares: dict[str, list[float]], whole: bool) -> float:
    """The largest error of a merged fp16 file, in steps of fp16 at the largest of the numbers that were added.

    Args:
        output: the file.
        inputs: what it was merged from.
        shares: for each key the share of every input.
        whole: compare every element; otherwise the first few thousand of each tensor.

    Raises:
        Wrong: tensors are missing or of another dtype or shape, or an error is beyond any rounding.
    """
    result, models = fp16_tensors(output), [fp16_tensors(path) for path in inputs]

    def worst_of(key: str) -> float:
        parts, worst = shares[key], 0.0
        if key not in result or result[key].shape != models[0][key].shape:
            raise Wrong(f"{key} is missing or no fp16 tensor of its size")
        size = result[key].size if whole else min(result[key].size, 4096)
        for start in range(0, size, _PIECE):
            piece = slice(start, min(start + _PIECE, size))
            values = [model[key][piece].astype(np.float64) for model in models]
            expected = sum(share * x for share, x in zip(parts, values, strict=True))
            largest = np.abs(expected)
            for x in values:
                np.maximum(largest, np.abs(x), out=largest)
            worst = max(worst, float(np.max(np.abs(result[key][piece] - expected) / step_of(largest))))
            if not worst <= ALLOWED:
                raise Wrong(f"{key} is {worst:.3g} steps of fp16 away from what it should be")
        return worst

    with ThreadPoolExecutor() as pool:
        return max(pool.map(worst_of, shares), default=0.0)


def step_of(sizes: np.ndarray) -> np.ndarray:
    """The distance of fp16's numbers around these (float64, not negative): 2^(exponent - 10), and 2^-24 at the least."""
    powers = (sizes.view(np.uint64) & _EXPONENT).view(np.float64)
    return np.maximum(powers * 2.0**-10, 2.0**-24)


def fp16_tensors(path: Path) -> dict[str, np.ndarray]:
    """Every fp16 tensor of a file, flat, mapped."""
    tensors, _ = read_header(path)
    content = np.memmap(path, np.uint8, "r")
    found = {}
    for tensor in tensors:
        if tensor.dtype.name == "F16" and tensor.elements:
            (piece,) = tensor.pieces
            found[tensor.name] = np.frombuffer(content, np.float16, tensor.elements, piece.offset)
    return found
