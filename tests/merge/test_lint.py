"""Each mistake is found in a recipe that makes it, and nothing is found in one that makes none: what recipes and headers tell."""

from __future__ import annotations

import os
from fractions import Fraction

import numpy as np
import pytest
import torch
from lint_reports import changed, checks, the
from places import place
from safetensors.torch import load_file, save_file
from told import names

from unetscope.checkpoints.demo import write_demo
from unetscope.checkpoints.families import layout
from unetscope.merge.lint import component_shares, lint, lint_file
from unetscope.merge.lint.finding import check_of, in_words

UNET = "model.diffusion_model."
HEALTHY = {
    "add": {"method": "add_difference", "inputs": ["a", "b", "base"], "alpha": 0.7},
    "tasks": {"method": "task_arithmetic", "inputs": ["base", "a", "b", "c"], "weights": [0.5, 0.4, 0.3]},
    "iso": {"method": "iso_c", "inputs": ["base", "a", "b", "c"]},
    "uniform": {"method": "uniform", "inputs": ["a", "b", "c"]},
    "sum": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": {"IN*": 0.3, "default": 0.6}},
    "average": {"method": "weighted_average", "inputs": ["a", "b", "c"], "weights": [1, 2, 3]},
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_sound_recipe_has_nothing_worse_than_a_note(name, recipe):
    used = " ".join(dict.fromkeys(HEALTHY[name]["inputs"]))
    report = lint(recipe(used, {"mix": HEALTHY[name]}))
    assert checks(report) == []


def test_nothing_is_written_and_no_model_is_changed(folder, recipe):
    before = {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.iterdir()}
    lint(recipe("a b", {"mix": HEALTHY["sum"]}), deep=True)
    assert {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.iterdir()} == before


# -- what the recipe alone tells --------------------------------------------------------------------------------------


def test_a_chain_of_halves_is_no_mean_and_its_shares_are_told(recipe):
    steps = {
        "one": {"method": "weighted_sum", "inputs": ["a", "b"]},
        "two": {"method": "weighted_sum", "inputs": ["one", "c"], "alpha": 0.5},
    }
    found = the(lint(recipe("a b c", steps)), "uniform")
    assert found.step == "two" and "c 1/2, a 1/4, b 1/4" in found.text and "uniform" in found.remedy
    balanced = {
        "one": {"method": "weighted_sum", "inputs": ["a", "b"]},
        "two": {"method": "weighted_sum", "inputs": ["c", "base"]},
        "all": {"method": "weighted_sum", "inputs": ["one", "two"]},
    }
    assert "uniform" not in checks(lint(recipe("a b c base", balanced)))
    fair = {**steps, "two": {"method": "weighted_sum", "inputs": ["one", "c"], "alpha": 1 / 3}}
    assert "uniform" not in checks(lint(recipe("a b c", fair)))


def test_the_shares_of_a_long_chain_are_powers_of_a_half(recipe):
    steps = {"s1": {"method": "weighted_sum", "inputs": ["a", "b"]}}
    for i, name in enumerate(("c", "base"), start=2):
        steps[f"s{i}"] = {"method": "weighted_sum", "inputs": [f"s{i - 1}", name]}
    made = recipe("a b c base", steps)
    table = component_shares(made, "sd1")[0].shares
    assert table == pytest.approx({"a": 1 / 8, "b": 1 / 8, "c": 1 / 4, "base": 1 / 2})
    assert (
        f"base {Fraction(1, 2)}, c {Fraction(1, 4)}, a {Fraction(1, 8)}, b {Fraction(1, 8)}"
        in the(lint(made), "uniform").text
    )


def test_what_the_result_does_not_use_is_named(recipe):
    steps = {"idle": {"method": "uniform", "inputs": ["a", "c"]}, "mix": {"method": "uniform", "inputs": ["a", "b"]}}
    report = lint(recipe("a b c", steps))
    unused = [f for f in report.findings if check_of(f) == "unused"]
    assert {(f.step, f.subject) for f in unused} == {("idle", ()), ("", ("c",))}


def test_a_model_of_weight_nothing_is_named(recipe):
    report = lint(recipe("a b", {"mix": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0}}))
    assert the(report, "unused").subject == ("b",)


