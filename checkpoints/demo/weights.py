"""The numbers of demo checkpoints: random but sane weights, and fine-tunes of them.

Every piece of every tensor has a random stream of its own, keyed by seed, purpose, key and position, so values depend
neither on the number of threads nor on which other tensors there are.
"""

from __future__ import annotations

from functools import cache
from math import prod
from zlib import crc32

import numpy as np

from ..families import Family, is_text
from ..families.parts.clip import TOKENS
from ..families.parts.schedule import schedule
from ..tensors import Shape

# Elements of a piece. Part of what a seed means: another number makes other checkpoints.
PIECE = 1 << 19
# Relative size of a fine-tune's change, as powers of ten: each label draws its own between these.
UNET_CHANGE = (-3.0, -1.0)
TEXT_CHANGE = (-3.5, -2.5)
RANK = 4
# How much of the change's variance is shared by all fine-tunes of a theme (low rank), the rest is each one's own.
SHARED = 0.4

_MATRIX_BIAS = 0.02
_NORM_SPREAD = 0.05
_EMBEDDING = 0.02


def generator(seed: int, purpose: str, key: str, start: int = 0) -> np.random.Generator:
    """The random stream of one piece: the same numbers for the same arguments, independent for others."""
    stream = np.array([seed % 2**64, crc32(f"{purpose} {key}".encode())], np.uint64)
    counter = np.array([0, 0, 0, start], np.uint64)
    return np.random.Generator(np.random.Philox(key=stream, counter=counter))


def normal(seed: int, purpose: str, key: str, start: int, elements: int) -> np.ndarray:
    """`elements` numbers of the standard normal distribution, float32."""
    return generator(seed, purpose, key, start).standard_normal(elements, dtype=np.float32)


@cache
def constants() -> dict[str, np.ndarray]:
    """The tensors that are not random: schedule buffers, counters, token positions, markers' values."""
    values = {key: value.astype(np.float32) for key, value in schedule().items()}
    values["model_ema.decay"] = np.array(0.9999, np.float32)
    values["model_ema.num_updates"] = np.array(10_000, np.int32)
    # Playground 2.5's scaling of latent images, the field's example of an EDM model.
    values["edm_mean"] = np.array([-1.6574, 1.886, -1.383, 2.5155], np.float32).reshape(1, 4, 1, 1)
    values["edm_std"] = np.array([8.4927, 5.9022, 6.5498, 5.2299], np.float32).reshape(1, 4, 1, 1)
    values["v_pred"] = np.empty(0, np.float32)
    return values


def constant(key: str) -> np.ndarray | None:
    """A tensor's fixed values, or None for a random one."""
    if key.endswith(".position_ids"):
        return np.arange(TOKENS, dtype=np.int64)[None]
    if key.endswith(".logit_scale"):
        return np.array(np.log(100), np.float32)
    return constants().get(key)


def start_values(family: Family, key: str, shape: Shape, seed: int, start: int, stop: int) -> np.ndarray:
    """Elements `start` to `stop` of a fresh tensor: norms near 1, small biases, matrices scaled by their inputs."""
    noise = normal(seed, "start", key, start, stop - start)
    if family.kind_of(key) == "norm" and key.endswith("weight"):
        noise *= np.float32(_NORM_SPREAD)
        noise += np.float32(1)
    elif len(shape) < 2:
        noise *= np.float32(_MATRIX_BIAS)
    elif "embedding" in key:
        noise *= np.float32(_EMBEDDING)
    else:
        noise *= np.float32(prod(shape[1:]) ** -0.5)
    return noise


def change_size(family: Family, key: str, seed: int) -> float:
    """How far a fine-tune moves the block of this key, relative to the weights; 0 for what training leaves alone."""
    where = family.block_of(key)
    if where.component == family.core:
        low, high = UNET_CHANGE
    elif is_text(where.component) and constant(key) is None:
        low, high = TEXT_CHANGE
    else:
        return 0.0
    return float(10 ** generator(seed, "size", where.label).uniform(low, high))


def change(key: str, shape: Shape, seed: int, theme: int, start: int, stop: int) -> np.ndarray:
    """Elements `start` to `stop` of a fine-tune's change, before scaling: variance about 1, float32.

    A dense part of its own, and for matrices a low-rank part that all fine-tunes of the theme share.
    """
    dense = normal(seed, "change", key, start, stop - start)
    if len(shape) < 2:
        return dense
    dense *= np.float32((1 - SHARED) ** 0.5)
    shared = low_rank(key, shape, theme, start, stop)
    shared *= np.float32(SHARED**0.5)
    return dense + shared


def low_rank(key: str, shape: Shape, theme: int, start: int, stop: int) -> np.ndarray:
    """Elements of a rank-4 matrix of variance about 1: a product of two Gaussian factors, of the tensor's rows and columns."""
    rows, columns = shape[0], prod(shape[1:])
    left = normal(theme, "left factor", key, 0, rows * RANK).reshape(rows, RANK)
    right = normal(theme, "right factor", key, 0, RANK * columns).reshape(RANK, columns)
    left *= np.float32(RANK**-0.5)
    first, last = start // columns, -(-stop // columns)
    # Term by term: a matrix product would round differently from machine to machine.
    total = left[first:last, :1] * right[0]
    for i in range(1, RANK):
        total += left[first:last, i : i + 1] * right[i]
    return total.reshape(-1)[start - first * columns : stop - first * columns]
