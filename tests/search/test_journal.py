"""A run whose journal is damaged: nothing that was measured is lost, and the search goes on."""

from __future__ import annotations

import json

import pytest
from fake_search import open_study

from unetscope.search.errors import SearchError
from unetscope.search.loop import search
from unetscope.search.optimiser import Optimiser
from unetscope.search.run_folder import RunFolder
from unetscope.search.study import Study

optuna = pytest.importorskip("optuna")

HALF = b'{"op_code":8,"worker_id":"killed","trial_id":3,"user_attr":{"rec'


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Makes a study whose objective is a function of the test, with a log of what is known already."""

    def make(trials: int, score=lambda w: -((w["x"] - 0.3) ** 2) - w["y"], **more) -> Study:
        monkeypatch.setattr("unetscope.search.objective.load_function", lambda *_: score)
        data = {"title": "t", "objective": "m:f", "trials": trials, "optimiser": {"name": "random"}}
        data |= {"parameters": {"x": {"free": [0, 1]}, "y": {"free": [0, 1], "step": 0.1}}}
        return Study.parse(data | more, "study.yaml", tmp_path)

    return make


def numbers_written(run) -> list[int]:
    """The numbers of all lines of all workers' files: a trial has one line."""
    lines = [line for path in (run / "trials").glob("*.jsonl") for line in path.read_text().splitlines()]
    return sorted(json.loads(line)["number"] for line in lines)


def without(lines: list[bytes], of) -> bytes:
    """The journal without the first line after the fourth trial began that `of` says."""
    begun = [i for i, line in enumerate(lines) if line.startswith(b'{"op_code":4')][3]
    return b"".join(line for i, line in enumerate(lines) if i != begun + of(lines[begun:]))


def first(beginning: bytes):
    return lambda lines: next(i for i, line in enumerate(lines) if line.startswith(beginning))


