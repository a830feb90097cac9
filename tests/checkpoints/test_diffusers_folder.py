"""Folders that diffusers and transformers write, and folders that lack something."""

import json
import shutil

import pytest
from places import place
from told import codes, the

from unetscope.checkpoints.errors import CheckpointError
from unetscope.checkpoints.families.diffusers import text_configs, unet_config, vae_config
from unetscope.checkpoints.formats.diffusers_folder import read_folder
from unetscope.checkpoints.recognition import to_single_file

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
from safetensors.torch import save_file  # noqa: E402


def modules():
    """A narrow SD1: UNET, VAE and text encoder."""
    torch.manual_seed(0)
    text = transformers.CLIPTextConfig(**text_configs("sd1", "narrow")["text_encoder"])
    return {
        "unet": diffusers.UNet2DConditionModel(**unet_config("sd1", "narrow")).half(),
        "vae": diffusers.AutoencoderKL(**vae_config("sd1", "narrow")).half(),
        "text_encoder": transformers.CLIPTextModel(text).half(),
    }


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A pipeline's folder as diffusers and transformers save it, and the state dicts in it."""
    folder = tmp_path_factory.mktemp("pipeline")
    states = {}
    for name, module in modules().items():
        module.save_pretrained(folder / name)
        states[name] = module.state_dict()
    diffusers.DDIMScheduler(prediction_type="v_prediction").save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return folder, states


@pytest.fixture
def copy(pipeline, tmp_path):
    """A copy of the pipeline's folder that a test may spoil."""
    return shutil.copytree(pipeline[0], tmp_path / "copy")


def shapes(tensors):
    return {t.name.removeprefix("text_model."): t.shape for t in tensors}


def torch_shapes(state):
    return {name.removeprefix("text_model."): tuple(t.shape) for name, t in state.items()}


def test_a_pipeline_gives_the_tensors_that_were_saved(pipeline):
    path, states = pipeline
    folder = read_folder(path)
    assert {n: shapes(t) for n, t in folder.components.items()} == {n: torch_shapes(s) for n, s in states.items()}
    assert {t.dtype.name for tensors in folder.components.values() for t in tensors} == {"F16"}
    assert folder.metadata["pipeline"] == "StableDiffusionPipeline"
    assert folder.configs["unet"]["_class_name"] == "UNet2DConditionModel"
    assert folder.size == sum(file.stat().st_size for file in path.rglob("*.safetensors"))
    assert not folder.alone and folder.notes == []


def test_a_pipelines_tensors_translate_without_a_rest(pipeline):
    translation = to_single_file(read_folder(pipeline[0]).components)
    assert translation.family == "sd1"
    assert translation.unknown == []
    assert {place(key).component for key in translation.tensors} == {"unet", "vae", "clip_l"}


@pytest.mark.parametrize(("said", "read"), [("epsilon", "epsilon"), ("v_prediction", "v"), ("sample", None), (7, None)])
def test_the_schedulers_configuration_says_how_the_model_predicts(copy, said, read):
    (copy / "scheduler/scheduler_config.json").write_text(json.dumps({"prediction_type": said}))
    folder = read_folder(copy)
    assert folder.prediction == read
    assert folder.prediction_from == ("scheduler/scheduler_config.json" if read else "")
    assert bool(folder.notes) == (read is None)


def test_an_edm_scheduler_says_edm(copy):
    diffusers.EDMEulerScheduler().save_pretrained(copy / "scheduler")
    assert read_folder(copy).prediction == "edm"


def test_a_folder_without_a_scheduler_says_nothing_of_the_prediction(copy):
    shutil.rmtree(copy / "scheduler")
    folder = read_folder(copy)
    assert (folder.prediction, folder.prediction_from) == (None, "")


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_a_component_alone_is_read(pipeline, component):
    path, states = pipeline
    folder = read_folder(path / component)
    assert folder.alone
    assert {n: shapes(t) for n, t in folder.components.items()} == {component: torch_shapes(states[component])}


def test_a_pickled_component_is_read(copy, pipeline):
    (copy / "unet/diffusion_pytorch_model.safetensors").unlink()
    torch.save(pipeline[1]["unet"], copy / "unet/diffusion_pytorch_model.bin")
    assert shapes(read_folder(copy).components["unet"]) == torch_shapes(pipeline[1]["unet"])


@pytest.mark.one_by_one
@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_with_an_index_are_read_as_one(tmp_path, safe, variant):
    unet = modules()["unet"]
    unet.save_pretrained(tmp_path / "unet", max_shard_size="1MB", safe_serialization=safe, variant=variant)
    folder = read_folder(tmp_path)
    assert len(folder.files["unet"]) > 1
    assert shapes(folder.components["unet"]) == torch_shapes(unet.state_dict())


def test_the_plain_weights_are_read_before_a_variant_and_a_note_says_so(copy, pipeline):
    modules()["unet"].save_pretrained(copy / "unet", variant="fp16")
    folder = read_folder(copy)
    assert [file.name for file in folder.files["unet"]] == ["diffusion_pytorch_model.safetensors"]
    assert the(folder.notes, "folder.variants").subject == ("unet", "fp16")


