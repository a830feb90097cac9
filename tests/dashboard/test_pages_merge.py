"""The Merge page: controls to recipe to job, and back. Clicks in the diagram itself are tested in a browser."""

from __future__ import annotations

import pytest
import yaml
from places import place
from samples import first_of_each
from tiny import load, raw

from unetscope.checkpoints import open_checkpoint
from unetscope.checkpoints.demo import write_demo_lora
from unetscope.dashboard import jobs, worker
from unetscope.dashboard.report_view import share_rows
from unetscope.dashboard.weights_editing import even
from unetscope.merge import METHODS, Recipe, merge

SD1 = even("sd1", 0.5)


def texts(at) -> str:
    said = (
        str(e.value) for kind in ("markdown", "caption", "info", "warning", "error", "success") for e in at.get(kind)
    )
    return "\n".join(said).replace("\\", "")


def recipe_of(at) -> dict:
    """The recipe that the page shows."""
    return yaml.safe_load(next(code.value for code in at.code if code.value.startswith("models:")))


def button(at, label: str):
    return next(b for b in at.button if b.label == label)


@pytest.fixture
def page(models, no_workers, open_page):
    """The page with base as A and tuned as B, and a name for the result."""
    at = open_page("merge")
    assert not at.exception
    at.selectbox(key="m.model.b").set_value("tuned.safetensors")
    at.text_input(key="m.name").set_value("out")
    return at.run()


def test_two_models_and_even_weights_are_a_recipe_at_once(page):
    assert recipe_of(page) == {
        "models": {"a": "base.safetensors", "b": "tuned.safetensors"},
        "steps": {"mix": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.5}},
        "result": "mix",
    }


def test_models_of_another_architecture_are_not_offered_for_b(page):
    assert "wide.safetensors" in page.selectbox(key="m.model.a").options
    assert "wide.safetensors" not in page.selectbox(key="m.model.b").options
    page.selectbox(key="m.model.a").set_value("wide.safetensors").run()
    assert page.selectbox(key="m.model.b").options == ["wide.safetensors"]
    assert not page.exception


def test_tools_change_the_weights_and_undo_takes_them_back(page):
    page.selectbox(key="m.preset").set_value("GRAD_V")
    button(page, "Use it").click().run()
    alpha = recipe_of(page)["steps"]["mix"]["alpha"]
    assert (alpha["IN00"], alpha["M00"], alpha["OUT11"]) == (1.0, 0.0, 1.0)
    button(page, "Mirror").click().run()
    assert recipe_of(page)["steps"]["mix"]["alpha"]["OUT00"] == alpha["IN11"]
    page.text_area(key="m.paste").set_value("IN05: 0.9")
    button(page, "Use them").click().run()
    assert recipe_of(page)["steps"]["mix"]["alpha"]["IN05"] == 0.9
    for _ in range(3):
        button(page, ":material/undo:").click().run()
    assert recipe_of(page)["steps"]["mix"]["alpha"] == 0.5
    assert button(page, ":material/undo:").disabled
    button(page, ":material/redo:").click().run()
    assert recipe_of(page)["steps"]["mix"]["alpha"]["IN00"] == 1.0
    assert not page.exception


def test_wrong_weights_are_a_sentence_and_change_nothing(page):
    page.text_area(key="m.paste").set_value("1,2,3")
    button(page, "Use them").click().run()
    assert "3 values" in texts(page)
    assert recipe_of(page)["steps"]["mix"]["alpha"] == 0.5


def test_a_dry_run_writes_nothing_and_tells_what_would_happen(page, models):
    before = sorted(models.iterdir())
    button(page, "Dry run").click().run()
    assert "Nothing was written" in texts(page)
    shares = next(d.value for d in page.dataframe if "base (%)" in d.value.columns or "a (%)" in d.value.columns)
    assert set(shares["label"]) >= {"CLIP_L", "IN05", "OUT", "VAE"}
    assert sorted(models.iterdir()) == before and jobs.listed("merge") == []


