"""Fixtures of the search's tests: models, recipes with something free, and a panel that costs nothing."""

from __future__ import annotations

import pytest
from fake_search import ColourGenerator, RedReward

from unetscope.checkpoints.demo import write_demo
from unetscope.search.objective import ImageObjective
from unetscope.search.study import Study


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """Four small models of one architecture, and one of another, that no test changes."""
    folder = tmp_path_factory.mktemp("models")
    base = write_demo(folder / "a.safetensors", "sd1", seed=1)
    for seed, name in enumerate("bcd", 2):
        write_demo(folder / f"{name}.safetensors", "sd1", seed=seed, finetune_of=base)
    write_demo(folder / "xl.safetensors", "sdxl", seed=1)
    return folder


@pytest.fixture
def recipe(model_folder):
    """Makes a recipe whose `alpha` is given: `recipe({free: [0, 1]})`."""

    def make(alpha, **more):
        models = {name: str(model_folder / f"{name}.safetensors") for name in more.pop("models", "ab")}
        step = {"method": "weighted_sum", "inputs": list(models)[:2], "alpha": alpha} | more.pop("step", {})
        return {"models": models, "steps": {"mix": step}, **more}

    return make


@pytest.fixture
def panel(monkeypatch):
    """Lets studies make pictures of one colour; the generator and the reward may be exchanged."""

    class Panel:
        generator = ColourGenerator()
        reward = RedReward()

    def made(study, requests):
        return ImageObjective(Panel.generator, Panel.reward, requests, batch=study.batch, pruning=study.pruning)

    monkeypatch.setattr("unetscope.search.objective.image_objective", made)
    monkeypatch.setattr("unetscope.search.confirmation.image_objective", made)
    return Panel


@pytest.fixture
def picture_study(recipe, tmp_path):
    """Makes a study over a panel of pictures."""

    def make(prompts: int = 3, **more) -> Study:
        data = {
            "title": "colours",
            "recipe": recipe({"free": [0, 1], "per": ["BASE", "IN*", "M00", "OUT*"]}),
            "payloads": [{"prompt": f"prompt {i}"} for i in range(prompts)],
            "seeds": [1, 2],
            "generator": {"kind": "colours"},
            "reward": "red",
            "optimiser": {"name": "random", "start": 3},
            "trials": 10,
        }
        return Study.parse(data | more, "study.yaml", tmp_path)

    return make
