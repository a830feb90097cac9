"""The compiled kernel: decode, combine and encode weights without a copy in between, and without torch.

Arithmetic is fp32 in a fixed order, one operation at a time (no fused multiply-add), so that this kernel and the one in
`kernel_torch` give the same bytes on every machine.

Numba compiles a function per combination of argument types. fp16 and bf16 would both be uint16, so each format travels in
a numpy type of its own, the `CARRIERS` below.
"""

from __future__ import annotations

import llvmlite.binding
import llvmlite.ir as ir
import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload, register_jitable

CARRIERS = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.int16,
    "BF16": np.uint16,
    "F8_E4M3": np.uint8,
    "F8_E5M2": np.int8,
}
# Elements that are worked on at a time: three fp32 tiles of this size stay in a 32 KB first-level cache.
_TILE = 2048


def supported() -> bool:
    """Whether this CPU converts fp16 in hardware: without it the compiled code cannot be linked."""
    features = llvmlite.binding.get_host_cpu_features()
    machine = llvmlite.binding.get_default_triple().split("-")[0]
    return bool(features.get("f16c")) or machine in ("aarch64", "arm64")


@intrinsic
def _half_to_float(typing, bits):
    def build(context, builder, signature, args):
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.int16), build


@intrinsic
def _float_to_half(typing, value):
    def build(context, builder, signature, args):
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.int16(types.float32), build


@intrinsic
def _bits_to_float(typing, bits):
    def build(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), build


@intrinsic
def _float_to_bits(typing, value):
    def build(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), build


def _fp8_table(exponent_bits: int, mantissa_bits: int, has_inf: bool) -> np.ndarray:
    """The 256 values of an fp8 format, worked out from its bit fields."""
    out = np.empty(256, np.float32)
    bias, top = 2 ** (exponent_bits - 1) - 1, 2**exponent_bits - 1
    for byte in range(256):
        exponent, mantissa = (byte & 127) >> mantissa_bits, byte & (2**mantissa_bits - 1)
        if has_inf and exponent == top:
            value = np.inf if mantissa == 0 else np.nan
        elif not has_inf and byte & 127 == 127:
            value = np.nan
        elif exponent == 0:
            value = mantissa * 2.0 ** (1 - bias - mantissa_bits)
        else:
            value = (1 + mantissa / 2**mantissa_bits) * 2.0 ** (exponent - bias)
        out[byte] = -value if byte & 128 else value
    return out


_E4M3 = _fp8_table(4, 3, has_inf=False)
_E5M2 = _fp8_table(5, 2, has_inf=True)


def _load(bits):
    """One stored element as fp32 (compiled code only)."""


def _store(array, i, value):
    """Round an fp32 value to the format of `array` and put it at `i` (compiled code only)."""


@overload(_load, inline="always")
def _load_by_type(bits):
    if bits == types.int16:
        return lambda bits: _half_to_float(bits)
    if bits == types.uint16:
        return lambda bits: _bits_to_float(np.uint32(bits) << np.uint32(16))
    if bits == types.uint8:
        return lambda bits: _E4M3[bits]
    if bits == types.int8:
        return lambda bits: _E5M2[np.uint8(bits)]
    return lambda bits: np.float32(bits)


@register_jitable
def _to_bf16(value):
    bits = _float_to_bits(value)
    if value != value:
        return np.uint16(0x7FC0)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@register_jitable
def _to_fp8(value, mantissa_bits, bias, smallest, largest, beyond):
    """Round to nearest, ties to even; `smallest` normal value, `largest` finite code; past it comes `beyond`.

    E4M3 has no infinity: what is too large becomes its largest value.
    """
    sign = np.uint32(_float_to_bits(value) >> np.uint32(24)) & np.uint32(128)
    if value != value:
        return np.uint8(sign | np.uint32(127))
    size = abs(value)
    if size < smallest:
        # np.rint rounds ties to even; the product is exact.
        code = np.uint32(np.rint(size * (np.float32(1 << mantissa_bits) / smallest)))
    else:
        shift = np.uint32(23 - mantissa_bits)
        bits = _float_to_bits(size)
        half = (np.uint32(1) << (shift - np.uint32(1))) - np.uint32(1)
        bits = (bits + half + ((bits >> shift) & np.uint32(1))) >> shift
        code = bits - np.uint32((127 - bias) << mantissa_bits)
        if code > np.uint32(largest):
            code = np.uint32(beyond)
    return np.uint8(sign | code)


@overload(_store, inline="always")
def _store_by_type(array, i, value):
    if array.dtype == types.int16:

        def store(array, i, value):
            array[i] = _float_to_half(value)

    elif array.dtype == types.uint16:

        def store(array, i, value):
            array[i] = _to_bf16(value)

    elif array.dtype == types.uint8:

        def store(array, i, value):
            array[i] = _to_fp8(value, 3, 7, np.float32(2.0**-6), 126, 126)

    elif array.dtype == types.int8:

        def store(array, i, value):
            array[i] = np.int8(_to_fp8(value, 2, 15, np.float32(2.0**-14), 123, 124))

    else:

        def store(array, i, value):
            array[i] = value

    return store


@njit(nogil=True, cache=True, error_model="numpy")
def decode(source, out):
    """Stored elements as fp32."""
    for i in range(out.size):
        out[i] = _load(source[i])


@njit(nogil=True, cache=True, error_model="numpy")
def encode(values, out, limit):
    """Round fp32 values to the format of `out`; returns how many are not finite there (NaN, or beyond `limit`)."""
    bad = 0
    for i in range(out.size):
        value = values[i]
        bad += not (abs(value) <= limit)
        _store(out, i, value)
    return bad


@njit(nogil=True, cache=True, error_model="numpy")
def count_bad(source, limit):
    """How many stored elements are not finite, or larger than `limit`."""
    bad = 0
    for i in range(source.size):
        bad += not (abs(_load(source[i])) <= limit)
    return bad


@njit(nogil=True, cache=True, error_model="numpy")
def linear(sources, coefficients, anchor, out, limit):
    """out = sum c_i x_i, rounded once; returns how many results are not finite in the format of `out`.

    `sources` is (N, L) of one carrier type, `coefficients` N fp32 numbers. With `anchor` >= 0 the coefficients sum to one
    and the sum is taken as x_anchor + sum c_i (x_i - x_anchor), which gives equal inputs back exactly.
    """
    inputs, size = sources.shape
    base = np.empty(_TILE, np.float32)
    total = np.empty(_TILE, np.float32)
    bad = 0
    for start in range(0, size, _TILE):
        n = min(_TILE, size - start)
        first = sources[max(anchor, 0)][start : start + n]
        if anchor >= 0:
            for j in range(n):
                base[j] = _load(first[j])
                total[j] = np.float32(0.0)
        else:
            c = coefficients[0]
            for j in range(n):
                base[j] = np.float32(0.0)
                total[j] = c * _load(first[j])
        for i in range(inputs):
            if i == max(anchor, 0):
                continue
            c = coefficients[i]
            row = sources[i][start : start + n]
            if anchor >= 0:
                for j in range(n):
                    total[j] += c * (_load(row[j]) - base[j])
            else:
                for j in range(n):
                    total[j] += c * _load(row[j])
        part = out[start : start + n]
        for j in range(n):
            # x + 0 would turn -0.0 into 0.0.
            value = total[j] if anchor < 0 else (base[j] if total[j] == 0 else base[j] + total[j])
            bad += not (abs(value) <= limit)
            _store(part, j, value)
    return bad
