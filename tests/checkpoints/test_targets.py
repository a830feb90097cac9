"""What may be written, and that what was written reads back."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from told import raising

from unetscope.checkpoints import CheckpointError, OutputError
from unetscope.checkpoints.dtypes import F16, F32
from unetscope.checkpoints.files.targets import refuse_holders, refuse_inputs
from unetscope.checkpoints.formats import FORMATS
from unetscope.checkpoints.formats.safetensors_file import check_written, plan_header
from unetscope.merge.convert import convert


def test_an_input_is_refused_under_every_name_that_it_has(tmp_path):
    (tmp_path / "pipe" / "unet").mkdir(parents=True)
    file, inside = tmp_path / "a.safetensors", tmp_path / "pipe" / "unet" / "x.safetensors"
    for path in (file, inside):
        path.write_bytes(b"weights")
    (tmp_path / "to_pipe").symlink_to(tmp_path / "pipe")
    (tmp_path / "soft").symlink_to(file)
    os.link(file, tmp_path / "hard")
    os.link(inside, tmp_path / "hard_inside")
    inputs = [file, tmp_path / "pipe", tmp_path / "missing"]
    for name in (
        "a.safetensors", "soft", "hard", "pipe", "to_pipe", "hard_inside", "pipe/unet/x.safetensors", "pipe/new/deep",
        "to_pipe/new", "pipe/../to_pipe/unet/new",
    ):  # fmt: skip
        with raising("output.is_input", OutputError):
            refuse_inputs(tmp_path / name, inputs)
    for name in ("b.safetensors", "pipe2", "missing", "x" * 400, "a\0b"):
        refuse_inputs(tmp_path / name, inputs)
    with raising("output.is_input", OutputError):
        refuse_holders(tmp_path / "to_pipe", [inside])
    refuse_holders(tmp_path / "pipe", [file])


def test_a_header_that_does_not_read_back_is_refused(tmp_path):
    entries = [("a", F16, (2, 3)), ("b", F32, (1,))]
    header, _, size = plan_header(entries, {})
    path = tmp_path / "x.safetensors"
    path.write_bytes(header + bytes(size - len(header)))
    check_written(path, entries)
    for other in (entries[:1], [entries[0], ("b", F32, (1, 1))], [entries[0], ("c", F32, (1,))]):
        with raising("output.not_as_written", OutputError):
            check_written(path, other)
    path.write_bytes(header)
    with raising("output.not_as_written", OutputError):
        check_written(path, entries)


def test_a_conversion_that_does_not_read_back_leaves_no_file(make_checkpoint, tmp_path, monkeypatch):
    path, _ = make_checkpoint("a")

    def other_header(entries, metadata):
        key, dtype, shape = entries[0]
        _, offsets, size = plan_header(entries, {})
        return plan_header([(key, dtype, (1, *shape)), *entries[1:]], {})[0], offsets, size

    wrong = replace(FORMATS["safetensors"], write=other_header)
    monkeypatch.setattr("unetscope.checkpoints.transfer.written_as", lambda path: wrong)
    before = sorted(tmp_path.iterdir())
    with raising("output.not_as_written", OutputError):
        convert(path, tmp_path / "x.safetensors")
    assert sorted(tmp_path.iterdir()) == before


def test_a_tensor_with_the_name_of_the_metadata_is_refused(make_checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match="__metadata__"):
        plan_header([("__metadata__", F16, (2,))], {})
    _, tensors = make_checkpoint("a")
    torch.save(tensors | {"__metadata__": torch.zeros(3)}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="__metadata__"):
        convert(tmp_path / "a.ckpt", tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()
