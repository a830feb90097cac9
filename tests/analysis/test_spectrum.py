"""Spectra against numpy's full decomposition, and LoRAs against full fine-tunes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from places import place
from tiny import TORCH

from unetscope.analysis.errors import AnalysisError
from unetscope.analysis.spectrum import singular_values, spectrum
from unetscope.checkpoints import open_checkpoint

RANKS = (2, 4, 8)


def low_rank(shape, rank, rng):
    rows, columns = shape[0], int(np.prod(shape[1:]))
    return (rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))).reshape(shape)


def pair(make_checkpoint, change, dtype="fp32"):
    """A checkpoint, and the same with `change(key, shape, rng)` added to its matrices."""
    rng = np.random.default_rng(5)

    def changed(tensors):
        for key, t in tensors.items():
            if t.is_floating_point() and t.ndim > 1 and place(key).component in ("unet", "clip_l"):
                t += torch.from_numpy(0.01 * change(key, tuple(t.shape), rng)).to(TORCH[dtype])

    a, before = make_checkpoint("a", dtype=dtype)
    b, after = make_checkpoint("b", dtype=dtype, change=changed)
    return open_checkpoint(a), open_checkpoint(b), before, after


def test_every_layer_has_the_singular_values_of_numpy(make_checkpoint):
    a, b, before, after = pair(make_checkpoint, lambda key, shape, rng: rng.standard_normal(shape))
    frame = spectrum(a, b, "layer", RANKS).set_index("key")
    for key, row in frame.iterrows():
        change = (after[key].double() - before[key].double()).numpy().reshape(after[key].shape[0], -1)
        values = np.linalg.svd(change, compute_uv=False)
        total = np.sum(values**2)
        if total == 0:
            assert row["verdict"] == "unchanged"
            continue
        assert row["top"] == pytest.approx(values[0], rel=1e-5)
        assert row["stable_rank"] == pytest.approx(total / values[0] ** 2, rel=1e-4)
        for k in RANKS:
            assert row[f"rank {k}"] == pytest.approx(np.sum(values[:k] ** 2) / total, rel=1e-5)


def test_labels_add_up_their_layers(make_checkpoint):
    a, b, *_ = pair(make_checkpoint, lambda key, shape, rng: rng.standard_normal(shape))
    layers, labels = spectrum(a, b, "layer", RANKS), spectrum(a, b, "label", RANKS).set_index("label")
    part = layers[layers["label"] == "IN05"]
    squares = part["norm"] ** 2
    assert labels.loc["IN05", "norm"] == pytest.approx(np.sqrt(squares.sum()))
    assert labels.loc["IN05", "top"] == pytest.approx(part["top"].max())
    assert labels.loc["IN05", "rank 4"] == pytest.approx((part["rank 4"] * squares).sum() / squares.sum())
    assert list(labels.index)[:3] == ["CLIP_L", "TIME_EMBED", "IN00"] and labels.index[-1] == "VAE"


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_lora_is_told_from_a_full_fine_tune(dtype, make_checkpoint):
    def change(key, shape, rng):
        return low_rank(shape, 2, rng) if place(key).label.startswith("IN") else rng.standard_normal(shape)

    a, b, *_ = pair(make_checkpoint, change, dtype)
    labels = spectrum(a, b, "label", RANKS).set_index("label")
    assert labels.loc["IN05", "verdict"] == "LoRA-like (rank ~2)" and labels.loc["IN05", "rank"] == 2
    assert labels.loc["OUT05", "verdict"] == "full fine-tune"
    assert labels.loc["VAE", "verdict"] == "unchanged"


def test_a_change_of_rounding_alone_is_no_finding(make_checkpoint, tmp_path):
    from safetensors.torch import save_file

    path, tensors = make_checkpoint("a", dtype="fp32")
    rounded = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    save_file(rounded, tmp_path / "b.safetensors")
    labels = spectrum(open_checkpoint(path), open_checkpoint(tmp_path / "b.safetensors"), "label", RANKS)
    unet = labels[labels["component"] == "unet"]
    assert set(unet["verdict"]) == {"changed by little more than rounding"}
    assert unet["rounding"].between(0.8, 1.0).all()


def test_the_sketch_of_a_large_matrix_comes_near_the_full_decomposition():
    rng = np.random.default_rng(0)
    decaying = low_rank((400, 300), 12, rng) + 0.1 * rng.standard_normal((400, 300))
    flat = rng.standard_normal((400, 300))
    for matrix, worst in ((decaying, 1e-4), (flat, 0.05)):
        full = np.linalg.svd(matrix, compute_uv=False)[:64]
        found = singular_values(matrix.astype(np.float32), 64, seed=1)
        assert found.shape == (64,)
        assert np.all(found <= full * (1 + 1e-5))
        energy, captured = np.cumsum(full**2), np.cumsum(found**2)
        assert np.all(captured > energy * (1 - worst))
        assert found[0] == pytest.approx(full[0], rel=0.02)


def test_the_same_seed_gives_the_same_numbers_and_leaves_torchs_own_alone(make_checkpoint):
    matrix = np.random.default_rng(0).standard_normal((300, 250)).astype(np.float32)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one, two = singular_values(matrix, 16, seed=9), singular_values(matrix, 16, seed=9)
    assert np.array_equal(one, two)
    assert torch.equal(torch.rand(2), expected)


def test_progress_reaches_the_end_and_wrong_ranks_are_refused(make_checkpoint):
    a, b, *_ = pair(make_checkpoint, lambda key, shape, rng: rng.standard_normal(shape))
    seen = []
    spectrum(a, b, "component", RANKS, progress=lambda done, total, key: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0
    with pytest.raises(AnalysisError, match="ascending"):
        spectrum(a, b, ranks=(8, 4))
