"""Demo checkpoints: valid files that other libraries load, and fine-tunes that look like fine-tunes."""

from itertools import pairwise

import numpy as np
import pytest
from places import place
from safetensors import safe_open
from safetensors.numpy import load_file
from samples import others_long
from told import raising

from unetscope.checkpoints.demo import demo_collection, write_demo
from unetscope.checkpoints.demo.models import write_demo_ckpt
from unetscope.checkpoints.demo.weights import RANK, low_rank
from unetscope.checkpoints.errors import CheckpointError, OutputError
from unetscope.checkpoints.families import FAMILIES, layout
from unetscope.checkpoints.families.diffusers import write_pipeline_config
from unetscope.checkpoints.recognition.architecture import recognise

UNET = "model.diffusion_model."
CLIP = "cond_stage_model.transformer.text_model."
QUERY = UNET + "input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def base(folder):
    return write_demo(folder / "base.safetensors", "sd1", seed=1)


@pytest.fixture(scope="module")
def finetunes(folder, base):
    return [write_demo(folder / f"tune{seed}.safetensors", "sd1", seed=seed, finetune_of=base) for seed in (2, 3)]


def changes(base, other):
    """Per key, the change in float64."""
    a, b = load_file(base), load_file(other)
    assert list(a) == list(b)
    return {key: b[key].astype(np.float64) - a[key].astype(np.float64) for key in a}


