"""What a user has chosen is never replaced: a file that is gone is named, on every page, and nothing is done without it."""

from __future__ import annotations

import shutil

import pytest
import yaml

from unetscope.checkpoints.demo import write_demo_lora
from unetscope.dashboard import jobs


def errors(at) -> str:
    return "\n".join(e.value for e in at.error).replace("\\", "")


def captions(at) -> str:
    return "\n".join(c.value for c in at.caption).replace("\\", "")


def click(at, label: str):
    return next(b for b in at.button if b.label.startswith(label)).click().run()


@pytest.fixture
def page(models, no_workers, open_page):
    """The Merge page with a third SD1 file, `spare`, and a name for the result."""
    shutil.copy(models / "tuned.safetensors", models / "spare.safetensors")
    at = open_page("merge")
    at.text_input(key="m.name").set_value("out")
    return at.run()


def choose_b(at):
    at.selectbox(key="m.model.b").set_value("spare.safetensors").run()


def choose_three(at):
    at.selectbox(key="m.method").set_value("uniform").run()
    at.multiselect(key="m.models").set_value(["base.safetensors", "tuned.safetensors", "spare.safetensors"]).run()


def choose_vae(at):
    at.selectbox(key="m.component.vae").set_value("spare.safetensors").run()


@pytest.mark.one_by_one
@pytest.mark.parametrize("choose", [choose_b, choose_three, choose_vae])
@pytest.mark.parametrize("label", ["Merge", "Dry run"])
def test_a_merge_whose_file_vanishes_before_the_click_is_refused_by_name(choose, label, page, models):
    choose(page)
    kept = models.parent / "kept"
    (models / "spare.safetensors").rename(kept)
    click(page, label)
    assert not page.exception and jobs.listed("merge") == [] and page.session_state["merge"].dry is None
    assert "spare.safetensors is gone from the models folder" in errors(page)
    page.run()
    assert "spare.safetensors" in errors(page)
    kept.rename(models / "spare.safetensors")
    page.run()
    assert not page.error
    click(page, "Merge")
    (job,) = jobs.listed("merge")
    assert "spare.safetensors" in str(job.arguments["recipe"])


def test_a_proposal_is_said_to_be_one_and_is_not_replaced_in_the_click_that_merges(page, models):
    assert "Proposed, not chosen: Model A, Model B" in captions(page)
    proposed = page.selectbox(key="m.model.b").value
    (models / proposed).unlink()
    click(page, "Merge")
    assert jobs.listed("merge") == [] and f"Model B: {proposed} is gone" in errors(page)
    page.selectbox(key="m.model.b").set_value(
        "spare.safetensors" if proposed != "spare.safetensors" else "tuned.safetensors"
    )
    page.run()
    assert not page.error and "Proposed, not chosen: Model A" in captions(page) and "Model B" not in captions(page)


def test_a_lora_that_vanishes_is_named(page, models):
    write_demo_lora(models / "style.safetensors", "sd1", seed=3)
    page.selectbox(key="m.method").set_value("add").run()
    page.selectbox(key="m.model.difference").set_value("style.safetensors").run()
    (models / "style.safetensors").unlink()
    click(page, "Merge")
    assert jobs.listed("merge") == [] and "LoRA: style.safetensors is gone" in errors(page)


