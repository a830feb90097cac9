"""A page from outside the package, in one file: found, shown, and its measurement run by a worker; what cannot work is refused."""

from __future__ import annotations

import os
import runpy
import sys
import time
from pathlib import Path

import pytest
from fake_distribution import install
from guides import files_of
from streamlit.testing.v1 import AppTest

from unetscope.checkpoints.errors import UnetscopeError
from unetscope.dashboard import jobs, worker
from unetscope.dashboard.library import read_library
from unetscope.dashboard.page import PAGES, Page, in_order, task_named
from unetscope.dashboard.pages import compare
from unetscope.dashboard.tasks import Task

SCREENSHOTS = Path(__file__).parents[2] / "docs" / "pictures" / "screenshots.py"
# Seconds until something is taken for hung.
PATIENCE = 600.0
BUILT_IN = ["library", "explore", "compare", "merge", "search", "collection", "where_from", "jobs", "settings"]
ZEROS = """
from pathlib import Path

import streamlit as st

from unetscope.dashboard.job_view import offer
from unetscope.dashboard.page import Page, Scene
from unetscope.dashboard.results import kept
from unetscope.dashboard.shell import require_folders, library_of
from unetscope.dashboard.tasks import Task


def count_zeros(arguments, progress, cancel):
    data = Path(arguments["file"]).read_bytes()
    progress(len(data), len(data), "")
    return {"zeros": data.count(0)}


def show():
    st.title("Zeros")
    entry = library_of(require_folders()).models[0]
    if key := offer("zeros", "Zeros", {"file": entry.path}, "Count the zeros"):
        st.metric(entry.name, kept("zeros", key)["zeros"])


COUNT = Task("zeros", count_zeros, "analysis", "Count zeros", inputs=lambda arguments: [Path(arguments["file"])])


PAGE = Page(
    id="zeros", title="Zeros", icon=":material/exposure_zero:", show=show, group="Mine",
    tasks=(COUNT,), scenes=(Scene("zeros", click="Count the zeros"),),
)
"""
# The app, at the page that the session names.
APP = """
import streamlit as st
from unetscope.dashboard.shell import main

main()
if name := st.session_state.pop("go", None):
    st.switch_page(st.session_state["pages"][name])
"""


@pytest.fixture
def install_page(tmp_path, monkeypatch):
    """Installs `my_page` with the code that it is given, for this process and for workers."""

    def installed(code: str, value: str = "my_page") -> None:
        folder = install(tmp_path / "site", "my_page", {"my_page": code}, {"unetscope.pages": {"mine": value}})
        monkeypatch.syspath_prepend(folder)
        path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH", ""))))
        monkeypatch.setenv("PYTHONPATH", path)
        PAGES.reread()

    yield installed
    sys.modules.pop("my_page", None)
    monkeypatch.undo()
    PAGES.reread()


def app(page: str = "") -> AppTest:
    at = AppTest.from_string(APP, default_timeout=PATIENCE)
    if page:
        at.session_state["go"] = page
    return at.run()


def test_the_built_in_pages_stand_in_their_order_each_at_its_address(models, no_workers):
    assert [page.id for page in in_order()] == BUILT_IN
    links = app().session_state["pages"]
    assert [link.title for link in links.values()] == [
        "Library", "Explore", "Compare", "Merge", "Search", "Collection", "Where from", "Jobs", "Settings",
    ]  # fmt: skip
    assert [link.url_path for link in links.values()] == ["", *BUILT_IN[1:]]


