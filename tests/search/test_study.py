"""Mistakes in a study are found before anything runs, one sentence each."""

from __future__ import annotations

import pytest
import yaml

from unetscope.checkpoints.errors import UnetscopeError
from unetscope.search.rewards import make_reward
from unetscope.search.run_setup import prepare
from unetscope.search.study import Study

IMAGES = {"payloads": [{"prompt": "a castle"}], "generator": {"kind": "python"}, "reward": "features"}


@pytest.fixture
def parse(recipe):
    def call(**changes):
        data = {"recipe": recipe({"free": [0, 1]}), **IMAGES, **changes}
        return Study.parse({k: v for k, v in data.items() if v is not ...}, "study.yaml")

    return call


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"titel": "x"}, "did you mean 'title'"),
        ({"trials": 0}, "trials: must be greater than or equal to 1"),
        ({"trials": "many"}, "trials: must be a whole number"),
        ({"trials": True}, "trials: must be a whole number, found True"),
        ({"trials": 20.0}, "trials: must be a whole number, found 20.0"),
        ({"batch": True}, "batch: must be a whole number"),
        ({"stop": {"patience": True}}, "stop.patience: must be a whole number"),
        ({"stop": {"hours": True}}, "stop.hours: must be a number, found True"),
        ({"stop": {"target": False}}, "stop.target: must be a number"),
        ({"stop": {"hours": "2"}}, "stop.hours: must be a number, found '2'"),
        ({"optimiser": {"name": "gp", "start": True}}, "optimiser.start: must be a whole number"),
        ({"seeds": [1, True]}, "seeds.1: must be a whole number"),
        ({"seeds": [2**32]}, "seeds.0: seeds go up to 4,294,967,295 (2^32 - 1), found 4294967296"),
        ({"confirm": {"seeds": [7, 2**40]}}, "confirm.seeds.1: seeds go up to 4,294,967,295"),
        ({"optimiser": "gpp"}, "there is no 'gpp' (did you mean 'gp'?)"),
        ({"optimiser": {"name": "gp", "seeds": 1}}, "optimiser.seeds: unknown name"),
        ({"stop": {"pacience": 3}}, "did you mean 'patience'"),
        ({"stop": {"hours": 0}}, "stop.hours: must be greater than 0"),
        ({"pruning": {"p": 2}}, "pruning.p"),
        ({"confirm": {"top": 0}}, "confirm.top"),
        ({"seeds": []}, "seeds: must be a list with something in it"),
        ({"seeds": [1, 1]}, "names a seed twice"),
        ({"images": "some"}, "images: must be 'all', 'best' or 'none'"),
        ({"recipe": ...}, "one of recipe and parameters"),
        ({"tree": {"models": ["a.safetensors"]}}, "tree: is no longer there; search one merge after the other"),
        ({"parameters": {"x": {"free": [0, 1]}}}, "recipe and parameters"),
        ({"reward": ...}, "reward: is missing"),
        ({"objective": "m:f"}, "makes no images"),
        ({"family": "sd1"}, "the models of the recipe say it"),
        ({"direction": "maximise"}, "the reward knows it"),
    ],
)
def test_a_mistake_in_a_study_is_one_sentence(parse, changes, said):
    with pytest.raises(UnetscopeError) as error:
        parse(**changes)
    assert said in str(error.value) and str(error.value).startswith("study.yaml: ") and "\n" not in str(error.value)


def test_cmaes_cannot_choose(parse, recipe):
    data = recipe({"free": [0, 1]}, step={"method": {"choose": ["weighted_sum", "tensor_sum"]}})
    with pytest.raises(UnetscopeError, match=r"cmaes cannot choose \(mix.method\)"):
        parse(optimiser="cmaes", recipe=data).template()


