"""Which rewards there are, how settings become one, and what a mistake says."""

from __future__ import annotations

import math

import pytest
from PIL import Image

from unetscope.search.errors import SearchError
from unetscope.search.rewards import KINDS, Reward, make_reward
from unetscope.search.rewards.options import weights_folder

RED = Image.new("RGB", (8, 6), "#ff0000")
BLUE = Image.new("RGB", (8, 6), "#0000ff")
OWN = """
from unetscope.search.rewards import Reward

class Redness(Reward):
    higher_is_better = False

    def __init__(self, times: float = 1.0):
        self.times = times

    def score(self, images, prompts):
        return [self.times * image.getpixel((0, 0))[0] for image in images]

class NoReward:
    pass

def length(images, prompts):
    return [len(prompt) for prompt in prompts]

def too_few(images, prompts):
    return [1.0]

number = 3
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def test_every_kind_names_a_class_that_can_be_imported(folder):
    needs = {"command": {"command": "python"}}
    for kind in KINDS:
        options = needs.get(kind, {"parts": ["features"]} if kind == "composite" else {})
        reward = make_reward({"kind": kind, **options}, folder)
        assert isinstance(reward, Reward)
        assert reward.name == kind


def test_a_class_in_a_file_of_the_study_gets_its_options(folder):
    reward = make_reward({"kind": "own.py:Redness", "times": 2}, folder)
    assert reward.score([RED, BLUE], ["", ""]) == [510, 0]
    assert not reward.higher_is_better
    assert reward.name == "own.py:Redness"
    assert reward.combine(reward.parts([RED], [""])) == [510]


def test_a_function_is_a_reward_too(folder):
    assert make_reward("own.py:length", folder).parts([RED, BLUE], ["a", "bcd"]) == {"own.py:length": [1.0, 3.0]}


def test_a_class_of_an_installed_package_is_named_by_its_module(folder):
    assert make_reward("unetscope.search.rewards.features:Features", folder).is_preference is False


def test_every_kind_says_what_it_measures_and_only_what_is_no_preference_is_cautioned_against(folder):
    options = {
        "command": {"command": "score"},
        "composite": {"parts": ["aesthetic", "own.py:length"]},
    }
    made = {kind: make_reward({"kind": kind, **options.get(kind, {})}, folder) for kind in KINDS}
    assert len(made) == 9 and all(reward.measures for reward in made.values())
    assert made["composite"].measures == f"aesthetic ({made['aesthetic'].measures}); own.py:length"
    assert {kind for kind, reward in made.items() if reward.caution()} == {"clip_score", "features"}
    assert "CLIP" in made["clip_score"].caution() and "sharpness" in made["features"].caution()


def test_a_part_that_is_no_preference_is_named_by_the_caution_of_the_whole(folder):
    caution = make_reward(["aesthetic", "features"], folder).caution()
    assert caution.startswith("Not all of this reward is a model of what people like: it measures features (sharpness")
    assert "aesthetic" not in caution
    assert (
        make_reward(["clip_score", "features"], folder)
        .caution()
        .startswith("This reward is not a model of what people")
    )


def test_a_reward_of_the_users_own_says_no_more_than_it_knows(folder):
    (folder / "plain.py").write_text(OWN.replace("higher_is_better = False", "is_preference = False"))
    assert make_reward("plain.py:Redness", folder).caution() == "This reward is not a model of what people like."
    assert make_reward("own.py:Redness", folder).caution() == make_reward("own.py:length", folder).caution() == ""


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("estetic", "there is no kind 'estetic' (did you mean 'aesthetic'?)"),
        ({"weights": "x"}, "names no kind"),
        (3, "write a kind"),
        ({"kind": "aesthetic", "wieghts": "x"}, "has no option 'wieghts' (did you mean 'weights'?)"),
        ({"kind": "aesthetic", "batch": "many"}, "aesthetic: batch: must be a whole number, found 'many'"),
        ({"kind": "command"}, "the option 'command' is missing"),
        (
            {"kind": "onnx", "weights": "x.onnx"},
            "reward onnx: this kind is no longer there; run the scorer by {kind: command",
        ),
        (
            {"kind": "http", "url": "http://x"},
            "reward http: this kind is no longer there; run the scorer by {kind: command",
        ),
        ({"kind": "features", "weights": {"sharpnes": 1}}, "no feature 'sharpnes' (did you mean 'sharpness'?)"),
        ("missing.py:Redness", "missing.py; paths begin at the study's folder"),
        ("own.py:Rednes", "has no class or function 'Rednes' (did you mean 'Redness'?)"),
        ("own.py:NoReward", "NoReward is not a Reward"),
        ("own.py:number", "is of the type int; expected a class"),
        ({"kind": "own.py:length", "times": 2}, "a function takes no options"),
        ("no.such.module:Class", "no.such.module cannot be imported"),
        ([], "has no parts"),
        ([{"kind": "features", "weight": 0}], "the weight of features is 0"),
        ([{"kind": "composite", "parts": ["features"]}], "a part is a composite itself"),
        ([{"kind": "features", "name": "a"}, {"kind": "features", "name": "a"}], "two parts are called 'a'"),
        ({"kind": "composite", "parts": ["features"], "join": "max"}, "must be one of mean, median, min"),
    ],
)
def test_a_mistake_in_the_settings_gets_a_sentence(folder, settings, said):
    with pytest.raises(SearchError) as raised:
        make_reward(settings, folder)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_error_in_the_users_file_names_the_file_and_the_error(folder):
    (folder / "broken.py").write_text("import nothing_of_the_kind\n")
    with pytest.raises(SearchError, match=r"broken\.py cannot be imported: ModuleNotFoundError"):
        make_reward("broken.py:A", folder)


def test_scores_that_are_not_one_for_each_image_are_refused(folder):
    with pytest.raises(SearchError, match="gave 1 score for 2 images"):
        make_reward("own.py:too_few", folder).parts([RED, BLUE], ["", ""])


def test_missing_weights_say_where_to_get_them_and_where_to_put_them(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("UNETSCOPE_REWARDS", str(tmp_path / "heavy"))
    for kind, place in [
        ("aesthetic", "christophschuhmann/improved-aesthetic-predictor"),
        ("image_reward", "THUDM/ImageReward"),
        ("pick_score", "yuvalkirstain/PickScore_v1"),
        ("hps_v21", "xswu/HPSv2"),
        ("clip_score", "openai/clip-vit-large-patch14"),
    ]:
        with pytest.raises(SearchError) as raised:
            make_reward(kind, folder).check()
        assert place in str(raised.value)
        assert str(tmp_path / "heavy") in str(raised.value)


def test_weights_are_found_in_the_studys_folder_first_and_then_in_that_of_all_weights(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("UNETSCOPE_REWARDS", str(tmp_path / "heavy"))
    (tmp_path / "heavy").mkdir()
    assert weights_folder() == tmp_path / "heavy"
    for path in (folder / "a.pth", tmp_path / "heavy" / "a.pth", tmp_path / "heavy" / "b.pth"):
        path.write_bytes(b"")
    for name, found in [("a.pth", folder / "a.pth"), ("b.pth", tmp_path / "heavy" / "b.pth")]:
        assert make_reward({"kind": "aesthetic", "weights": name}, folder)._weights == found


def test_a_nan_stays_one(folder):
    (folder / "nan.py").write_text("def nan(images, prompts):\n    return [float('nan') for _ in images]\n")
    reward = make_reward("nan.py:nan", folder)
    assert math.isnan(reward.combine(reward.parts([RED], [""]))[0])
