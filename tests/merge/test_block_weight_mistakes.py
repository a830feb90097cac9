"""Block weights as people mistype them: one sentence that names what is wrong, and nothing else comes out."""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from places import UNET_LABELS

from unetscope.checkpoints.errors import LabelError
from unetscope.checkpoints.families.conventions import CONVENTIONS
from unetscope.checkpoints.families.parts.kinds import KINDS
from unetscope.merge.block_weights import BlockWeights

FAMILIES = list(UNET_LABELS)
KEY = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"IN44": 1}, "Unknown block.*'IN44'.*did you mean 'IN04'"),
        ({"attn3": 1}, "'attn3'.*did you mean 'attn"),
        ({"IN08-IN04": 1}, "runs backwards; write IN04-IN08"),
        ({"IN00-IN12": 1}, "'IN12' is none"),
        ({"EMA": 1}, "copied from the first model"),
        ({"NOT": 1}, "name no block"),
        ({"IN04": float("nan")}, "'IN04' has to be a finite number"),
        ({"IN04": True}, "has to be a number, found True"),
        ({"IN04": "lots"}, "has to be a number, found 'lots'"),
        ({"IN04": None}, "has to be a number, found None"),
        ({"IN04": {"gradient": [1]}}, "two or more numbers"),
        ({"IN04": {"gradient": [0, 1], "curve": "round"}}, "'round'; known are linear and cosine"),
        ({"IN04": {"grad": [0, 1]}}, "unknown part 'grad'"),
        ({"BASE": {"gradient": [0, 1]}}, "not over BASE"),
        ({4: 1}, "4 name no block"),
        ({}, "are empty"),
        ("", "are empty"),
        ("GRAD_W", "did you mean 'GRAD_V'"),
        ({"preset": 3}, "Unknown preset 3"),
        ({"preset": "GRAD_V", "vector": [0] * 26}, "both a preset and a vector"),
        ({"preset": "GRAD_V", "default": 1}, "default"),
        ({"scale": 2, "IN04": 1}, "no vector or preset"),
        ({"convention": "automatic", "IN04": 1}, "Unknown convention 'automatic'"),
        ([0.5] * 25 + ["x"], "Value 25 of the weight vector"),
        ({"/(/": 1}, "cannot be read"),
        ({"/abc": 1}, "between slashes"),
        (10**400, "finite"),
        ([10**5000] * 26, "a huge int"),
        ("@weights.txt", "names a file"),
        ("IN04: ", "has no weight"),
        ("IN04: {gradient: [0", "YAML"),
        (object(), "has to be a number"),
    ],
)
def test_a_mistake_is_named_when_the_weights_are_read(value, said):
    with pytest.raises(LabelError, match=said):
        BlockWeights.parse(value)


@pytest.mark.parametrize(
    ("value", "family", "said"),
    [
        ([0.5] * 7, "sd1", "7 values fits no architecture"),
        ([0.5] * 27, "sd1", "27 values.*'automb'"),
        ({"IN09": 1}, "sdxl", "SDXL has no IN09 .*IN00-IN08, M00, OUT00-OUT08, OUT"),
        ({"IN04-IN11": 1}, "sdxl", "SDXL has no IN11"),
        ({"IN1*": 1}, "sdxl", "fits no block of SDXL"),
        ({"LABEL_EMB": 1}, "sd1", "SD1 has no LABEL_EMB.*CLIP_L, TIME_EMBED"),
        ({"CLIP_G": 1}, "sd1", "SD1 has no CLIP_G"),
        ([0.5] * 26, "sdxl", "20, 19 or 21 values; it is one for SD1"),
        ([0.5] * 20, "sd2", "26 or 25 values"),
    ],
)
def test_what_an_architecture_lacks_is_named_when_it_is_known(value, family, said):
    parsed = BlockWeights.parse(value)
    with pytest.raises(LabelError, match=said):
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
    with pytest.raises(LabelError, match=r"at most 3\.4e\+38"):
        BlockWeights.parse(given_weights)


def test_the_largest_weight_of_fp32_is_a_weight():
    largest = 3.4028234663852886e38
    assert BlockWeights.parse(largest).resolve("sd1").weight(KEY) == largest
