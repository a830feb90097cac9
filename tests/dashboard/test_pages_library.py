"""The Library page: its table, its details, its empty and broken states."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file, save_file

from unetscope.dashboard import jobs, shell, worker
from unetscope.dashboard.library import read_library
from unetscope.dashboard.markdown import plain

HOSTILE = "<img src=x onerror=alert(1)> ![x](http://evil.example/x.png) [y](javascript:alert(1)) `$x$` :red[z]"


def texts(at) -> str:
    """Everything that the page says in markdown, alerts and captions."""
    return "\n".join(
        str(e.value) for kind in ("markdown", "caption", "info", "warning", "error", "success") for e in at.get(kind)
    )


def table(at):
    return at.dataframe[0].value


def test_every_file_is_in_the_table_before_anything_was_scanned(models, no_workers, open_page):
    at = open_page("library")
    assert not at.exception
    assert list(table(at)["file"]) == [
        "base.safetensors",
        "merged.safetensors",
        "tuned.safetensors",
        "wide.safetensors",
    ]
    assert set(table(at)["health"]) == {"not scanned"}
    assert list(table(at)["architecture"]) == ["SD1 checkpoint"] * 3 + ["SDXL checkpoint"]
    assert "4 files" in texts(at).replace("\\", "")


@pytest.mark.parametrize("page", ["library", "explore", "merge", "compare", "collection", "where_from"])
def test_a_page_that_has_not_read_the_whole_folder_says_so_and_looks_again(
    page, models, no_workers, open_page, monkeypatch
):
    looks = []
    monkeypatch.setattr(shell, "READ_SECONDS", 0.0)  # one header each time
    monkeypatch.setattr(shell, "_look_again", looks.append)
    at = open_page(page)
    assert not at.exception and "3 more files" in texts(at) and len(looks) == 1
    # The library shows what it has; nobody is offered a choice of the files that happen to have been read.
    assert (page == "library") == bool(at.dataframe)
    assert page == "library" or not (at.selectbox or at.multiselect or at.info)
    for _ in range(3):
        at.run()
    assert not at.exception and "more file" not in texts(at) and len(looks) == 3
    assert read_library(models, seconds=0).unread == 0


def test_a_scan_fills_in_health_and_groups_files_that_share_a_vae(models, no_workers, open_page):
    at = open_page("library")
    next(b for b in at.button if b.label == "Scan 4 files").click().run()
    assert [job.kind for job in jobs.listed()] == ["scan"]
    worker.work("background")
    at.run()
    assert not at.exception
    assert set(table(at)["health"]) == {"sound"}
    assert list(table(at)["VAE"])[:3] == ["A (3 files)"] * 3
    assert table(at)["CLIP-L"].nunique() == 4


def test_search_and_architecture_narrow_the_table(models, no_workers, open_page):
    at = open_page("library", search="tuned")
    assert list(table(at)["file"]) == ["tuned.safetensors"]
    at.text_input(key="search").set_value("").run()
    at.selectbox(key="library kind").set_value("SDXL checkpoint").run()
    assert list(table(at)["file"]) == ["wide.safetensors"]
    at.text_input(key="search").set_value("no such file").run()
    assert "Clear it" in texts(at)


def test_a_file_named_in_the_address_is_explained_with_its_history(models, no_workers, open_page):
    at = open_page("library", file="merged.safetensors")
    assert not at.exception
    assert plain("merged.safetensors") in at.subheader[0].value
    history = next(code.value for code in at.code if "weighted_sum" in code.value)
    assert history.split("\n")[0].startswith("merged.safetensors") and "tuned.safetensors" in history


def test_hostile_metadata_and_names_are_text(models, no_workers, open_page):
    tensors = load_file(models / "base.safetensors")
    name = "a<img src=x onerror=alert(1)>[b](http:x).safetensors"
    recipe = json.dumps({"type": "<b>", "model_a": HOSTILE})
    save_file(tensors, models / name, {"modelspec.title": HOSTILE, HOSTILE: "x", "sd_merge_recipe": recipe})
    at = open_page("library", file=name)
    assert not at.exception
    said = texts(at) + "".join(s.value for s in at.subheader)
    assert "](http" not in said and "<img" not in said.replace("\\<img", "")
    metadata = next(d.value for d in at.dataframe if list(d.value.columns) == ["name", "value"])
    assert HOSTILE in set(metadata["value"])
    assert all(not element.allow_html for element in at.markdown)


@pytest.mark.long
def test_an_empty_folder_offers_demo_checkpoints_and_then_shows_them(tmp_path, monkeypatch, no_workers, open_page):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("UNETSCOPE_MODELS", str(tmp_path / "empty"))
    at = open_page("library")
    assert "no checkpoint" in texts(at)
    next(b for b in at.button if b.label.startswith("Make demo checkpoints")).click().run()
    (job,) = jobs.listed("demo")
    assert job.arguments == {"folder": str(tmp_path / "empty")}
    worker.work("background")
    at.run()
    assert {"sd1-base.safetensors", "sd1-old.ckpt", "sdxl-photo.safetensors"} <= set(table(at)["file"])


def test_without_a_folder_the_page_asks_for_one_and_remembers_it(models, monkeypatch, no_workers, open_page):
    monkeypatch.delenv("UNETSCOPE_MODELS")
    monkeypatch.setattr("unetscope.dashboard.folder_choice._only_here", lambda: True)
    at = open_page("library")
    assert "No models folder" in texts(at) and not at.dataframe
    at.text_input(key="models folder").set_value(str(models / "absent"))
    at.button[0].click().run()
    assert "is not a folder" in texts(at).replace("\\", "")
    at.text_input(key="models folder").set_value(str(models))
    at.button[0].click().run()
    assert len(table(at)) == 4
    assert len(table(open_page("library"))) == 4


def test_others_on_the_network_cannot_choose_folders(models, monkeypatch, no_workers, open_page):
    monkeypatch.delenv("UNETSCOPE_MODELS")
    monkeypatch.setattr("unetscope.dashboard.folder_choice._only_here", lambda: False)
    at = open_page("library")
    assert "start it with" in texts(at) and not at.text_input


@pytest.mark.parametrize("name", ["settings", "jobs"])
def test_settings_and_jobs_are_drawn(models, no_workers, open_page, name):
    assert not open_page(name).exception


def test_damaged_files_say_what_to_do(models, no_workers, open_page):
    (models / "junk.safetensors").write_bytes(b"junk")
    at = open_page("library", file="junk.safetensors")
    assert "download it again" in texts(at)
    assert "cannot be read" in set(table(at)["health"])
    assert read_library(models).named("junk.safetensors").error


def test_a_file_that_is_gone_when_its_scan_begins_is_said(models, no_workers, open_page):
    at = open_page("library")
    next(b for b in at.button if b.label == "Scan 4 files").click().run()
    (models / "tuned.safetensors").unlink()
    worker.work("background")
    at.run()
    assert "tuned.safetensors could not be scanned: is gone" in texts(at).replace("\\", "")
