"""The whole app in headless Chromium, as a newcomer uses it. Steps build on each other, in the order of this file.

Without a browser these tests are skipped; with UNETSCOPE_REQUIRE_BROWSER=1 they fail instead.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from browser import PATIENCE, browser_page, complaints_of, require_browser, served_app, settle
from places import place
from tiny import leftovers, load, raw

from unetscope.checkpoints import open_checkpoint
from unetscope.checkpoints.dtypes import dtype_named
from unetscope.checkpoints.families import layout
from unetscope.checkpoints.formats.safetensors_file import plan_header
from unetscope.merge import Recipe, merge

pytestmark = pytest.mark.long


@pytest.fixture(scope="module", autouse=True)
def _browser() -> None:
    require_browser()


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """The app's address and its models folder, empty at first."""
    folder = tmp_path_factory.mktemp("app")
    with served_app(folder) as address:
        yield address, folder / "models"


@pytest.fixture(scope="module")
def window(app) -> Iterator:
    with browser_page() as page:
        page.errors = complaints_of(page)
        yield page


@pytest.fixture
def page(window) -> Iterator:
    """The browser's page; what it complained about during a test fails the test."""
    window.errors.clear()
    yield window
    assert window.errors == []


def go(page, address: str, path: str = "") -> None:
    page.goto(f"{address}/{path}")
    settle(page)
    assert not page.locator("[data-testid=stException]").count(), page.locator("[data-testid=stException]").inner_text()


def block(page, label: str):
    return page.locator(f".stage [data-label={label}]").first


def choose(page, label: str, option: str) -> None:
    """Pick an option of a select box."""
    box = page.get_by_role("combobox", name=label, exact=True)
    box.click()
    box.fill(option)
    page.get_by_role("option", name=option, exact=True).first.click()
    settle(page)


def merge_into(page, name: str) -> None:
    page.get_by_role("textbox", name="Name of the result").fill(name)
    page.locator(".st-key-m-run button").first.click()


def type_weight(page, label: str, weight: str) -> None:
    block(page, label).locator("text.amount").click()
    page.locator("input.typed").fill(weight)
    page.locator("input.typed").press("Enter")
    settle(page)


def test_an_empty_folder_fills_with_demo_checkpoints_at_one_click(page, app):
    address, models = app
    go(page, address)
    page.get_by_role("button", name="Make demo checkpoints").click()
    page.get_by_text("7 files, ").wait_for()
    assert len(list(models.iterdir())) == 7
    page.get_by_role("button", name="Scan 7 files").click()
    page.get_by_text("7 scanned").wait_for()


def test_a_click_on_a_block_shows_its_tensors_and_its_link_can_be_shared(page, app):
    address, _ = app
    go(page, address, "explore?of=sd1-base.safetensors")
    block(page, "IN05").click()
    page.wait_for_url("**selected=IN05**")
    count = sum(place(key).label == "IN05" for key in layout("sd1"))
    page.get_by_text(f"parameters in {count} tensors").wait_for()
    page.locator("[data-testid=stDataFrame]").first.wait_for()
    link = page.url
    go(page, address)
    page.goto(link)
    page.get_by_text(f"parameters in {count} tensors").wait_for()
    assert block(page, "IN05").get_attribute("class").split().count("selected") == 1


def test_two_models_are_compared_in_a_job(page, app):
    address, _ = app
    go(page, address, "compare?a=sd1-base.safetensors&b=sd1-photo.safetensors")
    start = page.get_by_role("button", name=re.compile("^Compare|^Measure")).first
    if start.count():
        start.click()
    page.locator("[data-testid=stVegaLiteChart]").first.wait_for()
    page.locator(".stage [data-label=IN05]").first.wait_for()


