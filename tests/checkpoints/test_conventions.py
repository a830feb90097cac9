"""Vectors are read as the tables of the tools say; the tables are written out here a second time."""

import math
from dataclasses import replace

import pytest
from places import TEXT_ENCODERS, UNET_LABELS
from told import raising

from unetscope.checkpoints.errors import LabelError
from unetscope.checkpoints.families import family_of
from unetscope.checkpoints.families.conventions import CONVENTIONS, convention_named, lbw_index

A = "stays A"
# Which number each label without a slot of its own reads, for the usual vectors (26 and 20 values, BASE first).
BORROWED_SD1 = {
    "supermerger": {"TIME_EMBED": "IN00", "OUT": "OUT11", "VAE": "BASE"},
    "supermerger-old": {"TIME_EMBED": "IN00", "OUT": "OUT11", "VAE": "BASE"},
    "merge-block-weighted": {"TIME_EMBED": "IN00", "OUT": "OUT11", "VAE": "BASE"},
    "sd-mecha": {"TIME_EMBED": "BASE", "OUT": "OUT11", "VAE": "BASE"},
}
BORROWED_SDXL = {
    "supermerger": {"TIME_EMBED": "IN00", "LABEL_EMB": "IN00", "OUT": "OUT08", "VAE": "BASE"},
    "supermerger-old": {"TIME_EMBED": A, "LABEL_EMB": A, "OUT": "OUT08", "VAE": "BASE"},
    "merge-block-weighted": {"TIME_EMBED": "IN00", "LABEL_EMB": "BASE", "OUT": "OUT08", "VAE": "BASE"},
    "sd-mecha": {"TIME_EMBED": "BASE", "LABEL_EMB": "BASE", "OUT": "OUT08", "VAE": A},
}


def order_of(text: str) -> list[str]:
    return text.split()


ORDER_26 = order_of(
    "BASE IN00 IN01 IN02 IN03 IN04 IN05 IN06 IN07 IN08 IN09 IN10 IN11 M00 "
    "OUT00 OUT01 OUT02 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11"
)
ORDER_20 = order_of(
    "BASE IN00 IN01 IN02 IN03 IN04 IN05 IN06 IN07 IN08 M00 OUT00 OUT01 OUT02 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08"
)
AUTOMB_LOG = order_of(
    "IN00 IN01 IN02 IN03 IN04 IN05 IN06 IN07 IN08 IN09 IN10 IN11 M00 OUT "
    "OUT00 OUT01 OUT02 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11 TIME_EMBED"
)
AUTOMB_RECIPE = order_of(
    "IN00 IN01 IN02 IN03 IN04 IN05 IN06 IN07 IN08 IN09 IN10 IN11 M00 "
    "OUT00 OUT01 OUT02 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11 OUT TIME_EMBED"
)
AUTOMB_SDXL = order_of(
    "IN00 IN01 IN02 IN03 IN04 IN05 IN06 IN07 IN08 LABEL_EMB M00 OUT "
    "OUT00 OUT01 OUT02 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 TIME_EMBED"
)
MBW_NAMES = list(BORROWED_SD1)


def rising(n: int) -> list[float]:
    return [round(0.03 * (i + 1), 2) for i in range(n)]


@pytest.mark.parametrize("name", MBW_NAMES)
@pytest.mark.parametrize(
    ("family", "order", "borrowed"), [("sd1", ORDER_26, BORROWED_SD1), ("sdxl", ORDER_20, BORROWED_SDXL)]
)
def test_every_label_reads_the_slot_of_the_table(name, family, order, borrowed):
    vector = rising(len(order))
    number = dict(zip(order, vector, strict=True))
    reading = CONVENTIONS[name].read(vector, family)
    assert set(reading.weights) == {*UNET_LABELS[family], *TEXT_ENCODERS[family]}
    for label, weight in {**reading.weights, "VAE": reading.vae}.items():
        slot = "BASE" if label.startswith("CLIP") else borrowed[name].get(label, label)
        assert weight == (None if slot == A else number[slot]), label
        expected = None if slot == A else (order.index(slot), slot)
        assert CONVENTIONS[name].slot_of(label, family) == expected, label


@pytest.mark.parametrize(
    ("name", "family", "order"),
    [
        ("automb", "sd1", AUTOMB_LOG),
        ("automb-recipe", "sd1", AUTOMB_RECIPE),
        ("automb", "sdxl", AUTOMB_SDXL),
        ("automb-recipe", "sdxl", AUTOMB_SDXL),
    ],
)
def test_automb_gives_every_unet_label_a_slot_of_its_own_and_leaves_the_rest_with_a(name, family, order):
    reading = CONVENTIONS[name].read(rising(len(order)), family)
    expected = dict(zip(order, rising(len(order)), strict=True))
    assert {x: reading.weights[x] for x in UNET_LABELS[family]} == expected
    assert all(reading.weights[x] == 0.0 for x in TEXT_ENCODERS[family])
    assert reading.vae is None
    with_base = CONVENTIONS[name].read(rising(len(order)), family, base=0.4)
    assert all(with_base.weights[x] == 0.4 for x in TEXT_ENCODERS[family])


@pytest.mark.parametrize(("family", "length", "blocks"), [("sd1", 30, 12), ("sdxl", 24, 9)])
def test_comfyui_numbers_are_shares_of_the_first_model(family, length, blocks):
    vector = [0.25] * length
    vector[1] = 0.9  # label_emb
    vector[2 + blocks - 1] = 1.0  # the last input block
    weights = CONVENTIONS["comfyui"].read(vector, family).weights
    assert weights["M00"] == weights["OUT"] == weights["TIME_EMBED"] == 0.75
    assert weights[f"IN{blocks - 1:02d}"] == 0.0
    if family == "sdxl":
        assert weights["LABEL_EMB"] == pytest.approx(0.1)


