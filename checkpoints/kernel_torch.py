"""The kernel for machines without numba or without fp16 conversion in hardware: the same steps in torch.

No `lerp`, `addcmul` or `add(alpha=)`: they fuse multiplication and addition, and the bytes would differ from `kernel_numba`.
"""

from __future__ import annotations

import numpy as np
import torch

_FORMATS = {
    np.dtype(np.float64): torch.float64,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.int16): torch.float16,
    np.dtype(np.uint16): torch.bfloat16,
    np.dtype(np.uint8): torch.float8_e4m3fn,
    np.dtype(np.int8): torch.float8_e5m2,
}
# The engine brings its own threads; torch's would only get in their way.
torch.set_num_threads(1)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.view(np.uint8)).view(_FORMATS[array.dtype])


def decode(source: np.ndarray, out: np.ndarray) -> None:
    """Stored elements as fp32."""
    torch.from_numpy(out).copy_(_tensor(source))


def encode(values: np.ndarray, out: np.ndarray, limit: float) -> int:
    """Round fp32 values to the format of `out`; returns how many are not finite there (NaN, or beyond `limit`)."""
    source = torch.from_numpy(values)
    target = _tensor(out)
    # Some releases of torch turn what is too large for E4M3 into NaN, others into its largest value, as we do.
    target.copy_(source.clamp(-448, 448) if target.dtype == torch.float8_e4m3fn else source)
    return values.size - int(torch.count_nonzero(source.abs() <= limit))


def count_bad(source: np.ndarray, limit: float) -> int:
    """How many stored elements are not finite, or larger than `limit`."""
    return source.size - int(torch.count_nonzero(_tensor(source).to(torch.float32).abs() <= limit))


def linear(sources: np.ndarray, coefficients: np.ndarray, anchor: int, out: np.ndarray, limit: float) -> int:
    """out = sum c_i x_i, rounded once; as `kernel_numba.linear`."""
    base_index = max(anchor, 0)
    base = _tensor(sources[base_index]).to(torch.float32)
    total = torch.zeros_like(base) if anchor >= 0 else base * coefficients[0]
    for i, c in enumerate(coefficients):
        if i == base_index:
            continue
        x = _tensor(sources[i]).to(torch.float32)
        total.add_((x - base if anchor >= 0 else x) * c)
    if anchor >= 0:
        total = torch.where(total == 0, base, base + total)
    return encode(total.numpy(), out, limit)
