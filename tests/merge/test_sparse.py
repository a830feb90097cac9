"""Methods that drop parts of differences, against their formulas in double precision, mergekit, sd-mecha and statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from step_results import result

sd_mecha = pytest.importorskip("sd_mecha")
pytest.importorskip("mergekit")
from mergekit_methods import mergekit  # noqa: E402

SHAPE = (40, 75)


def models(count=3, seed=0, lattice=False):
    """A base and fine-tunes of it; on a lattice their changes are few different numbers, as in fp16 files."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal(SHAPE).astype(np.float32)
    out = [base]
    for _ in range(count):
        change = rng.standard_normal(SHAPE) * 0.1
        change = np.round(change * 16) / 16 if lattice else change
        out.append((base + change).astype(np.float32))
    return [np.round(m * 64) / 64 if lattice else m for m in out]


def deltas(given):
    return [m.astype(np.float32) - given[0].astype(np.float32) for m in given[1:]]


def close(got, expected, tolerance=1e-5):
    assert np.abs(got.astype(np.float64) - expected).max() <= tolerance


def trimmed(delta, density):
    """Everything as large as the int(density n)-th largest element."""
    sizes = np.abs(delta)
    return np.where(sizes >= np.sort(sizes, axis=None)[::-1][int(density * delta.size + 1e-6) - 1], delta, 0)


def merged_by_sign(kept, weights=None, count=False):
    """Elect the sign of the (weighted) sum, average what agrees: section 3 of Yadav et al. 2023."""
    kept = [k.astype(np.float64) for k in kept]
    weights = weights or [1.0] * len(kept)
    votes = sum(w * (np.sign(k) if count else k) for w, k in zip(weights, kept, strict=True))
    if count:
        votes = sum(np.sign(w * k) for w, k in zip(weights, kept, strict=True))
    agrees = [(np.sign(w * k) == np.sign(votes)) & (k != 0) & (votes != 0) for w, k in zip(weights, kept, strict=True)]
    total = sum(w * k * a for w, k, a in zip(weights, kept, agrees, strict=True))
    share = sum(abs(w) * a for w, a in zip(weights, agrees, strict=True))
    return np.divide(total, share, out=np.zeros_like(total), where=share != 0)


# -- TIES --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elect", ["sum", "count"])
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 2.0, -1.0)])
def test_ties_trims_elects_and_averages(elect, density, weights):
    given = models()
    kept = [trimmed(d, density) for d in deltas(given)]
    expected = given[0] + 0.8 * merged_by_sign(kept, weights, elect == "count")
    close(result("ties", given, density=density, elect=elect, weights=weights, alpha=0.8), expected)


@pytest.mark.parametrize("density", [0.2, 0.75])
def test_ties_that_counts_elements_is_mergekits(density):
    given = models()
    theirs = mergekit("ties", given, base=True, weight=1.0, density=density)
    close(result("ties", given, density=density, trim="count"), theirs)
    theirs = mergekit("ties", given, base=True, weight=[0.5, 1.0, 2.0], density=density)
    close(result("ties", given, density=density, trim="count", weights=(0.5, 1.0, 2.0)), theirs)


@pytest.mark.parametrize("vote_sgn, elect", [(True, "sum"), (False, "count")])
def test_ties_is_sd_mechas(vote_sgn, elect):
    given = models()
    tensors = [torch.tensor(d) for d in deltas(given)]
    # Their k of the smallest is int((1 - k) n), kept itself.
    n = given[0].size
    density = (n - int(0.7 * n) + 1) / n
    theirs = sd_mecha.ties_sum.__wrapped__(*tensors, k=0.3, vote_sgn=vote_sgn).numpy()
    close(result("ties", given, density=density, elect=elect), given[0] + theirs)


def test_ties_soup_takes_the_sign_of_most_models_and_all_elements():
    given = models(5)
    tensors = [torch.tensor(d) for d in deltas(given)]
    theirs = sd_mecha.ties_sum.__wrapped__(*tensors, k=1.0, vote_sgn=False).numpy()
    close(result("ties", given, density=1.0, elect="count"), given[0] + theirs)


@pytest.mark.parametrize("trim", ["value", "count"])
def test_of_equal_elements_all_are_kept_or_the_first(trim):
    given = models(lattice=True)
    out = result("ties", given[:2], density=0.3, trim=trim, combine="sum") - given[0]
    (delta,) = deltas(given[:2])
    kept = np.count_nonzero(out)
    if trim == "value":
        assert kept > int(0.3 * delta.size) and (out == trimmed(delta, 0.3)).all()
    else:
        order = np.argsort(-np.abs(delta.reshape(-1)), kind="stable")[: int(0.3 * delta.size)]
        expected = np.zeros(delta.size, np.float32)
        expected[order] = delta.reshape(-1)[order]
        assert kept == int(0.3 * delta.size) and (out.reshape(-1) == expected).all()


def test_where_neither_sign_wins_the_base_stays():
    base = np.zeros((4, 8), np.float32)
    up, down = base + 1, base - 1
    assert not result("ties", [base, up, down], density=1.0).any()
    assert (result("ties", [base, up, down, 3 * down], density=1.0) == -2).all()
    assert not result("ties", [base, up, 3 * down], density=1.0, elect="count").any()


