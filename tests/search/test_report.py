"""The report of a search: what is in it, what it says, and that nothing from a file becomes part of the page."""

from __future__ import annotations

import csv
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from fake_runs import SHOTS, parameters, score_of, write_run
from PIL import Image
from scipy.stats import spearmanr

from unetscope.search.errors import SearchError
from unetscope.search.importance import importances
from unetscope.search.overview import correlation, ranks, read_overview, verdict_of
from unetscope.search.records import TrialRecord
from unetscope.search.report import write_report


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "run", trials=40)


@pytest.fixture(scope="module")
def report(run, tmp_path_factory):
    return write_report(run.path, tmp_path_factory.mktemp("reports") / "report", top=5)


def test_everything_that_the_page_shows_is_a_file_in_its_folder(report):
    page = Page(report.read_text(encoding="utf-8"))
    sources = [a["src"] for a in page.all("img")] + [a["srcset"] for a in page.all("source")]
    sources += [a["href"] for a in page.all("a")]
    assert len(sources) > 15
    for source in sources:
        assert (report.parent / source).is_file(), source
    assert not page.all("script") and not page.all("link")
    assert all(a.get("alt") for a in page.all("img"))


def test_every_plot_is_there_as_svg_and_png_for_light_and_dark(report):
    for name in ("course", "weights-0", "importance", "cost"):
        for suffix in ("", "-dark"):
            assert (report.parent / "plots" / f"{name}{suffix}.svg").read_text().startswith("<?xml")
            Image.open(report.parent / "plots" / f"{name}{suffix}.png").verify()
    assert (report.parent / "plots" / "unet-0.svg").is_file()
    Image.open(report.parent / "plots" / "unet-0.png").verify()


def test_the_page_says_numbers(run, report):
    text, best = Page(report.read_text(encoding="utf-8")).text, run.best()
    assert f"best: trial {best.number}" in text
    assert f"{best.score:.6g}" in text
    assert "40 trials (34 complete, 5 given up before their last image, 1 failed)" in text
    assert "trial 5 failed: all images are black" in text
    assert "PED-ANOVA" in text
    assert SHOTS["portrait-1"]["prompt"] in text


def test_the_diagram_shows_the_best_weight_of_every_block(run, report):
    svg = (report.parent / "plots" / "unet-0.svg").read_text(encoding="utf-8")
    best = run.best()
    for label in ("IN04", "M00", "OUT11"):
        value = best.point[f"mix.alpha.{label}"]
        part = svg[svg.index(f">{label}<") :][:1500]
        assert re.search(rf">{value:.3g}", part) or f"{value:.2f}" in part, label


def test_the_images_are_those_of_the_best_trial_and_the_baselines_on_the_same_prompts(run, report):
    page = Page(report.read_text(encoding="utf-8"))
    names = [a["src"] for a in page.all("img") if a["src"].startswith("images/")]
    assert len(names) == 4 * len(SHOTS)  # the best trial and three baselines
    first = Image.open(report.parent / names[0]).getpixel((2, 2))
    theirs = Image.open(run.images(run.best().number)["castle-1"]).getpixel((2, 2))
    assert np.abs(np.subtract(first, theirs)).max() < 12


