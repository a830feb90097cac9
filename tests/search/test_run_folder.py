"""Run folders whose files are damaged, or of a later version: what can be read is, and what is left out is named."""

from __future__ import annotations

import copy
import json

import pytest
from fake_runs import parameters, write_run
from samples import others_long

from unetscope.search.confirmation import confirm
from unetscope.search.errors import SearchError
from unetscope.search.overview import read_overview
from unetscope.search.report import write_report
from unetscope.search.report_page import Material, page
from unetscope.search.run_folder import RunFolder
from unetscope.search.run_setup import load_run

CONFIRMED = {
    "verdict": "yes",
    "text": "trial 3 is better than both parents: yes",
    "best": "trial 3",
    "confidence": 0.95,
    "new_prompts": True,
    "candidates": [
        {"name": "trial 3", "role": "trial", "trial": 3, "searched": 1.0, "score": 1.2, "scores": {"castle-1": 1.0},
         "against": {"a": {"mean": 0.1, "low": None, "high": 0.3}}, "better": "yes"},
        {"name": "a", "role": "parent", "trial": None, "searched": None, "score": 1.0, "scores": {}, "against": {},
         "better": None},
    ],
    "measured": {"trial 3": {"castle-1": 1.0}},
}  # fmt: skip
WRONG = [None, 5, -(10**40), True, "\ud800", "a\x1b[31mb", [[1]], {"a": 1}, float("nan")]


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", trials=14, images=False, confirmed=CONFIRMED).path


def places(plain, at=()):
    """Every place in plain data; of a list its first two."""
    yield at
    inside = plain.items() if isinstance(plain, dict) else enumerate(plain[:2]) if isinstance(plain, list) else ()
    for key, value in inside:
        yield from places(value, (*at, key))


def with_value(plain, at, value):
    """A copy with another value in a place; without it, where the value is `...`."""
    if not at:
        return value
    plain = holder = copy.deepcopy(plain)
    for key in at[:-1]:
        holder = holder[key]
    if value is ...:
        del holder[at[-1]]
    else:
        holder[at[-1]] = value
    return plain


def shown(run) -> str:
    """All that the report's page says, but for the pictures."""
    overview = read_overview(run)
    overview.correlations(), overview.best_so_far(), [overview.spread(of, 10) for of in overview.moved()]
    return page(
        overview, Material(notes=list(overview.notes), columns=overview.ranked()[:2], requests=["castle-1"]), 10
    )


@pytest.mark.parametrize(
    "name", others_long(["setup.json", "confirmed.json", "trials/box-1.jsonl"], lambda name: name.startswith("trials"))
)
def test_whatever_stands_in_a_file_the_rest_of_the_run_is_read(run, name):
    file = run / name
    lines = file.read_text().splitlines() if name.endswith("l") else [file.read_text()]
    at = min(3, len(lines) - 1)
    sound = json.loads(lines[at])
    for place in list(places(sound)):
        for value in [*WRONG, ...]:
            if (place, value) == ((), ...):
                continue
            damaged = json.dumps(with_value(sound, place, value))
            file.write_text("\n".join([*lines[:at], damaged, *lines[at + 1 :]]) + "\n")
            text = shown(run)
            text.encode()
            assert "\x1b" not in text
            others = {t.number for t in read_overview(run).trials} - {3, 5}
            assert others >= {0, 1, 2, 4, 13}, (place, value)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (["parameters", 1, "low"], "x", "setup.json: parameters.1.low is left out: it must be a number, found 'x'"),
        (["parameters", 0], {"a": 1}, "setup.json: parameters.0 is left out: it lacks name"),
        (["reward"], [1], "setup.json: reward is left out: it must be a mapping of names, found [1]"),
        (["shots", "castle-1", "seed"], "one", "castle-1.seed is left out: it must be a whole number, found 'one'"),
    ],
)
def test_what_is_left_out_is_named_with_its_place(run, place, value, said):
    setup = json.loads((run / "setup.json").read_text())
    (run / "setup.json").write_text(json.dumps(with_value(setup, place, value)))
    notes = read_overview(run).notes
    assert any(said in note for note in notes) and "written by Unetscope 0;" in notes[-1]
    # Going on with such a search would compare what cannot be compared.
    with pytest.raises(SearchError, match=r"setup\.json: "):
        RunFolder(run).setup()


def test_a_line_that_is_no_trial_is_named_and_a_line_that_is_being_written_is_not(run):
    file = run / "trials" / "box-1.jsonl"
    lines = file.read_text().splitlines()
    lines[2], lines[4] = lines[2][:50], json.dumps(json.loads(lines[4]) | {"state": "strange"})
    file.write_text("\n".join([*lines, lines[3].replace('"number":3', '"number":99')[:80]]))
    overview = read_overview(run)
    assert [t.number for t in overview.trials] == [0, 1, 3, *range(5, 14)]
    notes = "\n".join(overview.notes)
    assert "box-1.jsonl, line 3 is left out: it is not a record" in notes and "line 5" in notes and "strange" in notes
    assert "line 15" not in notes


def test_a_run_of_a_later_version_is_read(run):
    setup = json.loads((run / "setup.json").read_text())
    setup |= {"version": "9.1", "budget": {"trials": 3}}
    setup["parameters"][0]["unit"] = setup["reward"]["units"] = setup["shots"]["castle-1"]["scheduler"] = "x"
    (run / "setup.json").write_text(json.dumps(setup))
    file = run / "trials" / "box-1.jsonl"
    lines = [json.dumps(json.loads(line) | {"told": 1.0}) for line in file.read_text().splitlines()]
    file.write_text("\n".join(lines) + "\n")
    overview = read_overview(run)
    assert overview.notes == () and len(overview.trials) == 14
    assert RunFolder(run).setup().parameters == parameters()


def test_without_a_setup_the_trials_still_say_what_was_free(run):
    names, best = [p.name for p in RunFolder(run).setup().parameters], RunFolder(run).best()
    (run / "setup.json").write_text("{half")
    overview = read_overview(run)
    assert [p.name for p in overview.parameters] == names and overview.best == best


def test_the_report_says_what_it_left_out_on_the_page_and_to_who_asked(run, tmp_path):
    file = run / "trials" / "box-1.jsonl"
    file.write_text(file.read_text().replace('"merge":0.2', '"merge":"long"', 1))
    said = []
    index = write_report(run, tmp_path / "report", say=said.append)
    assert "line 1: seconds.merge is left out" in said[0] and "seconds.merge is left out" in index.read_text()


def test_a_run_without_a_trial_that_can_be_read_is_refused(run, tmp_path):
    (run / "trials" / "box-1.jsonl").write_text("{}\n[]\n")
    with pytest.raises(SearchError, match=r"no trial of it can be read \(box-1\.jsonl, line 1 is left out"):
        write_report(run, tmp_path / "report")


@pytest.mark.parametrize("text", ["[]", "{half", '{"nodes": ["ab", "../../run"]}'])
def test_the_folder_of_an_earlier_versions_tree_names_the_searches_in_it(tmp_path, text):
    for name in ("ab", "cd"):
        write_run(tmp_path / "nodes" / name, trials=3, images=False)
    (tmp_path / "tree.json").write_text(text)
    for read in (read_overview, load_run, confirm):
        with pytest.raises(
            SearchError, match="2 searches, one for each merge of a tree; name one of them: nodes/ab, nodes/cd"
        ):
            read(tmp_path)
    assert write_report(tmp_path / "nodes" / "cd", tmp_path / "report").is_file()
