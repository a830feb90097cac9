"""Fixtures that every test may use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from safetensors.torch import save_file
from tiny import tensors_of

# A busy machine is no failure.
settings.register_profile("unetscope", deadline=None)
settings.load_profile("unetscope")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """No test sees or fills the user's cache."""
    monkeypatch.setenv("UNETSCOPE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def make_checkpoint(tmp_path) -> Callable[..., tuple[Path, dict[str, torch.Tensor]]]:
    """Writes a checkpoint with safetensors' own writer: `make_checkpoint('a', 'sd1', seed=1)` -> path, tensors."""

    def make(name: str, family: str = "sd1", seed: int = 0, *, metadata=None, change=None, **options):
        tensors = tensors_of(family, seed, **options)
        if change:
            tensors = change(tensors) or tensors
        path = tmp_path / f"{name}.safetensors"
        save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata=metadata or {"format": "pt"})
        return path, tensors

    return make
