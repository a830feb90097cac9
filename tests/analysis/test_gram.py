"""Inner products and what follows from them, against numpy and against differences pair by pair."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from places import place

from unetscope.analysis import AnalysisError, compare, diff, gram_matrices
from unetscope.analysis.gram import centred, cosines, distances
from unetscope.checkpoints.families import BUFFER_LABELS


def models(write_model, random_model, dtypes=("fp16", "fp32", "bf16", "fp64", "fp16")):
    base = random_model(0)
    out = []
    for i, dtype in enumerate(dtypes):
        change = random_model(i + 1)
        tensors = {k: v + 0.1 * i * change[k] * (place(k).component != "vae") for k, v in base.items()}
        out.append(write_model(f"m{i}", tensors, dtype))
    return [c for c, _ in out], [v for _, v in out]


def test_matrices_are_the_inner_products_of_the_stored_values(write_model, random_model):
    checkpoints, values = models(write_model, random_model)
    table = gram_matrices(checkpoints)
    for key in values[0]:
        x = np.array([v[key].ravel() for v in values])
        assert table[key] == pytest.approx(x @ x.T, rel=1e-12, abs=1e-12)
    labels = table.by_label()
    x = np.array([np.concatenate([v[k].ravel() for k in table.keys if place(k).label == "IN01"]) for v in values])
    assert labels["IN01"] == pytest.approx(x @ x.T, rel=1e-12)
    assert table.total() == pytest.approx(sum(m for n, m in labels.items() if n not in BUFFER_LABELS), rel=1e-14)
    assert table.by_component()["unet"] == pytest.approx(table.total(["IN01", "M00", "OUT"]), rel=1e-14)
    assert table.parameters(["VAE"]) == 6 * 4 * 9


def test_distances_cosines_and_centring_match_numpy(write_model, random_model):
    checkpoints, values = models(write_model, random_model)
    table = gram_matrices(checkpoints)
    key = next(k for k in table.keys if place(k).label == "M00")
    x = np.array([v[key].ravel() for v in values])
    away = np.linalg.norm(x[:, None] - x[None, :], axis=-1)
    assert table.distances(table[key]) == pytest.approx(away, rel=1e-9, abs=1e-9)
    d = x - x[2]
    assert table.centred(2)[key] == pytest.approx(d @ d.T, rel=1e-9, abs=1e-12)
    n = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert cosines(table[key]) == pytest.approx(n @ n.T, rel=1e-12)
    assert np.isnan(cosines(centred(table[key], 2))[2]).all()
    assert (distances(table[key]) >= 0).all()


def test_threads_change_no_digit_of_a_gram_matrix(write_model, random_model):
    checkpoints, _ = models(write_model, random_model)
    one, four = (gram_matrices(checkpoints, threads=n) for n in (1, 4))
    assert (one.matrices == four.matrices).all() and (one.same == four.same).all()
    one, four = (compare(checkpoints, threads=n) for n in (1, 4))
    assert all((one.products[g] == four.products[g]).all() for g in one.products)


@pytest.mark.parametrize("step", [1e-1, 1e-2, 1e-4])
def test_comparing_many_agrees_with_differences_pair_by_pair(write_model, random_model, step):
    """Two clusters far apart; within them models are `step` apart, relative."""
    centres, checkpoints = [random_model(0), random_model(50)], []
    for i in range(4):
        change = random_model(i + 1)
        tensors = {k: v + step * change[k] for k, v in centres[i % 2].items()}
        checkpoints.append(write_model(f"m{i}", tensors, "fp32" if i < 3 else "fp16")[0])
    measured = compare(checkpoints)
    for by in ("model", "component", "label"):
        pairs = measured.pairs(by).set_index(["group", "a", "b"])
        for i, j in combinations(range(4), 2):
            one = diff(checkpoints[i], checkpoints[j])
            rows = {"model": one.overall()} if by == "model" else dict(one.table(by).set_index(by).iterrows())
            for group, row in rows.items():
                got = pairs.loc[(group, f"m{i}", f"m{j}")]
                assert got["distance"] == pytest.approx(row["distance"], rel=1e-4), (group, i, j)
                assert got["cosine_distance"] == pytest.approx(row["cosine_distance"], rel=1e-4), (group, i, j)
                assert got["identical"] == row["identical"]


def test_distances_obey_the_triangle_inequality(write_model, random_model):
    checkpoints, _ = models(write_model, random_model)
    measured = compare(checkpoints)
    for group in measured.products:
        away = measured.distances(group).to_numpy()
        assert (away == away.T).all() and (np.diagonal(away) == 0).all()
        # An fp64 Gram matrix tells distances down to about 1e-8 of the models' size.
        finest = 1e-7 * np.sqrt(measured.products[group].max())
        for k in range(len(away)):
            assert (away <= away[:, [k]] + away[[k], :] + finest).all()


def test_cosines_are_those_of_the_changes_from_the_reference(write_model, random_model):
    checkpoints, values = models(write_model, random_model, ("fp32",) * 4)
    measured = compare(checkpoints[1:], reference=checkpoints[0])
    keys = [k for k in values[0] if place(k).component == "unet"]
    x = np.array([np.concatenate([v[k].ravel() for k in keys]) for v in values])
    d = x[1:] - x[0]
    n = d / np.linalg.norm(d, axis=1, keepdims=True)
    assert measured.names == ("m1", "m2", "m3", "m0")
    assert measured.cosines("unet").to_numpy()[:3, :3] == pytest.approx(n @ n.T, rel=1e-6, abs=1e-9)
    assert measured.cosines("unet").loc["m0"].isna().all()


def test_parts_that_files_share_bit_by_bit_are_found(write_model, random_model):
    base, other = random_model(0), random_model(1)
    vae = [k for k in base if place(k).component == "vae"]
    mixed = other | {k: base[k] for k in vae}
    files = [write_model(n, t)[0] for n, t in (("a", base), ("b", mixed), ("c", base), ("d", other))]
    measured = compare(files)
    shared = measured.shared_parts().set_index("component")["names"]
    assert shared["vae"] == ["a", "b", "c"]
    assert measured.pairs("model").set_index(["a", "b"])["identical"].to_dict()[("a", "c")]
    assert measured.distances().loc["a", "c"] == 0
    assert measured.neighbours().set_index("name").loc["a", "nearest"] == "c"
    places = measured.map().set_index("name")[["x", "y"]]
    assert (places.loc["a"] == places.loc["c"]).all()


def test_a_map_of_points_in_a_plane_keeps_their_distances():
    from unetscope.analysis import Comparison

    rng = np.random.default_rng(0)
    points = rng.standard_normal((7, 2))
    x = np.concatenate([points, np.full((7, 1), 5.0)], axis=1)
    names = tuple("abcdefg")
    measured = Comparison(names, None, {"model": x @ x.T}, {"model": tuple(range(7))}, {"model": 3}, {}, {})
    found = measured.map()
    assert found.attrs["shown"] == pytest.approx(1)
    laid = found[["x", "y"]].to_numpy()
    expected = np.linalg.norm(points[:, None] - points[None], axis=-1)
    assert np.linalg.norm(laid[:, None] - laid[None], axis=-1) == pytest.approx(expected, abs=1e-6)
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    relative = measured.distances(relative=True).to_numpy()
    heights = linkage(squareform(relative, checks=False), "average")[:, 2]
    assert sorted(measured.linkage()[:, 2]) == pytest.approx(sorted(heights))


def test_a_model_with_nan_is_named_and_does_not_spoil_the_others(write_model, random_model):
    broken = random_model(3)
    key = next(k for k in broken if place(k).label == "IN01")
    broken[key].flat[0] = np.nan
    tensors = [random_model(1), random_model(2), broken]
    measured = compare([write_model(f"m{i}", t)[0] for i, t in enumerate(tensors)])
    assert measured.not_finite == ["m2"]
    away = measured.distances()
    assert np.isfinite(away.loc["m0", "m1"]) and away.loc["m2"].isna().all()
    assert list(measured.map()["name"]) == ["m0", "m1"]
    assert len(measured.linkage()) == 1
    assert measured.neighbours().set_index("name").loc["m0", "nearest"] == "m1"


def test_what_is_not_measured_is_listed_with_a_reason(write_model, random_model):
    ids = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    a, b = random_model(1), random_model(2)
    vae = next(k for k in a if place(k).component == "vae")
    del b[vae]
    files = [write_model(n, t, extra={ids: torch.arange(77)})[0] for n, t in (("a", a), ("b", b))]
    left_out = gram_matrices(files).left_out
    assert left_out == {ids: "not floating point: I64", vae: "only in a"}
    with pytest.raises(AnalysisError, match="not floating point"):
        gram_matrices(files)[ids]


def test_containers_do_not_matter(write_model, random_model, tmp_path):
    from unetscope.checkpoints import open_checkpoint

    checkpoints, values = models(write_model, random_model, ("fp32", "fp32"))
    torch.save({k: torch.from_numpy(v).float() for k, v in reversed(values[1].items())}, tmp_path / "m1.ckpt")
    turned = compare([checkpoints[0], open_checkpoint(tmp_path / "m1.ckpt")])
    straight = compare(checkpoints)
    for group in straight.products:
        assert (straight.products[group] == turned.products[group]).all()
    twins = compare([checkpoints[1], open_checkpoint(tmp_path / "m1.ckpt")])
    assert twins.pairs()["identical"].all()


def test_comparing_refuses_in_a_sentence(write_model, random_model):
    a, _ = write_model("a", random_model(1))
    with pytest.raises(AnalysisError, match="at least two"):
        compare([a])
    with pytest.raises(AnalysisError, match="'clipl'"):
        compare([a, a], component="clipl")
    with pytest.raises(AnalysisError, match="clip_g"):
        compare([a, a], component="clip_g")
    lora, _ = write_model("lora", {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": np.ones((4, 8))})
    with pytest.raises(AnalysisError, match="LoRA"):
        compare([a, lora])
