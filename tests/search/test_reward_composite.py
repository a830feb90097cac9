"""Several rewards as one: z-scores against the baselines, by numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from unetscope.search.errors import SearchError
from unetscope.search.rewards import make_reward

OWN = """
from unetscope.search.rewards import Reward

class Level(Reward):
    def __init__(self, channel: int, better: bool = True):
        self.name, self.channel, self.higher_is_better = "rgb"[channel], channel, better

    def score(self, images, prompts):
        return [float(image.getpixel((0, 0))[self.channel]) for image in images]
"""


def part(channel: int, **more) -> dict:
    return {"kind": "own.py:Level", "channel": channel, **more}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


# Three baselines on four shots: part r in hundreds, part g in hundredths, prompts further apart than models.
RAW = {
    "r": np.array([[100, 900, 500, 300], [120, 930, 490, 310], [90, 960, 530, 290]], float),
    "g": np.array([[0.01, 0.05, 0.03, 0.02], [0.015, 0.048, 0.04, 0.01], [0.011, 0.051, 0.02, 0.03]]),
}
BASELINES = [{f"s{shot}": {name: RAW[name][trial, shot] for name in RAW} for shot in range(4)} for trial in range(3)]


def z(name: str, values) -> np.ndarray:
    raw = RAW[name]
    apart = raw - raw.mean(axis=0)
    spread = np.sqrt((apart**2).sum() / (raw.size - raw.shape[1]))
    return (np.asarray(values) - raw.mean()) / spread


def calibrated(folder, **settings):
    reward = make_reward({"kind": "composite", **settings}, folder)
    assert reward.needs_calibration
    assert reward.calibrate(BASELINES) == []
    return reward


def test_scores_are_weighted_means_of_z_scores_that_were_measured_on_equal_shots(folder):
    reward = calibrated(folder, parts=[part(0, weight=3), part(1)])
    scores = reward.combine({"r": [500, 100], "g": [0.02, 0.07]})
    np.testing.assert_allclose(scores, (3 * z("r", [500, 100]) + z("g", [0.02, 0.07])) / 4, rtol=1e-12)


def test_the_baselines_have_zero_on_average(folder):
    reward = calibrated(folder, parts=[part(0), part(1, weight=2)])
    assert np.mean(reward.combine({name: raw.ravel() for name, raw in RAW.items()})) == pytest.approx(0, abs=1e-12)


def test_a_part_whose_lower_scores_are_better_is_turned(folder):
    reward = calibrated(folder, parts=[part(0, better=False), part(1)])
    np.testing.assert_allclose(reward.combine({"r": [500], "g": [0.02]}), (-z("r", [500]) + z("g", [0.02])) / 2)
    assert reward.higher_is_better


def test_min_takes_the_worst_part_and_median_the_middle_one(folder):
    raw = {"r": [500, 900], "g": [0.07, 0.01]}
    worst = np.minimum(z("r", raw["r"]), z("g", raw["g"]))
    np.testing.assert_allclose(calibrated(folder, parts=[part(0), part(1)], join="min").combine(raw), worst)
    middle = (z("r", raw["r"]) + z("g", raw["g"])) / 2
    np.testing.assert_allclose(calibrated(folder, parts=[part(0), part(1)], join="median").combine(raw), middle)
    heavy = calibrated(folder, parts=[part(0, weight=3), part(1)], join="median").combine(raw)
    np.testing.assert_allclose(heavy, z("r", raw["r"]))


def test_the_order_of_the_baselines_changes_no_bit(folder):
    one = calibrated(folder, parts=[part(0), part(1)])
    other = make_reward({"kind": "composite", "parts": [part(0), part(1)]}, folder)
    other.calibrate([dict(reversed(list(trial.items()))) for trial in reversed(BASELINES)])
    assert one.scales == other.scales


def test_raw_parts_of_images_are_what_each_reward_says(folder):
    images = [Image.new("RGB", (2, 2), (10, 20, 30)), Image.new("RGB", (2, 2), (40, 50, 60))]
    reward = make_reward([part(0), part(2), part(2)], folder)
    assert reward.parts(images, ["", ""]) == {"r": [10, 40], "b": [30, 60], "b-2": [30, 60]}
    assert reward.score(images, ["", ""]) == [pytest.approx(70 / 3), pytest.approx(160 / 3)]


def test_a_part_that_never_changes_on_equal_shots_falls_back_and_says_so(folder):
    reward = make_reward([part(0), part(1)], folder)
    same = [{"s0": {"r": 1.0, "g": 5.0}, "s1": {"r": 3.0, "g": 5.0}}] * 2
    notes = reward.calibrate(same)
    assert len(notes) == 2
    assert "r is the same for every baseline on the same prompt and seed" in notes[0]
    assert "g never changes among the baselines" in notes[1]
    assert reward.scales["r"].spread == pytest.approx(np.std([1, 3, 1, 3], ddof=1))
    assert reward.scales["g"].spread == 1.0


def test_one_baseline_is_too_few_and_none_leaves_raw_scores(folder):
    reward = make_reward([part(0)], folder)
    assert "two or more" in reward.calibrate(BASELINES[:1])[0]
    assert reward.scales["r"].spread == pytest.approx(np.std(RAW["r"][0], ddof=1))
    assert any("its raw scores are used" in note for note in reward.calibrate([]))
    assert reward.combine({"r": [7.0]}) == [7.0]


def test_a_missing_raw_score_is_left_out_of_the_scale_and_gives_no_score(folder):
    reward = make_reward([part(0), part(1)], folder)
    reward.calibrate([*BASELINES, {"s0": {"r": math.nan, "g": None}}])
    expected = make_reward([part(0), part(1)], folder)
    expected.calibrate(BASELINES)
    assert reward.scales == expected.scales
    assert math.isnan(reward.combine({"r": [1.0], "g": [None]})[0])


def test_records_of_another_reward_are_refused(folder):
    with pytest.raises(SearchError, match="no scores of g were recorded"):
        make_reward([part(0), part(1)], folder).combine({"r": [1.0]})


def test_a_composite_is_a_preference_only_when_all_of_its_parts_are(folder):
    assert make_reward([part(0)], folder).is_preference
    assert not make_reward([part(0), "features"], folder).is_preference
