"""Compare: two files as a job, its result in the diagram's and the heatmap's colours, and as a table."""

from __future__ import annotations

import finished_measurements as finished
import numpy as np
import pytest
from safetensors.numpy import load_file

from unetscope.dashboard import jobs
from unetscope.dashboard.drawable import Drawable
from unetscope.dashboard.heatmap import PALETTE, clicked, colour_range, heatmap
from unetscope.dashboard.library import read_library
from unetscope.dashboard.measuring import kept_difference
from unetscope.dashboard.pages.compare import tensors_of, values_at
from unetscope.dashboard.results import keep, kept


@pytest.fixture
def compared(models) -> tuple[str, Drawable]:
    """A comparison of the two SD1 files that has been made, and what its diagram shows."""
    identity = finished.difference(models / "base.safetensors", models / "tuned.safetensors")
    return identity, Drawable.of_entry(read_library(models).named("base.safetensors"))


def relative_l2(folder, keys) -> float:
    """Worked out from the files, by numpy."""
    a, b = (load_file(folder / f"{name}.safetensors") for name in ("base", "tuned"))
    change = sum(np.sum((b[k].astype(np.float64) - a[k]) ** 2) for k in keys)
    return float(np.sqrt(change / sum(np.sum(a[k].astype(np.float64) ** 2) for k in keys)))


def test_an_empty_folder_says_what_to_do(tmp_path, monkeypatch, open_page):
    monkeypatch.setenv("UNETSCOPE_MODELS", str(tmp_path))
    at = open_page("compare")
    assert not at.exception
    assert "takes two checkpoints" in at.info[0].value


def test_a_file_is_not_compared_with_itself(models, no_workers, open_page):
    at = open_page("compare", a="base.safetensors", b="base.safetensors")
    assert "the same file" in at.info[0].value
    assert not any(b.label.startswith("Compare") for b in at.button)


def test_b_is_offered_among_files_of_the_same_architecture(models, open_page):
    at = open_page("compare", a="base.safetensors")
    assert "wide.safetensors" not in at.selectbox(key="b").options
    assert at.selectbox(key="b").value != "base.safetensors"


def test_comparing_is_a_job_that_is_not_started_twice(models, no_workers, open_page):
    at = open_page("compare", a="base.safetensors", b="tuned.safetensors")
    at.button(key="start-difference").click().run()
    again = open_page("compare", a="base.safetensors", b="tuned.safetensors")
    assert len(jobs.listed("difference")) == 1
    assert not any(b.label.startswith("Compare (") for b in again.button)
    assert any(b.label == "Cancel" for b in again.button)


def test_a_result_is_found_again_without_a_job(models, compared, no_workers, open_page):
    at = open_page("compare", a="base.safetensors", b="tuned.safetensors")
    assert not at.exception
    assert jobs.listed() == []
    assert "tuned differs from base by" in at.expander[0].label.replace("\\", "")


def test_a_selected_block_shows_its_tensors_and_no_others(models, compared, open_page):
    at = open_page("compare", a="base.safetensors", b="tuned.safetensors")
    at.session_state["compare selected"] = ("IN05",)
    at.run()
    table = at.dataframe[0].value
    assert (len(table), set(table["label"])) == (36, {"IN05"})
    assert list(table["relative_l2"]) == sorted(table["relative_l2"], reverse=True)


def test_a_cell_of_the_heatmap_selects_the_layers_of_its_kind(models, compared, open_page):
    at = open_page("compare", a="base.safetensors", b="tuned.safetensors")
    at.session_state["compare selected"], at.session_state["compare kind"] = ("IN05",), "attn2.k"
    at.run()
    assert list(at.dataframe[0].value["key"]) == ["input_blocks.5.1.transformer_blocks.0.attn2.to_k.weight"]
    next(b for b in at.button if b.label == "Show all").click().run()
    assert len(at.dataframe[0].value) > 1000


@pytest.mark.one_by_one
@pytest.mark.parametrize("metric", ["relative_l2", "cosine_distance", "changed", "max_abs"])
@pytest.mark.parametrize("level", ["Blocks", "Modules", "Layers"])
def test_every_level_can_be_coloured_by_every_kind_of_metric(models, compared, open_page, metric, level):
    at = open_page("compare", a="base.safetensors", b="tuned.safetensors", metric=metric)
    at.radio(key="compare level").set_value(level).run()
    assert not at.exception
    assert not at.error


