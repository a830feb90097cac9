"""The compiled sums: one walk over values that are still in cache. Inputs are 1-D, float32 or float64.

Sums run in as many lanes as the processor has (reassociation is allowed), so their last digits may differ from machine to
machine; on one machine they are always the same. `kernels_numpy` says the same in numpy.
"""

from __future__ import annotations

import numpy as np

from ..checkpoints.kernel_cache import kept
from .kernels_numpy import BINS, SHIFT

_TILE = 512
# Additions may change their order; NaN and infinities keep their meaning, so that sums tell of them.
_SUMS = {"reassoc", "contract", "nsz"}


@kept(nogil=True, fastmath=_SUMS, error_model="numpy")
def pair_sums(a, b, out):
    """Add to `out` what `PAIR_TERMS` names."""
    aa = bb = ab = dd = total = 0.0
    changed = flipped = 0
    # A running maximum per position of a tile: as one number it would keep the loop from using vector instructions.
    largest = np.zeros(_TILE)
    for start in range(0, a.size, _TILE):
        n = min(_TILE, a.size - start)
        first, second = a[start : start + n], b[start : start + n]
        for i in range(n):
            x, y = np.float64(first[i]), np.float64(second[i])
            d = y - x
            size = abs(d)
            aa += x * x
            bb += y * y
            ab += x * y
            dd += d * d
            total += size
            largest[i] = size if size > largest[i] else largest[i]
            changed += d != 0
            flipped += x * y < 0
    out[0] += aa
    out[1] += bb
    out[2] += ab
    out[3] += dd
    out[4] += total
    out[5] = max(out[5], largest.max())
    out[6] += changed
    out[7] += flipped


@kept(nogil=True, fastmath=_SUMS, error_model="numpy")
def base_sums(a, b, c, out):
    """Add to `out` what `BASE_TERMS` names."""
    cc = pp = qq = pq = conflict = common = 0.0
    for i in range(a.size):
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


@kept(nogil=True, fastmath=_SUMS, error_model="numpy")
def value_sums(x, normal, fp16_limit, out):
    """Add to `out` what `VALUE_TERMS` names."""
    total = squares = sizes = 0.0
    zeros = subnormal = beyond = vanishing = 0
    # Extremes per position of a tile, as in `pair_sums`.
    lowest, highest = np.full(_TILE, out[3]), np.full(_TILE, out[4])
    for start in range(0, x.size, _TILE):
        n = min(_TILE, x.size - start)
        part = x[start : start + n]
        for i in range(n):
            value = np.float64(part[i])
            size = abs(value)
            total += value
            squares += value * value
            sizes += size
            lowest[i] = value if value < lowest[i] else lowest[i]
            highest[i] = value if value > highest[i] else highest[i]
            zeros += size == 0
            subnormal += size < normal
            beyond += size >= fp16_limit
            vanishing += size <= 2.0**-25
    out[0] += total
    out[1] += squares
    out[2] += sizes
    out[3] = lowest.min()
    out[4] = highest.max()
    out[5] += zeros
    out[6] += subnormal - zeros
    out[7] += beyond
    out[8] += vanishing - zeros


@kept(nogil=True)
def histogram(x, counts):
    """Count float32 values by sign, exponent and the first bits of the mantissa."""
    bits = x.view(np.uint32)
    # Neighbours often fall into one bin: two sets of counters keep one addition from waiting for another.
    other = np.zeros(BINS, np.int64)
    even = bits.size - bits.size % 2
    for i in range(0, even, 2):
        counts[bits[i] >> SHIFT] += 1
        other[bits[i + 1] >> SHIFT] += 1
    for i in range(even, bits.size):
        counts[bits[i] >> SHIFT] += 1
    for j in range(BINS):
        counts[j] += other[j]


@kept(nogil=True, fastmath=_SUMS, error_model="numpy")
def gram(values, size, out):
    """Add to `out` (N, N) the inner products of the first `size` columns of `values` (N, L)."""
    count = values.shape[0]
    tile = np.zeros((count + 1, _TILE))
    for start in range(0, size, _TILE):
        n = min(_TILE, size - start)
        for i in range(count):
            source, row = values[i][start : start + n], tile[i]
            for k in range(n):
                row[k] = np.float64(source[k])
        for i in range(0, count, 2):
            # Two by two: each value that is loaded is used twice. The spare last row stands in when N is odd.
            a, b = tile[i][:n], tile[i + 1][:n]
            for j in range(i, count, 2):
                c, d = tile[j][:n], tile[j + 1][:n]
                ac = ad = bc = bd = 0.0
                for k in range(n):
                    ac += a[k] * c[k]
                    ad += a[k] * d[k]
                    bc += b[k] * c[k]
                    bd += b[k] * d[k]
                out[i, j] += ac
                if j + 1 < count:
                    out[i, j + 1] += ad
                if i + 1 < count:
                    out[i + 1, j] += bc
                if i + 1 < count and j + 1 < count:
                    out[i + 1, j + 1] += bd
    for i in range(count):
        for j in range(i):
            out[i, j] = out[j, i]