@pytest.mark.parametrize("alpha, far", [(2.0, False), (-1.0, False), (2.5, True), (-1.5, True), ({"IN04": 70}, True)])
def test_a_strength_out_of_range_is_named(alpha, far, recipe):
    step = {"method": "add_difference", "inputs": ["a", "b", "base"], "alpha": alpha}
    report = lint(recipe("a b base", {"mix": step}))
    found = [f for f in report.findings if check_of(f) == "range"]
    assert bool([f for f in found if f.step == "mix"]) == far
    if far:
        assert any("IN04" in f.text for f in found) or not isinstance(alpha, dict)


def test_steps_that_are_each_sound_may_add_up_to_too_much(recipe):
    steps = {
        "one": {"method": "add_difference", "inputs": ["a", "b", "base"], "alpha": 1.5},
        "two": {"method": "add_difference", "inputs": ["one", "b", "base"], "alpha": 1.5},
    }
    found = [f for f in lint(recipe("a b base", steps)).findings if check_of(f) == "range"]
    assert {names(f.text, "3", "unet") for f in found if f.subject == ("b",) and "unet" in f.text} == {True}
    assert {f.subject for f in found} == {("b",), ("base",)}


def test_shares_that_do_not_add_up_are_named(recipe):
    step = {"method": "weighted_average", "inputs": ["a", "b"], "weights": [0.5, 0.3], "normalise": False}
    found = [f for f in lint(recipe("a b", {"mix": step})).findings if check_of(f) == "total"]
    assert {"0.8" in f.text for f in found} == {True}
    for sound in ("tasks", "iso", "add"):
        used = " ".join(HEALTHY[sound]["inputs"])
        assert "total" not in checks(lint(recipe(used, {"mix": HEALTHY[sound]})))