def test_density_0_is_the_base_and_alpha_0_too():
    given = models()
    assert (result("ties", given, density=0.0) == given[0]).all()
    assert (result("ties", given, alpha=0.0) == given[0]).all()


# -- Breadcrumbs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("density, gamma", [(0.5, 0.1), (0.15, 0.01), (0.95, 0.2), (1.0, 0.05), (0.3, 0.0)])
def test_breadcrumbs_drop_the_largest_and_the_smallest_as_mergekit_does(density, gamma):
    given = models()
    theirs = mergekit("breadcrumbs", given, base=True, weight=0.7, density=density, gamma=gamma, normalize=False)
    close(result("breadcrumbs", given, density=density, gamma=gamma, weights=(0.7,) * 3), theirs)


def test_breadcrumbs_with_elected_signs_are_mergekits():
    given = models()
    theirs = mergekit("breadcrumbs_ties", given, base=True, weight=1.0, density=0.4, gamma=0.05, normalize=True)
    close(result("breadcrumbs", given, density=0.4, gamma=0.05, elect="sum", combine="mean"), theirs)


def test_breadcrumbs_without_density_are_the_base():
    given = models()
    assert (result("breadcrumbs", given, density=0.0) == given[0]).all()


# -- DARE --------------------------------------------------------------------------------------------------------------


def test_dare_keeps_or_drops_each_element_and_rescales():
    given = models(1)
    (delta,) = deltas(given)
    out = result("dare", given, density=0.25) - given[0]
    kept = np.abs(out) > 1e-7
    np.testing.assert_allclose(out[kept], 4 * delta[kept], rtol=0, atol=1e-6)
    assert abs(kept.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / delta.size)


def test_the_mean_of_many_dares_is_task_arithmetic():
    given = models(2)
    outs = np.stack([result("dare", given, density=0.5, seed=s) for s in range(300)]).astype(np.float64)
    expected = given[0] + sum(deltas(given))
    # Each kept element is doubled: its variance is that of the difference itself.
    spread = np.sqrt(sum(d.astype(np.float64) ** 2 for d in deltas(given)) / 300)
    z = (outs.mean(axis=0) - expected) / np.maximum(spread, 1e-9)
    assert abs(z.mean()) < 5 / np.sqrt(z.size) and 0.9 < z.std() < 1.1


def test_dare_rescaled_by_l1_keeps_the_sum_of_sizes():
    given = models(1)
    (delta,) = deltas(given)
    out = result("dare", given, density=0.3, rescale="l1") - given[0]
    assert np.abs(out).sum() == pytest.approx(np.abs(delta).sum(), rel=1e-4)
    plain = result("dare", given, density=0.3, rescale="none") - given[0]
    kept = np.abs(plain) > 1e-7
    close(plain[kept], delta[kept], 1e-6)
    close(out[kept] / plain[kept], np.abs(delta).sum() / np.abs(delta[kept]).sum(), 1e-2)


def test_dare_of_density_1_is_task_arithmetic_and_of_0_the_base():
    given = models()
    close(result("dare", given, density=1.0), given[0] + sum(deltas(given)), 1e-6)
    assert (result("dare", given, density=0.0) == given[0]).all()


def test_dare_does_not_depend_on_the_order_of_the_models():
    base, a, b, c = models()
    one = result("dare", [base, a, b, c], names=["base", "a", "b", "c"], seed=3)
    other = result("dare", [base, c, a, b], names=["base", "c", "a", "b"], seed=3)
    close(one, other, 1e-6)
    assert np.abs(one - result("dare", [base, a, b, c], names=["base", "b", "a", "c"], seed=3)).max() > 0.01


def test_dare_with_elected_signs_averages_what_agrees():
    given = models()
    kept = [
        result("dare", [given[0], m], names=["b", n], seed=1) - given[0] for m, n in zip(given[1:], "xyz", strict=True)
    ]
    expected = given[0] + merged_by_sign([np.where(np.abs(k) < 1e-6, 0, k) for k in kept])
    close(result("dare", given, names="bxyz", seed=1, elect="sum", combine="mean"), expected)


def median(points):
    found = np.mean(points, axis=0)
    for _ in range(3000):
        pull = 1 / np.maximum(np.linalg.norm((points - found).reshape(len(points), -1), axis=1), 1e-15)
        found = np.tensordot(pull, points, 1) / pull.sum()
    return found


@pytest.mark.parametrize("name, options", [("dare", {"seed": 4}), ("ties", {}), ("breadcrumbs", {}), ("della", {})])
def test_the_geometric_median_of_what_is_left(name, options):
    given = models(4)
    alone = [result(name, [given[0], m], names=["b", n], elect="none" if name != "ties" else "sum", combine="sum", **options)
             for m, n in zip(given[1:], "wxyz", strict=True)]  # fmt: skip
    kept = [np.where(np.abs(a - given[0]) < 1e-6, 0, a - given[0]).astype(np.float64) for a in alone]
    total = sum(kept)
    agreeing = np.stack([np.where(np.sign(k) == np.sign(total), k, 0) for k in kept])
    out = result(name, given, names="bwxyz", elect="sum", combine="median", **options)
    close(out, given[0] + median(agreeing))


