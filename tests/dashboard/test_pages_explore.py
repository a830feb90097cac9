"""Explore: what is looked at, what is in the selected boxes, and statistics on request."""

from __future__ import annotations

import finished_measurements as finished
import numpy as np
import pytest
from safetensors.numpy import load_file

from unetscope.checkpoints.demo import write_demo
from unetscope.dashboard import jobs
from unetscope.dashboard.drawable import Drawable, label_of, rows_of
from unetscope.merge.convert import convert

IN05_TENSORS = 36  # a ResNet with its time projection and skip-less convolutions, and a transformer with one layer


def test_without_a_models_folder_the_published_architectures_can_be_explored(open_page):
    at = open_page("explore")
    assert not at.exception
    assert at.selectbox(key="of").options == ["Stable Diffusion 1", "Stable Diffusion 2", "SDXL", "SDXL refiner"]


def test_an_address_leads_to_a_file_and_a_block(models, open_page):
    at = open_page("explore", of="tuned.safetensors", selected="IN05")
    assert at.selectbox(key="of").value == "tuned.safetensors"
    assert [m.value for m in at.markdown if "IN05" in m.value] == ["**IN05**"]
    table = at.dataframe[0].value
    assert len(table) == IN05_TENSORS
    assert set(table["label"]) == {"IN05"}
    assert set(table["dtype"]) == {"F16"}


def test_a_file_of_a_kin_is_explored_by_its_own_blocks_and_tensors(models, open_page):
    write_demo(models / "small.safetensors", "koala_700m")
    at = open_page("explore", of="small.safetensors", selected="OUT05")
    assert not at.exception
    assert at.selectbox(key="of").value == "small.safetensors"
    assert set(at.dataframe[0].value["label"]) == {"OUT05"}
    gone = open_page("explore", of="small.safetensors", selected="M00")
    assert not gone.exception
    assert gone.session_state["explore selected"] == ()


@pytest.mark.parametrize("name", ["sdxl", "SDXL"])
def test_a_folder_that_is_called_as_an_architecture_is_explored_as_itself(models, open_page, name):
    convert(models / "wide.safetensors", models / name, to="diffusers")
    at = open_page("explore", of=name, selected="IN05")
    assert not at.exception
    assert set(at.dataframe[0].value["dtype"]) == {"F16"}  # an architecture has none
    both = [option for option in at.selectbox(key="of").options if option.startswith("SDXL") or option == name]
    assert sorted(both) == sorted({"SDXL", "SDXL refiner", name, *(["SDXL (architecture)"] if name == "SDXL" else [])})


@pytest.mark.parametrize("hostile", ["../../etc/passwd", "/etc/passwd", "<img src=x onerror=alert(1)>"])
def test_an_address_with_names_of_nothing_shows_the_whole_network(models, open_page, hostile):
    at = open_page("explore", of=hostile, selected=hostile)
    assert not at.exception
    assert at.session_state["explore selected"] == ()


@pytest.mark.parametrize("name", ["sd2", "sdxl_refiner", "sdxl"])
def test_an_address_may_name_an_architecture(open_page, name):
    at = open_page("explore", of=name)
    assert at.selectbox(key="of").value == name
    at.selectbox(key="of").set_value("sd1").run()
    assert (at.selectbox(key="of").value, at.query_params["of"]) == ("sd1", "sd1")


def test_the_layer_level_shows_one_block_and_leads_back(open_page):
    at = open_page("explore", of="sdxl", level="Layers", block="IN07")
    assert not at.exception
    assert (at.selectbox(key="of").value, at.selectbox(key="block").value) == ("sdxl", "IN07")
    assert set(at.dataframe[0].value["label"]) == {"IN07"}
    next(b for b in at.button if b.label == "All blocks").click().run()
    assert at.radio(key="level").value == "Blocks"
    assert at.session_state["explore selected"] == ("IN07",)


def test_a_selected_block_leads_to_its_layers(open_page):
    at = open_page("explore", selected="OUT03")
    next(b for b in at.button if b.label == "Layers of OUT03").click().run()
    assert not at.exception
    assert (at.radio(key="level").value, at.selectbox(key="block").value) == ("Layers", "OUT03")


def test_a_block_of_another_architecture_does_not_stop_the_page(open_page):
    at = open_page("explore", of="sd1", level="Layers", block="OUT11")
    at.selectbox(key="of").set_value("sdxl").run()
    assert not at.exception
    assert at.selectbox(key="block").value in Drawable("sdxl", "sdxl").labels


def test_an_architecture_has_no_statistics_and_says_so(open_page):
    at = open_page("explore", selected="IN05")
    assert any("shapes and no values" in info.value for info in at.info)


def test_statistics_are_measured_by_a_job_on_request(models, no_workers, open_page):
    at = open_page("explore", of="base.safetensors", selected="IN05")
    assert jobs.listed("statistics") == []
    at.button(key="start-statistics").click().run()
    assert [job.arguments["file"] for job in jobs.listed("statistics")] == [str(models / "base.safetensors")]


def test_statistics_of_a_block_are_those_of_its_tensors(models, open_page):
    finished.statistics(models / "base.safetensors")
    at = open_page("explore", of="base.safetensors", selected="IN05")
    assert not at.exception
    table = at.dataframe[-1].value.set_index("key")
    tensors = load_file(models / "base.safetensors")
    key = "input_blocks.5.0.in_layers.2.weight"
    values = tensors[f"model.diffusion_model.{key}"].astype(np.float64)
    assert len(table) == IN05_TENSORS
    assert table.loc[key, "mean"] == pytest.approx(values.mean(), rel=1e-6)
    assert table.loc[key, "std"] == pytest.approx(values.std(), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "count", "label"),
    [
        ("IN05", 36, "IN05"),
        ("down_blocks.1.attentions.1", 26, "IN05"),
        ("down_blocks.1.resnets.1", 10, "IN05"),
        ("model.diffusion_model.input_blocks.5.0.in_layers.2.weight", 1, "IN05"),
        ("nonsense", 0, None),
    ],
)
def test_rows_of_a_box_are_its_tensors_whatever_the_level(name, count, label):
    drawable = Drawable("sd1", "sd1")
    assert (len(rows_of(drawable, [name])), label_of(drawable, name)) == (count, label)


def test_all_rows_together_are_the_whole_network():
    rows = rows_of(Drawable("sd1", "sd1"), [])
    unet = [row for row in rows if row["key"].startswith("model.diffusion_model.")]
    assert (len(unet), sum(row["params"] for row in unet)) == (686, 859_520_964)
