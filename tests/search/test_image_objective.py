"""Trials that make pictures: scores, pruning, pictures that show that something is wrong, scales, and the best recipe."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from fake_search import ColourGenerator, RedReward, open_study
from safetensors.torch import load_file
from scipy.stats import wilcoxon

from unetscope.cli import main
from unetscope.merge.recipe import Recipe
from unetscope.search.errors import NO_IMAGE, OUT_OF_ORDER, SearchError
from unetscope.search.loop import search
from unetscope.search.pruning import is_hopeless, paired_estimate
from unetscope.search.study_settings import Pruning

pytest.importorskip("optuna")


def run(study, tmp_path, **more):
    return search(study, tmp_path / "run", say=lambda text: None, **more)


def test_a_trials_score_is_the_weighted_mean_of_its_pictures(panel, picture_study, tmp_path):
    panel.generator, panel.reward = ColourGenerator(), RedReward()
    payloads = [{"prompt": "p", "weight": 1}, {"prompt": "q", "weight": 3}]
    outcome = run(picture_study(payloads=payloads, seeds=[5], trials=4), tmp_path)
    for trial in outcome.run.trials():
        p, q = trial.scores.values()
        assert trial.score == pytest.approx((p + 3 * q) / 4)
        assert set(trial.seconds) == {"merge", "generate", "reward", "other"}
        assert [set(parts) for parts in trial.parts.values()] == [{"red"}, {"red"}]
    assert panel.generator.prepared == 4 and panel.reward.loads == 1


def test_pictures_of_the_best_trial_and_of_baselines_are_kept(panel, picture_study, tmp_path):
    panel.generator, panel.reward = ColourGenerator(), RedReward()
    outcome = run(picture_study(trials=9), tmp_path)
    for trial in outcome.run.trials():
        kept = trial.baseline or trial.number == outcome.best.number
        assert bool(outcome.run.images(trial.number)) == bool(kept)
    assert set(outcome.run.images(outcome.best.number)) == set(outcome.best.scores)


@pytest.mark.parametrize(("images", "count"), [("all", 5), ("none", 0)])
def test_all_pictures_are_kept_or_none(panel, picture_study, tmp_path, images, count):
    panel.generator, panel.reward = ColourGenerator(), RedReward()
    outcome = run(picture_study(trials=5, images=images), tmp_path)
    assert sum(bool(outcome.run.images(t.number)) for t in outcome.run.trials()) == count


def test_the_best_recipe_makes_the_file_that_its_point_means(panel, picture_study, tmp_path, model_folder):
    panel.generator, panel.reward = ColourGenerator(), RedReward()
    outcome = run(picture_study(trials=8), tmp_path)
    best = outcome.run.best_recipe()
    recipe = Recipe.load(best)
    weights = recipe.steps["mix"].weights("supermerger")["alpha"].resolve("sd1")
    with pytest.raises(SystemExit) as end:
        main(["merge", "run", str(best), "-o", str(tmp_path / "best.safetensors")])
    assert not end.value.code
    a, b = (load_file(model_folder / f"{name}.safetensors") for name in "ab")
    made = load_file(tmp_path / "best.safetensors")
    for key in ("model.diffusion_model.input_blocks.4.0.in_layers.2.weight", "model.diffusion_model.out.2.weight"):
        alpha = weights.weight(key)
        block = "mix.alpha.IN*" if "input" in key else "mix.alpha.OUT*"
        assert alpha == outcome.best.point[block]
        wanted = (1 - alpha) * a[key].double() + alpha * b[key].double()
        assert np.allclose(made[key].double().numpy(), wanted.numpy(), atol=1e-3, rtol=2e-3)


def test_pruning_saves_pictures_and_keeps_the_best(panel, picture_study, tmp_path):
    panel.generator, panel.reward = ColourGenerator(), RedReward(noise=0.001)
    study = picture_study(prompts=8, trials=16, batch=4, pruning=True, images="none")
    outcome = run(study, tmp_path)
    trials = outcome.run.trials()
    pruned = [t for t in trials if t.state == "pruned"]
    assert pruned and panel.generator.made == sum(len(t.scores) for t in trials) < 16 * len(trials)
    assert not any(t.baseline for t in pruned)
    complete = [t for t in trials if t.state == "complete"]
    assert outcome.best == max(complete, key=lambda t: t.score) and len(outcome.best.scores) == 16
    for t in pruned:
        rest = [t.scores[name] - outcome.best.scores[name] for name in t.scores]
        assert np.mean(rest) < 0


def test_the_test_for_pruning_is_wilcoxons_and_never_on_a_finished_panel():
    rng = np.random.default_rng(0)
    names = [f"s{i}" for i in range(12)]
    incumbent = dict(zip(names, rng.normal(size=12), strict=True))
    weights = dict.fromkeys(names, 1.0)
    for shift in (-1.0, -0.3, 0.0, 0.5):
        scores = {n: incumbent[n] + shift + 0.4 * rng.normal() for n in names[:8]}
        differences = [scores[n] - incumbent[n] for n in scores]
        expected = wilcoxon(differences, alternative="less").pvalue < 0.1 and sum(differences) < 0
        assert is_hopeless(scores, incumbent, weights, Pruning(), higher_is_better=True) == expected
        turned = {n: -x for n, x in scores.items()}, {n: -x for n, x in incumbent.items()}
        assert is_hopeless(*turned, weights, Pruning(), higher_is_better=False) == expected
    worse = {n: x - 1 for n, x in incumbent.items()}
    assert not is_hopeless(worse, incumbent, weights, Pruning(), higher_is_better=True)
    first = dict(list(worse.items())[:3])
    assert not is_hopeless(first, incumbent, weights, Pruning(after=4), higher_is_better=True)


def test_a_pruned_trial_is_told_as_worse_even_when_its_pictures_were_easy():
    incumbent = {"easy": 10.0, "hard": 0.0}
    weights = {"easy": 1.0, "hard": 1.0}
    assert paired_estimate({"easy": 9.0}, incumbent, weights, total=5.0) == 4.0


def test_pictures_without_a_score_make_a_failed_trial(panel, picture_study, tmp_path):
    panel.generator, panel.reward = ColourGenerator(), RedReward(spoilt="prompt 1")
    outcome = run(picture_study(), tmp_path)
    assert outcome.ending.why == "failing" and "no score (NaN) for 2 of 6 images" in outcome.ending.text


def test_black_pictures_make_failed_trials_and_stop_the_search(panel, picture_study, tmp_path):
    panel.generator, panel.reward = ColourGenerator(black=True), RedReward()
    outcome = run(picture_study(), tmp_path)
    assert outcome.ending.why == "failing" and "all images are black" in outcome.ending.text
    assert all(t.score is None for t in outcome.run.trials())


def test_a_generator_that_ignores_the_weights_is_noticed(panel, picture_study, tmp_path):
    panel.generator, panel.reward = ColourGenerator(frozen=True), RedReward()
    outcome = run(picture_study(trials=50), tmp_path)
    assert outcome.ending.why == "stuck" and "are identical, though their weights differ" in outcome.ending.text
    assert len(outcome.run.trials()) == 5


class Breaking(ColourGenerator):
    """A generator that gives up, or that says that a model makes no image, when it has made so many pictures."""

    def __init__(self, error: Exception, after: int):
        super().__init__()
        self.error, self.after = error, after

    def images(self, requests):
        if self.made == self.after:
            self.made += len(requests)
            raise self.error
        return super().images(requests)


def test_a_generator_that_gives_up_stops_the_search_and_no_point_is_lost(panel, picture_study, tmp_path):
    panel.generator, panel.reward = Breaking(SearchError("no answer"), after=14), RedReward()
    study = picture_study(batch=2)
    with pytest.raises(SearchError, match="no answer; the search has stopped, --resume continues"):
        run(study, tmp_path)
    outcome = run(study, tmp_path, resume=True)
    assert sum(t.state == "complete" for t in outcome.run.trials()) == 10
    assert {t.baseline for t in outcome.run.trials() if t.state == "complete"} == {"all A", "all B", "0.5", ""}


class Unreachable(ColourGenerator):
    """A generator that takes no model from some time on."""

    def prepare(self, recipe):
        if self.prepared == 4:
            self.prepared += 1
            raise SearchError("nobody answers", code=OUT_OF_ORDER)
        super().prepare(recipe)


def test_a_generator_that_cannot_be_reached_stops_the_search_before_its_points_are_lost(panel, picture_study, tmp_path):
    panel.generator, panel.reward = Unreachable(), RedReward()
    with pytest.raises(SearchError, match="nobody answers; the search has stopped, --resume continues"):
        run(picture_study(), tmp_path)
    outcome = run(picture_study(), tmp_path, resume=True)
    failed = [t for t in outcome.run.trials() if t.state == "failed"]
    again = [t for t in outcome.run.trials() if t.state == "complete" and t.point == failed[0].point]
    assert len(failed) == len(again) == 1


def test_baselines_that_failed_are_tried_again_when_the_search_goes_on(panel, picture_study, tmp_path):
    panel.generator, panel.reward = ColourGenerator(black=True), RedReward()
    assert run(picture_study(), tmp_path).ending.why == "failing"
    panel.generator = ColourGenerator()
    outcome = run(picture_study(), tmp_path, resume=True)
    complete = [t.baseline for t in outcome.run.trials() if t.state == "complete" and t.baseline]
    assert sorted(complete) == ["0.5", "all A", "all B"]


def test_a_search_goes_on_with_another_description_of_its_reward_and_with_no_other_reward(
    panel, picture_study, tmp_path
):
    panel.generator, panel.reward = ColourGenerator(), RedReward()
    setup = run(picture_study(trials=4), tmp_path).run.path / "setup.json"
    old = json.loads(setup.read_text())
    # As versions before wrote it.
    old["reward"] = {name: old["reward"][name] for name in ("name", "higher_is_better", "is_preference")}
    setup.write_text(json.dumps(old))
    panel.reward.measures = "red"
    outcome = run(picture_study(trials=5), tmp_path, resume=True)
    assert len(outcome.run.trials()) == 5 and outcome.run.setup().reward.measures == "red"
    panel.reward.name = "blue"
    with pytest.raises(SearchError, match="the reward of the study has changed"):
        run(picture_study(trials=6), tmp_path, resume=True)


def test_a_model_without_images_is_one_failed_trial(panel, picture_study, tmp_path):
    panel.generator, panel.reward = Breaking(SearchError("NaN in the UNET", code=NO_IMAGE), after=20), RedReward()
    outcome = run(picture_study(batch=2), tmp_path)
    failed = [t for t in outcome.run.trials() if t.state == "failed"]
    assert [t.note for t in failed] == ["NaN in the UNET"] and outcome.ending.why == "trials"


class Scaled(RedReward):
    """A reward whose scores mean something only next to those of the baselines."""

    needs_calibration = True

    def __init__(self):
        super().__init__()
        self.mean, self.calibrated = 0.0, 0

    def calibrate(self, baselines):
        self.mean = float(np.mean([part["red"] for requests in baselines for part in requests.values()]))
        self.calibrated += 1
        return ["scaled"]

    def combine(self, parts):
        return [100 * (x - self.mean) for x in parts["red"]]


def test_scores_on_the_scale_of_the_baselines_are_told_only_when_there_is_one(panel, picture_study, tmp_path):
    panel.generator, panel.reward = ColourGenerator(), Scaled()
    outcome = run(picture_study(trials=10), tmp_path)
    trials = outcome.run.trials()
    baselines = [t for t in trials if t.baseline]
    assert len(trials) == 10 and len(baselines) == 3 and panel.reward.calibrated == 1
    assert np.mean([t.score for t in baselines]) == pytest.approx(0, abs=1e-9)
    for trial in trials:
        raw = np.mean([part["red"] for part in trial.parts.values()])
        assert trial.score == pytest.approx(100 * (raw - panel.reward.mean))
    panel.reward = Scaled()
    again = run(picture_study(trials=12), tmp_path, resume=True)
    assert len(again.run.trials()) == 12 and again.run.trials()[:10] == trials


def told(folder) -> list[tuple[int, float | None]]:
    """What the optimiser was told: numbers and scores."""
    return [(t.number, t.value) for t in open_study(folder / "run" / "journal.log", "colours").trials]


@pytest.mark.parametrize("trials", [2, 6])  # before there is a scale, and after
def test_scores_have_the_same_scale_when_the_journal_is_lost(panel, picture_study, tmp_path, trials):
    panel.generator, panel.reward = ColourGenerator(), Scaled()
    before = run(picture_study(trials=trials), tmp_path).run.trials()
    (tmp_path / "run" / "journal.log").unlink()
    panel.reward = Scaled()
    after = run(picture_study(trials=8), tmp_path, resume=True).run.trials()
    assert len(after) == 8 and [t.point for t in after[:trials]] == [t.point for t in before]
    assert np.mean([t.score for t in after if t.baseline]) == pytest.approx(0, abs=1e-9)
    assert told(tmp_path) == [(t.number, t.score) for t in after]


def test_pruned_trials_are_told_as_before_when_the_journal_is_lost(panel, picture_study, tmp_path):
    panel.generator, panel.reward = ColourGenerator(), RedReward(noise=0.001)
    study = picture_study(prompts=8, trials=12, batch=4, pruning=True, images="none")
    trials = run(study, tmp_path).run.trials()
    before = told(tmp_path)
    assert any(t.state == "pruned" and value != t.score for t, (_, value) in zip(trials, before, strict=True))
    (tmp_path / "run" / "journal.log").unlink()
    run(study, tmp_path, resume=True)
    assert dict(told(tmp_path)) == pytest.approx(dict(before))


def test_a_scale_needs_a_baseline(panel, picture_study, tmp_path):
    panel.generator, panel.reward = ColourGenerator(), Scaled()
    with pytest.raises(SearchError, match="takes its scale from them"):
        run(picture_study(baselines=[]), tmp_path)
    panel.generator = ColourGenerator(black=True)
    outcome = run(picture_study(), tmp_path)
    assert outcome.ending.why == "failing"


def test_records_compare_equal_after_a_round_trip(panel, picture_study, tmp_path):
    panel.generator, panel.reward = ColourGenerator(), RedReward()
    outcome = run(picture_study(trials=4), tmp_path)
    assert all(dataclasses.replace(t) == t for t in outcome.run.trials())
