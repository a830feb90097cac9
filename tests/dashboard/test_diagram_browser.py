"""The diagram under a real pointer and keyboard: clicks, zoom, search, weight handles, prediction."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path

import pytest
from browser import chromium, complaints_of, served

from unetscope.checkpoints.demo import write_demo

HERE = Path(__file__).parent
APP = HERE.parent.parent / "app.py"
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def address(browser):
    with served(HERE.parent / "clickable_page.py") as found:
        yield found


@pytest.fixture
def opened(browser, address):
    """Opens the page with nothing but the diagram; what the browser complains of fails the test."""
    pages, complaints = [], []

    def open_it(query: str = "", scheme: str = "light"):
        page = browser.new_page()
        page.set_viewport_size({"width": 1280, "height": 1000})
        page.emulate_media(color_scheme=scheme)
        pages.append(page)
        complaints.append(complaints_of(page))
        page.goto(f"{address}/{query}")
        page.wait_for_selector("g#block-IN05")
        says(page, "run 1;")
        page.get_by_role("button", name="Fit").click()
        return page

    yield open_it
    evil = [page.evaluate("window.evil") for page in pages]
    for page in pages:
        page.close()
    assert not any(complaints), complaints
    assert not any(evil)


def says(page, text: str) -> None:
    """Python has said so."""
    page.get_by_text(text, exact=True).wait_for()


def box_of(page, selector: str) -> dict[str, float]:
    return page.locator(selector).bounding_box()


def middle(page, selector: str) -> tuple[float, float]:
    box = box_of(page, selector)
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(page, start: tuple[float, float], dx: float, dy: float = 0.0, release: bool = True) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(start[0] + dx, start[1] + dy, steps=6)
    if release:
        page.mouse.up()


def test_a_click_selects_a_shift_click_adds_and_escape_clears(opened):
    page = opened()
    page.click("g#block-IN05 > rect")
    says(page, "selected: IN05;")
    page.click("g#block-OUT03 > text.lb", modifiers=["Shift"])
    says(page, "selected: IN05,OUT03;")
    page.click("g#block-IN05 > rect", modifiers=["Control"])
    says(page, "selected: OUT03;")
    page.keyboard.press("Escape")
    says(page, "selected: ;")


def test_a_pointer_that_moves_pans_and_selects_nothing(opened):
    page = opened()
    before = box_of(page, "g#block-IN05")
    drag(page, middle(page, "g#block-IN05"), 40, 25)
    after = box_of(page, "g#block-IN05")
    assert (after["x"] - before["x"], after["y"] - before["y"]) == pytest.approx((40, 25), abs=1)
    assert page.locator("g.item.selected").count() == 0
    start = middle(page, "g#block-IN05")
    drag(page, start, 3)
    says(page, "selected: IN05;")


def test_the_wheel_zooms_at_the_cursor_reruns_keep_it_and_a_double_click_resets_it(opened):
    page = opened()
    at, whole = middle(page, "g#block-IN04"), box_of(page, "g#block-IN04")
    page.mouse.move(*at)
    page.mouse.wheel(0, -300)
    zoomed = box_of(page, "g#block-IN04")
    assert zoomed["width"] > 1.2 * whole["width"]
    assert middle(page, "g#block-IN04") == pytest.approx(at, abs=2)
    page.get_by_text("fills").click()
    says(page, "run 2;")
    assert box_of(page, "g#block-IN04") == pytest.approx(zoomed, abs=1)
    page.mouse.dblclick(*at)
    assert box_of(page, "g#block-IN04") == pytest.approx(whole, abs=3)


def test_blocks_are_reached_and_selected_by_the_keyboard(opened):
    page = opened()
    page.locator("g#block-IN05").focus()
    page.keyboard.press("Enter")
    says(page, "selected: IN05;")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    says(page, "selected: IN06;")
    assert page.locator("g#block-IN06").get_attribute("aria-pressed") == "true"
    page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    says(page, "selected: ;")


def test_search_dims_the_rest_and_enter_selects_what_is_found(opened):
    page = opened()
    page.get_by_placeholder("Search blocks").fill("OUT0[1-3]")
    assert page.locator("g.item.found").count() == 3
    assert page.get_by_text("3 found").is_visible()
    page.keyboard.press("Enter")
    chosen = page.get_by_text(re.compile("selected: OUT")).inner_text()
    assert sorted(re.findall("OUT0.", chosen)) == ["OUT01", "OUT02", "OUT03"]


def test_a_search_that_is_no_pattern_is_taken_as_it_is(opened):
    page = opened()
    page.get_by_placeholder("Search blocks").fill("(")
    assert page.locator("g.item.found").count() == 0


def test_fills_arrive_apart_from_the_picture_and_text_follows_their_luminance(opened):
    page = opened()
    page.evaluate("window.kept = 1")
    drawn = page.locator("g#block-IN04 > rect").first.evaluate("e => getComputedStyle(e).fill")
    page.get_by_text("fills").click()
    page.wait_for_selector("g#block-IN05.on-light")
    assert page.locator("g#block-IN04.on-dark").count() == 1
    assert page.locator("g#block-IN04 > rect").first.evaluate("e => getComputedStyle(e).fill") == "rgb(68, 1, 84)"
    assert page.locator("g#block-IN05 > text.vl").text_content() == "12.3"
    page.get_by_text("fills").click()
    page.wait_for_selector("g#block-IN05.on-page")
    assert page.locator("g#block-IN04 > rect").first.evaluate("e => getComputedStyle(e).fill") == drawn


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_diagram_is_light_or_dark_as_the_page_is(opened, scheme):
    page = opened(scheme=scheme)
    assert page.locator(f".stage.{scheme} > svg.unetscope-{scheme}").count() == 1


def test_a_dragged_handle_sends_its_weight_when_it_is_released_and_not_before(opened):
    page = opened("?edit=1")
    track = box_of(page, "g#block-IN07 .weight .track")
    drag(page, middle(page, "g#block-IN07 .knob"), 0.25 * track["width"], release=False)
    assert float(page.locator("g#block-IN07 .amount").text_content()) == pytest.approx(0.75, abs=0.011)
    time.sleep(0.7)
    assert page.get_by_text("run 1;").is_visible()
    page.mouse.up()
    says(page, "run 2;")
    shown = page.locator("g#block-IN07 .amount").text_content()
    says(page, f"weights: IN07={shown};")
    says(page, "selected: ;")


def test_selected_blocks_move_together(opened):
    page = opened("?edit=1")
    page.click("g#block-IN07 > text.lb")
    page.click("g#block-OUT04 > text.lb", modifiers=["Shift"])
    says(page, "selected: IN07,OUT04;")
    track = box_of(page, "g#block-IN07 .weight .track")
    drag(page, middle(page, "g#block-IN07 .knob"), -0.2 * track["width"])
    shown = page.locator("g#block-OUT04 .amount").text_content()
    assert float(shown) == pytest.approx(0.3, abs=0.011)
    says(page, f"weights: IN07={shown},OUT04={shown};")


def test_arrow_keys_change_the_weights_of_what_is_selected(opened):
    page = opened("?edit=1")
    page.click("g#block-IN05 > text.lb")
    says(page, "selected: IN05;")
    for key in ("ArrowRight", "ArrowUp", "Shift+ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    says(page, "weights: IN05=0.61;")


def test_a_weight_can_be_typed_and_the_wheel_turns_it(opened):
    page = opened("?edit=1")
    page.click("g#block-IN05 .amount")
    page.get_by_label("Weight of IN05").fill("0,125")
    page.keyboard.press("Enter")
    says(page, "weights: IN05=0.125;")
    whole = box_of(page, "g#block-IN05")
    page.mouse.move(*middle(page, "g#block-IN05 .knob"))
    page.mouse.wheel(0, -100)
    page.mouse.wheel(0, -100)
    says(page, "weights: IN05=0.15;")
    assert box_of(page, "g#block-IN05") == pytest.approx(whole, abs=3)
    page.click("g#block-IN05 .amount")
    page.get_by_label("Weight of IN05").fill("7")
    page.keyboard.press("Enter")
    says(page, "weights: IN05=1;")


def test_the_predicted_distance_follows_the_weight_while_it_moves(opened):
    page = opened("?edit=1")
    colour = page.locator("g#block-IN05 > rect").first.evaluate("e => e.style.fill")
    track = box_of(page, "g#block-IN05 .weight .track")
    drag(page, middle(page, "g#block-IN05 .knob"), 0.3 * track["width"], release=False)
    w = float(page.locator("g#block-IN05 .amount").text_content())
    # |w (b - a)| / |a| with <a, a> = 4, <a, b> = 3.9, <b, b> = 4.1
    expected = 100 * w * math.sqrt((4 + 4.1 - 2 * 3.9) / 4)
    printed = page.locator("g#block-IN05 > text.vl").text_content()
    assert float(printed.removesuffix(" %")) == pytest.approx(expected, abs=0.06)
    assert page.locator("g#block-IN05 > rect").first.evaluate("e => e.style.fill") != colour
    assert page.get_by_text("run 1;").is_visible()
    page.mouse.up()
    says(page, "run 2;")
    page.locator("select.target").select_option("1")
    expected = 100 * (1 - w) * math.sqrt((4 + 4.1 - 2 * 3.9) / 4.1)
    printed = page.locator("g#block-IN05 > text.vl").text_content()
    assert float(printed.removesuffix(" %")) == pytest.approx(expected, abs=0.06)
    assert page.locator("select.target option").all_inner_texts()[1].startswith("<img")


def test_shares_are_drawn_as_parts_of_a_bar(opened):
    page = opened("?shares=1")
    parts = page.locator("g#block-IN01 g.shares rect")
    assert parts.count() == 2
    widths = [float(parts.nth(i).get_attribute("width")) for i in range(2)]
    assert widths[0] == pytest.approx(3 * widths[1], abs=0.3)


# -- the pages --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def app(browser, tmp_path_factory):
    """The app on two SD1 checkpoints."""
    folder = tmp_path_factory.mktemp("app")
    (folder / "models").mkdir()
    write_demo(folder / "models" / "base.safetensors", "sd1", seed=1)
    write_demo(
        folder / "models" / "tuned.safetensors", "sd1", seed=2, finetune_of=folder / "models" / "base.safetensors"
    )
    places = {"UNETSCOPE_MODELS": "models", "UNETSCOPE_STATE": "state", "UNETSCOPE_CACHE": "cache"}
    with served(APP, **{name: str(folder / place) for name, place in places.items()}) as address:
        yield address


def test_a_click_on_a_block_shows_its_tensors_and_the_address_leads_back(browser, app):
    page = browser.new_page()
    page.set_viewport_size({"width": 1280, "height": 800})
    complaints = complaints_of(page)
    page.goto(f"{app}/explore?of=base.safetensors")
    page.click("g#block-IN05 > rect")
    page.get_by_text("parameters in 36 tensors").wait_for()
    page.wait_for_url(re.compile("selected=IN05"))
    again = browser.new_page()
    again.goto(page.url)
    again.get_by_text("parameters in 36 tensors").wait_for()
    again.wait_for_selector("g#block-IN05.selected")
    assert not complaints
    page.close()
    again.close()


def test_heatmap_and_diagram_select_each_other(browser, app):
    page = browser.new_page()
    page.set_viewport_size({"width": 1280, "height": 1000})
    complaints = complaints_of(page)
    page.goto(f"{app}/compare?a=base.safetensors&b=tuned.safetensors")
    page.get_by_role("button", name="Compare (reads").first.click()
    page.wait_for_selector("g#block-OUT07")
    page.click("g#block-OUT07 > rect")
    page.get_by_text("Tensors of OUT07").wait_for()
    chart = box_of(page, "[data-testid=stVegaLiteChart] canvas, [data-testid=stVegaLiteChart] svg >> nth=0")
    page.mouse.click(chart["x"] + 0.32 * chart["width"], chart["y"] + 0.5 * chart["height"])
    page.get_by_text(re.compile("Tensors of IN0[0-9], attn[12]")).wait_for()
    label = re.search("IN0[0-9]", page.get_by_text(re.compile("Tensors of IN0[0-9], attn")).inner_text())[0]
    page.wait_for_selector(f"g#block-{label}.selected")
    assert page.locator("g#block-OUT07.selected").count() == 0
    assert not complaints
    page.close()