def test_comfyui_middle_parts_that_differ_are_refused():
    vector = [0.5] * 24
    vector[12] = 0.6
    with raising("vector.middle", LabelError, ["M00", "0.5, 0.4, 0.5"]):
        CONVENTIONS["comfyui"].read(vector, "sdxl")


@pytest.mark.parametrize("name", [name for name, c in CONVENTIONS.items() if c.layout != "lbw"])
def test_sdxl_label_emb_has_a_weight_in_every_convention_but_old_supermerger(name):
    for length in CONVENTIONS[name].lengths("sdxl"):
        weight = CONVENTIONS[name].read([0.5] * length, "sdxl", base=0.5).weights["LABEL_EMB"]
        assert weight == (None if name == "supermerger-old" else 0.5)


def test_a_vector_without_base_leaves_text_encoders_at_the_base_argument():
    mbw = CONVENTIONS["supermerger"]
    assert mbw.read([1.0] * 25, "sd1").weights["CLIP_L"] == 0.0
    assert mbw.read([1.0] * 25, "sd1", base=0.3).weights["CLIP_L"] == 0.3
    assert mbw.read([1.0] * 26, "sd1", base=0.3).weights["CLIP_L"] == 0.3
    assert mbw.read([1.0] * 25, "sd1").weights["IN00"] == 1.0
    assert mbw.slot_of("IN00", "sd1", 25) == (0, "IN00")
    assert mbw.slot_of("CLIP_L", "sd1", 25) is None


def test_scale_multiplies_the_vector_and_not_base():
    reading = CONVENTIONS["supermerger"].read([0.8] * 20, "sdxl", base=0.3, scale=0.5)
    assert reading.weights["IN04"] == 0.4
    assert reading.weights["CLIP_G"] == 0.3


def test_the_last_of_21_values_is_the_vae():
    for name in MBW_NAMES:
        reading = CONVENTIONS[name].read([*[0.5] * 20, 0.9], "sdxl")
        assert reading.vae == 0.9
        assert CONVENTIONS[name].slot_of("VAE", "sdxl", 21) == (20, "VAE")


def test_the_refiner_reads_sd1_vectors_and_has_label_emb():
    reading = CONVENTIONS["supermerger"].read(rising(26), "sdxl_refiner")
    assert reading.weights["LABEL_EMB"] == reading.weights["IN00"] == 0.06
    assert reading.weights["OUT11"] == reading.weights["OUT"] == 0.78
    assert next(iter(reading.weights)) == "CLIP_G"
    with pytest.raises(LabelError, match="SDXL"):
        CONVENTIONS["automb"].slots("sdxl_refiner", 27)


@pytest.mark.parametrize(
    ("name", "family", "length", "about"),
    [
        ("supermerger", "sd1", 20, ["20", "26", "25"]),
        ("supermerger", "sdxl", 26, ["26", "20", "19", "21", "BASE", "IN00-IN08", "M00", "OUT00-OUT08"]),
        ("supermerger", "sdxl", 25, ["25", "IN00-IN08", "M00", "OUT00-OUT08"]),
        ("supermerger", "sd1", 27, ["27", "26", "25", "'automb'", "'automb-recipe'"]),
        ("automb", "sdxl", 27, ["27", "22"]),
        ("supermerger", "sd2", 0, ["0", "SD2"]),
    ],
)
def test_a_wrong_length_is_told_which_lengths_fit(name, family, length, about):
    with raising("vector.length", LabelError, about):
        CONVENTIONS[name].read([0.5] * length, family)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_refused(bad):
    with raising("vector.not_finite", LabelError, [str(bad)]):
        CONVENTIONS["supermerger"].read([bad] * 26, "sd1")


def test_labels_that_an_architecture_lacks_and_buffers_read_nothing():
    for label in ("LABEL_EMB", "CLIP_G", "EMA", "SCHEDULE", "OTHER"):
        assert CONVENTIONS["supermerger"].slot_of(label, "sd1") is None
    assert CONVENTIONS["supermerger"].slot_of("IN09", "sdxl") is None


def test_conventions_are_found_by_name_in_any_case():
    assert convention_named("Merge_Block_Weighted").name == "merge-block-weighted"
    with pytest.raises(LabelError, match=r"'supermerger'"):
        convention_named("supermergr")


def test_lora_block_weight_indices_follow_the_published_orders():
    lbw_17 = order_of("BASE IN01 IN02 IN04 IN05 IN07 IN08 M00 OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11")
    lbw_12 = order_of("BASE IN04 IN05 IN07 IN08 M00 OUT00 OUT01 OUT02 OUT03 OUT04 OUT05")
    for family, kind, order in [
        ("sd1", "lora", lbw_17),
        ("sdxl", "lora", lbw_12),
        ("sd2", "locon", ORDER_26),
        ("sdxl", "locon", ORDER_20),
    ]:
        for label in UNET_LABELS[family]:
            assert lbw_index(label, family, kind) == (order.index(label) if label in order else None)
        assert all(lbw_index(text, family, kind) == 0 for text in TEXT_ENCODERS[family])
    assert lbw_index("IN04", "sdxl_refiner") is None


def test_a_family_without_vectors_is_pointed_at_no_convention_that_has_none():
    without = replace(family_of("sd1"), conventions={})
    with pytest.raises(LabelError) as caught:
        convention_named("comfyui").read([0.5] * 26, without)
    assert not any(name in str(caught.value).partition("has no")[2] for name in CONVENTIONS)
    with pytest.raises(LabelError, match="'supermerger'"):
        convention_named("comfyui").read([0.5] * 25, "sdxl_refiner")
