"""Counting, choosing and multiplying: exact, and the same bits however tensors are cut and whichever kernel runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from unetscope.checkpoints.kernels import compiled, reference
from unetscope.merge.dropout import dropped, streams
from unetscope.merge.reductions import Cuts, RankTable, ranked
from unetscope.merge.tensor_slice import TensorSlice

VALUES = arrays.arrays(
    np.float32,
    st.integers(1, 60),
    elements=st.one_of(
        st.floats(-3, 3, width=32),
        st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, 1e-40, 6e-8, 65504.0]).map(np.float32),
    ),
)


def fed(reduction, tiles, length):
    for start in range(0, tiles[0].size, length):
        reduction.add([t[start : start + length] for t in tiles], start)
    return reduction.result()


def run(generator, tiles, length):
    """The value of a generator that yields reductions."""
    try:
        reduction = next(generator)
        while True:
            reduction = generator.send(fed(reduction, tiles, length))
    except StopIteration as end:
        return end.value


@given(VALUES, st.data())
def test_ranks_are_those_of_a_sort(values, data):
    ranks = data.draw(st.lists(st.integers(1, values.size), min_size=1, max_size=3))
    (found,) = run(ranked(1, [ranks]), [values], data.draw(st.integers(1, values.size)))
    ordered = np.sort(np.abs(values))[::-1]
    for rank, element in zip(ranks, found, strict=True):
        assert element.value == ordered[rank - 1]
        assert element.above == np.count_nonzero(ordered > element.value)
        assert element.equal == np.count_nonzero(ordered == element.value)


def test_several_tensors_are_ranked_at_once():
    rng = np.random.default_rng(0)
    tiles = [(rng.standard_normal(10_000) * s).astype(np.float32) for s in (1e-3, 1, 1e3)]
    found = run(ranked(3, [[1, 5_000], [2_000], [10_000]]), tiles, 777)
    for tile, row, ranks in zip(tiles, found, [[1, 5_000], [2_000], [10_000]], strict=True):
        assert [e.value for e in row] == [np.sort(np.abs(tile))[::-1][r - 1] for r in ranks]


@given(VALUES, st.data())
def test_a_cut_is_the_place_of_the_nth_of_equals(values, data):
    value = abs(data.draw(st.sampled_from(list(values))))
    places = np.flatnonzero(np.abs(values) == value)
    n = data.draw(st.integers(0, places.size))
    (cut,) = fed(Cuts([value], [n]), [values], data.draw(st.integers(1, values.size)))
    assert cut == (places[n - 1] if n else -1)


def test_rank_shares_are_the_share_of_smaller_elements():
    values = np.random.default_rng(1).standard_normal(50_000).astype(np.float32)
    (table,) = fed(RankTable(1), [values], 4_096)
    ranks = table[reference.sizes(values) >> np.uint32(15)]
    true = np.argsort(np.argsort(np.abs(values))) / values.size
    # A bin holds sizes within 1/256 of one another.
    assert np.abs(ranks - true).max() < 0.004


# -- kernels -----------------------------------------------------------------------------------------------------------


@given(VALUES, VALUES, st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.floats(0, 1))
def test_both_kernels_give_the_same_bits(x, y, stream, start, density):
    size = min(x.size, y.size)
    rows, sums = np.stack([x[:size], y[:size], x[:size] - y[:size]]), []
    for kernel in (compiled, reference):
        total = np.full((3, 3), 0.1)
        kernel.inner_products(rows, total)
        first, last = np.zeros(1 << 15, np.uint32), np.zeros(1 << 16, np.uint32)
        kernel.count_first(x, first)
        kernel.count_last(x, int(np.flatnonzero(first)[0]), last)
        kept = np.empty_like(x)
        kernel.keep_at_random(x, stream, start, round(density * 2**53), kept)
        sums.append([a.tobytes() for a in (total, first, last, kept)])
    assert sums[0] == sums[1]


@given(
    st.integers(1, 5).flatmap(
        lambda n: st.tuples(
            arrays.arrays(np.float32, (n, 40), elements=st.sampled_from([-2.0, -0.5, -0.0, 0.0, 1e-38, 0.5, 1.5, 2.0])),
            st.lists(st.sampled_from([-1.0, 0.0, 0.25, 1.0, 3.0]), min_size=n, max_size=n),
            st.lists(st.floats(-2, 2, width=32), min_size=n, max_size=n),
        )
    ),
    st.sampled_from([0, 1, 2]),
    st.booleans(),
    st.floats(0, 2, width=32),
)
def test_both_kernels_trim_and_elect_alike_to_the_bit(case, elect, mean, least):
    rows, weights, factors = case[0], np.float32(case[1]), np.float32(case[2])
    found = []
    for kernel in (compiled, reference):
        out, trimmed = np.empty(40, np.float32), np.empty(40, np.float32)
        kernel.agreeing(rows, weights, factors, elect, mean, out)
        kernel.trim(rows[0], np.float32(least), trimmed)
        left = np.stack(kernel.elected(rows, case[1], elect))
        found.append([(a + 0.0).tobytes() for a in (out, trimmed, left)])
    assert found[0] == found[1]


@pytest.mark.parametrize("kernel", [compiled, reference])
def test_inner_products_are_exact_to_double_precision(kernel):
    rows = np.random.default_rng(2).standard_normal((5, 70_001)).astype(np.float32)
    total = np.zeros((5, 5))
    kernel.inner_products(rows, total)
    np.testing.assert_allclose(total, rows.astype(np.float64) @ rows.T.astype(np.float64), rtol=0, atol=1e-9)
    assert (total == total.T).all()


def test_random_bits_are_those_of_splitmix64():
    """The first outputs of the generator's published C code for the seed 1234567."""
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert reference.random_bits(1234567, 0, 5).tolist() == expected
    assert reference.random_bits(1234567, 2, 3).tolist() == expected[2:]