DAMAGES = {
    "nothing": lambda lines: b"".join(lines),
    "gone": None,
    "empty": lambda lines: b"",
    "half a line at its end": lambda lines: b"".join(lines) + HALF,
    "half a line in its middle": lambda lines: b"".join(lines[:12]) + HALF + b"\n" + b"".join(lines[12:]),
    # As an earlier version left it, which wrote on in that line.
    "half a line before another": lambda lines: b"".join(lines[:12]) + HALF + b"".join(lines[12:]),
    "cut behind its first line": lambda lines: lines[0] + HALF,
    "cut in half": lambda lines: b"".join(lines)[: sum(map(len, lines)) // 2],
    "zeros at its end": lambda lines: b"".join(lines) + bytes(4096),
    "zeros in its middle": lambda lines: b"".join(lines[:20]) + bytes(300) + b"".join(lines[24:]),
    "noise": lambda lines: bytes(range(256)) * 20,
    "no operation": lambda lines: b"".join(lines[:20]) + b'[]\n{}\n"x"\n' + b"".join(lines[20:]),
    "an unknown operation": lambda lines: b"".join(lines) + b'{"op_code":99,"worker_id":"x"}\n',
    "an operation without its fields": lambda lines: b'{"op_code":4}\n' + b"".join(lines),
    "a trial that never began": lambda lines: without(lines, first(b'{"op_code":4')),
    "a value that is lost": lambda lines: without(lines, first(b'{"op_code":5')),
    "a record that is lost": lambda lines: without(
        lines, lambda some: next(i for i, line in enumerate(some) if b'"record"' in line)
    ),
    "a score that is lost": lambda lines: without(
        lines, lambda some: next(i for i, line in enumerate(some) if line.startswith(b'{"op_code":6') and b"[" in line)
    ),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_search_goes_on_with_all_that_was_measured(tmp_path, study, how):
    run, journal = tmp_path / "run", tmp_path / "run" / "journal.log"
    measured = search(study(7), run, say=lambda text: None).run.trials()
    assert len(measured) == 7
    if DAMAGES[how] is None:
        journal.unlink()
    else:
        journal.write_bytes(DAMAGES[how](journal.read_bytes().splitlines(keepends=True)))
    outcome = search(study(10), run, resume=True, say=lambda text: None)
    trials = outcome.run.trials()
    assert trials[:7] == measured and [t.number for t in trials] == list(range(10))
    assert numbers_written(run) == list(range(10)) and len({t.point["x"] for t in trials}) == 10
    # The optimiser knows them all, by their numbers, values and scores.
    told = open_study(journal, "t").trials
    assert [(t.number, t.value) for t in told] == [(t.number, t.score) for t in trials]
    assert all(abs(t.params[name] - r.point[name]) < 1e-9 for t, r in zip(told, trials, strict=True) for name in "xy")
    assert search(study(10), run, resume=True, say=lambda text: None).run.trials() == trials


def test_a_damaged_record_is_told_as_the_journal_has_it(tmp_path, study):
    run = tmp_path / "run"
    measured = search(study(5), run, say=lambda text: None).run.trials()
    (file,) = (run / "trials").glob("*.jsonl")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    del records[2]["point"]["x"]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    search(study(6), run, resume=True, say=lambda text: None)
    told = open_study(run / "journal.log", "t").trials
    assert [t.value for t in told[:5]] == [r.score for r in measured]
    assert told[2].params["x"] == pytest.approx(measured[2].point["x"])


def test_what_is_made_again_is_said_and_the_old_journal_is_kept(tmp_path, study):
    run = tmp_path / "run"
    search(study(3), run, say=lambda text: None)
    (run / "journal.log").write_bytes(b"noise\n")
    said = []
    search(study(4), run, resume=True, say=said.append)
    assert any("journal.log is made again from 3 trials" in x and "journal.log.damaged" in x for x in said)
    assert (run / "journal.log.damaged").read_bytes().startswith(b"noise\n")


def test_a_shared_journal_that_is_damaged_is_made_again_once_it_is_out_of_the_way(tmp_path, study):
    run, shared = tmp_path / "run", tmp_path / "shared.log"
    measured = search(study(3), run, storage=str(shared), say=lambda text: None).run.trials()
    damaged = b'{"op_code":4}\n' + shared.read_bytes()
    shared.write_bytes(damaged)
    with pytest.raises(SearchError, match=r"shared\.log: the journal is damaged .*; move it away, and --resume"):
        search(study(4), run, resume=True, storage=str(shared), say=lambda text: None)
    assert shared.read_bytes() == damaged
    shared.rename(tmp_path / "old.log")
    trials = search(study(4), run, resume=True, storage=str(shared), say=lambda text: None).run.trials()
    assert trials[:3] == measured and len(trials) == 4


def test_half_a_line_of_another_worker_stops_nobody(tmp_path, study):
    run = tmp_path / "run"

    def score(weights):
        with open(run / "journal.log", "ab") as file:
            file.write(HALF)
        return -weights["x"]

    outcome = search(study(6, score), run, say=lambda text: None)
    assert len(outcome.run.trials()) == 6 and outcome.ending.why == "trials"
    assert len(search(study(8), run, resume=True, say=lambda text: None).run.trials()) == 8


def test_baselines_start_points_and_earlier_searches_are_told_again(tmp_path, study):
    pytest.importorskip("scipy")
    search(study(3, title="before"), tmp_path / "before", say=lambda text: None)
    more = {"prior": ["before"], "baselines": [0.5, 1], "optimiser": {"name": "tpe", "start": 4}}
    run = tmp_path / "run"
    measured = search(study(4, **more), run, say=lambda text: None).run.trials()
    assert [t.number for t in measured] == [3, 4, 5, 6] and [t.baseline for t in measured] == ["0.5", "1", "", ""]
    old = [(t.params, t.user_attrs.get("start")) for t in open_study(run / "journal.log", "t").trials]
    (run / "journal.log").unlink()
    trials = search(study(8, **more), run, resume=True, say=lambda text: None).run.trials()
    assert trials[:4] == measured and len(trials) == 8 and sum(bool(t.baseline) for t in trials) == 2
    told = open_study(run / "journal.log", "t").trials
    assert [(t.params, t.user_attrs.get("start")) for t in told[:7]] == old[:7]
    assert [t.user_attrs.get("prior") for t in told[:3]] == [True] * 3 and sum(
        "prior" in t.user_attrs for t in told
    ) == 3
    # The start points that were left are tried, each once.
    assert sorted(t.user_attrs["start"] for t in told if "start" in t.user_attrs) == [0, 1, 2, 3]


def test_a_trial_that_a_failing_storage_was_not_told_is_not_measured_again(tmp_path, study, monkeypatch):
    run, asked = tmp_path / "run", []

    def fail(self, asked, record, value, *, hold=False):
        if record.number == 2:
            raise optuna.exceptions.StorageInternalError("the server went away")
        tell(self, asked, record, value, hold=hold)

    tell = Optimiser.tell
    score = lambda w: asked.append(w["x"]) or w["x"]  # noqa: E731
    monkeypatch.setattr(Optimiser, "tell", fail)
    with pytest.raises(SearchError, match=r"the storage has failed \(the server went away\).*--resume continues"):
        search(study(5, score), run, say=lambda text: None)
    monkeypatch.setattr(Optimiser, "tell", tell)
    trials = search(study(5, score), run, resume=True, say=lambda text: None).run.trials()
    assert len(trials) == len(set(asked)) == len(asked) == 5 and {t.state for t in trials} == {"complete"}


def test_a_folder_takes_its_trials_along_to_a_new_storage_and_to_no_other_search(tmp_path, study):
    run, url = tmp_path / "run", f"sqlite:///{tmp_path / 'shared.db'}"
    measured = search(study(3), run, say=lambda text: None).run.trials()
    trials = search(study(5), run, resume=True, storage=url, say=lambda text: None).run.trials()
    assert trials[:3] == measured and [t.number for t in trials] == list(range(5))
    search(study(4, title="other"), tmp_path / "other", say=lambda text: None)
    with pytest.raises(SearchError, match="has trial 3, which the storage does not know as the same"):
        search(study(9), tmp_path / "other", resume=True, storage=url, say=lambda text: None)
    assert len(RunFolder(tmp_path / "other").trials()) == 4
