"""`unetscope lora ...`, as a user types it."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file
from safetensors.torch import load_file
from safetensors.torch import save_file as save_torch
from small_loras import changes, write_lora
from tiny import leftovers

from unetscope.checkpoints.demo import write_demo_lora


@pytest.fixture
def loras(here):
    write_lora(here / "one.safetensors")
    write_lora(here / "two.safetensors", seed=1, rank=2)
    write_lora(here / "big.safetensors", "sdxl", rank=4)
    return here


def test_bake_writes_the_sum_and_the_recipe_for_it(run, loras):
    code, _, err = run(
        *(
            "lora",
            "bake",
            "a.safetensors",
            "--lora",
            "one.safetensors:0.8:0.5",
            "--lora",
            "two.safetensors",
            "--dtype",
            "fp32",
        ),
        *("-o", "baked.safetensors", "--save-recipe", "baked.yaml"),
    )
    assert code == 0, err
    base, baked = load_file("a.safetensors"), load_file("baked.safetensors")
    one, two = (changes(load_file(f"{name}.safetensors")) for name in ("one", "two"))
    for key, change in one.items():
        wanted = base[key].double().numpy() + (0.8 if key.startswith("model.") else 0.5) * change + two[key]
        assert np.allclose(baked[key].numpy(), wanted, atol=1e-6), key
    code, _, err = run("merge", "run", "baked.yaml", "-o", "again.safetensors")
    assert code == 0, err
    again = load_file("again.safetensors")
    assert all(np.array_equal(again[key].numpy(), baked[key].numpy()) for key in baked)


def test_a_lora_whose_alphas_are_0_changes_nothing_and_is_refused(run, loras):
    write_lora(loras / "none.safetensors", alpha=0.0)
    for command in (
        ("bake", "a.safetensors", "--lora", "none.safetensors"),
        ("merge", "one.safetensors", "none.safetensors"),
        ("resize", "none.safetensors", "--rank", "1"),
        ("convert", "none.safetensors", "--to", "peft"),
    ):
        code, _, err = run("lora", *command, "-o", "out.safetensors")
        assert code == 2 and "none" in err and "alpha is 0" in err and err.count("\n") == 1, command
        assert not (loras / "out.safetensors").exists() and not leftovers(loras)
    code, _, err = run("lora", "convert", "none.safetensors", "--to", "single-file", "-o", "out.safetensors")
    assert code == 0, err  # names alone: alphas stay what they are
    tensors = load_file("one.safetensors")
    name = next(name for name in tensors if name.endswith(".alpha"))
    save_torch(tensors | {name: tensors[name] * 0}, "some.safetensors")
    code, _, err = run("lora", "merge", "some.safetensors", "two.safetensors:0", "-o", "sum.safetensors")
    assert code == 0 and "some.safetensors: the alpha of 1 change of 5 is 0" in err
    assert "two.safetensors: its strength is 0 wherever it changes anything" in err


def test_bake_takes_block_weights_for_all_or_for_each(run, loras):
    def baked(*options):
        files = ("--lora", "one.safetensors", "--lora", "two.safetensors")
        code, _, err = run("lora", "bake", "a.safetensors", *files, *options, "-o", "out.safetensors", "--overwrite")
        assert code == 0, err
        return load_file("out.safetensors")

    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    plain, base = load_file("a.safetensors")[key].double().numpy(), "--lbw"
    one, two = (changes(load_file(f"{name}.safetensors"))[key] for name in ("one", "two"))
    for options, wanted in [
        ((), plain + one + two),
        ((base, "OUTALL"), plain),
        ((base, "OUTALL", base, "1"), plain + two),
        ((base, "0.5", base, "INS"), plain + 0.5 * one + two),
        ((base, "IN01-IN02: 0.25"), plain + 0.25 * one + 0.25 * two),
        ((base, "IN05-OUT05:attn:0", base, "IN01:attn1:0"), plain + one),
        ((base, "OUTALL; IN01:to_q:0.5", base, "::0"), plain + 0.5 * one),
        ((base, "ALL0.5"), plain + 0.5 * one + 0.5 * two),
    ]:
        assert np.allclose(baked(*options)[key].float().numpy(), wanted, atol=2e-3), options


def test_of_a_file_of_two_adapters_the_one_that_is_named_is_taken(run, loras):
    module = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    sides = {name: np.random.default_rng(i).standard_normal((2, 16)).astype(np.float32) for i, name in enumerate("ab")}
    tensors = {f"{module}.lora_A.{name}.weight": side for name, side in sides.items()}
    save_file(
        tensors | {f"{module}.lora_B.{name}.weight": side.T.copy() for name, side in sides.items()},
        "two.lora.safetensors",
    )
    bake = (
        "lora",
        "bake",
        "a.safetensors",
        "--lora",
        "two.lora.safetensors",
        "--dtype",
        "fp32",
        "-o",
        "out.safetensors",
    )
    code, _, err = run(*bake)
    assert code == 2 and "holds 2 adapters (a, b)" in err and not (loras / "out.safetensors").exists()
    code, _, err = run(*bake, "--adapter", "b", "--save-recipe", "b.yaml")
    assert code == 0, err
    change = (load_file("out.safetensors")[key] - load_file("a.safetensors")[key].float()).numpy()
    assert np.allclose(change, sides["b"].T @ sides["b"], atol=1e-5)
    assert run("merge", "run", "b.yaml", "-o", "again.safetensors")[0] == 0
    assert np.array_equal(load_file("again.safetensors")[key], load_file("out.safetensors")[key])
    commands = (
        ("merge", "two.lora.safetensors", "one.safetensors", "--adapter", "a", "--adapter", ""),
        ("resize", "two.lora.safetensors", "--rank", "1", "--adapter", "a"),
        ("convert", "two.lora.safetensors", "--to", "kohya", "--adapter", "a"),
    )
    for command in commands:
        code, _, err = run("lora", *command, "-o", "new.safetensors", "--overwrite")
        assert code == 0, err
    change = changes(load_file("new.safetensors"))[key]
    assert np.allclose(change, sides["a"].T @ sides["a"], atol=1e-6)


def test_merge_shows_the_error_of_each_block_and_says_the_same_as_json(run, loras):
    code, out, err = run(
        "lora", "merge", "one.safetensors:0.5", "two.safetensors:2", "-o", "sum.safetensors", "--rank", "2"
    )
    assert code == 0, err
    assert "IN01" in out and "energy kept" in out and "rank 2, kohya names" in out
    code, out, _ = run(
        *("lora", "merge", "one.safetensors:0.5", "two.safetensors:2", "-o", "sum.safetensors", "--rank", "2"),
        *("--overwrite", "--json"),
    )
    said = json.loads(out)
    assert [row["label"] for row in said["labels"]] == ["CLIP_L", "IN01", "IN04", "M00", "OUT11"]
    total = sum(row["norm"] ** 2 for row in said["labels"])
    assert said["error"] == pytest.approx(np.sqrt(sum((r["error"] * r["norm"]) ** 2 for r in said["labels"]) / total))


def test_extract_resize_and_convert_work_one_after_another(run, loras):
    code, out, err = run(
        *("lora", "extract", "b.safetensors", "a.safetensors", "-o", "l.safetensors", "--rank", "6"),
        *("--ranks", "IN*: 4; OUT*: 3; M00: 0", "--no-text-encoders", "--dtype", "fp32"),
    )
    assert code == 0, err
    assert "left out, rank 0" in out and re.search(r"\d\.?\d*%", err)
    assert {t.shape[0] for n, t in load_file("l.safetensors").items() if n.endswith("down.weight")} == {3, 4}
    code, _, err = run("lora", "resize", "l.safetensors", "-o", "small.safetensors", "--rank", "2")
    assert code == 0, err
    code, out, err = run("lora", "convert", "small.safetensors", "-o", "peft.safetensors", "--to", "peft")
    assert code == 0 and "peft names" in out, err
    assert "unet.down_blocks.0.attentions.0.proj_in.lora_A.weight" in load_file("peft.safetensors")


def test_the_table_shows_the_strength_of_a_lora_over_the_layers_that_it_changes(run, loras):
    command = ("lora", "bake", "a.safetensors", "--lora", "one.safetensors:0.7:0.25", "-o", "out.safetensors", "--json")
    code, out, err = run(*command)
    assert code == 0, err
    rows = {row["label"]: row for row in json.loads(out)["labels"]}
    assert {x: row["shares"]["one"] for x, row in rows.items() if "one" in row["shares"]} == pytest.approx(
        {"CLIP_L": 0.25, "IN01": 0.7, "IN04": 0.7, "M00": 0.7, "OUT11": 0.7}
    )
    assert not any(row["varies"] for row in rows.values())


def test_block_weights_of_loras_work_in_every_command_that_takes_vectors(run, loras):
    def added(*options):
        code, _, err = run(
            "merge", "add", "a.safetensors", "one.safetensors", *options, "-o", "out.safetensors", "--overwrite"
        )
        assert code == 0, err
        return load_file("out.safetensors")

    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    base, change = load_file("a.safetensors")[key].double().numpy(), changes(load_file("one.safetensors"))[key]
    vector = "1,0.5,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0"
    for blocks, wanted in (("INALL", base + change), ("OUTALL", base), (vector, base + 0.5 * change)):
        for convention in ("lbw", "lbw-kohya"):
            found = added("--blocks", blocks, "--convention", convention)[key].float().numpy()
            assert np.allclose(found, wanted, atol=2e-3), (blocks, convention)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("bake", "a.safetensors", "--lora", "b.safetensors"), "b.safetensors: expected a LoRA, found SD1 checkpoint"),
        (("bake", "a.safetensors", "--lora", "one.safetensors:strong"), "'strong' is not a strength; write FILE:0.8"),
        (("bake", "a.safetensors", "--lora", "one.safetensors:nan:1"), "'nan' is not a strength"),
        (("bake", "one.safetensors", "--lora", "two.safetensors"), "expected a checkpoint, found LoRA for SD1"),
        (("bake", "a.safetensors", "--lora", "absent.safetensors"), "absent.safetensors: no such file"),
        (
            ("bake", "a.safetensors", "--lora", "big.safetensors"),
            "is a LoRA for SDXL, but a.safetensors is SD1 checkpoint",
        ),
        (("bake", "a.safetensors", "--lora", "one.safetensors", "--lbw", "1,2,3"), "vector of 3 values"),
        (
            ("merge", "one.safetensors", "two.safetensors", "--lbw", "1", "--lbw", "1", "--lbw", "1"),
            "given 3 times for 2 LoRAs",
        ),
        (("merge", "one.safetensors", "a.safetensors"), "a.safetensors"),
        (("merge", "one.safetensors", "--rank", "0"), "at least 1"),
        (("extract", "a.safetensors", "xl.safetensors"), "two checkpoints of one architecture"),
        (("extract", "a.safetensors", "a.safetensors"), "there is nothing to extract"),
        (("resize", "one.safetensors"), "give the rank to resize to (--rank 16)"),
        (("convert", "a.safetensors", "--to", "kohya"), "a.safetensors"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing_behind(run, loras, arguments, said):
    code, _, err = run("lora", *arguments, "-o", "out.safetensors")
    assert code == 2
    assert said in err and err.count("\n") == 1 and "Traceback" not in err
    assert not (loras / "out.safetensors").exists() and not leftovers(loras)


def test_an_input_is_never_replaced_nor_a_file_without_being_told(run, loras):
    before = (loras / "one.safetensors").read_bytes()
    for command in (
        ("merge", "one.safetensors"),
        ("resize", "one.safetensors", "--rank", "1"),
        ("convert", "one.safetensors", "--to", "peft"),
    ):
        code, _, err = run("lora", *command, "-o", "one.safetensors", "--overwrite")
        assert code == 2 and "is the input" in err
        code, _, err = run("lora", *command, "-o", "two.safetensors")
        assert code == 2 and "exists already" in err
    assert (loras / "one.safetensors").read_bytes() == before


@pytest.mark.parametrize("kind, family", [("lora", "sd2"), ("full", "sd1"), ("norm", "sd1"), ("locon", "sd1")])
def test_every_command_counts_the_same_layers(run, here, kind, family):
    """A layer is what trainers change as one: q, k and v of OpenCLIP are three, a weight and its bias are one."""
    write_demo_lora(here / "in.safetensors", family, kind=kind, modules="attention" if family == "sd2" else "all")
    tensors = load_file(here / "in.safetensors")
    if kind == "full":  # a bias next to its weight, and one alone
        name = next(name for name in tensors if "conv1" in name)
        tensors[name + "_b"] = tensors[name][:, 0, 0, 0].clone()
        other = next(name for name in tensors if "conv2" in name)
        tensors[other + "_b"] = tensors.pop(other)[:, 0, 0, 0].clone()
    save_torch(tensors, here / "in.safetensors")
    layers = len({name.split(".")[0] for name in tensors})
    assert sum(json.loads(run("inspect", "in.safetensors", "--json")[1])["adapter"]["modules"].values()) == layers
    convert = ("convert", "in.safetensors", "--to", "single-file" if kind != "lora" else "peft")
    for command in (convert, ("merge", "in.safetensors"), ("resize", "in.safetensors", "--rank", "2")):
        code, out, err = run("lora", *command, "-o", "out.safetensors", "--json", "--overwrite")
        assert code == 0, err
        assert json.loads(out)["modules"] == layers, command
        said = json.loads(run("inspect", "out.safetensors", "--json")[1])["adapter"]
        assert sum(said["modules"].values()) == sum(said["labels"].values()) == sum(said["kinds"].values()) == layers, (
            command
        )