def test_a_variant_alone_is_read_and_a_note_says_so(copy):
    (copy / "unet/diffusion_pytorch_model.safetensors").unlink()
    modules()["unet"].save_pretrained(copy / "unet", variant="fp16")
    folder = read_folder(copy)
    assert [file.name for file in folder.files["unet"]] == ["diffusion_pytorch_model.fp16.safetensors"]
    assert the(folder.notes, "folder.only_variant").subject == ("unet", "fp16")


def test_safetensors_are_read_before_a_pickle(copy):
    (copy / "unet/diffusion_pytorch_model.bin").write_bytes(b"anything")
    assert read_folder(copy).files["unet"][0].suffix == ".safetensors"


def test_a_folder_without_a_model_index_is_read_with_a_note(copy):
    (copy / "model_index.json").unlink()
    folder = read_folder(copy)
    assert set(folder.components) == {"unet", "vae", "text_encoder"}
    assert "folder.no_index" in codes(folder.notes)


def test_a_component_without_weights_is_noted(copy):
    (copy / "vae/diffusion_pytorch_model.safetensors").unlink()
    folder = read_folder(copy)
    assert "vae" not in folder.components
    assert the(folder.notes, "folder.empty").subject == ("vae",)


def test_the_headers_strings_are_kept_by_component(tmp_path):
    (tmp_path / "unet").mkdir()
    strings = {"format": "pt", "trained_by": "me"}
    save_file({"a": torch.ones(1)}, tmp_path / "unet/diffusion_pytorch_model.safetensors", strings)
    assert read_folder(tmp_path).metadata == {"unet.trained_by": "me"}


def sharded(path, where, shards):
    """A UNET's folder with an index that may lie."""
    (path / "unet").mkdir()
    index = "diffusion_pytorch_model.safetensors.index.json"
    (path / "unet" / index).write_text(json.dumps({"weight_map": where}))
    for name, names in shards.items():
        save_file({n: torch.ones(1) for n in names}, path / "unet" / name)
    return path


ONE, TWO = (f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2))


@pytest.mark.parametrize(
    ("where", "shards", "message"),
    [
        ({"a": ONE, "b": TWO}, {ONE: ["a"]}, f"the shard {TWO} is missing"),
        ({"a": ONE, "b": TWO}, {ONE: ["a"], TWO: ["c"]}, f"tensor b should be in {TWO}"),
        ({"a": "../secret.safetensors"}, {}, "is outside its folder"),
        ({"a": "..\\secret.safetensors"}, {}, "is outside its folder"),
        ({"a": "/etc/passwd"}, {}, "is outside its folder"),
        ({"a": ".."}, {}, "is outside its folder|is missing"),
        ({"a": 1}, {}, "no weight_map"),
        ({}, {}, "no weight_map"),
        (None, {}, "no weight_map"),
    ],
)
def test_an_index_that_does_not_fit_its_shards_is_refused(tmp_path, where, shards, message):
    with pytest.raises(CheckpointError, match=message):
        read_folder(sharded(tmp_path, where, shards))


def test_a_tensor_that_the_index_puts_elsewhere_is_read_from_there_only(tmp_path):
    path = sharded(tmp_path, {"a": ONE, "b": TWO}, {ONE: ["a", "b"], TWO: ["b"]})
    tensors = read_folder(path).components["unet"]
    assert [(t.name, t.pieces[0].path.name) for t in tensors] == [("a", ONE), ("b", TWO)]


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, '"text"', "\udcff"])
def test_a_damaged_configuration_is_one_sentence(copy, content):
    (copy / "unet/config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_folder(copy)


def test_damaged_weights_are_named(copy):
    (copy / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match="vae"):
        read_folder(copy)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no model_index.json, no config.json"),
        ({"photo.png": "x", "unet/readme.txt": "x"}, "no model_index.json, no config.json"),
        ({"config.json": '{"_class_name": "FluxTransformer2DModel"}'}, "a FluxTransformer2DModel"),
        ({"config.json": '{"_class_name": "UNet2DConditionModel"}'}, "a UNet2DConditionModel without weights"),
        ({"config.json": '{"architectures": 5}'}, "not a diffusers folder"),
        ({"model_index.json": '{"_class_name": "StableDiffusionPipeline"}'}, "no weights of unet"),
        ({"adapter_config.json": "{}"}, "not a diffusers folder"),
    ],
)
def test_a_folder_that_is_no_diffusers_folder_is_one_sentence(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_pipeline_with_a_transformer_is_named_as_what_it_is(copy):
    shutil.rmtree(copy / "unet")
    (copy / "transformer").mkdir()
    (copy / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(CheckpointError, match="FluxPipeline"):
        read_folder(copy)


def test_a_missing_folder_is_one_sentence(tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        read_folder(tmp_path / "nothing")