def test_the_merge_becomes_a_job_whose_file_is_the_engines(page, models, tmp_path):
    button(page, "Merge").click().run()
    (job,) = jobs.listed("merge")
    worker.work("merge")
    page.run()
    assert "Wrote" in texts(page)
    recipe = Recipe.parse(recipe_of(page)).relative_to(models)
    merge(recipe, tmp_path / "same.safetensors")
    made, same = load(models / "out.safetensors"), load(tmp_path / "same.safetensors")
    assert {k: raw(t) for k, t in made.items()} == {k: raw(t) for k, t in same.items()}
    assert jobs.get(job.id).result["models"] == {"a": "base.safetensors", "b": "tuned.safetensors"}


def test_one_blocks_weight_changes_that_blocks_tensors_and_nothing_else(page, models):
    button(page, "Merge").click().run()
    page.text_area(key="m.paste").set_value("default: 0.5; IN05: 0.9; OUT: 0.5; TIME_EMBED: 0.5")
    button(page, "Use them").click().run()
    page.text_input(key="m.name").set_value("other").run()
    button(page, "Merge").click().run()
    worker.work("merge")
    first, second = load(models / "out.safetensors"), load(models / "other.safetensors")
    changed = {key for key in first if raw(first[key]) != raw(second[key])}
    assert changed and {place(key).label for key in changed} == {"IN05"}


def test_an_existing_file_is_replaced_only_when_that_is_said(page, models):
    page.text_input(key="m.name").set_value("merged").run()
    assert "exists already" in texts(page)
    button(page, "Merge").click().run()
    assert "tick Replace it" in texts(page) and jobs.listed("merge") == []
    page.checkbox(key="m.overwrite").check().run()
    button(page, "Merge").click().run()
    (job,) = jobs.listed("merge")
    assert job.arguments["overwrite"] is True


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "C:\\out", "no/such/folder/out", "a:b"])
def test_names_that_leave_the_output_folder_are_refused(page, name):
    page.text_input(key="m.name").set_value(name).run()
    button(page, "Merge").click().run()
    assert page.error and not page.exception and jobs.listed("merge") == []


def test_the_recipe_of_an_existing_merge_comes_back_into_the_controls(page, models):
    page.selectbox(key="m.repeat").set_value("merged.safetensors").run()
    button(page, "Load its recipe").click().run()
    assert not page.exception and "loaded into the controls" in texts(page)
    alpha = recipe_of(page)["steps"]["mix"]["alpha"]
    assert (alpha["IN00"], alpha["M00"], alpha["CLIP_L"]) == (1.0, 0.0, 0.25)
    assert page.selectbox(key="m.model.b").value == "tuned.safetensors"


def test_a_recipe_with_several_steps_is_loaded_as_text_and_runs(page, models, tmp_path):
    recipe = {
        "models": {"a": "base.safetensors", "b": "tuned.safetensors"},
        "steps": {
            "x": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.2},
            "y": {"method": "weighted_sum", "inputs": ["x", "b"], "alpha": 0.3},
        },
    }
    page.segmented_control(key="m.mode").set_value("Recipe as text").run()
    page.text_area(key="m.text").set_value(yaml.safe_dump(recipe)).run()
    button(page, "Merge").click().run()
    worker.work("merge")
    with open_checkpoint(models / "out.safetensors") as made:
        assert yaml.safe_load(made.metadata["unetscope.recipe"])["steps"].keys() == {"x", "y"}


@pytest.mark.parametrize(
    "text", ["", "a: [", "models: {a: /etc/passwd}\nsteps: {m: {method: copy, inputs: [a]}}", "- 1"]
)
def test_recipes_that_cannot_run_are_a_sentence(page, text):
    page.segmented_control(key="m.mode").set_value("Recipe as text").run()
    page.text_area(key="m.text").set_value(text)
    button(page, "Merge").click().run()
    assert page.error and not page.exception and jobs.listed("merge") == []


@pytest.fixture
def lora(models):
    """A LoRA in the models folder."""
    write_demo_lora(models / "style.safetensors", "sd1", seed=3)
    return "style.safetensors"


