"""The commands that measure, draw and trace: their numbers against numpy, their files, and their words."""

from __future__ import annotations

import csv
import json
import math
import shutil

import pytest
import yaml
from places import place
from tiny import load

from unetscope.checkpoints.demo import write_demo_lora
from unetscope.merge import Recipe, merge

KEY = "model.diffusion_model.output_blocks.4.0.in_layers.2.weight"


def distance_of_label(a, b, label):
    keys = [k for k in a if place(k).label == label and a[k].is_floating_point()]
    change = sum(((b[k].double() - a[k].double()) ** 2).sum() for k in keys)
    return math.sqrt(change / sum((a[k].double() ** 2).sum() for k in keys))


def test_diff_measures_every_label_and_draws_what_it_is_asked_to(here, run):
    code, out, _ = run("diff", "a.safetensors", "b.safetensors", "--json", "--csv", "t.csv")
    assert code == 0
    found = {row["label"]: row for row in json.loads(out)["rows"]}
    a, b = load(here / "a.safetensors"), load(here / "b.safetensors")
    for label in ("IN04", "M00", "OUT", "CLIP_L"):
        assert found[label]["relative_l2"] == pytest.approx(distance_of_label(a, b, label), rel=1e-6)
    with open("t.csv", encoding="utf-8") as file:
        assert {row["label"] for row in csv.DictReader(file)} == set(found)
    code, out, _ = run(
        "diff", "a.safetensors", "b.safetensors", "--heatmap", "h.svg", "--diagram", "d.svg", "--by", "component"
    )
    assert code == 0 and "IN04" in (here / "h.svg").read_text() and "IN04" in (here / "d.svg").read_text()
    assert run("diff", "a.safetensors", "b.safetensors", "--heatmap", "h.svg")[0] == 2


def test_a_copy_is_said_to_be_one(here, run):
    run("convert", "a.safetensors", "half.safetensors", "--dtype", "fp32")
    _, out, _ = run("diff", "a.safetensors", "half.safetensors")
    assert "equal up to fp16 rounding" in out
    _, out, _ = run("diff", "a.safetensors", "a.safetensors")
    assert "bit-identical in every weight" in out


def test_stats_say_what_numpy_says(here, run):
    code, out, _ = run("stats", "a.safetensors", "--by", "tensor", "--json")
    row = next(r for r in json.loads(out)["rows"] if r["key"] == KEY)
    values = load(here / "a.safetensors")[KEY].double()
    assert code == 0
    assert row["mean"] == pytest.approx(float(values.mean()), rel=1e-9)
    assert row["std"] == pytest.approx(float(values.std(correction=0)), rel=1e-6)
    assert (row["min"], row["max"]) == (float(values.min()), float(values.max()))


def test_compare_agrees_with_diff_and_draws_its_plots(here, run):
    code, out, _ = run("compare", "[abcd].safetensors", "--json")
    assert code == 2, "a pattern needs * or ?"
    code, out, _ = run("compare", "a.safetensors", "b.safetensors", "c.safetensors", "--json", "--by", "label")
    pairs = {(r["group"], r["a"], r["b"]): r["distance"] for r in json.loads(out)["pairs"]}
    _, out, _ = run("diff", "a.safetensors", "c.safetensors", "--json")
    for row in json.loads(out)["rows"]:
        if row["label"] in ("IN04", "M00", "CLIP_L", "VAE"):
            assert pairs[row["label"], "a", "c"] == pytest.approx(row["distance"], rel=1e-4)
    code, out, _ = run("compare", "a.safetensors", "b.safetensors", "c.safetensors", "--plot", "plots")
    assert code == 0 and {p.name for p in (here / "plots").iterdir()} == {"model_clusters.png", "model_map.png"}


def test_what_a_pattern_fits_and_cannot_be_used_is_told_and_left_out(here, run, tmp_path):
    for name in "ab":
        shutil.copy(here / f"{name}.safetensors", tmp_path / f"{name}.safetensors")
    (tmp_path / "page.safetensors").write_text("<!DOCTYPE html><html></html>")
    (tmp_path / "none.safetensors").touch()
    write_demo_lora(tmp_path / "lora.safetensors", "sd1")
    for command in (("compare", f"{tmp_path}/*"), ("trace", "a.safetensors", "--among", f"{tmp_path}/*.safetensors")):
        code, out, err = run(*command, "--json")
        assert code == 0, err
        assert [name for name in ("page", "none", "lora") if f"{name}.safetensors" in err] == ["page", "none", "lora"]
    code, out, _ = run("compare", f"{tmp_path}/*", "--json")
    assert json.loads(out)["models"] == ["a", "b"]
    # What is named has to be there; so has something of a pattern.
    for other in ("page.safetensors", "p*.safetensors"):
        assert run("compare", "a.safetensors", f"{tmp_path}/{other}")[0] == 2


