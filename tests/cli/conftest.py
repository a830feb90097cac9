"""Fixtures of the command line's tests: models to merge, a folder to stand in, and a way to run commands."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import save_file
from tiny import tensors_of

from unetscope.cli import main


@pytest.fixture(scope="session")
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