# -- chance ------------------------------------------------------------------------------------------------------------


def tensor_slice(key="k", names=("m",), n=1000):
    return TensorSlice(key, (n,), tuple(names))


def test_masks_depend_on_seed_name_key_and_place_alone():
    x = np.ones(1000, np.float32)

    def mask(seed, name, key, others=()):
        return (dropped([x], 0, streams(tensor_slice(key, [name, *others]), seed)[:1], 0.5)[0] != 0).tobytes()

    assert mask(0, "a", "k") == mask(0, "a", "k", ["b"])
    assert streams(tensor_slice(names="ab"), 0)[::-1] == streams(tensor_slice(names="ba"), 0)
    assert len({mask(0, "a", "k"), mask(1, "a", "k"), mask(0, "b", "k"), mask(0, "a", "l")}) == 4


@given(st.integers(1, 1000), st.floats(0, 1))
def test_masks_do_not_depend_on_how_a_tensor_is_cut(length, density):
    x, stream = np.ones(1000, np.float32), streams(tensor_slice(), 3)
    whole = dropped([x], 0, stream, density)[0]
    parts = [dropped([x[s : s + length]], s, stream, density)[0] for s in range(0, 1000, length)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_share_that_is_kept_is_the_density(density):
    n, names = 200_000, ["a", "b", "c"]
    masks = [m != 0 for m in dropped([np.ones(n, np.float32)] * 3, 0, streams(tensor_slice(names=names), 7), density)]
    sigma = np.sqrt(density * (1 - density) / n)
    assert all(abs(m.mean() - density) <= 5 * sigma for m in masks)
    # Masks of different models are independent: they agree as often as chance has it.
    both = density**2
    assert abs((masks[0] & masks[1]).mean() - both) <= 5 * np.sqrt(both * (1 - both) / n)


def test_neighbours_are_kept_independently():
    n = 400_000
    mask = dropped([np.ones(n, np.float32)], 0, streams(tensor_slice(), 11), 0.5)[0] - 0.5
    for lag in (1, 2, 3, 64, 1024):
        assert abs((mask[:-lag] * mask[lag:]).mean() * 4) < 5 / np.sqrt(n)


@pytest.mark.parametrize("divide", [False, True])
def test_elements_are_kept_with_chances_of_their_own(divide):
    chances = np.linspace(0, 1, 300_001, dtype=np.float32)
    out = np.empty_like(chances)
    compiled.keep_by_chance(np.full_like(chances, 2), chances, streams(tensor_slice(), 5)[0], 0, divide, out)
    kept = out != 0
    assert not kept[0] and kept[-1]
    np.testing.assert_allclose(out[kept], 2 / chances[kept] if divide else 2, rtol=1e-6)
    tenths = kept[:300_000].reshape(10, -1).mean(axis=1)
    assert np.abs(tenths - (np.arange(10) + 0.5) / 10).max() < 5 * np.sqrt(0.25 / 30_000)


@given(VALUES, st.data())
def test_both_kernels_rank_rows_and_keep_by_chance_alike(values, data):
    row = data.draw(st.sampled_from([n for n in range(1, values.size + 1) if values.size % n == 0]))
    found = []
    for kernel in (compiled, reference):
        ranks, kept = np.empty_like(values), np.empty_like(values)
        kernel.row_ranks(values, row, ranks)
        kernel.keep_by_chance(values, ranks, 7, 3, True, kept)
        found.append((ranks.tobytes(), (kept + 0.0).tobytes()))
    assert found[0] == found[1]
    order = np.argsort(np.abs(values).reshape(-1, row), axis=1, kind="stable")
    places = np.argsort(order, axis=1)
    expected = places / (row - 1) if row > 1 else np.full(places.shape, 0.5)
    np.testing.assert_allclose(ranks.reshape(-1, row), expected, rtol=1e-6)
