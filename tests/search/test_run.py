"""A run from the outside: interrupted, killed, resumed, shared, stopped; and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import pytest
from fake_search import PATIENCE, SMALL, interrupt, start, wait_for_trials, write_study

from unetscope.search.errors import SearchError
from unetscope.search.loop import search
from unetscope.search.records import TrialRecord
from unetscope.search.run_folder import RunFolder
from unetscope.search.run_setup import load_run
from unetscope.search.study import Study

pytest.importorskip("optuna")
posix = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")


def run(study, folder, **more):
    said = []
    outcome = search(study, folder, say=said.append, **more)
    return outcome, said


def asked(folder) -> int:
    """How often the objective was called, by all processes together."""
    return len((folder / "asked.txt").read_text().splitlines())


def wait_until_asked(folder, process) -> None:
    """Until a first trial is being measured."""
    while not (folder / "asked.txt").exists():
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()


def study_of(score, tmp_path, monkeypatch, **more) -> Study:
    """A study whose objective is a function of the test."""
    monkeypatch.setattr("unetscope.search.objective.load_function", lambda *_: score)
    data = {
        "parameters": {"x": {"free": [0, 1]}, "y": {"free": [0, 1]}},
        "objective": "m:f",
        "optimiser": {"name": "random"},
    }
    return Study.parse(data | more, "study.yaml", tmp_path)


def numbers_written(run) -> list[int]:
    """The numbers of all lines of all workers' files: a trial has one line."""
    lines = [line for path in (run / "trials").glob("*.jsonl") for line in path.read_text().splitlines()]
    return sorted(json.loads(line)["number"] for line in lines)


def test_every_trial_is_written_down_and_the_best_one_is_known(tmp_path, monkeypatch):
    study = study_of(lambda w: -((w["x"] - 0.3) ** 2), tmp_path, monkeypatch, trials=8)
    outcome, said = run(study, tmp_path / "run")
    trials = outcome.run.trials()
    assert [t.number for t in trials] == list(range(8)) and {t.state for t in trials} == {"complete"}
    assert trials[0].baseline == "0.5" and trials[0].point == {"x": 0.5, "y": 0.5}
    best = max(trials, key=lambda t: t.score)
    assert outcome.run.best() == best == outcome.best
    assert json.loads((tmp_path / "run" / "best.json").read_text())["number"] == best.number
    assert outcome.run.setup().reward.higher_is_better is True
    assert [p.name for p in outcome.run.setup().parameters] == ["x", "y"]
    assert sum(line.startswith("trial") for line in said) == 8


def test_smaller_scores_are_better_where_the_study_says_so(tmp_path, monkeypatch):
    study = study_of(lambda w: w["x"], tmp_path, monkeypatch, trials=6, direction="minimise")
    outcome, _ = run(study, tmp_path / "run")
    assert outcome.best.score == min(t.score for t in outcome.run.trials())


def test_a_resumed_search_ends_with_the_same_number_of_trials(tmp_path, monkeypatch):
    study = study_of(lambda w: w["x"], tmp_path, monkeypatch, trials=9)
    run(study, tmp_path / "run", trials=4)
    outcome, _ = run(study, tmp_path / "run", resume=True)
    assert [t.number for t in outcome.run.trials()] == list(range(9))
    assert len({t.point["x"] for t in outcome.run.trials()}) == 9
    again, said = run(study, tmp_path / "run", resume=True)
    assert again.ending.why == "trials" and not any(line.startswith("trial") for line in said)


def test_a_search_that_an_earlier_version_made_for_a_tree_goes_on(tmp_path, monkeypatch):
    study = study_of(lambda w: w["x"], tmp_path, monkeypatch, trials=3)
    run(study, tmp_path / "tree" / "nodes" / "ab")
    kept = tmp_path / "tree" / "nodes" / "ab" / "study.yaml"
    kept.write_text(f"tree: null\n{kept.read_text()}")
    folder, again = load_run(kept.parent)
    assert again.to_yaml() == study.to_yaml()
    outcome, _ = run(again.changed(trials=5), kept.parent, resume=True)
    assert len(outcome.run.trials()) == 5 and outcome.run.trials()[:3] == folder.trials()[:3]