def test_a_file_that_became_another_or_was_cut_is_not_taken_for_the_chosen_one(page, models):
    choose_b(page)
    shutil.copy(models / "wide.safetensors", models / "spare.safetensors")
    click(page, "Merge")
    assert jobs.listed("merge") == [] and "spare.safetensors does not go with base.safetensors" in errors(page)
    whole = (models / "tuned.safetensors").read_bytes()
    (models / "spare.safetensors").write_bytes(whole[: len(whole) // 2])
    click(page, "Merge")
    assert jobs.listed("merge") == [] and "spare.safetensors is truncated" in errors(page)


def test_a_choice_that_no_longer_fits_another_one_stays_and_is_said(page):
    page.selectbox(key="m.model.b").set_value("tuned.safetensors").run()
    page.selectbox(key="m.model.a").set_value("wide.safetensors").run()
    assert page.selectbox(key="m.model.b").value == "tuned.safetensors"
    assert "tuned.safetensors does not go with wide.safetensors" in errors(page)
    page.selectbox(key="m.model.a").set_value("tuned.safetensors").run()
    assert not page.error


@pytest.mark.parametrize(
    ("name", "parameters", "key"),
    [
        ("compare", {"a": "base.safetensors", "b": "spare.safetensors"}, "b"),
        ("compare", {"a": "spare.safetensors", "b": "base.safetensors"}, "a"),
        ("compare", {"a": "base.safetensors", "b": "tuned.safetensors", "c": "spare.safetensors"}, "c"),
        ("explore", {"of": "spare.safetensors"}, "of"),
        ("where_from", {"merged": "spare.safetensors"}, "merged"),
        ("where_from", {"merged": "merged.safetensors", "trace base": "spare.safetensors"}, "trace base"),
    ],
)
def test_a_page_whose_file_vanishes_and_a_link_to_a_file_that_is_gone_say_so(
    name, parameters, key, models, no_workers, open_page
):
    shutil.copy(models / "tuned.safetensors", models / "spare.safetensors")
    at = open_page(name, **parameters)
    if key == "trace base":  # a candidate is not a base
        at.multiselect[0].set_value(["base.safetensors"]).run()
        at.selectbox(key=key).set_value("spare.safetensors").run()
    assert not at.exception and not at.error and at.selectbox(key=key).value == "spare.safetensors"
    (models / "spare.safetensors").unlink()
    for page in (at.run(), open_page(name, **parameters)):
        assert not page.exception
        assert "spare.safetensors is gone from the models folder" in errors(page)
        assert not page.button and not page.dataframe


def test_candidates_and_collections_are_not_narrowed_in_silence(models, no_workers, open_page):
    for name, box in (("where_from", "among merged.safetensors"), ("collection", "collection models")):
        shutil.copy(models / "tuned.safetensors", models / "spare.safetensors")
        at = open_page(name)
        assert "Proposed, not chosen" in captions(at) and "spare.safetensors" in at.multiselect(key=box).value
        (models / "spare.safetensors").unlink()
        at.run()
        assert "spare.safetensors is gone" in errors(at) and not at.button
        at.multiselect(key=box).set_value(["base.safetensors", "tuned.safetensors"]).run()
        assert not at.error and at.button


def test_the_library_shows_no_other_file_in_place_of_one_that_is_gone(models, no_workers, open_page):
    at = open_page("library", file="merged.safetensors")
    assert "merged" in at.subheader[0].value
    (models / "merged.safetensors").unlink()
    at.run()
    assert not at.exception and not at.subheader
    assert "merged.safetensors is gone" in at.warning[0].value.replace("\\", "")
    assert "gone" in open_page("merge", a="merged.safetensors").error[0].value


# -- the tick -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ticked(page, models):
    """`old` is to be replaced; `precious` is there as well."""
    for name in ("old", "precious"):
        shutil.copy(models / "base.safetensors", models / f"{name}.safetensors")
    page.text_input(key="m.name").set_value("old").run()
    page.checkbox(key="m.overwrite").check().run()
    return page


def test_the_tick_counts_for_the_name_that_it_was_given_for(ticked):
    ticked.text_input(key="m.name").set_value("precious")  # without Enter: the click commits it
    click(ticked, "Merge")
    assert jobs.listed("merge") == [] and "tick Replace it" in errors(ticked)
    assert ticked.checkbox(key="m.overwrite").value is False
    ticked.text_input(key="m.name").set_value("old").run()
    assert ticked.checkbox(key="m.overwrite").value is False


def test_the_tick_is_asked_for_again_when_the_file_is_another(ticked, models):
    shutil.copy(models / "tuned.safetensors", models / "old.safetensors")
    click(ticked, "Merge")
    assert jobs.listed("merge") == [] and "tick Replace it" in errors(ticked)


def test_the_tick_goes_with_the_merge_that_it_was_given_for(ticked):
    click(ticked, "Merge")
    (job,) = jobs.listed("merge")
    assert job.arguments["overwrite"] is True and ticked.checkbox(key="m.overwrite").value is False
    click(ticked, "Merge")
    assert len(jobs.listed("merge")) == 1


def test_a_merge_that_waited_does_not_replace_what_came_meanwhile(ticked, models):
    from unetscope.dashboard import worker

    click(ticked, "Merge")
    shutil.copy(models / "wide.safetensors", models / "old.safetensors")
    worker.work("merge")
    (job,) = jobs.listed("merge")
    assert job.status == "failed" and "has changed" in job.error
    assert (models / "old.safetensors").read_bytes() == (models / "wide.safetensors").read_bytes()


# -- recipes ------------------------------------------------------------------------------------------------------------

RECIPE = {
    "models": {"a": "base.safetensors", "b": "tuned.safetensors"},
    "steps": {"mix": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.25}},
    "components": {"vae": "a"},
}


@pytest.mark.one_by_one
@pytest.mark.parametrize(
    "path", ["v2/base.safetensors", "/mnt/disk/base.safetensors", "../../base.safetensors", "C:\\base.safetensors"]
)
@pytest.mark.parametrize("where", ["models", "loras", "components"])
def test_a_typed_path_is_that_file_or_refused(path, where, page):
    recipe = RECIPE | {"models": dict(RECIPE["models"])}
    if where == "models":
        recipe["models"]["a"] = path
    else:
        recipe[where] = {"vae" if where == "components" else "x": path}
    page.segmented_control(key="m.mode").set_value("Recipe as text").run()
    page.text_area(key="m.text").set_value(yaml.safe_dump(recipe)).run()
    assert "there is base.safetensors" in errors(page)
    click(page, "Merge")
    assert not page.exception and jobs.listed("merge") == []


@pytest.mark.parametrize("form", ["base.safetensors", "./base.safetensors", "{}/base.safetensors"])
def test_other_ways_to_write_the_same_path_are_taken(form, page, models):
    recipe = RECIPE | {"models": RECIPE["models"] | {"a": form.format(models)}}
    page.segmented_control(key="m.mode").set_value("Recipe as text").run()
    page.text_area(key="m.text").set_value(yaml.safe_dump(recipe)).run()
    click(page, "Merge")
    (job,) = jobs.listed("merge")
    assert job.arguments["recipe"]["models"]["a"] == str(models / "base.safetensors")


@pytest.fixture
def moved(page, models):
    """The page where a merge's recipe is loaded whose second model now stands in a folder."""
    (models / "sd1").mkdir()
    (models / "tuned.safetensors").rename(models / "sd1" / "tuned.safetensors")
    page.run()
    page.selectbox(key="m.repeat").set_value("merged.safetensors").run()
    return click(page, "Load its recipe")


def test_a_replaced_path_is_named_and_taken_when_somebody_agrees(moved):
    said = moved.warning[0].value.replace("\\", "")
    assert "tuned.safetensors" in said and "sd1/tuned.safetensors" in said and "base.safetensors" not in said
    assert "not loaded yet" in said and moved.selectbox(key="m.model.b").value != "sd1/tuned.safetensors"
    click(moved, "Take these files")
    assert not moved.exception and moved.selectbox(key="m.model.b").value == "sd1/tuned.safetensors"
    assert not moved.warning


def test_a_recipe_whose_files_nobody_agrees_to_stays_as_it_is(moved):
    click(moved, "Load it as text")
    assert yaml.safe_load(moved.text_area(key="m.text").value)["models"]["b"] == "tuned.safetensors"
    assert "tuned.safetensors" in errors(moved) and "there is sd1/tuned.safetensors" in errors(moved)
