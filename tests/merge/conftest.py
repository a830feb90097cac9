"""Fixtures of the merging tests: models for the linter, and recipes of them; models for sd-mecha."""

from __future__ import annotations

from functools import cache

import pytest

from unetscope.checkpoints.demo import write_demo
from unetscope.merge import Recipe


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A base, three fine-tunes of it, a fine-tune of another base, and that base; no test changes them."""
    root = tmp_path_factory.mktemp("lint")
    for name, seed in (("base", 1), ("other", 2)):
        write_demo(root / f"{name}.safetensors", "sd1", seed=seed)
    for name, of, seed in (("a", "base", 11), ("b", "base", 12), ("c", "base", 13), ("stranger", "other", 14)):
        write_demo(root / f"{name}.safetensors", "sd1", seed=seed, finetune_of=root / f"{of}.safetensors")
    return root


@pytest.fixture
def recipe(folder):
    """A recipe of models by name, and its steps; paths of other files may be given."""

    def make(models: str, steps: dict, **more) -> Recipe:
        paths = more.pop("paths", {})
        named = {name: str(paths.get(name, folder / f"{name}.safetensors")) for name in models.split()}
        return Recipe.parse({"models": named, "steps": steps, **more})

    return make


@pytest.fixture(scope="session")
def mecha_models(tmp_path_factory):
    """`mecha_models("sd1")`: three thin checkpoints; no test changes them."""
    from mecha_oracle import write_models

    return cache(lambda family: write_models(tmp_path_factory.mktemp(f"mecha-{family}"), family, "abc"))
