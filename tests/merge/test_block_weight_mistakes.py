"""Block weights as people mistype them: one sentence that names what is wrong, and nothing else comes out."""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from places import UNET_LABELS
from told import raising

from unetscope.checkpoints.errors import LabelError
from unetscope.checkpoints.families.conventions import CONVENTIONS
from unetscope.checkpoints.families.parts.kinds import KINDS
from unetscope.merge.block_weights import BlockWeights

FAMILIES = list(UNET_LABELS)
KEY = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"


@pytest.mark.parametrize(
    ("value", "code", "about"),
    [
        ({"IN44": 1}, "", ["'IN44'", "'IN04'"]),
        ({"attn3": 1}, "", ["'attn3'", "'attn'"]),
        ({"IN08-IN04": 1}, "", ["'IN08-IN04'", "IN04-IN08"]),
        ({"IN00-IN12": 1}, "", ["'IN00-IN12'", "'IN12'", "'IN11'"]),
        ({"EMA": 1}, "", ["EMA"]),
        ({"NOT": 1}, "", ["'NOT'"]),
        ({"IN04": float("nan")}, "", ["'IN04'", "nan"]),
        ({"IN04": True}, "", ["'IN04'", "True"]),
        ({"IN04": "lots"}, "", ["'IN04'", "'lots'"]),
        ({"IN04": None}, "", ["'IN04'", "None"]),
        ({"IN04": {"gradient": [1]}}, "", ["'IN04'", "[1]", "{gradient: [0, 1]}"]),
        ({"IN04": {"gradient": [0, 1], "curve": "round"}}, "", ["'IN04'", "'round'"]),
        ({"IN04": {"grad": [0, 1]}}, "", ["'IN04'", "'grad'", "{gradient: [0, 1], curve: linear}"]),
        ({"BASE": {"gradient": [0, 1]}}, "", ["'BASE'", "IN", "M00", "OUT"]),
        ({4: 1}, "", ["4", "IN04", "OUT00-OUT03"]),
        ({}, "weights.empty", []),
        ("", "weights.empty", []),
        ("GRAD_W", "", ["'GRAD_W'", "'GRAD_V'"]),
        ({"preset": 3}, "", ["3"]),
        ({"preset": "GRAD_V", "vector": [0] * 26}, "weights.two_sources", []),
        ({"preset": "GRAD_V", "default": 1}, "weights.default_unused", []),
        ({"scale": 2, "IN04": 1}, "weights.scale_unused", []),
        ({"convention": "automatic", "IN04": 1}, "", ["'automatic'", "'automb'"]),
        ([0.5] * 25 + ["x"], "", ["25", "'x'"]),
        ({"/(/": 1}, "", ["'/(/'"]),
        ({"/abc": 1}, "", ["'/abc'"]),
        (10**400, "", ["1" + "0" * 37]),
        ([10**5000] * 26, "", ["0"]),
        ("@weights.txt", "", ["'@weights.txt'"]),
        ("IN04: ", "", ["'IN04:'"]),
        ("IN04: {gradient: [0", "", ["'IN04'", "YAML"]),
        (object(), "", ["object"]),
    ],
)
def test_a_mistake_is_named_when_the_weights_are_read(value, code, about):
    with raising(code, LabelError, about):
        BlockWeights.parse(value)


@pytest.mark.parametrize(
    ("value", "family", "about"),
    [
        ([0.5] * 7, "sd1", ["7", "26", "25", "20", "19", "21"]),
        ([0.5] * 27, "sd1", ["27", "'automb'"]),
        ({"IN09": 1}, "sdxl", ["SDXL", "IN09", "IN00-IN08, M00, OUT00-OUT08, OUT"]),
        ({"IN04-IN11": 1}, "sdxl", ["SDXL", "IN11"]),
        ({"IN1*": 1}, "sdxl", ["'IN1*'", "SDXL"]),
        ({"LABEL_EMB": 1}, "sd1", ["SD1", "LABEL_EMB", "CLIP_L, TIME_EMBED"]),
        ({"CLIP_G": 1}, "sd1", ["SD1", "CLIP_G"]),
        ([0.5] * 26, "sdxl", ["SDXL", "20", "19", "21", "SD1"]),
        ([0.5] * 20, "sd2", ["SD2", "26", "25"]),
    ],
)
def test_what_an_architecture_lacks_is_named_when_it_is_known(value, family, about):
    parsed = BlockWeights.parse(value)
    with raising("", LabelError, about):
        parsed.resolve(family)


junk_words = st.sampled_from(
    [
        "IN04",
        "OUT*",
        "-",
        "NOT",
        ":",
        ";",
        "key:",
        "/",
        "0.5",
        ",",
        "{",
        "}",
        "[",
        "gradient",
        "preset",
        "GRAD_V",
        "nan",
    ]
)
junk_text = st.one_of(
    st.text(max_size=60), st.lists(junk_words, max_size=12).map(" ".join), st.lists(junk_words).map("".join)
)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), junk_text, st.sampled_from(KINDS)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=27), st.dictionaries(st.one_of(junk_text, st.integers()), inner, max_size=5)
    ),
    max_leaves=30,
)


@settings(max_examples=600, deadline=None)
@given(anything, st.sampled_from(list(CONVENTIONS)))
def test_nothing_but_label_errors_comes_out_of_nonsense(value, convention):
    try:
        parsed = BlockWeights.parse(value, convention)
        for family in FAMILIES:
            parsed.resolve(family).by_label()
    except LabelError as error:
        assert len(str(error)) > 10


@pytest.mark.parametrize(
    "given_weights", [3.5e38, -1e39, {"IN04": 1e300}, {"IN00-OUT11": {"gradient": [0, 1e39]}}, "1e39"]
)
def test_a_weight_beyond_fp32_is_refused(given_weights):
    with pytest.raises(LabelError, match=r"3\.4e\+38"):
        BlockWeights.parse(given_weights)


def test_the_largest_weight_of_fp32_is_a_weight():
    largest = 3.4028234663852886e38
    assert BlockWeights.parse(largest).resolve("sd1").weight(KEY) == largest
