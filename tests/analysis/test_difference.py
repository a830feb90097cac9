"""Every metric of a pair against numpy on the same tensors, and what a difference says in words."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from places import place

from unetscope.analysis import AnalysisError, diff, records, sentences, values_by_label
from unetscope.analysis.metrics import BASE_METRICS, PAIR_METRICS
from unetscope.checkpoints.stream import Cancelled


def reference(a: np.ndarray, b: np.ndarray, c: np.ndarray | None = None) -> dict[str, float]:
    """The metrics of two flat fp64 arrays, from their formulas."""
    d = b - a
    cosine = a @ b / np.sqrt((a @ a) * (b @ b))
    out = {
        "relative_l2": np.sqrt((d**2).sum() / (a**2).sum()),
        "cosine_distance": 1 - cosine,
        "distance": np.linalg.norm(d),
        "rms": np.sqrt(np.mean(d**2)),
        "mean_abs": np.mean(abs(d)),
        "max_abs": abs(d).max(),
        "changed": np.mean(d != 0),
        "sign_flip": np.mean(a * b < 0),
    }
    if c is None:
        return out
    p, q = a - c, b - c
    weight = np.minimum(abs(p), abs(q))
    both = (p != 0) & (q != 0)
    return out | {
        "task_cosine": p @ q / np.sqrt((p @ p) * (q @ q)),
        "sign_conflict": weight[both & (np.sign(p) != np.sign(q))].sum() / weight[both].sum(),
        "moved_a": np.linalg.norm(p) / np.linalg.norm(c),
        "moved_b": np.linalg.norm(q) / np.linalg.norm(c),
    }


def flat(tensors: dict[str, np.ndarray], keys) -> np.ndarray:
    return np.concatenate([tensors[key].ravel() for key in keys])


def three(write_model, random_model, dtypes=("fp16", "fp16", "fp16")):
    base = random_model(0)
    a = {k: v + random_model(1)[k] * 0.3 for k, v in base.items()}
    b = {k: v + random_model(2)[k] * 0.3 for k, v in base.items()}
    a["alphas_cumprod"] = b["alphas_cumprod"] = base["alphas_cumprod"]
    return [write_model(n, t, d) for n, t, d in zip("abc", (a, b, base), dtypes, strict=True)]


@pytest.mark.one_by_one
@pytest.mark.parametrize("dtypes", [("fp16",) * 3, ("bf16", "fp32", "fp16"), ("fp64", "fp16", "fp32")])
@pytest.mark.parametrize("by", ["tensor", "label", "component", "kind", "layer"])
def test_metrics_match_numpy_in_every_grouping(write_model, random_model, dtypes, by):
    (a, va), (b, vb), (c, vc) = three(write_model, random_model, dtypes)
    measured = diff(a, b, c)
    table = measured.table(by)
    tensors = measured.table("tensor")
    layers = measured.terms["layer"]
    for _, row in table.iterrows():
        if by == "tensor":
            keys = [row["key"]]
        elif by == "kind":
            keys = tensors["key"][(tensors["kind"] == row["kind"]) & (tensors["label"] == row["label"])]
        elif by == "layer":
            keys = tensors["key"][layers == row["layer"]]
        else:
            keys = tensors["key"][tensors[by] == row[by]]
        if set(keys) == {"alphas_cumprod"} and len(set(dtypes)) == 1:
            assert row["identical"]
            continue
        if "alphas_cumprod" in set(keys):
            continue
        for name, expected in reference(*(flat(v, keys) for v in (va, vb, vc))).items():
            assert row[name] == pytest.approx(expected, rel=1e-9, abs=1e-13), (name, list(keys))
    assert table["parameters"].sum() == sum(v.size for v in va.values())


def test_a_blocks_value_comes_from_its_sums_and_not_from_a_mean_of_ratios(write_model, random_model):
    (a, va), (b, vb), _ = three(write_model, random_model)
    row = diff(a, b).table("label").set_index("label").loc["IN01"]
    keys = [k for k in va if place(k).label == "IN01"]
    expected = reference(flat(va, keys), flat(vb, keys))
    assert row["relative_l2"] == pytest.approx(expected["relative_l2"], rel=1e-12)
    assert row["tensors"] == len(keys)


def test_the_whole_model_leaves_out_buffers(write_model, random_model):
    (a, va), (b, vb), _ = three(write_model, random_model)
    keys = [k for k in va if k != "alphas_cumprod"]
    assert diff(a, b).overall()["distance"] == pytest.approx(np.linalg.norm(flat(vb, keys) - flat(va, keys)), rel=1e-12)


def test_cosine_distance_keeps_its_digits_when_models_are_near(write_model, random_model):
    a = random_model(1)
    b = {k: v * (1 + 1e-5 * np.random.default_rng(3).standard_normal(v.shape)) for k, v in a.items()}
    (ca, va), (cb, vb) = write_model("a", a, "fp64"), write_model("b", b, "fp64")
    for row in diff(ca, cb).table("tensor").itertuples():
        x, y = va[row.key].ravel().astype(np.longdouble), vb[row.key].ravel().astype(np.longdouble)
        cross = (x @ x) * (y @ y)
        exact = 1 - (x @ y) / np.sqrt(cross)
        assert row.cosine_distance == pytest.approx(float(exact), rel=1e-5)


def test_identical_tensors_are_found_by_their_bits(write_model, random_model):
    tensors = random_model(1)
    a, _ = write_model("a", tensors)
    key = next(k for k in tensors if place(k).label == "OUT")
    changed = {k: v.copy() for k, v in tensors.items()}
    changed[key].flat[0] = 0.0
    minus = {k: v.copy() for k, v in changed.items()}
    minus[key].flat[0] = -0.0
    (zero, _), (negative, _) = write_model("zero", changed), write_model("negative", minus)
    table = diff(a, zero).table("component").set_index("component")
    assert table["identical"].to_dict() == {"unet": False, "clip_l": True, "vae": True, "schedule": True}
    # 0.0 and -0.0 are equal numbers with other bits.
    row = diff(zero, negative).table("label").set_index("label").loc["OUT"]
    assert row["distance"] == 0 and row["changed"] == 0 and not row["identical"]


@pytest.mark.parametrize("narrow", ["fp16", "bf16"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_rounded_copy_says_so(write_model, random_model, narrow, turned):
    tensors = random_model(1)
    pair = [write_model("full", tensors, "fp32")[0], write_model("half", tensors, narrow)[0]]
    measured = diff(*(reversed(pair) if turned else pair))
    assert measured.table("label")["equal_rounded"].all()
    assert f"equal up to {narrow} rounding" in sentences(measured)[0]
    touched = {k: v.copy() for k, v in tensors.items()}
    touched["first_stage_model.decoder.conv_in.weight"].flat[-1] += 0.01
    other = diff(pair[0], write_model("touched", touched, narrow)[0])
    said = other.table("label").set_index("label")["equal_rounded"]
    assert said["IN01"] and not said["VAE"]


def test_values_that_are_not_finite_are_counted_and_left_out(write_model, random_model):
    key = "first_stage_model.decoder.conv_in.weight"
    a, b = random_model(1), random_model(2)
    a[key].flat[3], b[key].flat[5], b[key].flat[3] = np.nan, np.inf, np.nan
    (ca, va), (cb, vb) = write_model("a", a), write_model("b", b)
    row = diff(ca, cb).table("tensor").set_index("key").loc[key]
    keep = np.isfinite(va[key]) & np.isfinite(vb[key])
    assert row["not_finite"] == 2
    for name, expected in reference(va[key][keep], vb[key][keep]).items():
        assert row[name] == pytest.approx(expected, rel=1e-9), name


def test_relative_change_of_a_zero_tensor_is_undefined(write_model, random_model):
    key = "first_stage_model.decoder.conv_in.weight"
    a = random_model(1) | {key: np.zeros((6, 4, 3, 3))}
    (ca, _), (cb, _) = write_model("a", a), write_model("b", random_model(1))
    row = diff(ca, cb).table("tensor").set_index("key").loc[key]
    assert np.isnan(row["relative_l2"]) and np.isnan(row["cosine_distance"]) and row["distance"] > 0
    same = diff(ca, ca).table("tensor").set_index("key").loc[key]
    assert same["relative_l2"] == 0 and same["identical"]


def test_integers_are_identical_or_not_and_have_no_metrics(write_model, random_model):
    key = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    a, _ = write_model("a", random_model(1), extra={key: torch.arange(77)})
    b, _ = write_model("b", random_model(1), extra={key: torch.arange(77).flip(0)})
    row = diff(a, b).table("tensor").set_index("key").loc[key]
    assert not row["identical"] and np.isnan(row["relative_l2"])
    assert diff(a, b).table("label").set_index("label").loc["CLIP_L"]["distance"] == 0


def test_one_sided_tensors_and_other_shapes_are_reported(write_model, random_model):
    a, b = random_model(1), random_model(2)
    gone = "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"
    del b[gone]
    first = next(k for k in a if k.endswith("out.2.weight"))
    b[first] = np.zeros((4, 9, 3, 3))
    measured = diff(write_model("a", a)[0], write_model("b", b)[0])
    assert measured.left_out.set_index("key")["reason"].to_dict() == {
        gone: "only in a",
        first: "shapes differ: [4, 8, 3, 3] in a, [4, 9, 3, 3] in b",
    }
    assert any("only in a" in s for s in sentences(measured))


def test_two_changes_in_one_direction_agree_and_opposite_ones_clash(write_model, random_model):
    base, change = random_model(0), random_model(1)
    move = lambda s: {k: v + s * change[k] * (k != "alphas_cumprod") for k, v in base.items()}  # noqa: E731
    c, a, same, against = (write_model(n, move(s), "fp32")[0] for n, s in (("c", 0), ("a", 1), ("s", 0.5), ("n", -1)))
    together, apart = diff(a, same, c), diff(a, against, c)
    assert together.overall()["task_cosine"] == pytest.approx(1, abs=1e-6)
    assert together.overall()["sign_conflict"] == pytest.approx(0, abs=1e-6)
    assert apart.overall()["task_cosine"] == pytest.approx(-1, abs=1e-6)
    assert apart.overall()["sign_conflict"] == pytest.approx(1, abs=1e-6)
    assert "should merge well" in sentences(together)[-1] and "against each other" in sentences(apart)[-1]


def test_threads_change_no_digit(write_model, random_model):
    (a, _), (b, _), (c, _) = three(write_model, random_model)
    one, four = diff(a, b, c, threads=1), diff(a, b, c, threads=4)
    assert one.terms.equals(four.terms)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-4, 1e-2, 1.0]))
def test_distance_is_symmetric_and_blind_to_key_order(tmp_path_factory, seed, scale):
    from safetensors.torch import save_file

    from unetscope.checkpoints import open_checkpoint

    folder, rng = tmp_path_factory.mktemp("pair"), np.random.default_rng(seed)
    keys = [f"model.diffusion_model.input_blocks.{i}.0.in_layers.2.weight" for i in range(1, 5)]
    a = {k: torch.from_numpy(rng.standard_normal((3, 3, 3, 3))) for k in keys}
    b = {k: v + scale * torch.from_numpy(rng.standard_normal((3, 3, 3, 3))) for k, v in a.items()}
    save_file(a, folder / "a.safetensors")
    save_file(b, folder / "b.safetensors")
    torch.save({"state_dict": dict(reversed(b.items()))}, folder / "b.ckpt")
    first, second, turned = (open_checkpoint(folder / n) for n in ("a.safetensors", "b.safetensors", "b.ckpt"))
    forward, backward = diff(first, second), diff(second, first)
    symmetric = ["cosine_distance", "distance", "rms", "mean_abs", "max_abs", "changed", "sign_flip"]
    one, other = (d.table("label").set_index("label")[symmetric] for d in (forward, backward))
    assert np.allclose(one, other, rtol=1e-9, atol=0)
    assert forward.table("label").equals(diff(first, turned).table("label"))
    assert diff(second, turned).table("label")["identical"].all()
    # Relative to b instead of a, the same change has another size, but the same direction.
    assert (forward.table("label")["relative_l2"] > 0).all()


def test_tables_are_plain_data_for_json_and_csv(write_model, random_model):
    (a, _), (b, _), (c, _) = three(write_model, random_model)
    table = diff(a, b, c).table("label", sort="relative_l2")
    rows = json.loads(json.dumps(records(table), allow_nan=False))
    assert rows[0]["cosine_distance"] == table["cosine_distance"][0] and rows[0]["identical"] is False
    assert set(PAIR_METRICS) | set(BASE_METRICS) <= set(rows[0])
    assert table["relative_l2"].dropna().is_monotonic_decreasing
    values = values_by_label(table, "relative_l2")
    assert values["IN01"] == table.set_index("label").loc["IN01", "relative_l2"]


def test_mistakes_are_said_in_a_sentence(write_model, random_model):
    (a, _), (b, _), _ = three(write_model, random_model)
    measured = diff(a, b)
    with pytest.raises(AnalysisError, match="'task_cosine'"):
        measured.table("label", sort="task_cosine")
    with pytest.raises(AnalysisError, match="'block'"):
        measured.table("block")
    with pytest.raises(AnalysisError, match="values per label need a table by label"):
        values_by_label(measured.table("kind"), "rms")
    other, _ = write_model("other", {"model.diffusion_model.out.0.weight": np.ones(3)})
    with pytest.raises(AnalysisError, match="no tensor to compare"):
        diff(a, other)


def test_a_pass_can_be_stopped(write_model, random_model):
    import threading

    (a, _), (b, _), _ = three(write_model, random_model)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        diff(a, b, cancel=stop)