def test_weights_typed_in_the_diagram_reach_the_file_and_change_their_block_alone(page, app, tmp_path):
    address, models = app
    go(page, address, "merge?a=sd1-base.safetensors")
    choose(page, "Model B", "sd1-photo.safetensors")
    merge_into(page, "first")
    page.get_by_text(re.compile(r"Wrote .*first\.safetensors")).first.wait_for()
    type_weight(page, "IN05", "0.9")
    merge_into(page, "second")
    page.get_by_text(re.compile(r"Wrote .*second\.safetensors")).first.wait_for()
    first, second = load(models / "first.safetensors"), load(models / "second.safetensors")
    changed = {key for key in first if raw(first[key]) != raw(second[key])}
    assert {place(key).label for key in changed} == {"IN05"}
    recipe = {
        "models": {"a": str(models / "sd1-base.safetensors"), "b": str(models / "sd1-photo.safetensors")},
        "steps": {
            "mix": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": {"NOT IN05 VAE": 0.5, "IN05": 0.9}},
        },
    }
    merge(Recipe.parse(recipe), tmp_path / "engine.safetensors")
    engine = load(tmp_path / "engine.safetensors")
    assert {key: raw(tensor) for key, tensor in second.items()} == {key: raw(tensor) for key, tensor in engine.items()}


def test_several_blocks_move_together_by_keyboard_and_undo_takes_it_back(page, app):
    address, _ = app
    go(page, address, "merge?a=sd1-base.safetensors")
    choose(page, "Model B", "sd1-photo.safetensors")
    block(page, "IN01").click(position={"x": 12, "y": 12})
    block(page, "IN02").click(position={"x": 12, "y": 12}, modifiers=["Shift"])
    block(page, "IN02").focus()
    page.keyboard.press("Shift+ArrowUp")
    page.wait_for_timeout(1200)
    settle(page)
    assert [block(page, x).locator("text.amount").text_content() for x in ("IN01", "IN02", "IN04")] == [
        "0.6",
        "0.6",
        "0.5",
    ]
    page.get_by_role("button", name="undo").click()
    block(page, "IN01").locator("text.amount", has_text="0.5").wait_for()
    assert block(page, "IN01").locator("text.amount").text_content() == "0.5"


def test_the_recipe_of_a_merge_comes_back_into_the_controls(page, app):
    address, _ = app
    go(page, address, "merge")
    page.get_by_role("button", name="Load a recipe").click()
    choose(page, "Merged file of the library", "second.safetensors")
    page.get_by_role("button", name="Load its recipe").click()
    page.get_by_text("loaded into the controls").wait_for()
    settle(page)
    assert block(page, "IN05").locator("text.amount").text_content() == "0.9"


def write_large(path: Path) -> None:
    """A full-size SD1 checkpoint of zeros, which takes no room on the disk."""
    dtype = dtype_named("fp16")
    header, _, size = plan_header([(key, dtype, spec.shape) for key, spec in layout("sd1", widths="real").items()], {})
    path.write_bytes(header)
    os.truncate(path, size)


def test_a_running_merge_survives_a_reload_and_stops_when_it_is_cancelled(page, app):
    address, models = app
    for name in ("x", "y", "z"):
        write_large(models / f"large-{name}.safetensors")
    # Far longer than the page needs to be loaded again, however busy the machine; it is cancelled.
    steps = {f"mix {n}": {"method": "train_difference", "inputs": [f"mix {n - 1}", "y", "z"]} for n in range(1, 8)}
    steps["mix 0"] = {"method": "train_difference", "inputs": ["x", "y", "z"]}
    recipe = {"models": {name: f"large-{name}.safetensors" for name in "xyz"}, "steps": steps, "result": "mix 7"}
    go(page, address, "merge")
    page.get_by_role("radio", name="Recipe as text").click()
    page.get_by_role("textbox", name="Recipe").fill(yaml.safe_dump(recipe))
    merge_into(page, "long")
    running = page.get_by_text(re.compile(r"Merge long.*(left|GB)")).first
    running.wait_for()
    page.reload()
    settle(page)
    running.wait_for()
    page.get_by_role("button", name="Cancel").first.click()
    page.get_by_text(re.compile("was cancelled")).first.wait_for()
    deadline = time.monotonic() + PATIENCE
    while leftovers(models) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert leftovers(models) == [] and not (models / "long.safetensors").exists()
    for name in ("x", "y", "z"):
        (models / f"large-{name}.safetensors").unlink()


def test_hostile_names_and_metadata_run_nothing(page, app):
    address, models = app
    from safetensors.torch import load_file, save_file

    attack = '<img src=x onerror="window.hit=1">![x](http://evil.invalid/x.png)'
    name = "a<img src=x onerror=window.hit=1>.safetensors"
    save_file(load_file(models / "sd1-base.safetensors"), models / name, {"modelspec.title": attack, attack: attack})
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "evil" in request.url else None)
    from urllib.parse import quote

    for path in (f"?file={quote(name)}", f"explore?of={quote(name)}", f"merge?a={quote(name)}", "jobs"):
        go(page, address, path)
        page.wait_for_timeout(300)
    assert page.evaluate("window.hit") is None and asked == []
    (models / name).unlink()


