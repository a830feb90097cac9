"""LoRAs baked into checkpoints by recipes, against sums by numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file
from safetensors.torch import save_file as save_torch
from small_loras import MODULES, SD1, SD1_CONV, UNET, changes, write_lora

from unetscope.checkpoints.demo import write_demo, write_demo_lora
from unetscope.merge import MergeError, Recipe, dry_run, merge
from unetscope.merge.lora import LoraUse, bake_recipe, merge_loras


def bake(base, uses, output, **options) -> dict:
    recipe = bake_recipe(base, uses)
    plain = {**recipe.to_plain(), "output": {"dtype": "fp32"}}
    merge(Recipe.parse(plain), output, fsync=False, **options)
    return load_file(output)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_the_result_is_base_plus_strength_times_change(make_checkpoint, tmp_path, family):
    base, tensors = make_checkpoint("base", family, dtype="fp32")
    a, b = (write_lora(tmp_path / f"{n}.safetensors", family, seed=i, rank=2 + i) for i, n in enumerate("ab"))
    baked = bake(base, [LoraUse(a, 0.8, 0.3), LoraUse(b, -0.5)], tmp_path / "out.safetensors")
    of_a, of_b = (changes(load_file(f), family) for f in (a, b))
    kept = {key: weight for key, weight in tensors.items() if not key.startswith("model_ema.")}
    assert baked.keys() == kept.keys()
    for key, weight in kept.items():
        wanted = weight.double().numpy()
        if key in of_a:
            strength = 0.8 if key.startswith("model.") else 0.3
            wanted = wanted + strength * of_a[key] - 0.5 * of_b[key]
            assert np.allclose(baked[key].numpy(), wanted, atol=1e-6), key
        else:
            assert np.array_equal(baked[key].numpy(), weight.numpy()), key


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_merged_lora_bakes_as_its_parts_do(make_checkpoint, tmp_path, family):
    base, _ = make_checkpoint("base", family, dtype="fp32")
    uses = [LoraUse(write_lora(tmp_path / f"{i}.safetensors", family, seed=i), 0.5 + i, 0.25) for i in range(2)]
    merge_loras(uses, tmp_path / "both.safetensors", dtype="fp32")
    one = bake(base, uses, tmp_path / "one.safetensors")
    other = bake(base, [LoraUse(tmp_path / "both.safetensors")], tmp_path / "other.safetensors")
    assert all(np.allclose(one[key].numpy(), other[key].numpy(), atol=1e-5) for key in one)


@pytest.mark.parametrize("missing, of_in03", [(0, 0.0), (1, 0.8)])
def test_block_weights_are_those_of_the_tools(make_checkpoint, tmp_path, missing, of_in03):
    base, tensors = make_checkpoint("base", dtype="fp32")
    modules = SD1 | SD1_CONV
    a = write_lora(tmp_path / "a.safetensors", modules=modules)
    use = LoraUse(a, 0.8, 0.4, blocks="INALL", missing=missing)
    baked = bake(base, [use], tmp_path / "out.safetensors")
    strengths = {"input_blocks.1.": 0.8, "input_blocks.4.": 0.8, "input_blocks.3.": of_in03, "middle_block": 0.0}
    strengths |= {"output_blocks.11.": 0.0, "cond_": 0.4}
    for key, change in changes(load_file(a), modules=modules).items():
        strength = next(x for part, x in strengths.items() if part in key)
        assert np.allclose(baked[key].numpy(), tensors[key].double().numpy() + strength * change, atol=1e-6), key


def test_a_vector_of_sdxl_reads_its_twelve_blocks(make_checkpoint, tmp_path):
    base, tensors = make_checkpoint("base", "sdxl", dtype="fp32")
    a = write_lora(tmp_path / "a.safetensors", "sdxl")
    vector = [0.5, 0.1, 0, 0, 0, 0.2, 0.6, 0, 0, 0, 0, 0.3]  # BASE, IN04, IN05, IN07, IN08, M00, OUT00..OUT05
    baked = bake(base, [LoraUse(a, 2.0, blocks=vector)], tmp_path / "out.safetensors")
    strengths = {"input_blocks.4.": 0.2, "middle_block": 0.4, "output_blocks.0.": 1.2, "output_blocks.5.": 0.6}
    strengths |= {"conditioner": 1.0}
    for key, change in changes(load_file(a), "sdxl").items():
        strength = next(x for part, x in strengths.items() if part in key)
        assert np.allclose(baked[key].numpy(), tensors[key].double().numpy() + strength * change, atol=1e-6), key


def test_names_of_files_that_are_words_or_alike_become_names_of_their_own(tmp_path):
    paths = [tmp_path / "a" / "merge.safetensors", tmp_path / "b" / "merge.safetensors", tmp_path / "baked.safetensors"]
    recipe = bake_recipe(tmp_path / "merge.safetensors", [LoraUse(p) for p in paths])
    assert list(recipe.models) == ["merge.2"]
    assert list(recipe.loras) == ["merge.3", "merge.4", "baked"]
    assert list(recipe.steps) == ["baked.2"]
    assert Recipe.parse(recipe.to_plain()) == recipe


@given(st.floats(-2, 2), st.floats(-2, 2))
def test_strengths_as_typed(unet, text):
    assert LoraUse.parse("a:b.safetensors") == LoraUse(Path("a:b.safetensors"))
    assert LoraUse.parse(f"C:\\x.safetensors:{unet!r}") == LoraUse(Path("C:\\x.safetensors"), unet)
    assert LoraUse.parse(f"x.safetensors:{unet!r}:{text!r}") == LoraUse(Path("x.safetensors"), unet, text)


def test_block_weights_as_typed():
    parsed = LoraUse.parse("x.safetensors:0.5", "1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0", 1)
    assert parsed.weights() == {
        "vector": [1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        "convention": "lbw-kohya",
        "scale": 0.5,
        "base": 0.5,
    }
    assert LoraUse.parse("x.safetensors:0.5:2", "0.5").weights() == {"default": 0.25, "BASE": 1.0}
    assert LoraUse.parse("x.safetensors", "NONE").weights()["base"] == 0
    lines = LoraUse.parse("x.safetensors:0.5:2", "IN04: 0.5; attn2: 0")
    assert lines.weights() == {"convention": "lbw", "IN04": 0.5, "attn2": 0.0, "strength": [0.5, 2.0]}
    with pytest.raises(MergeError, match=r"block weights of x.safetensors: Unknown preset 'IMS' \(did you mean 'INS'"):
        bake_recipe("base.safetensors", [LoraUse.parse("x.safetensors", "IMS")])


def test_a_lora_for_another_architecture_is_refused(make_checkpoint, tmp_path):
    base, _ = make_checkpoint("base")
    xl = write_lora(tmp_path / "xl.safetensors", "sdxl", modules=MODULES["sdxl"])
    with pytest.raises(Exception, match="LoRA"):
        bake(base, [LoraUse(xl)], tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_dry_run_counts_the_factors_of_a_lora_and_not_its_changes(tmp_path):
    base, lora = tmp_path / "base.safetensors", tmp_path / "style.safetensors"
    write_demo(base, "sd1", seed=1)
    write_demo_lora(lora, "sd1", seed=2)
    models = {"models": {"a": str(base)}}
    plain = dry_run(Recipe.parse(models), tmp_path / "out.safetensors").bytes_read
    steps = {"s": {"method": "add", "inputs": ["a", "l"]}}
    with_lora = dry_run(
        Recipe.parse({**models, "loras": {"l": str(lora)}, "steps": steps}), tmp_path / "out.safetensors"
    )
    assert plain < with_lora.bytes_read <= plain + lora.stat().st_size


CONV_IN = UNET + "input_blocks.0.0.weight"


def conv_in_file(path, kind, rng, channels=4, bias=False) -> dict[str, np.ndarray]:
    """A LoRA of the first convolution alone, of any kind, and its tensors."""
    name, normal = "lora_unet_conv_in", lambda *shape: rng.standard_normal(shape).astype(np.float32) * 0.2
    factors = {
        ".lora_down.weight": normal(2, channels, 3, 3),
        ".lora_up.weight": normal(16, 2, 1, 1),
        ".alpha": np.float32(1),
    }
    ends = {
        "locon": factors,
        "locon of flat factors": factors
        | {".lora_down.weight": normal(2, channels * 9), ".lora_up.weight": normal(16, 2)},
        "full": {".diff": normal(16, channels, 3, 3), ".diff_b": normal(16)},
        "dora": factors | {".dora_scale": np.abs(normal(16, 1, 1, 1)) + 1},
        "dora of inputs": factors | {".dora_scale": np.abs(normal(1, channels, 1, 1)) + 1},
        "ia3 of inputs": {".weight": normal(channels), ".on_input": np.float32(1)},
    }[kind]
    tensors = {name + end: np.asarray(value) for end, value in ends.items()}
    save_arrays(tensors, path)
    return tensors


@pytest.mark.one_by_one
@pytest.mark.parametrize("kind", ["locon", "locon of flat factors", "full", "dora", "dora of inputs", "ia3 of inputs"])
@pytest.mark.parametrize("channels", [8, 9])
def test_a_change_of_the_first_convolution_is_padded_with_zeros(make_checkpoint, tmp_path, kind, channels):
    """What the change is of a usual model with the same first four channels is what it is here; the others stay."""
    base, tensors = make_checkpoint("wide", dtype="fp32", in_channels=channels)
    usual, narrow = make_checkpoint("usual", dtype="fp32")
    save_torch(narrow | {CONV_IN: tensors[CONV_IN][:, :4].contiguous()}, usual)
    conv_in_file(tmp_path / "a.safetensors", kind, np.random.default_rng(2))
    found = bake(base, [LoraUse(tmp_path / "a.safetensors", 0.7)], tmp_path / "out.safetensors")[CONV_IN]
    wanted = bake(usual, [LoraUse(tmp_path / "a.safetensors", 0.7)], tmp_path / "usual_out.safetensors")[CONV_IN]
    assert found.shape[1] == channels and (found[:, :4] != tensors[CONV_IN][:, :4]).any()
    np.testing.assert_allclose(found[:, :4].numpy(), wanted.numpy(), atol=1e-6)
    assert np.array_equal(found[:, 4:].numpy(), tensors[CONV_IN][:, 4:].numpy())


def test_a_lora_that_counts_from_a_usual_model_may_be_added_to_an_inpainting_model(make_checkpoint, tmp_path):
    usual, _ = make_checkpoint("usual", dtype="fp32")
    wide, tensors = make_checkpoint("wide", dtype="fp32", in_channels=9)
    change = conv_in_file(tmp_path / "a.safetensors", "full", np.random.default_rng(2))["lora_unet_conv_in.diff"]
    recipe = {
        "models": {"wide": str(wide), "usual": str(usual)},
        "loras": {"l": {"path": str(tmp_path / "a.safetensors"), "base": "usual"}},
        "steps": {"s": {"method": "add", "inputs": ["wide", "l"]}},
        "output": {"dtype": "fp32"},
    }
    merge(Recipe.parse(recipe), tmp_path / "out.safetensors", fsync=False)
    found = load_file(tmp_path / "out.safetensors")[CONV_IN].numpy()
    np.testing.assert_allclose(found[:, :4], tensors[CONV_IN][:, :4].numpy() + change, atol=1e-6)
    assert np.array_equal(found[:, 4:], tensors[CONV_IN][:, 4:].numpy())


@pytest.mark.parametrize(("of_lora", "of_base"), [(9, 4), (8, 9), (9, 8)])
def test_channels_that_a_model_has_not_or_knows_as_others_are_not_dropped(make_checkpoint, tmp_path, of_lora, of_base):
    base, _ = make_checkpoint("base", dtype="fp32", in_channels=of_base)
    conv_in_file(tmp_path / "a.safetensors", "full", np.random.default_rng(2), of_lora)
    with pytest.raises(Exception, match=f"{of_lora}.*{CONV_IN}.*{of_base}"):
        bake(base, [LoraUse(tmp_path / "a.safetensors")], tmp_path / "out.safetensors")


def test_loras_of_usual_and_inpainting_models_add_up(make_checkpoint, tmp_path):
    wide, tensors = make_checkpoint("wide", dtype="fp32", in_channels=9)
    uses = []
    for channels in (4, 9):
        conv_in_file(tmp_path / f"{channels}.safetensors", "locon", np.random.default_rng(channels), channels)
        uses.append(LoraUse(tmp_path / f"{channels}.safetensors", 0.5))
    merge_loras(uses, tmp_path / "both.safetensors", dtype="fp32")
    one = bake(wide, uses, tmp_path / "one.safetensors")[CONV_IN]
    other = bake(wide, [LoraUse(tmp_path / "both.safetensors")], tmp_path / "other.safetensors")[CONV_IN]
    assert (one[:, 4:] != tensors[CONV_IN][:, 4:]).any()
    np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-6)


def test_what_follows_from_the_first_convolution_is_taken_from_its_first_channels(make_checkpoint, tmp_path):
    wide, _ = make_checkpoint("wide", dtype="fp32", in_channels=9)
    conv_in_file(tmp_path / "a.safetensors", "dora", np.random.default_rng(1))
    merge_loras([LoraUse(tmp_path / "a.safetensors")], tmp_path / "plain.safetensors", base=wide, dtype="fp32")
    one, other = (
        bake(wide, [LoraUse(tmp_path / f"{x}.safetensors")], tmp_path / f"{x}_out.safetensors")[CONV_IN]
        for x in ("a", "plain")
    )
    np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-5)


def test_the_model_that_a_lora_counts_from_need_not_be_merged(make_checkpoint, tmp_path):
    """The LoRA's change is added, whatever else is opened for its sake."""
    (a, tensors), (b, _) = make_checkpoint("a", dtype="fp32"), make_checkpoint("b", dtype="fp32")
    lora = write_lora(tmp_path / "l.safetensors")
    recipe = {
        "models": {"a": str(a), "b": str(b)},
        "loras": {"l": {"path": str(lora), "base": "b"}},
        "steps": {"s": {"method": "add", "inputs": ["a", "l"]}},
        "output": {"dtype": "fp32"},
    }
    merge(Recipe.parse(recipe), tmp_path / "out.safetensors", fsync=False)
    found = load_file(tmp_path / "out.safetensors")
    for key, change in changes(load_file(lora)).items():
        assert np.allclose(found[key].numpy(), tensors[key].double().numpy() + change, atol=1e-6), key
