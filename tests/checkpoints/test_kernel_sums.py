"""The compiled sums, the sums in numpy, and sums written out in the test."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unetscope.checkpoints.kernels import compiled, reference
from unetscope.checkpoints.kernels.definitions import BASE_TERMS, BINS, PAIR_TERMS, VALUE_TERMS

BOTH = pytest.mark.parametrize("kernels", [compiled, reference], ids=["numba", "numpy"])
SIZES = [1, 2, 511, 512, 513, 5000]


def values(seed: int, size: int, dtype=np.float32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = rng.standard_normal(size) * 10.0 ** rng.integers(-6, 3, size)
    out[rng.random(size) < 0.1] = 0
    return out.astype(dtype)


@BOTH
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_of_a_pair_are_what_they_are_called(kernels, size, dtype):
    a, b = values(1, size, dtype), values(2, size, dtype)
    b[::3] = a[::3]
    out = np.zeros(len(PAIR_TERMS))
    kernels.pair_sums(a, b, out)
    x, y = a.astype(np.float64), b.astype(np.float64)
    d = y - x
    expected = {
        "aa": (x**2).sum(),
        "bb": (y**2).sum(),
        "ab": (x * y).sum(),
        "dd": (d**2).sum(),
        "abs_d": abs(d).sum(),
        "max_d": abs(d).max(),
        "changed": (d != 0).sum(),
        "flipped": (x * y < 0).sum(),
    }
    # A sum of mixed signs is as exact as its largest part.
    exact = {"ab": abs(x * y).sum()}
    for name, got in zip(PAIR_TERMS, out, strict=True):
        assert got == pytest.approx(expected[name], rel=1e-12, abs=1e-13 * exact.get(name, 0)), name


@BOTH
@pytest.mark.parametrize("size", SIZES)
def test_sums_with_a_base_are_what_they_are_called(kernels, size):
    a, b, c = (values(seed, size) for seed in (1, 2, 3))
    out = np.zeros(len(BASE_TERMS))
    kernels.base_sums(a, b, c, out)
    x, y, z = (v.astype(np.float64) for v in (a, b, c))
    p, q = x - z, y - z
    weight = np.minimum(abs(p), abs(q))
    expected = [(z**2).sum(), (p**2).sum(), (q**2).sum(), (p * q).sum(), weight[p * q < 0].sum(), weight.sum()]
    assert out == pytest.approx(expected, rel=1e-11)


@BOTH
@pytest.mark.parametrize("size", SIZES)
def test_sums_of_one_tensor_are_what_they_are_called(kernels, size):
    x = values(4, size)
    x[: size // 3] *= 1e5
    x[size // 2 :] *= 1e-6
    out = np.zeros(len(VALUE_TERMS))
    out[3:5] = np.inf, -np.inf
    kernels.value_sums(x, 2.0**-14, 65520.0, out)
    v = x.astype(np.float64)
    in_fp16 = x.astype(np.float64).astype(np.float32)
    with np.errstate(over="ignore"):
        half = in_fp16.astype(np.float16)
    expected = [
        *(v.sum(), (v**2).sum(), abs(v).sum(), v.min(), v.max(), (v == 0).sum()),
        ((v != 0) & (abs(v) < 2.0**-14)).sum(),
        np.isinf(half).sum(),
        ((half == 0) & (v != 0)).sum(),
    ]
    assert out == pytest.approx(expected, rel=1e-12, abs=1e-13 * abs(v).sum())


@BOTH
def test_a_histogram_counts_every_value_once(kernels):
    x = values(5, 5001)
    counts = np.zeros(BINS, np.int64)
    kernels.histogram(x, counts)
    assert counts.sum() == x.size
    # Bins begin at powers of two and their quarters: 1.0 and 1.2 share one, 1.3 has another, -1.0 a third.
    few = np.zeros(BINS, np.int64)
    kernels.histogram(np.array([1.0, 1.2, 1.3, -1.0], np.float32), few)
    assert sorted(few[few > 0]) == [1, 1, 2]


@BOTH
@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 9), size=st.integers(1, 1500), seed=st.integers(0, 99))
def test_a_gram_matrix_holds_all_inner_products(kernels, count, size, seed):
    x = np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)
    wider = np.concatenate([x, np.full((count, 3), np.nan, np.float32)], axis=1)
    out = np.ones((count, count))
    kernels.gram(wider, size, out)
    wide = x.astype(np.float64)
    expected = np.array([[np.dot(p, q) for q in wide] for p in wide])
    # Where `out` is given with numbers, they are added to.
    assert out - 1 == pytest.approx(expected, rel=1e-11, abs=1e-10)
    assert (out == out.T).all()
