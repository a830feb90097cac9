"""The best trials on prompts and seeds that the search never saw."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fake_search import ColourGenerator, RedReward
from scipy.stats import ttest_rel

from unetscope.merge.recipe import Recipe
from unetscope.search.confirmation import confirm, judge, paired_interval
from unetscope.search.errors import SearchError
from unetscope.search.loop import search
from unetscope.search.records import TrialRecord

pytest.importorskip("optuna")
NAMES = [f"s{i}" for i in range(20)]
ONES = dict.fromkeys(NAMES, 1.0)


def scores(mean: float, seed: int) -> dict[str, float]:
    common = np.random.default_rng(0).normal(size=20)
    return dict(zip(NAMES, mean + common + 0.1 * np.random.default_rng(seed).normal(size=20), strict=True))


def test_the_interval_is_students_on_paired_differences():
    mine, other = scores(1.0, 1), scores(0.8, 2)
    found = paired_interval(mine, other, ONES, 0.95)
    known = ttest_rel(list(mine.values()), list(other.values())).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(known.low), pytest.approx(known.high))
    assert paired_interval({"s0": 1.0}, {"s0": 0.0}, ONES, 0.95).low == -np.inf


@pytest.mark.parametrize(("parents", "verdict"), [((0.5, 0.6), "yes"), ((0.5, 1.5), "no"), ((0.5, 1.0), "cannot tell")])
def test_better_than_both_parents_is_yes_no_or_cannot_tell(parents, verdict):
    record = TrialRecord(7, "complete", {}, 1.2)
    chosen = [("trial 7", "trial", record), ("a", "parent", None), ("b", "parent", None)]
    known = {"trial 7": scores(1.0, 1), "a": scores(parents[0], 2), "b": scores(parents[1], 3)}
    found = judge(chosen, known, ONES, higher_is_better=True, confidence=0.95)
    assert found.verdict == verdict and found.text == f"trial 7 is better than both parents: {verdict}"
    turned = {name: {s: -x for s, x in each.items()} for name, each in known.items()}
    assert judge(chosen, turned, ONES, higher_is_better=False, confidence=0.95).verdict == verdict


def test_more_candidates_need_wider_intervals():
    chosen = [("a", "parent", None)]
    known = {"a": scores(0.9, 9)}
    widths = []
    for i in range(3):
        chosen = [(f"trial {i}", "trial", TrialRecord(i, "complete", {}, 1.0)), *chosen]
        known[f"trial {i}"] = scores(1.0, i)
        found = judge(chosen, known, ONES, higher_is_better=True, confidence=0.95)
        against = next(c for c in found.candidates if c.name == "trial 0").against["a"]
        widths.append(against.high - against.low)
    assert widths == sorted(widths) and len(set(widths)) == 3


def test_a_run_is_confirmed_beside_its_parents_and_baselines(panel, picture_study, tmp_path):
    panel.generator, panel.reward = ColourGenerator(), RedReward(noise=0.001)
    study = picture_study(trials=14, confirm={"top": 2, "seeds": [11, 12, 13]})
    search(study, tmp_path / "run", say=lambda text: None)
    found = confirm(tmp_path / "run", say=lambda text: None)
    roles = [c.role for c in found.candidates]
    assert roles.count("trial") == 2 and [c.name for c in found.candidates if c.role == "parent"] == ["a", "b"]
    assert found.verdict == "yes" and not found.new_prompts
    assert all(len(c.scores) == 9 for c in found.candidates)
    written = json.loads((tmp_path / "run" / "confirmed.json").read_text())
    assert written["verdict"] == "yes" and len(written["candidates"]) == len(roles)


def test_an_interrupted_confirmation_measures_only_what_is_missing(panel, picture_study, tmp_path):
    panel.generator, panel.reward = ColourGenerator(), RedReward()
    search(picture_study(trials=8, confirm={"top": 1, "seeds": [11, 12]}), tmp_path / "run", say=lambda text: None)

    def stop(text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        confirm(tmp_path / "run", say=stop)
    before = panel.generator.prepared
    found = confirm(tmp_path / "run", say=lambda text: None)
    assert panel.generator.prepared - before == len(found.candidates) - 1
    again = confirm(tmp_path / "run", say=lambda text: None)
    assert again == found and panel.generator.prepared - before == len(found.candidates) - 1


@pytest.mark.parametrize("damage", [{"point": {}}, {"score": None}])
def test_a_damaged_trial_is_no_candidate_and_the_others_are(panel, picture_study, tmp_path, damage):
    panel.generator, panel.reward = ColourGenerator(), RedReward()
    run = tmp_path / "run"
    best = search(picture_study(trials=8, confirm={"top": 1, "seeds": [11]}), run, say=lambda text: None).best
    (file,) = (run / "trials").glob("*.jsonl")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text(
        "".join(json.dumps({**r, **(damage if r["number"] == best.number else {})}) + "\n" for r in records)
    )
    found = confirm(run, say=lambda text: None)
    tops = [c.trial for c in found.candidates if c.role == "trial"]
    assert len(tops) == 1 and tops != [best.number]


def test_there_is_nothing_to_confirm_without_pictures(tmp_path):
    with pytest.raises(SearchError, match="run folder"):
        confirm(tmp_path)


def test_a_merge_that_is_settled_is_a_parent_of_the_next_search(panel, picture_study, model_folder, tmp_path):
    panel.generator, panel.reward = ColourGenerator(), RedReward()
    steps = {
        "ab": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": {"default": 0.3, "IN04": 0.6}},
        "next": {"method": "weighted_sum", "inputs": ["ab", "c"], "alpha": {"free": [0, 1]}},
    }
    models = {name: str(model_folder / f"{name}.safetensors") for name in "abc"}
    held_out = {"top": 1, "payloads": [{"prompt": "unseen"}], "seeds": [11, 12]}
    study = picture_study(recipe={"models": models, "steps": steps}, confirm=held_out, trials=5)
    best = search(study, tmp_path / "run", say=lambda text: None).best
    assert Recipe.load(tmp_path / "run" / "best.yaml").order("next") == ["ab", "next"]
    assert set(best.point) == {"next.alpha"}
    found = confirm(tmp_path / "run", say=lambda text: None)
    assert found.new_prompts and [c.name for c in found.candidates if c.role == "parent"] == ["ab", "c"]
    assert all(len(c.scores) == 2 for c in found.candidates)
