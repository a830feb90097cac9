"""The number formats of a checkpoint: one table, under the names that safetensors uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .errors import CheckpointError, nearest


@dataclass(frozen=True)
class DType:
    """A number format.

    Attributes:
        name: as in a safetensors header.
        size: the bytes of a number; 0 where several numbers share bytes.
        kind: what its numbers are; a code is not a number by itself.
        torch: what torch, and `ml_dtypes`, call it.
        bits: the numpy type that carries its bytes.
        max: the largest finite number.
        limit: the largest fp32 number that is still finite after rounding to it. Formats that end at a power of two take half a
            step more than `max`; 464 rounds to E4M3's 448 by ties to even.
        normal: the smallest positive number that is not subnormal.
        width: the bits of a number, where several share bytes.
    """

    name: str
    size: int
    kind: Literal["float", "int", "bool", "complex", "code"]
    torch: str
    bits: str
    max: float = 0.0
    limit: float = 0.0
    normal: float = 0.0
    width: int = 0

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    def nbytes(self, elements: int) -> int:
        """The bytes that so many numbers take."""
        return elements * self.size or elements * self.width // 8

    def __str__(self) -> str:
        return self.name


_TABLE = [
    #     name       size kind    torch            carrier  max           limit            normal
    DType("F64", 8, "float", "float64", "<f8", 1.7976931348623157e308, 3.4028234663852886e38, 2.0**-1022),
    DType("F32", 4, "float", "float32", "<f4", 3.4028234663852886e38, 3.4028234663852886e38, 2.0**-126),
    DType("F16", 2, "float", "float16", "<u2", 65504.0, 65520 - 2.0**-8, 2.0**-14),
    DType("BF16", 2, "float", "bfloat16", "<u2", 3.3895313892515355e38, 3.396177326406364e38, 2.0**-126),
    DType("F8_E4M3", 1, "float", "float8_e4m3fn", "<u1", 448.0, 464.0, 2.0**-6),
    DType("F8_E5M2", 1, "float", "float8_e5m2", "<u1", 57344.0, 61440 - 2.0**-8, 2.0**-14),
    DType("I64", 8, "int", "int64", "<i8"),
    DType("I32", 4, "int", "int32", "<i4"),
    DType("I16", 2, "int", "int16", "<i2"),
    DType("I8", 1, "int", "int8", "<i1"),
    DType("U64", 8, "int", "uint64", "<u8"),
    DType("U32", 4, "int", "uint32", "<u4"),
    DType("U16", 2, "int", "uint16", "<u2"),
    DType("U8", 1, "int", "uint8", "<u1"),
    DType("BOOL", 1, "bool", "bool", "<u1"),
    DType("C64", 8, "complex", "complex64", "<u8"),
    # Scales of quantised weights, powers of two: never weights themselves.
    DType("F8_E8M0", 1, "code", "float8_e8m0fnu", "<u1"),
    # The fp8 of some graphics cards, whose exponents count from elsewhere.
    DType("F8_E4M3FNUZ", 1, "code", "float8_e4m3fnuz", "<u1"),
    DType("F8_E5M2FNUZ", 1, "code", "float8_e5m2fnuz", "<u1"),
]
DTYPES: dict[str, DType] = {d.name: d for d in _TABLE}
# Codes of quantised weights of which several share bytes: files of them are looked at, and nothing computes with them.
PACKED = {
    d.name: d
    for d in (
        DType("F4", 0, "code", "float4_e2m1fn_x2", "<u1", width=4),
        DType("F6_E2M3", 0, "code", "", "<u1", width=6),
        DType("F6_E3M2", 0, "code", "", "<u1", width=6),
    )
}

F64, F32, F16, BF16 = (DTYPES[n] for n in ("F64", "F32", "F16", "BF16"))
F8_E4M3, F8_E5M2, I64 = (DTYPES[n] for n in ("F8_E4M3", "F8_E5M2", "I64"))

# What people type, besides the names of safetensors and torch.
_ALIASES = {"fp64": F64, "fp32": F32, "fp16": F16, "half": F16, "bf16": BF16, "fp8": F8_E4M3}
_ALIASES |= {"fp8_e4m3": F8_E4M3, "fp8_e4m3fn": F8_E4M3, "fp8_e5m2": F8_E5M2}
_ALIASES |= {d.torch: d for d in _TABLE} | {d.name.lower(): d for d in _TABLE}


def dtype_named(name: str) -> DType:
    """The dtype that a person means by `fp16`, `bf16`, `float32`, `F8_E4M3`...

    Raises:
        CheckpointError: for a name that is not a dtype, with the nearest ones.
    """
    try:
        return _ALIASES[name.lower()]
    except KeyError:
        raise CheckpointError(
            f"there is no dtype {name!r}{nearest(name, _ALIASES)}; use fp32, fp16, bf16 or fp8_e4m3"
        ) from None


def carrier(dtype: DType) -> np.dtype:
    """The numpy dtype whose items are the raw bits of `dtype`."""
    return np.dtype(dtype.bits)
