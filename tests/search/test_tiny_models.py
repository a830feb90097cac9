"""The trained tiny models: they draw what they are known for, and a search over their blocks goes all the way to a file."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import same_picture
from tiny import load, raw

from unetscope.checkpoints import open_checkpoint
from unetscope.checkpoints.families.diffusers import write_pipeline_config
from unetscope.merge import Recipe, merge

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("optuna")
Image = pytest.importorskip("PIL.Image")

from unetscope.search.confirmation import confirm  # noqa: E402
from unetscope.search.generators import make_generator  # noqa: E402
from unetscope.search.generators.tokenizer import write_tokenizer  # noqa: E402
from unetscope.search.loop import search  # noqa: E402
from unetscope.search.report import write_report  # noqa: E402
from unetscope.search.rewards import make_reward  # noqa: E402
from unetscope.search.run_setup import prepare  # noqa: E402
from unetscope.search.study import Study  # noqa: E402

FOLDER = Path(__file__).parents[2] / "examples" / "tiny_models"
FILES = {name: FOLDER / f"tiny-{name}.safetensors" for name in ("base", "shape", "colour")}


@pytest.fixture(scope="module")
def drawings():
    """The module that draws what the models learnt from."""
    spec = importlib.util.spec_from_file_location("tiny_drawings", FOLDER / "drawings.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reward():
    return make_reward({"kind": "reward.py:ShapeAndColour"}, FOLDER)


@pytest.fixture(scope="module")
def study():
    return Study.load(FOLDER / "study.yaml")


# -- the reward ---------------------------------------------------------------------------------------------------------


def test_the_reward_gives_drawn_pictures_nearly_one_and_other_words_nearly_nothing(reward, drawings):
    random = np.random.default_rng(3)
    pictures = [Image.fromarray(drawings.draw(scene, random)) for scene in drawings.SCENES]
    scores = reward.parts(pictures, [scene.prompt for scene in drawings.SCENES])
    assert min(scores["shape"]) > 0.9 and np.mean(scores["colour"]) > 0.9
    assert scores["shape_and_colour"] == [s * c for s, c in zip(scores["shape"], scores["colour"], strict=True)]
    for scene, picture in zip(drawings.SCENES, pictures, strict=True):
        others = [s.prompt for s in drawings.SCENES if s.shape != scene.shape and s.colour == scene.colour]
        assert max(reward.parts([picture] * len(others), others)["shape"]) < 0.1
        others = [s.prompt for s in drawings.SCENES if s.colour != scene.colour]
        assert max(reward.parts([picture] * len(others), others)["colour"]) < 0.35


def test_the_reward_of_an_empty_picture_is_zero_and_without_words_there_is_none(reward):
    grey = Image.new("RGB", (64, 64), (128, 128, 128))
    assert reward.score([grey], ["a red circle on white"]) == [0.0]
    assert np.isnan(reward.score([grey], ["a castle"])[0])


def test_shapes_have_the_area_of_their_circle(drawings):
    for shape in drawings.SHAPES:
        assert drawings.coverage(shape, 200, 0.25).mean() == pytest.approx(np.pi * 0.25**2, rel=0.01), shape


# -- the models -----------------------------------------------------------------------------------------------------------


def test_the_models_are_complete_sd1_checkpoints_that_differ_in_the_unet_alone():
    base = load(FILES["base"])
    for name, path in FILES.items():
        assert path.stat().st_size < 8.1e6
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.architecture.family == "sd1" and checkpoint.architecture.what == "checkpoint"
        tensors = load(path)
        assert set(tensors) == set(base)
        differ = {key.split(".")[0] for key in tensors if raw(tensors[key]) != raw(base[key])}
        assert differ == (set() if name == "base" else {"model"})


@pytest.mark.long
def test_each_model_is_good_at_what_it_was_told_the_truth_about(study, reward):
    requests = study.changed(seeds=[1]).image_requests()
    generator = make_generator(dict(study.generator), FOLDER)
    found = {}
    for name in ("shape", "colour"):
        generator.prepare(Recipe.parse({"models": {name: str(FILES[name])}, "result": name}))
        parts = reward.parts(generator.images(requests), [request.prompt for request in requests])
        found[name] = {part: float(np.mean(values)) for part, values in parts.items()}
    generator.close()
    assert found["shape"]["shape"] > 0.6 and found["shape"]["colour"] < 0.4
    assert found["colour"]["colour"] > 0.6 and found["colour"]["shape"] < 0.5


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_studies_beside_the_models_can_be_run(path):
    found = prepare(Study.load(path))
    assert {"all A", "all B", "0.5"} <= {baseline.name for baseline in found.baselines}


# -- the whole loop -------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_search_goes_from_the_study_to_a_file_whose_weights_are_those_that_made_the_pictures(study, tmp_path):
    payload = {"steps": 3, "width": 64, "height": 64, "sampler_name": "DDIM"}
    small = study.changed(
        trials=4,
        seeds=[1],
        payloads=[{"prompt": "a red circle on white", **payload}, {"prompt": "a blue cross on black", **payload}],
        optimiser="random",
        baselines=["all A", "all B"],
        images="all",
        confirm={"top": 1, "seeds": [77], "payloads": [{"prompt": "a green square on white", **payload}]},
    )
    outcome = search(small, tmp_path / "run", say=lambda line: None)
    trials = outcome.run.trials()
    assert [t.state for t in trials] == ["complete"] * 4 and len({t.score for t in trials}) == 4
    assert all(set(parts) == {"shape_and_colour", "shape", "colour"} for t in trials for parts in t.parts.values())

    best = Recipe.load(outcome.run.best_recipe())
    merge(best, tmp_path / "best.safetensors")
    generator = make_generator({"kind": "diffusers", "device": "cpu", "batch": 2}, FOLDER)
    for trial in (trials[0], outcome.best):  # the second swap is the one that counts
        generator.prepare(small.template().recipe(trial.point))
    saved = _loaded_by_diffusers(tmp_path / "best.safetensors", tmp_path / "config")
    for name in ("unet", "vae", "text_encoder"):
        expected, live = getattr(saved, name).state_dict(), generator.modules[name].state_dict()
        assert set(live) == set(expected)
        assert all(torch.equal(live[key], expected[key]) for key in live), name
    kept = outcome.run.images(outcome.best.number)
    for request, image in zip(small.image_requests(), generator.images(small.image_requests()), strict=True):
        assert same_picture(image, Image.open(kept[request.name]))
    generator.close()

    found = confirm(tmp_path / "run", say=lambda line: None)
    assert {c.role for c in found.candidates} >= {"trial", "parent"} and found.new_prompts
    page = write_report(tmp_path / "run", tmp_path / "report")
    text = page.read_text(encoding="utf-8")
    assert "shape_and_colour" in text and "[-∞, ∞]" in text  # of one image there is no interval
    assert (tmp_path / "report" / "trials.csv").is_file()


def _loaded_by_diffusers(path, folder):
    config = write_pipeline_config(folder, "sd1", widths="narrow")
    write_tokenizer(config / "tokenizer", "clip_l")
    extras = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return diffusers.StableDiffusionPipeline.from_single_file(
        str(path), config=str(config), local_files_only=True, torch_dtype=torch.float32, **extras
    )
