"""The web UI's generator against a server that speaks its API."""

from __future__ import annotations

import base64
import os
import subprocess
import sys

import numpy as np
import pytest
from fake_web_ui import FakeWebUi
from tiny import load

from unetscope.merge import Recipe, merge
from unetscope.search.errors import NO_IMAGE, OUT_OF_ORDER, SearchError
from unetscope.search.generators import make_generator
from unetscope.search.generators.trial_files import PREFIX, differ
from unetscope.search.generators.web_ui import WebUiGenerator
from unetscope.search.image_requests import ImageRequest

KEY = "model.diffusion_model.middle_block.0.in_layers.2.weight"
SHOTS = [
    ImageRequest("a-1", "a cat", 1, width=16, height=24),
    ImageRequest("a-2", "a cat", 2, negative_prompt="dog", cfg_scale=5),
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "models").mkdir()
    return tmp_path


@pytest.fixture
def ui(folder):
    server = FakeWebUi(folder / "models")
    yield server
    server.stop()


@pytest.fixture
def recipe(make_checkpoint):
    models = {f"m{i}": str(make_checkpoint(f"m{i}", seed=i + 1)[0]) for i in range(2)}

    def made(alpha=0.5) -> Recipe:
        step = {"method": "weighted_sum", "inputs": list(models), "alpha": alpha}
        return Recipe.parse({"models": models, "steps": {"out": step}})

    return made


@pytest.fixture
def make(folder, ui):
    made, waits = [], []

    def generator(**settings):
        settings = {"kind": "web_ui", "models_folder": "models", "url": ui.url, "timeout": 600} | settings
        made.append(WebUiGenerator(settings, folder, wait=waits.append))
        made[-1].waits = waits
        return made[-1]

    yield generator
    for one in made:
        one.close()


def trials(folder) -> list[str]:
    return sorted(path.name for path in (folder / "models").iterdir())


def test_images_are_made_with_each_trial_and_its_file_is_removed_after(make, ui, recipe, folder):
    generator = make()
    generator.check(recipe(), SHOTS)
    names = []
    for alpha in (0.1, 0.8):
        generator.prepare(recipe(alpha))
        (name,) = trials(folder)
        names.append(name)
        merge(recipe(alpha), folder / "out.safetensors", overwrite=True)
        grey = int(abs(float(load(folder / "out.safetensors")[KEY].flatten()[0])) * 1000) % 256
        images = generator.images(SHOTS)
        assert [image.getpixel((0, 0)) for image in images] == [(grey, 1, 9), (grey, 2, 9)]
        assert images[0].size == (16, 24)
    # A new name for each: a UI keeps what it loaded under a name.
    assert len(set(names)) == 2 and all(name.startswith(PREFIX) for name in names)
    generator.close()
    assert trials(folder) == [] and ui.options["sd_model_checkpoint"] == "base.safetensors [0123456789]"


def test_requests_say_what_the_shot_says_and_keep_fields_that_only_the_ui_knows(make, ui, recipe):
    generator = make()
    generator.prepare(recipe())
    extra = {
        "enable_hr": True,
        "hr_scale": 1.5,
        "batch_size": 8,
        "clip_skip": 2,
        "scheduler": "Karras",
        "override_settings": {"eta_noise_seed_delta": 31337, "sd_model_checkpoint": "other"},
    }
    generator.images([ImageRequest("a-5", "a cat", 5, "dog", 30, 4.5, 64, 72, "DPM++ 2M", extra=extra)])
    (body,) = ui.bodies("txt2img")
    expected = {
        "prompt": "a cat",
        "negative_prompt": "dog",
        "seed": 5,
        "steps": 30,
        "cfg_scale": 4.5,
        "width": 64,
        "height": 72,
    }
    expected |= {"sampler_name": "DPM++ 2M", "scheduler": "Karras", "enable_hr": True, "hr_scale": 1.5}
    assert expected.items() <= body.items()
    assert (body["batch_size"], body["n_iter"], body["save_images"]) == (1, 1, False)
    overrides = body["override_settings"]
    assert overrides["sd_model_checkpoint"].startswith(PREFIX)
    assert (overrides["CLIP_stop_at_last_layers"], overrides["eta_noise_seed_delta"]) == (2, 31337)


def test_failures_that_pass_are_tried_again_with_longer_and_longer_waits(make, ui, recipe):
    generator = make(timeout=6)
    generator.prepare(recipe())
    busy = (500, {"error": "OutOfMemoryError", "detail": "", "errors": "CUDA out of memory"})
    ui.fail("txt2img", busy, "close", "slow", (503, {"detail": "loading"}))
    (image,) = generator.images(SHOTS[:1])
    assert image.getpixel((0, 0))[1:] == (1, 9)
    assert generator.waits == [1, 2, 4, 8]
    assert ("POST", "interrupt", None) in ui.requests


