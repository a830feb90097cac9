"""Payloads as they are shared, and the panel that they make."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from unetscope.checkpoints.files.system import windows_fault
from unetscope.search.errors import SearchError
from unetscope.search.payloads import image_requests, load_payloads

# As A1111's API page shows a request; half of it is switched off.
SHARED = {
    "prompt": "a castle, (best quality:1.2)",
    "negative_prompt": "blurry",
    "styles": None,
    "seed": -1,
    "subseed_strength": 0,
    "sampler_name": None,
    "sampler_index": "DPM++ 2M Karras",
    "batch_size": 1,
    "n_iter": 1,
    "steps": 28,
    "cfg_scale": 6.5,
    "width": 640,
    "height": 832,
    "restore_faces": True,
    "override_settings": {"CLIP_stop_at_last_layers": 2},
}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards/castle.json").write_text(json.dumps(SHARED))
    (tmp_path / "cards/two.yaml").write_text("- {prompt: a cat, score_weight: 2}\n- {prompt: a dog, cfg: 4}\n")
    (tmp_path / "cards/many.toml").write_text(
        'steps = 9\n[[payloads]]\nprompt = "x"\n[[payloads]]\nprompt = "y"\nsteps = 3\n'
    )
    return tmp_path


def test_json_yaml_and_toml_are_read_as_they_are_shared(folder):
    castle, x, y, cat, dog = load_payloads("cards", folder)
    assert (castle.name, castle.steps, castle.cfg_scale, castle.width, castle.height) == ("castle", 28, 6.5, 640, 832)
    assert castle.sampler_name == "DPM++ 2M Karras" and castle.seed is None and castle.weight == 1
    assert castle.extra == {
        "subseed_strength": 0,
        "restore_faces": True,
        "override_settings": {"CLIP_stop_at_last_layers": 2},
    }
    assert (cat.name, cat.weight, dog.name, dog.cfg_scale) == ("two", 2, "two-2", 4)
    assert (x.name, x.steps, y.name, y.steps) == ("many", 9, "many-2", 3)
    assert (dog.steps, dog.width, dog.sampler_name) == (20, 512, "Euler a")


def test_files_and_payloads_in_place_can_be_mixed_and_settings_hold_for_those_that_do_not_say(folder):
    found = load_payloads({"from": ["cards/castle.json", {"prompt": "a red bird on a tree"}], "steps": 12}, folder)
    assert [(p.name, p.steps) for p in found] == [("castle", 28), ("a-red-bird-on", 12)]


def test_a_panel_is_every_payload_with_every_seed(folder):
    found = load_payloads([{"prompt": "a", "weight": 3}, {"prompt": "b", "seed": 100, "n_iter": 2}], folder)
    requests = image_requests(found, [1, 3])
    assert [(s.name, s.seed) for s in requests] == [
        ("a-1", 1),
        ("a-3", 3),
        # A seed of its own begins a row: the study's seeds are places in it.
        ("b-100", 100),
        ("b-101", 101),
        ("b-104", 104),
        ("b-105", 105),
    ]
    assert {s.weight for s in requests if s.prompt == "a"} == {3} and len({s.name for s in requests}) == 6


@pytest.mark.parametrize(
    ("payload", "seeds", "seed"),
    [({"seed": 2**32 - 1}, [1, 2], 2**32), ({"n_iter": 2}, [2**31 + 1], 2**32 + 1), ({"seed": 0}, [0], -1)],
)
def test_seeds_that_there_are_not_are_refused_and_do_not_begin_again_at_0(payload, seeds, seed, folder):
    found = load_payloads({"prompt": "a cat", **payload}, folder)
    with pytest.raises(SearchError, match=rf"payload a-cat: .*seed {seed:,}, and seeds go from 0 to 4,294,967,295"):
        image_requests(found, seeds)


def test_pictures_are_called_so_that_every_file_system_tells_them_apart(folder):
    found = load_payloads([{"name": name, "prompt": "a"} for name in ("con.v2", "Cat", "cat", "CON", "a:b?")], folder)
    assert [p.name for p in found] == ["payload-con.v2", "Cat", "cat-2", "CON", "a-b"]
    assert all(windows_fault(f"{request.name}.png") is None for request in image_requests(found, [1]))


@pytest.fixture
def wild(tmp_path) -> Path:
    (tmp_path / "wildcards/beasts").mkdir(parents=True)
    (tmp_path / "wildcards/colour.txt").write_text("red\nblue\n# a comment\n{dark|light} green\n")
    (tmp_path / "wildcards/beasts/birds.txt").write_text("owl\n__colour__ wren\n")
    return tmp_path


def prompts(source, seeds, folder) -> list[str]:
    return [request.prompt for request in image_requests(load_payloads(source, folder), seeds)]


def test_wildcards_and_alternatives_are_chosen_once_by_the_seed(wild):
    source = [{"prompt": "a __colour__ {cat|dog}, __beasts/birds__, {2$$x|y|z}", "negative_prompt": "{no|not}"}]
    first, again = (image_requests(load_payloads(source, wild), range(40)) for _ in range(2))
    assert [(s.prompt, s.negative_prompt) for s in first] == [(s.prompt, s.negative_prompt) for s in again]
    assert len({s.prompt for s in first}) > 10
    for text in (s.prompt for s in first):
        colour, animal = text.removeprefix("a ").split(",")[0].rsplit(" ", 1)
        assert colour in ("red", "blue", "dark green", "light green") and animal in ("cat", "dog"), text
    assert {s.negative_prompt for s in first} == {"no", "not"}


def test_weights_of_alternatives_are_shares(wild):
    chosen = prompts([{"prompt": "{3::a|b}"}], range(600), wild)
    assert abs(chosen.count("a") / 600 - 0.75) < 0.06


def test_prompts_without_wildcards_stay_as_they_are_to_the_letter(wild):
    text = "a #1 (cat:1.2), [x|y] \\(z\\) <lora:ink:0.5>  50% a_b "
    assert prompts([{"prompt": text}], [1], wild) == [text]


def test_rendering_leaves_other_random_numbers_alone(wild):
    random.seed(5)
    expected = random.random()
    random.seed(5)
    prompts([{"prompt": "__colour__"}], [1], wild)
    assert random.random() == expected


def test_wildcards_are_found_beside_the_payloads_and_where_the_study_says(wild):
    (wild / "mine").mkdir()
    (wild / "mine/colour.txt").write_text("white\n")
    assert prompts({"from": [{"prompt": "__colour__"}], "wildcards": "mine"}, [1], wild) == ["white"]
    (wild / "cards/wildcards").mkdir(parents=True)
    (wild / "cards/wildcards/colour.txt").write_text("black\n")
    (wild / "cards/one.json").write_text('{"prompt": "__colour__"}')
    assert prompts("cards", [1], wild) == ["black"]


MISTAKES = {
    "no file": ("missing.json", r"there is no .*missing\.json"),
    "no prompt": ([{"promt": "a"}], r"payload 1: has no prompt"),
    "steps": ([{"prompt": "a", "steps": "many"}], r"steps: must be a whole number from 1 to 1,000, found 'many'"),
    "width": ([{"prompt": "a", "width": 500}], r"width: is 500; .* steps of 8 pixels"),
    "weight": ([{"prompt": "a", "weight": -1}], r"weight: must be a number"),
    "text": ([{"prompt": 5}], r"prompt: must be text, found 5"),
    "nothing": ([], r"payloads: there is none"),
    "number": (7, r"is 7; write \{prompt: \.\.\.\}"),
    "both": ({"from": "cards", "prompt": "a"}, r"a prompt next to from"),
    "wildcards": ({"prompt": "a", "wildcards": "nowhere"}, r"wildcards: there is no folder"),
    "wildcards by number": ({"prompt": "a", "wildcards": False}, r"wildcards: must be the name of a .* found False"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named_with_what_would_be_right(case, folder):
    source, said = MISTAKES[case]
    with pytest.raises(SearchError, match=said):
        load_payloads(source, folder)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "{", r"a\.json: is not valid JSON"),
        ("a.toml", "x", r"a\.toml: is not valid TOML"),
        ("a.yaml", "a: [", r"a\.yaml: is not valid YAML"),
        ("a.yaml", "just words", r"a\.yaml: holds text"),
        ("a.txt", "a", r"a\.txt: is not a payload; they are \.json"),
        ("a.json", '[[""]]', r"a\.json: is named by a\.json, and so names itself"),
        ("a.yaml", "{from: a.yaml, steps: 5}", r"a\.yaml: is named by a\.yaml, and so names itself"),
    ],
)
def test_files_that_are_no_payload_are_named(name, text, said, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(SearchError, match=said):
        load_payloads(name, tmp_path)


def test_links_that_lead_in_a_circle_are_no_payload(tmp_path):
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards/a.json").symlink_to("a.json")
    with pytest.raises(SearchError, match=r"a\.json: cannot be read"):
        load_payloads("cards", tmp_path)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [("a __size__ dog", r"__size__ is a wildcard, but there is no size\.txt"), ("a {cat|dog", "every { needs its }")],
)
def test_wildcards_that_cannot_be_rendered_are_named(prompt, said, wild):
    with pytest.raises(SearchError, match=said):
        prompts([{"prompt": prompt}], [1], wild)
