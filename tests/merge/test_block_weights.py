"""Block weights as people write them, against weights worked out by hand."""

import json
import math
from importlib import import_module

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import given, settings
from places import TEXT_ENCODERS, UNET_LABELS, place

from unetscope.checkpoints.errors import LabelError
from unetscope.checkpoints.families import family_of
from unetscope.checkpoints.families.conventions import CONVENTIONS
from unetscope.checkpoints.families.presets import preset, preset_names
from unetscope.merge import block_weights
from unetscope.merge.block_weights import BlockWeights, parse_weights

UNET = "model.diffusion_model."
IN04 = UNET + "input_blocks.4."
ATTN1_Q = "1.transformer_blocks.0.attn1.to_q.weight"
ATTN1_K = "1.transformer_blocks.0.attn1.to_k.weight"
ATTN2_K = "1.transformer_blocks.0.attn2.to_k.weight"
FAMILIES = list(UNET_LABELS)
# Presets are for the blocks that model mergers have vectors for.
WITH_PRESETS = [family for family in FAMILIES if "supermerger" in family_of(family).conventions]


def weights(value, family="sd1", convention="supermerger"):
    return BlockWeights.parse(value, convention).resolve(family)


def by_label(value, family="sd1", convention="supermerger"):
    return weights(value, family, convention).by_label()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_number_is_the_weight_of_unet_and_text_encoders_and_of_nothing_else(family):
    resolved = weights(0.3, family)
    assert resolved.by_label() == dict.fromkeys((*TEXT_ENCODERS[family], *UNET_LABELS[family]), 0.3)
    assert resolved.is_uniform
    assert resolved.vae is None
    assert resolved.vae_by_convention == 0.3
    assert resolved.weight(UNET + "output_blocks.1.0.in_layers.0.weight") == 0.3
    for key in ("first_stage_model.decoder.conv_in.weight", "betas", "model_ema.decay", "v_pred", "what.is.this"):
        assert resolved.weight(key) == 0.0


def test_a_vector_is_read_by_its_convention_as_list_and_as_text():
    vector = [round(0.03 * i, 2) for i in range(1, 27)]
    for value in (vector, tuple(vector), ",".join(map(str, vector)), {"vector": vector}, str(vector)):
        found = by_label(value)
        assert found["CLIP_L"] == 0.03
        assert found["TIME_EMBED"] == found["IN00"] == 0.06
        assert found["M00"] == 0.42
        assert found["OUT"] == found["OUT11"] == 0.78
    assert by_label(vector, convention="sd-mecha")["TIME_EMBED"] == 0.03
    reading = by_label({"vector": [0.5] * 26 + [0.9], "convention": "automb"})
    assert (reading["TIME_EMBED"], reading["OUT11"], reading["CLIP_L"]) == (0.9, 0.5, 0.0)


@pytest.mark.parametrize(
    ("convention", "expected"),
    [("supermerger", 0.1), ("merge-block-weighted", 0.9), ("sd-mecha", 0.9), ("supermerger-old", 0.0)],
)
def test_sdxl_label_emb_follows_the_convention_in_vectors_and_in_lines(convention, expected):
    vector = [0.9, 0.1] + [0.5] * 18
    assert by_label(vector, "sdxl", convention)["LABEL_EMB"] == expected
    lines = {"BASE": 0.9, "IN00": 0.1, "IN01-OUT08": 0.5}
    assert by_label(lines, "sdxl", convention)["LABEL_EMB"] == expected
    assert by_label({"vector": vector, "LABEL_EMB": 0.7}, "sdxl", convention)["LABEL_EMB"] == 0.7
    assert by_label({"vector": vector, "*EMB*": 0.7}, "sdxl", convention)["LABEL_EMB"] == 0.7
    key = UNET + "label_emb.0.0.weight"
    assert weights(vector, "sdxl", convention).weight(key) == expected