def test_failures_that_last_are_said_with_what_the_ui_says(make, ui, recipe, folder):
    generator = make(retries=2)
    generator.prepare(recipe())
    ui.fail("txt2img", *[(500, {"error": "OutOfMemoryError", "errors": "CUDA out of memory"})] * 9)
    with pytest.raises(
        SearchError, match=r"fails at txt2img \(500\): OutOfMemoryError CUDA out of memory, after 3 attempts"
    ):
        generator.images(SHOTS)
    ui.fail("txt2img", (422, {"detail": [{"loc": ["body", "steps"], "msg": "value is not a valid integer"}]}))
    with pytest.raises(SearchError, match=r"refuses txt2img \(422\).*valid integer"):
        generator.images(SHOTS)
    assert len(ui.bodies("txt2img")) == 4


def test_a_ui_that_is_gone_is_out_of_order_while_an_error_inside_it_is_one_models(make, ui, recipe):
    generator = make(retries=1)
    generator.prepare(recipe())
    ui.fail("options", *[(500, {"error": "RuntimeError", "errors": "cannot load"})] * 2)
    with pytest.raises(SearchError, match=r"fails at options \(500\)") as raised:
        generator.prepare(recipe())
    assert raised.value.code != OUT_OF_ORDER
    ui.stop()
    with pytest.raises(SearchError, match="cannot be reached") as raised:
        generator.prepare(recipe())
    assert raised.value.code == OUT_OF_ORDER


