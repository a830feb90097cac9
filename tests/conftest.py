"""Fixtures that every test may use."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

# Tests run in as many processes as there are cores; torch's own threads on top would wait for one another. Before it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings
from safetensors.torch import save_file
from tiny import tensors_of

# Bytecode is kept even where nobody else keeps any: each process that a test starts would compile the whole package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A busy machine is not a failure. The examples are the same each time, so that a change is not red by chance: new ones are looked
# for with UNETSCOPE_FUZZ.
settings.register_profile("unetscope", deadline=None, derandomize="UNETSCOPE_FUZZ" not in os.environ)
settings.load_profile("unetscope")

# These begin first: one of them at the end would keep one process busy while the others have nothing left to do.
LONGEST = (
    "test_notebooks.py",
    "test_browser.py",
    "test_failures.py",
    "test_diffusers_live.py",
    "test_lora_diffusers.py",
    "test_export_mecha.py",
    "test_pages_merge.py",
    "test_engine.py",
    "test_wholeness.py",
    "test_import_mecha.py",
    "test_import_mergekit.py",
    "test_faults.py",
    "test_postgres.py",
    "test_diagram_browser.py",
)


# So many generated cases a test tries in a short run; all that its settings say, or UNETSCOPE_FUZZ, is `long`.
FEW = 60
# Hypothesis has no other place for what one run of a test is to try.
SETTINGS = "_hypothesis_internal_use_settings"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of many generated cases stand there twice."""
    if hasattr(metafunc.function, "hypothesis"):
        said = getattr(metafunc.function, SETTINGS).max_examples
        if said > FEW:
            whole = pytest.param(int(os.environ.get("UNETSCOPE_FUZZ", said)), id="many", marks=pytest.mark.long)
            metafunc.parametrize("cases", [pytest.param(FEW, id="few"), whole], indirect=True)


@pytest.fixture(autouse=True)
def cases(request, monkeypatch) -> None:
    """Has a test of generated cases try so many."""
    if hasattr(request, "param"):
        said = getattr(request.function, SETTINGS)
        monkeypatch.setattr(request.function, SETTINGS, settings(said, max_examples=request.param))


def is_a_combination(item: pytest.Item) -> bool:
    """Whether more than one parameter has another value than its first."""
    names = [mark.args[0] for mark in item.iter_markers("parametrize")]
    firsts = [name.split(",")[0].strip() if isinstance(name, str) else name[0] for name in names]
    return sum(item.callspec.indices[name] > 0 for name in firsts) > 1


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks combinations; and puts the longest files first, the others in the order of their names."""
    for item in items:
        if item.get_closest_marker("one_by_one") and is_a_combination(item):
            item.add_marker("long")
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_collection_finish() -> None:
    """Python need not look again and again for garbage among the libraries: that was a quarter of the whole time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


@pytest.fixture(autouse=True, scope="session")
def _the_disk_need_not_keep_up():
    """Files of tests need not outlast a power cut; waiting for the disk was a twelfth of the whole time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def one_look_for_components():
    """Each page that a test opens has Streamlit look through all installed packages, which takes longer than the page itself."""
    from streamlit.components.v2 import manifest_scanner

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_scanner, "scan_component_manifests", cache(manifest_scanner.scan_component_manifests))
        yield


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """No test sees or fills the user's cache."""
    monkeypatch.setenv("UNETSCOPE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def plain_checkpoint(tmp_path_factory) -> Callable[..., Path]:
    """`plain_checkpoint('sd1', 1)`: a checkpoint of `tensors_of`, written once; to be copied, not to be changed."""
    folder = tmp_path_factory.mktemp("plain")

    @cache
    def write(family: str, seed: int, options: tuple) -> Path:
        path = folder / f"{len(os.listdir(folder))}.safetensors"
        save_file(tensors_of(family, seed, **dict(options)), path, metadata={"format": "pt"})
        return path

    return lambda family, seed, **options: write(family, seed, tuple(sorted(options.items())))


@pytest.fixture
def make_checkpoint(tmp_path, plain_checkpoint) -> Callable[..., tuple[Path, dict[str, torch.Tensor]]]:
    """Writes a checkpoint with safetensors' own writer: `make_checkpoint('a', 'sd1', seed=1)` -> path, tensors."""

    def make(name: str, family: str = "sd1", seed: int = 0, *, metadata=None, change=None, **options):
        tensors, path = tensors_of(family, seed, **options), tmp_path / f"{name}.safetensors"
        if not change and not metadata:
            shutil.copyfile(plain_checkpoint(family, seed, **options), path)
            return path, tensors
        if change:
            tensors = change(tensors) or tensors
        save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata=metadata or {"format": "pt"})
        return path, tensors

    return make
