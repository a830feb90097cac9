"""Methods on directions and centres, against their formulas in double precision, sd-mecha and mergekit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from step_results import result

from unetscope.merge.weiszfeld import median_shares

sd_mecha = pytest.importorskip("sd_mecha")
pytest.importorskip("mergekit")
from mergekit_methods import mergekit  # noqa: E402

SHAPE = (37, 91)


def tensors(count, seed=0, near=1.0):
    """Random tensors; the smaller `near` is, the more alike."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal(SHAPE)
    return [(base + near * rng.standard_normal(SHAPE) * (1 + i / 3)).astype(np.float32) for i in range(count)]


def close(got, expected, tolerance=3e-6):
    expected = np.asarray(expected, np.float64)
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


def wide(arrays):
    return [a.astype(np.float64) for a in arrays]


def slerp(a, b, t, norms):
    size_a, size_b = np.linalg.norm(a), np.linalg.norm(b)
    w = np.arccos(np.clip(np.sum(a * b) / (size_a * size_b), -1, 1))
    from_a, from_b = np.sin((1 - t) * w) / np.sin(w), np.sin(t * w) / np.sin(w)
    if norms == "slerp":
        return from_a * a + from_b * b
    return (from_a * a / size_a + from_b * b / size_b) * ((1 - t) * size_a + t * size_b)


@pytest.mark.parametrize("norms", ["lerp", "slerp"])
@pytest.mark.parametrize("near", [1.0, 0.01])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 1.5])
def test_slerp_turns_from_a_to_b(norms, near, t):
    a, b = tensors(2, near=near)
    close(result("slerp", [a, b], alpha=t, norms=norms), slerp(*wide([a, b]), t, norms))


def test_slerp_is_that_of_sd_mecha_and_with_norms_of_its_own_that_of_mergekit():
    a, b = tensors(2)
    theirs = sd_mecha.slerp.__wrapped__(torch.tensor(a), torch.tensor(b), alpha=0.3)
    close(result("slerp", [a, b], alpha=0.3), theirs.numpy())
    theirs = mergekit("slerp", [a, b], base=True, t=0.3)
    close(result("slerp", [a, b], alpha=0.3, norms="slerp"), theirs)


@pytest.mark.parametrize("norms", ["lerp", "slerp"])
def test_where_there_is_no_plane_slerp_is_a_weighted_sum(norms):
    (a,) = tensors(1)
    for b in (a, 2 * a, -a, np.zeros_like(a)):
        expected = 0.75 * a.astype(np.float64) + 0.25 * b
        assert np.abs(result("slerp", [a, b], alpha=0.25, norms=norms) - expected).max() < 1e-6
    assert (result("slerp", [a, a], alpha=0.3, norms=norms) == a).all()


def test_nuslerp_turns_what_was_learnt_as_mergekit_does():
    base, a, b = tensors(3, near=0.1)
    theirs = mergekit("nuslerp", [base, a, b], base=True, weight=[0.7, 0.3])
    close(result("nuslerp", [base, a, b], alpha=0.3), theirs)
    close(result("nuslerp", [base, a, base], alpha=0.3), base + 0.7 * (a.astype(np.float64) - base))


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 1.0, 2.0)])
def test_multislerp_is_mergekits(weights):
    given = tensors(3)
    close(result("multislerp", given, weights=weights), mergekit("multislerp", given, weight=list(weights)))


def test_karcher_mean_is_mergekits_when_that_has_settled():
    given = tensors(4)
    close(result("karcher_mean", given), mergekit("karcher", given, max_iter=100, tol=1e-10))


def test_a_karcher_mean_has_no_direction_left_to_go():
    given, weights = tensors(3), np.array([0.2, 0.5, 0.3])
    out = result("karcher_mean", given, weights=tuple(weights)).astype(np.float64)
    mean, pull = out / np.linalg.norm(out), 0.0
    for w, x in zip(weights, wide(given), strict=True):
        unit = x / np.linalg.norm(x)
        angle = np.arccos(np.sum(unit * mean))
        pull = pull + w * angle / np.sin(angle) * (unit - np.cos(angle) * mean)
    assert np.linalg.norm(pull) < 1e-5
    assert np.linalg.norm(out) == pytest.approx(weights @ [np.linalg.norm(x) for x in given], rel=1e-6)


@pytest.mark.parametrize("name", ["multislerp", "karcher_mean"])
def test_means_of_directions_that_cancel_out_are_weighted_means(name):
    (a,) = tensors(1)
    assert np.abs(result(name, [a, -a])).max() < 1e-6
    close(result(name, [a, np.zeros_like(a)]), a / 2)
    assert (result(name, [a, a, a]) == a).all()


@pytest.mark.parametrize("name", ["multislerp", "karcher_mean"])
def test_a_tensor_opposite_to_the_mean_counts_in_its_length_alone(name):
    (a,) = tensors(1)
    close(result(name, [a, -2 * a, 3 * a]), 2 * a.astype(np.float64))
    one = [np.full(1, x, np.float32) for x in (1, -2, 3)]
    close(result(name, one), [2.0])


