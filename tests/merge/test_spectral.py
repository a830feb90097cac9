"""Methods on singular values, against numpy's decomposition of the same differences, the papers' steps written out."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from places import place
from step_results import result
from tiny import load, raw

from unetscope.merge import METHODS, Recipe, dry_run, merge

NAMES = ("iso_c", "iso_cts", "tsv")
SHAPES = [(12, 40), (40, 12), (24, 24), (8, 5, 3, 3), (30, 2, 3, 3), (3, 50), (1, 7)]


def deltas(count, shape, seed=0):
    return [d.astype(np.float32) for d in np.random.default_rng(seed).standard_normal((count, *shape)) * 0.01]


def apply(name, given, weights=None, **values):
    out = METHODS[name].function(*given, weights=weights or (1.0,) * len(given), **values)
    assert out.dtype == np.float32 and out.shape == given[0].shape and np.isfinite(out).all()
    return out


def flat(given):
    return [d.astype(np.float64).reshape(d.shape[0], -1) for d in given]


def polar(matrix):
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    return left @ right


def iso_c(given, weights, alpha, z):
    left, values, right = np.linalg.svd(
        sum(w * d for w, d in zip(weights, flat(given), strict=True)), full_matrices=False
    )
    return alpha * (left * (values.mean() + z * (values - values.mean()))) @ right


def iso_cts(given, common):
    """Section 4.3 of Marczak et al. 2025."""
    matrices, count = flat(given), len(given)
    left, values, right = np.linalg.svd(sum(matrices), full_matrices=False)
    own = min(round((values.size - int(values.size * common)) / count), values.size // count)
    shared = left[:, : values.size - own * count]
    lefts, strengths, rights = [shared], [values[: shared.shape[1]]], [right[: shared.shape[1]]]
    for matrix in matrices:
        u, s, v = np.linalg.svd(matrix - shared @ shared.T @ matrix, full_matrices=False)
        lefts, strengths, rights = [*lefts, u[:, :own]], [*strengths, s[:own]], [*rights, v[:own]]
    return np.concatenate(strengths).mean() * polar(np.hstack(lefts)) @ polar(np.vstack(rights))


def tsv(given, kept):
    """Algorithm 1 of Gargiulo et al. 2025."""
    found = [np.linalg.svd(matrix, full_matrices=False) for matrix in flat(given)]
    lefts, rights = (np.hstack([u[:, :kept] for u, _, _ in found]), np.vstack([v[:kept] for _, _, v in found]))
    return (polar(lefts) * np.concatenate([s[:kept] for _, s, _ in found])) @ polar(rights)


def same(got, expected):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got.reshape(expected.shape), expected, rtol=0, atol=2e-6 * scale)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("z", [0.0, 0.8, 1.0, 2.0])
def test_isotropic_merges_have_the_spectrum_that_is_asked_for(shape, z):
    given, weights = deltas(3, shape), (1.0, 0.5, -0.25)
    same(apply("iso_c", given, weights, alpha=1.5, z=z), iso_c(given, weights, 1.5, z))


def test_an_isotropic_merge_has_one_singular_value():
    values = np.linalg.svd(apply("iso_c", deltas(4, (20, 90)))[:], compute_uv=False)
    assert values.max() / values.min() < 1 + 1e-5


def test_z_of_one_is_task_arithmetic_to_the_last_bit():
    given = deltas(2, (9, 17))
    assert (apply("iso_c", given, z=1.0) == sum(d.astype(np.float64) for d in given).astype(np.float32)).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("common", [0.0, 0.5, 0.8, 1.0])
def test_common_and_own_subspaces_follow_the_paper(shape, common):
    given = deltas(3, shape, seed=1)
    same(apply("iso_cts", given, common=common), iso_cts(given, common))


def test_without_own_directions_common_subspaces_are_isotropic_merging():
    given = deltas(3, (16, 30))
    same(apply("iso_cts", given, common=1.0), iso_c(given, (1, 1, 1), 1, 0))


@pytest.mark.parametrize("shape", SHAPES[:5])
def test_task_singular_vectors_follow_the_paper(shape):
    given = deltas(3, shape, seed=2)
    same(apply("tsv", given), tsv(given, int(min(flat(given)[0].shape) / 3)))
    same(apply("tsv", given, keep=0.25), tsv(given, int(min(flat(given)[0].shape) * 0.25)))


def test_more_models_than_directions_keep_one_each():
    given = deltas(7, (3, 50))
    same(apply("tsv", given[:3]), tsv(given[:3], 1))
    assert np.linalg.matrix_rank(apply("tsv", given)) == 3


def test_one_model_alone_comes_through_as_it_is():
    (given,) = deltas(1, (15, 33))
    np.testing.assert_allclose(apply("tsv", [given]), given, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(11,), ()])
def test_what_has_no_directions_is_averaged(name, shape):
    given, weights = deltas(3, shape), (1.0, 2.0, 0.5)
    expected = 1.5 * sum(w * d.astype(np.float64) for w, d in zip(weights, given, strict=True)) / 3
    np.testing.assert_allclose(apply(name, given, weights, alpha=1.5), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_changed_stays_nothing(name):
    assert not apply(name, [np.zeros((6, 9), np.float32)] * 3).any()


def test_a_model_like_its_base_takes_no_part():
    (given,) = deltas(1, (6, 9))
    same(apply("iso_c", [np.zeros_like(given), given], alpha=2.0), iso_c([given], (1,), 2.0, 0))
    same(apply("tsv", [np.zeros_like(given), given], alpha=2.0), 2 * tsv([given], 3))


@pytest.mark.parametrize("name", NAMES)
def test_a_lora_spreads_over_its_own_directions_and_no_others(name):
    rng = np.random.default_rng(5)
    down = rng.standard_normal((4, 60)).astype(np.float32)
    given = [rng.standard_normal((25, 4)).astype(np.float32) @ down]
    out = apply(name, given).astype(np.float64)
    inside = np.linalg.qr(down.T.astype(np.float64))[0]
    assert np.abs(out - out @ inside @ inside.T).max() < 1e-5 * np.abs(out).max()
    assert np.linalg.matrix_rank(out, tol=1e-4 * np.linalg.norm(out)) == 4


def test_models_that_are_alike_do_not_blow_up():
    given = deltas(1, (18, 40)) * 3
    for name in NAMES:
        assert np.abs(apply(name, given)).max() < 100 * np.abs(given[0]).max()


@pytest.mark.parametrize("name", NAMES)
def test_methods_leave_their_inputs_alone(name):
    given = deltas(3, (12, 14))
    before = [d.tobytes() for d in given]
    apply(name, given, (0.5, 1.0, 2.0))
    assert [d.tobytes() for d in given] == before


@pytest.mark.parametrize("name", NAMES)
def test_differences_too_large_for_fp32_are_no_number_and_no_failure(name):
    given = [np.full((4, 6), x, np.float32) for x in (3e38, -3e38, 1e38)]
    assert not np.isfinite(result(name, given)).any()


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.one_by_one
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(500, 500), (250, 1000), (1000, 250)])
@pytest.mark.parametrize("count", [1, 4])
def test_no_more_memory_is_taken_than_a_dry_run_says(name, shape, count):
    given = deltas(count, shape)
    tracemalloc.start()
    try:
        apply(name, given)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # What numpy takes for LAPACK and tells nobody: a copy of the symmetric matrix, and 2 n^2 numbers that dsyevd works in.
    peak += 3 * 8 * min(shape) ** 2
    inputs = 4 * given[0].size * count
    assert peak + inputs < given[0].size * (4 + METHODS[name].working) * (count + 1)


# -- in files ----------------------------------------------------------------------------------------------------------


def merged(folder, paths, step, name="out", threads=1):
    models = {n: str(p) for n, p in paths.items()}
    data = {"models": models, "steps": {"s": step}, "output": {"dtype": "fp32", "allow_missing": True}}
    merge(Recipe.parse(data), folder / f"{name}.safetensors", fsync=False, threads=threads)
    return load(folder / f"{name}.safetensors")


@pytest.fixture
def files(make_checkpoint):
    made = {n: make_checkpoint(n, seed=i, dtype="fp32", thin=True) for i, n in enumerate("bxy")}
    return {n: path for n, (path, _) in made.items()}, {n: tensors for n, (_, tensors) in made.items()}


@pytest.mark.parametrize("name", NAMES)
def test_files_come_out_alike_with_any_number_of_threads_and_have_the_formulas_values(name, files, tmp_path):
    paths, tensors = files
    step = {"method": name, "inputs": ["b", "x", "y"], "alpha": {"default": 1.0, "M00": 0.5}}
    one, four = (merged(tmp_path, paths, step, f"t{n}", n) for n in (1, 4))
    assert {k: raw(t) for k, t in one.items()} == {k: raw(t) for k, t in four.items()}
    for key in ("model.diffusion_model.middle_block.1.proj_in.weight", "model.diffusion_model.out.2.weight"):
        base, x, y = (tensors[n][key].numpy() for n in "bxy")
        alpha = 0.5 if place(key).label == "M00" else 1.0
        expected = base + apply(name, [x - base, y - base], alpha=alpha)
        np.testing.assert_allclose(one[key].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_spectra_nest_in_other_steps(files, tmp_path):
    paths, tensors = files
    inner = {"method": "iso_c", "inputs": ["b", "x", "y"], "z": 0.8}
    out = merged(tmp_path, paths, {"method": "weighted_sum", "inputs": [inner, "b"], "alpha": 0.75})
    key = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
    base, x, y = (tensors[n][key].numpy() for n in "bxy")
    expected = base + 0.25 * iso_c([x - base, y - base], (1, 1), 1, 0.8)
    np.testing.assert_allclose(out[key].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_dry_run_tells_the_memory_of_the_largest_tensor(files, tmp_path):
    paths, tensors = files
    plain, whole = (
        dry_run(
            Recipe.parse(
                {
                    "models": {n: str(p) for n, p in paths.items()},
                    "steps": {"s": step},
                    "output": {"allow_missing": True},
                }
            ),
            tmp_path / "out.safetensors",
            threads=1,
        ).memory
        for step in (
            {"method": "task_arithmetic", "inputs": ["b", "x", "y"]},
            {"method": "iso_c", "inputs": ["b", "x", "y"]},
        )
    )
    largest = max(t.numel() for k, t in tensors["b"].items() if place(k).component in ("unet", "clip_l"))
    assert whole - plain == largest * (4 + METHODS["iso_c"].working) * 3
