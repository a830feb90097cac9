"""The least squares under `trace`, against numpy's, and the spacing of numbers, against torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unetscope.analysis.collinearity import explain, find_relation
from unetscope.analysis.regression import Sums, fit, free_fit, plain_fit
from unetscope.analysis.rounding import allowance, bounds, denominator, measure, spacing
from unetscope.checkpoints.dtypes import DTYPES, F16

STORED = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F8_E4M3": torch.float8_e4m3fn}
N = 40_000


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
@given(value=st.floats(-60000, 60000, width=32))
def test_spacing_is_the_step_to_the_next_number_of_the_dtype(dtype, value):
    stored = torch.tensor(value).to(STORED[dtype])
    after = torch.nextafter(stored.abs(), torch.tensor(torch.inf, dtype=STORED[dtype]))
    expected = float(after.double() - stored.abs().double())
    found = spacing(np.array([float(stored)], np.float32), DTYPES[dtype])[0]
    assert found == expected or (expected < 2.0**-133 and found == 2.0**-133 and dtype == "BF16")


def test_spacing_of_fp8_is_the_step_between_its_codes():
    codes = torch.arange(0, 0x7E, dtype=torch.uint8).view(STORED["F8_E4M3"]).float().numpy()
    np.testing.assert_array_equal(spacing(codes[:-1], DTYPES["F8_E4M3"]), np.diff(codes))


def test_elements_that_nearly_cancel_are_measured_by_their_terms():
    length, step = measure(np.array([1e-6, 1.0], np.float32), np.array([1.0, 1.0], np.float32), F16)
    assert step.tolist() == [2.0**-24, 2.0**-10] and length.tolist() == [2.0**-12, 2.0**-10]


def lengths_of(y: np.ndarray, xs: np.ndarray) -> np.ndarray:
    largest = np.abs(np.vstack([xs, y[None]])).max(axis=0)
    return measure(y.astype(np.float32), largest.astype(np.float32), F16)[0].astype(float)


def sums_of(y: np.ndarray, xs: np.ndarray, lengths: np.ndarray) -> Sums:
    ratio = spacing(y.astype(np.float32), F16) / lengths
    expected = float(ratio @ ratio)
    rows = np.vstack([xs - y, y[None]]) / lengths
    plain = (xs - y) @ (xs - y).T
    equal = (xs == y).sum(axis=1).astype(float)
    return Sums(rows @ rows.T, expected, y.size, np.full(len(xs), expected), equal, y.size, plain)


@pytest.fixture
def merged():
    """Four models, a merge of them rounded to fp16, and its spacings."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal(N) * 0.1
    xs = (base + 0.01 * rng.standard_normal((4, N))).astype(np.float16).astype(float)
    y = (np.array([0.1, 0.2, 0.3, 0.4]) @ xs).astype(np.float16).astype(float)
    return y, xs, lengths_of(y, xs)


def test_shares_and_errors_are_those_of_numpys_weighted_least_squares(merged):
    y, xs, lengths = merged
    found = fit(sums_of(y, xs, lengths), range(4))
    # The last share is one minus the others.
    left, right = ((xs[:3] - xs[3]) / lengths).T, (y - xs[3]) / lengths
    solution, squares, *_ = np.linalg.lstsq(left, right, rcond=None)
    np.testing.assert_allclose(found.shares, [*solution, 1 - solution.sum()], atol=1e-9)
    assert found.squares == pytest.approx(squares[0], rel=1e-7)
    ratio = spacing(y.astype(np.float32), F16) / lengths
    rho = 12 * squares[0] / (N - 3) * N / np.sum(ratio.astype(float) ** 2)
    covariance = np.linalg.inv(left.T @ left) * max(rho, 1) / 12
    np.testing.assert_allclose(found.random[:3], np.sqrt(np.diag(covariance)), rtol=1e-6)
    assert found.rho == pytest.approx(1, abs=0.03)


def test_the_plain_fit_counts_all_elements_alike(merged):
    y, xs, lengths = merged
    found, missing = plain_fit(sums_of(y, xs, lengths), [0, 1, 2])
    solution, squares, *_ = np.linalg.lstsq((xs[:2] - xs[2]).T, y - xs[2], rcond=None)
    np.testing.assert_allclose(found.shares, [*solution, 1 - solution.sum()], atol=1e-9)
    nearest = min(np.sum((y - x) ** 2) for x in xs[:3])
    assert missing == pytest.approx(np.sqrt(squares[0] / nearest))


def test_a_free_fit_finds_the_sum_of_scaled_shares(merged):
    _, xs, lengths = merged
    total, rho = free_fit(sums_of(0.9 * xs[0] + 0.07 * xs[1], xs, lengths), range(4))
    assert total == pytest.approx(0.97, abs=1e-6) and rho < 1e-3


def test_one_candidate_is_all_of_it(merged):
    y, xs, lengths = merged
    found = fit(sums_of(y, xs, lengths), [2])
    assert found.shares.tolist() == [1.0] and found.errors.tolist() == [0.0]


def test_a_merge_among_the_candidates_is_found_and_nothing_else(merged):
    y, xs, lengths = merged
    third = (0.25 * xs[0] + 0.75 * xs[1]).astype(np.float16).astype(float)
    sums = sums_of(y, np.vstack([xs, third]), lengths)
    relation = find_relation(sums, range(5))
    assert set(relation.members) == {0, 1, 4}
    assert find_relation(sums, range(4)) is None
    assert not explain(sums, range(4), "F16").relations


def test_the_file_that_was_used_wins_over_its_ingredients(merged):
    _, xs, _ = merged
    third = (0.25 * xs[0] + 0.75 * xs[1]).astype(np.float16).astype(float)
    y = (0.6 * third + 0.4 * xs[2]).astype(np.float16).astype(float)
    every = np.vstack([xs, third])
    found = explain(sums_of(y, every, lengths_of(y, every)), range(5), "F16")
    assert not found.ambiguous
    shares = dict(zip(found.fit.indices, found.fit.shares, strict=True))
    assert shares[4] == pytest.approx(0.6, abs=0.01) and shares[2] == pytest.approx(0.4, abs=1e-3)


@pytest.mark.parametrize(
    ("shares", "q"),
    [([1.0], 1), ([0.5, 0.5], 2), ([1 / 3, 2 / 3], 3), ([0.25, 0.5, 0.25], 4), ([0.3, 0.7], 10), ([0.37, 0.63], 0)],
)
def test_simple_fractions_have_their_denominator(shares, q):
    assert denominator(np.array(shares), np.full(len(shares), 1e-6)) == q


@pytest.mark.parametrize("q", [2, 3, 4, 5, 7])
def test_the_bounds_of_rho_follow_what_fractions_leave(q):
    # Sums of whole numbers with shares 1/q and (q-1)/q, rounded to whole numbers.
    rng = np.random.default_rng(q)
    steps = rng.integers(-10_000, 10_000, (2, N))
    exact = steps[0] / q + steps[1] * (q - 1) / q
    rho = 12 * np.mean((exact - np.rint(exact)) ** 2)
    low, high = bounds(np.array([1 / q, 1 - 1 / q]), np.full(2, 1e-7), "F16", N)
    assert low < rho < high
    assert bounds(np.array([0.37, 0.63]), np.full(2, 1e-7), "F16", N)[1] == pytest.approx(allowance("F16"), abs=0.02)