def test_a_block_that_did_not_change_is_grey_where_a_metric_is_undefined(models, open_page):
    finished.difference(models / "base.safetensors", models / "tuned.safetensors", models / "merged.safetensors")
    at = open_page("compare", a="base.safetensors", b="tuned.safetensors", c="merged.safetensors", metric="task_cosine")
    at.session_state["compare selected"] = ("VAE",)
    at.radio(key="compare level").set_value("Layers").run()
    assert not at.exception
    assert not at.error


def test_a_module_has_the_metric_of_its_summed_tensors(models, compared):
    identity, drawable = compared
    values = values_at(kept_difference(identity), "relative_l2", "Modules", drawable)
    keys = [
        k for k in load_file(models / "base.safetensors") if k.startswith("model.diffusion_model.input_blocks.5.1.")
    ]
    assert values["down_blocks.1.attentions.1"] == pytest.approx(relative_l2(models, keys), rel=1e-6)


def test_a_block_has_the_metric_of_its_summed_tensors(models, compared):
    identity, drawable = compared
    values = values_at(kept_difference(identity), "relative_l2", "Blocks", drawable)
    keys = [k for k in load_file(models / "base.safetensors") if k.startswith("model.diffusion_model.input_blocks.5.")]
    assert values["IN05"] == pytest.approx(relative_l2(models, keys), rel=1e-6)


def test_the_table_is_sorted_by_the_metric_and_keeps_whole_keys(compared):
    identity, drawable = compared
    table = tensors_of(kept_difference(identity), "max_abs", drawable, ("down_blocks.1.resnets.1",), None)
    assert len(table) == 10
    assert table["key"].str.startswith("model.diffusion_model.input_blocks.5.0.").all()
    assert table["max_abs"].is_monotonic_decreasing


def test_heatmap_and_diagram_have_the_same_colours(compared):
    kinds = kept_difference(compared[0]).table("kind")
    ends = colour_range(kinds, "relative_l2", True)
    chart = heatmap(kinds, "relative_l2", "relative L2", log=True, ends=ends, labels=["IN05"], kind="norm").to_dict()
    scale = chart["encoding"]["color"]["scale"]
    assert (scale["type"], scale["domain"], scale["range"]) == ("log", list(ends), PALETTE)
    (rows,) = chart["datasets"].values()
    assert [(row["label"], row["kind"]) for row in rows if row["chosen"]] == [("IN05", "norm")]
    assert all(row["shade"] > 0 for row in rows if row["shade"] is not None)
    assert {row["label"] for row in rows}.isdisjoint({"EMA", "SCHEDULE", "OTHER"})


def test_where_nothing_differs_there_is_no_range_of_colours(models):
    (models / "copy.safetensors").write_bytes((models / "base.safetensors").read_bytes())
    identity = finished.difference(models / "base.safetensors", models / "copy.safetensors")
    assert colour_range(kept_difference(identity).table("kind"), "relative_l2", True) is None


def test_two_copies_of_a_file_can_be_looked_at(models, open_page):
    (models / "copy.safetensors").write_bytes((models / "base.safetensors").read_bytes())
    finished.difference(models / "base.safetensors", models / "copy.safetensors")
    at = open_page("compare", a="base.safetensors", b="copy.safetensors")
    assert not at.exception
    assert not at.error


@pytest.mark.parametrize(
    "event", [None, {}, {"selection": {}}, {"selection": {"cell": []}}, {"selection": {"cell": [{}]}}]
)
def test_a_chart_without_a_clicked_cell_selects_nothing(event):
    assert clicked(event) is None


def test_the_clicked_cell_is_the_last_one():
    cells = [{"label": "IN01", "kind": "norm"}, {"label": "IN02", "kind": "conv"}]
    assert clicked({"selection": {"cell": cells}}) == ("IN02", "conv")


def test_hostile_file_names_are_text(models, open_page):
    name = "a <img src=x onerror=alert(1)> **b** $x$ [l](http:x).safetensors"
    (models / "tuned.safetensors").rename(models / name)
    finished.difference(models / "base.safetensors", models / name)
    at = open_page("compare", a="base.safetensors", b=name)
    assert not at.exception
    label = at.expander[0].label
    assert label.startswith("a \\<img") and "\\*\\*b" in label


def test_a_comparison_whose_notes_were_kept_as_sentences_is_still_shown(models, compared, open_page):
    key, _ = compared
    note = "base lacks 3 of 4 tensors in their shape; its metrics are of the others"
    keep("difference", key, kept("difference", key) | {"base": "base", "notes": [note]})
    assert [(n.text, n.subject) for n in kept_difference(key).notes] == [(note, ("base",))]
    assert not open_page("compare", a="base.safetensors", b="tuned.safetensors").exception
