"""Search: run folders and logs below the models folder, shown while they grow."""

from __future__ import annotations

import shutil
from itertools import pairwise

import pytest
from automb_log import write_log
from fake_runs import add_trial, parameters, write_run
from tiny import load
from unknown_models import LABELS, write_unknown

from unetscope.dashboard.folders import Folders
from unetscope.dashboard.search_charts import apart, correlation_chart, cost_chart, course_chart, weights_chart
from unetscope.dashboard.search_runs import find_runs, overview_of
from unetscope.merge import Recipe, merge
from unetscope.search.loop import search
from unetscope.search.plots.diagram import best_diagram
from unetscope.search.run_folder import RunFolder
from unetscope.search.study import Study


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run") / "run", trials=30).path


@pytest.fixture
def run(a_run, models):
    shutil.copytree(a_run, models / "searches" / "photo-anime")
    return RunFolder(models / "searches" / "photo-anime")


def said(at) -> str:
    return "\n".join(e.value for kind in (at.info, at.warning, at.success, at.caption, at.markdown) for e in kind)


def test_without_a_search_the_page_says_how_to_start_one(models, open_page):
    at = open_page("search")
    assert not at.exception
    assert "unetscope search STUDY.yaml" in said(at)


def test_a_run_is_shown_with_its_best_trial_against_the_baselines(run, open_page):
    at = open_page("search")
    assert not at.exception
    best, half = run.best(), next(t for t in run.trials() if t.baseline == "0.5")
    values = {metric.label: metric.value for metric in at.metric}
    assert values["Trials"] == "30"
    assert values["Best score"] == f"{best.score:.4g}"
    assert values["Best baseline"] == f"{half.score:.4g}"
    table = at.dataframe[0].value
    assert table["trial"].iloc[0] == best.number
    assert table["IN04"].iloc[0] == round(best.point["mix.alpha.IN04"], 3)
    assert "trial 5 failed" in said(at).replace("\\", "")