def test_weights_for_labels_that_the_architecture_lacks_are_a_finding(recipe):
    report = lint(recipe("a b", {"mix": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": {"CLIP_G": 0.3}}}))
    assert the(report, "labels").step == "mix" and the(report, "labels").severity == "error"
    assert ".." not in in_words(the(report, "labels"))
    assert report.shares == []


def test_a_recipe_that_is_none_is_one_error(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("models: {a: x.safetensors}\nsteps: {s: {method: weighted_som, inputs: [a]}}\n")
    report = lint_file(path)
    assert checks(report) == ["recipe"] and "weighted_sum" in report.findings[0].text


# -- headers ----------------------------------------------------------------------------------------------------------


def test_missing_files_are_named_and_the_rest_is_checked(recipe):
    steps = {
        "one": {"method": "weighted_sum", "inputs": ["a", "b"]},
        "two": {"method": "weighted_sum", "inputs": ["one", "gone"]},
    }
    report = lint(recipe("a b gone", steps))
    assert list(report.missing) == ["gone"] and the(report, "missing").subject == ("gone",)
    assert "uniform" in checks(report) and report.shares


def test_one_file_under_two_names_is_found(folder, recipe, tmp_path):
    os.link(folder / "a.safetensors", tmp_path / "hard.safetensors")
    report = lint(recipe("a twin", {"mix": {"method": "weighted_sum", "inputs": ["a", "twin"]}},
                         paths={"twin": tmp_path / "hard.safetensors"}))  # fmt: skip
    assert the(report, "twice").subject == ("a", "twin") and the(report, "twice").code == "twice.file"


def test_equal_weights_in_another_file_are_found(folder, recipe, tmp_path):
    wide = changed(folder / "a.safetensors", tmp_path / "wide.safetensors",
                   lambda k, t: t.float() if t.is_floating_point() else None)  # fmt: skip
    made = recipe("a wide", {"mix": {"method": "weighted_sum", "inputs": ["a", "wide"]}}, paths={"wide": wide})
    assert the(lint(made), "twice").code == "twice.weights"
    assert the(lint(made, deep=True), "twice").code == "twice.file"


def test_models_that_predict_differently_are_found(folder, recipe, tmp_path):
    tensors = load_file(folder / "b.safetensors")
    save_file(tensors | {"v_pred": torch.zeros(0)}, tmp_path / "v.safetensors", {"format": "pt"})
    step = {"mix": {"method": "weighted_sum", "inputs": ["a", "v"]}}
    paths = {"v": tmp_path / "v.safetensors"}
    assert the(lint(recipe("a v", step, paths=paths)), "prediction").severity == "error"
    mixed = recipe("a v", step, paths=paths, output={"mix_predictions": True})
    assert the(lint(mixed), "prediction").severity == "warning"


def test_another_architecture_is_found(recipe, tmp_path):
    write_demo(tmp_path / "xl.safetensors", "sdxl", seed=3)
    paths = {"xl": tmp_path / "xl.safetensors"}
    report = lint(
        recipe("xl a base", {"mix": {"method": "add_difference", "inputs": ["xl", "a", "base"]}}, paths=paths)
    )
    assert report.family == "sdxl"
    assert {f.subject for f in report.findings if check_of(f) == "architecture"} == {("xl", "a"), ("xl", "base")}


def test_a_lora_among_the_models_is_found(recipe, tmp_path):
    key = "lora_unet_mid_block_attentions_0_proj_in"
    save_file({f"{key}.lora_down.weight": torch.zeros(4, 8), f"{key}.lora_up.weight": torch.zeros(8, 4)},
              tmp_path / "l.safetensors")  # fmt: skip
    report = lint(
        recipe("a l", {"mix": {"method": "uniform", "inputs": ["a", "l"]}}, paths={"l": tmp_path / "l.safetensors"})
    )
    assert the(report, "kind").subject == ("l",) and "loras" in the(report, "kind").remedy


def test_an_inpainting_model_belongs_first(recipe, tmp_path, folder):
    write_demo(tmp_path / "inpaint.safetensors", "sd1", seed=1, in_channels=9)
    paths = {"inpaint": tmp_path / "inpaint.safetensors"}
    second = recipe("a inpaint", {"mix": {"method": "weighted_sum", "inputs": ["a", "inpaint"]}}, paths=paths)
    assert the(lint(second), "inpainting").severity == "error"
    first = {"method": "add_difference", "inputs": ["inpaint", "a", "base"]}
    assert "inpainting" not in checks(lint(recipe("inpaint a base", {"mix": first}, paths=paths)))


def test_an_output_of_fewer_digits_is_told(recipe, folder, tmp_path):
    step = {"mix": {"method": "uniform", "inputs": ["a", "b"]}}
    found = the(lint(recipe("a b", step, output={"dtype": "fp8_e4m3"})), "dtype")
    assert found.severity == "warning" and names(found.text, "3", "fp8_e4m3")
    assert "dtype" not in checks(lint(recipe("a b", step)), "note", "warning")
    assert the(lint(recipe("a b", step, output={"dtype": "bf16"})), "dtype").severity == "note"


def test_ema_weights_that_nothing_reads_are_told(folder, recipe, tmp_path):
    tensors = load_file(folder / "a.safetensors")
    ema = {
        "model_ema." + k.removeprefix("model.").replace(".", ""): t.clone()
        for k, t in tensors.items()
        if k.startswith(UNET)
    }
    save_file(tensors | ema, tmp_path / "ema.safetensors", {"format": "pt"})
    step = {"mix": {"method": "uniform", "inputs": ["ema", "b"]}}
    report = lint(recipe("ema b", step, paths={"ema": tmp_path / "ema.safetensors"}))
    assert the(report, "ema").severity == "note" and the(report, "ema").subject == ("ema",)


# -- shares -----------------------------------------------------------------------------------------------------------


def test_shares_per_component_are_means_over_parameters(recipe):
    alpha = {"IN04-IN08": 0.7, "OUT*": 0.3, "CLIP_L": 0.2, "default": 0.1}
    made = recipe(
        "a b", {"mix": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": alpha}}, components={"vae": "b"}
    )
    found = {part.component: part for part in component_shares(made, "sd1")}
    total = weighted = 0.0
    for key, spec in layout("sd1").items():
        if key.startswith(UNET):
            label, size = place(key).label, float(np.prod(spec.shape))
            inside = label in {"IN04", "IN05", "IN06", "IN07", "IN08"}
            total += size
            weighted += size * (0.7 if inside else 0.3 if label.startswith("OUT") else 0.1)
    assert found["unet"].shares["b"] == pytest.approx(weighted / total)
    assert found["unet"].spread["b"] == pytest.approx((0.1, 0.7))
    assert found["clip_l"].shares == pytest.approx({"a": 0.8, "b": 0.2})
    assert found["vae"].shares == {"b": 1.0}


def test_a_method_that_is_not_linear_gives_no_share(recipe):
    made = recipe("base a b c", {"mix": {"method": "iso_c", "inputs": ["base", "a", "b", "c"]}})
    unet = component_shares(made, "sd1")[0]
    assert {name: unet.shares[name] for name in "abc"} == {"a": None, "b": None, "c": None}
