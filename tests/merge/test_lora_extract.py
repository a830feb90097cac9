"""LoRAs extracted from two checkpoints, against SVDs by numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_loras import MODULES, changes
from tiny import tensors_of

from unetscope.checkpoints.errors import UnetscopeError
from unetscope.checkpoints.lora import open_lora
from unetscope.merge import MergeError
from unetscope.merge.lora import extract_lora
from unetscope.merge.lora.low_rank import Cut, Factors, decomposed, error_squares, resized

UNET = "model.diffusion_model."


@pytest.fixture(scope="module", params=["sd1", pytest.param("sdxl", marks=pytest.mark.long)])
def pair(request, tmp_path_factory):
    """A base and a model whose every weight differs: paths, tensors, family."""
    folder, tensors = tmp_path_factory.mktemp(request.param), {}
    for name, seed in (("base", 1), ("tuned", 2)):
        tensors[name] = tensors_of(request.param, seed, "fp32", 0.05 + 0.01 * seed)
        save_file(tensors[name], folder / f"{name}.safetensors")
    paths = (folder / "tuned.safetensors", folder / "base.safetensors")
    return *paths, tensors["tuned"], tensors["base"], request.param


def difference(after, before, key) -> np.ndarray:
    return (after[key].double() - before[key].double()).numpy()


def best(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, float]:
    u, s, vh = np.linalg.svd(matrix.reshape(matrix.shape[0], -1), full_matrices=False)
    return (u[:, :rank] * s[:rank] @ vh[:rank]).reshape(matrix.shape), float(np.sum(s[rank:] ** 2))


def test_each_layer_is_numpys_best_approximation(pair, tmp_path):
    tuned, base, after, before, family = pair
    report = extract_lora(tuned, base, tmp_path / "out.safetensors", rank=4, dtype="fp32")
    file = load_file(tmp_path / "out.safetensors")
    made = changes(file, family)
    assert set(made) == {place[0] if isinstance(place, tuple) else place for place in MODULES[family].values()}
    for name, place in MODULES[family].items():
        key, third = place if isinstance(place, tuple) else (place, None)
        change, got = difference(after, before, key), made[key]
        if third is not None:
            size = change.shape[0] // 3
            change, got = (x[third * size : (third + 1) * size] for x in (change, got))
        wanted, _ = best(change, 4)
        assert np.allclose(got, wanted, atol=2e-5 * np.abs(wanted).max()), name
        assert float(file[f"{name}.alpha"]) == 4
    assert report.ranks == (4, 4)


def test_at_full_rank_with_convolutions_the_tuned_model_comes_back(pair, tmp_path):
    tuned, base, after, before, _ = pair
    report = extract_lora(tuned, base, tmp_path / "out.safetensors", rank=5000, conv=True, dtype="fp32")
    assert report.error < 1e-6 and report.energy == pytest.approx(1)
    with open_lora(tmp_path / "out.safetensors") as lora:
        wide = {k for k in before if k.startswith(UNET) and before[k].ndim > 1}
        assert wide <= set(lora.modules)
        text = {k for k in before if "encoder.layers." in k or "resblocks." in k}
        assert {k for k in text if before[k].ndim > 1} <= set(lora.modules)
        for key, module in lora.modules.items():
            assert np.allclose(before[key].numpy() + module.delta(), after[key].numpy(), atol=1e-5), key


def test_errors_by_label_are_numpys(pair, tmp_path):
    tuned, base, after, before, _ = pair
    report = extract_lora(tuned, base, tmp_path / "out.safetensors", rank=3, text_encoders=False, dtype="fp32")
    with open_lora(tmp_path / "out.safetensors") as lora:
        keys = [k for k in lora.modules if ".input_blocks.4." in k]
        lost = sum(best(difference(after, before, k), 3)[1] for k in keys)
        total = sum(float(np.sum(difference(after, before, k) ** 2)) for k in keys)
    row = next(row for row in report.labels if row.label == "IN04")
    assert row.modules == len(keys)
    assert row.norm == pytest.approx(np.sqrt(total), rel=1e-5)
    assert row.error == pytest.approx(np.sqrt(lost / total), rel=1e-4)
    assert row.energy == pytest.approx(1 - lost / total, rel=1e-4)
    assert not any(row.label.startswith("CLIP") for row in report.labels)


def test_an_energy_gives_each_layer_the_rank_that_it_needs(pair, tmp_path):
    tuned, base, after, before, family = pair
    extract_lora(tuned, base, tmp_path / "out.safetensors", energy=0.5, dtype="fp32")
    file = load_file(tmp_path / "out.safetensors")
    for name, key in MODULES[family].items():
        if isinstance(key, str):
            matrix = difference(after, before, key)
            squares = np.linalg.svd(matrix.reshape(matrix.shape[0], -1), compute_uv=False) ** 2
            wanted = int(np.argmax(np.cumsum(squares) >= 0.5 * squares.sum())) + 1
            assert file[f"{name}.lora_down.weight"].shape[0] == wanted, name
    with safe_open(tmp_path / "out.safetensors", "pt") as opened:
        assert opened.metadata()["ss_network_dim"] == "Dynamic"


def test_ranks_by_block_and_for_convolutions(make_checkpoint, tmp_path):
    (base, _), (tuned, _) = (make_checkpoint(n, seed=i) for i, n in enumerate(["base", "tuned"]))
    lines = {"IN*": 2, "OUT*": 5, "M00": 0, "IN01 attn1": 3}
    out = tmp_path / "out.safetensors"
    report = extract_lora(tuned, base, out, rank=4, ranks=lines, conv=True)
    with open_lora(out) as lora:
        ranks = {key: module.rank for key, module in lora.modules.items()}
    assert {r for k, r in ranks.items() if ".input_blocks.2." in k} == {2}
    assert {r for k, r in ranks.items() if ".input_blocks.1." in k and ".attn1." in k} == {3}
    assert {r for k, r in ranks.items() if ".output_blocks.4." in k} == {5}
    assert {r for k, r in ranks.items() if "mlp.fc1" in k} == {4}
    assert not any(".middle_block." in k for k in ranks)
    assert any(".middle_block." in k for k in report.left_out["rank 0"])
    extract_lora(tuned, base, out, rank=4, conv=True, conv_rank=2, overwrite=True)
    with open_lora(out) as lora:
        assert {m.rank for m in lora.modules.values() if len(m.shape) == 4 and m.shape[2] == 3} == {2}
        assert {m.rank for m in lora.modules.values() if m.shape[2:] in ((), (1, 1))} == {4}


def test_layers_that_are_equal_are_left_out_and_what_the_lora_cannot_hold_is_said(make_checkpoint, tmp_path):
    base, tensors = make_checkpoint("base", seed=1)
    changed = {k: t.clone() for k, t in tensors.items()}
    key = UNET + "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    changed[key] += 0.25
    changed[UNET + "input_blocks.1.0.in_layers.0.bias"] += 0.5
    save_file(changed, tmp_path / "tuned.safetensors")
    report = extract_lora(tmp_path / "tuned.safetensors", base, tmp_path / "out.safetensors", rank=2)
    assert report.modules == 1 and [row.label for row in report.labels] == ["IN01"]
    assert len(report.left_out["equal in both"]) > 200
    (note,) = report.notes
    inside = float(((changed[key].double() - tensors[key].double()) ** 2).sum())
    bias = UNET + "input_blocks.1.0.in_layers.0.bias"
    outside = float(((changed[bias].double() - tensors[bias].double()) ** 2).sum())
    assert note.code == "lora.outside" and note.text.startswith(f"{outside / (inside + outside):.2%} ")
    assert len(note.subject) == 1 and "UNET" in note.subject[0]
    with pytest.raises(MergeError, match="LoRA"):
        extract_lora(base, base, tmp_path / "none.safetensors")
    assert not (tmp_path / "none.safetensors").exists()


def test_every_style_is_read_back_as_the_same_changes(pair, tmp_path):
    tuned, base, *_, family = pair
    found = {}
    for style in ("kohya", "single-file", "diffusers", "peft"):
        file = tmp_path / f"{style}.safetensors"
        report = extract_lora(tuned, base, file, rank=2, dtype="fp32", style=style, text_encoders=family == "sd1")
        with open_lora(file) as lora:
            assert (report.style, lora.style, lora.family, lora.unknown) == (style, style, family, [])
            found[style] = {key: lora.modules[key].delta() for key in sorted(lora.modules)[::23]}
    first = found.pop("kohya")
    for style, changed in found.items():
        assert changed.keys() == first.keys(), style
        assert all(np.array_equal(changed[key], first[key]) for key in first), style


def test_sd2_has_the_layers_that_its_diffusers_model_has(make_checkpoint, tmp_path):
    (base, _), (tuned, _) = (make_checkpoint(n, "sd2", seed=i) for i, n in enumerate(["base", "tuned"]))
    report = extract_lora(tuned, base, tmp_path / "out.safetensors", rank=2)
    assert report.modules == 192 + 23 * 6
    names = {n.split(".")[0] for n in load_file(tmp_path / "out.safetensors")}
    assert "lora_te_text_model_encoder_layers_22_self_attn_v_proj" in names


def test_threads_do_not_change_the_file(make_checkpoint, tmp_path):
    (base, _), (tuned, _) = (make_checkpoint(n, seed=i) for i, n in enumerate(["base", "tuned"]))
    files = [tmp_path / f"{n}.safetensors" for n in (1, 3)]
    for n, file in zip((1, 3), files, strict=True):
        extract_lora(tuned, base, file, rank=2, threads=n)
    one, other = (load_file(f) for f in files)
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_mistakes_are_one_sentence_and_leave_nothing_behind(make_checkpoint, tmp_path):
    base, tensors = make_checkpoint("base", seed=1)
    tuned, _ = make_checkpoint("tuned", seed=2)
    xl, _ = make_checkpoint("xl", "sdxl")
    broken = {k: t.clone() for k, t in tensors.items()}
    broken[UNET + "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"][0, 0] = float("nan")
    save_file(broken, tmp_path / "broken.safetensors")
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    out, files = tmp_path / "out.safetensors", {p.name for p in tmp_path.iterdir()}
    for arguments, options, said in [
        ((tuned, xl), {}, "a LoRA is the difference of two checkpoints of one architecture"),
        ((tmp_path / "broken.safetensors", base), {}, r"broken.safetensors: .*attn1.to_q.weight holds NaN or infinity"),
        ((tmp_path / "other.safetensors", base), {}, "a LoRA is extracted from two checkpoints with a UNET"),
        ((tuned, base), {"rank": 0}, "rank must be at least 1"),
        ((tuned, base), {"ranks": {"IN*": 2.5}}, "ranks are whole numbers, 0 to leave a layer out"),
        ((tuned, base), {"ranks": {"IN99": 2}}, "IN99"),
        ((tuned, base), {"conv_rank": 2}, "add --conv"),
        ((tuned, base), {"dtype": "int8"}, "cannot be stored as I8"),
        ((tuned, tmp_path / "absent.safetensors"), {}, "no such file"),
    ]:
        with pytest.raises(UnetscopeError, match=said):
            extract_lora(*arguments, out, **options)
    assert {p.name for p in tmp_path.iterdir()} - {"cache"} == files - {"cache"}


shapes = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**31))


@settings(max_examples=60)
@given(shapes, st.integers(1, 6))
def test_both_ways_to_the_best_approximation_agree_with_numpy(shape, rank):
    rows, columns, inner, seed = shape
    rng = np.random.default_rng(seed)
    change = Factors(*(rng.standard_normal(s).astype(np.float32) for s in ((rows, inner), (inner, columns))))
    matrix = change.matrix().astype(np.float64)
    _, left = best(matrix, rank)
    for found in (resized(change, Cut(rank)), decomposed(change.matrix(), Cut(rank))):
        assert found.rank <= min(rank, rows, columns)
        wrong = float(np.sum((matrix - found.matrix().astype(np.float64)) ** 2))
        assert wrong == pytest.approx(left, rel=1e-3, abs=1e-10 * float(np.sum(matrix**2)))
        assert error_squares(change, found) == pytest.approx(wrong, rel=1e-2, abs=1e-10 * float(np.sum(matrix**2)))


@pytest.mark.parametrize("shape", [(300, 400), (400, 300)])
@pytest.mark.parametrize("fall", [0.0, 0.02, 0.5])
def test_the_sketch_is_as_good_as_the_full_decomposition(shape, fall):
    rng = np.random.default_rng(3)
    u, v = (np.linalg.qr(rng.standard_normal((side, 300)))[0] for side in shape)
    matrix = ((u * np.exp(-fall * np.arange(300))) @ v.T + 1e-6 * rng.standard_normal(shape)).astype(np.float32)
    _, left = best(matrix.astype(np.float64), 8)
    found = decomposed(matrix, Cut(8))
    assert found.rank == 8
    assert np.sqrt(np.sum((matrix - found.matrix()) ** 2)) <= 1.002 * np.sqrt(left)


def test_balancing_rounds_nothing():
    rng = np.random.default_rng(0)
    up, down = (
        rng.standard_normal((5, 3)).astype(np.float32) * 1e-6,
        rng.standard_normal((3, 4)).astype(np.float32) * 50,
    )
    up[:, 2] = 0
    made = Factors(up, down).balanced()
    assert np.array_equal(made.matrix(), up @ down)
    assert np.all(np.abs(np.log2(np.linalg.norm(made.up, axis=0)[:2] / np.linalg.norm(made.down, axis=1)[:2])) <= 1.01)
