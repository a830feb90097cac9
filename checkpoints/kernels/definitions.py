"""What the compiled loops and the reference agree on, and what each loop takes."""

from __future__ import annotations

# Columns that are worked on at a time, and partial sums that an inner product is taken in: part of the result's definition.
TILE, LANES = 1024, 64
# The sizes of fp32 numbers, read as integers, sort as the numbers do: 15 bits tell 32,768 bins, 16 more what is in one.
FIRST, LAST = 1 << 15, 1 << 16
# SplitMix64 (Steele, Lea and Flood 2014): a counter times an odd number, and two rounds of mixing.
STEP, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
# d = b - a. All but the largest size are sums; the last two are counts.
PAIR_TERMS = ("aa", "bb", "ab", "dd", "abs_d", "max_d", "changed", "flipped")
# p = a - c, q = b - c; `common` sums min(|p|, |q|), `conflict` does so where p and q have different signs.
BASE_TERMS = ("cc", "pp", "qq", "pq", "conflict", "common")
# Counts from the fifth on: zeros, subnormal in the stored dtype, too large for fp16, not 0 but 0 in fp16.
VALUE_TERMS = ("sum", "squares", "sizes", "min", "max", "zeros", "subnormal", "beyond_fp16", "vanishing_fp16")
# A histogram bin is a value's top bits as float32: sign, exponent and two bits of mantissa, four bins per octave.
SHIFT = 21
BINS = 1 << (32 - SHIFT)
# Elements that a loop works on at a time, so that what is kept of them stays in the first-level cache.
PART, SUM_PART = 2048, 512

# Read by `loops` as numba's types, by `machine_code` as C's, and checked by `compiled`.
# `n` is a whole number, `f4`, `f8` and `u8` are numbers by numpy's names, and one with a star is an array of them; with a
# plus it is memory for them to work in. `x*` are stored elements of the loop's first format, `y*` those of its last.
SIGNATURES: dict[str, tuple[str, ...]] = {
    name: tuple(takes.split())
    for name, takes in {
        # -- conversion ------------------------------------------
        "decode": "x* f4* n",
        "encode": "f4* x* n f4",
        "count_bad": "x* n f4",
        "linear": "x* n n f4* n f4+ y* f4",
        # -- sums ------------------------------------------------
        "pair_sums": "x* x* n f8+ f8*",
        "base_sums": "x* x* x* n f8*",
        "value_sums": "x* n f8 f8 f8+ f8+ f8*",
        "histogram": "u4* n i8+ i8*",
        "gram": "x* n n f8+ f8*",
        "inner_products": "f4* n n f8+ f8*",
        # -- choice ----------------------------------------------
        "count_first": "u4* n u4*",
        "count_last": "u4* n n u4*",
        "trim": "f4* n f4 f4*",
        "agreeing": "f4* n n f4* f4* n n f4+ f4*",
        "keep_at_random": "f4* n u8 u8 u8 f4*",
        "keep_by_chance": "f4* f4* n u8 u8 n f4*",
        "row_ranks": "u4* n n f4* u4* i8+",
    }.items()
}
