"""What is not a model is named by what it is, wherever it is opened and whatever it is called."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from unetscope.checkpoints import CheckpointError, open_checkpoint
from unetscope.library.inspection import inspect
from unetscope.library.scan import scan
from unetscope.merge import Recipe, merge
from unetscope.merge.convert import convert


def zipped(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "."), content)
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.safetensors"))
    return out.getvalue()


def onnx() -> bytes:
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [value], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    return helper.make_model(graph, producer_name="pytorch").SerializeToString()


CASES = {
    "a Git LFS pointer": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 2132650982\n",
        "git lfs pull",
    ),
    "a web page": (lambda: b"\n<!DOCTYPE html><html><title>Sign in</title>" + b"x" * 300, "web page"),
    "a web page of capitals": (lambda: b"\xef\xbb\xbf<!-- hi -->\r\n<HTML>" + b"x" * 9000, "web page"),
    "an XML error": (lambda: b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "web page"),
    "a JSON error": (lambda: b'{"error": "Invalid credentials in Authorization header"}', "Invalid credentials"),
    "an index of shards": (lambda: json.dumps({"weight_map": {"a": "b.safetensors"}}).encode(), "index of a model"),
    "a JSON document": (lambda: b"[1, 2, 3]", "JSON document"),
    "a text": (lambda: b"Entry not found", "Entry not found"),
    "nothing": (lambda: b"", "is empty"),
    "zeros": (lambda: b"\0" * 5000, "begins with zeros"),
    "GGUF": (lambda: b"GGUF\x03\0\0\0" + (123).to_bytes(8, "little") + b"\0" * 100, "GGUF"),
    "ONNX": (onnx, "ONNX"),
    "a zip with models": (
        lambda: zipped(a__safetensors=b"x", readme__txt=b"y"),
        r"zip archive that holds a\.safetensors",
    ),
    "7z": (lambda: b"7z\xbc\xaf\x27\x1c" + b"\1" * 100, "7z archive"),
    "RAR": (lambda: b"Rar!\x1a\x07\x01\0" + b"\1" * 100, "RAR archive"),
    "tar": (tarred, "tar archive"),
    "an old pickle": (lambda: b"\x80\x02}q\x00.", "before torch 1.6"),
    "a picture": (lambda: b"\x89PNG\r\n\x1a\n" + b"\1" * 100, "picture"),
}


@pytest.mark.one_by_one
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".bin", ""])
@pytest.mark.parametrize("name", CASES)
def test_it_is_named_whatever_it_is_called(tmp_path, name, suffix):
    make, said = CASES[name]
    path = tmp_path / f"model{suffix}"
    path.write_bytes(make())
    with pytest.raises(CheckpointError, match=said) as caught:
        open_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_inspect_merge_convert_and_scan_say_the_same(tmp_path):
    path, out = tmp_path / "pointer.safetensors", tmp_path / "out.safetensors"
    path.write_bytes(CASES["a Git LFS pointer"][0]())
    said = set()
    for run in (
        lambda: inspect(path),
        lambda: scan(path),
        lambda: convert(path, out),
        lambda: merge(Recipe.parse({"models": {"a": str(path)}}), out),
    ):
        with pytest.raises(CheckpointError) as caught:
            run()
        said.add(str(caught.value))
    assert len(said) == 1 and not out.exists()


def test_a_pointer_among_the_files_of_a_diffusers_folder_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(CASES["a Git LFS pointer"][0]())
    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model\.bin.*Git.*LFS"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("suffix", [".part", ".crdownload", ".aria2", ".incomplete"])
def test_half_a_download_is_told_by_its_name(tmp_path, suffix):
    path = tmp_path / f"a.safetensors{suffix}"
    save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="not finished"):
        open_checkpoint(path)


def test_a_file_that_aria2_is_still_filling_is_refused_until_it_is_through(tmp_path):
    path, control = tmp_path / "a.safetensors", tmp_path / "a.safetensors.aria2"
    save_file({"a": torch.zeros(3)}, path)
    control.write_bytes(b"\0")
    with pytest.raises(CheckpointError, match=r"a\.safetensors\.aria2"):
        open_checkpoint(path)
    control.unlink()
    open_checkpoint(path).close()


def test_a_whole_file_next_to_an_old_part_of_it_is_opened_and_an_empty_one_is_not(tmp_path):
    path = tmp_path / "a.safetensors"
    (tmp_path / "a.safetensors.part").write_bytes(b"x")
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"a\.safetensors\.part"):
        open_checkpoint(path)
    save_file({"a": torch.zeros(3)}, path)
    open_checkpoint(path).close()
