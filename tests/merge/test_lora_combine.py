"""LoRAs merged and resized, against sums and SVDs by numpy."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_loras import MODULES, SD1, SD1_CONV, changes, shape_of, write_lora
from told import raising

from unetscope.checkpoints.errors import OutputError, UnetscopeError
from unetscope.merge import MergeError
from unetscope.merge.lora import LoraUse, merge_loras, resize_lora


def close(one: dict[str, np.ndarray], other: dict[str, np.ndarray], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for key, values in other.items():
        assert np.linalg.norm(one[key] - values) <= tolerance * max(np.linalg.norm(values), 1e-12), key


def summed(*parts: tuple[float, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    keys = dict.fromkeys(key for _, change in parts for key in change)
    return {key: sum(strength * change[key] for strength, change in parts if key in change) for key in keys}


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_the_sum_is_exact_and_strengths_multiply_each_change_once(tmp_path, family):
    a = write_lora(tmp_path / "a.safetensors", family, rank=3, alpha=1.5)
    b = write_lora(tmp_path / "b.safetensors", family, rank=2, alpha=None, seed=1)
    out = tmp_path / "sum.safetensors"
    report = merge_loras([LoraUse(a, 0.8), LoraUse(b, -0.5)], out, dtype="fp32")
    merged = load_file(out)
    close(
        changes(merged, family),
        summed((0.8, changes(load_file(a), family)), (-0.5, changes(load_file(b), family))),
        1e-6,
    )
    assert {t.shape[0] for n, t in merged.items() if n.endswith("lora_down.weight")} == {5}
    assert report.ranks == (5, 5) and report.modules == len(MODULES[family]) and report.error < 1e-6


def test_fp16_rounds_each_factor_once_and_small_scales_do_not_underflow(tmp_path):
    a = write_lora(tmp_path / "a.safetensors", rank=2, alpha=0.002, size=0.01)
    report = merge_loras([LoraUse(a)], tmp_path / "out.safetensors")
    close(changes(load_file(tmp_path / "out.safetensors")), changes(load_file(a)), 1e-3)
    assert 0 < report.error < 1e-3


def test_unet_and_text_encoders_have_strengths_of_their_own(tmp_path):
    a = write_lora(tmp_path / "a.safetensors")
    merge_loras([LoraUse(a, 0.5, 2.0)], tmp_path / "out.safetensors", dtype="fp32")
    before, after = changes(load_file(a)), changes(load_file(tmp_path / "out.safetensors"))
    close(after, {k: v * (2.0 if k.startswith("cond") else 0.5) for k, v in before.items()}, 1e-6)


@pytest.mark.parametrize("missing, of_in03", [(0, 0.0), (1, 0.5)])
def test_block_weights_multiply_the_strengths_and_missing_blocks_are_what_was_chosen(tmp_path, missing, of_in03):
    modules = SD1 | SD1_CONV
    a = write_lora(tmp_path / "a.safetensors", modules=modules)
    vector = [0.3, 1, 1, 0.25, 0, 0, 0, 0, *[1] * 8, 0.1]  # BASE, IN01, IN02, IN04, ..., OUT11
    use = LoraUse(a, 0.5, 2.0, blocks=vector, missing=missing)
    merge_loras([use], tmp_path / "out.safetensors", dtype="fp32")
    before = changes(load_file(a), modules=modules)
    factors = {"input_blocks.1.": 0.5, "input_blocks.4.": 0.125, "output_blocks.11.": 0.05, "cond_": 0.6}
    factors |= {"input_blocks.3.": of_in03, "middle_block": 0.0}
    expected = {k: v * next(f for part, f in factors.items() if part in k) for k, v in before.items()}
    expected = {k: v for k, v in expected.items() if v.any()}
    close(changes(load_file(tmp_path / "out.safetensors"), modules=modules), expected, 1e-6)


def best(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, float]:
    u, s, vh = np.linalg.svd(matrix.reshape(matrix.shape[0], -1), full_matrices=False)
    return (u[:, :rank] * s[:rank] @ vh[:rank]).reshape(matrix.shape), float(np.sum(s[rank:] ** 2))


@pytest.mark.parametrize("family, modules", [("sd1", SD1 | SD1_CONV), ("sdxl", MODULES["sdxl"])])
def test_resizing_is_numpys_best_approximation_and_the_error_is_the_one_reported(tmp_path, family, modules):
    a = write_lora(tmp_path / "a.safetensors", family, modules=modules, rank=6)
    report = resize_lora(a, tmp_path / "out.safetensors", rank=2, dtype="fp32")
    before, after = (changes(load_file(p), family, modules) for p in (a, tmp_path / "out.safetensors"))
    lost = total = 0.0
    for key, change in before.items():
        part = change[np.abs(change).sum(axis=tuple(range(1, change.ndim))) > 0] if "in_proj" in key else change
        wanted, left = best(part, 2)
        made = after[key][np.abs(change).sum(axis=tuple(range(1, change.ndim))) > 0] if "in_proj" in key else after[key]
        assert np.allclose(made, wanted, atol=1e-5 * np.abs(wanted).max()), key
        lost, total = lost + left, total + float(np.sum(change**2))
    assert report.error == pytest.approx(np.sqrt(lost / total), rel=1e-4)
    assert report.energy == pytest.approx(1 - lost / total, rel=1e-5)
    mid = next(row for row in report.labels if row.label == "M00")
    key = next(k for k in before if "middle_block" in k)
    assert mid.error == pytest.approx(np.sqrt(best(before[key], 2)[1] / np.sum(before[key] ** 2)), rel=1e-4)
    assert mid.ranks == (2, 2) and mid.modules == 1


def test_an_energy_keeps_as_few_directions_as_hold_it(tmp_path):
    a = write_lora(tmp_path / "a.safetensors", rank=6)
    resize_lora(a, tmp_path / "out.safetensors", energy=0.8, dtype="fp32")
    after = load_file(tmp_path / "out.safetensors")
    for name, key in SD1.items():
        matrix = changes(load_file(a))[key]
        squares = np.linalg.svd(matrix.reshape(matrix.shape[0], -1), compute_uv=False) ** 2
        wanted = int(np.argmax(np.cumsum(squares) >= 0.8 * squares.sum())) + 1
        assert after[f"{name}.lora_down.weight"].shape[0] == wanted < 6
        assert float(after[f"{name}.alpha"]) == wanted


def test_a_rank_that_is_large_enough_changes_nothing(tmp_path):
    a = write_lora(tmp_path / "a.safetensors", rank=3, alpha=3)
    report = resize_lora(a, tmp_path / "out.safetensors", rank=8, dtype="fp32")
    close(changes(load_file(tmp_path / "out.safetensors")), changes(load_file(a)), 1e-7)
    assert report.ranks == (3, 3) and report.error < 1e-7


def test_a_sum_has_no_more_directions_than_the_layer(tmp_path):
    side = min(shape_of("sd1", next(iter(SD1.values()))))
    files = [write_lora(tmp_path / f"{i}.safetensors", rank=side, seed=i) for i in range(2)]
    merge_loras([LoraUse(f) for f in files], tmp_path / "out.safetensors", dtype="fp32")
    merged = load_file(tmp_path / "out.safetensors")
    assert merged[f"{next(iter(SD1))}.lora_down.weight"].shape[0] == side
    close(changes(merged), summed(*((1, changes(load_file(f))) for f in files)), 1e-5)


def loha(path, dtype=torch.float32):
    """A LoHa of one layer: the elementwise product of two products of rank 2."""
    name, key = next(iter(SD1.items()))
    out, into = shape_of("sd1", key)
    rng = np.random.default_rng(5)
    sides = {"w1_a": (out, 2), "w1_b": (2, into), "w2_a": (out, 2), "w2_b": (2, into)}
    parts = {k: torch.from_numpy(rng.standard_normal(s)).to(dtype) for k, s in sides.items()}
    save_file({f"{name}.hada_{k}": v for k, v in parts.items()} | {f"{name}.alpha": torch.tensor(1.0)}, path)
    w1a, w1b, w2a, w2b = (parts[k].double().numpy() for k in sides)
    return path, {key: 0.5 * (w1a @ w1b) * (w2a @ w2b)}


def test_a_loha_becomes_factors_of_its_own_rank_and_may_be_merged_with_a_lora(tmp_path):
    hada, change = loha(tmp_path / "hada.safetensors")
    a = write_lora(tmp_path / "a.safetensors")
    merge_loras([LoraUse(hada), LoraUse(a, 0.5)], tmp_path / "out.safetensors", dtype="fp32")
    merged = load_file(tmp_path / "out.safetensors")
    close(changes(merged), summed((0.5, changes(load_file(a))), (1, change)), 1e-5)
    assert merged[f"{next(iter(SD1))}.lora_down.weight"].shape[0] == 3 + 2 * 2


def test_dora_needs_its_base_and_then_is_factors_of_what_it_changes(tmp_path, make_checkpoint):
    base, tensors = make_checkpoint("base", dtype="fp32")
    name, key = next(iter(SD1.items()))
    a = write_lora(tmp_path / "a.safetensors", modules={name: key}, dtype=torch.float32)
    parts = load_file(a)
    magnitude = torch.rand(1, shape_of("sd1", key)[1])
    save_file(parts | {f"{name}.dora_scale": magnitude}, tmp_path / "dora.safetensors")
    out = tmp_path / "out.safetensors"
    with pytest.raises(
        MergeError, match=r"follows from the weight itself; give the checkpoint that it is for \(--base\)"
    ):
        merge_loras([LoraUse(tmp_path / "dora.safetensors")], out)
    assert not out.exists()
    merge_loras([LoraUse(tmp_path / "dora.safetensors")], out, base=base, dtype="fp32")
    weight = tensors[key].double().numpy()
    moved = weight + changes(parts)[key]
    norm = np.linalg.norm(moved, axis=0, keepdims=True) + np.finfo(np.float32).eps
    close(changes(load_file(out)), {key: magnitude.double().numpy() * moved / norm - weight}, 1e-5)


def test_changes_of_norms_and_biases_are_added_up_as_they_are(tmp_path):
    norm = "lora_unet_down_blocks_0_resnets_0_norm1"
    size = shape_of("sd1", "model.diffusion_model.input_blocks.1.0.in_layers.0.weight")[0]
    bias = "lora_te_text_model_encoder_layers_3_mlp_fc1"
    for i, name in enumerate("ab"):
        a = load_file(write_lora(tmp_path / f"{name}.safetensors", seed=i))
        a |= {f"{norm}.w_norm": torch.full((size,), 1.0 + i), f"{norm}.b_norm": torch.full((size,), 2.0 + i)}
        a[f"{bias}.diff_b"] = torch.arange(shape_of("sd1", SD1[bias])[0], dtype=torch.float32)
        save_file(a, tmp_path / f"{name}.safetensors")
    uses = [LoraUse(tmp_path / "a.safetensors", 0.5), LoraUse(tmp_path / "b.safetensors", 2.0)]
    merge_loras(uses, tmp_path / "out.safetensors", dtype="fp32")
    merged = load_file(tmp_path / "out.safetensors")
    assert torch.equal(merged[f"{norm}.w_norm"], torch.full((size,), 0.5 * 1 + 2 * 2))
    assert torch.equal(merged[f"{norm}.b_norm"], torch.full((size,), 0.5 * 2 + 2 * 3))
    assert torch.equal(merged[f"{bias}.diff_b"], 2.5 * a[f"{bias}.diff_b"])
    with pytest.raises(MergeError, match="LoRAs"):
        merge_loras(uses, tmp_path / "peft.safetensors", style="peft")
    assert not (tmp_path / "peft.safetensors").exists()


def test_threads_do_not_change_the_file(tmp_path):
    a = write_lora(tmp_path / "a.safetensors", rank=6)
    files = [tmp_path / f"{n}.safetensors" for n in (1, 3)]
    for n, file in zip((1, 3), files, strict=True):
        resize_lora(a, file, rank=2, threads=n)
    one, other = (load_file(f) for f in files)
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_the_file_says_what_it_is_and_where_it_comes_from_without_folders(tmp_path):
    a = write_lora(
        tmp_path / "a.safetensors", metadata={"ss_tag_frequency": "{}", "sshs_model_hash": "0", "ss_network_dim": "3"}
    )
    resize_lora(a, tmp_path / "out.safetensors", rank=2)
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        said = file.metadata()
    assert said["ss_network_module"] == "networks.lora" and said["ss_network_dim"] == said["ss_network_alpha"] == "2"
    assert said["ss_tag_frequency"] == "{}" and "sshs_model_hash" not in said
    assert said["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert json.loads(said["unetscope.lora"])["lora"] == "a.safetensors"
    assert not any(str(tmp_path) in text for text in said.values())


def test_mistakes_are_one_sentence_and_leave_nothing_behind(tmp_path):
    a = write_lora(tmp_path / "a.safetensors")
    xl = write_lora(tmp_path / "xl.safetensors", "sdxl")
    out = tmp_path / "out.safetensors"
    for call, said in [
        (lambda: merge_loras([LoraUse(a), LoraUse(xl)], out), "LoRAs for different architectures cannot be merged"),
        (lambda: merge_loras([], out), "name at least one LoRA"),
        (lambda: merge_loras([LoraUse(a, 0.0)], out), "all strengths are 0"),
        (lambda: resize_lora(a, out), "give the rank to resize to"),
        (lambda: resize_lora(a, out, rank=0), "rank must be at least 1, found 0"),
        (lambda: resize_lora(a, out, energy=1.5), "a share between 0 and 1, such as 0.95; found 1.5"),
        (lambda: resize_lora(a, out, rank=2, style="koya"), r"no style of LoRA names 'koya' \(did you mean 'kohya'"),
        (lambda: merge_loras([LoraUse(a, blocks=[1.0] * 16)], out), "block weights of .* vector of 16 values fits no"),
        (lambda: merge_loras([LoraUse(a, blocks="INZ")], out), "Unknown preset 'INZ'"),
        (lambda: resize_lora(a, a, rank=2, overwrite=True), "is the input"),
        (lambda: resize_lora(a, tmp_path / "out.pt", rank=2), "end the name in .safetensors"),
    ]:
        with pytest.raises(UnetscopeError, match=said):
            call()
    assert sorted(p.name for p in tmp_path.glob("*.*")) == ["a.safetensors", "xl.safetensors"]
    out.write_bytes(b"mine")
    with raising("output.exists", OutputError):
        resize_lora(a, out, rank=2)
    assert out.read_bytes() == b"mine"


def test_numbers_that_the_dtype_cannot_hold_are_refused(tmp_path):
    a = write_lora(tmp_path / "a.safetensors", size=1000.0)
    with pytest.raises(MergeError, match=r"too large for F16 .*choose a wider dtype"):
        merge_loras([LoraUse(a, 1e6)], tmp_path / "out.safetensors")
    merge_loras([LoraUse(a, 1e6)], tmp_path / "out.safetensors", dtype="bf16")