def relative_sizes(base, other):
    """Per label, the size of the change relative to the weights."""
    weights, moved = load_file(base), changes(base, other)
    sums = {}
    for key, delta in moved.items():
        change, whole = sums.get(place(key).label, (0.0, 0.0))
        sums[place(key).label] = change + np.sum(delta**2), whole + np.sum(weights[key].astype(np.float64) ** 2)
    return {label: (change / whole) ** 0.5 for label, (change, whole) in sums.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_demo_has_the_layouts_keys_shapes_and_metadata_for_the_safetensors_library(family, folder):
    path = write_demo(folder / f"{family}.safetensors", family, title="A title")
    with safe_open(path, "numpy") as file:
        found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (no mapping)
        metadata = file.metadata()
    assert found == {key: spec.shape for key, spec in layout(family, widths="narrow").items()}
    assert metadata["format"] == "pt"
    assert metadata["modelspec.title"] == "A title"
    assert recognise(found).family == family
    assert path.stat().st_size < 20e6


def test_the_header_lists_tensors_in_the_order_of_the_safetensors_library(base, folder):
    from safetensors.numpy import save_file

    again = folder / "again.safetensors"
    save_file(load_file(base), again)
    with safe_open(base, "numpy") as ours, safe_open(again, "numpy") as theirs:
        assert ours.offset_keys() == theirs.offset_keys()


def test_values_are_sane(base):
    tensors = load_file(base)
    assert all(np.isfinite(t.astype(np.float32)).all() for t in tensors.values())
    assert tensors[UNET + "out.0.weight"].astype(np.float32).mean() == pytest.approx(1, abs=0.05)
    query = tensors[QUERY].astype(np.float64)
    assert query.std() == pytest.approx(query.shape[1] ** -0.5, rel=0.1)
    assert np.abs(tensors[QUERY.replace("to_q.weight", "to_out.0.bias")]).max() < 0.1
    assert tensors[CLIP + "embeddings.position_ids"].tolist() == [list(range(77))]
    assert tensors[CLIP + "embeddings.position_ids"].dtype == np.int64
    # The schedule of every Stable Diffusion: betas from 0.00085 to 0.012.
    assert tensors["betas"][[0, -1]] == pytest.approx([0.00085, 0.012], rel=1e-6)
    assert tensors["alphas_cumprod"][-1] == pytest.approx(0.0047, abs=1e-4)


def test_the_same_arguments_give_the_same_bytes_on_any_number_of_threads(base, folder):
    again = write_demo(folder / "one-thread.safetensors", "sd1", seed=1, threads=1)
    three = write_demo(folder / "three-threads.safetensors", "sd1", seed=1, threads=3)
    assert base.read_bytes() == again.read_bytes() == three.read_bytes()


def test_another_seed_gives_other_weights(base, folder):
    other = load_file(write_demo(folder / "seed2.safetensors", "sd1", seed=2))
    same = [key for key, tensor in load_file(base).items() if np.array_equal(tensor, other[key])]
    assert {place(key).label for key in same} <= {"SCHEDULE", "EMA", "CLIP_L"}
    assert [key for key in same if place(key).label == "CLIP_L"] == [CLIP + "embeddings.position_ids"]


def test_no_two_tensors_and_no_two_pieces_hold_the_same_numbers(folder):
    tensors = load_file(write_demo(folder / "wide.safetensors", "sd1", dtype="fp32"))
    words = tensors[CLIP + "embeddings.token_embedding.weight"].reshape(-1)
    assert words.size > 2 << 19  # more than two pieces
    assert len(np.unique(words[: 1 << 20])) > 0.9 * (1 << 20)
    starts = [
        tensor.reshape(-1)[:8].tobytes() for key, tensor in tensors.items() if tensor.ndim > 1 and "ids" not in key
    ]
    assert len(set(starts)) == len(starts)


@pytest.mark.parametrize(("dtype", "itemsize"), [("fp32", 4), ("bf16", 2), ("fp8_e4m3", 1)])
def test_other_dtypes_round_the_same_weights(dtype, itemsize, folder):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as load_torch

    exact = load_torch(write_demo(folder / f"exact-{dtype}.safetensors", "sd1", dtype="fp32"))
    path = write_demo(folder / f"{dtype}.safetensors", "sd1", dtype=dtype)
    found = load_torch(path)
    assert found[QUERY].element_size() == itemsize
    assert all(torch.equal(found[key].float(), exact[key].to(found[key].dtype).float()) for key in exact)
    assert found["betas"].dtype == torch.float32


def test_a_finetune_moves_blocks_by_different_amounts_and_leaves_the_vae_alone(base, finetunes):
    sizes = relative_sizes(base, finetunes[0])
    unet = [size for label, size in sizes.items() if label.startswith(("IN", "OUT", "M", "TIME"))]
    assert len(unet) == 27
    assert all(5e-4 < size < 0.15 for size in unet)
    assert max(unet) > 10 * min(unet)
    assert sizes["VAE"] == sizes["SCHEDULE"] == sizes["EMA"] == 0
    assert 0 < sizes["CLIP_L"] < np.median(unet)
    before, after = load_file(base), load_file(finetunes[0])
    vae = [key for key in before if key.startswith("first_stage_model.")]
    assert all(before[key].tobytes() == after[key].tobytes() for key in vae)


def test_two_finetunes_change_different_blocks_most(base, finetunes):
    first, second = (relative_sizes(base, path) for path in finetunes)
    labels = [label for label in first if label.startswith(("IN", "OUT", "M"))]
    assert np.corrcoef([first[x] for x in labels], [second[x] for x in labels])[0, 1] < 0.6


def cosine(base, one, other, keys):
    a, b = changes(base, one), changes(base, other)
    return np.array([np.sum(a[k] * b[k]) / np.sqrt(np.sum(a[k] ** 2) * np.sum(b[k] ** 2)) for k in keys])


def test_finetunes_of_one_theme_are_correlated_and_of_two_themes_are_not(base, finetunes, folder):
    keys = [
        key for key, spec in layout("sd1").items() if key.startswith(UNET) and "attn1.to_" in key and "weight" in key
    ]
    same = cosine(base, *finetunes, keys)
    assert np.median(same) == pytest.approx(0.4, abs=0.12)  # the shared part of the variance
    elsewhere = write_demo(folder / "theme.safetensors", "sd1", seed=3, finetune_of=base, theme=5)
    assert np.abs(np.median(cosine(base, finetunes[0], elsewhere, keys))) < 0.1


def test_the_shared_part_has_low_rank_whatever_pieces_it_is_made_in():
    shape = (40, 6, 3, 3)
    whole = low_rank("key", shape, 0, 0, 40 * 54)
    assert np.linalg.matrix_rank(whole.reshape(40, 54), tol=1e-4) == RANK
    assert whole.std() == pytest.approx(1, rel=0.3)
    cuts = [0, 1, 53, 54, 55, 700, 40 * 54]
    pieces = [low_rank("key", shape, 0, a, b) for a, b in pairwise(cuts)]
    assert np.array_equal(np.concatenate(pieces), whole)


def test_a_finetune_of_an_inpainting_model_has_its_nine_channels(folder):
    start = write_demo(folder / "inpaint.safetensors", "sd2", in_channels=9)
    tuned = write_demo(folder / "inpaint2.safetensors", "sd2", finetune_of=start, seed=1)
    assert load_file(tuned)[UNET + "input_blocks.0.0.weight"].shape == (16, 9, 3, 3)


@pytest.mark.parametrize(
    ("prediction", "markers"), [("epsilon", set()), ("v", {"v_pred"}), ("edm", {"edm_mean", "edm_std"})]
)
def test_the_prediction_type_is_marked_as_the_field_marks_it(prediction, markers, folder):
    path = write_demo(folder / f"{prediction}.safetensors", "sd2", prediction=prediction)
    with safe_open(path, "numpy") as file:
        assert file.metadata()["modelspec.prediction_type"] == prediction
        extra = set(file.keys()) - set(layout("sd2"))
    assert extra == markers
    assert {place(key).label for key in extra} <= {"MARKER"}


def test_a_ckpt_holds_the_same_weights_nested_as_trainers_nest_them(folder):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as load_torch

    plain = load_torch(write_demo(folder / "plain.safetensors", "sd1", seed=4, dtype="fp32"))
    pickled = torch.load(write_demo_ckpt(folder / "old.ckpt", "sd1", seed=4, dtype="fp32"), weights_only=True)
    assert pickled["global_step"] > 0
    assert set(pickled["state_dict"]) == set(plain)
    assert all(torch.equal(pickled["state_dict"][key], plain[key]) for key in plain)
    assert not list(folder.glob("old.ckpt.*"))


@pytest.mark.long
def test_the_collection_can_be_made_twice(folder):
    seen = []
    made = demo_collection(folder / "collection", seen.append)
    assert [path.name for path in made.values()] == seen
    assert {path.suffix for path in made.values()} == {".safetensors", ".ckpt"}
    assert sum(path.stat().st_size for path in made.values()) < 120e6
    before = {name: path.read_bytes() for name, path in made.items() if path.suffix == ".safetensors"}
    again = demo_collection(folder / "collection")
    assert {name: again[name].read_bytes() for name in before} == before
    sizes = relative_sizes(made["sd1-base"], made["sd1-ink"])
    assert sizes["IN04"] > 0


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"dtype": "int64"}, "cannot be stored"),
        ({"dtype": "fp17"}, "no dtype"),
        ({"prediction": "x0"}, "prediction type 'x0'"),
        ({"in_channels": 3}, "at least 4 input channels"),
    ],
)
def test_impossible_wishes_get_one_sentence_and_no_file(options, word, folder):
    path = folder / "never.safetensors"
    with pytest.raises(CheckpointError, match=word):
        write_demo(path, "sd1", **options)
    assert not path.exists()