def test_a_run_folder_is_not_used_again_by_mistake(tmp_path, monkeypatch):
    study = study_of(lambda w: w["x"], tmp_path, monkeypatch, trials=3)
    run(study, tmp_path / "run")
    with pytest.raises(SearchError, match="3 trials; continue with it by --resume"):
        run(study, tmp_path / "run")
    other = study.changed(parameters={"z": {"free": [0, 1]}})
    with pytest.raises(SearchError, match="the free numbers of the study have changed"):
        run(other, tmp_path / "run", resume=True)


def test_a_trial_that_raises_has_failed_and_has_no_score(tmp_path, monkeypatch):
    calls = []

    def score(weights):
        calls.append(weights)
        if len(calls) == 2:
            raise MemoryError("out of memory")
        return float("nan") if len(calls) == 4 else weights["x"]

    outcome, _ = run(study_of(score, tmp_path, monkeypatch, trials=5), tmp_path / "run")
    states = [t.state for t in outcome.run.trials()]
    assert states == ["complete", "failed", "complete", "failed", "complete", "complete", "complete"]
    second = outcome.run.trials()[1]
    assert second.score is None and "MemoryError: out of memory" in second.note
    assert "nan" in outcome.run.trials()[3].note


def test_a_search_whose_trials_all_fail_stops_and_says_why(tmp_path, monkeypatch):
    def score(weights):
        raise ValueError("no such model")

    outcome, _ = run(study_of(score, tmp_path, monkeypatch), tmp_path / "run")
    assert outcome.ending.why == "failing" and "ValueError: no such model" in outcome.ending.text
    assert len(outcome.run.trials()) == 3 and outcome.best is None


def test_a_score_that_stands_still_stops_the_search(tmp_path, monkeypatch):
    outcome, _ = run(study_of(lambda w: 0.5, tmp_path, monkeypatch), tmp_path / "run")
    assert outcome.ending.why == "stuck" and "stood still at 0.5" in outcome.ending.text
    assert len(outcome.run.trials()) == 5


def test_patience_counts_proposals_without_a_better_score(tmp_path, monkeypatch):
    # The baseline 0.5 is the best that there is.
    study = study_of(lambda w: -abs(w["x"] - 0.5), tmp_path, monkeypatch, stop={"patience": 4})
    outcome, _ = run(study, tmp_path / "run")
    assert outcome.ending.why == "patience" and len(outcome.run.trials()) == 5
    assert outcome.best.baseline == "0.5"


def test_a_target_and_a_clock_stop_a_search(tmp_path, monkeypatch):
    study = study_of(lambda w: w["x"], tmp_path, monkeypatch, stop={"target": 0.4})
    outcome, _ = run(study, tmp_path / "target")
    assert outcome.ending.why == "target" and len(outcome.run.trials()) == 1
    study = study_of(lambda w: w["x"], tmp_path, monkeypatch, stop={"hours": 1e-9})
    outcome, _ = run(study, tmp_path / "clock")
    assert outcome.ending.why == "hours" and not outcome.run.trials()


def test_an_earlier_search_is_learnt_from(tmp_path, monkeypatch):
    study = study_of(lambda w: w["x"], tmp_path, monkeypatch, trials=6)
    run(study, tmp_path / "old")
    outcome, said = run(study.changed(prior=["old"]), tmp_path / "new")
    assert "prior old: 6 of 6 trials fit into what is free" in said
    assert len(outcome.run.trials()) == 6 and outcome.run.trials()[0].number == 6


@posix
def test_ctrl_c_finishes_the_trial_and_ends_well(tmp_path):
    study = write_study(tmp_path, SMALL, pause=0.5)
    process = start(tmp_path, study, "-o", "run")
    wait_for_trials(tmp_path / "run", 2, process)
    interrupt(process)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    trials = RunFolder(tmp_path / "run").trials()
    assert len(trials) == asked(tmp_path) < 12 and {t.state for t in trials} == {"complete"}
    assert "--resume continues" in out


@posix
@pytest.mark.long
def test_a_second_ctrl_c_stops_at_once_and_the_point_is_tried_again(tmp_path):
    study = write_study(tmp_path, SMALL, pause=600)
    process = start(tmp_path, study, "-o", "run")
    wait_until_asked(tmp_path, process)
    interrupt(process)
    while "again to stop at once" not in process.stderr.readline():
        assert process.poll() is None
    interrupt(process)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and not RunFolder(tmp_path / "run").trials()
    write_study(tmp_path, SMALL)
    assert start(tmp_path, study, "-o", "run", "--resume").wait(timeout=PATIENCE) == 0
    trials = RunFolder(tmp_path / "run").trials()
    assert sum(t.state == "complete" for t in trials) == 12
    assert [t.baseline for t in trials if t.state == "complete" and t.baseline] == ["0.5"]