def test_the_table_of_all_trials_has_their_points(run, report):
    with open(report.parent / "trials.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    trials = run.trials()
    assert len(rows) == len(trials) == 40
    assert float(rows[12]["mix.alpha.IN03"]) == trials[12].point["mix.alpha.IN03"]
    assert rows[5]["state"] == "failed" and rows[5]["score"] == ""


def test_names_prompts_and_notes_from_files_stay_text(tmp_path):
    evil = '<img src=x onerror="alert(1)">'
    shots = {"s-1": {"prompt": evil, "seed": 1, "weight": 1.0}}
    run = write_run(tmp_path / "run", trials=12, title=evil, shots=shots, reward={"name": evil})
    run.append(TrialRecord(99, "failed", {}, None, note=evil, baseline=evil, finished=1.0))
    page = Page(write_report(run.path, tmp_path / "report").read_text(encoding="utf-8"))
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert page.text.count(evil) >= 3
    svg = (tmp_path / "report" / "plots" / "unet-0.svg").read_text(encoding="utf-8")
    assert "<img" not in svg
    with open(tmp_path / "report" / "trials.csv", newline="") as file:
        assert not any(cell.startswith(("=", "@", "+")) for row in csv.reader(file) for cell in row)


def test_a_reward_that_is_no_preference_model_is_labelled(tmp_path):
    reward = {"name": "features", "higher_is_better": True, "is_preference": False}
    run = write_run(tmp_path / "run", trials=4, reward=reward, images=False)
    text = Page(write_report(run.path, tmp_path / "report").read_text(encoding="utf-8")).text
    assert "This reward is not a model of what people like. A better score need not be" in text
    assert "too few to tell" in text
    assert "No image of the best trials was kept" in text


@pytest.mark.long
def test_the_report_says_what_the_reward_measures(tmp_path):
    own = {"name": "mine.py:Circles", "higher_is_better": True}
    cases = [
        (own | {"is_preference": True, "measures": "<circles>"}, "It measures <circles>.", 1),
        (
            own | {"is_preference": False, "measures": "x", "caution": "Mind: it measures x."},
            "Mind: it measures x. A",
            1,
        ),
        (own | {"is_preference": True}, "mine.py:Circles; higher is better.", 0),
    ]
    for number, (reward, said, times) in enumerate(cases):
        run = write_run(tmp_path / f"run{number}", trials=4, reward=reward, images=False)
        text = Page(write_report(run.path, tmp_path / "report").read_text(encoding="utf-8")).text
        assert said in text
        assert text.count(" measures ") == times and "not a model" not in text


@pytest.mark.long
def test_a_confirmation_is_shown_with_its_intervals(tmp_path):
    against = {"a": {"mean": 0.3, "low": 0.1, "high": 0.5}}
    trial = {"name": "trial 3", "role": "trial", "searched": 5.0, "score": 4.8, "against": against, "better": "yes"}
    parent = {"name": "a", "role": "parent", "searched": None, "score": 4.5, "against": {}, "better": None}
    found = {"verdict": "cannot tell", "text": "It depends.", "confidence": 0.9, "new_prompts": False}
    run = write_run(tmp_path / "run", trials=12, confirmed={**found, "candidates": [trial, parent]})
    text = Page(write_report(run.path, tmp_path / "report").read_text(encoding="utf-8")).text
    assert "Better than both parents: cannot tell. It depends." in text
    assert "+0.3[+0.1, +0.5]" in text
    assert "90 % confidence" in text
    # What matters most stands before the differences, which a narrow window may have to scroll to.
    assert text.index("better than all parents") < text.index("score in the search") < text.index("better than a by")


def test_the_verdict_of_a_confirmation_is_said_once(tmp_path):
    found = {"verdict": "yes", "text": "trial 3 is better than both parents: yes", "best": "trial 3", "candidates": []}
    run = write_run(tmp_path / "run", trials=4, confirmed=found)
    said = "Trial 3 was measured again on images that the search never saw."
    assert verdict_of(read_overview(run.path)) == ("yes", said)


@pytest.mark.long
def test_a_log_of_automb_has_a_report_too(tmp_path):
    rng, lines = np.random.default_rng(0), [",".join([*map(str, range(27)), "score", "eval_times", "iter_times"])]
    for _ in range(30):
        weights = rng.integers(0, 11, 27) / 10
        lines.append(",".join(map(str, [*weights, weights[0] - weights[5], 40.5, 41])))
    log = tmp_path / "log.csv"
    log.write_text("\n".join(lines) + "\n")
    index = write_report(log, tmp_path / "report")
    page = Page(index.read_text(encoding="utf-8"))
    assert "does not say which reward" in page.text
    assert "merge, images and reward" in (tmp_path / "report" / "plots" / "cost.svg").read_text()
    assert (tmp_path / "report" / "plots" / "unet-0.svg").is_file()
    best = max(read_overview(log).trials, key=lambda t: t.score)
    assert f"{best.score:.6g}" in page.text


def test_what_cannot_be_reported_gets_a_sentence(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    write_run(tmp_path / "empty", trials=0)
    for run, said in [
        (tmp_path / "nothing", "is not a run folder"),
        (tmp_path / "x.csv", "AutoMBW log"),
        (tmp_path / "empty", "has no finished trial yet"),
    ]:
        with pytest.raises(SearchError, match=said):
            write_report(run, tmp_path / "report")
    (tmp_path / "file").write_text("")
    write_run(tmp_path / "run", trials=3, images=False)
    with pytest.raises(SearchError, match="cannot be written"):
        write_report(tmp_path / "run", tmp_path / "file")


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_rank_correlations_are_spearmans_with_ties(run):
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 6, 50), rng.integers(0, 4, 50)
    assert correlation(ranks(a), ranks(b)) == pytest.approx(spearmanr(a, b).statistic)
    assert correlation(ranks([1, 1, 1]), ranks([1, 2, 3])) == 0
    found = read_overview(run.path)
    values = [t.point["mix.alpha.IN00"] for t in found.complete]
    expected = spearmanr(values, [t.score for t in found.complete]).statistic
    assert found.correlations()["mix.alpha.IN00"] == pytest.approx(expected)


def test_importances_sum_to_one_and_find_the_number_that_matters(tmp_path):
    run, rng = write_run(tmp_path / "run", trials=0), np.random.default_rng(5)
    names = [p.name for p in parameters()]
    for number in range(80):
        point = {name: float(rng.uniform()) for name in names}
        run.append(TrialRecord(number, "complete", point, -((point["mix.alpha.IN07"] - 0.2) ** 2)))
    method, found = importances(read_overview(run.path))
    assert "PED-ANOVA" in method
    assert sum(one.share for one in found.values()) == pytest.approx(1)
    assert next(iter(found)) == "mix.alpha.IN07"
    assert found["mix.alpha.IN07"].correlation < -0.5


def test_without_optuna_rank_correlations_stand_in(run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    method, found = importances(read_overview(run.path))
    assert "rank correlation" in method
    assert sum(one.share for one in found.values()) == pytest.approx(1)


@pytest.mark.long
def test_a_lower_score_can_be_the_better_one(tmp_path):
    run = write_run(tmp_path / "run", trials=20, reward={"name": "loss", "higher_is_better": False}, images=False)
    found = read_overview(run.path)
    scores = [t.score for t in found.complete]
    assert found.best.score == min(scores)
    assert [t.score for t in found.ranked()] == sorted(scores)
    assert found.best_so_far()[-1][1] == min(scores)
    assert found.correlations()["mix.alpha.IN00"] < 0  # the formula wants more of it, this search less


def test_the_spread_is_over_the_best_trials(run):
    found = read_overview(run.path)
    top = sorted(found.complete, key=lambda t: -t.score)[:5]
    values = [t.point["mix.alpha.OUT03"] for t in top]
    spread = found.spread("mix.alpha", 5)["OUT03"]
    assert (spread.best, spread.low, spread.high) == (values[0], min(values), max(values))
    assert spread.middle == pytest.approx(np.median(values))


@pytest.mark.long
def test_a_search_that_does_not_beat_its_baselines_says_so(tmp_path):
    run = write_run(tmp_path / "run", trials=3, images=False)
    assert "No proposal beats the baselines so far" in verdict_of(read_overview(run.path))[1]
    names = [p.name for p in parameters()]
    point = {name: 1 - at / len(names) for at, name in enumerate(names)}
    run.append(TrialRecord(9, "complete", point, score_of(point, names)))
    assert "flattered by luck" in verdict_of(read_overview(run.path))[1]
