"""Commands made from the registry: bases, LoRAs, choices, whole numbers, lists of weights; and the lists of methods."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from tiny import load

from unetscope.checkpoints.demo import write_demo_lora
from unetscope.merge import METHODS
from unetscope.merge.methods.page import page

KEY = "model.diffusion_model.middle_block.1.proj_in.weight"


@pytest.fixture
def lora(here):
    write_demo_lora(here / "style.lora.safetensors", "sd1", modules="attention+conv", seed=3, strength=0.1)
    return here / "style.lora.safetensors"


def recipe(run, *arguments) -> dict:
    """The recipe that a command stands for."""
    saved = Path(f"r{len(list(Path().glob('r*.yaml')))}.yaml")
    code, _, err = run("merge", *arguments, "-o", "out.safetensors", "--dry-run", "--save-recipe", saved)
    assert (code, err) == (0, "")
    return yaml.safe_load(saved.read_text())


def test_a_base_comes_first_and_any_number_of_models_follows(here, run):
    found = recipe(run, "task-arithmetic", *(f"{n}.safetensors" for n in "abcd"), "--weights", "1,0.5,-0.25")
    assert found["models"] == {
        "base": "a.safetensors",
        "b": "b.safetensors",
        "c": "c.safetensors",
        "d": "d.safetensors",
    }
    (step,) = found["steps"].values()
    assert step == {
        "method": "task_arithmetic", "inputs": ["base", "b", "c", "d"], "weights": [1, 0.5, -0.25],
    }  # fmt: skip


def test_one_weight_counts_for_every_model_and_none_leaves_the_default(here, run):
    files = [f"{n}.safetensors" for n in "abc"]
    (step,) = recipe(run, "iso-c", *files, "--weights", "0.5", "--z", "0.8")["steps"].values()
    assert (step["weights"], step["z"]) == ([0.5, 0.5], 0.8)
    (step,) = recipe(run, "iso-c", *files)["steps"].values()
    assert step == {"method": "iso_c", "inputs": ["base", "b", "c"]}
    code, _, err = run("merge", "iso-c", *files, "--weights", "1,2,3", "-o", "out.safetensors")
    assert code == 2 and "2 weights, one for each model after the base; 3 given" in err


def test_a_model_called_base_gets_another_name(here, run):
    (here / "base.safetensors").write_bytes((here / "b.safetensors").read_bytes())
    found = recipe(run, "task-arithmetic", "a.safetensors", "base.safetensors", "c.safetensors")
    assert found["models"] == {"base": "a.safetensors", "base.2": "base.safetensors", "c": "c.safetensors"}


def test_loras_among_the_models_are_told_by_their_tensors(here, run, lora):
    arguments = ["task-arithmetic", "a.safetensors", "b.safetensors", lora.name, "--weights", "0.5,2"]
    found = recipe(run, *arguments)
    assert found["loras"] == {"style.lora": "style.lora.safetensors"}
    assert set(found["models"]) == {"base", "b"}
    code, _, err = run("merge", *arguments, "-o", "x.safetensors", "--dtype", "fp32", "--no-fsync")
    assert (code, err) == (0, "")
    code, _, err = run(
        "merge", *arguments[:3], "--weights", "0.5", "-o", "y.safetensors", "--dtype", "fp32", "--no-fsync"
    )
    with_lora, without = load(here / "x.safetensors")[KEY], load(here / "y.safetensors")[KEY]
    code, _, err = run(
        "merge", "add", "a.safetensors", lora.name, "--alpha", "2", "-o", "z.safetensors", "--dtype", "fp32"
    )
    assert (code, err) == (0, "")
    added = load(here / "z.safetensors")[KEY] - load(here / "a.safetensors")[KEY].float()
    assert added.abs().max() > 0
    torch.testing.assert_close(with_lora - without, added, rtol=1e-4, atol=1e-6)


def test_a_lora_where_a_model_is_meant_is_refused_in_a_sentence(here, run, lora):
    code, out, err = run("merge", "weighted-sum", "a.safetensors", lora.name, "-o", "x.safetensors")
    assert (code, out, len(err.splitlines())) == (2, "", 1)


def test_choices_are_options_with_these_values_alone(here, run):
    (step,) = recipe(run, "pick-component", "a.safetensors", "b.safetensors", "--component", "clip_l")["steps"].values()
    assert step["component"] == "clip_l"
    code, _, err = run("merge", "pick-component", "a.safetensors", "b.safetensors", "-o", "x.safetensors")
    assert code == 2 and "--component" in err
    code, _, err = run(
        "merge", "pick-component", "a.safetensors", "b.safetensors", "--component", "tail", "-o", "x.safetensors"
    )
    assert code == 2 and "tail" in err and "clip_l" in err


VALUES = {"switch": [], "integer": ["7"], "numbers": ["1.5,1.5"], "number": ["0.25"]}


@pytest.mark.parametrize(
    "name", [n for n, m in METHODS.items() if m.result != "delta" and not m.deltas and n != "exchange_ema"]
)
def test_every_method_takes_its_parameters_from_the_command_line(name, here, run):
    method = METHODS[name]
    files = ["a", "b", "c", "d"][: len(method.inputs) + 2] if method.variadic else ["a", "b", "c"][: len(method.inputs)]
    arguments, expected = [], {}
    for p in method.parameters.values():
        flag = p.name.replace("_", "-")
        if p.kind == "switch":
            arguments.append(f"--no-{flag}" if p.default else f"--{flag}")
            expected[p.name] = not p.default
        elif p.kind == "choice":
            arguments += [f"--{flag}", p.choices[-1]]
            if p.default != p.choices[-1]:
                expected[p.name] = p.choices[-1]
        else:
            (text,) = VALUES[p.kind]
            arguments += [f"--{flag}", text]
            expected[p.name] = {"integer": 7, "number": 0.25, "numbers": [1.5, 1.5]}[p.kind]
    (step,) = recipe(run, method.command, *(f"{n}.safetensors" for n in files), *arguments)["steps"].values()
    assert {k: v for k, v in step.items() if k not in ("method", "inputs")} == expected


# -- lists -------------------------------------------------------------------------------------------------------------


def test_methods_are_listed_with_inputs_kind_and_passes(run):
    _, out, _ = run("methods")
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "base + models" in lines["iso_c"] and "whole" in lines["iso_c"]
    assert "unet|text_encoders|" in out and "any number" in lines["uniform"]
    _, out, _ = run("methods", "--json")
    listed = {m["name"]: m for m in json.loads(out)}
    assert listed.keys() == METHODS.keys()
    assert listed["pick_component"]["parameters"]["component"]["choices"][0] == "unet"
    assert all(m["source"] and m["use"] and m["passes"] >= 1 for m in listed.values())


@pytest.mark.parametrize("name", METHODS)
def test_one_method_is_explained_with_all_that_its_docstring_says(name, run):
    code, out, _ = run("methods", name)
    assert code == 0 and METHODS[name].summary in out and METHODS[name].said("Use").split()[0] in out
    assert all(f"\n{p}: " in out for p in METHODS[name].parameters)


def test_the_page_is_printed_as_it_is_committed(run):
    assert run("methods", "--markdown")[1] == page()


# -- the tree of a recipe ----------------------------------------------------------------------------------------------


def test_a_tree_has_loras_as_leaves_and_the_roles_of_base_methods(here, run, lora):
    from unetscope.cli.drawing import recipe_tree
    from unetscope.merge import Recipe

    data = {
        "models": {"m": "a.safetensors", "n": "b.safetensors"},
        "loras": {"l": lora.name},
        "steps": {"s": {"method": "task_arithmetic", "inputs": ["m", "n", "l"], "weights": [0.25, 0.5]}},
    }
    leaves = recipe_tree(Recipe.parse(data), "sd1").children
    assert [(leaf.name, leaf.role) for leaf in leaves] == [
        ("a.safetensors", "base"), ("b.safetensors", "0.25"), (lora.name, "0.5"),
    ]  # fmt: skip
    assert [leaf.share for leaf in leaves] == [pytest.approx(0.75), pytest.approx(0.25), pytest.approx(0.5)]
    assert "LoRA" in leaves[2].detail
    data["steps"]["s"] = {"method": "iso_c", "inputs": ["m", "n", "l"]}
    leaves = recipe_tree(Recipe.parse(data), "sd1").children
    assert [leaf.role for leaf in leaves] == ["base", "", ""] and {leaf.share for leaf in leaves} == {None}
    Path("r.yaml").write_text(yaml.safe_dump(data))
    code, _, err = run("diagram", "r.yaml", "-o", "tree.svg")
    assert (code, err) == (0, "") and lora.name in Path("tree.svg").read_text()


def test_american_spellings_are_taken_on_the_command_line(here, run):
    given = ["a.safetensors", "b.safetensors", "--weights", "0.5,0.25"]
    for flag in ("--no-normalise", "--no-normalize"):
        written = ["-o", f"out{flag}.safetensors", "--save-recipe", f"out{flag}.yaml"]
        code, _, err = run("merge", "weighted-average", *given, flag, *written)
        assert code == 0, err
    one, other = (Path(f"out--no-normali{x}e.yaml").read_text() for x in "sz")
    assert one == other and "normalise: false" in one
