"""A reward and a generator from outside the package: by entry point, by module and by file; what cannot be taken is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
from fake_distribution import install
from fake_search import RedReward
from guides import files_of
from PIL import Image

from unetscope.search import generators, rewards
from unetscope.search.errors import SearchError
from unetscope.search.generators import make_generator
from unetscope.search.image_requests import ImageRequest
from unetscope.search.loop import search
from unetscope.search.rewards import make_reward

BUILT_IN = {
    "unetscope.rewards": list(rewards.KINDS),
    "unetscope.generators": ["diffusers", "web_ui", "python"],
}
PAINT = """
from PIL import Image

from unetscope.search.generators import Generator


class Paint(Generator):
    def __init__(self, settings, folder):
        self.green = settings.get("green", 0)

    def prepare(self, recipe):
        self.red = 128
        if recipe.result not in recipe.models:
            weights = recipe.steps[recipe.result].weights(recipe.convention)["alpha"].resolve("sd1").by_label()
            self.red = round(255 * sum(weights.values()) / len(weights))

    def images(self, requests):
        return [Image.new("RGB", (8, 8), (self.red, self.green, request.seed)) for request in requests]


def paint(model, requests):
    return []


class NotOne:
    pass


class Narrow(Paint):
    def __init__(self, settings):
        pass


number = 3
"""
REDNESS = """
from unetscope.search.rewards import Reward


class Redness(Reward):
    def __init__(self, wanted: float = 1.0):
        self.wanted = wanted

    def score(self, images, prompts):
        return [-abs(image.getpixel((0, 0))[0] / 255 - self.wanted) for image in images]


def greenness(images, prompts):
    return [float(image.getpixel((0, 0))[1]) for image in images]


number = 3
"""
POINTS = {
    "unetscope.generators": {"paint": "my_paint:Paint"},
    "unetscope.rewards": {"redness": "my_redness:Redness", "greenness": "my_redness:greenness"},
}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs `my_paint` and `my_redness` with the entry points that it is given."""

    def made(points=POINTS) -> None:
        modules = {"my_paint": PAINT, "my_redness": REDNESS}
        monkeypatch.syspath_prepend(install(tmp_path / "site", "my_kinds", modules, points))
        rewards.KINDS.reread()
        generators.KINDS.reread()

    yield made
    for name in ("my_paint", "my_redness"):
        sys.modules.pop(name, None)
    monkeypatch.undo()
    rewards.KINDS.reread()
    generators.KINDS.reread()


def test_a_search_paints_and_scores_with_another_packages_generator_and_reward(installed, picture_study, tmp_path):
    pytest.importorskip("optuna")
    installed()
    study = picture_study(generator={"kind": "paint", "green": 7}, reward={"kind": "redness", "wanted": 0.75}, trials=6)
    outcome = search(study, tmp_path / "run", say=lambda text: None)
    scores = {trial.number: trial.score for trial in outcome.run.trials() if trial.state == "complete"}
    assert len(scores) == 6 and len({round(score, 6) for score in scores.values()}) > 2
    assert outcome.best.score == max(scores.values()) and outcome.run.setup().reward.name == "redness"


def test_entry_points_are_kinds_like_the_built_in_ones(installed, tmp_path):
    installed()
    assert list(rewards.KINDS) == [*BUILT_IN["unetscope.rewards"], "redness", "greenness"]
    assert list(generators.KINDS) == [*BUILT_IN["unetscope.generators"], "paint"]
    assert make_reward("greenness", tmp_path).score([Image.new("RGB", (1, 1), (1, 2, 3))], [""]) == [2.0]
    assert make_reward([{"kind": "redness", "wanted": 0}, "greenness"], tmp_path).name == "composite"
    with pytest.raises(SearchError, match="did you mean 'redness'"):
        make_reward("rednes", tmp_path)
    with pytest.raises(SearchError, match="did you mean 'paint'"):
        make_generator("pain", tmp_path)


@pytest.mark.parametrize("kind", ["my_paint:Paint", "beside.py:Paint"])
def test_a_generator_is_named_by_its_module_or_file_too(installed, tmp_path, kind):
    installed()
    (tmp_path / "beside.py").write_text(PAINT, encoding="utf-8")
    generator = make_generator({"kind": kind, "green": 9}, tmp_path)
    assert (type(generator).__name__, generator.green) == ("Paint", 9)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("my_paint:paint", "kind: python, function"),
        ("my_paint:NotOne", "NotOne is not a Generator"),
        ("my_paint:number", "is of the type int"),
        ("my_paint:Narrow", "two arguments"),
        ("my_paint:Narow", "did you mean 'Narrow'"),
        ("missing.py:Paint", "there is no file"),
        ("no.such.module:Paint", "cannot be imported: ModuleNotFoundError"),
        ("", "there is no ''"),
        (3, "there is no 3"),
    ],
)
def test_what_is_not_a_generator_is_refused(installed, tmp_path, kind, said):
    installed()
    with pytest.raises(SearchError) as raised:
        make_generator({"kind": kind}, tmp_path)
    assert said in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("group", "make", "taken", "other"),
    [
        ("unetscope.rewards", make_reward, "features", "my_redness:Redness"),
        ("unetscope.generators", make_generator, "diffusers", "my_paint:Paint"),
    ],
)
def test_an_entry_point_that_takes_the_name_of_a_built_in_kind_is_refused(
    installed, tmp_path, group, make, taken, other
):
    installed({group: {taken: other}})
    for _ in range(2):  # and stays so
        with pytest.raises(SearchError) as raised:
            make(taken, tmp_path)
        assert f"entry point {taken} of {group} ({other})" in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("group", "make"), [("unetscope.rewards", make_reward), ("unetscope.generators", make_generator)]
)
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("my_absent:Thing", "ModuleNotFoundError"),
        ("my_paint:Missing", "AttributeError"),
        ("my_paint:number", "is a int"),
    ],
)
def test_an_entry_point_that_cannot_be_used_is_in_nobodys_way_who_does_not_ask_for_it(
    installed, tmp_path, group, make, value, said
):
    installed({group: {"mine": value}})
    with pytest.raises(SearchError) as raised:
        make("mine", tmp_path)
    assert said in str(raised.value) and value in str(raised.value) and "\n" not in str(raised.value)
    assert make_reward("features", tmp_path).name == "features"
    assert list(generators.KINDS)[:3] == BUILT_IN["unetscope.generators"]


def test_the_generator_and_the_reward_of_the_guide_work(tmp_path):
    for name in ("my_generator.py", "my_reward.py"):
        (tmp_path / name).write_text(files_of("search.md")[name], encoding="utf-8")
    images = make_generator({"kind": "my_generator.py:Grey", "size": 8}, tmp_path).images([ImageRequest("a", "a", 9)])
    assert [image.size for image in images] == [(8, 8)]
    assert make_reward({"kind": "my_reward.py:Redness", "times": 2}, tmp_path).score(images, ["a"]) == [18.0]


def test_kinds_are_named_without_importing_any():
    code = (
        "import sys\nfrom unetscope.search import generators, rewards\nprint(list(rewards.KINDS), list(generators.KINDS))\n"
        "rooms = ('unetscope.search.rewards.', 'unetscope.search.generators.')\n"
        "print(sorted(name.rpartition('.')[2] for name in sys.modules if name.startswith(rooms)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['contract', 'contract', 'kinds', 'options']"


def test_an_object_that_is_no_kind_cannot_be_registered():
    with pytest.raises(SearchError, match="EntryPoint"):
        rewards.KINDS.register(RedReward)