def controls_of(name: str) -> tuple:
    """What makes the page of a method unlike those of others: its inputs, and the sorts of its parameters."""
    method = METHODS[name]
    return (
        tuple(method.inputs),
        method.variadic,
        bool(method.deltas),
        frozenset(p.kind for p in method.parameters.values()),
    )


@pytest.mark.parametrize(
    "name",
    first_of_each((name for name, method in METHODS.items() if method.result != "delta"), controls_of),
)
def test_every_method_that_makes_a_model_has_controls(name, models, no_workers, lora, open_page):
    method = METHODS[name]
    at = open_page("merge")
    at.selectbox(key="m.method").set_value(name).run()
    assert not at.exception
    if method.deltas:
        at.selectbox(key="m.model.difference").set_value(lora).run()
    if method.variadic:
        at.multiselect(key="m.models").set_value(["merged.safetensors", "tuned.safetensors"]).run()
    assert not at.exception
    step = recipe_of(at)["steps"]["mix"]
    assert (step["method"], len(step["inputs"])) == (name, len(method.inputs) + 2 * method.variadic)
    assert {k for k in step if k not in ("method", "inputs")} == set(method.parameters)
    at.text_input(key="m.name").set_value("out").run()
    button(at, "Dry run").click().run()
    if name == "exchange_ema":  # of which demo checkpoints have none
        assert "EMA" in texts(at) and "Nothing was written" not in texts(at)
    else:
        assert "Nothing was written" in texts(at)


def test_every_method_starts_with_its_own_usual_values_whatever_was_chosen_before(page):
    for name in ("ties", "breadcrumbs", "dare", "ties", "della", "weighted_sum"):
        page.selectbox(key="m.method").set_value(name).run()
        if name != "weighted_sum":
            page.multiselect(key="m.models").set_value(["tuned.safetensors"]).run()
        step = recipe_of(page)["steps"]["mix"]
        usual = {p.name: [p.default] if p.kind == "numbers" else p.default for p in METHODS[name].parameters.values()}
        assert {k: v for k, v in step.items() if k not in ("method", "inputs")} == usual


def test_block_weights_that_were_set_are_kept_for_the_next_method(page):
    page.text_area(key="m.paste").set_value("IN05: 0.9")
    button(page, "Use them").click().run()
    page.selectbox(key="m.method").set_value("add_difference").run()
    assert recipe_of(page)["steps"]["mix"]["alpha"]["IN05"] == 0.9


def test_a_share_stays_between_0_and_1(page):
    page.selectbox(key="m.method").set_value("ties").run()
    page.multiselect(key="m.models").set_value(["tuned.safetensors"]).run()
    assert (page.number_input(key="m.number.ties.density").min, page.number_input(key="m.number.ties.density").max) == (
        0,
        1,
    )
    page.toggle(key="m.by_block.alpha").set_value(False)
    page.toggle(key="m.by_block.density").set_value(True).run()
    page.text_area(key="m.paste").set_value("IN05: 1.5")
    button(page, "Use them").click().run()
    assert "density of IN05: must be a share from 0 to 1, not 1.5" in texts(page)
    assert recipe_of(page)["steps"]["mix"]["density"] == 0.2


def test_a_base_is_at_first_a_file_that_is_called_so(models, no_workers, open_page):
    (models / "tuned.safetensors").rename(models / "a-tune.safetensors")
    at = open_page("merge")
    assert (at.selectbox(key="m.model.a").value, at.selectbox(key="m.model.b").value) == (
        "a-tune.safetensors", "base.safetensors",
    )  # fmt: skip
    at.selectbox(key="m.method").set_value("nuslerp").run()
    assert at.selectbox(key="m.model.base").value == "base.safetensors"


def test_a_report_gives_no_share_where_a_method_looks_at_the_values():
    labels = [
        {"label": "IN00", "tensors": 2, "parameters": 9, "shares": {}, "methods": ["slerp"], "varies": False},
        {"label": "VAE", "tensors": 2, "parameters": 9, "shares": {"a": 1.0}, "methods": [], "varies": False},
    ]
    assert [(row["a (%)"], row["note"]) for row in share_rows(labels)] == [(None, "slerp"), (100.0, "")]


