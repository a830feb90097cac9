"""`trace` on merges that torch made from correlated fine-tunes: the truth is known, and the merging is not ours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from places import place
from safetensors.torch import load_file, save_file
from tiny import TORCH

from unetscope.analysis.errors import AnalysisError
from unetscope.analysis.trace import trace
from unetscope.checkpoints import open_checkpoint
from unetscope.checkpoints.demo import write_demo

MERGED = ("unet", "clip_l")
# Enough of a model to be one, and no more.
KEPT = ("IN00", "IN01", "IN04", "IN05", "IN07", "M00", "OUT03", "OUT05", "OUT06", "OUT")
LAYERS = (".layers.0.", ".layers.3.", "first_stage_model.decoder.conv_")


def kept(path: Path) -> Path:
    """The same checkpoint with some of its blocks and layers."""
    tensors = {k: v for k, v in load_file(path).items() if place(k).label in KEPT or any(x in k for x in LAYERS)}
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> dict[str, Path]:
    """A base and 8 fine-tunes that share low-rank parts of their changes."""
    folder = tmp_path_factory.mktemp("pool")
    paths = {"base": kept(write_demo(folder / "base.safetensors", "sd1", seed=1))}
    for i in range(8):
        tune = write_demo(folder / f"t{i}.safetensors", "sd1", seed=10 + i, finetune_of=paths["base"])
        paths[f"t{i}"] = tune
    return paths


@pytest.fixture(scope="module")
def values(pool) -> dict[str, dict[str, torch.Tensor]]:
    return {name: load_file(path) for name, path in pool.items()}


def mixed(values, shares_of, dtype="fp16"):
    """sum of shares_of(key)[name] times each model, in double precision, rounded once; VAE and buffers from the first."""
    first = next(iter(shares_of("")))
    out = {}
    for key, tensor in values[first].items():
        if place(key).component in MERGED and tensor.is_floating_point():
            total = sum(share * values[name][key].double() for name, share in shares_of(key).items() if share)
            out[key] = total.to(TORCH[dtype])
        else:
            out[key] = tensor
    return out


def saved(folder: Path, tensors) -> Path:
    path = folder / "merged.safetensors"
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    return path


def traced(path: Path, paths: dict[str, Path], **options):
    with open_checkpoint(path) as merged:
        return trace(merged, [open_checkpoint(p) for p in paths.values()], list(paths), **options)


def among(pool, *names) -> dict[str, Path]:
    return {name: pool[name] for name in names}


def of(report, label):
    return next(t for t in report.labels if t.label == label)


def by_label(rng, names):
    """Random shares for every label."""
    drawn: dict[str, dict[str, float]] = {}

    def shares_of(key: str) -> dict[str, float]:
        label = place(key).label if key else ""
        if label not in drawn:
            drawn[label] = dict(zip(names, rng.dirichlet(np.ones(len(names))).tolist(), strict=True))
        return drawn[label]

    return shares_of, drawn


@pytest.mark.parametrize(("count", "dtype"), [(2, "fp16"), (3, "bf16"), (5, "fp16"), (8, "bf16")])
def test_random_shares_of_every_label_come_back_within_their_own_errors(count, dtype, pool, values, tmp_path):
    names = [f"t{i}" for i in range(count)]
    shares_of, truth = by_label(np.random.default_rng(count), names)
    report = traced(saved(tmp_path, mixed(values, shares_of, dtype)), among(pool, *names))
    assert report.complete and report.verdict == "exact"
    scores = []
    for trace_of in report.labels:
        if trace_of.component in MERGED:
            assert sum(trace_of.shares.values()) == pytest.approx(1, abs=1e-9)
            scores += [(trace_of.shares[n] - truth[trace_of.label][n]) / trace_of.errors[n] for n in names]
    assert np.max(np.abs(scores)) < 5
    assert np.mean(np.abs(scores) < 1.96) > 0.9


@pytest.mark.one_by_one
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("base", [True, False])
def test_nothing_exact_is_claimed_when_an_ingredient_is_withheld(dtype, base, pool, values, tmp_path):
    shares = {"t0": 0.5, "t1": 0.3, "t2": 0.2}
    path = saved(tmp_path, mixed(values, lambda key: shares, dtype))
    candidates = among(pool, "t0", "t1", "t3", *(["base"] if base else []))
    report = traced(path, candidates)
    assert report.verdict == "incomplete" and not report.complete
    assert all(t.verdict == "incomplete" and 0 < t.missing <= 1.001 for t in report.labels if t.component == "unet")
    assert "not listed, or it is not a linear merge" in report.sentences[0]
    assert report.recipe is None


def test_what_is_missing_is_measured_against_the_distance_to_the_nearest_candidate(pool, values, tmp_path):
    merged = mixed(values, lambda key: {"t0": 0.9, "t1": 0.1})
    label = of(traced(saved(tmp_path, merged), among(pool, "t0", "base")), "M00")
    keys = [k for k in merged if place(k).label == "M00"]

    def flat(tensors):
        return torch.cat([tensors[k].double().flatten() for k in keys])

    y, a, b = flat(merged), flat(values["t0"]), flat(values["base"])
    share = float((y - b) @ (a - b) / ((a - b) @ (a - b)))
    nearest = min((y - a).norm(), (y - b).norm())
    assert label.shares["t0"] == pytest.approx(share, abs=1e-5)
    assert label.missing == pytest.approx(float((y - share * a - (1 - share) * b).norm() / nearest), rel=1e-4)


def test_candidates_that_are_no_ingredients_have_the_share_0_within_its_error(pool, values, tmp_path):
    path = saved(tmp_path, mixed(values, lambda key: {"t0": 0.65, "t1": 0.35}))
    report = traced(path, pool)
    scores = [
        t.shares[n] / t.errors[n]
        for t in report.labels
        if t.verdict == "exact"
        for n in t.shares
        if n not in ("t0", "t1")
    ]
    assert len(scores) == 7 * 11
    assert np.max(np.abs(scores)) < 5 and np.mean(np.abs(scores) < 1.96) > 0.9
    assert report.method == "weighted_sum" and list(report.recipe["models"]) == ["t0", "t1"]


def test_a_label_that_was_left_alone_is_exactly_that_models(pool, values, tmp_path):
    def shares_of(key):
        return {"t0": 0.0, "t1": 1.0} if key and place(key).label == "IN04" else {"t0": 0.25, "t1": 0.75}

    report = traced(saved(tmp_path, mixed(values, shares_of)), among(pool, "t0", "t1", "t2"))
    label = of(report, "IN04")
    assert label.verdict == "identical" and label.identical == ("t1",)
    assert label.shares == {"t0": 0.0, "t1": 1.0, "t2": 0.0} and set(label.errors.values()) == {0.0}
    assert of(report, "IN05").verdict == "exact"
    assert "VAE: bit-identical to t0, t1 and t2." in report.sentences


def test_components_of_other_models_are_named(pool, values, tmp_path):
    tensors = mixed(values, lambda key: {"t0": 0.5, "t1": 0.5})
    tensors |= {k: v for k, v in values["t2"].items() if place(k).component == "clip_l"}
    vae = {k: v.clone() + 0.01 for k, v in values["t0"].items() if place(k).component == "vae"}
    path = saved(tmp_path, {**tensors, **vae})
    save_file(vae, tmp_path / "own-vae.safetensors")
    report = traced(path, {**among(pool, "t0", "t1", "t2"), "own-vae": tmp_path / "own-vae.safetensors"})
    assert "VAE: bit-identical to own-vae." in report.sentences
    assert "text encoder CLIP-L: bit-identical to t2." in report.sentences
    assert report.recipe["components"] == {"vae": str(tmp_path / "own-vae.safetensors")}


def test_a_part_that_is_only_rounded_to_another_dtype_says_so(pool, values, tmp_path):
    tensors = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in values["t3"].items()}
    report = traced(saved(tmp_path, tensors), among(pool, "t2", "t3"))
    assert {t.verdict for t in report.labels if t.label != "VAE"} == {"equal"}
    assert any("equal to t3 up to rounding to bf16" in s for s in report.sentences)


@pytest.fixture(scope="module")
def half(pool, values, tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    """M = 0.5 t0 + 0.5 t1, rounded to fp16."""
    tensors = mixed(values, lambda key: {"t0": 0.5, "t1": 0.5})
    return saved(tmp_path_factory.mktemp("half"), tensors), tensors


@pytest.mark.parametrize("shares", [{"M": 0.7, "t2": 0.3}, {"t0": 0.42, "t1": 0.28, "t2": 0.3}])
def test_a_candidate_that_is_a_merge_of_others_is_told_from_them(shares, half, pool, values, tmp_path):
    path, tensors = half
    merged = mixed({**values, "M": tensors}, lambda key: shares)
    report = traced(saved(tmp_path, merged), {**among(pool, "t0", "t1", "t2"), "M": path})
    assert report.complete
    assert any(s.startswith("M is itself a merge of other listed files") for s in report.sentences)
    assert set(report.recipe["models"]) == set(shares)
    for label in (t for t in report.labels if t.component == "unet"):
        if not label.ambiguous:
            for name, share in shares.items():
                assert abs(label.shares[name] - share) < 5 * label.errors[name] + 1e-9
    relation = next(t.relations["M"] for t in report.labels if "M" in t.relations)
    assert relation == pytest.approx({"t0": 0.5, "t1": 0.5}, abs=0.01)


def test_no_split_is_invented_among_candidates_of_which_one_is_a_merge_of_the_others(half, pool, values, tmp_path):
    # In double precision M is 0.5 t0 + 0.5 t1 to the last digit: nothing in the merge tells which were used.
    merged = mixed(values, lambda key: {"t0": 0.5, "t1": 0.2, "t2": 0.3})
    exact = mixed(values, lambda key: {"t0": 0.5, "t1": 0.5}, "fp32")
    save_file({k: v.contiguous() for k, v in exact.items()}, tmp_path / "M.safetensors")
    report = traced(saved(tmp_path, merged), {**among(pool, "t0", "t1", "t2"), "M": tmp_path / "M.safetensors"})
    for label in (t for t in report.labels if t.component == "unet"):
        assert label.ambiguous and len(label.shares) == 3
        found = label.shares
        together = {n: found.get(n, 0) + 0.5 * found.get("M", 0) for n in ("t0", "t1")} | {"t2": found["t2"]}
        assert together == pytest.approx({"t0": 0.5, "t1": 0.2, "t2": 0.3}, abs=2e-3)
    assert any("another choice among these fits as well" in s for s in report.sentences)


def test_copies_of_a_candidate_count_together(pool, values, tmp_path):
    copy = tmp_path / "copy.safetensors"
    save_file({k: v.contiguous() for k, v in values["t0"].items()}, copy)
    path = saved(tmp_path, mixed(values, lambda key: {"t0": 0.6, "t1": 0.4}))
    report = traced(path, {"t0": pool["t0"], "copy": copy, "t1": pool["t1"]})
    label = of(report, "OUT05")
    assert label.same == {"t0": ("copy",)} and "copy" not in label.shares
    assert label.shares["t0"] == pytest.approx(0.6, abs=1e-4)
    assert report.recipe["models"] == {"t0": str(pool["t0"]), "t1": str(pool["t1"])}


def test_a_non_linear_merge_is_called_what_it_may_be(pool, values, tmp_path):
    a, b, c = (values[n] for n in ("t0", "t1", "base"))
    out = dict(a)
    for key in a:
        if place(key).component == "unet":
            x, y, z = (v[key].double() for v in (a, b, c))
            near, far = (y - x).abs(), (y - z).abs()
            out[key] = (x + 1.8 * near / (near + far + 1e-30) * (y - z)).half()
    report = traced(saved(tmp_path, out), among(pool, "t0", "t1", "base"))
    assert report.verdict == "incomplete"
    assert "or it is not a linear merge" in report.sentences[0]
    assert "text encoder CLIP-L: bit-identical to t0." in report.sentences


def test_shares_that_do_not_add_up_to_one_are_noticed(pool, values, tmp_path):
    path = saved(tmp_path, mixed(values, lambda key: {"t0": 0.6, "t1": 0.35}))
    report = traced(path, among(pool, "t0", "t1", "t2"))
    assert report.verdict == "incomplete"
    assert of(report, "M00").scale == pytest.approx(0.95, abs=1e-4)
    assert any("add up to 0.9500" in s for s in report.sentences)


def test_rounding_twice_is_nearly_a_linear_merge(half, pool, values, tmp_path):
    _, tensors = half
    path = saved(tmp_path, mixed({**values, "M": tensors}, lambda key: {"M": 0.7, "t2": 0.3}))
    report = traced(path, among(pool, "t0", "t1", "t2"))
    assert report.verdict == "nearly" and not report.complete
    assert all(1.1 < t.rho < 4 for t in report.labels if t.verdict == "nearly")
    assert report.recipe["steps"]["merged"]["weights"] == [0.35, 0.35, 0.3]


def test_a_merge_stored_as_fp32_is_exact_up_to_its_arithmetic(pool, values, tmp_path):
    shares = {"t0": 0.63, "t1": 0.37}
    tensors = {}
    for key, tensor in values["t0"].items():
        merged = place(key).component in MERGED and tensor.is_floating_point()
        tensors[key] = sum(w * values[n][key].float() for n, w in shares.items()) if merged else tensor
    report = traced(saved(tmp_path, tensors), among(pool, "t0", "t1", "t2"))
    assert report.complete
    assert all(t.shares["t0"] == pytest.approx(0.63, abs=1e-6) for t in report.labels if t.verdict == "exact")
    less = traced(saved(tmp_path, tensors), among(pool, "t0", "t2"))
    assert less.verdict == "incomplete"


def test_a_merge_stored_as_fp8_is_traced_as_far_as_it_goes(pool, values, tmp_path):
    path = saved(tmp_path, mixed(values, lambda key: {"t0": 0.7, "t1": 0.3}, "fp8_e4m3"))
    report = traced(path, among(pool, "t0", "t1", "t2"))
    assert report.complete
    for label in (t for t in report.labels if t.verdict == "exact"):
        for name, share in {"t0": 0.7, "t1": 0.3, "t2": 0.0}.items():
            assert abs(label.shares[name] - share) < 4 * label.errors[name]
    assert not any(s.endswith(": .") for s in report.sentences)


def test_twenty_candidates(pool, values, tmp_path):
    paths = dict(pool)
    for i in range(11):
        name = f"u{i}"
        paths[name] = write_demo(tmp_path / f"{name}.safetensors", "sd1", seed=50 + i, finetune_of=pool["base"])
    shares = {"t1": 0.2, "t4": 0.3, "t6": 0.5}
    report = traced(saved(tmp_path, mixed(values, lambda key: shares)), paths)
    assert len(report.names) == 20 and report.complete
    assert set(report.recipe["models"]) == set(shares)
    assert report.recipe["steps"]["merged"]["weights"] == pytest.approx([0.2, 0.3, 0.5], abs=1e-4)


def test_the_number_of_threads_changes_nothing(pool, values, tmp_path):
    path = saved(tmp_path, mixed(values, lambda key: {"t0": 0.2, "t1": 0.8}, "bf16"))
    one, three = (traced(path, among(pool, "t0", "t1", "t2"), threads=n) for n in (1, 3))
    assert one.to_plain() == three.to_plain()
    assert one.by_tensor().equals(three.by_tensor())


def test_tensors_that_no_candidate_has_and_broken_numbers_are_reported(pool, values, tmp_path):
    tensors = mixed(values, lambda key: {"t0": 0.2, "t1": 0.8})
    key = "model.diffusion_model.middle_block.1.proj_in.weight"
    tensors[key].view(-1)[3] = float("nan")
    tensors["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(8, 9, 3, 3).half()
    report = traced(saved(tmp_path, tensors), among(pool, "t0", "t1"))
    assert of(report, "M00").verdict == "exact"
    assert any("1 tensors of the merge are in no listed file with this shape" in s for s in report.sentences)
    assert any("1 weights that are NaN or infinite" in s for s in report.sentences)


def test_the_report_is_tables_and_plain_data(pool, values, tmp_path):
    path = saved(tmp_path, mixed(values, lambda key: {"t0": 0.2, "t1": 0.8}))
    report = traced(path, among(pool, "t0", "t1"), base=open_checkpoint(pool["base"]))
    assert report.names == ("t0", "t1", "base")
    labels, tensors = report.by_label(), report.by_tensor()
    assert list(labels.columns)[:3] == ["label", "component", "parameters"]
    assert {"rho", "verdict", "missing", "share t0", "error base"} <= set(labels.columns)
    assert labels["parameters"].sum() == tensors["parameters"].sum()
    assert set(tensors["label"]) == set(labels["label"])
    assert json.loads(json.dumps(report.to_plain(), allow_nan=False))["among"] == list(report.names)


def test_progress_counts_every_byte_of_every_file_once(pool, values, tmp_path):
    path = saved(tmp_path, mixed(values, lambda key: {"t0": 0.2, "t1": 0.8}))
    seen = []
    traced(path, among(pool, "t0", "t1"), progress=lambda done, total, key: seen.append((done, total)))
    traced_bytes = sum(
        v.nbytes for k, v in values["t0"].items() if place(k).component in (*MERGED, "vae") and v.is_floating_point()
    )
    assert seen[-1] == (3 * traced_bytes, 3 * traced_bytes)


def test_mistakes_are_explained(pool, make_checkpoint, tmp_path):
    merged, other = open_checkpoint(pool["t0"]), open_checkpoint(pool["t1"])
    with pytest.raises(AnalysisError, match="name at least one"):
        trace(merged, [])
    with pytest.raises(AnalysisError, match="1 candidates have 2 names"):
        trace(merged, [other], ["a", "b"])
    with pytest.raises(AnalysisError, match="'a'"):
        trace(merged, [other, other], ["a", "a"])
    lora = tmp_path / "lora.safetensors"
    save_file({"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.zeros(4, 8)}, lora)
    with pytest.raises(AnalysisError, match="LoRA"):
        trace(merged, [open_checkpoint(lora)])
    vae = tmp_path / "vae.safetensors"
    save_file({"first_stage_model.decoder.conv_in.weight": torch.zeros(3, 3, 3, 3)}, vae)
    with pytest.raises(AnalysisError, match="shares no tensor"):
        trace(merged, [open_checkpoint(vae)])
