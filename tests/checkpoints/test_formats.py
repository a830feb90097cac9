"""Containers as records: recognised by their bytes, asked for their names, and added from outside the package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tensors_of
from told import the

from unetscope.checkpoints import CheckpointError, open_checkpoint
from unetscope.checkpoints.dtypes import DTYPES
from unetscope.checkpoints.errors import UnetscopeError
from unetscope.checkpoints.formats import FORMATS, Contents, Format, is_model_name, without_suffix, written_suffixes
from unetscope.checkpoints.tensors import StoredTensor
from unetscope.dashboard.library import read_library
from unetscope.library.folder_scan import find_models
from unetscope.merge import Recipe, merge
from unetscope.merge.convert import convert

VAE = "first_stage_model."


def test_the_containers_that_are_built_in_are_known_by_their_names():
    assert set(FORMATS) >= {"safetensors", "ckpt", "diffusers"}
    assert [form.id for form in FORMATS.values() if form.folder] == ["diffusers"]
    assert written_suffixes() == (".safetensors",)


@pytest.mark.parametrize("name", ["a.safetensors", "A.CKPT", "v.pt", "v.pth", "pytorch_model.bin"])
def test_a_suffix_is_known_in_every_place_or_in_none(name):
    assert is_model_name(name)
    assert without_suffix(name) == name[: name.rindex(".")]


@pytest.mark.parametrize("name", ["a.yaml", "a.txt", "safetensors", "a.safetensors.index.json"])
def test_other_names_are_not_those_of_models(name):
    assert not is_model_name(name) and without_suffix(name) == name


@pytest.mark.one_by_one
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".pt", ".pth", ".bin"])
@pytest.mark.parametrize("content", ["safetensors", "pickle"])
def test_the_bytes_decide_what_a_file_is_whatever_it_is_called(tmp_path, suffix, content):
    path = tmp_path / f"a{suffix}"
    (save_file if content == "safetensors" else torch.save)({"a": torch.arange(3.0)}, path)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == ("safetensors" if content == "safetensors" else "ckpt")
        assert checkpoint.numpy("a").tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin"])
def test_a_vae_is_taken_alike_by_recipes_scans_and_the_library_under_every_suffix(make_checkpoint, tmp_path, suffix):
    folder = tmp_path / "models"
    folder.mkdir()
    (a, _), (_, tensors) = make_checkpoint("a", seed=1), make_checkpoint("b", seed=2)
    os.link(a, folder / "a.safetensors")
    vae = {key: tensor for key, tensor in tensors.items() if key.startswith(VAE)}
    torch.save({key.removeprefix(VAE): tensor for key, tensor in vae.items()}, folder / f"vae{suffix}")
    recipe = {"models": {"a": "a.safetensors"}, "components": {"vae": f"vae{suffix}"}, "output": {"dtype": "keep"}}
    merge(Recipe.parse(recipe).relative_to(folder), tmp_path / "out.safetensors")
    written = load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(written[key], tensor) for key, tensor in vae.items())
    assert [found.path.name for found in find_models(folder, [])] == ["a.safetensors", f"vae{suffix}"]
    entry = read_library(folder).named(f"vae{suffix}")
    assert entry.mergeable and entry.components == ("vae",)


def test_bytes_behind_the_last_tensor_are_told_and_a_conversion_leaves_them_out(make_checkpoint, tmp_path):
    path, tensors = make_checkpoint("a")
    odd = tmp_path / "odd.safetensors"
    odd.write_bytes(path.read_bytes() + b"\0" * 12)
    with open_checkpoint(odd) as checkpoint:
        assert "12 " in the(checkpoint.notes, "file.trailing_bytes").text
    convert(odd, tmp_path / "sound.safetensors")
    written = load_file(tmp_path / "sound.safetensors")
    assert written.keys() == tensors.keys() and all(torch.equal(written[k], t) for k, t in tensors.items())


# -- a container from outside ------------------------------------------------------------------------------------------

TOY = b"TOY1"
OUTSIDE = """
import json
from pathlib import Path

from unetscope.checkpoints.dtypes import DTYPES
from unetscope.checkpoints.formats import Contents, Format
from unetscope.checkpoints.tensors import StoredTensor


