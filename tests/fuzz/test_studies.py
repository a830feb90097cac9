"""Whatever a study, a file of prompts, or another searcher's log holds, reading it gives what it says or our own error."""

from __future__ import annotations

import json

import pytest
import yaml
from fuzz.cases import ANYTHING, FUZZ, SCALARS, damaged
from fuzz.test_foreign_recipes import LOG
from hypothesis import example, given
from hypothesis import strategies as st

from unetscope.checkpoints import UnetscopeError
from unetscope.checkpoints.demo import write_demo
from unetscope.search.automb import is_automb, read_automb
from unetscope.search.overview import read_overview
from unetscope.search.payloads import image_requests, load_payloads
from unetscope.search.study import Study


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study's folder: two models and a prompt with wildcards, and room for files that are written anew for each case."""
    folder = tmp_path_factory.mktemp("study")
    for seed, name in enumerate("ab"):
        write_demo(folder / f"{name}.safetensors", "sd1", seed=seed)
    (folder / "prompts").mkdir()
    (folder / "prompts" / "one.json").write_text('{"prompt": "a cat", "steps": 12}')
    (folder / "wildcards").mkdir()
    (folder / "wildcards" / "colour.txt").write_text("red\nblue\n")
    return folder


GOOD = """
title: an example
recipe:
  models: {a: a.safetensors, b: b.safetensors}
  steps: {mix: {method: weighted_sum, inputs: [a, b], alpha: {free: [0, 1], per: [BASE, IN*, M00, OUT*]}}}
payloads: [{prompt: a cat, steps: 20, seed: 3}, {prompt: '{red|blue} dogs', weight: 2}]
seeds: [1, 2]
generator: {kind: diffusers}
reward: {kind: aesthetic, weights: x.safetensors}
optimiser: {name: tpe, start: 3}
baselines: [a, 0.5, GRAD_V]
trials: 20
stop: {patience: 7, target: 0.5}
pruning: {start: 3}
confirm: {seeds: [8, 9]}
"""
PARTS = yaml.safe_load(GOOD)
ENDS = st.lists(SCALARS, max_size=3) | st.sampled_from(
    [[0, 1], [1, 0], [0, 0], [-1, 2], [0, 1e308], [0.0, float("nan")]]
)
PER = st.sampled_from(["block", "key", "", "IN*"]) | st.lists(
    st.sampled_from(["BASE", "IN*", "M00", "OUT*", "IN04", "*", "x"]) | SCALARS, max_size=4
)
FREE = st.fixed_dictionaries(
    {"free": ENDS | ANYTHING}, optional={"step": SCALARS, "per": PER | ANYTHING, "BASE": SCALARS, "scale": ANYTHING}
) | st.fixed_dictionaries(
    {"choose": st.lists(st.sampled_from(["weighted_sum", "slerp", "a", "GRAD_V"]) | ANYTHING, max_size=3)}
)
ALPHAS = (
    FREE
    | st.dictionaries(
        st.sampled_from(["IN04-IN08", "OUT*", "M00", "default", "preset", "scale", "x"]), FREE | SCALARS, max_size=3
    )
    | ANYTHING
)
STEPS = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["weighted_sum", "add_difference", "ties", "uniform"]) | FREE,
        "inputs": st.just(["a", "b"]),
    },
    optional={"alpha": ALPHAS, "weights": st.lists(ALPHAS, max_size=3), "density": ALPHAS},
)
RECIPES = st.fixed_dictionaries(
    {
        "models": st.just(PARTS["recipe"]["models"]),
        "steps": st.dictionaries(st.sampled_from(["mix", "out"]), STEPS, max_size=2),
    },
    optional={
        "result": FREE | SCALARS,
        "components": st.dictionaries(st.sampled_from(["vae", "clip_l"]), FREE | SCALARS, max_size=1),
    },
)


def inside(data) -> bool:
    """Whether no text in it leads out of the study's folder: a folder of prompts is read with all that is below it."""
    if isinstance(data, str):
        return not data.startswith(("/", "~")) and ".." not in data
    return all(map(inside, data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()))


