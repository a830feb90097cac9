"""What Python makes of the diagram: whose word counts, what is sent, and what is never sent."""

from __future__ import annotations

import json

import pytest
from streamlit.testing.v1 import AppTest

from unetscope.dashboard import diagram
from unetscope.dashboard.diagram import DiagramState, unet_diagram
from unetscope.diagrams import draw


@pytest.fixture
def session(monkeypatch) -> dict:
    """A session that the component's state can be put into, as the page would."""
    kept: dict = {}
    monkeypatch.setattr(diagram.st, "session_state", kept)
    return kept


@pytest.fixture
def sent(monkeypatch) -> list[dict]:
    """What the page is sent, instead of a page."""
    calls: list[dict] = []

    def mount(*, data, key, **rest):
        calls.append(data)

    monkeypatch.setattr(diagram, "_component", lambda: mount)
    monkeypatch.setattr(diagram, "_store", lambda: mount)
    return calls


def page(session: dict, turn: int, selected=(), weights=None) -> None:
    """The user did something in the page."""
    session["d"] = {"page": {"turn": turn, "selected": list(selected), "weights": weights or {}}}


def test_what_the_user_selects_comes_back_and_stays(session, sent):
    assert unet_diagram("<svg/>", key="d") == DiagramState((), {}, False)
    page(session, 1, ["IN05"])
    assert unet_diagram("<svg/>", key="d") == DiagramState(("IN05",), {}, True)
    assert unet_diagram("<svg/>", key="d") == DiagramState(("IN05",), {}, False)


def test_an_argument_that_changes_wins_over_what_the_user_selected_before(session, sent):
    unet_diagram("<svg/>", key="d")
    page(session, 1, ["IN05"])
    unet_diagram("<svg/>", key="d")
    assert unet_diagram("<svg/>", selected=["OUT03"], key="d").selected == ("OUT03",)
    assert sent[-1]["selected"] == ["OUT03"]


def test_a_page_that_passes_the_users_selection_in_again_changes_nothing(session, sent):
    state = unet_diagram("<svg/>", selected=(), key="d")
    page(session, 1, ["IN05"])
    for changed in (True, False, False):
        state = unet_diagram("<svg/>", selected=state.selected, key="d")
        assert state == DiagramState(("IN05",), {}, changed)


def test_the_users_act_wins_over_an_argument_that_changes_in_the_same_run(session, sent):
    unet_diagram("<svg/>", selected=["IN01"], key="d")
    page(session, 1, ["IN05"])
    assert unet_diagram("<svg/>", selected=["IN02"], key="d").selected == ("IN05",)


def test_weights_that_change_leave_the_selection_alone(session, sent):
    unet_diagram("<svg/>", weights={"IN05": 0.5}, editable=True, key="d")
    page(session, 1, ["IN05"], {"IN05": 0.7})
    assert unet_diagram("<svg/>", weights={"IN05": 0.5}, editable=True, key="d").weights == {"IN05": 0.7}
    state = unet_diagram("<svg/>", weights={"IN05": 0.1}, editable=True, key="d")
    assert state == DiagramState(("IN05",), {"IN05": 0.1}, False)


def test_weights_of_blocks_that_have_none_are_not_taken_from_the_page(session, sent):
    unet_diagram("<svg/>", weights={"IN05": 0.5}, editable=True, key="d")
    page(session, 1, [], {"IN05": 0.7, "EVIL": 3.0})
    assert unet_diagram("<svg/>", weights={"IN05": 0.5}, editable=True, key="d").weights == {"IN05": 0.7}


@pytest.mark.parametrize(
    "nonsense", [None, 3, "x", {"page": 3}, {"page": {"turn": "9"}}, {"page": {"selected": ["IN05"]}}]
)
def test_nonsense_from_the_page_is_ignored(session, sent, nonsense):
    session["d"] = nonsense
    assert unet_diagram("<svg/>", selected=["IN01"], key="d") == DiagramState(("IN01",), {}, False)


def test_the_svg_travels_apart_from_what_changes(session, sent):
    svg = draw("sd1").svg
    unet_diagram(svg, fills={"IN05": "#fde725"}, key="d")
    store, changing = sent
    assert store["svg"] == svg
    assert changing["svg"] == store["digest"]
    assert len(json.dumps(changing)) < 1000


def test_gram_matrices_get_the_shares_of_a_weighted_sum_by_default(session, sent):
    unet_diagram("<svg/>", gram={"labels": {"IN05": [[1, 0], [0, 1]]}, "models": ["a", "b"]}, key="d")
    gram = sent[-1]["gram"]
    assert (gram["at_zero"], gram["per_weight"], gram["target"]) == ([1.0, 0.0], [-1.0, 1.0], 0)
    assert len(gram["palette"]) == 17


def test_the_component_mounts_in_a_page():
    at = AppTest.from_string(
        "from unetscope.dashboard.diagram import unet_diagram\n"
        "from unetscope.diagrams import draw\n"
        "import streamlit as st\n"
        "st.text(unet_diagram(draw('sd1').svg, selected=['IN05'], key='d').selected)"
    ).run()
    assert not at.exception
    assert at.text[0].value == "('IN05',)"
