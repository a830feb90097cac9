"""`unetscope search` as users type it."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("optuna")

STUDY = """
parameters: {x: {free: [0, 1]}, y: {free: [0, 1]}}
objective: mine.py:score
optimiser: random
trials: 6
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def score(weights):\n    return weights['x'] - weights['y']\n")
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path / "study.yaml"


def test_a_study_runs_into_a_folder_beside_it_and_its_report_is_a_page(run, study):
    code, out, _ = run("search", "study.yaml")
    assert code == 0 and "the budget of 6 trials is used" in out and "best: trial" in out
    assert (study.parent / "study.run" / "best.json").is_file()
    code, out, _ = run("search", "report", "study.run", "-o", "page")
    assert code == 0 and (study.parent / "page" / "index.html").is_file()


def test_options_may_come_before_the_study(run, study):
    assert run("search", "--trials", "3", "study.yaml")[0] == 0
    code, out, _ = run("search", "--resume", "study.yaml", "-o", "study.run")
    assert code == 0 and out.count("trial ") >= 3


def test_a_study_without_a_file_a_second_run_and_a_folder_without_a_run_are_one_sentence_each(run, study):
    run("search", "study.yaml")
    for arguments, said in (
        (("search", "study.yaml"), "continue with it by --resume"),
        (("search", "missing.yaml"), "missing.yaml: cannot be read"),
        (("search", "confirm", "study.run"), "makes no images"),
        (("search", "confirm", "."), "is not a run folder"),
    ):
        code, _, err = run(*arguments)
        assert code == 2 and said in err and err.count("\n") == 1


def test_a_search_with_which_something_is_wrong_ends_as_a_mistake(run, study):
    (study.parent / "mine.py").write_text("def score(weights):\n    return 1.0\n")
    code, _, err = run("search", "study.yaml")
    assert code == 2 and "stood still at 1" in err and "what was found so far is kept" in err


def test_help_waits_for_neither_torch_nor_optuna():
    code = (
        "import sys; from unetscope.cli import main\ntry: main(['search', 'run', '--help'])\nexcept SystemExit: pass\n"
    )
    code += "assert not {'torch', 'optuna'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