VALUES = SCALARS.filter(inside) | st.sampled_from(
    ["prompts/", "{a|b}", "__colour__", "__none__", "{2$$a|b", "${x}", 8, 64]
)
FOLDERS = st.text(max_size=4).filter(inside) | st.sampled_from(["wildcards", "prompts", "none"])
NAMED = dict.fromkeys(
    ("prompt", "steps", "seed", "width", "cfg_scale", "weight", "n_iter", "sampler", "name", "more"), VALUES
)
PROMPTS = st.recursive(
    st.fixed_dictionaries({}, optional=NAMED | {"wildcards": FOLDERS}),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.fixed_dictionaries({"payloads": st.lists(inner, max_size=2)}, optional={"steps": SCALARS})
    ),
    max_leaves=4,
)
PLACES = st.sampled_from(["prompts", "prompts/one.json", "none.json", "a.safetensors", ""])
PAYLOADS = (
    PROMPTS
    | st.lists(PROMPTS | PLACES, max_size=3)
    | st.fixed_dictionaries({"from": PROMPTS | PLACES}, optional=NAMED | {"wildcards": FOLDERS})
    | ANYTHING.filter(inside)
)
FIELDS = {
    "title": SCALARS,
    "recipe": RECIPES | ANYTHING,
    "parameters": st.dictionaries(st.text(max_size=4), FREE, max_size=3) | ANYTHING,
    "family": st.sampled_from(["sd1", "sdxl"]) | SCALARS,
    "payloads": PAYLOADS,
    "seeds": st.lists(st.integers(-2, 2**33), max_size=3) | ANYTHING,
    "generator": ANYTHING,
    "reward": ANYTHING,
    "objective": st.just("score.py:score") | SCALARS,
    "direction": st.sampled_from(["maximise", "minimise", "x"]),
    "optimiser": st.sampled_from(["gp", "tpe", "cmaes", "random"])
    | st.dictionaries(st.sampled_from(["name", "start", "seed"]), SCALARS)
    | ANYTHING,
    "baselines": ANYTHING,
    "prior": ANYTHING,
    "trials": SCALARS,
    "stop": st.dictionaries(st.sampled_from(["patience", "target", "hours"]), SCALARS, max_size=3) | ANYTHING,
    "pruning": st.booleans() | st.dictionaries(st.sampled_from(["start", "x"]), SCALARS) | ANYTHING,
    "images": SCALARS,
    "batch": SCALARS,
    "confirm": st.booleans()
    | st.dictionaries(st.sampled_from(["seeds", "payloads", "top"]), ANYTHING.filter(inside), max_size=3)
    | ANYTHING,
}


def used(study: Study) -> None:
    """What a search does with a study before anything heavy is loaded."""
    again = Study.parse(yaml.safe_load(study.to_yaml()), "again", study.folder)
    assert again.to_yaml() == study.to_yaml()
    for read in (lambda: study.template().check(), study.image_requests, study.held_out):
        try:
            read()
        except UnetscopeError as error:
            assert str(error)


@st.composite
def studies(draw):
    """A sound study of which a few parts are something else, left out, or new."""
    parts = dict(PARTS)
    for name in draw(st.lists(st.sampled_from([*FIELDS, "more"]), min_size=1, max_size=3)):
        if draw(st.booleans()) and name in parts:
            del parts[name]
        else:
            parts[name] = draw(FIELDS.get(name, ANYTHING))
    return parts


@FUZZ
@given(studies() | ANYTHING)
@example({"[": None})
@example({"int": 1})
@example(PARTS | {"payloads": [""]})
@example(PARTS | {"payloads": ["~nosuchuser/prompts"]})
@example(PARTS | {"payloads": [{"prompt": "a cat", "wildcards": False}]})
@example(PARTS | {"payloads": "\0"})
@example(PARTS | {"payloads": "~\0x"})
def test_any_study(folder, data):
    try:
        used(Study.parse(data, "study.yaml", folder))
    except UnetscopeError as error:
        assert str(error)


@FUZZ
@given(damaged(GOOD.encode()))
def test_a_damaged_study_file(folder, content):
    path = folder / "study.yaml"
    path.write_bytes(content)
    try:
        used(Study.load(path))
    except UnetscopeError as error:
        assert str(error)


JSON = json.dumps(
    {"prompt": "a {red|blue} __colour__ cat", "steps": 20, "seed": -1, "cfg_scale": 7, "override_settings": {"x": 1}}
)
TOML = 'steps = 12\n[[payloads]]\nprompt = "a cat"\nseed = 3\n[[payloads]]\nprompt = "__colour__"\nweight = 2.0\n'
YAML = "- {prompt: a cat, width: 512}\n- {prompt: '{2$$a|b|c}', name: three}\n"


@FUZZ
@given(
    st.sampled_from([("json", JSON), ("toml", TOML), ("yaml", YAML)]).flatmap(
        lambda kind: st.tuples(st.just(kind[0]), damaged(kind[1].encode()))
    )
    | st.tuples(st.just("json"), PROMPTS.map(lambda data: json.dumps(data).encode()))
)
def test_any_file_of_prompts(tmp_path, folder, file):
    path = tmp_path / f"x.{file[0]}"
    path.write_bytes(file[1])
    try:
        for request in image_requests(load_payloads({"from": str(path), "wildcards": "wildcards"}, folder), [1, 2]):
            assert isinstance(request.prompt, str)
    except UnetscopeError as error:
        assert str(error)


NUMBER = st.sampled_from(["0", "0.5", "1", "-1", "nan", "inf", "1e999", "", '"', "x", "0,5"]) | st.floats().map(str)


@FUZZ
@given(
    damaged(LOG.encode())
    | st.lists(st.lists(NUMBER, max_size=30), max_size=4).map(
        lambda rows: "\n".join([LOG.partition("\n")[0], *(",".join(row) for row in rows)]).encode()
    ),
    st.booleans(),
)
def test_any_log_of_another_searcher(folder, content, old):
    path = folder / "log.csv"
    path.write_bytes(content)
    try:
        if is_automb(path):
            assert read_automb(path, old=old).trials
        shown = read_overview(path)
        assert shown.best is not None and shown.ranked() and shown.correlations() is not None
    except UnetscopeError as error:
        assert str(path) in str(error)