def test_a_lora_of_the_library_is_added_to_a_model_of_its_architecture(models, lora, no_workers, open_page):
    write_demo_lora(models / "wide-style.safetensors", "sdxl", seed=3)
    at = open_page("merge", a=lora)
    found = recipe_of(at)
    assert (found["models"], found["loras"]) == ({"a": "base.safetensors"}, {"difference": lora})
    at = open_page("merge", a="wide-style.safetensors")
    assert recipe_of(at)["models"] == {"a": "wide.safetensors"}


def test_differences_are_no_result_and_no_choice(page):
    assert "subtract" not in page.selectbox(key="m.method").options


def test_a_base_with_models_and_a_lora_becomes_the_engines_file(page, models, lora, tmp_path):
    page.selectbox(key="m.method").set_value("task_arithmetic").run()
    assert "one or more models" in texts(page)
    page.multiselect(key="m.models").set_value(["tuned.safetensors", lora]).run()
    page.number_input(key=f"m.each.weights.{lora}").set_value(0.5).run()
    found = recipe_of(page)
    assert found["models"] == {"base": "base.safetensors", "tuned": "tuned.safetensors"}
    assert found["loras"] == {"style": lora}
    assert found["steps"]["mix"] | {"alpha": 0} == {
        "method": "task_arithmetic", "inputs": ["base", "tuned", "style"], "weights": [1.0, 0.5], "alpha": 0,
    }  # fmt: skip
    button(page, "Merge").click().run()
    worker.work("merge")
    merge(Recipe.parse(found).relative_to(models), tmp_path / "same.safetensors")
    made, same = load(models / "out.safetensors"), load(tmp_path / "same.safetensors")
    assert {k: raw(t) for k, t in made.items()} == {k: raw(t) for k, t in same.items()}


def test_a_merge_with_a_base_and_a_lora_comes_back_into_the_controls(page, models, lora):
    recipe = {
        "models": {"x": str(models / "base.safetensors"), "y": str(models / "tuned.safetensors")},
        "loras": {"z": str(models / lora)},
        "steps": {"s": {"method": "iso_c", "inputs": ["x", "z", "y"], "weights": [0.25, 2], "z": 0.8}},
    }
    merge(Recipe.parse(recipe), models / "again.safetensors")
    page.run()
    page.selectbox(key="m.repeat").set_value("again.safetensors").run()
    button(page, "Load its recipe").click().run()
    assert not page.exception and "loaded into the controls" in texts(page)
    found = recipe_of(page)
    step = found["steps"]["mix"]
    assert (step["method"], step["weights"], step["z"]) == ("iso_c", [0.25, 2.0], 0.8)
    assert found["models"] == {"base": "base.safetensors", "tuned": "tuned.safetensors"} and found["loras"] == {
        "style": lora
    }


def test_a_choice_reaches_the_recipe(page):
    page.selectbox(key="m.method").set_value("pick_component").run()
    page.selectbox(key="m.choice.pick_component.component").set_value("clip_l").run()
    assert recipe_of(page)["steps"]["mix"]["component"] == "clip_l"


def test_distances_are_measured_by_a_job_and_then_predicted(page, models, monkeypatch):
    (job,) = jobs.listed("gram")
    worker.work("analysis")
    assert jobs.get(job.id).status == "done"
    seen = {}
    from unetscope.dashboard import merge_weights

    real = merge_weights.unet_diagram
    monkeypatch.setattr(
        merge_weights, "unet_diagram", lambda svg, **options: seen.update(options) or real(svg, **options)
    )
    page.run()
    assert set(seen["gram"]["labels"]) >= set(SD1)
    assert (seen["gram"]["at_zero"], seen["gram"]["per_weight"]) == ([1.0, 0.0], [-1.0, 1.0])


def test_an_empty_library_leads_to_the_demo_checkpoints(tmp_path, monkeypatch, no_workers, open_page):
    monkeypatch.setenv("UNETSCOPE_MODELS", str(tmp_path))
    assert "Library makes demo checkpoints" in texts(open_page("merge"))
