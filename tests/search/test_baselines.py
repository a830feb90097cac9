"""What a search has to beat."""

from __future__ import annotations

import pytest

from unetscope.checkpoints.families.presets import preset
from unetscope.search.baselines import baselines
from unetscope.search.errors import SearchError
from unetscope.search.search_space import read_template


def made(data, wanted=None):
    template = read_template(data)
    found, notes = baselines(template, wanted, "baselines")
    return {b.name: dict(b.point) for b in found}, notes, template


def test_parents_halves_and_presets_come_of_their_own_accord(recipe):
    found, _, _ = made(recipe({"free": [0, 1], "per": "block"}))
    assert list(found) == ["all A", "all B", "0.5", "GRAD_V", "GRAD_A"]
    assert set(found["all B"].values()) == {1.0} and set(found["0.5"].values()) == {0.5}
    assert list(found["GRAD_V"].values()) == list(map(pytest.approx, preset("GRAD_V", "sd1")))


def test_uniform_gives_every_model_the_same_share(recipe):
    steps = {
        "ab": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": {"free": [0, 1]}},
        "abc": {"method": "weighted_sum", "inputs": ["ab", "c"], "alpha": {"free": [0, 1]}},
    }
    found, _, _ = made(recipe(0.5, models="abc") | {"steps": steps})
    assert found["uniform"] == {"ab.alpha": pytest.approx(1 / 2), "abc.alpha": pytest.approx(1 / 3)}
    assert found["all B"] == {"ab.alpha": 1.0, "abc.alpha": 0.0}
    assert found["all C"]["abc.alpha"] == 1.0


def test_on_a_grid_presets_are_rounded_to_it(recipe):
    found, _, _ = made(recipe({"free": [0, 1], "per": "block", "step": 0.1}), ["GRAD_V"])
    wanted = [round(x * 10) / 10 for x in preset("GRAD_V", "sd1")]
    assert list(found["GRAD_V"].values()) == list(map(pytest.approx, wanted))


def test_what_does_not_fit_is_left_out_and_said(recipe):
    found, notes, _ = made(recipe({"free": [0.2, 1]}), ["all A", "all B", "GRAD_V"])
    assert list(found) == ["all B"]
    assert len(notes) == 2 and "all A does not fit" in notes[0]


def test_frozen_weights_keep_a_baseline_from_being_a_parent(recipe):
    found, _, _ = made(recipe({"free": [0, 1], "per": "block", "BASE": 0.3}))
    assert "all A where free" in found and "all A" not in found


def test_a_vector_or_a_point_of_ones_own_is_a_baseline(recipe):
    vector = [i / 25 for i in range(26)]
    found, _, _ = made(
        recipe({"free": [0, 1], "per": "block"}), [{"last year": vector}, {"mine": {"mix.alpha.M00": 0.9}}]
    )
    assert list(found["last year"].values()) == list(map(pytest.approx, vector))
    assert found["mine"]["mix.alpha.M00"] == 0.9 and found["mine"]["mix.alpha.IN00"] == 0.5


@pytest.mark.parametrize("wanted", ["all C", "GRAD_Q", {"x": {"mix.alpha": 3}}, {"x": [1, 2]}, [1]])
def test_a_baseline_that_there_is_not_is_refused(recipe, wanted):
    with pytest.raises(SearchError, match=r"baselines\.1"):
        made(recipe({"free": [0, 1]}), [wanted])
