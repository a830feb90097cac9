"""LoRA block weight vectors, against the tables that their tools publish."""

from __future__ import annotations

import pytest
from places import TEXT_ENCODERS, UNET_LABELS

from unetscope.checkpoints.conventions import CONVENTIONS
from unetscope.checkpoints.errors import LabelError
from unetscope.merge.block_weights import BlockWeights

SD1_17 = [
    "BASE",
    "IN01",
    "IN02",
    "IN04",
    "IN05",
    "IN07",
    "IN08",
    "M00",
    "OUT03",
    "OUT04",
    "OUT05",
    "OUT06",
    "OUT07",
    "OUT08",
    "OUT09",
    "OUT10",
    "OUT11",
]
XL_12 = ["BASE", "IN04", "IN05", "IN07", "IN08", "M00", "OUT00", "OUT01", "OUT02", "OUT03", "OUT04", "OUT05"]
SD1_26 = ["BASE", *(f"IN{i:02}" for i in range(12)), "M00", *(f"OUT{i:02}" for i in range(12))]
XL_20 = ["BASE", *(f"IN{i:02}" for i in range(9)), "M00", *(f"OUT{i:02}" for i in range(9))]
FREE = {"TIME_EMBED", "LABEL_EMB", "OUT"}


@pytest.mark.parametrize("name, missing", [("lbw", 0.0), ("lbw-kohya", 1.0)])
@pytest.mark.parametrize(
    "family, slots", [("sd1", SD1_17), ("sd2", SD1_26), ("sd1", SD1_26), ("sdxl", XL_12), ("sdxl", XL_20)]
)
def test_each_block_reads_its_number_and_blocks_without_one_what_the_tool_gives_them(name, missing, family, slots):
    vector = [0.01 * (i + 1) for i in range(len(slots))]
    weights = BlockWeights.parse({"vector": vector, "convention": name}).resolve(family).by_label()
    expected = dict(zip(slots, vector, strict=True))
    assert set(weights) == {*TEXT_ENCODERS[family], *UNET_LABELS[family]}
    for label, value in weights.items():
        if label in TEXT_ENCODERS[family]:
            assert value == expected["BASE"]
        else:
            assert value == expected.get(label, 1.0 if label in FREE else missing), label


def test_strengths_of_the_unet_and_the_text_encoders_are_scale_and_base():
    given = {"vector": [0.5] * 12, "convention": "lbw-kohya", "scale": 0.8, "base": 0.3}
    weights = BlockWeights.parse(given).resolve("sdxl").by_label()
    assert weights["CLIP_L"] == weights["CLIP_G"] == 0.3
    assert weights["IN04"] == pytest.approx(0.4)
    assert weights["IN01"] == weights["OUT"] == pytest.approx(0.8)


def test_a_preset_of_loras_is_known_in_their_conventions_only():
    weights = BlockWeights.parse({"preset": "midd", "convention": "lbw"}).resolve("sd1").by_label()
    published = dict(zip(SD1_17, [1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0], strict=True))
    assert {x: weights["CLIP_L" if x == "BASE" else x] for x in SD1_17} == published
    with pytest.raises(LabelError, match=r"'MIDD' is one for LoRAs; it needs the convention lbw"):
        BlockWeights.parse({"preset": "MIDD"})
    with pytest.raises(LabelError, match=r"Unknown preset 'MIDO' \(did you mean 'MIDD'"):
        BlockWeights.parse({"preset": "MIDO", "convention": "lbw"})


def test_a_preset_of_merges_is_read_as_in_merges_beside_them():
    lora = BlockWeights.parse({"preset": "GRAD_V", "convention": "lbw"}).resolve("sdxl").by_label()
    assert lora == BlockWeights.parse("GRAD_V").resolve("sdxl").by_label()


def test_constant_presets_exist_for_every_architecture_and_the_others_for_sd1_only():
    assert set(BlockWeights.parse("ALL", "lbw-kohya").resolve("sdxl").by_label().values()) == {1.0}
    with pytest.raises(LabelError, match="INS exists with 17 or 26 values"):
        BlockWeights.parse("INS", "lbw").resolve("sdxl")


def test_lines_alone_need_no_vector_and_the_rest_has_the_default():
    weights = BlockWeights.parse({"IN04": 0.5, "default": 1}, "lbw").resolve("sd1").by_label()
    assert weights.pop("IN04") == 0.5
    assert set(weights.values()) == {1.0}


def test_the_refiner_has_no_such_vectors():
    assert CONVENTIONS["lbw"].lengths("sdxl_refiner") == ()
    with pytest.raises(LabelError, match="no weight vector for"):
        BlockWeights.parse("ALL", "lbw").resolve("sdxl_refiner")