@pytest.mark.parametrize(
    ("family", "length", "keys_of", "blocks_of"),
    [
        ("sd1", 26, "sd1-ldm", "convert_sd1_blocks.convert_sd1_blocks_to_ldm"),
        ("sdxl", 21, "sdxl-sgm", "convert_sdxl_blocks.convert_sdxl_blocks_to_sgm"),
    ],
)
def test_every_key_has_the_weight_that_sd_mecha_gives_it(family, length, keys_of, blocks_of):
    pytest.importorskip("sd_mecha")
    from sd_mecha.extensions import model_configs

    class Blocks(dict):
        @property
        def keys(self):
            return {slot: slot for slot in slots}

    slots = CONVENTIONS["sd-mecha"].slots(family, length)
    vector = {slot: 0.01 * (i + 1) for i, slot in enumerate(slots)}
    module, name = blocks_of.split(".")
    converter = getattr(import_module(f"sd_mecha.extensions.builtin.model_configs.{module}"), name)
    slot_of_key = Blocks()
    converter.__wrapped__.map_keys(slot_of_key)
    assert set(slot_of_key) == set(model_configs.resolve(keys_of).keys())
    resolved = weights(list(vector.values()), family, "sd-mecha")
    checked = 0
    for key, slot in slot_of_key.items():
        if place(key).label in resolved.by_label():
            assert resolved.weight(key) == vector[slot], key
            checked += 1
    assert checked > 850
    vae_slots = {slot for key, slot in slot_of_key.items() if key.startswith("first_stage_model.")}
    assert [vector[slot] for slot in vae_slots] == [resolved.vae_by_convention]


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_its_vector_in_every_architecture(name):
    for family in WITH_PRESETS:
        vector = preset(name, family)
        assert by_label(name.lower(), family) == by_label(list(vector), family)
        # AutoMBW's order has no place for presets: they stay what they are.
        assert by_label(name, family, "automb") == by_label(name, family)


def test_later_lines_win_and_ranges_run_in_network_order():
    found = by_label({"IN05-OUT05": 0.6, "OUT*": 0.3, "MID": 0.9, "in4 IN5, out03 - out04": 0.2, "default": 0.1})
    expected = dict.fromkeys(UNET_LABELS["sd1"], 0.1)
    expected |= {f"IN{i:02d}": 0.6 for i in range(5, 12)} | {f"OUT{i:02d}": 0.3 for i in range(12)}
    expected |= {"OUT": 0.3, "M00": 0.9, "IN04": 0.2, "IN05": 0.2, "OUT03": 0.2, "OUT04": 0.2}
    assert {k: v for k, v in found.items() if k != "CLIP_L"} == expected
    assert found["CLIP_L"] == 0.1


def test_not_selects_everything_else_but_the_vae():
    resolved = weights({"default": 0.5, "NOT M00 OUT03-OUT04": 0})
    assert {k for k, v in resolved.by_label().items() if v} == {"M00", "OUT03", "OUT04"}
    assert resolved.vae is None
    assert weights({"NOT IN00": 0.5}).by_label()["TIME_EMBED"] == 0.5


def test_base_text_and_single_encoders():
    assert by_label({"BASE": 0.4}, "sdxl")["CLIP_L"] == 0.4
    found = by_label({"text": 0.4, "CLIP_G": 0.1}, "sdxl")
    assert (found["CLIP_L"], found["CLIP_G"], found["IN00"]) == (0.4, 0.1, 0.0)
    assert by_label({"preset": "ALL_B", "base": 0.3})["CLIP_L"] == 0.3
    assert by_label({"UNET": 0.4}) == dict.fromkeys(("CLIP_L", *UNET_LABELS["sd1"]), 0.4) | {"CLIP_L": 0.0}


