"""The Merge page's draft survives a reload and a restart, its address can be shared, and every tab follows its own merges."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from unetscope.checkpoints.errors import UnetscopeError
from unetscope.checkpoints.files.partial import JOURNAL, PARTIAL, RESUMABLE, create_partial, leftovers, remove_leftover
from unetscope.dashboard import jobs, launch, worker
from unetscope.dashboard.folders import choose_folders, current_folders
from unetscope.dashboard.merge_draft import _packed, _unpacked
from unetscope.dashboard.state_files import state_folder
from unetscope.dashboard.weights_editing import Undo

DONE = "Merge out.safetensors: done"


def texts(at) -> str:
    kinds = ("markdown", "caption", "info", "warning", "error", "success")
    return "\n".join(str(e.value) for kind in kinds for e in at.get(kind)).replace("\\", "")


def heads(at) -> list[str]:
    return [head.value for head in at.subheader]


def button(at, label: str):
    return next(b for b in at.button if b.label.startswith(label))


def recipe_of(at) -> dict:
    return yaml.safe_load(next(code.value for code in at.code if code.value.startswith("models:")))


def drafts() -> list[Path]:
    return sorted((state_folder() / "drafts").glob("*.json"))


def draft_of(at) -> str:
    return at.query_params["draft"] if isinstance(at.query_params["draft"], str) else at.query_params["draft"][0]


@pytest.fixture
def page(models, no_workers, open_page):
    """The page with a method, a name, weights, a way back, and an output's dtype."""
    at = open_page("merge")
    at.selectbox(key="m.method").set_value("add_difference").run()
    at.selectbox(key="m.model.c").set_value("base.safetensors")
    at.selectbox(key="m.model.b").set_value("tuned.safetensors")
    at.selectbox(key="m.output.dtype").set_value("fp32")
    at.text_input(key="m.name").set_value("out")
    at.text_area(key="m.paste").set_value("IN05: 0.9")
    button(at, "Use them").click().run()
    at.text_area(key="m.paste").set_value("IN06: 0.25")
    button(at, "Use them").click().run()
    assert not at.exception
    return at


def test_a_page_that_was_only_opened_leaves_no_draft(models, no_workers, open_page):
    open_page("merge").run()
    assert drafts() == []


def test_a_reload_brings_back_method_models_weights_and_undo(page, open_page):
    again = open_page("merge", draft=draft_of(page))
    assert not again.exception
    assert recipe_of(again) == recipe_of(page)
    assert again.text_input(key="m.name").value == "out" and recipe_of(again)["output"] == {"dtype": "fp32"}
    button(again, ":material/undo:").click().run()
    assert recipe_of(again)["steps"]["mix"]["alpha"]["IN05"] == 0.9
    button(again, ":material/redo:").click().run()
    assert recipe_of(again)["steps"]["mix"]["alpha"]["IN06"] == 0.25
    assert "Proposed" in texts(again)  # A was never chosen


def test_parameters_and_text_come_back_too(models, no_workers, open_page):
    at = open_page("merge")
    at.selectbox(key="m.method").set_value("ties").run()
    at.multiselect(key="m.models").set_value(["tuned.safetensors"]).run()
    at.number_input(key="m.number.ties.density").set_value(0.75)
    at.number_input(key="m.each.weights.tuned.safetensors").set_value(0.5).run()
    at.segmented_control(key="m.mode").set_value("Recipe as text").run()
    at.text_area(key="m.text").set_value("models: {a: base.safetensors}").run()
    again = open_page("merge", draft=draft_of(at))
    assert again.text_area(key="m.text").value == "models: {a: base.safetensors}"
    again.segmented_control(key="m.mode").set_value("Controls").run()
    step = recipe_of(again)["steps"]["mix"]
    assert (step["method"], step["density"], step["weights"]) == ("ties", 0.75, [0.5])


def test_the_last_draft_is_offered_where_no_address_names_one(page, open_page):
    fresh = open_page("merge")
    assert draft_of(fresh) != draft_of(page) and recipe_of(fresh)["steps"]["mix"]["method"] == "weighted_sum"
    button(fresh, "Continue").click().run()
    assert not fresh.exception
    assert (recipe_of(fresh), draft_of(fresh)) == (recipe_of(page), draft_of(page))
    other = open_page("merge")
    other.selectbox(key="m.method").set_value("slerp").run()
    assert not [b for b in other.button if b.label.startswith("Continue")]


