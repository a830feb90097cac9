"""The engine against plain numpy on the same tensors, and the properties it promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from places import place
from tiny import TORCH, leftovers, load, raw
from told import codes, raising, the

from unetscope.checkpoints import OutputError, open_checkpoint
from unetscope.merge import MergeError, Recipe, dry_run, merge

WEIGHTS = ("unet", "clip_l", "clip_h", "clip_g")


def recipe(paths, method, dtype="fp32", result_extra=None, **parameters) -> Recipe:
    models = {f"m{i}": str(p) for i, p in enumerate(paths)}
    step = {"method": method, "inputs": list(models), **parameters}
    return Recipe.parse({"models": models, "steps": {"out": step}, "output": {"dtype": dtype}, **(result_extra or {})})


def is_merged(key: str, tensor: torch.Tensor) -> bool:
    return place(key).component in WEIGHTS and tensor.is_floating_point()


def nearness(a, b, c):
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(np.abs(b - a) / (np.abs(b - a) + np.abs(b - c)))


FORMULAS = {
    "uniform": lambda a, b, c: (a + b + c) / 3,
    "weighted_average": lambda a, b, c: (0.2 * a + 0.5 * b + 1.3 * c) / 2.0,
    "add_difference": lambda a, b, c: a + 0.8 * (b - c),
    "sum_twice": lambda a, b, c: (1 - 0.3) * ((1 - 0.6) * a + 0.6 * b) + 0.3 * c,
    "triple_sum": lambda a, b, c: (1 - 0.6 - 0.3) * a + 0.6 * b + 0.3 * c,
    "train_difference": lambda a, b, c: a + 1.8 * 0.8 * nearness(a, b, c) * (b - c),
}
PARAMETERS = {
    "weighted_average": {"weights": [0.2, 0.5, 1.3]},
    "add_difference": {"alpha": 0.8},
    "sum_twice": {"alpha": 0.6, "beta": 0.3},
    "triple_sum": {"alpha": 0.6, "beta": 0.3},
    "train_difference": {"alpha": 0.8},
}


@pytest.mark.one_by_one
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("method", FORMULAS)
def test_every_method_equals_its_formula_in_double_precision(method, family, make_checkpoint, tmp_path):
    (pa, a), (pb, b), (pc, c) = (make_checkpoint(n, family, seed=i) for i, n in enumerate("abc"))
    merge(recipe([pa, pb, pc], method, **PARAMETERS.get(method, {})), tmp_path / "out.safetensors")
    out = load(tmp_path / "out.safetensors")
    assert set(out) == {key for key in a if place(key).component != "ema"}
    for key, tensor in out.items():
        if is_merged(key, a[key]):
            expected = FORMULAS[method](*(t[key].double().numpy() for t in (a, b, c)))
            np.testing.assert_allclose(tensor.numpy(), expected, rtol=0, atol=4e-7, err_msg=key)
        else:
            # The VAE, buffers and integers are the first model's (buffers keep their dtype).
            assert torch.equal(tensor.float(), a[key].float()), key


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp8_e4m3"])
def test_the_result_is_rounded_once_from_fp32(dtype, make_checkpoint, tmp_path):
    (pa, a), (pb, b) = make_checkpoint("a", seed=1), make_checkpoint("b", seed=2)
    merge(recipe([pa, pb], "weighted_sum", dtype, alpha=0.3), tmp_path / "out.safetensors")
    out = load(tmp_path / "out.safetensors")
    for key in out:
        if is_merged(key, a[key]):
            x, y = a[key].float().numpy(), b[key].float().numpy()
            # 0.7 is the larger coefficient, so the sum is anchored on a.
            expected = torch.from_numpy(x + np.float32(0.3) * (y - x)).to(TORCH[dtype])
            assert raw(out[key]) == raw(expected), key


def test_bytes_do_not_depend_on_threads_or_piece_size(make_checkpoint, tmp_path, monkeypatch):
    paths = [make_checkpoint(n, "sdxl", seed=i)[0] for i, n in enumerate("abc")]
    plan = recipe(paths, "train_difference", "fp16", {"title": "same"}, alpha="SMOOTHSTEP")
    merge(plan, tmp_path / "one.safetensors", threads=1, reproducible=True)
    merge(plan, tmp_path / "four.safetensors", threads=4, reproducible=True)
    monkeypatch.setattr("unetscope.checkpoints.stream.PIECE", 1 << 12)
    merge(plan, tmp_path / "small.safetensors", threads=2, reproducible=True)
    one = (tmp_path / "one.safetensors").read_bytes()
    assert one == (tmp_path / "four.safetensors").read_bytes()
    assert one == (tmp_path / "small.safetensors").read_bytes()


@pytest.mark.parametrize("kernel", ["numba", "numpy"])
@pytest.mark.parametrize("portable", ["0", "1"])
def test_both_kernels_and_both_ways_of_io_write_the_same_file(kernel, portable, make_checkpoint, tmp_path, monkeypatch):
    from unetscope.checkpoints import kernels

    (pa, _), (pb, _) = make_checkpoint("a", seed=1, dtype="bf16"), make_checkpoint("b", seed=2, dtype="fp16")
    plan = recipe([pa, pb], "weighted_sum", "fp16", alpha="GRAD_V")
    merge(plan, tmp_path / "reference.safetensors")
    monkeypatch.setenv("UNETSCOPE_KERNEL", kernel)
    monkeypatch.setenv("UNETSCOPE_PORTABLE_IO", portable)
    kernels.kernel.cache_clear()
    try:
        merge(plan, tmp_path / "out.safetensors", threads=2)
        assert kernels.kernel() is (kernels.compiled if kernel == "numba" else kernels.reference)
    finally:
        kernels.kernel.cache_clear()
    expected, got = load(tmp_path / "reference.safetensors"), load(tmp_path / "out.safetensors")
    assert all(raw(expected[k]) == raw(got[k]) for k in expected)


@pytest.mark.one_by_one
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("method", ["uniform", "add_difference", "train_difference", "sum_twice"])
def test_merging_a_model_with_copies_of_itself_gives_it_back_bit_for_bit(method, dtype, make_checkpoint, tmp_path):
    def with_zeros(tensors):
        for t in tensors.values():
            if t.is_floating_point():
                t.view(-1)[::5] = -0.0

    path, tensors = make_checkpoint("a", seed=3, dtype=dtype, change=with_zeros)
    copies = [tmp_path / f"copy{i}.safetensors" for i in range(3)]
    for copy in copies:
        copy.write_bytes(path.read_bytes())
    merge(recipe(copies, method, "keep"), tmp_path / "out.safetensors")
    out = load(tmp_path / "out.safetensors")
    assert out and all(raw(out[k]) == raw(tensors[k]) for k in out)


@pytest.mark.parametrize("alpha, winner", [(0, 0), (1, 1), ("ALL_B", 1), ("ALL_A", 0)])
def test_weight_0_gives_a_and_weight_1_gives_b(alpha, winner, make_checkpoint, tmp_path):
    pairs = [make_checkpoint("a", seed=1), make_checkpoint("b", seed=2)]
    extra = {"components": {"vae": "merge"}}
    merge(recipe([p for p, _ in pairs], "weighted_sum", "fp16", extra, alpha=alpha), tmp_path / "out.safetensors")
    out, expected = load(tmp_path / "out.safetensors"), pairs[winner][1]
    for key in out:
        if is_merged(key, expected[key]) or place(key).component == "vae":
            assert raw(out[key]) == raw(expected[key]), key


def test_block_weights_reach_their_blocks_and_sdxls_label_emb(make_checkpoint, tmp_path):
    (pa, a), (pb, b) = make_checkpoint("a", "sdxl", seed=1), make_checkpoint("b", "sdxl", seed=2)
    weights = {"IN04": 0.25, "OUT*": 0.5, "LABEL_EMB": 0.75, "CLIP_G": 1.0, "IN07 attn2": 0.125, "VAE": 0.5}
    merge(recipe([pa, pb], "weighted_sum", alpha=weights), tmp_path / "out.safetensors")
    out = load(tmp_path / "out.safetensors")

    def expected_weight(key):
        label = place(key).label
        if label.startswith("OUT") or label == "VAE":
            return 0.5
        if label == "IN07" and ".attn2." in key:
            return 0.125
        return {"IN04": 0.25, "LABEL_EMB": 0.75, "CLIP_G": 1.0}.get(label, 0.0)

    for key, tensor in out.items():
        if is_merged(key, a[key]) or place(key).component == "vae":
            w = expected_weight(key)
            expected = (1 - w) * a[key].double() + w * b[key].double()
            assert torch.allclose(tensor.double(), expected, rtol=0, atol=2e-7), key


def test_nested_steps_are_rounded_once(make_checkpoint, tmp_path):
    paths, values = zip(*(make_checkpoint(n, seed=i) for i, n in enumerate("abcd")), strict=True)
    data = {
        "models": {n: str(p) for n, p in zip("abcd", paths, strict=True)},
        "steps": {
            "soup": {"method": "uniform", "inputs": ["a", "b", "c"]},
            "out": {
                "method": "weighted_sum",
                "inputs": [{"method": "train_difference", "inputs": ["soup", "d", "a"]}, "soup"],
                "alpha": 0.25,
            },
        },
        "result": "out",
        "output": {"dtype": "fp16"},
    }
    merge(Recipe.parse(data), tmp_path / "out.safetensors")
    out = load(tmp_path / "out.safetensors")
    for key in out:
        if is_merged(key, values[0][key]):
            a, b, c, d = (v[key].double().numpy() for v in values)
            soup = (a + b + c) / 3
            expected = 0.75 * (soup + 1.8 * nearness(soup, d, a) * (d - a)) + 0.25 * soup
            half_step = np.spacing(np.abs(expected).astype(np.float16)).astype(float) / 2
            assert (np.abs(out[key].double().numpy() - expected) <= half_step * 1.01 + 1e-7).all(), key


def test_one_more_thing_m_plus_alpha_n_minus_m(make_checkpoint, tmp_path):
    (pa, a), (pb, b) = make_checkpoint("m", seed=1), make_checkpoint("n", seed=2)
    data = {
        "models": {"m": str(pa), "n": str(pb)},
        "steps": {"out": {"method": "add_difference", "inputs": ["m", "n", "m"], "alpha": 1.5}},
        "output": {"dtype": "fp32"},
    }
    report = merge(Recipe.parse(data), tmp_path / "out.safetensors")
    shares = next(row.shares for row in report.labels if row.label == "M00")
    assert shares == pytest.approx({"m": -0.5, "n": 1.5})
    key = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    expected = a[key].double() + 1.5 * (b[key].double() - a[key].double())
    assert torch.allclose(load(tmp_path / "out.safetensors")[key].double(), expected, atol=1e-6)


def test_components_come_from_where_the_recipe_says(make_checkpoint, tmp_path):
    (pa, _), (pb, b), (pc, c) = (make_checkpoint(n, "sdxl", seed=i) for i, n in enumerate("abc"))
    extra = {"components": {"clip_l": "m1", "clip_g": str(pc), "vae": "m1"}}
    merge(recipe([pa, pb], "uniform", "fp16", extra), tmp_path / "out.safetensors")
    out = load(tmp_path / "out.safetensors")
    for key in out:
        source = {"clip_l": b, "clip_g": c, "vae": b}.get(place(key).component)
        if source:
            assert raw(out[key]) == raw(source[key]), key


def test_a_key_that_an_input_lacks_is_copied_and_reported(make_checkpoint, tmp_path):
    key = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"

    def drop(tensors):
        del tensors[key]

    (pa, a), (pb, _) = make_checkpoint("a", seed=1), make_checkpoint("b", seed=2, change=drop)
    report = merge(recipe([pa, pb], "uniform", "fp16"), tmp_path / "out.safetensors")
    assert raw(load(tmp_path / "out.safetensors")[key]) == raw(a[key])
    assert "1 " in (told := the(report.warnings, "plan.tensors_lacking")).text and told.subject == ("m1", "unet", "m0")


def test_an_inpainting_model_merges_its_first_four_channels(make_checkpoint, tmp_path):
    (pa, a), (pb, b) = make_checkpoint("inpaint", seed=1, in_channels=9), make_checkpoint("b", seed=2)
    merge(recipe([pa, pb], "weighted_sum", alpha=0.25), tmp_path / "out.safetensors")
    key = "model.diffusion_model.input_blocks.0.0.weight"
    out = load(tmp_path / "out.safetensors")[key]
    assert torch.allclose(out[:, :4], 0.75 * a[key][:, :4].float() + 0.25 * b[key].float(), atol=1e-7)
    assert torch.equal(out[:, 4:], a[key][:, 4:].float())
    with pytest.raises(MergeError, match="make m1 the first model"):
        merge(recipe([pb, pa], "weighted_sum"), tmp_path / "other.safetensors")


def test_integers_are_never_averaged_and_float_position_ids_are_restored(make_checkpoint, tmp_path):
    key = "cond_stage_model.transformer.text_model.embeddings.position_ids"

    def as_float(tensors):
        tensors[key] = tensors[key].to(torch.float16) + 0.25

    def shifted(tensors):
        tensors[key] = tensors[key] + 1

    paths = [make_checkpoint("a", seed=1, change=as_float)[0], make_checkpoint("b", seed=2, change=shifted)[0]]
    merge(recipe(paths, "uniform"), tmp_path / "restored.safetensors")
    merge(recipe(paths[::-1], "uniform"), tmp_path / "kept.safetensors")
    asked = {"output": {"dtype": "fp16", "position_ids": "restore"}}
    merge(recipe(paths[::-1], "uniform", result_extra=asked), tmp_path / "asked.safetensors")
    assert load(tmp_path / "restored.safetensors")[key].tolist() == [list(range(77))]
    assert load(tmp_path / "kept.safetensors")[key].tolist() == [list(range(1, 78))]
    assert load(tmp_path / "asked.safetensors")[key].tolist() == [list(range(77))]
    merge(recipe(paths[::-1], "weighted_sum", alpha=1), tmp_path / "all_of_b.safetensors")
    assert load(tmp_path / "all_of_b.safetensors")[key].tolist() == [list(range(1, 78))]


BROKEN = "model.diffusion_model.middle_block.1.proj_in.weight"


def broken(tensors):
    tensors[BROKEN].view(-1)[3] = float("nan")
    tensors[BROKEN].view(-1)[7] = float("inf")
    tensors["first_stage_model.decoder.conv_in.weight"].view(-1)[0] = float("nan")


def test_weights_that_are_not_finite_are_refused_by_name_and_nothing_is_left(make_checkpoint, tmp_path):
    (pa, _), (pb, _) = make_checkpoint("a", seed=1), make_checkpoint("b", seed=2, change=broken)
    with pytest.raises(MergeError, match=rf"m1: {BROKEN} \(2 values\)"):
        merge(recipe([pa, pb], "uniform"), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("policy", ["zero", "copy"])
def test_weights_that_are_not_finite_are_repaired_on_request(policy, make_checkpoint, tmp_path):
    (pa, a), (pb, b) = make_checkpoint("a", seed=1), make_checkpoint("b", seed=2, change=broken)
    extra = {"output": {"dtype": "fp32", "nan": policy}}
    report = merge(recipe([pb, pa], "uniform", result_extra=extra), tmp_path / "out.safetensors")
    out = load(tmp_path / "out.safetensors")
    x, y = a[BROKEN].float().view(-1), b[BROKEN].float().view(-1)
    expected = (x + y) / 2
    expected[[3, 7]] = x[[3, 7]] / 2 if policy == "zero" else x[[3, 7]]
    assert torch.allclose(out[BROKEN].view(-1), expected, atol=1e-7)
    assert out["first_stage_model.decoder.conv_in.weight"].view(-1)[0] == 0
    assert any(BROKEN in warning.subject for warning in report.warnings)


def test_a_result_too_large_for_the_dtype_is_refused_or_clamped(make_checkpoint, tmp_path):
    def large(tensors):
        tensors[BROKEN].view(-1)[:2] = torch.tensor([6e4, -6e4])

    (pa, a), (pb, b), (pc, c) = (
        make_checkpoint(n, seed=i, change=large if n != "c" else None) for i, n in enumerate("abc")
    )
    with pytest.raises(MergeError, match=rf"too large for fp16: {BROKEN} \(2 values\)"):
        merge(recipe([pa, pb, pc], "add_difference", "fp16"), tmp_path / "out.safetensors")
    assert leftovers(tmp_path) == []
    extra = {"output": {"dtype": "fp16", "overflow": "clamp"}}
    merge(recipe([pa, pb, pc], "add_difference", result_extra=extra), tmp_path / "out.safetensors")
    out = load(tmp_path / "out.safetensors")[BROKEN].view(-1)
    assert out[:2].tolist() == [65504.0, -65504.0]
    expected = (a[BROKEN].float() + (b[BROKEN].float() - c[BROKEN].float())).view(-1)[2:]
    assert torch.allclose(out[2:].float(), expected, atol=2e-4)


def test_models_that_do_not_fit_are_refused_before_anything_is_written(make_checkpoint, tmp_path):
    sd1, sdxl = make_checkpoint("sd1")[0], make_checkpoint("sdxl", "sdxl")[0]
    v = make_checkpoint("v", "sdxl", seed=5, change=lambda t: {**t, "v_pred": torch.zeros(0)})[0]
    lora = tmp_path / "lora.safetensors"
    from safetensors.torch import save_file

    save_file({"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.zeros(4, 8)}, lora)
    out = tmp_path / "out.safetensors"
    with raising("models.architectures", MergeError):
        merge(recipe([sd1, sdxl], "uniform"), out)
    with pytest.raises(MergeError, match="LoRA"):
        merge(recipe([sd1, lora], "uniform"), out)
    with raising("models.predictions", MergeError):
        merge(recipe([sdxl, v], "uniform"), out)
    mixed = {"output": {"mix_predictions": True}}
    assert "prediction.mixed" in codes(dry_run(recipe([sdxl, v], "uniform", result_extra=mixed), out).warnings)
    with raising("output.is_input", OutputError):
        merge(recipe([sd1, sd1], "uniform"), sd1, overwrite=True)
    assert not out.exists()


def test_an_existing_file_is_replaced_only_on_request(make_checkpoint, tmp_path):
    path, _ = make_checkpoint("a")
    out = tmp_path / "out.safetensors"
    out.write_text("precious")
    with raising("output.exists", OutputError):
        merge(recipe([path], "copy"), out)
    assert out.read_text() == "precious"
    merge(recipe([path], "copy"), out, overwrite=True)
    assert len(open_checkpoint(out)) > 0


def test_a_dry_run_promises_the_bytes_that_the_run_writes(make_checkpoint, tmp_path):
    paths = [make_checkpoint(n, "sdxl", seed=i)[0] for i, n in enumerate("ab")]
    plan = recipe(paths, "weighted_sum", "fp16", alpha="GRAD_A")
    promised = dry_run(plan, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    report = merge(plan, tmp_path / "out.safetensors")
    written = sum(t.numel() * t.element_size() for t in load(tmp_path / "out.safetensors").values())
    assert promised.bytes_written == report.bytes_written == written
    assert promised.labels == report.labels