def read(path, to_look):
    with open(path, "rb") as file:
        file.read(4)
        length = int.from_bytes(file.read(4), "little")
        entries = json.loads(file.read(length))
    at, tensors = 8 + length, []
    for name, shape in entries:
        tensors.append(StoredTensor.at(name, DTYPES["F32"], tuple(shape), path, at))
        at += tensors[-1].nbytes
    return Contents(tensors, {"made by": "a toy"})


TOY = Format("toy", "a toy file", (".toy",), read, magic=lambda head: head.startswith(b"TOY1"))
"""


def write_toy(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Floats one after another behind a list of names and shapes."""
    header = json.dumps([[name, list(t.shape)] for name, t in tensors.items()]).encode()
    values = b"".join(t.float().contiguous().numpy().tobytes() for t in tensors.values())
    path.write_bytes(TOY + len(header).to_bytes(4, "little") + header + values)


@pytest.fixture
def toy_format():
    """The container, registered for one test."""
    home: dict = {}
    exec(OUTSIDE, home)
    FORMATS.register(home["TOY"], "a test")
    yield home["TOY"]
    FORMATS.forget("toy")


@pytest.fixture
def toys(tmp_path) -> tuple[Path, Path, dict, dict]:
    folder = tmp_path / "toys"
    folder.mkdir()
    one, two = ({k: t.float() for k, t in tensors_of("sd1", seed).items()} for seed in (1, 2))
    write_toy(folder / "one.toy", one)
    write_toy(folder / "two.toy", two)
    return folder / "one.toy", folder / "two.toy", one, two


def test_a_container_from_outside_is_merged_converted_scanned_and_listed(toy_format, toys, tmp_path):
    one, two, first, second = toys
    recipe = {
        "models": {"a": str(one), "b": str(two)},
        "steps": {"mix": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.25}},
        "components": {"vae": "two.toy"},
        "output": {"dtype": "fp32"},
    }
    merge(Recipe.parse(recipe | {"components": {"vae": str(two)}}), tmp_path / "out.safetensors")
    written = load_file(tmp_path / "out.safetensors")
    key = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    expected = 0.75 * first[key].numpy().astype(np.float64) + 0.25 * second[key].numpy().astype(np.float64)
    assert np.allclose(written[key].numpy(), expected, rtol=1e-6, atol=1e-7)
    vae = next(k for k in second if k.startswith(VAE))
    assert torch.equal(written[vae], second[vae])
    convert(one, tmp_path / "one.safetensors", dtype="fp16")
    assert torch.equal(load_file(tmp_path / "one.safetensors")[key], first[key].half())
    assert [found.path for found in find_models(one.parent, [])] == [one, two]
    assert {e.format for e in read_library(one.parent).models} == {"toy"}
    assert Recipe.parse(recipe).is_file("two.toy")
    with pytest.raises(Exception, match=r"\.safetensors files are written"):
        convert(one, tmp_path / "again.toy")


def test_a_package_brings_a_container_by_its_entry_point(toys, tmp_path):
    site = tmp_path / "site"
    (site / "toys-1.0.dist-info").mkdir(parents=True)
    (site / "toy_format.py").write_text(OUTSIDE)
    (site / "toys-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (site / "toys-1.0.dist-info" / "entry_points.txt").write_text("[unetscope.formats]\ntoy = toy_format:TOY\n")
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "unetscope", "inspect", str(toys[0]), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["format"] == "toy" and found["architecture"]["family"] == "sd1"
    assert found["metadata"] == {"made by": "a toy"}


def test_a_container_that_could_not_be_recognised_or_found_is_refused():
    def read(path, to_look):
        return Contents([StoredTensor.at("a", DTYPES["F32"], (1,), path, 0)])

    for wrong in (
        Format("x", "x", (".x",), read),  # nothing tells it
        Format("x", "x", ("x",), read, magic=lambda head: True),  # no dot
        Format("x", "x", (), read, magic=lambda head: True),  # no suffix
        Format(
            "x", "x", (".x",), read, magic=lambda head: True, write=lambda entries, metadata: None
        ),  # never read back
        Format("safetensors", "x", (".x",), read, magic=lambda head: True),  # the name is taken
    ):
        FORMATS.named("safetensors")
        with pytest.raises(UnetscopeError):
            FORMATS.register(wrong)
    with pytest.raises(CheckpointError):
        open_checkpoint("nothing.x")
