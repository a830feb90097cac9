"""Collection and Where from: many models as map, matrix and tree; a merge traced, and drawn as shares."""

from __future__ import annotations

import json

import finished_measurements as finished
import numpy as np
import pytest
import yaml

from unetscope.analysis.collection import compare
from unetscope.checkpoints import open_checkpoint
from unetscope.dashboard import jobs
from unetscope.dashboard.collection_charts import clustered, map_chart, matrix_chart, short_name, tree_chart, written
from unetscope.dashboard.measuring import kept, kept_comparison
from unetscope.dashboard.pages.where_from import colours_of, share_rows, stacked

NAMES = ("base", "merged", "tuned")


@pytest.fixture
def files(models):
    return [models / f"{name}.safetensors" for name in NAMES]


def test_what_is_kept_is_what_was_measured(files):
    kept_one = kept_comparison(finished.comparison(files))
    measured = compare([open_checkpoint(path) for path in files])
    for group in ("model", "vae", "IN05"):
        assert np.array_equal(kept_one.distances(group), measured.distances(group))
    assert kept_one.shared_parts().equals(measured.shared_parts())


def test_models_of_one_architecture_are_chosen_to_begin_with(models, no_workers, open_page):
    at = open_page("collection")
    assert at.multiselect(key="collection models").value == [f"{name}.safetensors" for name in NAMES]
    at.button(key="start-comparison").click().run()
    assert [job.arguments["reference"] for job in jobs.listed("comparison")] == [None]


def test_a_collection_can_be_looked_at_by_component_and_block(models, files, open_page):
    finished.comparison(files)
    at = open_page("collection")
    assert not at.exception
    choices = at.selectbox(key="collection of")
    for choice in ("Component VAE", "Block IN05"):
        choices.set_value(choice).run()
        assert not at.exception
    shared = at.dataframe[0].value
    assert shared.loc[shared["component"] == "VAE", "models"].item() == 3


def test_charts_show_every_model_and_equal_ones_together(files, models):
    (models / "copy.safetensors").write_bytes((models / "base.safetensors").read_bytes())
    found = kept_comparison(finished.comparison([*files, models / "copy.safetensors"]))
    spots = next(iter(map_chart(found, "model").to_dict()["datasets"].values()))
    assert sorted(spot["name"] for spot in spots) == ["base = copy", "merged", "tuned"]
    cells = next(iter(matrix_chart(found, "model", "distance").to_dict()["datasets"].values()))
    assert len(cells) == 16
    assert [c["value"] for c in cells if {c["a"], c["b"]} == {"base", "copy"}] == [0.0, 0.0]
    order = clustered(found, "model")
    assert abs(order.index("base") - order.index("copy")) == 1
    tree = tree_chart(found, "model").to_dict()
    assert len(next(iter(tree["datasets"].values()))) == 4 * 3


def test_names_that_would_cover_each_other_on_the_map_are_written_once_above_the_heap():
    places = np.array([[0.0, 0.0], [0.01, 0.03], [1.0, 0.0], [0.1, 0.05]])
    assert written(places, [["a"], ["b"], ["c", "d"], ["e"]]) == ["", "", "c = d", "a, b, e"]
    assert written(np.zeros((1, 2)), [["a"]]) == ["a"]


def test_hostile_names_stay_strings_in_the_trees_axis(files, models):
    hostile = models / "x'] + alert(1) + ['\"b.safetensors"
    (models / "tuned.safetensors").rename(hostile)
    found = kept_comparison(finished.comparison([files[0], files[1], hostile]))
    expression = tree_chart(found, "model").to_dict()["encoding"]["y"]["axis"]["labelExpr"]
    names, end = json.JSONDecoder().raw_decode(expression)
    assert sorted(names) == ["base", "merged", "x'] + alert(1) + ['\"b"]
    assert expression[end:] == "[round((datum.value - 5) / 10)]"


def test_long_names_keep_their_ends():
    assert short_name("a-very-long-name-of-a-checkpoint-v12-fp16") == "a-very-long-na…nt-v12-fp16"


def test_too_few_models_say_what_to_do(tmp_path, monkeypatch, open_page):
    monkeypatch.setenv("UNETSCOPE_MODELS", str(tmp_path))
    for name in ("collection", "where_from"):
        at = open_page(name)
        assert not at.exception
        assert "Add some" in at.info[0].value


def test_tracing_begins_with_a_file_that_says_it_was_merged(models, no_workers, open_page):
    at = open_page("where_from")
    assert at.selectbox(key="merged").value == "merged.safetensors"
    at.button(key="start-trace").click().run()
    (job,) = jobs.listed("trace")
    assert [path.rpartition("/")[2] for path in job.arguments["among"]] == ["base.safetensors", "tuned.safetensors"]


@pytest.fixture
def traced(models, files) -> dict:
    """The report on the merge of base and tuned by GRAD_V."""
    return kept("trace", finished.trace(files[1], [files[0], files[2]]))


def test_shares_of_a_block_are_those_of_the_recipe(traced):
    rows = {row["block"]: row for row in share_rows(traced)}
    # GRAD_V is |1 - i / 12| at block i: IN06 is half of each model.
    assert rows["IN06"]["tuned"] == pytest.approx(0.5, abs=2e-3)
    assert rows["IN06"]["base"] + rows["IN06"]["tuned"] == pytest.approx(1.0, abs=1e-9)


def test_the_bar_of_a_block_has_a_part_for_each_model_with_a_share(traced):
    colours = colours_of(traced["among"])
    bars = stacked(traced)
    assert [colour for _, colour in bars["IN06"]] == [colours["base"], colours["tuned"]]
    assert [colour for _, colour in bars["M00"]] == [colours["base"]]


def test_a_trace_shows_the_verdict_the_shares_and_the_recipe(models, traced, open_page):
    at = open_page("where_from")
    assert not at.exception
    assert not at.error
    recipe = yaml.safe_load(at.code[0].value)
    assert set(recipe["models"]) == {"base", "tuned"}
    assert "IN06" in set(at.dataframe[0].value["block"])
    said = (at.success or at.warning)[0].value.replace("\\", "")
    assert said.startswith(("An exact linear merge", "Nearly a linear merge"))
