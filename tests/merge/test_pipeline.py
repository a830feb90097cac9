"""A merged file as its users use it: diffusers loads it, offline, and runs it."""

from __future__ import annotations

import numpy as np
import pytest
from samples import others_long

from unetscope.checkpoints.demo import write_demo
from unetscope.checkpoints.families.diffusers import write_pipeline_config
from unetscope.merge import Recipe, merge

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

PIPELINES = {"sd1": "StableDiffusionPipeline", "sd2": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pipelines")


def load(path, family, folder):
    """The pipeline of a single file; its tokenizers know three words, so that nothing has to be downloaded."""
    config = write_pipeline_config(folder / f"config-{family}", family, widths="narrow")
    words = {word: number for number, word in enumerate(["<|startoftext|>", "<|endoftext|>", "a</w>"])}
    tokenizer = transformers.CLIPTokenizer(vocab=words, merges=[], model_max_length=77)
    options = {"tokenizer": tokenizer}
    if family == "sdxl":
        options["tokenizer_2"] = tokenizer
    else:
        options |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    kind = getattr(diffusers, PIPELINES[family])
    pipeline = kind.from_single_file(
        str(path), config=str(config), local_files_only=True, torch_dtype=torch.float32, **options
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


# Those of other families are held against diffusers in `test_mixed_inputs`, too.
@pytest.mark.parametrize("family", others_long(PIPELINES, lambda family: family == "sd1"))
def test_diffusers_loads_a_merge_and_every_weight_is_the_merge_of_the_loaded_models(family, folder):
    paths = [write_demo(folder / f"{family}{i}.safetensors", family, seed=i, dtype="fp32") for i in (1, 2, 3)]
    data = {
        "models": {f"m{i}": str(p) for i, p in enumerate(paths)},
        "steps": {"out": {"method": "add_difference", "inputs": ["m0", "m1", "m2"], "alpha": 0.5}},
        "components": {"vae": "m2"},
        "output": {"dtype": "fp32"},
    }
    merge(Recipe.parse(data), folder / f"{family}.safetensors", overwrite=True)
    merged, a, b, c = (load(p, family, folder) for p in (folder / f"{family}.safetensors", *paths))
    parts = ["unet", "text_encoder", *(["text_encoder_2"] if family == "sdxl" else [])]
    for part in parts:
        states = [getattr(p, part).state_dict() for p in (merged, a, b, c)]
        assert set(states[0]) == set(states[1]) and len(states[0]) > 30
        for name, tensor in states[0].items():
            x, y, z = (s[name].double() for s in states[1:])
            if tensor.is_floating_point():
                largest = max(float(t.abs().max()) for t in (x, y, z))
                assert (tensor.double() - (x + 0.5 * (y - z))).abs().max() <= 4e-7 * max(largest, 1e-6), (part, name)
    vae, expected = merged.vae.state_dict(), c.vae.state_dict()
    assert all(torch.equal(vae[name], expected[name]) for name in expected)

    generator = torch.Generator().manual_seed(0)
    image = merged("a", num_inference_steps=2, height=64, width=64, output_type="np", generator=generator).images
    assert image.shape == (1, 64, 64, 3) and np.isfinite(image).all()
