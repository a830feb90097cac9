"""The command line: what it does, what it refuses, and what it leaves behind."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from tiny import load, raw, tensors_of

from unetscope.checkpoints.blocks import place
from unetscope.cli import main
from unetscope.merge import METHODS, Recipe


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Checkpoints that no test changes."""
    folder = tmp_path_factory.mktemp("models")
    for name, family, seed in (("a", "sd1", 1), ("b", "sd1", 2), ("c", "sd1", 3), ("xl", "sdxl", 4), ("d", "sd1", 5)):
        tensors = tensors_of(family, seed)
        save_file(tensors, folder / f"{name}.safetensors", {"format": "pt"})
    lora = {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.zeros(4, 8)}
    save_file(lora | {k.replace("down", "up"): t.T.contiguous() for k, t in lora.items()}, folder / "lora.safetensors")
    return folder


@pytest.fixture
def here(models, tmp_path, monkeypatch):
    """A folder of links to the models, as working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    for path in models.iterdir():
        os.link(path, folder / path.name)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(capsys):
    """Runs a command: -> exit code, stdout, stderr."""

    def call(*arguments) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return call


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def merged_equal(one: Path, other: Path) -> bool:
    a, b = load(one), load(other)
    return set(a) == set(b) and all(raw(a[k]) == raw(b[k]) for k in a)


# -- help --------------------------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from unetscope.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'numba', 'pandas', 'yaml', 'diffusers', 'transformers', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    for arguments in (["--help"], ["--version"], ["merge", "--help"], ["merge", "weighted-sum", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_the_installed_command_answers():
    done = subprocess.run([sys.executable, "-m", "unetscope", "--help"], capture_output=True, text=True, timeout=60)
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


@pytest.mark.parametrize("name", SHORT)
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
    from unetscope.checkpoints.layouts import vae_config

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


# -- what bad input gets -----------------------------------------------------------------------------------------------


def spoilt(folder: Path) -> None:
    """Files that are wrong in one way each."""
    good = (folder / "a.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(good[:-1000])
    (folder / "huge.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({"a": entry, "b": entry | {"data_offsets": [4, 12]}}).encode()
    (folder / "overlap.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 12)
    (folder / "old.ckpt").write_bytes(b"\x80\x02}q\x00.")
    (folder / "text.ckpt").write_text("hello")
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "photos").mkdir()
    (folder / "photos" / "x.jpg").write_bytes(b"x")


SUM = ["merge", "weighted-sum", "a.safetensors"]
AB = [*SUM, "b.safetensors"]
BAD = {
    "a missing file": ([*SUM, "none.safetensors"], "none.safetensors: no such file"),
    "a folder of photos": ([*SUM, "photos"], "photos: is no diffusers folder"),
    "a truncated file": ([*SUM, "cut.safetensors"], "cut.safetensors: truncated: its header promises"),
    "an overlap": ([*SUM, "overlap.safetensors"], "tensor 'b' overlaps the tensor before it"),
    "a header of 2^60": ([*SUM, "huge.safetensors"], "promise a header of 1,152,921,504,606,846,976 bytes"),
    "an empty file": ([*SUM, "empty.safetensors"], "empty.safetensors: not a safetensors file, or truncated"),
    "an old pickle": ([*SUM, "old.ckpt"], "old.ckpt: "),
    "text": ([*SUM, "text.ckpt"], "text.ckpt: "),
    "a name too long": ([*SUM, "x" * 300], "File name too long"),
    "a LoRA": ([*SUM, "lora.safetensors"], "expected a checkpoint, found LoRA"),
    "SD1 with SDXL": ([*SUM, "xl.safetensors"], "models of different architectures cannot be merged"),
    "a vector of 7": ([*AB, "--blocks", "1,2,3,4,5,6,7"], "7 values fits no architecture.* 26"),
    "an SDXL vector": ([*AB, "--blocks", ",".join("0" * 20)], "20 .*SDXL.*|SD1.* 2[56].*"),
    "an unknown preset": ([*AB, "--blocks", "GRAD_W"], "Unknown preset 'GRAD_W' .did you mean 'GRAD_V'"),
    "an unknown label": ([*AB, "--blocks", "IN44: 1"], "'IN44'.*did you mean 'IN04'"),
    "an SDXL label": ([*AB, "--blocks", "LABEL_EMB: 1"], "SD1.* has no LABEL_EMB"),
    "an unknown convention": ([*AB, "--convention", "comfy"], "did you mean 'comfyui'"),
    "no weights file": ([*AB, "--blocks", "@none.txt"], "'none.txt' cannot be read"),
    "alpha twice": ([*AB, "--blocks", "0.5", "--alpha", "0.4"], "--alpha and --blocks are both numbers"),
    "alpha not finite": ([*AB, "--alpha", "nan"], "finite number"),
    "no threads": ([*AB, "--threads", "0"], "number of threads must be at least 1"),
    "no vae there": ([*AB, "--vae", "none.safetensors"], "none.safetensors: no such file"),
    "no pattern": (["merge", "uniform", "z*.safetensors"], "z.*: no file fits this pattern"),
    "no list": (["merge", "uniform", "@none.txt"], "none.txt: the list of files cannot be read"),
    "weights too few": (["merge", "weighted-average", *AB[2:], "--weights", "1"], "needs a list of 2 weights.*1 given"),
    "weights cancel": (
        ["merge", "weighted-average", *AB[2:], "--weights", "1,-1"],
        "sum to 0 and cannot be normalised",
    ),
    "no recipe": (["merge", "run", "none.yaml"], "none.yaml: cannot be read"),
    "a model as recipe": (["merge", "run", "a.safetensors"], "a.safetensors: "),
}


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_sentence_and_leaves_nothing_behind(name, dry, here, run):
    spoilt(here)
    before = everything(here)
    arguments, said = BAD[name]
    wanted = [*arguments, "-o", "out.safetensors", "--save-recipe", "r.yaml", *(["--dry-run"] if dry else [])]
    code, out, err = run(*wanted)
    assert (code, out) == (2, ""), err
    assert err.startswith("unetscope: ") and len(err.splitlines()) == 1 and "Traceback" not in err
    assert re.search(said, err), err
    assert everything(here) == before


RECIPES = {
    "an unknown name": ("setps: {}", "setps: unknown name .did you mean 'steps'"),
    "an unknown parameter": (
        "steps: {s: {method: weighted_sum, inputs: [a, b], aplha: 1}}",
        "steps.s.aplha: .*mean 'alpha'",
    ),
    "a cycle": (
        "steps: {s: {method: copy, inputs: [t]}, t: {method: copy, inputs: [s]}}",
        "steps.s: is made from itself",
    ),
    "a name twice": (
        "steps: {s: {method: copy, inputs: [a]}, s: {method: copy, inputs: [b]}}",
        "names 's' a second time",
    ),
    "no YAML": ("steps: [", "is not valid YAML"),
    "a model that is not there": ("result: b\nmodels: {b: none.safetensors}", "none.safetensors: no such file"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_bad_recipes_get_one_sentence_and_leave_nothing_behind(name, here, run):
    text, said = RECIPES[name]
    models = "" if "models:" in text else "models: {a: a.safetensors, b: b.safetensors}\n"
    Path("r.yaml").write_text(models + text)
    before = everything(here)
    code, out, err = run("merge", "run", "r.yaml", "-o", "out.safetensors")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1 and ("r.yaml" in err or "none" in err)
    assert re.search(said, err), err
    assert everything(here) == before


def test_outputs_that_cannot_be_are_refused_before_the_work(here, run, monkeypatch):
    Path("there.safetensors").write_text("precious")
    Path("folder").mkdir()
    cases = {
        "none/x.safetensors": "folder none does not exist; make it first",
        "there.safetensors/x.safetensors": "does not exist",
        "folder": "is a folder",
        "there.safetensors": "exists already; .*--overwrite",
        "x" * 300: "cannot be written .File name too long",
    }
    before = everything(here)
    for target, said in cases.items():
        for more in ([], ["--dry-run"]):
            code, out, err = run(*AB, "-o", target, *more)
            assert (code, out, len(err.splitlines())) == (2, "", 1)
            assert re.search(said, err), err
    assert everything(here) == before


def test_a_read_only_folder_is_refused(here, run, monkeypatch):
    # The tests may run as root, whom permissions do not stop.
    def denied(path, mode="r", *rest, **named):
        if "x" in mode:
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, mode, *rest, **named)

    monkeypatch.setattr("unetscope.checkpoints.output.open", denied, raising=False)
    before = everything(here)
    code, out, err = run(*AB, "-o", "x.safetensors")
    assert (code, out) == (2, "")
    assert "cannot be written (Permission denied)" in err and len(err.splitlines()) == 1
    assert everything(here) == before


def test_an_input_is_never_written_to_whatever_names_it(here, run):
    (here / "pipe" / "unet").mkdir(parents=True)
    unet = {
        k.removeprefix("model.diffusion_model."): t
        for k, t in load(here / "b.safetensors").items()
        if "diffusion_model" in k
    }
    save_file({k: t.clone() for k, t in unet.items()}, here / "unet.safetensors")
    os.symlink("a.safetensors", "link.safetensors")
    before = everything(here)
    for target in ("a.safetensors", "./b.safetensors", "link.safetensors", str(here / "a.safetensors")):
        code, out, err = run(*AB, "-o", target, "--overwrite")
        assert (code, out) == (2, "")
        assert "is the input" in err
    code, _, err = run(*AB, "--unet", "unet.safetensors", "-o", "unet.safetensors", "--overwrite")
    assert code == 2 and "is the input" in err
    code, _, err = run(*AB, "-o", "x.safetensors", "--save-recipe", "a.safetensors", "--overwrite")
    assert code == 2 and "--save-recipe names a model" in err
    assert everything(here) == before


def test_no_file_inside_a_folder_that_is_an_input_is_written_to(here, run):
    diffusers = pytest.importorskip("diffusers")
    from unetscope.checkpoints.layouts import unet_config

    diffusers.UNet2DConditionModel(**unet_config("sd1", "narrow")).half().save_pretrained(here / "pipe" / "unet")
    before = everything(here)
    target = "pipe/unet/diffusion_pytorch_model.safetensors"
    code, _, err = run("merge", "weighted-sum", "pipe", "a.safetensors", "-o", target, "--overwrite")
    assert code == 2 and "is the input" in err
    assert everything(here) == before


def test_weights_that_are_not_finite_are_refused_and_mended_on_request(here, run):
    tensors = load(here / "b.safetensors")
    key = "model.diffusion_model.middle_block.1.proj_in.weight"
    tensors[key].view(-1)[3] = float("nan")
    save_file(tensors, here / "nan.safetensors")
    before = everything(here)
    code, out, err = run(*SUM, "nan.safetensors", "-o", "x.safetensors", "--save-recipe", "r.yaml")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert key in err and "--nan" in err
    assert everything(here) == before
    code, out, err = run(*SUM, "nan.safetensors", "-o", "x.safetensors", "--nan", "copy")
    assert code == 0
    assert err.startswith("warning: ") and key in err


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
    code, out, err = run(*SUM, "no\x1b[31m\nsuch.safetensors", "-o", "y.safetensors")
    assert code == 2
    assert "\x1b" not in err and len(err.splitlines()) == 1
    code, out, err = run("merge", "grid", "--unets", *names[:3], "--text-encoders", "b.safetensors", "-o", "[red]grid")
    assert code == 0, err
    assert "\x1b" not in out + err and "[red]grid" in out


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_in_another_encoding_are_written_and_refused_as_models_in_a_sentence(here, run):
    name = os.fsdecode(b"caf\xe9.safetensors")
    shutil.copy("a.safetensors", name)
    code, _, err = run("merge", "uniform", name, "b.safetensors", "-o", "out.safetensors")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "not in UTF-8" in err
    code, _, err = run("merge", "copy", "a.safetensors", "-o", os.fsdecode(b"\xe9.safetensors"))
    assert code == 0, err
