"""A models folder with demo checkpoints, and an app that remembers nothing of the user's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from unetscope.checkpoints.demo import write_demo
from unetscope.dashboard import library, shell
from unetscope.merge import Recipe, merge


@pytest.fixture(autouse=True)
def _own_state(tmp_path, monkeypatch, one_look_for_components):
    """No test sees or changes the user's settings and jobs; and on a busy machine a page reads the whole folder, too."""
    monkeypatch.setattr(shell, "READ_SECONDS", 3600.0)
    monkeypatch.setenv("UNETSCOPE_STATE", str(tmp_path / "state"))
    for name in ("UNETSCOPE_MODELS", "UNETSCOPE_OUTPUT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def demo_files(tmp_path_factory) -> Path:
    """Two SD1 checkpoints, one SDXL checkpoint, and a merge of the first two. Not to be changed."""
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder / "base.safetensors", "sd1", seed=1)
    write_demo(folder / "tuned.safetensors", "sd1", seed=2, finetune_of=folder / "base.safetensors")
    write_demo(folder / "wide.safetensors", "sdxl", seed=3)
    recipe = {
        "models": {"a": str(folder / "base.safetensors"), "b": str(folder / "tuned.safetensors")},
        "steps": {"mix": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": {"preset": "GRAD_V", "BASE": 0.25}}},
    }
    merge(Recipe.parse(recipe), folder / "merged.safetensors")
    return folder


def _as_it_lies(path: Path) -> tuple[str, int, int]:
    """What tells a copy of a demo file that nobody changed."""
    return path.name, path.stat().st_size, path.stat().st_mtime_ns


@pytest.fixture(scope="session")
def demo_headers(demo_files) -> dict[tuple[str, int, int], dict]:
    """What the library reads in these files: reading them took longer than most pages."""
    return {_as_it_lies(path): library._read_headers(path) for path in demo_files.iterdir()}


@pytest.fixture
def models(demo_files, demo_headers, tmp_path, monkeypatch) -> Path:
    """A models folder of the test's own with these files, which the app is started with."""
    folder, read = tmp_path / "models", library._read_headers
    shutil.copytree(demo_files, folder)
    monkeypatch.setattr(library, "_read_headers", lambda path: demo_headers.get(_as_it_lies(path)) or read(path))
    monkeypatch.setenv("UNETSCOPE_MODELS", str(folder))
    return folder


@pytest.fixture
def no_workers(monkeypatch) -> None:
    """Jobs are queued, and nothing runs them."""
    monkeypatch.setattr("unetscope.dashboard.jobs.start_worker", lambda lane, force=False: None)


@pytest.fixture
def open_page():
    """Opens a page: `open_page("library", file="base.safetensors")`; keywords are the address's parameters."""

    def open_it(name: str, **parameters: str) -> AppTest:
        at = AppTest.from_string(f"from unetscope.dashboard.pages import {name}\n{name}.show()", default_timeout=600)
        for key, value in parameters.items():
            at.query_params[key] = value
        return at.run()

    return open_it
