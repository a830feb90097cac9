"""`unetscope lint`: what it prints and how it ends."""

from __future__ import annotations

import json

import pytest
import yaml

from unetscope.checkpoints.demo import write_demo


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    folder = tmp_path_factory.mktemp("family")
    write_demo(folder / "base.safetensors", "sd1", seed=1)
    for name, seed in (("a", 11), ("b", 12)):
        write_demo(folder / f"{name}.safetensors", "sd1", seed=seed, finetune_of=folder / "base.safetensors")
    return folder


@pytest.fixture
def write(family, tmp_path):
    def write(**recipe):
        models = {name: str(family / f"{name}.safetensors") for name in recipe.pop("models").split()}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({"models": models, **recipe}, sort_keys=False))
        return path

    return write


SOUND = {"mix": {"method": "add_difference", "inputs": ["a", "b", "base"], "alpha": 0.6}}
WASTEFUL = {"mix": {"method": "weighted_sum", "inputs": ["a", "b"]}}


def test_a_sound_recipe_ends_well_and_shows_its_shares(write, run):
    code, out, _ = run("lint", write(models="a b base", steps=SOUND), "--strict")
    assert code == 0
    assert "Shares" in out and "nothing to complain about" in out and "-0.6" in out


def test_warnings_end_badly_only_when_strict(write, run):
    path = write(models="a b base", steps=WASTEFUL)
    code, out, _ = run("lint", path)
    assert code == 0 and "warning: the model base is not used" in out and "1 warning" in out
    assert run("lint", path, "--strict")[0] == 1


def test_errors_end_badly(write, run):
    code, out, _ = run(
        "lint", write(models="a b gone", steps={"mix": {"method": "uniform", "inputs": ["a", "b", "gone"]}})
    )
    assert code == 1 and "error: gone cannot be opened" in out and "Shares" in out


def test_json_has_findings_and_shares(write, run):
    code, out, _ = run("lint", write(models="a b base", steps=WASTEFUL), "--json", "--deep")
    found = json.loads(out)
    assert code == 0 and found["deep"] and found["family"] == "sd1"
    (finding,) = [f for f in found["findings"] if f["severity"] == "warning"]
    assert finding["check"] == "unused" and finding["models"] == ["base"] and finding["why"] and finding["remedy"]
    unet = next(part for part in found["shares"] if part["component"] == "unet")
    assert unet["shares"] == {"a": 0.5, "b": 0.5}


def test_a_file_that_is_no_recipe(run, tmp_path):
    code, _, err = run("lint", tmp_path / "nowhere.yaml")
    assert code == 2 and "no such recipe" in err
    (tmp_path / "bad.yaml").write_text("models: 3\n")
    code, out, _ = run("lint", tmp_path / "bad.yaml")
    assert code == 1 and "error" in out


def test_weights_that_fit_no_architecture_are_taken_for_none_where_no_model_tells(tmp_path, run):
    """No family is assumed: lint says so, a diagram is refused, shares are not worked out."""
    path = tmp_path / "r.yaml"
    step = {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": [0.5] * 7}
    models = {"a": "gone.safetensors", "b": "gone-too.safetensors"}
    path.write_text(yaml.safe_dump({"models": models, "steps": {"m": step}}))
    code, out, _ = run("lint", path, "--json")
    report = json.loads(out)
    assert code == 1 and report["family"] == "" and report["shares"] == []
    assert [f["severity"] for f in report["findings"]].count("error") >= 1
    code, _, err = run("diagram", path, "-o", tmp_path / "r.svg")
    assert code == 2 and err.count("\n") == 1 and not (tmp_path / "r.svg").exists()
