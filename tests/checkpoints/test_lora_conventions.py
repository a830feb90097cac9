"""LoRA block weight vectors, against the tables that their tools publish."""

from __future__ import annotations

import pytest
from places import TEXT_ENCODERS, UNET_LABELS

from unetscope.checkpoints.errors import LabelError
from unetscope.checkpoints.families.conventions import CONVENTIONS
from unetscope.checkpoints.lora.names import targets
from unetscope.merge.block_weights import BlockWeights
from unetscope.merge.lora import LoraUse

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
    with pytest.raises(LabelError, match=r"'MIDD'.*LoRAs"):
        BlockWeights.parse({"preset": "MIDD"})
    with pytest.raises(LabelError, match=r"Unknown preset 'MIDO' \(did you mean 'MIDD'"):
        BlockWeights.parse({"preset": "MIDO", "convention": "lbw"})


def test_a_preset_of_merges_is_read_as_in_merges_beside_them():
    lora = BlockWeights.parse({"preset": "GRAD_V", "convention": "lbw"}).resolve("sdxl").by_label()
    assert lora == BlockWeights.parse("GRAD_V").resolve("sdxl").by_label()


def test_constant_presets_exist_for_every_architecture_and_the_others_for_sd1_only():
    assert set(BlockWeights.parse("ALL", "lbw-kohya").resolve("sdxl").by_label().values()) == {1.0}
    with pytest.raises(LabelError, match=r"INS.*17.*26"):
        BlockWeights.parse("INS", "lbw").resolve("sdxl")


def test_lines_alone_need_no_vector_and_the_rest_has_the_default():
    weights = BlockWeights.parse({"IN04": 0.5, "default": 1}, "lbw").resolve("sd1").by_label()
    assert weights.pop("IN04") == 0.5
    assert set(weights.values()) == {1.0}


def test_the_refiner_has_no_such_vectors():
    assert CONVENTIONS["lbw"].lengths("sdxl_refiner") == ()
    with pytest.raises(LabelError, match="no weight vector for"):
        BlockWeights.parse("ALL", "lbw").resolve("sdxl_refiner")


def of_the_extension(key: str, ratios: list[float], lines: str) -> float:
    """The ratio that the LoRA block weight extension takes: its blocks, then elements, as parts of the web UI's name of a layer.

    Lines are BLOCKS:ELEMENTS:ratio; a range is all blocks between its ends in the order of the 26, and NOT turns a choice round.
    """
    flat, ratio, block = key.removeprefix("model.").removesuffix(".weight").replace(".", "_"), 1.0, ""
    for number, label in enumerate(SD1_26):
        kind, index = label.rstrip("0123456789"), label[-2:].lstrip("0") or "0"
        part = {
            "BASE": "encoder",
            "IN": f"input_blocks_{index}_",
            "M": "middle_block_",
            "OUT": f"output_blocks_{index}_",
        }[kind]
        if part in flat:
            ratio, block = ratios[number], label
    name = flat + block
    for line in lines.replace("\n", ",").split(","):
        blocks, elements, value = line.split(":")
        words = []
        for word in blocks.split(" "):
            first, _, last = word.partition("-")
            words += SD1_26[SD1_26.index(first) : SD1_26.index(last) + 1] if last else [word]
        chosen = [
            any(w in name for w in some[1:]) is False if some[0] == "NOT" else any(w in name for w in some)
            for some in (words, elements.split(" "))
        ]
        if all(chosen):
            ratio = float(value)
    return ratio


ELEMENTS = [
    "IN05-OUT05:attn:1", "IN05-OUT05:attn:0", "IN05-OUT05:proj:0", "::1", "::0.5", "IN04 OUT03:attn1:0.25", ":ff_net:0.3",
    "NOT IN04 M00:attn2:0.7", "OUT03-OUT11:NOT attn:0.2", "NOT BASE:NOT attn1 proj_in:0.4", "BASE::0",
    "IN00-M00::0.1,IN07:to_q to_k:2",
]  # fmt: skip


@pytest.mark.one_by_one
@pytest.mark.parametrize("lines", ELEMENTS)
@pytest.mark.parametrize("start", ["", "OUTD", "ALL0.5", ",".join(str(i / 20) for i in range(17))])
def test_elements_are_those_of_the_extension(lines, start):
    """Every layer that a LoRA trains, by --lbw and by a recipe's text."""
    named = {"OUTD": [1.0, *[0.0] * 7, *[1.0] * 4, *[0.0] * 5], "ALL0.5": [0.5] * 17}
    ratios = [1.0] * 26
    if start:
        by_label = dict(zip(SD1_17, named.get(start) or [i / 20 for i in range(17)], strict=True))
        ratios = [by_label.get(label, 0.0) for label in SD1_26]
    text = f"{start}; {lines}" if start else lines
    found = BlockWeights.parse(text, "lbw").resolve("sd1")
    scaled = BlockWeights.parse(LoraUse.parse("x.safetensors:0.5:2", text).weights()).resolve("sd1")
    keys = [t.weight for t in targets("sd1") if ".encoder.layers." in t.weight or ".attentions." in t.module]
    assert len(keys) > 200
    for key in keys:
        wanted = of_the_extension(key, ratios, lines)
        assert found.weight(key) == wanted, key
        assert scaled.weight(key) == wanted * (0.5 if key.startswith("model.") else 2), key


def test_names_of_presets_are_left_out_and_lines_stand_behind_what_they_change():
    for text, same in (
        ("ATTNDEEPON:IN05-OUT05:attn:1", "IN05-OUT05:attn:1"),
        ("TWO:IN05:attn:1,IN05:attn2:0", "IN05:attn:1\nIN05:attn2:0"),
        ("INS:1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0", "INS"),
        ("XYZ:::1", "::1"),
    ):
        one, other = (BlockWeights.parse(x, "lbw").resolve("sd1") for x in (text, same))
        assert all(one.weight(t.weight) == other.weight(t.weight) for t in targets("sd1")), text
    with pytest.raises(LabelError, match="comes first"):
        BlockWeights.parse("IN05:attn:1; OUTD", "lbw")
    with pytest.raises(LabelError, match=r"strength .* a number or two"):
        BlockWeights.parse({"IN05": 1, "strength": [1, 2, 3]})
    merged = BlockWeights.parse("IN05:attn:0.7").resolve("sd1")  # of a merge, where no line says anything: all of A
    assert merged.by_label()["IN04"] == 0.0 and merged.changed_inside() == ("IN05",)