def test_a_finetune_of_another_family_is_refused(base, folder):
    with pytest.raises(CheckpointError, match=r"base\.safetensors.*SD1.*SDXL"):
        write_demo(folder / "never.safetensors", "sdxl", finetune_of=base)


def test_an_existing_file_is_replaced_only_on_request(base):
    with raising("output.exists", OutputError):
        write_demo(base, "sd1", seed=9)


def tokenizer():
    """A tokenizer of three words: enough for a prompt, and nothing to download."""
    transformers = pytest.importorskip("transformers")
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


PIPELINES = {
    "sd1": ("StableDiffusionPipeline", ("tokenizer",)),
    "sd2": ("StableDiffusionPipeline", ("tokenizer",)),
    "sdxl": ("StableDiffusionXLPipeline", ("tokenizer", "tokenizer_2")),
    "sdxl_refiner": ("StableDiffusionXLImg2ImgPipeline", ("tokenizer_2",)),
}


# Those of SD1, SD2 and SDXL run in the tests of live pictures, too.
@pytest.mark.parametrize("family", others_long(PIPELINES, lambda family: family in ("sd1", "sdxl_refiner")))
def test_diffusers_loads_and_runs_a_narrow_demo_offline(family, folder):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    path = write_demo(folder / f"run-{family}.safetensors", family, seed=7)
    config = write_pipeline_config(folder / f"config-{family}", family, widths="narrow")
    name, tokenizers = PIPELINES[family]
    options = dict.fromkeys(tokenizers, tokenizer())
    if not family.startswith("sdxl"):
        options |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = getattr(diffusers, name).from_single_file(
        str(path), config=str(config), local_files_only=True, **options
    )
    pipeline.set_progress_bar_config(disable=True)

    stored = load_file(path)
    first = pipeline.unet.conv_in.weight.detach().numpy()
    assert np.array_equal(first, stored[UNET + "input_blocks.0.0.weight"].astype(np.float32))
    unet = sum(tensor.size for key, tensor in stored.items() if key.startswith(UNET))
    assert sum(p.numel() for p in pipeline.unet.parameters()) == unet

    generator = torch.Generator().manual_seed(0)
    picture = (
        {"image": torch.rand(1, 3, 64, 64, generator=generator)}
        if family == "sdxl_refiner"
        else {"height": 64, "width": 64}
    )
    images = pipeline("a", num_inference_steps=4, output_type="np", generator=generator, **picture).images
    assert images.shape == (1, 64, 64, 3)
    assert np.isfinite(images).all()
    assert 0.05 < images.std() < 0.5
