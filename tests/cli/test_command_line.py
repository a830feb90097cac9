"""The command line: what its commands do."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from places import place
from samples import others_long
from tiny import load, raw

from unetscope.merge import METHODS, Recipe


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def merged_equal(one: Path, other: Path) -> bool:
    a, b = load(one), load(other)
    return set(a) == set(b) and all(raw(a[k]) == raw(b[k]) for k in a)


# -- help --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", ["--help", "--version", "merge --help", "merge weighted-sum --help"])
def test_help_imports_nothing_heavy(arguments):
    heavy = {"torch", "numpy", "numba", "pandas", "yaml", "diffusers", "transformers", "matplotlib"}
    if not arguments.startswith("merge"):  # typer itself imports pydantic for the commands below `merge`
        heavy.add("pydantic")
    code = (
        "import sys\nfrom unetscope.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"found = {heavy} & set(sys.modules)\nassert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_merge_imports_no_other_command_and_no_plugins_of_pydantic(here):
    code = (
        "import os, sys\nfrom unetscope.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "others = {'analysing', 'searching', 'tracing', 'drawing', 'lora'}\n"
        "assert not {f'unetscope.cli.{name}' for name in others} & set(sys.modules)\n"
        "assert not {'torch', 'rich.progress'} & set(sys.modules)\n"
        "assert os.environ['PYDANTIC_DISABLE_PLUGINS'] == '__all__'\n"
    )
    given = ["merge", "uniform", "a.safetensors", "b.safetensors", "-o", "out.safetensors"]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYDANTIC_DISABLE_PLUGINS", "UNETSCOPE_KERNEL")}
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert Path("out.safetensors").exists()


def test_the_installed_command_answers():
    done = subprocess.run([sys.executable, "-m", "unetscope", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "merge" in done.stdout and done.stderr == ""


def test_every_method_is_a_command_that_explains_itself(run):
    _, listed, _ = run("merge", "--help")
    for method in METHODS.values():
        assert method.command in listed
        code, out, _ = run("merge", method.command, "--help")
        assert code == 0
        assert all(f"--{p.replace('_', '-')}" in out for p in method.parameters)


# -- short forms -------------------------------------------------------------------------------------------------------

SHORT = {
    "uniform": ["uniform", "a.safetensors", "b.safetensors", "c.safetensors"],
    "average": ["weighted-average", "a.safetensors", "b.safetensors", "--weights", "0.2,0.6"],
    "sum": ["weighted-sum", "a.safetensors", "b.safetensors", "--alpha", "0.3"],
    "mbw": ["weighted-sum", "a.safetensors", "b.safetensors", "--blocks", ",".join(f"{i / 25}" for i in range(26))],
    "preset": ["weighted-sum", "a.safetensors", "b.safetensors", "--blocks", "GRAD_V", "--alpha", "0.4"],
    "lines": [
        "weighted-sum",
        "a.safetensors",
        "b.safetensors",
        "--blocks",
        "IN04-IN08: 0.7; OUT*: 0.3",
        "--alpha",
        "0.1",
    ],
    "difference": ["add-difference", "a.safetensors", "b.safetensors", "c.safetensors", "--alpha", "1.4"],
    "negative": ["add-difference", "a.safetensors", "b.safetensors", "c.safetensors", "--alpha", "-0.5"],
    "twice": ["sum-twice", "a.safetensors", "b.safetensors", "c.safetensors", "--alpha", "0.6", "--beta", "IN04: 0.5"],
    "triple": ["triple-sum", "a.safetensors", "b.safetensors", "c.safetensors", "--alpha", "0.5", "--beta", "0.25"],
    "train": ["train-difference", "a.safetensors", "b.safetensors", "c.safetensors"],
    "copy": ["copy", "a.safetensors", "--vae", "b.safetensors", "--text-encoders", "c.safetensors", "--title", "It"],
}


@pytest.mark.parametrize(
    "name", others_long(SHORT, lambda name: name in ("average", "preset", "lines", "twice", "copy"))
)
def test_the_saved_recipe_of_a_short_form_gives_the_same_tensors(name, here, run):
    (here / "recipes").mkdir()
    saved = here / "recipes" / "r.yaml"
    code, _, err = run(
        "merge", *SHORT[name], "-o", "one.safetensors", "--dtype", "bf16", "--save-recipe", saved, "--no-fsync"
    )
    assert (code, err) == (0, "")
    assert "/" not in Recipe.parse(yaml.safe_load(saved.read_text())).title
    assert str(here) not in saved.read_text()
    code, _, err = run("merge", "run", saved, "-o", "two.safetensors", "--no-fsync")
    assert (code, err) == (0, "")
    assert merged_equal(here / "one.safetensors", here / "two.safetensors")


def test_alpha_is_what_blocks_leave_open(here, run):
    _, out, _ = run("merge", *SHORT["lines"], "-o", "x.safetensors", "--dry-run", "--json")
    shares = {row["label"]: row["shares"].get("b", 0.0) for row in json.loads(out)["labels"]}
    assert shares["IN05"] == pytest.approx(0.7) and shares["OUT03"] == pytest.approx(0.3)
    assert (shares["M00"], shares["CLIP_L"]) == (pytest.approx(0.1), pytest.approx(0.1))
    assert shares["VAE"] == 0
    _, out, _ = run("merge", *SHORT["preset"], "-o", "x.safetensors", "--dry-run", "--json")
    shares = {row["label"]: row["shares"].get("b", 0.0) for row in json.loads(out)["labels"]}
    assert shares["CLIP_L"] == pytest.approx(0.4) and shares["IN00"] == pytest.approx(1.0)


def test_files_named_like_words_of_recipes_and_like_each_other_can_be_merged(here, run):
    (here / "sub").mkdir()
    for target in ("merge.safetensors", "uniform.safetensors", "sub/a.safetensors", "vae.safetensors"):
        shutil.copy(here / "b.safetensors", here / target)
    files = ["a.safetensors", "merge.safetensors", "uniform.safetensors", "sub/a.safetensors"]
    code, out, err = run("merge", "uniform", *files, "-o", "x.safetensors", "--vae", "vae.safetensors", "--json")
    assert (code, err) == (0, "")
    assert sorted(json.loads(out)["models"].values())[0] == "a.safetensors"
    out, a, b = load(here / "x.safetensors"), load(here / "a.safetensors"), load(here / "b.safetensors")
    key = "model.diffusion_model.middle_block.1.proj_in.weight"
    expected = (a[key].double() + 3 * b[key].double()) / 4
    assert torch.allclose(out[key].double(), expected, rtol=1e-3, atol=1e-6)
    vae = "first_stage_model.decoder.conv_in.weight"
    assert raw(out[vae]) == raw(b[vae])


def test_a_vae_can_come_from_a_folder_without_any_ending(here, run):
    diffusers = pytest.importorskip("diffusers")
    from unetscope.checkpoints.families.diffusers import vae_config

    diffusers.AutoencoderKL(**vae_config("sd1", "narrow")).save_pretrained(here / "myvae")
    code, _, err = run(
        "merge", "copy", "a.safetensors", "--vae", "myvae", "-o", "x.safetensors", "--save-recipe", "r.yaml"
    )
    assert code == 0, err
    code, _, err = run("merge", "run", "r.yaml", "-o", "y.safetensors")
    assert code == 0, err
    assert merged_equal(here / "x.safetensors", here / "y.safetensors")
    metadata = json.loads(open_header(here / "x.safetensors"))["__metadata__"]
    assert Recipe.parse(yaml.safe_load(metadata["unetscope.recipe"])).components


def open_header(path: Path) -> bytes:
    content = path.read_bytes()
    return content[8 : 8 + struct.unpack("<Q", content[:8])[0]]


@pytest.mark.parametrize("form", ["sum", "difference"])
def test_a_dry_run_writes_nothing_and_says_what_would_be(form, here, run):
    before = everything(here)
    code, out, err = run("merge", *SHORT[form], "-o", "x.safetensors", "--dry-run")
    assert (code, err) == (0, "")
    assert "nothing was written" in out and "IN04" in out
    code, out, err = run("merge", *SHORT[form], "-o", "x.safetensors", "--dry-run", "--json")
    plan = json.loads(out)
    assert (code, err, plan["passes"], plan["family"]) == (0, "", 1, "sd1")
    assert everything(here) == before


def test_json_is_alone_on_stdout_and_warnings_are_in_it(here, run):
    recipe = {
        "models": {n: f"{n}.safetensors" for n in "abc"},
        "steps": {"s": {"method": "uniform", "inputs": ["a", "b"]}},
    }
    Path("r.yaml").write_text(yaml.safe_dump(recipe))
    code, out, err = run("merge", "run", "r.yaml", "-o", "x.safetensors", "--json", "--hash")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert report["warnings"] == ["model 'c' is not used by the result"]
    assert report["sha256"] == hashlib.sha256((here / "x.safetensors").read_bytes()).hexdigest()


def test_options_change_a_recipe_file(here, run):
    recipe = {
        "models": {n: f"{n}.safetensors" for n in "ab"},
        "steps": {"s": {"method": "uniform", "inputs": ["a", "b"]}},
    }
    Path("r.yaml").write_text(yaml.safe_dump(recipe | {"output": {"dtype": "fp32"}}))
    code, _, err = run("merge", "run", "r.yaml", "-o", "x.safetensors", "--dtype", "bf16", "--vae", "b", "--title", "T")
    assert (code, err) == (0, "")
    out, b = load(here / "x.safetensors"), load(here / "b.safetensors")
    assert out["model.diffusion_model.out.2.weight"].dtype == torch.bfloat16
    key = "first_stage_model.decoder.conv_in.weight"
    assert torch.equal(out[key], b[key].bfloat16())


def test_whole_files_are_equal_when_they_are_asked_to_be(here, run):
    for name, threads in (("x", 1), ("y", 3)):
        code, _, err = run("merge", *SHORT["mbw"], "-o", f"{name}.safetensors", "--reproducible", "--threads", threads)
        assert (code, err) == (0, "")
    assert Path("x.safetensors").read_bytes() == Path("y.safetensors").read_bytes()


# -- grids -------------------------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination(here, run):
    arguments = (
        "merge",
        "grid",
        "--unets",
        "a.safetensors",
        "b.safetensors",
        "--text-encoders",
        "c.safetensors",
        "d.safetensors",
    )
    code, out, err = run(*arguments, "-o", "grid", "--dry-run")
    assert (code, err) == (0, "")
    assert "Would write" in out and not Path("grid").exists()
    code, out, err = run(*arguments, "-o", "grid", "--json")
    assert (code, err, len(json.loads(out))) == (0, "", 4)
    assert sorted(p.name for p in Path("grid").iterdir()) == [f"{u}+{t}.safetensors" for u in "ab" for t in "cd"]
    made = load(here / "grid" / "b+c.safetensors")
    b, c = load(here / "b.safetensors"), load(here / "c.safetensors")
    for key, tensor in made.items():
        assert raw(tensor) == raw((c if place(key).component == "clip_l" else b)[key]), key


def test_a_grid_of_equal_names_or_wrong_families_is_refused_before_the_first_file(here, run):
    (here / "sub").mkdir()
    shutil.copy("a.safetensors", "sub/a.safetensors")
    same = ("--unets", "a.safetensors", "sub/a.safetensors", "--text-encoders", "c.safetensors")
    mixed = ("--unets", "a.safetensors", "xl.safetensors", "--text-encoders", "c.safetensors", "xl.safetensors")
    before = everything(here)
    for arguments in (same, mixed):
        code, out, err = run("merge", "grid", *arguments, "-o", "grid")
        assert (code, out) == (2, "")
        assert len(err.splitlines()) == 1
        assert everything(here) == before


# -- names that would steer a terminal ----------------------------------------------------------------------------------


def test_names_with_markup_and_control_characters_are_shown_as_text(here, run):
    names = [
        "[red]x.safetensors",
        "[no such](link).safetensors",
        "esc\x1b[31m\x07.safetensors",
        "new\nline.safetensors",
    ]
    for name in names:
        shutil.copy("a.safetensors", name)
    code, out, err = run("merge", "uniform", *names, "-o", "[bold]out.safetensors")
    assert code == 0, err
    assert "[red]x" in out and "[bold]out.safetensors" in out
    assert "\x1b" not in out + err and "\x07" not in out + err
    code, out, err = run(
        "merge", "weighted-sum", "a.safetensors", "no\x1b[31m\nsuch.safetensors", "-o", "y.safetensors"
    )
    assert code == 2
    assert "\x1b" not in err and len(err.splitlines()) == 1
    code, out, err = run("merge", "grid", "--unets", *names[:3], "--text-encoders", "b.safetensors", "-o", "[red]grid")
    assert code == 0, err
    assert "\x1b" not in out + err and "[red]grid" in out


def test_names_in_another_encoding_are_read_and_written(here, run):
    name = os.fsdecode(b"caf\xe9.safetensors")
    shutil.copy("a.safetensors", name)
    code, _, err = run("merge", "uniform", name, "b.safetensors", "-o", "out.safetensors")
    assert code == 0, err
    code, _, err = run("merge", "copy", "a.safetensors", "-o", os.fsdecode(b"\xe9.safetensors"))
    assert code == 0, err


def test_alpha_beside_a_vector_with_a_base_of_its_own_is_refused(here, run):
    vector = ",".join(["0.9"] + ["0"] * 25)
    code, _, err = run(
        "merge",
        "weighted-sum",
        "a.safetensors",
        "b.safetensors",
        "-o",
        "x.safetensors",
        "--blocks",
        vector,
        "--alpha",
        0.5,
    )
    assert code == 2 and "begins with BASE" in err
    _, out, _ = run(
        "merge",
        "weighted-sum",
        "a.safetensors",
        "b.safetensors",
        "-o",
        "x.safetensors",
        "--blocks",
        vector,
        "--dry-run",
        "--json",
    )
    assert next(row for row in json.loads(out)["labels"] if row["label"] == "CLIP_L")["shares"]["b"] == pytest.approx(
        0.9
    )
