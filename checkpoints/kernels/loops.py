"""The kernels' loops, for numba to compile.

Only `machine_code` imports this, and only where there is no compiled code yet: importing numba takes longer than many a merge.
`reference` says what each loop does. Loops take pointers, allocate nothing and raise nothing: their compiled code needs neither
Python nor numba to run. What needs room to work in is given it by `compiled`.

Weights are combined in fp32 in a fixed order, one operation at a time (no fused multiply-add), so that every machine and the
reference give the same bytes. Conversions are written without branches, which keeps the loops in vector instructions.
"""

from __future__ import annotations

from collections.abc import Callable

import llvmlite.ir as ir
import ml_dtypes
import numpy as np
from numba import carray, cfunc, from_dtype, types
from numba.core.ccallback import CFunc
from numba.extending import intrinsic, overload, register_jitable

from .definitions import (
    BINS,
    FIRST,
    LANES,
    LAST,
    MIX_1,
    MIX_2,
    PART,
    SHIFT,
    SIGNATURES,
    STEP,
    SUM_PART,
    TILE,
)  # fmt: skip

# The types in which stored numbers reach the loops: one for each format, since fp16 and bf16 would both be uint16.
_CARRIERS = {
    "F64": types.float64,
    "F32": types.float32,
    "F16": types.int16,
    "BF16": types.uint16,
    "F8_E4M3": types.uint8,
    "F8_E5M2": types.int8,
}
_BYTES = np.arange(256, dtype=np.uint8)
_E4M3 = _BYTES.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
_E5M2 = _BYTES.view(ml_dtypes.float8_e5m2).astype(np.float32)


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


# -- conversion ---------------------------------------------------------------------------------------------------------


def decode(source, out, size):
    x, y = carray(source, size), carray(out, size)
    for i in range(size):
        y[i] = _load(x[i])
    return 0


def encode(values, out, size, limit):
    x, y, bad = carray(values, size), carray(out, size), 0
    for i in range(size):
        bad += not (abs(x[i]) <= limit)
        _store(y, i, x[i])
    return bad


def count_bad(source, size, limit):
    x, bad = carray(source, size), 0
    for i in range(size):
        bad += not (abs(_load(x[i])) <= limit)
    return bad


def linear(sources, inputs, size, coefficients, anchor, room, out, limit):
    rows, shares = carray(sources, inputs * size), carray(coefficients, inputs)
    tiles, result = carray(room, 2 * PART), carray(out, size)
    base, total = tiles[:PART], tiles[PART:]
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
    for start in range(0, size, PART):
        n = min(PART, size - start)
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


# -- sums: additions may change their order ----------------------------------------------------------------------------


def pair_sums(first, second, size, room, sums):
    # A running maximum per position of a part: as one number it would keep the loop from using vector instructions.
    largest, out = carray(room, SUM_PART), carray(sums, 8)
    aa = bb = ab = dd = total = 0.0
    changed = flipped = 0
    x_all, y_all = carray(first, size), carray(second, size)
    for i in range(SUM_PART):
        largest[i] = 0.0
    for start in range(0, size, SUM_PART):
        n = min(SUM_PART, size - start)
        a, b = x_all[start : start + n], y_all[start : start + n]
        for i in range(n):
            x, y = np.float64(a[i]), np.float64(b[i])
            d = y - x
            length = abs(d)
            aa += x * x
            bb += y * y
            ab += x * y
            dd += d * d
            total += length
            largest[i] = length if length > largest[i] else largest[i]
            changed += d != 0
            flipped += x * y < 0
    most = out[5]
    for i in range(SUM_PART):
        most = largest[i] if largest[i] > most else most
    out[0] += aa
    out[1] += bb
    out[2] += ab
    out[3] += dd
    out[4] += total
    out[5] = most
    out[6] += changed
    out[7] += flipped
    return 0


def base_sums(first, second, base, size, sums):
    a, b, c, out = carray(first, size), carray(second, size), carray(base, size), carray(sums, 6)
    cc = pp = qq = pq = conflict = common = 0.0
    for i in range(size):
        z = np.float64(c[i])
        p, q = np.float64(a[i]) - z, np.float64(b[i]) - z
        product = p * q
        small = min(abs(p), abs(q))
        cc += z * z
        pp += p * p
        qq += q * q
        pq += product
        common += small
        conflict += small if product < 0 else 0.0
    out[0] += cc
    out[1] += pp
    out[2] += qq
    out[3] += pq
    out[4] += conflict
    out[5] += common
    return 0


