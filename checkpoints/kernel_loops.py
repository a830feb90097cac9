"""The kernel's loops, for numba to compile: stored weights are decoded, combined and encoded without a copy in between.

Only `machine_code` imports this, and only where there is no compiled code yet: importing numba takes longer than many a merge.

Arithmetic is fp32 in a fixed order, one operation at a time (no fused multiply-add), so that this kernel and the one in
`kernel_torch` give the same bytes on every machine. Loops take pointers and raise nothing: their compiled code needs neither
Python nor numba to run. Conversions are written without branches, which keeps the loops in vector instructions.
"""

from __future__ import annotations

from collections.abc import Callable

import llvmlite.ir as ir
import numpy as np
from numba import carray, cfunc, from_dtype, types
from numba.core.ccallback import CFunc
from numba.extending import intrinsic, overload, register_jitable

from .kernel_numba import TILE


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
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.uint16(rounded if value == value else np.uint32(0x7FC0))


@register_jitable
def _to_fp8(value, mantissa_bits, bias, smallest, largest, beyond):
    """Round to nearest, ties to even; `smallest` normal value, `largest` finite code; past it comes `beyond`.

    E4M3 has no infinity: what is too large becomes its largest value.
    """
    size = abs(value)
    bits = _float_to_bits(size)
    shift = np.uint32(23 - mantissa_bits)
    half = (np.uint32(1) << (shift - np.uint32(1))) - np.uint32(1)
    normal = ((bits + half + ((bits >> shift) & np.uint32(1))) >> shift) - np.uint32((127 - bias) << mantissa_bits)
    normal = normal if normal <= np.uint32(largest) else np.uint32(beyond)
    # Below the normal values steps are equal: adding a number whose last bit is one such step rounds to a multiple of it.
    step = smallest * np.float32(1 << (23 - mantissa_bits))
    subnormal = _float_to_bits(size + step) - _float_to_bits(step)
    code = subnormal if size < smallest else normal
    code = code if value == value else np.uint32(127)
    return np.uint8(((_float_to_bits(value) >> np.uint32(24)) & np.uint32(128)) | code)


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


# -- the loops --------------------------------------------------------------------------------------------------------


def _decode(source, out, size):
    """Stored elements as fp32."""
    x, y = carray(source, size), carray(out, size)
    for i in range(size):
        y[i] = _load(x[i])
    return 0


def _encode(values, out, size, limit):
    """Round fp32 values; returns how many are not finite in that format (NaN, or beyond `limit`)."""
    x, y, bad = carray(values, size), carray(out, size), 0
    for i in range(size):
        bad += not (abs(x[i]) <= limit)
        _store(y, i, x[i])
    return bad


def _count_bad(source, size, limit):
    """How many stored elements are not finite, or larger than `limit`."""
    x, bad = carray(source, size), 0
    for i in range(size):
        bad += not (abs(_load(x[i])) <= limit)
    return bad


def _linear(sources, inputs, size, coefficients, anchor, scratch, out, limit):
    """out = sum c_i x_i, see `kernel_numba.linear`; `scratch` has room for two tiles."""
    rows, shares = carray(sources, inputs * size), carray(coefficients, inputs)
    tiles, result = carray(scratch, 2 * TILE), carray(out, size)
    base, total = tiles[:TILE], tiles[TILE:]
    bad = 0
    if inputs == 2 and anchor >= 0:
        first, second = rows[anchor * size : anchor * size + size], rows[(1 - anchor) * size : (2 - anchor) * size]
        c = shares[1 - anchor]
        for j in range(size):
            x = _load(first[j])
            change = c * (_load(second[j]) - x)
            value = x if change == 0 else x + change
            bad += not (abs(value) <= limit)
            _store(result, j, value)
        return bad
    begin = max(anchor, 0)
    for start in range(0, size, TILE):
        n = min(TILE, size - start)
        first = rows[begin * size + start : begin * size + start + n]
        if anchor >= 0:
            for j in range(n):
                base[j] = _load(first[j])
                total[j] = np.float32(0.0)
        else:
            c = shares[0]
            for j in range(n):
                base[j] = np.float32(0.0)
                total[j] = c * _load(first[j])
        for i in range(inputs):
            if i == begin:
                continue
            c = shares[i]
            row = rows[i * size + start : i * size + start + n]
            if anchor >= 0:
                for j in range(n):
                    total[j] += c * (_load(row[j]) - base[j])
            else:
                for j in range(n):
                    total[j] += c * _load(row[j])
        part = result[start : start + n]
        if anchor >= 0:
            for j in range(n):
                # x + 0 would turn -0.0 into 0.0.
                value = base[j] if total[j] == 0 else base[j] + total[j]
                bad += not (abs(value) <= limit)
                _store(part, j, value)
        else:
            for j in range(n):
                bad += not (abs(total[j]) <= limit)
                _store(part, j, total[j])
    return bad


_SINGLES = types.CPointer(types.float32)


def compile_loop(operation: str, source: np.dtype, out: np.dtype) -> CFunc:
    """A loop for these carriers, compiled."""
    x, y = types.CPointer(from_dtype(source)), types.CPointer(from_dtype(out))
    size, limit = types.intp, types.float32
    loops: dict[str, tuple[Callable, tuple]] = {
        "decode": (_decode, (x, _SINGLES, size)),
        "encode": (_encode, (_SINGLES, y, size, limit)),
        "count_bad": (_count_bad, (x, size, limit)),
        "linear": (_linear, (x, size, size, _SINGLES, size, _SINGLES, y, limit)),
    }
    function, arguments = loops[operation]
    return cfunc(types.intp(*arguments), error_model="numpy")(function)
