"""What bad input gets: one sentence on stderr, exit code 2, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path

import pytest
from safetensors.torch import save_file
from tiny import load


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


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
    "a folder of photos": ([*SUM, "photos"], "photos: is not a diffusers folder"),
    "a truncated file": ([*SUM, "cut.safetensors"], "cut.safetensors: truncated: its header promises"),
    "an overlap": ([*SUM, "overlap.safetensors"], "tensor 'b' overlaps the tensor before it"),
    "a header of 2^60": ([*SUM, "huge.safetensors"], "promise a header of 1,152,921,504,606,846,976 bytes"),
    "an empty file": ([*SUM, "empty.safetensors"], "empty.safetensors: is empty"),
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


@pytest.mark.one_by_one
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
    "YAML": ("steps: [", "is not valid YAML"),
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
    Path("folder.safetensors").mkdir()
    cases = {
        "none/x.safetensors": "folder none does not exist; make it first",
        "there.safetensors/x.safetensors": "does not exist",
        "folder.safetensors": "is a folder",
        "there.safetensors": "exists already; .*--overwrite",
        "x" * 300 + ".safetensors": "cannot be written .File name too long",
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

    monkeypatch.setattr("unetscope.checkpoints.files.targets.open", denied, raising=False)
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
    assert code == 2 and "is the input" in err
    assert everything(here) == before


def test_no_file_inside_a_folder_that_is_an_input_is_written_to(here, run):
    diffusers = pytest.importorskip("diffusers")
    from unetscope.checkpoints.families.diffusers import unet_config

    diffusers.UNet2DConditionModel(**unet_config("sd1", "narrow")).half().save_pretrained(here / "pipe" / "unet")
    target = "pipe/unet/diffusion_pytorch_model.safetensors"
    os.link(here / "pipe" / "unet" / "config.json", "linked.yaml")
    os.link(here / target, "linked.safetensors")
    before = everything(here)
    merge = ["merge", "weighted-sum", "pipe", "a.safetensors", "--unet", "pipe", "--overwrite", "-o"]
    demo = ["demo-checkpoint", "sd1", "--overwrite", "--finetune-of"]
    for wanted, said in {
        (*merge, target): "the input pipe",
        (*merge, "pipe/unet/new.safetensors"): "the input pipe",
        (*merge, "linked.safetensors"): "is unet/diffusion_pytorch_model.safetensors of the input pipe",
        (*merge, "x.safetensors", "--save-recipe", "pipe/unet/config.json"): "the input pipe",
        (*merge, "x.safetensors", "--save-recipe", "linked.yaml"): "is unet/config.json of the input pipe",
        ("convert", "pipe", target, "--overwrite"): "the input pipe",
        ("convert", "pipe", "linked.safetensors", "--overwrite"): "of the input pipe",
        ("convert", "pipe", "pipe/new", "--to", "diffusers", "--overwrite"): "the input pipe",
        ("convert", target, "pipe", "--to", "diffusers", "--overwrite"): f"holds the input {target}",
        ("convert", "a.safetensors", target, "--donor", "pipe", "--overwrite"): "the input pipe",
        (*demo, "pipe", "-o", target): "the input pipe",
        (*demo, "a.safetensors", "-o", "a.safetensors"): "is the input a.safetensors",
    }.items():
        code, out, err = run(*wanted)
        assert (code, out, len(err.splitlines())) == (2, "", 1), wanted
        assert said in err, (wanted, err)
    assert everything(here) == before


@pytest.mark.parametrize("name", ["x.ckpt", "x", "x.safetensors.bak", "x.pt"])
def test_only_names_of_safetensors_files_are_written(name, here, run):
    before = everything(here)
    for wanted in (AB, [*AB, "--dry-run"], ["demo-checkpoint", "sd1"]):
        code, out, err = run(*wanted, "-o", name)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert err.endswith("only .safetensors files are written; end the name in .safetensors\n")
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
