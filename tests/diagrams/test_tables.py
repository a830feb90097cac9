"""Tables in and out: value files and lists of layers."""

import csv
import json

import pytest

from unetscope.diagrams import DrawingError, layers, read_values, save_layers


def test_values_are_read_from_json_objects_rows_and_csv(tmp_path):
    (tmp_path / "a.json").write_text('{"IN00": 0.5, "IN01": null, "M00": 1}')
    assert read_values(tmp_path / "a.json") == {"IN00": 0.5, "IN01": None, "M00": 1.0}
    (tmp_path / "b.json").write_text('[{"label": "IN00", "kind": "x", "diff": 0.25}]')
    assert read_values(tmp_path / "b.json") == {"IN00": 0.25}
    (tmp_path / "c.csv").write_text("label,cosine,relative\nIN00,0.5,1e-3\nIN01,nan,\n", encoding="utf-8-sig")
    assert read_values(tmp_path / "c.csv") == {"IN00": 0.5, "IN01": None}
    (tmp_path / "d.csv").write_text("IN00,0.5\nIN01,\n")
    assert read_values(tmp_path / "d.csv") == {"IN00": 0.5, "IN01": None}
    assert read_values(tmp_path / "c.csv", "relative") == {"IN00": 0.001, "IN01": None}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "{", "cannot be read"),
        ("a.json", "[1, 2]", "holds no rows"),
        ("a.json", '{"IN00": "much"}', "a number is needed"),
        ("a.csv", "x,y\n1,2\n", "no column names"),
        ("a.csv", "label,y\nIN00,high\n", "no column holds numbers"),
        ("a.csv", "label,y\nIN00,1\nIN01,high\n", "IN01"),
    ],
)
def test_a_value_file_that_cannot_be_used_is_named(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(DrawingError, match=said) as error:
        read_values(tmp_path / name)
    assert name in str(error.value)


def test_layers_are_written_as_json_and_csv(tmp_path):
    rows = layers("sd1")
    assert json.loads(save_layers(rows, tmp_path / "x.json").read_text()) == rows
    with open(save_layers(rows, tmp_path / "x.csv"), newline="") as table:
        read = list(csv.DictReader(table))
    assert [r["key"] for r in read] == [r["key"] for r in rows]
    assert sum(int(r["params"]) for r in read) == 859_520_964
    assert read[0]["shape"] == "x".join(map(str, rows[0]["shape"]))
    with pytest.raises(DrawingError, match=r"\.json or \.csv"):
        save_layers(rows, tmp_path / "x.txt")