def test_two_tabs_on_one_draft_do_not_overwrite_each_other(page, open_page):
    other = open_page("merge", draft=draft_of(page))
    other.text_input(key="m.name").set_value("other").run()
    page.text_input(key="m.name").set_value("mine").run()
    assert draft_of(page) != draft_of(other) and "changed in another tab" in texts(page)
    assert {json.loads(file.read_text())["values"]["m.name"] for file in drafts()} == {"mine", "other"}
    page.text_input(key="m.name").set_value("mine too").run()
    assert "changed in another tab" not in texts(page) and len(drafts()) == 2


def test_a_draft_in_another_apps_folders_is_a_copy_and_its_absent_files_are_said(page, models, open_page, monkeypatch):
    elsewhere = models.parent / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(models / "base.safetensors", elsewhere / "base.safetensors")
    monkeypatch.setenv("UNETSCOPE_MODELS", str(elsewhere))
    there = open_page("merge", draft=draft_of(page))
    assert not there.exception and draft_of(there) != draft_of(page)
    assert f"made for the models folder {models}" in texts(there) and "tuned.safetensors is gone" in texts(there)


@pytest.mark.parametrize(
    "damage", ["", "[]", '{"form": 1, "values": {"m.method": "none", "m.weights.alpha": {"undo": 3}}}']
)
def test_a_damaged_draft_is_no_obstacle(damage, page, open_page):
    (file,) = drafts()
    file.write_text(damage)
    assert not open_page("merge", draft=file.stem).exception
    assert not open_page("merge", draft="../../settings").exception


def test_what_a_draft_holds_is_packed_and_unpacked():
    undo = Undo(({"IN00": 0.5},), {"IN00": 1.0}, ({"IN00": 0.0}, {"IN00": 2.0}))
    for value in (undo, (0.0, 1.0), ["a"], {"value": "a", "basis": ("b",)}, None, True, 3, "x"):
        assert _unpacked(json.loads(json.dumps(_packed(value)))) == value


# -- whose merges -------------------------------------------------------------------------------------------------------


def test_a_tab_follows_its_own_merges_through_a_reload_and_no_others(page, open_page):
    button(page, "Merge").click().run()
    other = open_page("merge")
    for tab, follows in ((page, True), (open_page("merge", draft=draft_of(page)), True), (other, False)):
        job = jobs.listed("merge")[0].id
        assert (f"cancel-{job}-merge" in [b.key for b in tab.button]) == follows
    worker.work("merge")
    for tab, follows in ((page.run(), True), (open_page("merge", draft=draft_of(page)), True), (other.run(), False)):
        assert not tab.exception
        assert ("Wrote" in texts(tab)) == follows == (DONE in texts(tab))


def test_done_goes_from_beside_the_button_when_the_controls_say_something_else(page):
    button(page, "Merge").click().run()
    worker.work("merge")
    page.run()
    assert DONE in texts(page)
    page.toggle(key="m.by_block.alpha").set_value(False).run()
    assert DONE not in texts(page) and "Wrote" in texts(page)  # the report stays below, under its own heading
    page.toggle(key="m.by_block.alpha").set_value(True).run()
    assert DONE in texts(page)
    page.text_input(key="m.name").set_value("next").run()
    assert DONE not in texts(page)


def test_a_refusal_goes_when_what_was_refused_is_mended(page):
    page.text_input(key="m.name").set_value("base").run()
    button(page, "Merge").click().run()
    assert "tick Replace it" in texts(page)
    page.text_input(key="m.name").set_value("next").run()
    assert "tick Replace it" not in texts(page)


def test_another_apps_jobs_are_told_apart(page, models, open_page, monkeypatch):
    button(page, "Merge").click().run()
    jobs.submit("scan", "Scan here", {"files": []})
    (models.parent / "elsewhere").mkdir()
    monkeypatch.setenv("UNETSCOPE_MODELS", str(models.parent / "elsewhere"))
    assert jobs.here(jobs.listed()) == [] and len(jobs.listed("merge")) == 1
    for job in jobs.listed():
        jobs.cancel(job.id)
    assert f"in {models}" in "".join(e.label for e in open_page("jobs").expander).replace("\\", "")


# -- what was killed ----------------------------------------------------------------------------------------------------


