"""Trees of merges: their nodes in order, the best of each an input of the next."""

from __future__ import annotations

import numpy as np
import pytest
from fake_search import ColourGenerator, RedReward
from safetensors.torch import load_file

from unetscope.checkpoints.errors import UnetscopeError
from unetscope.cli import main
from unetscope.merge.recipe import Recipe
from unetscope.search.confirmation import confirm
from unetscope.search.errors import SearchError
from unetscope.search.run_folder import RunFolder
from unetscope.search.study import Study
from unetscope.search.tree import nodes_of, read_tree, search_tree

pytest.importorskip("optuna")
STEP = {"method": "weighted_sum", "alpha": {"free": [0, 1]}}
# What each node's alpha should be.
WANTED = {"ab.alpha": 0.3, "cd.alpha": 0.8, "top.alpha": 0.4}


@pytest.fixture
def make_study(model_folder, tmp_path, monkeypatch):
    asked = []

    def score(weights):
        asked.append(weights)
        return -sum((x - WANTED[name]) ** 2 for name, x in weights.items())

    monkeypatch.setattr("unetscope.search.objective.load_function", lambda *_: score)

    def make(**more):
        tree = {
            "models": {name: str(model_folder / f"{name}.safetensors") for name in "abcd"},
            "step": STEP,
            "nodes": {"ab": ["a", "b"], "cd": ["c", "d"], "top": ["ab", "cd"]},
        }
        data = {
            "title": "tree",
            "tree": tree | more,
            "objective": "m:f",
            "optimiser": {"name": "gp", "start": 3},
            "trials": 9,
        }
        return Study.parse(data, "study.yaml", tmp_path)

    make.asked = asked
    return make


def test_the_best_of_every_node_is_an_input_of_the_next(make_study, tmp_path):
    outcome = search_tree(make_study(), tmp_path / "run", say=lambda text: None)
    best = {node.path.name: node.best().point for node in nodes_of(tmp_path / "run")}
    assert list(best) == ["ab", "cd", "top"]
    recipe = Recipe.load(outcome.run.best_recipe())
    for name in best:
        assert recipe.steps[name].given["alpha"] == best[name][f"{name}.alpha"]
    assert recipe.steps["top"].inputs == ["ab", "cd"] and recipe.result == "top"


def test_the_trees_best_recipe_makes_the_nested_merge_with_nothing_rounded_between(make_study, tmp_path, model_folder):
    outcome = search_tree(make_study(), tmp_path / "run", say=lambda text: None)
    recipe = Recipe.load(outcome.run.best_recipe())
    x, y, z = (recipe.steps[name].given["alpha"] for name in ("ab", "cd", "top"))
    with pytest.raises(SystemExit) as end:
        main(["merge", "run", str(outcome.run.best_recipe()), "-o", str(tmp_path / "out.safetensors")])
    assert not end.value.code
    a, b, c, d = (load_file(model_folder / f"{name}.safetensors") for name in "abcd")
    key = "model.diffusion_model.middle_block.1.proj_in.weight"
    parts = [t[key].double().numpy() for t in (a, b, c, d)]
    shares = [(1 - z) * (1 - x), (1 - z) * x, z * (1 - y), z * y]
    wanted = sum(s * p for s, p in zip(shares, parts, strict=True)).astype(np.float16)
    made = load_file(tmp_path / "out.safetensors")[key].numpy()
    assert np.abs(made.astype(float) - wanted.astype(float)).max() <= np.abs(wanted).max() * 2**-10


