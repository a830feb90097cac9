"""What the tools of the Merge page do to block weights."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetscope.checkpoints.errors import LabelError
from unetscope.checkpoints.families.conventions import CONVENTIONS
from unetscope.dashboard import weights_editing as editing
from unetscope.dashboard.weights_editing import Undo

FAMILIES = st.sampled_from(["sd1", "sd2", "sdxl", "sdxl_refiner"])
NUMBERS = st.integers(0, 100).map(lambda n: n / 100)


def weights_for(family: str) -> st.SearchStrategy:
    return st.fixed_dictionaries(dict.fromkeys(editing.weighted_labels(family), NUMBERS))


def test_mirroring_gives_each_out_block_the_weight_of_its_skip_partner():
    weights = editing.even("sd1", 0.0) | {"IN00": 0.1, "IN05": 0.5, "IN11": 0.9, "M00": 0.7, "OUT06": 0.3}
    out = editing.mirrored(weights, "sd1")
    assert (out["OUT11"], out["OUT06"], out["OUT00"]) == (0.1, 0.5, 0.9)
    assert (out["M00"], out["IN05"], out["OUT"], out["CLIP_L"]) == (0.7, 0.5, 0.0, 0.0)
    xl = editing.mirrored(editing.even("sdxl", 0.0) | {"IN00": 0.1, "IN08": 0.8}, "sdxl")
    assert (xl["OUT08"], xl["OUT00"]) == (0.1, 0.8)


def test_a_gradient_runs_over_the_chosen_blocks_in_network_order_and_leaves_the_others():
    weights = editing.even("sd1", 0.4)
    out = editing.gradient(weights, ["OUT00", "IN10", "M00", "IN11", "OUT01"], 0.0, 1.0, "linear", "sd1")
    assert [out[x] for x in ("IN10", "IN11", "M00", "OUT00", "OUT01")] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert out["IN09"] == out["OUT02"] == out["CLIP_L"] == 0.4
    assert editing.gradient(weights, ["M00"], 0.2, 1.0, "cosine", "sd1")["M00"] == 0.2


@given(family=FAMILIES, seed=st.integers(0, 2**31), data=st.data())
def test_random_weights_follow_from_the_seed_block_by_block(family, seed, data):
    start = editing.even(family, 0.5)
    every = editing.randomised(start, list(start), 0.2, 0.7, seed, family)
    assert all(0.2 <= w <= 0.7 for w in every.values()) and len(set(every.values())) > 3
    some = data.draw(st.sets(st.sampled_from(list(start))))
    part = editing.randomised(start, some, 0.2, 0.7, seed, family)
    assert part == {label: every[label] if label in some else 0.5 for label in start}


def test_what_people_paste_is_read_by_its_convention():
    vector = ",".join(str(i / 100) for i in range(26))
    pasted = editing.from_text(vector, "supermerger", "sd1")
    assert (pasted["CLIP_L"], pasted["IN00"], pasted["M00"], pasted["OUT11"]) == (0.0, 0.01, 0.13, 0.25)
    assert (pasted["TIME_EMBED"], pasted["OUT"]) == (0.01, 0.25)
    lines = editing.from_text("IN04-IN08: 0.7; BASE: 0.2", "supermerger", "sdxl")
    assert (lines["IN04"], lines["IN08"], lines["M00"], lines["CLIP_G"]) == (0.7, 0.7, 0.0, 0.2)
    assert set(editing.from_text("0.3", "supermerger", "sdxl").values()) == {0.3}
    for text in ("", "1,2,3", "NO_SUCH_PRESET", "attn1: 0.5"):
        with pytest.raises(LabelError):
            editing.from_text(text, "supermerger", "sd1")


@given(family=FAMILIES, name=st.sampled_from(sorted(CONVENTIONS)), data=st.data())
def test_a_copied_vector_says_the_same_when_pasted_but_for_the_labels_that_are_named(family, name, data):
    weights = data.draw(weights_for(family))
    try:
        vector, wrong = editing.vector_of(weights, name, family)
    except LabelError:
        assert not CONVENTIONS[name].lengths(family)
        return
    back = editing.from_text(str(vector), name, family)
    for label, weight in weights.items():
        if label not in wrong:
            assert back[label] == pytest.approx(weight, abs=1e-9), label
        else:
            assert back[label] != pytest.approx(weight, abs=1e-9), label


@given(steps=st.lists(st.one_of(NUMBERS, st.sampled_from(["undo", "redo"])), max_size=30))
def test_undo_and_redo_walk_along_the_changes(steps):
    undo, past, future = Undo(now={"IN00": -1.0}), [-1.0], []
    for step in steps:
        if step == "undo":
            undo = undo.back()
            if len(past) > 1:
                future.append(past.pop())
        elif step == "redo":
            undo = undo.forward()
            if future:
                past.append(future.pop())
        else:
            undo = undo.changed({"IN00": step})
            if step != past[-1]:
                past.append(step)
                future.clear()
        assert undo.now == {"IN00": past[-1]}
        assert (bool(undo.past), bool(undo.future)) == (len(past) > 1, bool(future))


def test_equal_weights_become_one_number_in_a_recipe():
    assert editing.to_lines(editing.even("sd1", 0.3)) == 0.3
    assert editing.to_lines({"IN00": 0.1, "M00": 0.2}) == {"IN00": 0.1, "M00": 0.2}