@pytest.fixture
def killed(page, models):
    """A merge whose worker was killed while it wrote."""
    button(page, "Merge").click().run()
    (job,) = jobs.listed("merge")
    code = (
        "import os, sys, time\nfrom pathlib import Path\n"
        "from unetscope.checkpoints.files.partial import create_partial\nfrom unetscope.dashboard import jobs\n"
        "lock = jobs.lane_lock('merge'); assert lock.acquire()\n"
        "jobs.record_state(jobs.get(sys.argv[1]).folder, status='running', started=time.time())\n"
        "file = create_partial(Path(sys.argv[2])); file.write(bytes(5000))\nprint('ready', flush=True); time.sleep(3600)\n"
    )
    words = [sys.executable, "-c", code, job.id, str(models / "out.safetensors")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    return job


def test_jobs_shows_and_removes_what_a_killed_worker_left_and_starts_it_again(killed, models, open_page):
    at = open_page("jobs")
    assert not at.exception and "out.safetensors" in texts(at) and "5 kB" in texts(at) and "Left behind" in heads(at)
    assert jobs.get(killed.id).status == "failed" and "page Jobs" in jobs.get(killed.id).error
    button(at, "Remove").click().run()
    assert leftovers(models) == [] and "Left behind" not in heads(at)
    button(at, "Start again").click().run()
    assert not at.exception
    worker.work("merge")
    again = jobs.listed("merge")[0]
    assert (again.status, again.arguments, again.origin) == ("done", killed.arguments, killed.origin)
    assert (models / "out.safetensors").exists()


def test_what_a_living_run_writes_is_neither_listed_nor_removed(models, no_workers, open_page):
    (models / "sub").mkdir()
    with create_partial(models / "sub" / "x.safetensors"):
        assert "Left behind" not in heads(open_page("jobs"))
        (found,) = leftovers(models / "sub")
        assert not remove_leftover(found) and found.path.exists()
    (models / "sub" / f"x.safetensors{PARTIAL}1-abcdef").write_bytes(b"1")
    assert "sub/x.safetensors" in texts(open_page("jobs"))


def test_leftovers_of_every_kind_are_removed_whole(tmp_path):
    (tmp_path / f"a{PARTIAL}1-abcdef").write_bytes(b"1")
    (tmp_path / f"b{PARTIAL}999999999-abcdef" / "unet").mkdir(parents=True)
    (tmp_path / f"c{RESUMABLE}").write_bytes(b"1")
    (tmp_path / f"c{JOURNAL}").write_bytes(b"1")
    (tmp_path / f"d{RESUMABLE}").write_bytes(b"1")
    assert [remove_leftover(one) for one in leftovers(tmp_path)] == [True] * 4
    assert list(tmp_path.iterdir()) == []


# -- folders ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def environment(monkeypatch):
    """What the server would be started with."""
    seen: dict[str, str | None] = {}

    def call(command, env):
        seen.update({name: env.get(name) for name in ("UNETSCOPE_MODELS", "UNETSCOPE_OUTPUT")})
        return 0

    monkeypatch.setattr(launch.subprocess, "call", call)
    return seen


def test_an_output_folder_counts_without_a_models_folder(tmp_path, environment, monkeypatch):
    for name in ("models", "results", "others"):
        (tmp_path / name).mkdir()
    choose_folders(str(tmp_path / "models"))
    launch.launch(None, tmp_path / "results")
    assert environment == {"UNETSCOPE_MODELS": None, "UNETSCOPE_OUTPUT": str(tmp_path / "results")}
    with pytest.raises(UnetscopeError, match="output"):
        launch.launch(None, tmp_path / "none")
    monkeypatch.setenv("UNETSCOPE_OUTPUT", str(tmp_path / "results"))
    assert current_folders().output == tmp_path / "results"
    assert choose_folders(str(tmp_path / "others")).output == tmp_path / "results"  # in the page, without one typed
    launch.launch(tmp_path / "models")
    assert environment["UNETSCOPE_OUTPUT"] == str(tmp_path / "results")
    monkeypatch.setenv("UNETSCOPE_MODELS", str(tmp_path / "models"))
    launch.launch(None, tmp_path / "others")
    assert environment == {"UNETSCOPE_MODELS": str(tmp_path / "models"), "UNETSCOPE_OUTPUT": str(tmp_path / "others")}