@pytest.mark.parametrize("name", ["", "explore", "compare", "merge", "collection", "jobs", "settings"])
def test_every_page_is_drawn_without_errors(page, app, name):
    go(page, app[0], name)
    page.locator("h1").first.wait_for()


def press(page, pause: int) -> None:
    """Click Merge as a hand does: what a typed value changes on the page comes between button down and button up."""
    box = page.locator(".st-key-m-run button").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.wait_for_timeout(pause)
    page.mouse.up()


def test_what_is_typed_before_a_click_on_merge_counts_and_so_does_the_click(page, app):
    address, models = app
    go(page, address, "merge?a=sd1-base.safetensors")
    choose(page, "Model B", "sd1-photo.safetensors")
    page.get_by_role("textbox", name="Name of the result").fill("second")  # is there: a tick to replace it appears
    page.keyboard.press("Enter")
    settle(page)
    page.get_by_role("textbox", name="Name of the result").fill("third")  # the tick goes
    press(page, 400)
    page.get_by_text(re.compile(r"Wrote .*third\.safetensors")).first.wait_for()
    block(page, "IN05").locator("text.amount").click()
    page.locator("input.typed").fill("0.75")
    press(page, 400)
    page.get_by_text("third.safetensors exists already: tick Replace it").wait_for()
    assert page.get_by_text("Merge third.safetensors: done").count() == 0
    page.get_by_role("textbox", name="Name of the result").fill("fourth")
    press(page, 400)
    page.get_by_text(re.compile(r"Wrote .*fourth\.safetensors")).first.wait_for()
    page.get_by_text("by block").first.click()
    settle(page)
    page.get_by_role("textbox", name="Name of the result").fill("fifth")
    page.get_by_role("spinbutton", name="alpha").first.fill("0.625")
    press(page, 400)
    page.get_by_text(re.compile(r"Wrote .*fifth\.safetensors")).first.wait_for()
    steps = [alpha_of(models / f"{name}.safetensors") for name in ("fourth", "fifth")]
    assert steps[0]["IN05"] == 0.75 and steps[1] == 0.625


def alpha_of(path: Path) -> object:
    with open_checkpoint(path) as checkpoint:
        return yaml.safe_load(checkpoint.metadata["unetscope.recipe"])["steps"]["mix"]["alpha"]


def test_a_reload_brings_back_what_was_set_and_a_second_tab_has_its_own(page, app):
    address, _ = app
    go(page, address, "merge?a=sd1-base.safetensors")
    choose(page, "Model B", "sd1-photo.safetensors")
    type_weight(page, "IN04", "0.35")
    page.get_by_role("textbox", name="Name of the result").fill("draft")
    page.keyboard.press("Enter")
    settle(page)
    page.reload()
    settle(page)
    block(page, "IN04").locator("text.amount").wait_for()
    assert block(page, "IN04").locator("text.amount").text_content() == "0.35"
    assert page.get_by_role("textbox", name="Name of the result").input_value() == "draft"
    page.get_by_role("button", name="undo").click()
    block(page, "IN04").locator("text.amount", has_text="0.5").wait_for()
    link = page.url
    second = page.context.new_page()
    go(second, address, "merge")
    assert second.url != link and second.get_by_role("textbox", name="Name of the result").input_value() == ""
    second.close()


def test_the_servers_log_is_quiet(app):
    said = (app[1].parent / "server.log").read_text(errors="replace")
    assert not re.search("Traceback|default value|does not exist|Error|WARNING", said), said


def test_the_merged_file_carries_its_recipe(app):
    with open_checkpoint(app[1] / "second.safetensors") as checkpoint:
        recipe = yaml.safe_load(checkpoint.metadata["unetscope.recipe"])
    assert recipe["models"] == {"a": "sd1-base.safetensors", "b": "sd1-photo.safetensors"}
    assert recipe["steps"]["mix"]["alpha"]["IN05"] == 0.9
