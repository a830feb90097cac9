"""Every page with models of no known family: their blocks are those of their names, and no page stumbles over them."""

from __future__ import annotations

import finished_measurements as finished
import numpy as np
import pytest
import yaml
from key_sets import clip_l, t5, vae, write, z_image
from safetensors.numpy import load_file

from unetscope.dashboard import jobs, worker
from unetscope.dashboard.library import read_library
from unetscope.merge import Recipe, merge

LABELS = [
    "START", "CONTEXT_REFINER00", "CONTEXT_REFINER01", "NOISE_REFINER00", "NOISE_REFINER01",
    "LAYERS00", "LAYERS01", "LAYERS02", "LAYERS03", "LAYERS04", "END",
]  # fmt: skip


@pytest.fixture
def strange(tmp_path, monkeypatch):
    """Two files of one model, one with a block less, a merge, one with text encoder and VAE."""
    folder = tmp_path / "models"
    folder.mkdir()
    write(folder / "a.safetensors", z_image(), 1)
    write(folder / "b.safetensors", z_image(), 2, "model.diffusion_model.")
    write(folder / "short.safetensors", {k: s for k, s in z_image().items() if not k.startswith("layers.4.")}, 3)
    alpha = {"default": 0.5, "LAYERS01": 0.25}
    recipe = {
        "models": {"a": str(folder / "a.safetensors"), "b": str(folder / "b.safetensors")},
        "steps": {"mix": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": alpha}},
    }
    merge(Recipe.parse(recipe), folder / "merged.safetensors")
    beside = {f"text_encoders.clip_l.transformer.{k}": s for k, s in clip_l().items()}
    beside |= {f"text_encoders.t5xxl.transformer.{k}": s for k, s in t5().items()} | {
        f"vae.{k}": s for k, s in vae().items()
    }
    write(folder / "whole.safetensors", {f"model.diffusion_model.{k}": s for k, s in z_image().items()} | beside, 4)
    monkeypatch.setenv("UNETSCOPE_MODELS", str(folder))
    return folder


def button(at, label: str):
    return next(b for b in at.button if b.label == label)


def recipe_of(at) -> dict:
    return yaml.safe_load(next(code.value for code in at.code if code.value.startswith("models:")))


@pytest.fixture
def page(strange, no_workers, open_page):
    """The Merge page with a and b, and a name for the result."""
    at = open_page("merge", a="a.safetensors")
    assert not at.exception
    at.selectbox(key="m.model.b").set_value("b.safetensors")
    at.text_input(key="m.name").set_value("out")
    return at.run()


@pytest.mark.parametrize(
    "name", ["library", "explore", "compare", "merge", "collection", "where_from", "search", "jobs"]
)
def test_every_page_opens(name, strange, no_workers, open_page):
    at = open_page(name)
    assert not at.exception
    assert not at.error


@pytest.mark.parametrize("name", ["a", "b", "short", "merged", "whole"])
def test_the_library_has_a_card_for_each(name, strange, open_page):
    at = open_page("library", file=f"{name}.safetensors")
    assert not at.exception
    assert read_library(strange).named(f"{name}.safetensors").family == "any"


@pytest.mark.one_by_one
@pytest.mark.parametrize(
    ("level", "block"), [("Blocks", None), ("Modules", None), ("Layers", "LAYERS03"), ("Layers", "START")]
)
@pytest.mark.parametrize("name", ["b", "whole"])
def test_explore_draws_a_file_at_every_level(name, level, block, strange, open_page):
    at = open_page("explore", of=f"{name}.safetensors", level=level, **({"block": block} if block else {}))
    assert not at.exception
    assert not at.error
    if block:
        assert at.selectbox(key="block").value == block
        keys = [key for key in z_image() if key.startswith("layers.3.")]
        shown = list(at.dataframe[0].value["key"])
        assert set(shown) == set(keys) if block == "LAYERS03" else "x_pad_token" in shown


def test_explore_lists_the_blocks_with_what_they_hold(strange, open_page):
    rows = open_page("explore", of="b.safetensors").dataframe[0].value
    assert list(rows["block"]) == LABELS
    assert rows["parameters"].sum() == sum(np.prod(shape) for shape in z_image().values())
    whole = open_page("explore", of="whole.safetensors").dataframe[0].value
    assert list(whole["block"]) == ["CLIP_L", "T5XXL", *LABELS, "VAE"]


def test_a_block_of_a_file_has_statistics(strange, open_page):
    finished.statistics(strange / "a.safetensors")
    at = open_page("explore", of="a.safetensors", selected="LAYERS02")
    assert not at.exception
    keys = [key for key in z_image() if key.startswith("layers.2.")]
    assert set(at.dataframe[1].value["key"]) == set(keys)


@pytest.mark.parametrize("level", ["Blocks", "Modules", "Layers"])
def test_two_files_are_compared_whatever_their_prefix(level, strange, open_page):
    finished.difference(strange / "a.safetensors", strange / "b.safetensors")
    at = open_page("compare", a="a.safetensors", b="b.safetensors")
    at.radio(key="compare level").set_value(level).run()
    assert not at.exception and not at.error
    at.session_state["compare selected"] = ("LAYERS02",)
    at.run()
    table = at.dataframe[0].value
    assert (len(table), set(table["label"])) == (11, {"LAYERS02"})
    assert np.isfinite(table["relative_l2"]).all() and (table["relative_l2"] > 0).all()


@pytest.mark.parametrize("name", ["collection", "where_from"])
def test_what_was_measured_of_a_collection_and_a_merge_is_shown(name, strange, open_page):
    files = [strange / f"{name}.safetensors" for name in ("a", "b", "merged")]
    finished.comparison(files)
    finished.trace(files[2], files[:2])
    at = open_page(name)
    assert not at.exception and not at.error


def test_weights_by_block_are_those_of_the_files_names(page):
    assert not page.exception
    assert list(page.session_state["m.weights.alpha"].now) == LABELS
    assert recipe_of(page)["steps"]["mix"]["alpha"] == 0.5


def test_pasted_weights_reach_the_merged_file(page, strange):
    page.text_area(key="m.paste").set_value("default: 0.5; LAYERS00-LAYERS02: 0.25; START: 1")
    page.run()
    button(page, "Use them").click().run()
    assert not page.exception
    alpha = recipe_of(page)["steps"]["mix"]["alpha"]
    assert alpha == dict.fromkeys(LABELS, 0.5) | dict.fromkeys(("LAYERS00", "LAYERS01", "LAYERS02"), 0.25) | {
        "START": 1.0
    }
    button(page, "Merge").click().run()
    (job,) = jobs.listed("merge")
    worker.work("merge")
    assert jobs.get(job.id).result["models"] == {"a": "a.safetensors", "b": "b.safetensors"}
    a, b = (load_file(strange / f"{name}.safetensors") for name in "ab")
    out = load_file(next(strange.rglob("out.safetensors")))
    assert out.keys() == a.keys()
    key = "layers.1.attention.qkv.weight"
    mixed = 0.75 * a[key].astype(np.float32) + 0.25 * b[f"model.diffusion_model.{key}"].astype(np.float32)
    assert np.abs(out[key].astype(np.float32) - mixed).max() < 1e-3
    assert (out["x_pad_token"] == b["model.diffusion_model.x_pad_token"]).all()


def test_files_of_different_layouts_are_refused_unless_that_is_allowed(page):
    page.selectbox(key="m.model.b").set_value("short.safetensors").run()
    button(page, "Merge").click().run()
    assert "b lacks 11 tensors that a has" in page.error[0].value
    assert jobs.listed("merge") == []
    page.checkbox(key="m.output.allow_missing").check().run()
    button(page, "Dry run").click().run()
    assert not page.exception and not page.error
    assert recipe_of(page)["output"] == {"allow_missing": True}


def test_a_vector_of_one_number_a_block_can_be_copied_and_pasted(page):
    numbers = [round(0.05 * i, 2) for i in range(len(LABELS))]
    page.text_area(key="m.paste").set_value(",".join(map(str, numbers)))
    page.run()
    button(page, "Use them").click().run()
    assert recipe_of(page)["steps"]["mix"]["alpha"] == dict(zip(LABELS, numbers, strict=True))
    assert any(code.value == ",".join(f"{x:.6g}" for x in numbers) for code in page.code)


def test_the_recipe_of_a_merge_comes_back_into_the_controls(page):
    page.selectbox(key="m.repeat").set_value("merged.safetensors").run()
    button(page, "Load its recipe").click().run()
    assert not page.exception and not page.error
    assert recipe_of(page)["steps"]["mix"]["alpha"] == dict.fromkeys(LABELS, 0.5) | {"LAYERS01": 0.25}


def test_text_encoders_beside_the_model_have_a_weight_each(page):
    page.selectbox(key="m.model.a").set_value("whole.safetensors").run()
    page.selectbox(key="m.model.b").set_value("whole.safetensors").run()
    assert not page.exception and not page.error
    assert list(page.session_state["m.weights.alpha"].now) == ["CLIP_L", "T5XXL", *LABELS]


def test_files_of_the_same_model_are_chosen_first(strange, no_workers, open_page):
    write(strange / "another.safetensors", {f"blocks.{i}.{n}.weight": (4, 4) for i in range(3) for n in "qkv"}, 9)
    at = open_page("merge", a="a.safetensors")
    assert at.selectbox(key="m.model.b").value == "b.safetensors"
    assert at.selectbox(key="m.model.b").options[0] == "a.safetensors"
    assert "another.safetensors" not in open_page("collection").multiselect(key="collection models").value
    assert open_page("compare", a="a.safetensors").selectbox(key="b").value == "b.safetensors"