def value_sums(values, size, normal, fp16_limit, room, more, sums):
    x, out = carray(values, size), carray(sums, 9)
    total = squares = sizes = 0.0
    zeros = subnormal = beyond = vanishing = 0
    # Extremes per position of a part, as in `pair_sums`.
    lowest, highest = carray(room, SUM_PART), carray(more, SUM_PART)
    for i in range(SUM_PART):
        lowest[i], highest[i] = out[3], out[4]
    for start in range(0, size, SUM_PART):
        n = min(SUM_PART, size - start)
        part = x[start : start + n]
        for i in range(n):
            value = np.float64(part[i])
            length = abs(value)
            total += value
            squares += value * value
            sizes += length
            lowest[i] = value if value < lowest[i] else lowest[i]
            highest[i] = value if value > highest[i] else highest[i]
            zeros += length == 0
            subnormal += length < normal
            beyond += length >= fp16_limit
            vanishing += length <= 2.0**-25
    low, high = out[3], out[4]
    for i in range(SUM_PART):
        low = lowest[i] if lowest[i] < low else low
        high = highest[i] if highest[i] > high else high
    out[0] += total
    out[1] += squares
    out[2] += sizes
    out[3] = low
    out[4] = high
    out[5] += zeros
    out[6] += subnormal - zeros
    out[7] += beyond
    out[8] += vanishing - zeros
    return 0


def gram(values, inputs, size, room, products):
    rows, tile = carray(values, (inputs, size)), carray(room, (inputs + 1, SUM_PART))
    out = carray(products, (inputs, inputs))
    # The spare last row stands in where N is odd.
    for k in range(SUM_PART):
        tile[inputs, k] = 0.0
    for start in range(0, size, SUM_PART):
        n = min(SUM_PART, size - start)
        for i in range(inputs):
            source, row = rows[i][start : start + n], tile[i]
            for k in range(n):
                row[k] = np.float64(source[k])
        for i in range(0, inputs, 2):
            # Two by two: each value that is loaded is used twice.
            a, b = tile[i][:n], tile[i + 1][:n]
            for j in range(i, inputs, 2):
                c, d = tile[j][:n], tile[j + 1][:n]
                ac = ad = bc = bd = 0.0
                for k in range(n):
                    ac += a[k] * c[k]
                    ad += a[k] * d[k]
                    bc += b[k] * c[k]
                    bd += b[k] * d[k]
                out[i, j] += ac
                if j + 1 < inputs:
                    out[i, j + 1] += ad
                if i + 1 < inputs:
                    out[i + 1, j] += bc
                if i + 1 < inputs and j + 1 < inputs:
                    out[i + 1, j + 1] += bd
    for i in range(inputs):
        for j in range(i):
            out[i, j] = out[j, i]
    return 0


# -- counts, products and choices, to the bit ----------------------------------------------------------------------------


def histogram(values, size, room, counted):
    bits, counts = carray(values, size), carray(counted, BINS)
    # Neighbours often fall into one bin: two sets of counters keep one addition from waiting for another.
    other = carray(room, BINS)
    for j in range(BINS):
        other[j] = 0
    even = size - size % 2
    for i in range(0, even, 2):
        counts[bits[i] >> SHIFT] += 1
        other[bits[i + 1] >> SHIFT] += 1
    for i in range(even, size):
        counts[bits[i] >> SHIFT] += 1
    for j in range(BINS):
        counts[j] += other[j]
    return 0


def inner_products(values, inputs, size, room, products):
    sources, out = carray(values, (inputs, size)), carray(products, (inputs, inputs))
    work = carray(room, inputs * TILE + LANES)
    lanes = work[inputs * TILE :]
    for start in range(0, size, TILE):
        n = min(TILE, size - start)
        for i in range(inputs):
            source, row = sources[i][start : start + n], work[i * TILE : i * TILE + TILE]
            for k in range(n):
                row[k] = np.float64(source[k])
            for k in range(n, TILE):
                row[k] = 0.0
        for i in range(inputs):
            a = work[i * TILE : i * TILE + TILE]
            for j in range(i, inputs):
                b = work[j * TILE : j * TILE + TILE]
                for lane in range(LANES):
                    lanes[lane] = 0.0
                for part in range(0, TILE, LANES):
                    x, y = a[part : part + LANES], b[part : part + LANES]
                    for lane in range(LANES):
                        lanes[lane] += x[lane] * y[lane]
                width = LANES
                while width > 1:
                    width //= 2
                    for lane in range(width):
                        lanes[lane] += lanes[width + lane]
                out[i, j] += lanes[0]
    for i in range(inputs):
        for j in range(i):
            out[i, j] = out[j, i]
    return 0


def count_first(values, size, counted):
    bits, counts = carray(values, size), carray(counted, FIRST)
    for i in range(size):
        counts[(bits[i] >> 16) & 0x7FFF] += np.uint32(1)
    return 0


def count_last(values, size, first, counted):
    bits, counts = carray(values, size), carray(counted, LAST)
    for i in range(size):
        if (bits[i] >> 16) & 0x7FFF == first:
            counts[bits[i] & 0xFFFF] += np.uint32(1)
    return 0


