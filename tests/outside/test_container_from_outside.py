"""A container from outside the package, in one file: read and written by every command, scanned, listed, refused when damaged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tensors_of

from unetscope.checkpoints import open_checkpoint
from unetscope.checkpoints.dtypes import DTYPES
from unetscope.checkpoints.formats import FORMATS, is_model_name, is_scanned_name, without_suffix, written_suffixes
from unetscope.dashboard.library import read_library
from unetscope.library.folder_scan import find_models

MAGIC = b"TOYBOX01"
VAE = "first_stage_model."
KEY = "model.diffusion_model.middle_block.0.in_layers.2.weight"
# Names of safetensors' dtypes.
NAMES = {torch.float16: "F16", torch.float32: "F32", torch.int64: "I64"}


@pytest.fixture(scope="module", autouse=True)
def toybox(installed):
    installed("toy_container", "formats", "TOY")
    return FORMATS["toybox"]


def write_toybox(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """A file of the container, without the house's own writers."""
    entries = [(name, DTYPES[NAMES[t.dtype]], tuple(t.shape)) for name, t in tensors.items()]
    head, offsets, size = FORMATS["toybox"].write(entries, {"made by": "a test"})
    whole = bytearray(size)
    whole[: len(head)] = head
    for name, tensor in tensors.items():
        raw = tensor.contiguous().numpy().tobytes()
        whole[offsets[name] : offsets[name] + len(raw)] = raw
    path.write_bytes(whole)
    return path


@pytest.fixture(scope="module")
def tensors() -> dict[str, dict[str, torch.Tensor]]:
    return {name: tensors_of("sd1", seed) for name, seed in (("a", 1), ("b", 2))}


@pytest.fixture
def here(tensors, tmp_path, monkeypatch) -> Path:
    """A model in the container and one in another, as working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    write_toybox(folder / "a.toybox", tensors["a"])
    save_file(tensors["b"], folder / "b.safetensors", {"format": "pt"})
    monkeypatch.chdir(folder)
    return folder


def same(path: Path | str, tensors: dict[str, torch.Tensor]) -> bool:
    with open_checkpoint(path) as found:
        return set(found.tensors) == set(tensors) and all(
            found.raw(key).tobytes() == t.contiguous().numpy().tobytes() for key, t in tensors.items()
        )


def test_it_is_known_by_its_suffix_where_names_are_asked_for():
    assert is_model_name("A.TOYBOX") and is_scanned_name("a.toybox") and without_suffix("a.b.toybox") == "a.b"
    assert written_suffixes() == (".safetensors", ".toybox")


def test_a_file_is_inspected_whatever_it_is_called(here, run):
    (here / "a.toybox").rename(here / "a.safetensors")
    found = json.loads(run("inspect", "a.safetensors", "--scan", "--json"))
    assert (found["format"], found["architecture"]["family"], found["missing"]) == ("toybox", "sd1", {})
    assert found["metadata"] == {"made by": "a test"}


def test_it_is_an_input_and_an_output_of_merges(here, run, tensors):
    mix = ["merge", "weighted-sum", "a.toybox", "b.safetensors", "--alpha", "0.25", "--dtype", "fp32"]
    run(*mix, "-o", "m.toybox")
    assert (here / "m.toybox").read_bytes().startswith(MAGIC)
    a, b = (tensors[name][KEY].float().numpy() for name in "ab")
    with open_checkpoint(here / "m.toybox") as made:
        assert made.format == "toybox" and np.allclose(made.numpy(KEY), 0.75 * a + 0.25 * b, rtol=1e-5, atol=1e-7)
    run(*mix, "-o", "m.safetensors")
    assert same("m.toybox", load_file("m.safetensors"))
    run("merge", "copy", "a.toybox", "-o", "vae.toybox", "--vae", "b.safetensors", "--dtype", "keep")
    taken = {k: tensors["b" if k.startswith(VAE) else "a"][k] for k in tensors["a"] if not k.startswith("model_ema.")}
    assert same("vae.toybox", taken)


def test_a_merge_remembers_its_recipe_in_it(here, run):
    run("merge", "uniform", "a.toybox", "b.safetensors", "-o", "m.toybox")
    assert "method: uniform" in run("import", "m.toybox")


def test_it_is_converted_both_ways(here, run, tensors):
    run("convert", "a.toybox", "there.safetensors")
    assert same("there.safetensors", tensors["a"])
    run("convert", "there.safetensors", "back.toybox")
    assert same("back.toybox", tensors["a"])
    run("convert", "b.safetensors", "half.toybox", "--dtype", "bf16", "--prune")
    with open_checkpoint("half.toybox") as found:
        assert found[KEY].dtype.name == "BF16"
        assert np.array_equal(found.numpy(KEY), tensors["b"][KEY].bfloat16().float().numpy())
    run("convert", "a.toybox", "folder", "--to", "diffusers")
    run("convert", "folder", "again.toybox")
    with open_checkpoint("again.toybox") as found:
        assert np.array_equal(found.numpy(KEY), tensors["a"][KEY].float().numpy())


@pytest.mark.parametrize(
    "command",
    [
        "layers a.toybox",
        "stats a.toybox",
        "diff a.toybox b.safetensors",
        "compare a.toybox b.safetensors",
        "diagram a.toybox -o d.svg",
        "index . --compute",
        "demo-checkpoint sd1 -o demo.toybox",
    ],
)
def test_every_command_takes_it(here, run, command):
    run(*command.split())


def test_a_demo_in_it_is_the_same_as_in_another_container(here, run):
    for suffix in ("toybox", "safetensors"):
        run("demo-checkpoint", "sd1", "-o", f"demo.{suffix}", "--seed", "3")
    assert same("demo.toybox", load_file("demo.safetensors"))


def test_a_scan_of_a_folder_and_the_library_find_it(here, open_page):
    assert [found.path.name for found in find_models(here, [])] == ["a.toybox", "b.safetensors"]
    assert {entry.name: entry.format for entry in read_library(here).models} == {
        "a.toybox": "toybox", "b.safetensors": "safetensors",
    }  # fmt: skip
    at = open_page("library", here, file="a.toybox")
    assert not at.exception and not at.error
    assert list(at.dataframe[0].value["file"]) == ["a.toybox", "b.safetensors"]
    at = open_page("merge", here, a="a.toybox", b="b.safetensors")
    assert not at.exception and not at.error


def test_a_damaged_file_is_refused_in_a_sentence_and_leaves_nothing(here, run):
    whole = (here / "a.toybox").read_bytes()
    for damaged in (whole[:-100_000], MAGIC + (9).to_bytes(8, "little") + b"{not json" + whole[:64]):
        (here / "a.toybox").write_bytes(damaged)
        said = run("merge", "uniform", "a.toybox", "b.safetensors", "-o", "m.toybox", code=2)
        assert "copy it again" in said and len(said.strip().splitlines()) == 1
        assert sorted(path.name for path in here.iterdir()) == ["a.toybox", "b.safetensors"]


def test_a_new_process_finds_it_by_its_entry_point(here):
    words = [sys.executable, "-m", "unetscope", "convert", "a.toybox", "out.toybox"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (here / "out.toybox").read_bytes().startswith(MAGIC)
