"""Presets are compared with vectors as tools publish them, written out number by number."""

import numpy as np
import pytest
from told import raising

from unetscope.checkpoints.errors import LabelError
from unetscope.checkpoints.families.presets import is_preset, lbw_preset, lbw_preset_names, preset, preset_names

# fmt: off
PUBLISHED = {
    "GRAD_V": [0, 1, 0.9166666667, 0.8333333333, 0.75, 0.6666666667, 0.5833333333, 0.5, 0.4166666667, 0.3333333333,
               0.25, 0.1666666667, 0.0833333333, 0, 0.0833333333, 0.1666666667, 0.25, 0.3333333333, 0.4166666667, 0.5,
               0.5833333333, 0.6666666667, 0.75, 0.8333333333, 0.9166666667, 1],
    "WRAP08": [0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1],
    "WRAP14": [0, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1],
    "MID12_50": [0, 0, 0, 0, 0, 0, .5, .5, .5, .5, .5, .5, .5, .5, .5, .5, .5, .5, .5, .5, 0, 0, 0, 0, 0, 0],
    "OUT07": [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1],
    "OUT12": [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    "OUT12_5": [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, .5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    "RING08_SOFT": [0, 0, 0, 0, 0, 0, .5, 1, 1, 1, .5, 0, 0, 0, 0, 0, .5, 1, 1, 1, .5, 0, 0, 0, 0, 0],
    "RING08_5": [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
    "RING10_5": [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
    "RING10_3": [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
    "SMOOTHSTEP*3": [0, 0, .0151909722222222, .0590277777777778, .12890625, .222222222222222, .336371527777778, .46875,
                     .616753472222222, .777777777777778, .94921875, .871527777777778, .687065972222222, .5,
                     .312934027777778, .128472222222222, .0507812500000004, .222222222222222, .383246527777778, .53125,
                     .663628472222223, .777777777777778, .87109375, .940972222222222, .984809027777777, 1],
    "R_SMOOTHSTEP*4": [0, 1, .97974537037037, .921296296296296, .828125, .703703703703704, .55150462962963, .375,
                       .177662037037037, .0370370370370372, .265625, .50462962962963, .750578703703704, 1,
                       .750578703703704, .504629629629629, .265624999999999, .0370370370370372, .177662037037038, .375,
                       .551504629629631, .703703703703703, .828125, .921296296296298, .979745370370369, 1],
    "SMOOTHSTEP/3": [0, 0, .04296875, .15625, .31640625, .5, .68359375, .84375, .95703125, 1, .95703125, .84375,
                     .68359375, .5, .31640625, .15625, .04296875, 0, .04296875, .15625, .31640625, .5, .68359375, .84375,
                     .95703125, 1],
    "REVERSE_COSINE": [0, 0, .00427756931309475, .0170370868554659, .0380602337443566, .0669872981077808,
                       .103323329854383, .146446609406726, .19561928549564, .25, .308658283817455, .37059047744874,
                       .434736903889974, .5, .565263096110026, .62940952255126, .691341716182545, .75,
                       .804380714504361, .853553390593274, .896676670145618, .933012701892219, .961939766255643,
                       .982962913144534, .995722430686905, 1],
}
# fmt: on


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_equals_its_published_vector(name):
    np.testing.assert_allclose(preset(name, "sd1"), PUBLISHED[name], atol=1e-9)


def test_every_other_smoothstep_follows_its_formula():
    t = np.arange(25) / 24
    s = np.interp(t, np.linspace(0, 1, 25), 3 * t**2 - 2 * t**3)
    for n in (2, 3, 4):
        # A triangle wave by arcsine of sine, which is not how the table folds.
        wave = np.arccos(np.cos(np.pi * n * s)) / np.pi
        np.testing.assert_allclose(preset(f"SMOOTHSTEP*{n}", "sd1")[1:], wave, atol=1e-7)
        x = np.arccos(np.cos(np.pi * n * t)) / np.pi
        np.testing.assert_allclose(preset(f"SMOOTHSTEP/{n}", "sd1")[1:], x * x * (3 - 2 * x), atol=1e-7)
        np.testing.assert_allclose(preset(f"R_SMOOTHSTEP/{n}", "sd1")[1:], 1 - x * x * (3 - 2 * x), atol=1e-7)


def test_true_and_fake_hermite_start_at_a_and_end_at_b_and_reverse():
    for kind in ("TRUE", "FAKE"):
        forth = np.array(preset(f"{kind}_CUBIC_HERMITE", "sd1"))
        back = np.array(preset(f"{kind}_REVERSE_CUBIC_HERMITE", "sd1"))
        assert (forth[0], forth[1], forth[-1]) == (0, 0, 1)
        np.testing.assert_allclose(forth[1:] + back[1:], 1)
        # Cubics, so fourth differences vanish; TRUE has a knot among its first blocks.
        np.testing.assert_allclose(np.diff(forth[1:], 4)[3 if kind == "TRUE" else 0 :], 0, atol=1e-12)


def test_all_have_base_at_zero_but_all_b():
    assert [name for name in preset_names() if preset(name, "sd1")[0] != 0] == ["ALL_B"]
    assert preset("ALL_B", "sd1") == (1.0,) * 26
    assert preset("ALL_A", "sdxl") == (0.0,) * 20


def test_sdxl_keeps_in00_to_08_the_middle_and_out00_to_08():
    for name in preset_names():
        long, short = preset(name, "sd1"), preset(name, "sdxl")
        assert short == long[:10] + long[13:14] + long[14:23], name
        assert preset(name, "sdxl_refiner") == preset(name, "sd2") == long


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("grad_v", "GRAD_V"),
        ("REVERSE_SMOOTHSTEP*2", "R_SMOOTHSTEP*2"),
        ("reverse-smoothstep/4", "R_SMOOTHSTEP/4"),
        ("R_COSINE", "REVERSE_COSINE"),
        (" True_Reverse_Cubic_Hermite ", "TRUE_REVERSE_CUBIC_HERMITE"),
    ],
)
def test_case_and_the_spelling_of_reverse_do_not_matter(written, name):
    assert is_preset(written)
    assert preset(written, "sd1") == preset(name, "sd1")


def test_an_unknown_preset_is_told_the_nearest():
    assert not is_preset("REVERSE_GRAD_V")
    with raising("", LabelError, ["'GRAD_W'", "'GRAD_V'", "'GRAD_A'"]):
        preset("GRAD_W", "sd1")
    with pytest.raises(LabelError, match=r"GRAD_V.*GRAD_A"):
        preset("zzz", "sd1")


def test_lora_presets_equal_the_published_ones():
    published = {
        "NONE": "0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0",
        "ALL": "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1",
        "ALL0.5": "0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5",
        "INS": "1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0",
        "IND": "1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0",
        "INALL": "1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0",
        "MIDD": "1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0",
        "OUTD": "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0",
        "OUTS": "1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1",
        "OUTALL": "1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1",
    }
    assert set(published) == set(lbw_preset_names())
    for name, text in published.items():
        assert lbw_preset(name.lower()) == tuple(map(float, text.split(",")))


def test_lora_presets_reach_locon_by_label_and_sdxl_where_they_are_constant():
    ones = [i for i, x in enumerate(lbw_preset("INALL", 26)) if x]
    assert ones == [0, 2, 3, 5, 6, 8, 9]  # BASE, IN01, IN02, IN04, IN05, IN07, IN08
    assert lbw_preset("OUTALL", 26, missing=1.0)[1] == 1.0
    assert lbw_preset("ALL", 12) == (1.0,) * 12
    assert lbw_preset("NONE", 20) == (0.0,) * 20
    with raising("", LabelError, ["17", "26"]):
        lbw_preset("MIDD", 12)
    with pytest.raises(LabelError, match="'OUTS'"):
        lbw_preset("OUTZ")