def test_labels_without_a_slot_follow_lines_too_until_named():
    assert by_label({"IN00": 0.7, "OUT11": 0.2})["TIME_EMBED"] == 0.7
    assert by_label({"IN00": 0.7, "OUT11": 0.2})["OUT"] == 0.2
    assert by_label({"TIME_EMBED": 0.1, "IN00": 0.7})["TIME_EMBED"] == 0.1
    assert by_label({"IN00": 0.7}, convention="automb")["TIME_EMBED"] == 0.0
    assert by_label({"IN00 conv": 0.7})["TIME_EMBED"] == 0.0


def test_the_vae_has_a_weight_only_when_named():
    for value in (0.5, [1.0] * 26, "ALL_B", {"*": 1}, {"NOT M00": 1}, {"key:*": 1}, {"conv": 1}):
        resolved = weights(value)
        assert resolved.vae is None
        assert resolved.weight("first_stage_model.encoder.conv_in.weight") == 0.0
    resolved = weights({"preset": "ALL_B", "VAE": 0.25})
    assert resolved.vae == resolved.by_label()["VAE"] == 0.25
    assert resolved.weight("first_stage_model.encoder.conv_in.weight") == 0.25
    assert weights([0.3] + [0.5] * 25).vae_by_convention == 0.3
    assert weights([0.3] + [0.5] * 26, convention="automb").vae_by_convention == 0.0
    part = weights({"default": 0.5, "VAE conv": 0.3})
    assert part.vae == 0.0
    assert part.weight("first_stage_model.encoder.conv_in.weight") == 0.3
    assert part.weight("first_stage_model.encoder.norm_out.weight") == 0.0


def test_gradients_run_from_block_to_block():
    linear = by_label({"IN00-OUT11": {"gradient": [0, 1]}})
    blocks = [x for x in UNET_LABELS["sd1"] if x[-1].isdigit()]
    assert len(blocks) == 25
    assert [linear[x] for x in blocks] == pytest.approx([i / 24 for i in range(25)])
    assert linear["OUT"] == 1.0  # follows OUT11
    cosine = by_label({"IN04-IN08": {"gradient": [1, 3], "curve": "cosine"}})
    by_hand = [1 + (1 - math.cos(math.pi * i / 4)) for i in range(5)]
    assert [cosine[f"IN{i:02d}"] for i in range(4, 9)] == pytest.approx(by_hand)
    stops = by_label({"IN00-OUT08": {"gradient": [1, 0, 1]}}, "sdxl")
    assert (stops["IN00"], stops["M00"], stops["OUT08"]) == (1, 0, 1)
    assert by_label({"M00": {"gradient": [0.2, 1]}})["M00"] == 0.2


def test_kinds_of_layer_inside_blocks_and_everywhere():
    resolved = weights({"IN04": 0.5, "IN04-IN08 attn1": 0.4, "attn2.k": 0.9, "IN05 norm, conv": 0.2})
    assert resolved.weight(IN04 + ATTN1_Q) == 0.4
    assert resolved.weight(IN04 + ATTN2_K) == 0.9
    assert resolved.weight(IN04 + "0.in_layers.2.weight") == 0.5
    assert resolved.weight(UNET + "input_blocks.5.0.in_layers.2.weight") == 0.2
    assert resolved.weight(UNET + "input_blocks.1." + ATTN2_K) == 0.9
    assert resolved.weight(UNET + "input_blocks.1." + ATTN1_K) == 0.0
    assert not resolved.is_uniform
    assert "IN01" in resolved.changed_inside()
    # A later line on the whole block wins over an earlier one on its attention.
    assert weights({"attn1": 0.4, "IN04": 0.7}).weight(IN04 + ATTN1_Q) == 0.7


def test_attn_means_every_attention_and_kinds_take_globs():
    text = "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"
    for value in ({"attn": 0.4}, {"attn.q": 0.4}, {"*.q": 0.4}):
        resolved = weights(value)
        assert resolved.weight(IN04 + ATTN1_Q) == resolved.weight(text) == 0.4
    assert weights({"UNET attn": 0.4}).weight(text) == 0.0
    assert weights({"attn.q": 0.4}).weight(IN04 + ATTN1_K) == 0.0


