"""AutoMBW's logs as trials."""

from __future__ import annotations

import pytest

from unetscope.search.automb import is_automb, read_automb
from unetscope.search.errors import SearchError

IN, OUT = [f"IN{i:02}" for i in range(12)], [f"OUT{i:02}" for i in range(12)]
SD1 = [*IN, "M00", "OUT", *OUT, "TIME_EMBED"]
SDXL = [*IN[:9], "LABEL_EMB", "M00", "OUT", *OUT[:9], "TIME_EMBED"]


def write(path, rows, count=27, more=("score", "eval_times", "iter_times")):
    lines = [",".join([*map(str, range(count)), *more])] + [",".join(map(str, row)) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(("labels", "family"), [(SD1, "sd1"), (SDXL, "sdxl")])
def test_every_row_is_a_trial_whose_point_names_blocks(tmp_path, labels, family):
    first = [round(i / 100, 2) for i in range(len(labels))]
    path = write(tmp_path / "log.csv", [[*first, 0.25, 40, 42.5], [*[0.5] * len(labels), 0.75, 41, 41]], len(labels))
    assert is_automb(path)
    log = read_automb(path)
    assert log.family == family and log.name == "log.csv" and not log.notes
    assert [t.score for t in log.trials] == [0.25, 0.75]
    assert [t.number for t in log.trials] == [0, 1]
    assert log.trials[0].point == dict(zip(labels, first, strict=True))
    assert log.trials[0].seconds == {"evaluate": 40, "other": 2.5}
    assert log.trials[1].seconds == {"evaluate": 41}
    assert [t.baseline for t in log.trials] == ["", "0.5"]


def test_the_old_build_exchanged_out_and_time_embed(tmp_path):
    path = write(tmp_path / "log.csv", [[*range(27), 1, 1, 1]])
    new, old = read_automb(path).trials[0].point, read_automb(path, old=True).trials[0].point
    assert (new["OUT"], new["TIME_EMBED"]) == (13, 26) == (old["TIME_EMBED"], old["OUT"])
    assert {k: v for k, v in new.items() if k not in ("OUT", "TIME_EMBED")} == {
        k: v for k, v in old.items() if k not in ("OUT", "TIME_EMBED")
    }


def test_rows_without_a_score_are_left_out_and_counted_and_times_may_be_missing(tmp_path):
    path = write(tmp_path / "log.csv", [[*[0.1] * 27, "nan"], [*[0.2] * 27, 0.5], [0.1, 0.2]], more=("score", "mood"))
    log = read_automb(path)
    assert [t.score for t in log.trials] == [0.5]
    assert log.trials[0].seconds == {}
    assert log.notes == ["column 'mood' has no meaning here", "2 of 3 rows could not be read"]


def test_the_time_of_a_run_that_stands_in_each_of_its_rows_is_counted_once(tmp_path):
    # Hyperactive sums the times of a run and writes the sum into every row.
    rows = [
        [*[i / 10] * 27, i / 10, *times] for i, times in enumerate([(80, 90), (80, 90), (80, 90), (80, 90), (7, 8.5)])
    ]
    log = read_automb(write(tmp_path / "log.csv", rows))
    seconds = [t.seconds for t in log.trials]
    assert seconds[0] == {"evaluate": 20, "other": 2.5} and seconds[4] == {"evaluate": 7, "other": 1.5}
    assert sum(s["evaluate"] + s["other"] for s in seconds) == 90 + 8.5
    assert log.notes == ["4 rows have the time of their whole run, which was divided among them"]


@pytest.mark.parametrize("end", ["\r\r\n", "\r\n", "\r", "\n\n"])
def test_any_line_breaks_part_the_rows(tmp_path, end):
    path = write(tmp_path / "log.csv", [[*range(27), 0.5, 3, 4], [*range(27), 0.7, 5, 6]])
    path.write_bytes(path.read_bytes().replace(b"\n", end.encode()))
    assert is_automb(path)
    log = read_automb(path)
    assert [t.score for t in log.trials] == [0.5, 0.7] and not log.notes


def test_what_is_no_log_gets_a_sentence(tmp_path):
    for text, said in [
        ("a,b\n1,2\n", "has 0 numbered columns"),
        (",".join([*map(str, range(27)), "score"]) + "\n", "none of its 0 rows has a score"),
        (",".join(map(str, range(27))) + "\n1\n", "has no column 'score'"),
    ]:
        (tmp_path / "x.csv").write_text(text)
        with pytest.raises(SearchError) as raised:
            read_automb(tmp_path / "x.csv")
        assert said in str(raised.value)
    with pytest.raises(SearchError, match="cannot be read"):
        read_automb(tmp_path / "missing.csv")
    assert not is_automb(tmp_path / "missing.csv")
