"""Collection and Where from: many models as map, matrix and tree; a merge traced, and drawn as shares."""

from __future__ import annotations

import json

import finished_measurements as finished
import numpy as np
import pytest
import yaml

from unetscope.analysis.collection import compare
from unetscope.checkpoints import open_checkpoint
from unetscope.dashboard import jobs
from unetscope.dashboard.collection_charts import clustered, map_chart, matrix_chart, tree_chart
from unetscope.dashboard.map_labels import HEIGHT, LETTER, LINE, WIDTHS, Label, labels, short_name
from unetscope.dashboard.measuring import kept_comparison
from unetscope.dashboard.pages.where_from import colours_of, share_rows, stacked
from unetscope.dashboard.results import kept

NAMES = ("base", "merged", "tuned")


@pytest.fixture
def files(models):
    return [models / f"{name}.safetensors" for name in NAMES]


def test_what_is_kept_is_what_was_measured(files):
    kept_one = kept_comparison(finished.comparison(files))
    measured = compare([open_checkpoint(path) for path in files])
    for group in ("model", "vae", "IN05"):
        assert np.array_equal(kept_one.distances(group), measured.distances(group))
    assert kept_one.shared_parts().equals(measured.shared_parts())


def test_models_of_one_architecture_are_chosen_to_begin_with(models, no_workers, open_page):
    at = open_page("collection")
    assert at.multiselect(key="collection models").value == [f"{name}.safetensors" for name in NAMES]
    at.button(key="start-comparison").click().run()
    assert [job.arguments["reference"] for job in jobs.listed("comparison")] == [None]


def test_a_collection_can_be_looked_at_by_component_and_block(models, files, open_page):
    finished.comparison(files)
    at = open_page("collection")
    assert not at.exception
    choices = at.selectbox(key="collection of")
    for choice in ("Component VAE", "Block IN05"):
        choices.set_value(choice).run()
        assert not at.exception
    shared = at.dataframe[0].value
    assert shared.loc[shared["component"] == "VAE", "models"].item() == 3


def test_charts_show_every_model_and_equal_ones_together(files, models):
    (models / "copy.safetensors").write_bytes((models / "base.safetensors").read_bytes())
    found = kept_comparison(finished.comparison([*files, models / "copy.safetensors"]))
    spots = next(iter(map_chart(found, "model").to_dict()["datasets"].values()))
    assert sorted(spot["name"] for spot in spots) == ["base = copy", "merged", "tuned"]
    cells = next(iter(matrix_chart(found, "model", "distance").to_dict()["datasets"].values()))
    assert len(cells) == 16
    assert [c["value"] for c in cells if {c["a"], c["b"]} == {"base", "copy"}] == [0.0, 0.0]
    order = clustered(found, "model")
    assert abs(order.index("base") - order.index("copy")) == 1
    tree = tree_chart(found, "model").to_dict()
    assert len(next(iter(tree["datasets"].values()))) == 4 * 3


def ends_of(places: np.ndarray) -> np.ndarray:
    """The ends of a map's axes: its middle, and 0.72 of its larger span to each side."""
    middle, span = (places.max(axis=0) + places.min(axis=0)) / 2, max(np.ptp(places, axis=0).max(), 1e-12)
    return np.stack([middle - 0.72 * span, middle + 0.72 * span])