def test_an_objective_that_there_is_not_is_refused_by_name(tmp_path):
    data = {"parameters": {"x": {"free": [0, 1]}}, "objective": "score.py:score"}
    study = Study.parse(data, "study.yaml", tmp_path)
    with pytest.raises(UnetscopeError, match=r"there is no file .*score\.py"):
        prepare(study)
    (tmp_path / "score.py").write_text("def scored(x): return 1")
    with pytest.raises(UnetscopeError, match=r"no function 'score' \(did you mean 'scored'"):
        prepare(study)
    (tmp_path / "score.py").write_text("import nothing_of_this_name")
    with pytest.raises(UnetscopeError, match="cannot be imported"):
        prepare(study)


def test_the_held_out_panel_must_be_held_out(panel, picture_study):
    with pytest.raises(UnetscopeError, match="an image that the search sees too"):
        picture_study(confirm={"seeds": [2, 3]}).held_out()
    assert len(picture_study(confirm={"seeds": [8, 9]}).held_out()) == 6


def test_the_panel_has_every_prompt_once_before_it_has_one_twice(panel, picture_study):
    prompts = [s.prompt for s in picture_study(prompts=3).image_requests()]
    assert prompts[:3] == ["prompt 0", "prompt 1", "prompt 2"] == prompts[3:]


def test_a_recipe_of_its_own_file_is_written_into_the_study_and_its_paths_hold(tmp_path, model_folder):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "a.safetensors").hardlink_to(model_folder / "a.safetensors")
    (tmp_path / "b.safetensors").hardlink_to(model_folder / "b.safetensors")
    recipe = {
        "models": {"a": "../a.safetensors", "b": "../b.safetensors"},
        "steps": {"mix": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": {"free": [0, 1]}}},
    }
    (tmp_path / "recipes" / "mix.yaml").write_text(yaml.safe_dump(recipe))
    study = Study.parse({"recipe": "recipes/mix.yaml", **IMAGES}, "study.yaml", tmp_path)
    again = Study.parse(yaml.safe_load(study.to_yaml()), "study.yaml", tmp_path)
    assert again.recipe["models"] == {"a": "a.safetensors", "b": "b.safetensors"}
    point = {"mix.alpha": 0.5}
    assert again.template().recipe(point).models.keys() == study.template().recipe(point).models.keys()


def test_models_that_are_missing_are_found_before_the_search_even_where_only_a_function_scores(recipe, tmp_path):
    (tmp_path / "score.py").write_text("def score(x): return 1")
    data = recipe({"free": [0, 1]})
    data["models"]["b"] = str(tmp_path / "nope.safetensors")
    with pytest.raises(UnetscopeError, match="no such file"):
        prepare(Study.parse({"recipe": data, "objective": "score.py:score"}, "study.yaml", tmp_path))


def test_mistakes_in_held_out_prompts_say_so(panel, picture_study):
    with pytest.raises(UnetscopeError, match=r"study\.yaml: confirm: payloads: there is no .*held"):
        picture_study(confirm={"payloads": "held/"}).held_out()


def test_a_study_takes_american_names_and_words(parse):
    american = parse(optimizer={"name": "tpe"}, reward={"kind": "features", "weights": {"colorfulness": 1}})
    make_reward(american.reward, american.folder)  # which refuses features that it does not know
    assert american.optimiser.name == "tpe"
    assert american.changed(optimizer="gp").optimiser.name == "gp"
    step = {
        "method": "weighted_average",
        "inputs": ["a", "b"],
        "weights": {"free": [0, 1]},
        "normalize": {"choose": [True, False]},
    }
    steps = {"mix": step}
    template = american.changed(recipe={**american.recipe, "steps": steps}).template()
    assert "normalise" in template.recipe(template.middle()).steps["mix"].given
    free = {name: american.model_dump(exclude_unset=True)[name] for name in ("recipe", "optimiser")}
    assert (
        Study.parse({**free, "objective": "score.py:f", "direction": "minimize"}, "study.yaml").direction == "minimise"
    )


def test_every_public_name_can_be_imported():
    import unetscope.search

    assert all(getattr(unetscope.search, name).__name__ == name for name in unetscope.search.__all__)
