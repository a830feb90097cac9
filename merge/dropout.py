"""Which elements of a difference are kept by chance: decided by a seed, the model's name, the key and the element's place alone.

So neither the number of threads, nor the size of pieces, nor the order or number of the other models changes a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from ..checkpoints.kernels import kernel
from .tensor_slice import TensorSlice

# Random bits that are compared with a probability.
_BITS = 53


def streams(at: TensorSlice, seed: int) -> list[int]:
    """A stream of random bits, 64-bit, for each model of a tensor."""
    return [
        int.from_bytes(blake2b("\0".join((str(seed), name, at.key)).encode(), digest_size=8).digest(), "little")
        for name in at.names
    ]


def dropped(tiles: Sequence[np.ndarray], start: int, streams: Sequence[int], density: float) -> np.ndarray:
    """The tiles with each element kept with the probability `density`, else 0: (N, L)."""
    threshold, out = round(density * 2**_BITS), np.empty((len(tiles), tiles[0].size), np.float32)
    for tile, stream, kept in zip(tiles, streams, out, strict=True):
        kernel().keep_at_random(np.ascontiguousarray(tile), stream, start, threshold, kept)
    return out