def test_trace_recovers_a_recipe_that_makes_the_merge_again(here, run):
    models = {n: f"{n}.safetensors" for n in "ab"}
    recipe = {"models": models, "steps": {"m": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": "GRAD_A"}}}
    merge(Recipe.parse(recipe), "merged.safetensors")
    arguments = (
        "--among",
        "a.safetensors",
        "b.safetensors",
        "c.safetensors",
        "--save-recipe",
        "r.yaml",
        "--plot",
        "s.svg",
    )
    code, out, _ = run("trace", "merged.safetensors", *arguments)
    assert code == 0 and "GRAD_A" in out and "IN04" in (here / "s.svg").read_text()
    assert yaml.safe_load((here / "r.yaml").read_text())["models"]
    assert run("merge", "run", "r.yaml", "-o", "again.safetensors")[0] == 0
    first, again = load(here / "merged.safetensors"), load(here / "again.safetensors")
    assert all((first[k].double() - again[k].double()).abs().max() < 1e-4 for k in first)


def test_trace_does_not_claim_a_recipe_when_an_ingredient_is_withheld(here, run):
    models = {n: f"{n}.safetensors" for n in "abc"}
    merge(
        Recipe.parse({"models": models, "steps": {"m": {"method": "uniform", "inputs": list(models)}}}),
        "merged.safetensors",
    )
    _, out, _ = run("trace", "merged.safetensors", "--among", "a.safetensors", "b.safetensors", "--json")
    found = json.loads(out)
    assert not found["complete"] and found["verdict"] == "incomplete"


def test_predict_says_how_far_the_merge_will_be(here, run):
    models = {n: f"{n}.safetensors" for n in "ab"}
    recipe = Recipe.parse(
        {
            "models": models,
            "steps": {"m": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.25}},
            "output": {"dtype": "fp32"},
        }
    )
    (here / "r.yaml").write_text(recipe.to_yaml())
    merge(recipe, "merged.safetensors")
    _, out, _ = run("predict", "r.yaml", "--json")
    row = next(r for r in json.loads(out) if r["label"] == "M00")
    a, merged = load(here / "a.safetensors"), load(here / "merged.safetensors")
    assert row["relative a"] == pytest.approx(distance_of_label(a, merged, "M00"), rel=1e-4)


def test_spectrum_tells_a_low_rank_change(here, run):
    code, out, _ = run("spectrum", "a.safetensors", "b.safetensors", "--by", "component", "--json")
    assert code == 0 and {row["component"] for row in json.loads(out)} >= {"unet", "clip_l", "vae"}


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("diff", "a.safetensors", "lora.safetensors"), "LoRA"),
        (("diff", "a.safetensors", "b.safetensors", "--metric", "relativ_l2"), "relative_l2"),
        (("compare", "a.safetensors"), "at least two"),
        (("stats", "nothing.safetensors"), "no such file"),
        (("trace", "a.safetensors", "--among", "nothing.safetensors"), "no such file"),
        (("diff", "a.safetensors", "b.safetensors", "--heatmap", "h.gif"), ".gif"),
    ],
)
def test_mistakes_get_one_sentence(arguments, said, here, run):
    code, _, err = run(*arguments)
    assert code == 2 and said in err and "Traceback" not in err
    assert err.count("\n") == 1


def test_no_result_replaces_a_checkpoint(here, run):
    before = (here / "b.safetensors").read_bytes()
    for option in ("--csv", "--heatmap", "--diagram"):
        code, _, err = run("diff", "a.safetensors", "c.safetensors", option, "b.safetensors", "--overwrite")
        assert code == 2 and "expected a name that ends in" in err
    code, _, _ = run(
        "trace", "a.safetensors", "--among", "c.safetensors", "--save-recipe", "b.safetensors", "--overwrite"
    )
    assert code == 2 and (here / "b.safetensors").read_bytes() == before