def trim(values, size, least, out):
    x, y = carray(values, size), carray(out, size)
    for i in range(size):
        y[i] = x[i] if abs(x[i]) >= least else np.float32(0.0)
    return 0


def agreeing(rows, inputs, size, weights, factors, elect, mean, room, result):
    every, w_all, f_all = carray(rows, (inputs, size)), carray(weights, inputs), carray(factors, inputs)
    work, out = carray(room, 3 * PART), carray(result, size)
    votes, total, present = work[:PART], work[PART : 2 * PART], work[2 * PART :]
    zero, one = np.float32(0.0), np.float32(1.0)
    for start in range(0, size, PART):
        n = min(PART, size - start)
        for k in range(n):
            votes[k] = total[k] = present[k] = zero
        if elect > 0:
            for t in range(inputs):
                row, w = every[t][start : start + n], w_all[t]
                if elect == 1:
                    for k in range(n):
                        votes[k] += w * row[k]
                else:
                    side = one if w > 0 else (-one if w < 0 else zero)
                    for k in range(n):
                        votes[k] += side * (one if row[k] > 0 else (-one if row[k] < 0 else zero))
        for t in range(inputs):
            row, factor, length = every[t][start : start + n], f_all[t], abs(w_all[t])
            side = one if w_all[t] > 0 else -one
            for k in range(n):
                x = row[k]
                # Both have the same sign, and neither is 0; a product of the two could vanish.
                vote = side * votes[k]
                keeps = elect == 0 or ((x > 0) & (vote > 0)) | ((x < 0) & (vote < 0))
                x = x if keeps else zero
                total[k] += factor * x
                present[k] += length if x != 0 else zero
        part = out[start : start + n]
        if mean:
            for k in range(n):
                part[k] = total[k] / present[k] if present[k] != 0 else zero
        else:
            for k in range(n):
                part[k] = total[k]
    return 0


@register_jitable
def _random(place, stream):
    """The first 53 of an element's random bits."""
    x = (place + np.uint64(1)) * np.uint64(STEP) + stream
    x = (x ^ (x >> np.uint64(30))) * np.uint64(MIX_1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(MIX_2)
    return (x ^ (x >> np.uint64(31))) >> np.uint64(11)


def keep_at_random(values, size, stream, start, threshold, out):
    x, y = carray(values, size), carray(out, size)
    for i in range(size):
        y[i] = x[i] if _random(start + np.uint64(i), stream) < threshold else np.float32(0.0)
    return 0


def keep_by_chance(values, chances, size, stream, start, divide, out):
    x, chance, y = carray(values, size), carray(chances, size), carray(out, size)
    for i in range(size):
        kept = np.float64(_random(start + np.uint64(i), stream)) < np.float64(chance[i]) * 2.0**53
        y[i] = (x[i] / chance[i] if divide else x[i]) if kept else np.float32(0.0)
    return 0


def row_ranks(values, rows, row, out, places, room):
    """Each row sorted by its 31 bits of size, eleven at a time, the last first: of equals the first stays first."""
    bits, ranks = carray(values, (rows, row)), carray(out, (rows, row))
    order, counts = carray(places, 2 * row), carray(room, 2048)
    for r in range(rows):
        here, there = 0, row
        for i in range(row):
            order[i] = i
        for shift in (0, 11, 22):
            for b in range(2048):
                counts[b] = 0
            for i in range(row):
                counts[((bits[r, i] & 0x7FFFFFFF) >> shift) & 2047] += 1
            total = 0
            for b in range(2048):
                before = total
                total += counts[b]
                counts[b] = before
            for i in range(row):
                place = order[here + i]
                b = ((bits[r, place] & 0x7FFFFFFF) >> shift) & 2047
                order[there + counts[b]] = place
                counts[b] += 1
            here, there = there, here
        for i in range(row):
            ranks[r, order[here + i]] = np.float32(i) / np.float32(row - 1) if row > 1 else np.float32(0.5)
    return 0


# Additions may change their order; NaN and infinities keep their meaning, so that sums tell of them.
_REORDERED = {"pair_sums", "base_sums", "value_sums", "gram"}
_SUMS = {"reassoc", "contract", "nsz"}


def compile_loop(operation: str, formats: tuple[str, ...]) -> CFunc:
    """The loop of this name for stored elements of these formats, compiled."""
    function: Callable = globals()[operation]
    named = {"x*": formats[0], "y*": formats[-1]} if formats else {}

    def typed(kind: str) -> types.Type:
        if kind in named:
            return types.CPointer(_CARRIERS[named[kind]])
        if kind == "n":
            return types.intp
        number = from_dtype(np.dtype(kind[:2]))
        return types.CPointer(number) if kind[2:] else number

    signature = types.intp(*map(typed, SIGNATURES[operation]))
    return cfunc(signature, error_model="numpy", fastmath=_SUMS if operation in _REORDERED else False)(function)