@posix
@pytest.mark.long
def test_a_killed_search_loses_at_most_the_trial_that_it_was_making(tmp_path):
    study = write_study(tmp_path, SMALL, pause=0.3)
    process = start(tmp_path, study, "-o", "run")
    wait_for_trials(tmp_path / "run", 4, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = [t for t in RunFolder(tmp_path / "run").trials() if t.state == "complete"]
    assert len(kept) >= asked(tmp_path) - 1
    write_study(tmp_path, SMALL)
    resumed = start(tmp_path, study, "-o", "run", "--resume")
    _, err = resumed.communicate(timeout=PATIENCE)
    assert resumed.returncode == 0, err
    trials = RunFolder(tmp_path / "run").trials()
    complete = [t for t in trials if t.state == "complete"]
    assert len(complete) == 12 and complete[: len(kept)] == kept
    lost = [t for t in trials if t.state == "failed"]
    # Killed while the optimiser was thinking, there was no point yet.
    assert len(lost) <= 1 and all(any(c.point == t.point for c in complete) for t in lost if t.point)


@posix
@pytest.mark.long
@pytest.mark.parametrize("storage", [None, "sqlite:///shared.db"])
def test_two_workers_share_a_search(tmp_path, storage):
    study = write_study(tmp_path, SMALL, workers=2)
    more = ("--storage", storage) if storage else ("--resume",)
    first = start(tmp_path, study, "-o", "run", *more)
    wait_until_asked(tmp_path, first)
    second = start(tmp_path, study, "-o", "run", *more)
    for process in (first, second):
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
    trials = RunFolder(tmp_path / "run").trials()
    assert len({t.worker for t in trials}) == 2
    assert 12 <= len(trials) <= 13 and {t.state for t in trials} == {"complete"}
    assert numbers_written(tmp_path / "run") == [t.number for t in trials]
    assert len({tuple(t.point.values()) for t in trials}) == len(trials)
    assert (
        json.loads((tmp_path / "run" / "best.json").read_text())["number"] == RunFolder(tmp_path / "run").best().number
    )


def test_workers_with_folders_of_their_own_have_all_records_and_the_same_best_recipe(tmp_path, monkeypatch):
    study = study_of(lambda w: w["x"], tmp_path, monkeypatch, title="shared")
    for name, trials in (("near", 4), ("far", 8), ("near", 11), ("far", 11)):
        monkeypatch.setattr("unetscope.search.storage.worker_name", lambda name=name: f"{name}-1")
        run(study, tmp_path / name, storage=f"sqlite:///{tmp_path / 'shared.db'}", trials=trials)
    near, far = RunFolder(tmp_path / "near"), RunFolder(tmp_path / "far")
    assert near.trials() == far.trials() and len(near.trials()) == 11
    assert near.best() == far.best() and {t.worker for t in near.trials()} == {"near-1", "far-1"}
    assert len({t.point["x"] for t in near.trials()}) == 11


def test_a_storage_that_cannot_be_reached_is_one_sentence(tmp_path, monkeypatch):
    study = study_of(lambda w: w["x"], tmp_path, monkeypatch)
    for url, said in (
        ("grpc://localhost:13000", "gRPC proxy is no longer used; give the address of the data base"),
        ("nosuchdb://host/x", "cannot be opened"),
    ):
        with pytest.raises(SearchError, match=said):
            run(study, tmp_path / "run", storage=url, resume=True)


def test_half_a_line_of_a_killed_worker_is_no_record(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append(TrialRecord(0, "complete", {"x": 0.5}, 1.0, worker="w"))
    with open(tmp_path / "trials" / "w.jsonl", "a") as file:
        file.write('{"number": 1, "sta')
    assert [t.number for t in folder.trials()] == [0]
    folder.append(TrialRecord(2, "complete", {"x": 0.5}, float("nan"), worker="w"))
    assert [(t.number, t.score) for t in folder.trials()] == [(0, 1.0), (2, None)]


def test_of_two_lines_about_a_trial_the_later_one_counts(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append(TrialRecord(0, "complete", {}, 1.0, worker="b", finished=1.0))
    folder.append(TrialRecord(0, "complete", {}, 2.0, worker="a", finished=2.0))
    assert [t.score for t in folder.trials()] == [2.0]
