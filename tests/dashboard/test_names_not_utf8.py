"""A file whose name is not UTF-8, from an old archive or another system's disk, is listed and used like any other."""

from __future__ import annotations

import os
import sys

import finished_measurements as finished
import pytest
import yaml
from tiny import load, raw

from unetscope.checkpoints.text import readable
from unetscope.dashboard import jobs, worker
from unetscope.dashboard.folders import Folders, existing
from unetscope.dashboard.library import read_library
from unetscope.dashboard.markdown import plain

pytestmark = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are Unicode there")
SHOWN = "mod\\udce8le.safetensors"


@pytest.fixture
def odd(models):
    """`tuned` under a Latin-1 name, as the system has it."""
    path = models / os.fsdecode(b"mod\xe8le.safetensors")
    (models / "tuned.safetensors").rename(path)
    return path


def test_a_readable_name_is_text_names_one_file_and_leads_back_to_it(tmp_path):
    names = [
        b"mod\xe8le",
        b"mod\xe9le",
        "modèle".encode(),
        b"\xff\xfe",
        "\N{REPLACEMENT CHARACTER}E8".encode(),
        b"plain",
    ]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    shown = [readable(os.fsdecode(name)) for name in names]
    assert len(set(shown)) == len(names) and shown[2] == "modèle" and shown[5] == "plain"
    for name, text in zip(names, shown, strict=True):
        assert existing(tmp_path / text.encode().decode()).read_bytes() == name
    assert existing(tmp_path / "gone") == tmp_path / "gone"


@pytest.mark.parametrize(
    "page", ["library", "merge", "compare", "collection", "where_from", "explore", "search", "jobs"]
)
def test_every_page_lists_it(page, odd, no_workers, open_page):
    at = open_page(page)
    assert not at.exception
    assert SHOWN in [entry.name for entry in read_library(odd.parent).entries]
    box = {"merge": "m.model.b", "compare": "b", "explore": "of", "where_from": "merged"}.get(page)
    assert box is None or SHOWN in at.selectbox(key=box).options


def test_its_page_in_the_library_and_its_scan(odd, no_workers, open_page):
    at = open_page("library", file=SHOWN)
    assert not at.exception and not at.warning
    next(b for b in at.button if b.label == "Scan 4 files").click().run()
    worker.work("background")
    at.run()
    assert not at.exception and plain(SHOWN) == at.subheader[0].value
    row = next(row for _, row in at.dataframe[0].value.iterrows() if row["file"] == SHOWN)
    assert row["health"] == "sound" and row["VAE"].startswith("A (3")


def test_it_is_explored_compared_collected_and_traced(odd, no_workers, open_page):
    base = odd.with_name("base.safetensors")
    finished.statistics(odd)
    finished.difference(base, odd)
    finished.comparison(sorted([base, odd, odd.with_name("merged.safetensors")], key=lambda path: readable(path.name)))
    finished.trace(odd.with_name("merged.safetensors"), [base, odd])
    for page, parameters in {
        "explore": {"of": SHOWN, "selected": "IN05"},
        "compare": {"a": "base.safetensors", "b": SHOWN},
        "collection": {},
        "where_from": {},
    }.items():
        at = open_page(page, **parameters)
        assert not at.exception, page
        assert not [b for b in at.button if "reads" in b.label], page
        assert len(at.dataframe) >= 1


def test_it_is_merged_by_controls_and_by_text_into_a_file_whose_recipe_names_it(odd, no_workers, open_page):
    at = open_page("merge")
    at.selectbox(key="m.model.b").set_value(SHOWN)
    at.text_input(key="m.name").set_value("controls").run()
    assert not at.exception
    recipe = next(code.value for code in at.code if code.value.startswith("models:"))
    assert yaml.safe_load(recipe)["models"]["b"] == SHOWN
    next(b for b in at.button if b.label == "Merge").click().run()
    at.segmented_control(key="m.mode").set_value("Recipe as text").run()
    at.text_area(key="m.text").set_value(recipe)
    at.text_input(key="m.name").set_value("text").run()
    next(b for b in at.button if b.label == "Merge").click().run()
    assert not at.exception and not at.error
    worker.work("merge")
    at.run()
    assert not at.exception and [job.status for job in jobs.listed("merge")] == ["done", "done"]
    both = [load(odd.with_name(f"{name}.safetensors")) for name in ("controls", "text")]
    assert {k: raw(t) for k, t in both[0].items()} == {k: raw(t) for k, t in both[1].items()}


def test_folders_may_be_called_so_too(tmp_path, demo_files, monkeypatch, no_workers, open_page):
    folder = tmp_path / os.fsdecode(b"mod\xe8les")
    folder.mkdir()
    (folder / "base.safetensors").hardlink_to(demo_files / "base.safetensors")
    monkeypatch.setenv("UNETSCOPE_MODELS", str(folder))
    assert Folders.at(folder).find("base.safetensors").exists()
    for page in ("library", "merge", "settings", "jobs", "search"):
        assert not open_page(page).exception, page