def test_perpendicular_parts():
    a, b, c = tensors(3)
    x, y, z = wide([a, b, c])
    close(result("perpendicular", [a, b]), y - np.sum(x * y) / np.sum(x * x) * x)
    theirs = sd_mecha.perpendicular_component.__wrapped__(torch.tensor(a), torch.tensor(b))
    close(result("perpendicular", [a, b]), theirs.numpy())
    p, q = x - z, y - z
    close(result("add_perpendicular", [a, b, c], alpha=0.5), x + 0.5 * (q - np.sum(p * q) / np.sum(p * p) * p))
    close(result("add_perpendicular", [c, b, c]), y)


# -- centres -----------------------------------------------------------------------------------------------------------


def test_model_stock_is_the_papers_and_mergekits():
    base, *models = tensors(4, near=0.1)
    deltas = [m.astype(np.float64) - base for m in models]
    cosines = [np.sum(p * q) / np.linalg.norm(p) / np.linalg.norm(q) for i, p in enumerate(deltas) for q in deltas[:i]]
    c = np.mean(cosines)
    expected = base + 3 * c / (1 + 2 * c) * np.mean(deltas, axis=0)
    close(result("model_stock", [base, *models]), expected)
    close(result("model_stock", [base, *models]), mergekit("model_stock", [base, *models], base=True))
    # Of two models it is the ratio of the paper, 2 cos / (1 + cos).
    c = np.sum(deltas[0] * deltas[1]) / np.linalg.norm(deltas[0]) / np.linalg.norm(deltas[1])
    close(result("model_stock", [base, *models[:2]]), base + 2 * c / (1 + c) * (deltas[0] + deltas[1]) / 2)


def test_stock_of_models_that_disagree_is_the_base_and_of_one_that_model():
    base, a = tensors(2)
    assert np.abs(result("model_stock", [base, a, 2 * base - a]) - base).max() < 1e-6
    close(result("model_stock", [base, a]), a)


def weiszfeld(points, weights, steps=3000):
    found = np.average(points, axis=0, weights=weights)
    for _ in range(steps):
        pull = weights / np.maximum(np.linalg.norm((points - found).reshape(len(points), -1), axis=1), 1e-15)
        found = np.tensordot(pull, points, 1) / pull.sum()
    return found


@pytest.mark.parametrize("count", [3, 4, 7])
@pytest.mark.parametrize("near", [1.0, 1e-3])
def test_the_geometric_median_is_where_weiszfeld_settles(count, near):
    given = tensors(count, near=near)
    expected = weiszfeld(np.stack(wide(given)), np.ones(count))
    apart = np.abs(np.stack(wide(given)) - expected).max()
    assert np.abs(result("geometric_median", given) - expected).max() < 1e-5 * apart + 2e-7 * np.abs(expected).max()


def test_the_geometric_median_is_sd_mechas():
    given = tensors(5)
    theirs = sd_mecha.geometric_median.__wrapped__(*(torch.tensor(x, dtype=torch.float64) for x in given), maxiter=500)
    close(result("geometric_median", given), theirs.numpy())


def test_a_median_resists_what_a_mean_does_not():
    a, *_ = tensors(1)
    crowd = [a + np.float32(0.001) * x for x in tensors(4, seed=9)]
    odd = a + 100 * tensors(1, seed=5)[0]
    assert np.abs(result("geometric_median", [*crowd, odd]) - a).max() < 0.01 < np.abs(odd - a).max() / 5


def test_a_majority_in_one_place_is_the_median():
    a, b, c = tensors(3)
    assert np.abs(result("geometric_median", [a, b, a, c, a]) - a).max() < 1e-6
    assert np.abs(result("geometric_median", [a, b, c], weights=(3.0, 1.0, 1.0)) - a).max() < 1e-6
    assert (result("geometric_median", [a, a, a]) == a).all()


@given(
    st.integers(2, 6).flatmap(
        lambda n: st.tuples(
            st.lists(st.lists(st.floats(-10, 10), min_size=3, max_size=3), min_size=n, max_size=n),
            st.lists(st.floats(0.01, 5), min_size=n, max_size=n),
        )
    )
)
def test_no_point_near_the_median_is_better(case):
    points, weights = np.array(case[0]), np.array(case[1])
    shares = median_shares((points - points[0]) @ (points - points[0]).T, weights)
    assert abs(shares.sum() - 1) < 1e-9 and (shares > -1e-9).all()
    median = shares @ points

    def cost(m):
        return weights @ np.linalg.norm(points - m, axis=1)

    scale = np.abs(points - points[0]).max()
    rng = np.random.default_rng(0)
    others = [*points, *(median + scale * 0.05 * rng.standard_normal((50, 3)))]
    assert cost(median) <= min(cost(m) for m in others) + (2e-4 * scale + 1e-12) * weights.sum()
