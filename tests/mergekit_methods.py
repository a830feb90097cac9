"""Merge methods of mergekit on arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mergekit.merge_methods import merge_tensors


def mergekit(method: str, arrays: Sequence[np.ndarray], base: bool = False, **parameters) -> np.ndarray:
    """The result of a method of theirs, in double precision; with `base` the first array is the base."""
    tensors = [torch.tensor(np.asarray(a, np.float64)) for a in arrays]
    return merge_tensors(tensors, method, parameters=parameters, base_index=0 if base else None).numpy()