# -- DELLA -------------------------------------------------------------------------------------------------------------


def test_della_keeps_elements_by_their_rank_in_the_row():
    rng = np.random.default_rng(3)
    shape, density, epsilon = (600, 120), 0.5, 0.6
    base = np.zeros(shape, np.float32)
    delta = (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 3, (shape[0], 1))).astype(np.float32)
    out = result("della", [base, delta], density=density, epsilon=epsilon, combine="sum", elect="none")
    ranks = np.argsort(np.argsort(np.abs(delta), axis=1), axis=1) / (shape[1] - 1)
    p = density + epsilon * (ranks - 0.5)
    kept = out != 0
    close((out / np.where(kept, delta, 1))[kept], 1 / p[kept], 1e-4)
    for low in np.arange(0, 1, 0.1):
        band = (ranks >= low) & (ranks < low + 0.1)
        sigma = np.sqrt((p[band] * (1 - p[band])).sum())
        assert abs(kept[band].sum() - p[band].sum()) < 5 * sigma


def test_della_over_the_whole_tensor_keeps_elements_by_their_rank_in_it():
    rng = np.random.default_rng(4)
    base = np.zeros((300, 200), np.float32)
    delta = (rng.standard_normal(base.shape) * 10.0 ** rng.integers(-3, 3, (300, 1))).astype(np.float32)
    out = result(
        "della", [base, delta], density=0.5, epsilon=-1.0, ranks="tensor", rescale="none", combine="sum", elect="none"
    )
    ranks = np.argsort(np.argsort(np.abs(delta).reshape(-1))).reshape(base.shape) / delta.size
    kept = out != 0
    close(out[kept], delta[kept], 1e-6)
    # A negative width keeps the small rather than the large.
    assert kept[ranks < 0.1].mean() > 0.9 > 0.1 > kept[ranks > 0.9].mean()


def test_della_without_width_drops_as_dare_does():
    given = models()
    one = result("della", given, density=0.4, epsilon=0.0, elect="none", combine="sum", seed=2)
    close(one, result("dare", given, density=0.4, seed=2))


def test_the_mean_of_many_dellas_is_task_arithmetic():
    given = models(1)
    (delta,) = deltas(given)
    outs = np.stack([result("della", given, seed=s, elect="none", combine="sum") for s in range(200)]).astype(
        np.float64
    )
    assert abs(((outs.mean(axis=0) - given[0]) / delta).mean() - 1) < 0.02


def test_rows_do_not_depend_on_how_a_tensor_is_cut():
    given = models()
    whole = result("della", given, ranks="row", seed=1)
    assert all((result("della", given, seed=1, length=SHAPE[1] * n) == whole).all() for n in (1, 3, 7))


@pytest.mark.parametrize("options", [{"rescale": "l1"}, {"combine": "median"}])
def test_rows_stay_whole_where_della_measures_what_it_keeps(options):
    # Longer than a tile, with rows that no tile length is a multiple of.
    rng = np.random.default_rng(5)
    given = [rng.standard_normal((40, 2881)).astype(np.float32) for _ in range(3)]
    whole = result("della", given, length=1 << 19, **options)
    close(result("della", given, length=2881, **options), whole)


# -- SCE ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_sce_is_mergekits(density):
    given = models()
    close(result("sce", given, density=density), mergekit("sce", given, base=True, select_topk=density))


def test_sce_that_selects_all_keeps_what_all_models_changed_alike():
    given = models(2)
    given[2][1:] = given[1][1:]
    close(result("sce", given, density=1.0), mergekit("sce", given, base=True, select_topk=1.0))
    close(result("sce", given, density=1.0)[1:], given[1][1:])
    # What is the same in three models does not differ, whatever the rounding of their mean; mergekit calls some of it different.
    first, second = models(2)[:2]
    alike = result("sce", [first, second, second, second], density=0.5)
    assert (alike == first).all()


# Where nothing is dropped and what is left is averaged.
WHOLE = {
    "ties": {"density": 1.0}, "breadcrumbs": {"density": 1.0, "gamma": 0.0, "combine": "mean"}, "sce": {"density": 1.0},
    "dare": {"density": 1.0, "combine": "mean"}, "della": {"density": 1.0, "epsilon": 0.0}, "model_stock": {},
    "iso_c": {"weights": 1 / 3, "z": 1.0}, "geometric_median": {}, "multislerp": {}, "karcher_mean": {},
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_copies_of_one_fine_tune_give_that_fine_tune(name):
    from unetscope.merge import METHODS

    base, tuned = models(1)
    given = [base, *[tuned] * 3] if METHODS[name].on_deltas else [tuned] * 3
    close(result(name, given, **WHOLE[name]), tuned, 1e-6)


def test_sce_of_models_that_agree_everywhere_is_the_base():
    given = models(1)
    assert (result("sce", [given[0], given[1], given[1]], density=0.5) == given[0]).all()
    assert (result("sce", given, density=0.0) == given[0]).all()