def test_a_tree_goes_on_where_it_was_stopped(make_study, tmp_path, monkeypatch):
    from unetscope.search import tree

    whole, calls = tree.search, []

    def stopped(*args, **named):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*args, **named)

    monkeypatch.setattr(tree, "search", stopped)
    with pytest.raises(KeyboardInterrupt):
        search_tree(make_study(), tmp_path / "run", say=lambda text: None)
    asked = len(make_study.asked)
    with pytest.raises(SearchError, match="--resume"):
        search_tree(make_study(), tmp_path / "run", say=lambda text: None)
    search_tree(make_study(), tmp_path / "run", resume=True, say=lambda text: None)
    assert asked == 9 and len(make_study.asked) == 27
    search_tree(make_study(), tmp_path / "run", resume=True, say=lambda text: None)
    assert len(make_study.asked) == 27
    assert RunFolder(tmp_path / "run").best_recipe() is not None


def test_a_model_that_is_missing_or_does_not_fit_is_found_before_the_first_node(make_study, tmp_path, model_folder):
    for wrong, said in (("nope", "no such file"), ("xl", "models of different architectures")):
        models = {name: str(model_folder / f"{name}.safetensors") for name in "abc"}
        models["d"] = str(model_folder / f"{wrong}.safetensors")
        with pytest.raises(UnetscopeError, match=said):
            search_tree(make_study(models=models), tmp_path / "run", say=lambda text: None)
    assert not make_study.asked


def test_a_tree_of_pictures_is_confirmed_by_its_last_node(panel, picture_study, model_folder, tmp_path):
    panel.generator, panel.reward = ColourGenerator(), RedReward()
    models = {name: str(model_folder / f"{name}.safetensors") for name in "abc"}
    nodes = {"ab": ["a", "b"], "top": ["ab", "c"]}
    held_out = {"top": 1, "payloads": [{"prompt": "unseen"}], "seeds": [11, 12]}
    study = picture_study(recipe=None, tree={"models": models, "step": STEP, "nodes": nodes}, confirm=held_out)
    search_tree(study, tmp_path / "run", say=lambda text: None)
    found = confirm(tmp_path / "run" / "nodes" / "top", say=lambda text: None)
    assert found.new_prompts and [c.name for c in found.candidates if c.role == "parent"] == ["ab", "c"]
    assert all(len(c.scores) == 2 for c in found.candidates)


def test_twenty_models_are_merged_in_nineteen_steps(make_study):
    models = [f"m{i}.safetensors" for i in range(20)]
    tree = read_tree({"models": models, "step": STEP}, "tree")
    assert len(tree.nodes) == 19
    leaves = {name: {name} for name in tree.models}
    for node in tree.nodes:
        leaves[node.name] = set.union(*(leaves[x] for x in node.inputs))
    assert leaves[tree.nodes[-1].name] == {f"m{i}" for i in range(20)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"step": {}}, "tree.step"),
        ({"step": {**STEP, "inputs": ["a"]}}, "leave it out"),
        ({"nodes": {"x": ["a", "q"]}}, "'q' is no model and no node before it"),
        ({"nodes": {"x": ["a", "b"], "y": ["c", "d"]}}, "nodes.x: no other node uses it"),
        ({"nodes": {"a": ["a", "b"]}}, "another node or model has this name"),
        ({"nodes": {"a:b": ["a", "b"]}}, "a node's name is a folder's too, and no file name on Windows holds ':'"),
        ({"nodes": {"CON": ["a", "b"]}}, "CON is the name of a device on Windows; write it with letters"),
        ({"nodes": {"lpt1.mix": ["a", "b"]}}, "lpt1 is the name of a device on Windows"),
        ({"nodes": {"ab.": ["a", "b"]}}, "no file name on Windows ends in a space or a dot"),
        ({"nodes": {"../ab": ["a", "b"]}}, "a node's name is a folder's too; write it"),
        ({"nodes": {"AB": ["a", "b"], "ab": ["AB", "c"]}}, "some systems take its folder for that of 'AB'"),
        ({"models": ["a.safetensors"]}, "two or more models"),
        ({"model": 1}, "did you mean 'models'"),
    ],
)
def test_a_mistake_in_a_tree_is_one_sentence(make_study, changes, said):
    with pytest.raises(SearchError) as error:
        read_tree(make_study(**changes).tree, "tree")
    assert said in str(error.value)
