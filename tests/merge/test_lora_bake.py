"""LoRAs baked into checkpoints by recipes, against sums by numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from small_loras import MODULES, SD1, SD1_CONV, changes, write_lora

from unetscope.checkpoints.demo import write_demo
from unetscope.checkpoints.lora import write_demo_lora
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
    assert LoraUse.parse("x.safetensors:0.5:2", "0.5").weights() == {"BASE": 1.0, "UNET": 0.25}
    assert LoraUse.parse("x.safetensors", "NONE").weights()["base"] == 0
    with pytest.raises(
        MergeError, match="a preset's name or a vector of 17, 12, 26 or 20 numbers; for lines, write a recipe"
    ):
        LoraUse.parse("x.safetensors", "IN04: 0.5")
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
