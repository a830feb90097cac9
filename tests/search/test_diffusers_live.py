"""The live pipeline against pipelines that diffusers loads from the saved merge."""

from __future__ import annotations

import gc
import random

import numpy as np
import pytest
from pictures import same_picture
from samples import others_long
from tiny import load

from unetscope.checkpoints.demo import write_demo
from unetscope.checkpoints.families.diffusers import write_pipeline_config
from unetscope.merge import Recipe, merge
from unetscope.search.errors import NO_IMAGE, SearchError
from unetscope.search.generators import make_generator
from unetscope.search.generators.samplers import SAMPLERS, make_scheduler
from unetscope.search.generators.tokenizer import write_tokenizer
from unetscope.search.image_requests import ImageRequest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
psutil = pytest.importorskip("psutil")

ENCODERS = {
    "sd1": {"tokenizer": "clip_l"},
    "sd2": {"tokenizer": "clip_h"},
    "sdxl": {"tokenizer": "clip_l", "tokenizer_2": "clip_g"},
}
LAST = {"*": 0.2, "IN*": 0.4, "M00": 0.7}
PREDICTION = {"sd1": "epsilon", "sd2": "v", "sdxl": "epsilon"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def models(folder):
    """family -> two demo models."""

    def made(family):
        paths = [folder / f"{family}-{seed}.safetensors" for seed in (1, 2)]
        for seed, path in enumerate(paths, 1):
            if not path.exists():
                write_demo(path, family, seed=seed, prediction=None if family != "sd2" else "v")
        return {f"m{i}": str(path) for i, path in enumerate(paths)}

    return made


def recipe(models, alpha, **more) -> Recipe:
    step = {"method": "weighted_sum", "inputs": list(models), "alpha": alpha}
    return Recipe.parse({"models": models, "steps": {"out": step}, **more})


def request(seed=7, name="x", **fields) -> ImageRequest:
    fields = {
        "prompt": "a castle on a hill",
        "negative_prompt": "blurry",
        "steps": 2,
        "width": 64,
        "height": 64,
    } | fields
    return ImageRequest(name=f"{name}-{seed}", seed=seed, **fields)


def from_file(path, family, folder):
    """diffusers' own pipeline of a saved file, with the tokenizer folders that we write."""
    config = write_pipeline_config(folder / family, family, widths="narrow", prediction=PREDICTION[family])
    for name, encoder in ENCODERS[family].items():
        write_tokenizer(config / name, encoder)
    xl = family == "sdxl"
    options = {} if xl else {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    kind = diffusers.StableDiffusionXLPipeline if xl else diffusers.StableDiffusionPipeline
    pipeline = kind.from_single_file(
        str(path), config=str(config), local_files_only=True, torch_dtype=torch.float32, **options
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def picture(pipeline, one: ImageRequest, family) -> np.ndarray:
    pipeline.scheduler = make_scheduler(one.sampler_name, None, PREDICTION[family])
    image = pipeline(
        one.prompt,
        negative_prompt=one.negative_prompt or None,
        generator=torch.Generator().manual_seed(one.seed),
        num_inference_steps=one.steps,
        guidance_scale=one.cfg_scale,
        width=one.width,
        height=one.height,
        output_type="pil",
    ).images[0]
    return np.asarray(image)


@pytest.mark.parametrize("family", others_long(ENCODERS, lambda family: family != "sd2"))
def test_weights_and_pictures_after_a_swap_are_those_of_the_saved_file(family, models, folder):
    found, path = models(family), folder / f"{family}-out.safetensors"
    requests = [request(), request(8, negative_prompt="", sampler_name="DPM++ 2M Karras")]
    generator = make_generator({"kind": "diffusers", "device": "cpu"}, folder)
    vae = {"components": {"vae": "merge"}}
    generator.check(recipe(found, 0.5), requests)
    # The last one counts: what the others left behind must not show.
    for alpha in (1.0, {"*": 0.2, "IN*": 0.9}, LAST):
        generator.prepare(recipe(found, alpha, **vae))
        before = [np.asarray(image) for image in generator.images(requests if alpha == LAST else requests[:1])]
    merge(recipe(found, alpha, **vae), path, overwrite=True)
    saved = from_file(path, family, folder)
    for name, module in generator.modules.items():
        expected = getattr(saved, name).state_dict()
        live = module.state_dict()
        assert set(live) == set(expected) and len(live) > 100
        assert all(torch.equal(live[key], expected[key]) for key in live), name
    convolution = load(path)["model.diffusion_model.input_blocks.0.0.weight"]
    assert torch.equal(generator.modules["unet"].conv_in.weight, convolution.float())
    for one, image in zip(requests, before, strict=True):
        assert image.shape == (64, 64, 3) and image.std() > 1
        assert same_picture(image, picture(saved, one, family)), one
    generator.close()


@pytest.mark.parametrize("family", others_long(ENCODERS, lambda family: family == "sd1"))
def test_pictures_of_merges_that_differ_a_little_in_one_block_are_not_the_same(family, models, folder):
    found, requests = models(family), [request(), request(8, sampler_name="DPM++ 2M Karras")]
    generator = make_generator({"kind": "diffusers", "device": "cpu"}, folder)
    generator.prepare(recipe(found, {"*": 0.2, "M00": 0.7}))
    pictures = generator.images(requests)
    assert all(same_picture(*pair) for pair in zip(pictures, generator.images(requests), strict=True))
    for other in ({"*": 0.2, "M00": 0.69}, {"*": 0.2, "M00": 0.7, "IN05": 0.19}, {"*": 0.2, "M00": 0.7, "BASE": 0.21}):
        generator.prepare(recipe(found, other))
        assert not any(same_picture(*pair) for pair in zip(pictures, generator.images(requests), strict=True)), other
    generator.close()


HALVES = [("fp16", "fp16", "sdxl"), ("bf16", "fp32", "sd1"), ("fp16", "fp8_e4m3", "sd1")]


@pytest.mark.parametrize(("dtype", "output", "family"), others_long(HALVES, lambda *case: case[1] == "fp8_e4m3"))
def test_half_precision_holds_the_saved_weights_rounded_once(dtype, output, family, models, folder):
    found, path = models(family), folder / "half.safetensors"
    generator = make_generator({"kind": "diffusers", "device": "cpu", "dtype": dtype}, folder)
    wanted = recipe(found, {"*": 0.3, "IN*": 0.6}, output={"dtype": output})
    generator.prepare(wanted)
    merge(wanted, path, overwrite=True)
    saved = from_file(path, family, folder)
    for name, module in generator.modules.items():
        expected = getattr(saved, name).state_dict()
        kind = torch.float32 if name == "vae" else {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
        for key, tensor in module.state_dict().items():
            assert tensor.dtype == kind and torch.equal(tensor, expected[key].to(kind)), (name, key)
    generator.close()


@pytest.fixture(scope="module")
def live(models, folder):
    generator = make_generator("diffusers", folder)
    generator.prepare(recipe(models("sd1"), 0.3))
    yield generator
    generator.close()


def test_only_changed_blocks_are_copied_and_text_is_encoded_again_only_when_its_encoder_changed(live, models):
    live.prepare(recipe(models("sd1"), {"*": 0.3, "M00": 0.9}))
    (first,) = live.images([request()])
    known = dict(live._conditioning._known)
    live.prepare(recipe(models("sd1"), {"*": 0.3, "M00": 0.5}))
    assert {key.split(".")[2] for key in live.changes.keys} == {"middle_block"}
    (second,) = live.images([request()])
    assert not same_picture(first, second)
    assert all(live._conditioning._known[prompt] is states for prompt, states in known.items())
    live.prepare(recipe(models("sd1"), {"*": 0.3, "BASE": 0.5, "M00": 0.5}))
    (third,) = live.images([request()])
    assert not same_picture(second, third)


def test_an_image_depends_on_its_seed_alone_and_not_on_the_requests_next_to_it(live, models, folder):
    requests = [request(1, sampler_name=name) for name in ("Euler a", "DPM++ SDE Karras")]
    requests += [request(2, sampler_name=name) for name in ("Euler a", "DPM++ SDE Karras")]
    together = [np.asarray(image) for image in live.images(requests)]
    for one, image in zip(requests, together, strict=True):
        assert same_picture(live.images([one])[0], image)
    assert not same_picture(together[0], together[2])
    batched = make_generator({"kind": "diffusers", "batch": 3, "device": "cpu"}, folder)
    batched.prepare(recipe(models("sd1"), 0.3))
    live.prepare(recipe(models("sd1"), 0.3))
    many = [
        request(seed, prompt=text, sampler_name="Euler a") for seed, text in enumerate(("a", "a dog", "two", "three"))
    ]
    for one, other in zip(live.images(many), batched.images(many), strict=True):
        assert same_picture(one, other)
    batched.close()


SCHEDULES = ["Euler Beta", "DPM++ 2M SDE Karras", "LMS Karras", "Heun Exponential"]


@pytest.mark.parametrize(
    "name", others_long([*SAMPLERS, *SCHEDULES], lambda name: name in (*list(SAMPLERS)[::4], SCHEDULES[0]))
)
def test_every_sampler_makes_the_same_finite_picture_twice(name, live):
    one = request(3, sampler_name=name, steps=3)
    first, again = (np.asarray(live.images([one])[0]) for _ in range(2))
    assert same_picture(first, again) and first.std() > 1
    assert not same_picture(first, live.images([request(4, sampler_name=name, steps=3)])[0])


def test_emphasis_and_long_prompts_and_clip_skip_change_the_picture(live):
    long = "castle, " * 60
    plain = np.asarray(live.images([request()])[0])
    for other in (
        request(prompt="a (castle:1.6) on a hill"),
        request(prompt="a castle on a hill, " + long),
        request(extra={"clip_skip": 2}),
        request(extra={"override_settings": {"CLIP_stop_at_last_layers": 3}}),
    ):
        assert not same_picture(live.images([other])[0], plain)
    neutral = request(prompt="a (castle:1.0) on a hill", extra={"restore_faces": False, "hr_scale": 2, "eta": None})
    assert same_picture(live.images([neutral])[0], plain)


@pytest.mark.long
def test_memory_stays_flat_over_fifty_trials(live, models):
    process = psutil.Process()
    draw, found, seen = random.Random(0), models("sd1"), []
    for trial in range(50):
        weights = {"*": draw.random(), "IN*": draw.random(), "OUT05": draw.random()}
        live.prepare(recipe(found, weights))
        if trial % 5 == 0:
            live.images([request(trial)])
            gc.collect()
            seen.append(process.memory_info().rss)
    # A trial that kept its weights would keep 8 MB.
    assert seen[-1] - seen[2] < 12e6, [round(s / 1e6) for s in seen]


REFUSED = {
    "enable_hr": (request(extra={"enable_hr": True}), r"enable_hr: is True, which the generator diffusers does not do"),
    "faces": (request(extra={"restore_faces": True}), "restore_faces"),
    "scripts": (request(extra={"alwayson_scripts": {"ControlNet": {}}}), "alwayson_scripts"),
    "sampler": (request(sampler_name="Restart"), r"'Restart' is not one that diffusers has"),
    "lora": (request(prompt="a <lora:ink:1> cat"), r"put LoRAs into the recipe"),
    "editing": (request(prompt="a [cat:dog:0.5]"), r"edits the prompt"),
    "setting": (request(extra={"override_settings": {"eta_noise_seed_delta": 31337}}), "eta_noise_seed_delta"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_only_a_web_ui_can_do_is_refused_before_anything_loads(case, models, folder):
    one, said = REFUSED[case]
    with pytest.raises(SearchError, match=said):
        make_generator("diffusers", folder).check(recipe(models("sd1"), 0.5), [one])


def test_models_that_cannot_make_a_picture_are_refused_with_what_to_do(models, folder, make_checkpoint):
    generator = make_generator("diffusers", folder)
    undecided, _ = make_checkpoint("undecided", "sd2")
    inpainting, _ = make_checkpoint("inpainting", in_channels=9)
    refiner, _ = make_checkpoint("refiner", "sdxl_refiner")
    unet, _ = make_checkpoint("unet", change=lambda t: {k: v for k, v in t.items() if k.startswith("model.diff")})
    with pytest.raises(SearchError, match=r"say generator\.prediction: epsilon or v"):
        generator.check(Recipe.parse({"models": {"a": str(undecided)}}), [request()])
    with pytest.raises(SearchError, match=r"UNET has 9 input channels"):
        generator.check(Recipe.parse({"models": {"a": str(inpainting)}}), [request()])
    with pytest.raises(SearchError, match=r"with SD1, SD2 and SDXL, not with SDXL"):
        generator.check(Recipe.parse({"models": {"a": str(refiner)}}), [request()])
    with pytest.raises(SearchError, match=r"no vae; take one from a file \(components: \{vae: FILE\}\)"):
        generator.check(Recipe.parse({"models": {"a": str(unet)}}), [request()])
    with pytest.raises(SearchError, match=r"the recipe's result has no vae"):
        generator.prepare(Recipe.parse({"models": {"a": str(unet)}}))


def test_a_model_of_nothing_but_huge_weights_makes_no_image_and_says_so(models, folder, make_checkpoint):
    def huge(tensors):
        for key, tensor in tensors.items():
            if key.startswith("first_stage_model.decoder.conv_out"):
                tensor.fill_(torch.inf)

    path, _ = make_checkpoint("huge", change=huge, dtype="fp32")
    generator = make_generator("diffusers", folder)
    generator.prepare(Recipe.parse({"models": {"a": str(path)}, "output": {"dtype": "fp32", "nan": "zero"}}))
    generator.modules["vae"].decoder.conv_out.weight.fill_(torch.nan)
    with pytest.raises(SearchError, match="x-7: the merged model makes no picture") as raised:
        generator.images([request()])
    assert raised.value.code == NO_IMAGE


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "difusers"}, r"there is no 'difusers'.*diffusers"),
        ({"kind": "diffusers", "devise": "cpu"}, r"generator\.devise: unknown name.*device"),
        ({"kind": "diffusers", "batch": 0}, r"generator\.batch: "),
        ([], r"write \{kind: diffusers\}"),
    ],
)
def test_mistakes_in_settings_are_named(settings, said, folder):
    with pytest.raises(SearchError, match=said):
        make_generator(settings, folder)