def test_a_page_of_another_package_measures_in_a_worker_and_shows_what_it_found(models, install_page):
    install_page(ZEROS)
    at = app("zeros")
    assert not at.exception and [title.value for title in at.title] == ["Zeros"]
    assert list(at.session_state["pages"]) == [*BUILT_IN[:7], "zeros", *BUILT_IN[7:]]
    next(button for button in at.button if button.label == "Count the zeros").click().run()
    (job,) = jobs.listed("zeros")
    deadline = time.monotonic() + PATIENCE
    while not jobs.get(job.id).ended:
        assert time.monotonic() < deadline, jobs.get(job.id)
        time.sleep(0.05)
    assert (jobs.get(job.id).status, jobs.get(job.id).error) == ("done", "")
    at.run()
    first = read_library(models, PATIENCE).models[0]
    assert not at.exception
    assert [(one.label, one.value) for one in at.metric] == [(first.name, str(Path(first.path).read_bytes().count(0)))]
    assert runpy.run_path(str(SCREENSHOTS))["scenes"]()["zeros"][0] == "zeros"


def test_the_page_of_the_guide_works(models, install_page, no_workers):
    install_page(files_of("dashboard.md")["my_page.py"])
    at = app("zeros")
    next(button for button in at.button if button.label == "Count the zeros").click().run()
    worker.work("analysis")
    at.run()
    first = read_library(models, PATIENCE).models[0]
    assert not at.exception
    assert [one.value for one in at.metric] == [str(Path(first.path).read_bytes().count(0))]


def test_a_job_of_a_page_that_is_not_installed_any_more_is_passed_over(models, install_page, no_workers):
    install_page(ZEROS)
    job = jobs.submit("zeros", "Zeros", {"file": str(models / "base.safetensors")})
    assert jobs.get(job.id).lane == "analysis"
    PAGES.forget("zeros")
    assert jobs.get(job.id) is None and jobs.listed() == []


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (ZEROS.replace('id="zeros"', 'id="compare"'), "'compare'"),
        (ZEROS.replace('Task("zeros"', 'Task("scan"'), "'scan'"),
        (ZEROS.replace("exposure_zero", "no_such_icon"), "page zeros (entry point mine of unetscope.pages"),
        ("import nothing_of_the_kind", "ModuleNotFoundError"),
        ("PAGES = []", "holds no page"),
    ],
)
def test_the_app_says_in_a_sentence_which_page_it_cannot_take(models, install_page, no_workers, code, said):
    install_page(code)
    at = app()
    assert not at.exception and not at.title
    (error,) = at.error
    assert said in error.value.replace("\\", "") and "\n" not in error.value


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": "Compare"}, "small letters"),
        ({"id": "../x"}, "small letters"),
        ({"title": ""}, "no title"),
        ({"icon": "compare"}, ":material/"),
        ({"show": lambda library: None}, "without arguments"),
        ({"tasks": (Task("scan", lambda a, b, c: None, "analysis", "Scan"),)}, "another page has one"),
        ({"tasks": (Task("mine", lambda a, b, c: None, "later", "Mine"),)}, "there is no lane 'later'"),
        ({"tasks": (Task("../mine", lambda a, b, c: None, "merge", "Mine"),)}, "small letters"),
        ({"tasks": (Task("mine", lambda a: None, "merge", "Mine"),)}, "three arguments"),
        ({"tasks": (Task("mine", lambda a, b, c: None, "merge", "Mine"),) * 2}, "has one of that name"),
        ({"id": "compare"}, "already"),
    ],
)
def test_a_page_that_cannot_work_is_refused_when_it_is_registered(changes, said):
    given = {"id": "mine", "title": "Mine", "icon": ":material/star:", "show": lambda: None} | changes
    with pytest.raises(UnetscopeError, match=said):
        PAGES.register(Page(**given))
    assert list(PAGES) == sorted(BUILT_IN) and PAGES["compare"] is compare.PAGE


def test_what_is_not_a_page_is_refused():
    with pytest.raises(UnetscopeError):
        PAGES.register(compare.show)


def test_each_kind_of_job_belongs_to_one_page():
    kinds = [task.kind for page in in_order() for task in page.tasks]
    assert sorted(kinds) == [
        "comparison", "demo", "difference", "gram", "merge", "scan", "statistics", "trace",
    ]  # fmt: skip
    assert all(task_named(kind).kind == kind for kind in kinds)
    assert task_named("zeros") is None