HALVES = {
    "half of the base64": lambda encoded: encoded[: len(encoded) // 8 * 4],
    "base64 that is none": lambda encoded: encoded[:-3],
    "half of the PNG": lambda encoded: base64.b64encode(base64.b64decode(encoded)[:-30]).decode(),
    "a PNG without its end": lambda encoded: base64.b64encode(base64.b64decode(encoded)[:40]).decode(),
    "noise": lambda encoded: base64.b64encode(b"\x89PNG" + bytes(range(200))).decode(),
    "nothing": lambda encoded: "",
    "no text": lambda encoded: 5,
}


@pytest.mark.parametrize("how", HALVES)
def test_a_damaged_picture_is_asked_for_again(make, ui, recipe, how):
    generator = make()
    generator.prepare(recipe())
    ui.spoilt = [HALVES[how], HALVES[how]]
    (image,) = generator.images(SHOTS[:1])
    assert image.size == (16, 24) and image.getpixel((15, 23))[1:] == (1, 9)
    assert generator.waits == [1, 2] and len(ui.bodies("txt2img")) == 3


def test_pictures_that_are_always_damaged_are_said(make, ui, recipe):
    generator = make(retries=2)
    generator.prepare(recipe())
    ui.spoilt = [HALVES["half of the PNG"]] * 3
    with pytest.raises(SearchError, match="sends an image that cannot be read for txt2img, after 3 attempts"):
        generator.images(SHOTS[:1])
    # An answer without a picture, and no answer in JSON at all.
    ui.fail("txt2img", (200, {"images": []}), (200, None), (200, {"info": "{}"}))
    with pytest.raises(SearchError, match="sends no image for txt2img, after 3 attempts"):
        generator.images(SHOTS[:1])


def test_a_ui_that_goes_on_with_the_old_model_is_noticed_at_the_first_repetition(make, ui, recipe):
    generator = make()
    generator.prepare(recipe(0.1))
    generator.images(SHOTS)
    ui.stuck = True
    generator.prepare(recipe(0.8))
    asked, loaded = len(ui.bodies("txt2img")), len([r for r in ui.requests if r[:2] == ("POST", "options")])
    with pytest.raises(
        SearchError, match=r"paints a-1 with unetscope-trial-.*exactly as with the model before"
    ) as raised:
        generator.images(SHOTS)
    assert raised.value.code == OUT_OF_ORDER
    # It was told once more which model it is before that was said.
    assert len(ui.bodies("txt2img")) == asked + 2
    assert len([r for r in ui.requests if r[:2] == ("POST", "options")]) == loaded + 1
    ui.stuck = False
    generator.prepare(recipe(0.8))
    assert len(generator.images(SHOTS)) == 2


def test_a_change_that_the_ui_missed_is_made_up_for(make, ui, recipe):
    generator = make()
    generator.prepare(recipe(0.1))
    (first,) = generator.images(SHOTS[:1])
    generator.prepare(recipe(0.8))
    ui.stuck = True
    ui._post_options = lambda body: (setattr(ui, "stuck", False), FakeWebUi._post_options(ui, body))[1]
    (second,) = generator.images(SHOTS[:1])
    assert first.getpixel((0, 0)) != second.getpixel((0, 0))


def test_the_same_model_again_may_paint_the_same_picture(make, ui, recipe):
    generator = make()
    for alpha in (0.3, 0.3, 0.3 + 1e-6):  # a sum that rounds to the same numbers is the same model
        generator.prepare(recipe(alpha))
        assert len(generator.images(SHOTS)) == 2
    assert len(ui.bodies("txt2img")) == 6


def test_models_of_other_tensors_differ():
    ones = np.ones(3, np.float32)
    assert not differ([ones, ones], [ones, ones]) and differ([ones, ones], [ones, 2 * ones])
    assert differ([ones, ones], [ones]) and differ([ones, ones], [ones, np.ones(2, np.float32)])


def test_nan_and_black_images_fail_the_trial_without_another_attempt(make, ui, recipe):
    generator = make()
    generator.prepare(recipe())
    ui.fail("txt2img", (500, {"error": "NansException", "errors": "A tensor with all NaNs was produced in Unet."}))
    with pytest.raises(SearchError, match="NansException") as told:
        generator.images(SHOTS)
    ui.pixel = (0, 0, 0)
    with pytest.raises(SearchError, match=r"a-1: .* sent a black image") as black:
        generator.images(SHOTS)
    assert told.value.code == black.value.code == NO_IMAGE
    assert len(ui.bodies("txt2img")) == 2


def test_an_image_of_another_model_is_refused(make, ui, recipe):
    generator = make()
    generator.prepare(recipe())
    ui.says = "somebody-elses"
    with pytest.raises(
        SearchError, match=r"with somebody-elses instead of unetscope-trial-.*does another program use this web UI"
    ):
        generator.images(SHOTS)


def test_a_ui_that_does_not_see_the_file_is_said_and_the_file_is_removed(make, ui, recipe, folder):
    (folder / "elsewhere").mkdir()
    generator = make(models_folder="elsewhere")
    with pytest.raises(SearchError, match=r"does not see unetscope-trial-.*generator\.models_folder"):
        generator.prepare(recipe())
    assert list((folder / "elsewhere").iterdir()) == []


def test_leftovers_of_a_killed_search_are_removed_and_those_of_a_running_one_stay(make, ui, recipe, folder):
    other = make()
    other.prepare(recipe())
    dead = folder / "models" / f"{PREFIX}999-abcdef-1.safetensors"
    dead.write_bytes(b"")
    (folder / "models/mine.safetensors").write_bytes(b"")
    for path in (folder / "models").iterdir():
        os.utime(path, (1, 1))
    running = [name for name in trials(folder) if name.startswith(PREFIX) and "999" not in name]
    generator = make()
    generator.prepare(recipe())
    assert dead.name not in trials(folder)
    assert set(running) < set(trials(folder)) and "mine.safetensors" in trials(folder)


KILLED = """
import os, sys
from pathlib import Path
from unetscope.merge import Recipe
from unetscope.search.generators.trial_files import TrialFiles
TrialFiles(Path(sys.argv[2])).write(Recipe.parse({"models": {"a": sys.argv[1]}}))
os._exit(9)
"""


def test_a_search_that_was_killed_leaves_a_file_that_the_next_one_recognises(make, ui, recipe, folder):
    model = recipe().models["m0"]
    assert subprocess.run([sys.executable, "-c", KILLED, model, folder / "models"]).returncode == 9
    (left,) = trials(folder)
    os.utime(folder / "models" / left, (1, 1))
    make().prepare(recipe())
    assert left not in trials(folder)


def test_mistakes_are_found_before_the_search_begins(make, ui, recipe, folder):
    with pytest.raises(SearchError, match=r"models_folder: there is no folder"):
        make(models_folder="nowhere").check(recipe(), SHOTS)
    with pytest.raises(SearchError, match=r"a-9: .* has no sampler 'Restart'"):
        make().check(recipe(), [ImageRequest("a-9", "a", 9, sampler_name="Restart")])
    make().check(recipe(), [ImageRequest("a-9", "a", 9, sampler_name="DPM++ 2M Karras")])
    with pytest.raises(SearchError, match=r"cannot be reached .*start the web UI with --api.*after 2 attempts"):
        make(url="http://127.0.0.1:9", retries=1).check(recipe(), SHOTS)
    with pytest.raises(SearchError, match=r"is not an address; write http://127"):
        make(url="localhost", retries=1).check(recipe(), SHOTS)
    with pytest.raises(SearchError, match=r"generator\.models_folder: is missing"):
        make_generator("web_ui", folder)
    ui.fail("options", (404, {"detail": "Not Found"}))
    with pytest.raises(SearchError, match=r"has no /sdapi/v1/options; start the web UI with --api"):
        make().check(recipe(), SHOTS)


def test_a_ui_with_a_password_is_answered(folder, recipe, make, monkeypatch):
    guarded = FakeWebUi(folder / "models", auth="me:secret")
    try:
        with pytest.raises(SearchError, match=r"wants a name and a password .*UNETSCOPE_WEB_UI_PASSWORD"):
            make(url=guarded.url).check(recipe(), SHOTS)
        monkeypatch.setenv("UNETSCOPE_WEB_UI_PASSWORD", "secret")
        make(url=guarded.url, user="me").check(recipe(), SHOTS)
    finally:
        guarded.stop()