def test_key_patterns_by_glob_and_by_regular_expression():
    resolved = weights(
        {"default": 0.5, "key:*.to_k.weight": 0.1, "OUT* key:*.attn1.*": 0.2, r"/input_blocks\.[45]\./": 0.9}
    )
    assert resolved.weight(UNET + "input_blocks.1." + ATTN1_K) == 0.1
    assert resolved.weight(UNET + "input_blocks.1." + ATTN1_Q) == 0.5
    assert resolved.weight(IN04 + ATTN1_K) == 0.9
    assert resolved.weight(UNET + "output_blocks.4." + ATTN1_K) == 0.2
    assert weights({"key:to_k.weight": 1}).weight(IN04 + ATTN1_K) == 0.0  # a glob fits the whole key


def test_a_preset_or_vector_changed_by_scale_base_and_lines():
    found = by_label({"preset": "GRAD_V", "scale": 0.5, "base": 0.3, "IN05": 0.9})
    assert found["CLIP_L"] == 0.3
    assert found["IN00"] == found["TIME_EMBED"] == 0.5
    assert found["IN06"] == 0.25
    assert found["IN05"] == 0.9
    inverted = by_label({"vector": [0.2] * 24, "convention": "comfyui", "scale": 0.5, "BASE": 1}, "sdxl")
    assert inverted["IN05"] == inverted["LABEL_EMB"] == 0.4
    assert inverted["CLIP_G"] == 1


def test_is_uniform_sees_through_the_way_it_is_written():
    assert weights({"default": 0.5}).is_uniform
    assert weights("ALL_B").is_uniform
    assert weights({"default": 0.5, "attn1": 0.5, "IN04": 0.5}).is_uniform
    assert not weights("FLAT_25").is_uniform
    assert not weights({"default": 0.5, "key:*": 0.4}).is_uniform


def test_text_forms_equal_the_mapping():
    mapping = {"IN04-IN08": 0.7, "OUT* attn1": 0.3, "key:*.proj_in.*": 0.1, "preset": "GRAD_V", "scale": 0.5}
    text = "IN04-IN08:0.7; OUT* attn1: 0.3;\n key:*.proj_in.*: 0.1; preset: GRAD_V; scale: 0.5"
    assert parse_weights(text) == mapping
    assert BlockWeights.parse(text) == BlockWeights.parse(mapping)
    assert parse_weights("IN00-OUT11: {gradient: [0, 1]}") == {"IN00-OUT11": {"gradient": [0, 1]}}
    assert parse_weights(r"/a(?:b)\./: 1") == {r"/a(?:b)\./": 1.0}
    assert parse_weights("1e-3") == 0.001
    assert parse_weights("0, 0.5 1") == [0, 0.5, 1]
    assert parse_weights(" grad_v ") == "grad_v"


def test_weights_come_from_files(tmp_path):
    mapping = {"IN04-IN08": 0.7, "OUT*": {"gradient": [0, 1]}}
    (tmp_path / "w.yaml").write_text(yaml.safe_dump(mapping))
    (tmp_path / "w.json").write_text(json.dumps(mapping))
    (tmp_path / "w.txt").write_text("0,\n" + ",\n".join(["0.5"] * 25) + "\n")
    (tmp_path / "lines.txt").write_text("# mine\nIN04-IN08: 0.7\nOUT*: {gradient: [0, 1]}\n")
    assert parse_weights("@w.yaml", tmp_path) == parse_weights("@w.json", tmp_path) == mapping
    assert parse_weights("@lines.txt", tmp_path) == mapping
    assert parse_weights(f"@{tmp_path / 'w.txt'}") == [0] + [0.5] * 25
    (tmp_path / "bad.yaml").write_text("{a: [")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "big.txt").write_text("0," * 600_000)
    for name in ("none.txt", "bad.yaml", "bad.json", "bad.txt", "big.txt", ""):
        with pytest.raises(LabelError):
            parse_weights("@" + name, tmp_path)


