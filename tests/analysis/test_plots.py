"""What plots must show: every number, nothing on top of anything else, light and dark."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import combinations

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text

from unetscope.analysis import (
    AnalysisError,
    Comparison,
    compare,
    diff,
    draw_clusters,
    draw_heatmap,
    draw_histograms,
    draw_map,
    measure,
    save,
)
from unetscope.analysis.plots.style import DARK, LIGHT, clipped
from unetscope.checkpoints.text import short_number


def pair(write_model, random_model):
    return [write_model(n, random_model(i), "fp16")[0] for i, n in enumerate("ab")]


def collection(count: int, reference: int | None = None) -> Comparison:
    rng = np.random.default_rng(count)
    x = rng.standard_normal(40) * 50 + rng.standard_normal((4, 40))[rng.integers(0, 4, count)]
    x = x + 0.1 * rng.standard_normal((count, 40))
    same = list(range(count))
    if count > 5:
        x[5], same[5] = x[2], 2
    names = tuple(f"aQuiteLongNameOfAModelXL_v{i}0_prunedFp16" for i in range(count))
    return Comparison(names, reference, {"model": x @ x.T}, {"model": tuple(same)}, {"model": 40}, {}, {})


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def boxes(figure):
    """The places of all texts of a figure, on screen."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    found = [t for axes in figure.axes for t in axes.texts] + figure.texts
    # The extent of an annotation takes in its line; the words alone count here.
    return [Text.get_window_extent(t, renderer) for t in found if t.get_text()]


def assert_apart(extents):
    for one, other in combinations(extents, 2):
        wide = min(one.x1, other.x1) - max(one.x0, other.x0)
        high = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert wide <= 1 or high <= 1, (one, other)


def test_a_heatmap_prints_the_number_of_every_cell_and_block(write_model, random_model):
    a, b = pair(write_model, random_model)
    measured = diff(a, b)
    figure = draw_heatmap(measured)
    cells, whole = figure.axes[:2]
    table = measured.table("kind")
    table = table[table["label"] != "SCHEDULE"]
    assert sorted(texts(cells)) == sorted(short_number(100 * v) for v in table["relative_l2"])
    labels = [t.get_text() for t in cells.get_xticklabels()]
    assert labels == ["CLIP\nL", "IN01", "M00", "OUT", "VAE"]
    by_label = measured.table("label").set_index("label")["relative_l2"]
    assert texts(whole) == [short_number(100 * by_label[label.replace("\n", "_")]) for label in labels]
    assert len(cells.patches) == len(labels) * table["kind"].nunique()
    assert_apart(boxes(figure))


def test_a_heatmap_draws_any_metric_of_the_difference_and_no_other(write_model, random_model):
    a, b = pair(write_model, random_model)
    c, _ = write_model("c", random_model(5))
    measured = diff(a, b, c)
    for metric in measured.metrics:
        draw_heatmap(measured, metric, dark=True)
    draw_heatmap(diff(a, a))
    with pytest.raises(AnalysisError, match="'sign_conflict'"):
        draw_heatmap(diff(a, b), "sign_conflict")


@pytest.mark.one_by_one
@pytest.mark.parametrize("count", [2, 3, 12, 30])
@pytest.mark.parametrize("reference", [None, 1])
def test_names_on_a_map_never_overlap(count, reference):
    figure = draw_map(collection(count, reference))
    assert_apart(boxes(figure))
    shown = "\n".join([*texts(figure.axes[0]), *(t.get_text() for t in figure.texts)])
    for name in collection(count).names:
        assert clipped(name, 28) in shown or clipped(name) in shown


@pytest.mark.parametrize("count", [2, 3, 12, 30])
def test_a_clustered_matrix_prints_every_distance_and_name(count):
    measured = collection(count)
    figure = draw_clusters(measured, dark=True)
    cells = figure.axes[1]
    away = 100 * measured.distances(relative=True).to_numpy()
    expected = [short_number(v) for v in away[~np.eye(count, dtype=bool)]]
    assert sorted(texts(cells)) == sorted(expected)
    if count < 30:
        assert_apart(boxes(figure))
    names = [t.get_text().split("  ")[1] for t in cells.get_yticklabels()]
    assert sorted(names) == sorted(clipped(n) for n in measured.names)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    ticks = [t.get_window_extent(renderer) for t in [*cells.get_yticklabels(), *cells.get_xticklabels()]]
    assert_apart(ticks)
    assert all(t.x1 < figure.bbox.x1 and t.x0 > 0 and t.y1 < figure.bbox.y1 for t in ticks)


def test_equal_models_share_a_point_and_say_so():
    shown = "\n".join(texts(draw_map(collection(7)).axes[0]))
    assert f"= {clipped(collection(7).names[5], 28)}" in shown


def test_pictures_are_written_in_both_themes_and_are_the_same_every_time(write_model, random_model, tmp_path):
    a, b = pair(write_model, random_model)
    measured, many = diff(a, b), compare([a, b])
    for name, draw in {
        "heat": lambda dark: draw_heatmap(measured, dark=dark),
        "clusters": lambda dark: draw_clusters(many, dark=dark),
        "map": lambda dark: draw_map(many, dark=dark),
        "histograms": lambda dark: draw_histograms(measure(a), dark=dark),
    }.items():
        for look, dark in ((LIGHT, False), (DARK, True)):
            path = save(draw(dark), tmp_path / f"{name}.png")
            corner = matplotlib.image.imread(path)[0, 0, :3]
            assert corner == pytest.approx([int(look.background[i : i + 2], 16) / 255 for i in (1, 3, 5)], abs=0.01)
        one, two = (save(draw(False), tmp_path / f"{name}{i}.svg").read_bytes() for i in (1, 2))
        assert one == two
        assert ET.fromstring(one).tag.endswith("svg")


def test_a_picture_format_that_cannot_be_drawn_is_refused(tmp_path):
    figure = draw_map(collection(3))
    with pytest.raises(AnalysisError, match=r"use \.png, \.svg or \.pdf"):
        save(figure, tmp_path / "map.gif")
    with pytest.raises(AnalysisError, match="no such folder"):
        save(figure, tmp_path / "nowhere" / "map.png")


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e9, max_value=1e9))
def test_a_short_number_is_near_the_number_and_short(value):
    text = short_number(value)
    assert len(text) <= (7 if abs(value) > 1e-9 or value == 0 else 9)
    assert float(text) == pytest.approx(value, rel=0.051)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12.3, "12"), (1.23, "1.2"), (0.999, "1.0"), (0.123, ".12"), (0.0456, ".046"), (1.2e-4, "1.2e-4")],
)
def test_short_numbers_have_two_digits_that_count(value, text):
    assert short_number(value) == text