def drawn(label: Label, places: np.ndarray, width: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a label in pixels, as Vega draws it: `dy` is where its first line has its middle."""
    low, high = ends_of(places)
    x, y = (places[label.at] - low) / (high - low) * (width, HEIGHT)
    lines = label.text.split("\n")
    long = LETTER * max(map(len, lines))
    left = x + label.dx - {"left": 0, "center": long / 2, "right": long}[label.align]
    top = HEIGHT - y + label.dy - LINE / 2
    return left, top, left + long, top + len(lines) * LINE


def cover(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_models_too_near_to_each_other_on_the_map_share_a_label():
    places = np.array([[0.0, 0.0], [0.01, 0.03], [1.0, 0.0], [0.1, 0.05]])
    found = labels(places, [["a"], ["b"], ["c", "d"], ["e"]], ends_of(places))
    assert sorted((label.at, label.text) for label in found) == [(2, "c = d"), (3, "a, b, e")]
    alone = np.zeros((1, 2))
    assert [label.text for label in labels(alone, [["a"]], ends_of(alone))] == ["a"]


# A heap with long names between neighbours on its own height, a column of them, a row that is full, a corner.
MAPS = {
    "heap": [[0, 0.5], [0.02, 0.5], [0.05, 0.5], [-0.45, 0.52], [0.45, 0.5], [0.0, 0.3], [0, 0.75]],
    "row": [[x / 4, 0.5 + 0.01 * x] for x in range(5)],
    "column": [[0.5, y / 8] for y in range(9)],
    "corners": [[0, 0], [0, 1], [1, 0], [1, 1], [0.98, 1], [0.5, 0.5]],
}


@pytest.mark.parametrize("name", MAPS)
def test_no_label_of_the_map_covers_another_or_a_point_or_leaves_the_map(name):
    places = np.array(MAPS[name], float)
    names = [[f"a-long-checkpoint-name-{number:02d}"] for number in range(len(places))]
    found = labels(places, names, ends_of(places))
    said = " ".join(label.text for label in found)
    assert all(one in said for (one,) in names)
    low, high = ends_of(places)
    for width in (*WIDTHS, 650, 900):
        boxes = [drawn(label, places, width) for label in found]
        for at, box in enumerate(boxes):
            assert not any(cover(box, other) for other in boxes[at + 1 :]), (width, found)
            assert box[0] >= 0 and box[1] >= 0 and box[2] <= width and box[3] <= HEIGHT
        for x, y in (places - low) / (high - low) * (width, HEIGHT):
            assert not any(cover(box, (x - 6, HEIGHT - y - 6, x + 6, HEIGHT - y + 6)) for box in boxes)


def test_a_map_of_many_models_names_each_place_once_and_its_heaps_by_three():
    places = np.random.default_rng(1).normal(size=(60, 2))
    found = labels(places, [[f"m{number}"] for number in range(60)], ends_of(places))
    assert len({label.at for label in found}) == len(found) < 60
    assert all(label.text.count("m") <= 3 + ("more" in label.text) for label in found)


def test_hostile_names_stay_strings_in_the_trees_axis(files, models):
    hostile = models / "x'] + alert(1) + ['\"b.safetensors"
    (models / "tuned.safetensors").rename(hostile)
    found = kept_comparison(finished.comparison([files[0], files[1], hostile]))
    expression = tree_chart(found, "model").to_dict()["encoding"]["y"]["axis"]["labelExpr"]
    names, end = json.JSONDecoder().raw_decode(expression)
    assert sorted(names) == ["base", "merged", "x'] + alert(1) + ['\"b"]
    assert expression[end:] == "[round((datum.value - 5) / 10)]"


def test_long_names_keep_their_ends():
    assert short_name("a-very-long-name-of-a-checkpoint-v12-fp16") == "a-very-long-na…nt-v12-fp16"


def test_too_few_models_say_what_to_do(tmp_path, monkeypatch, open_page):
    monkeypatch.setenv("UNETSCOPE_MODELS", str(tmp_path))
    for name in ("collection", "where_from"):
        at = open_page(name)
        assert not at.exception
        assert "Add some" in at.info[0].value


def test_tracing_begins_with_a_file_that_says_it_was_merged(models, no_workers, open_page):
    at = open_page("where_from")
    assert at.selectbox(key="merged").value == "merged.safetensors"
    at.button(key="start-trace").click().run()
    (job,) = jobs.listed("trace")
    assert [path.rpartition("/")[2] for path in job.arguments["among"]] == ["base.safetensors", "tuned.safetensors"]


@pytest.fixture
def traced(models, files) -> dict:
    """The report on the merge of base and tuned by GRAD_V."""
    return kept("trace", finished.trace(files[1], [files[0], files[2]]))


def test_shares_of_a_block_are_those_of_the_recipe(traced):
    rows = {row["block"]: row for row in share_rows(traced)}
    # GRAD_V is |1 - i / 12| at block i: IN06 is half of each model.
    assert rows["IN06"]["tuned"] == pytest.approx(0.5, abs=2e-3)
    assert rows["IN06"]["base"] + rows["IN06"]["tuned"] == pytest.approx(1.0, abs=1e-9)


def test_the_bar_of_a_block_has_a_part_for_each_model_with_a_share(traced):
    colours = colours_of(traced["among"])
    bars = stacked(traced)
    assert [colour for _, colour in bars["IN06"]] == [colours["base"], colours["tuned"]]
    assert [colour for _, colour in bars["M00"]] == [colours["base"]]


def test_a_trace_shows_the_verdict_the_shares_and_the_recipe(models, traced, open_page):
    at = open_page("where_from")
    assert not at.exception
    assert not at.error
    recipe = yaml.safe_load(at.code[0].value)
    assert set(recipe["models"]) == {"base", "tuned"}
    assert "IN06" in set(at.dataframe[0].value["block"])
    said = (at.success or at.warning)[0].value.replace("\\", "")
    assert said.startswith(("An exact linear merge", "Nearly a linear merge"))