def test_the_examples_of_the_module_are_yaml_and_mean_what_they_say():
    text = block_weights.__doc__
    lines = text[text.index("alpha:    ") : text.index("    alpha:\n")]
    resolved = weights(yaml.safe_load(lines)["alpha"])
    found = resolved.by_label()
    assert (found["IN04"], found["IN06"], found["M00"], found["OUT03"]) == (0.2, 0, 0.1, 0.2)
    assert found["CLIP_L"] == 0.4
    assert resolved.weight(IN04 + ATTN2_K) == 0.2  # the regular expression stands last
    for example in (
        "{IN00-OUT11: {gradient: [0, 1], curve: cosine}}",
        "{preset: GRAD_V, scale: 0.5, base: 0.3, OUT: 1}",
    ):
        assert example.strip("{}").split("}")[0] in text
        assert weights(yaml.safe_load(example)).by_label()["OUT"] == 1


numbers = st.floats(-2, 2)
block_words = st.sampled_from([*UNET_LABELS["sd1"][1:], "IN02-OUT03", "OUT*", "BASE", "NOT M00", "UNET", "mid"])
kind_words = st.sampled_from(["", " attn1", " ff.in", " norm conv", " key:*weight", " skip"])
line_values = st.one_of(
    numbers,
    st.builds(lambda s, c: {"gradient": s, "curve": c}, st.lists(numbers, min_size=2, max_size=4), st.just("linear")),
)
plain_lines = st.dictionaries(st.builds(str.__add__, block_words, kind_words), numbers, min_size=1, max_size=6)
written = st.one_of(
    numbers,
    st.lists(numbers, min_size=26, max_size=26),
    st.sampled_from(preset_names()),
    plain_lines,
    st.builds(lambda v, p, s: {**v, "preset": p, "scale": s}, plain_lines, st.sampled_from(preset_names()), numbers),
    st.dictionaries(st.sampled_from(["IN00-OUT11", "OUT* attn2", "M00"]), line_values, min_size=1),
)
KEYS = [IN04 + ATTN1_Q, UNET + "middle_block.1.norm.weight", UNET + "time_embed.0.weight", UNET + "out.2.bias"]


@settings(max_examples=150, deadline=None)
@given(written, st.sampled_from([c for c in CONVENTIONS if CONVENTIONS[c].layout == "mbw"]))
def test_what_was_written_survives_yaml_and_json(value, convention):
    parsed = BlockWeights.parse(value, convention)
    for plain in (
        yaml.safe_load(yaml.safe_dump(parsed.to_plain(), sort_keys=False)),
        json.loads(json.dumps(parsed.to_plain())),
    ):
        again = BlockWeights.parse(plain, convention)
        assert again == parsed
        one, two = parsed.resolve("sd2"), again.resolve("sd2")
        assert one.by_label() == two.by_label()
        assert [one.weight(k) for k in KEYS] == [two.weight(k) for k in KEYS]


@settings(max_examples=150, deadline=None)
@given(plain_lines, st.sampled_from(["sd1", "sd2"]))
def test_a_uniform_weight_is_what_every_key_gets_and_labels_are_complete(lines, family):
    resolved = weights(lines, family)
    assert set(resolved.by_label()) == {*TEXT_ENCODERS[family], *UNET_LABELS[family]}
    assert all(math.isfinite(x) for x in resolved.by_label().values())
    if resolved.is_uniform:
        assert len({resolved.weight(key) for key in KEYS}) == 1


