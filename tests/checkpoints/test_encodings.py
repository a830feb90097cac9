"""Ways to store numbers: codes are named and refused until something decodes them, and then they are numbers everywhere."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
import torch
from quantised import FORMS, bare_int8, chosen, int8, scaled_fp8, write_quantised
from safetensors.torch import load_file, save_file
from tiny import tensors_of
from told import raising

from unetscope.analysis import diff, measure
from unetscope.checkpoints import CheckpointError, open_checkpoint
from unetscope.checkpoints.encodings import ENCODINGS, Coded, Encoding, Found
from unetscope.checkpoints.lora import open_lora
from unetscope.library.inspection import inspect
from unetscope.library.scan import scan
from unetscope.merge import Recipe, merge
from unetscope.merge.convert import convert

KEY = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"


# -- codes that nothing decodes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_a_file_of_codes_is_refused_when_it_is_opened_to_compute_and_told_when_it_is_looked_at(tmp_path, form):
    path = tmp_path / "q.safetensors"
    tensors = write_quantised(path, form)
    with pytest.raises(CheckpointError, match=r"q\.safetensors"):
        open_checkpoint(path)
    found = inspect(path)
    (coded, plain) = found.stored
    assert (coded.encoding, coded.tensors, coded.decoded) == (FORMS[form], len(chosen(tensors)), False)
    assert (plain.encoding, plain.tensors) == ("plain", len(tensors) - len(chosen(tensors)))
    assert coded.sign.startswith("model.diffusion_model.")
    assert found.architecture.family == "sd1" and found.total.tensors == len(tensors)
    assert not found.missing and not found.junk
    assert sum(part.bytes for part in found.stored) == found.total.bytes
    assert found.to_plain()["stored"][0]["encoding"] == FORMS[form]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_the_numbers_of_codes_have_the_shape_that_the_weights_had(tmp_path, form):
    tensors = write_quantised(tmp_path / "q.safetensors", form)
    with open_checkpoint(tmp_path / "q.safetensors", to_look=True) as checkpoint:
        assert {key: info.shape for key, info in checkpoint.tensors.items()} == {
            k: tuple(t.shape) for k, t in tensors.items()
        }


def test_a_checkpoint_that_is_looked_at_gives_no_codes_out(tmp_path):
    write_quantised(tmp_path / "q.safetensors", scaled_fp8)
    with open_checkpoint(tmp_path / "q.safetensors", to_look=True) as checkpoint:
        with raising("encoding.not_decoded", CheckpointError):
            checkpoint.numpy(KEY)
        checkpoint.numpy("model.diffusion_model.middle_block.0.in_layers.2.weight")


SIGNS = {
    "scaled_fp8": {"model.diffusion_model.scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)},
    "weight_scale": {KEY.removesuffix(".weight") + ".weight_scale": torch.ones(())},
    "scale_weight": {KEY.removesuffix(".weight") + ".scale_weight": torch.ones(1)},
    "input_scale": {KEY.removesuffix(".weight") + ".input_scale": torch.ones(())},
    "comfy_quant": {KEY.removesuffix(".weight") + ".comfy_quant": torch.zeros(9, dtype=torch.uint8)},
    "absmax": {KEY + ".absmax": torch.ones(4)},
    "nested_absmax": {KEY + ".nested_absmax": torch.ones(4)},
    "quant_map": {KEY + ".quant_map": torch.ones(16)},
    "quant_state": {KEY + ".quant_state.bitsandbytes__fp4": torch.zeros(9, dtype=torch.uint8)},
    "SCB": {KEY.removesuffix(".weight") + ".SCB": torch.ones(4)},
    "qweight": {KEY.removesuffix(".weight") + ".qweight": torch.zeros(4, 4, dtype=torch.int32)},
    "scales of another file": {"somewhere.else.weight_scale": torch.ones(())},
}


@pytest.mark.parametrize("name", SIGNS)
def test_one_sign_among_plain_weights_is_enough(make_checkpoint, name):
    path, _ = make_checkpoint("a", change=lambda tensors: tensors | SIGNS[name])
    with raising("encoding.not_decoded", CheckpointError):
        open_checkpoint(path)
    assert not inspect(path).stored[0].decoded


def test_the_metadata_are_a_sign_as_well(make_checkpoint):
    path, _ = make_checkpoint("a", metadata={"_quantization_metadata": "{}"})
    with pytest.raises(CheckpointError, match="_quantization_metadata"):
        open_checkpoint(path)
    assert inspect(path).metadata["_quantization_metadata"] == "{}"


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.int64])
def test_integers_are_codes_where_a_weight_should_be_and_buffers_elsewhere(make_checkpoint, dtype):
    ids = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    path, _ = make_checkpoint("a", change=lambda t: t | {ids: torch.arange(77).reshape(1, 77).to(dtype)})
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.raw(ids).reshape(-1).tolist() == list(range(77))
        assert [part.encoding for part in checkpoint.stored] == ["plain"]
    path, _ = make_checkpoint("b", change=lambda t: t | {KEY: torch.ones(t[KEY].shape).to(dtype)})
    with pytest.raises(CheckpointError, match=r"attn1\.to_q\.weight is [IU]\d+"):
        open_checkpoint(path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_plain_fp8_stays_plain(make_checkpoint, dtype):
    path, tensors = make_checkpoint("a", change=lambda t: {k: v.to(dtype) if k == KEY else v for k, v in t.items()})
    with open_checkpoint(path) as checkpoint:
        assert np.array_equal(checkpoint.numpy(KEY), tensors[KEY].float().numpy())


def test_codes_in_a_pickle_and_in_a_diffusers_folder_are_refused_too(tmp_path):
    torch.save({"a.weight": torch.ones(3, 3, dtype=torch.int8)}, tmp_path / "a.ckpt")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    save_file(
        {"encoder.conv_in.weight": torch.ones(3, 3), "encoder.conv_in.weight_scale": torch.ones(())},
        folder / "diffusion_pytorch_model.safetensors",
    )
    for path in (tmp_path / "a.ckpt", folder):
        with raising("encoding.not_decoded", CheckpointError):
            open_checkpoint(path)


@pytest.mark.parametrize("dtype, size", [("F4", 2), ("F8_E8M0", 4)])
def test_formats_that_only_quantised_files_have_are_refused(tmp_path, dtype, size):
    header = json.dumps({"a.weight": {"dtype": dtype, "shape": [2, 2], "data_offsets": [0, size]}}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * size)
    with pytest.raises(CheckpointError, match=f"{dtype}"):
        open_checkpoint(path)


def test_a_lora_of_codes_is_refused(tmp_path):
    path = tmp_path / "lora.safetensors"
    name = "lora_unet_mid_block_attentions_0_proj_in"
    save_file({f"{name}.{part}.weight": torch.ones(4, 4, dtype=torch.int8) for part in ("lora_up", "lora_down")}, path)
    with raising("encoding.not_decoded", CheckpointError):
        open_lora(path)


def test_what_computes_refuses_before_it_writes(make_checkpoint, tmp_path):
    path, out = tmp_path / "q.safetensors", tmp_path / "out.safetensors"
    write_quantised(path, bare_int8)
    plain, _ = make_checkpoint("plain", seed=2)
    both = {"models": {"a": str(plain), "b": str(path)}, "steps": {"mix": {"method": "uniform", "inputs": ["a", "b"]}}}
    for run in (
        lambda: merge(Recipe.parse(both), out),
        lambda: merge(Recipe.parse({"models": {"a": str(plain)}, "components": {"vae": str(path)}}), out),
        lambda: convert(path, out),
        lambda: convert(path, out, dtype="fp16"),
        lambda: convert(plain, out, donor=path),
        lambda: scan(path),
    ):
        with pytest.raises(CheckpointError, match=r"q\.safetensors"):
            run()
        assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == ["plain.safetensors", "q.safetensors"]


def test_a_truncated_file_of_codes_can_still_be_looked_at(tmp_path):
    path = tmp_path / "q.safetensors"
    write_quantised(path, scaled_fp8)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = inspect(path)
    assert found.truncation is not None and found.stored[0].encoding == "scaled_fp8"


# -- an encoding from outside -------------------------------------------------------------------------------------------


def find(file):
    scales = file.with_tail("my_scale")
    coded = [
        Coded(file.tensors[weight], {"scale": file.tensors[scale]}, granule=GRANULE)
        for scale in scales
        if (weight := f"{scale.removesuffix('.my_scale')}.weight") in file.tensors
    ]
    return Found(scales[0], coded, metadata=("my_note",)) if coded else None


# Pieces that are not a multiple of this must be cut out of what is decoded.
GRANULE = 7


def decode(source, start, stop, out):
    assert start % GRANULE == 0 and (stop % GRANULE == 0 or stop == source.coded.codes.elements)
    np.multiply(source.codes(start, stop).view(np.int8), source.side_values("scale"), out=out, casting="unsafe")


@pytest.fixture
def my_int8():
    """int8 codes with one scale a tensor, registered for one test."""
    encoding = ENCODINGS.register(Encoding("my_int8", "my int8", find, decode), "a test")
    yield encoding
    ENCODINGS.forget("my_int8")


def mine(key: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    codes, scale = int8(weight)
    return {key: codes, f"{key.removesuffix('.weight')}.my_scale": scale}


def decoded(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """What the file stands for, by numpy."""
    out = {k: t.float().numpy() for k, t in tensors.items()}
    for key in chosen(tensors):
        codes, scale = int8(tensors[key])
        out[key] = codes.numpy().astype(np.float32) * np.float32(scale)
    return out


@pytest.fixture
def coded_file(tmp_path, my_int8):
    tensors = write_quantised(tmp_path / "mine.safetensors", mine, metadata={"my_note": "codes", "title": "kept"})
    return tmp_path / "mine.safetensors", decoded(tensors)


def test_without_its_decoder_the_file_is_refused(tmp_path):
    write_quantised(tmp_path / "mine.safetensors", mine)
    with raising("encoding.not_decoded", CheckpointError):
        open_checkpoint(tmp_path / "mine.safetensors")


def test_a_decoder_from_outside_gives_numbers_and_hides_what_belongs_to_them(coded_file):
    path, numbers = coded_file
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.tensors.keys() == numbers.keys()
        assert "my_note" not in checkpoint.metadata and checkpoint.metadata["title"] == "kept"
        for key, expected in numbers.items():
            assert np.array_equal(checkpoint.numpy(key), expected), key
        info, out = checkpoint[KEY], np.empty(5 * 4, np.uint8)
        checkpoint.read_raw(info, 3, 8, out)  # from the middle of one granule into the next
        assert np.array_equal(out.view(np.float32), numbers[KEY].reshape(-1)[3:8])
    found = inspect(path)
    assert [(p.encoding, p.decoded) for p in found.stored] == [("my_int8", True), ("plain", True)]
    assert found.dtypes["I8"].tensors == sum("transformer_blocks" in k and v.ndim == 2 for k, v in numbers.items())


def test_threads_that_read_one_coded_tensor_get_its_numbers(coded_file):
    path, numbers = coded_file
    with open_checkpoint(path) as checkpoint:
        keys, failed = [k for k in numbers if "transformer_blocks" in k], []

        def work() -> None:
            for key in keys:
                if not np.array_equal(checkpoint.numpy(key), numbers[key]):
                    failed.append(key)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed


def test_statistics_and_differences_are_those_of_the_numbers(coded_file, tmp_path):
    path, numbers = coded_file
    save_file({k: torch.from_numpy(v) for k, v in numbers.items()}, tmp_path / "plain.safetensors")
    with open_checkpoint(path) as one, open_checkpoint(tmp_path / "plain.safetensors") as other:
        table = measure(one).table().set_index("key")
        assert table.loc[KEY, "mean"] == pytest.approx(numbers[KEY].mean(dtype=np.float64), rel=1e-5, abs=1e-9)
        assert table.loc[KEY, "std"] == pytest.approx(numbers[KEY].std(dtype=np.float64), rel=1e-4)
        assert (diff(one, other).table()["relative_l2"].fillna(0) == 0).all()
    assert scan(path).fingerprints == scan(tmp_path / "plain.safetensors").fingerprints


def test_merges_and_conversions_are_those_of_the_numbers(coded_file, tmp_path):
    path, numbers = coded_file
    other = {k: t.float() for k, t in tensors_of("sd1", 2).items()}
    save_file(other, tmp_path / "other.safetensors")
    recipe = {
        "models": {"a": str(path), "b": str(tmp_path / "other.safetensors")},
        "steps": {"mix": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.25}},
        "output": {"dtype": "fp32"},
    }
    merge(Recipe.parse(recipe), tmp_path / "out.safetensors")
    written = load_file(tmp_path / "out.safetensors")
    assert not any("my_scale" in key for key in written)
    for key in (KEY, "model.diffusion_model.middle_block.0.in_layers.2.weight"):
        expected = 0.75 * numbers[key].astype(np.float64) + 0.25 * other[key].numpy().astype(np.float64)
        np.testing.assert_allclose(written[key].numpy(), expected, rtol=1e-5, atol=1e-8)
    convert(path, tmp_path / "half.safetensors", dtype="fp16")
    half = load_file(tmp_path / "half.safetensors")
    assert half.keys() == numbers.keys()
    assert all(np.array_equal(half[k].numpy(), numbers[k].astype(np.float16)) for k in chosen(half))
    header = json.loads((tmp_path / "half.safetensors").read_bytes()[8:].split(b"}}", 1)[0].decode() + "}}")
    assert header["__metadata__"]["title"] == "kept" and "my_note" not in header["__metadata__"]


def test_a_conversion_to_a_diffusers_folder_turns_and_renames_the_numbers(coded_file, tmp_path):
    path, numbers = coded_file
    convert(path, tmp_path / "folder", to="diffusers")
    with open_checkpoint(tmp_path / "folder") as folder:
        assert np.array_equal(folder.numpy(KEY), numbers[KEY])


def test_half_of_a_files_codes_without_a_decoder_is_still_refused(tmp_path, my_int8):
    tensors = tensors_of("sd1", 1)
    keys = chosen(tensors)
    stored = {k: t for k, t in tensors.items() if k not in keys[:2]} | mine(keys[0], tensors[keys[0]])
    save_file(stored | scaled_fp8(keys[1], tensors[keys[1]]), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="fp8"):
        open_checkpoint(tmp_path / "a.safetensors")
    assert [p.encoding for p in inspect(tmp_path / "a.safetensors").stored] == ["my_int8", "scaled_fp8", "plain"]