def test_a_search_on_models_of_no_known_family_has_its_diagram(models, tmp_path, monkeypatch, open_page):
    pytest.importorskip("optuna")
    for seed, name in enumerate("ab"):
        write_unknown(tmp_path / f"{name}.safetensors", seed)
    monkeypatch.setattr("unetscope.search.objective.load_function", lambda *_: lambda w: -sum(w.values()))
    step = {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": {"free": [0, 1], "per": "block"}}
    recipe = {"models": {n: f"{n}.safetensors" for n in "ab"}, "steps": {"mix": step}}
    study = {"recipe": recipe, "objective": "m:f", "trials": 5, "optimiser": "random"}
    outcome = search(Study.parse(study, "s.yaml", tmp_path), models / "unknown", say=lambda text: None)
    # Parents and means; no preset, which would be one for the blocks of a UNET.
    assert [t.baseline for t in outcome.run.trials()] == ["all A", "all B", "0.5", "", ""]
    merged = merge(Recipe.load(outcome.run.best_recipe()), tmp_path / "out.safetensors").output
    assert load(merged).keys() == load(tmp_path / "a.safetensors").keys()
    # Run folders are looked at where the models are not.
    for name in "ab":
        (tmp_path / f"{name}.safetensors").unlink()
    drawing = best_diagram(overview_of(outcome.run.path), "mix.alpha", 10)
    assert not drawing.unused and all(f">{label}<" in drawing.svg for label in LABELS)
    at = open_page("search")
    assert not at.exception and "There is no diagram" not in said(at)
    assert "START" in at.dataframe[0].value


def test_what_a_running_search_adds_is_shown_by_the_next_look(run, open_page, monkeypatch):
    at = open_page("search")
    point = {p.name: 0.25 for p in parameters()}
    add_trial(run, 31, point, 99.0, "", {"castle-1": {}}, False, __import__("numpy").random.default_rng(0))
    at.run()
    assert {m.label: m.value for m in at.metric}["Best score"] == "99"


def test_a_search_that_has_just_begun_and_one_that_is_gone_say_so(models, open_page):
    run = write_run(models / "new", trials=0)
    at = open_page("search")
    assert not at.exception
    assert "first trial is not finished" in said(at)
    (run.path / "setup.json").write_text("{half")
    at = open_page("search")
    assert not at.exception
    assert "cannot be read" in at.error[0].value


def test_a_log_of_automb_is_shown_too(models, open_page):
    write_log(models / "log.csv")
    at = open_page("search", run="log.csv")
    assert not at.exception
    assert "does not say which reward" in said(at).replace("\\", "")
    assert {m.label: m.value for m in at.metric}["Trials"] == "60"


def test_a_reward_that_is_no_preference_is_labelled_by_what_it_measures(models, open_page):
    caution = "This reward is not a model of what people like: it measures circles."
    reward = {
        "name": "own",
        "higher_is_better": True,
        "is_preference": False,
        "measures": "circles",
        "caution": caution,
    }
    write_run(models / "run", trials=12, reward=reward, images=False)
    at = open_page("search")
    assert not at.exception
    assert at.warning[0].value.replace("\\", "").startswith(caution)


def test_names_and_prompts_of_a_run_are_shown_as_they_are(models, open_page):
    evil = "**bold** <b>x</b> [a](http://b)"
    write_run(models / "run", trials=12, title=evil, shots={"s-1": {"prompt": evil, "seed": 1, "weight": 1}})
    at = open_page("search")
    assert not at.exception
    assert "\\*\\*bold\\*\\*" in said(at) and evil not in said(at)


def test_searches_are_found_below_the_folders_and_nowhere_else(run, models, tmp_path, monkeypatch):
    write_run(tmp_path / "elsewhere" / "other", trials=3, images=False)
    (models / "link").symlink_to(tmp_path / "elsewhere")
    (models / "table.csv").write_text("a,b\n1,2\n")
    write_run(models / "tree" / "nodes" / "ab", trials=3, images=False)
    (models / "tree" / "tree.json").write_text('{"nodes": ["ab", "../../elsewhere/other"]}')
    folders = Folders.at(models)
    assert {found.name for found in find_runs(folders)} == {"searches/photo-anime", "tree/nodes/ab"}
    monkeypatch.setenv("UNETSCOPE_RUNS", str(tmp_path / "elsewhere"))
    assert {found.name for found in find_runs(folders)} == {"searches/photo-anime", "tree/nodes/ab", "other"}


def test_searches_of_one_name_in_two_folders_can_both_be_chosen(models, tmp_path, monkeypatch):
    paths = {write_run(folder / "run", trials=3, images=False).path for folder in (models, tmp_path / "elsewhere")}
    monkeypatch.setenv("UNETSCOPE_RUNS", str(tmp_path / "elsewhere"))
    assert {found.name for found in find_runs(Folders.at(models))} == set(map(str, paths))


def rows(chart) -> list[dict]:
    return [row for data in chart.to_dict()["datasets"].values() for row in data]


def test_charts_have_every_trial_block_and_cost(a_run):
    overview = overview_of(a_run)
    course = rows(course_chart(overview))
    assert {row["trial"] for row in course if row.get("what")} == {t.number for t in overview.trials} - {5}
    assert {row["what"] for row in course if "what" in row} == {"proposal", "baseline", "given up early"}
    spread = overview.spread("mix.alpha", 10)
    assert [row["block"] for row in rows(weights_chart(spread, (0, 1)))] == list(spread)
    correlated = [row for row in rows(correlation_chart(overview)) if "name" in row]
    assert correlated[0]["printed"] == f"{overview.correlations()[correlated[0]['name']]:+.2f}"
    total = sum(row["seconds"] for row in rows(cost_chart(overview)))
    assert total == pytest.approx(sum(sum(t.seconds.values()) for t in overview.trials))


def test_names_of_baselines_with_near_scores_stand_apart_around_their_mean():
    places = apart([0.30, 0.1, 0.31, 0.9], 0.05)
    assert places == pytest.approx([0.28, 0.1, 0.33, 0.9])
    crowded = apart([0.5, 0.5, 0.5, 0.52], 0.05)
    assert sum(crowded) == pytest.approx(2.02) and min(b - a for a, b in pairwise(crowded)) > 0.049
    assert apart([], 0.1) == []


def test_showing_a_run_imports_neither_torch_nor_matplotlib_nor_optuna(run):
    import os
    import subprocess
    import sys

    code = (
        "import sys\nfrom streamlit.testing.v1 import AppTest\n"
        "at = AppTest.from_string('from unetscope.dashboard.pages import search\\nsearch.show()', default_timeout=600).run()\n"
        "assert not at.exception and at.metric, at.exception\n"
        "print([name for name in ('torch', 'diffusers', 'transformers', 'scipy', 'matplotlib', 'optuna') if name in sys.modules])"
    )
    environment = os.environ | {"UNETSCOPE_MODELS": str(run.path.parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().splitlines()[-1] == "[]"