def test_a_regular_expression_behind_blocks_chooses_among_their_keys():
    value = {
        "default": 0.1,
        "VAE": 0.2,
        "VAE /norm/": 0.3,
        "NOT IN04 /attn1.*(q|k)\\./": 0.5,
        "IN04 OUT03-OUT05 /attn2/": 0.7,
    }
    resolved = weights(value)
    assert resolved.weight("first_stage_model.encoder.norm_out.weight") == 0.3
    assert resolved.weight("first_stage_model.encoder.conv_in.weight") == 0.2
    assert [resolved.weight(IN04 + x) for x in (ATTN1_Q, ATTN1_K, ATTN2_K)] == [0.1, 0.1, 0.7]
    out = UNET + "output_blocks.4."
    assert [resolved.weight(out + x) for x in (ATTN1_Q, ATTN1_K, ATTN2_K)] == [0.5, 0.5, 0.7]
    assert BlockWeights.parse(resolved_again := BlockWeights.parse(value).to_plain()).to_plain() == resolved_again


@pytest.mark.parametrize("line", ["IN04 /attn", "IN04 key:*norm* /attn/", "IN99x /attn/", "NOT /attn/"])
def test_a_regular_expression_that_is_none_is_refused(line):
    with pytest.raises(LabelError):
        weights({line: 0.5})


def test_the_three_middle_numbers_of_comfyui_weigh_the_three_parts_of_the_middle_block():
    vector = [1.0] * 11 + [0.2, 0.4, 0.9] + [1.0] * 9 + [0.0]
    middle = [f"{UNET}middle_block.{n}.norm.weight" for n in range(3)]
    resolved = weights({"vector": vector, "convention": "comfyui", "IN04": 0.5}, "sdxl")
    assert [resolved.weight(key) for key in middle] == pytest.approx([0.8, 0.6, 0.1])
    assert resolved.by_label()["M00"] == pytest.approx(0.5)
    # A line for the whole block, or a part of it, wins as ever.
    assert weights({"vector": vector, "convention": "comfyui", "M00": 0.3}, "sdxl").weight(middle[2]) == 0.3
    line = {"vector": vector, "convention": "comfyui", "key:*.middle_block.1.*": 0.25}
    assert [weights(line, "sdxl").weight(key) for key in middle] == pytest.approx([0.8, 0.25, 0.1])


@pytest.mark.parametrize(
    "text",
    [
        "key:*.middle_block.1.*: 0.3", "'key:*.middle_block.1.*: 0.3'", "'key:*.middle_block.1.*': 0.3",
        '{"key:*.middle_block.1.*": 0.3}', {"key:*.middle_block.1.*: 0.3": None}, {"'key:*.middle_block.1.*: 0.3'": None},
    ],
)  # fmt: skip
def test_a_line_on_keys_is_read_in_quotes_and_without(text):
    assert weights(text).weight(f"{UNET}middle_block.1.norm.weight") == 0.3
    assert weights(text).weight(f"{UNET}middle_block.0.norm.weight") == 0


def test_a_colon_of_a_regular_expression_behind_blocks_is_no_element():
    found = weights("IN04 /(?:attn1|norm1)/: 0.5; OUT05:attn:0.25")
    assert (found.weight(IN04 + ATTN1_Q), found.weight(IN04 + ATTN2_K)) == (0.5, 0.0)
    assert found.weight(UNET + "output_blocks.5." + ATTN2_K) == 0.25


@pytest.mark.parametrize("apart", [", ", ",", " "])
def test_a_vector_before_lines_is_read_as_one_alone(apart):
    vector = [round(0.03 * i, 2) for i in range(1, 27)]
    assert by_label(apart.join(map(str, vector)) + "; IN04: 0.5") == by_label(vector) | {"IN04": 0.5}


@pytest.mark.parametrize("start", ["0.5,0.7", "0.5,abc", "[0.1, 0.2]"])
def test_numbers_before_lines_that_are_no_vector_are_refused(start):
    with pytest.raises(LabelError):
        weights(f"{start}; IN04: 1")
