"""Scans against damage that the tests do themselves, and fingerprints across containers."""

from __future__ import annotations

import hashlib
import importlib
import random

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from places import place
from safetensors.torch import save_file
from samples import others_long

from unetscope.checkpoints import CheckpointError, open_checkpoint
from unetscope.library.health import PositionIds, level
from unetscope.library.scan import scan

UNET_WEIGHT = "model.diffusion_model.input_blocks.4.1.proj_in.weight"
POSITIONS = "cond_stage_model.transformer.text_model.embeddings.position_ids"
WEIGHTS = {
    "sd1": ["unet", "clip_l", "vae"],
    "sd2": ["unet", "clip_h", "vae"],
    "sdxl": ["unet", "clip_l", "clip_g", "vae"],
}


@pytest.fixture
def saved(tmp_path):
    """Writes tensors to a file and says where."""

    def save(tensors, name="x.safetensors"):
        path = tmp_path / name
        tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
        if name.endswith(".ckpt"):
            torch.save({"state_dict": tensors, "epoch": 3}, path)
        else:
            save_file(tensors, path)
        return path

    return save


def test_a_sound_file_has_no_broken_or_suspect_findings(make_checkpoint):
    path, tensors = make_checkpoint("a", "sdxl")
    found = scan(path)
    assert [f for f in found.health if f.severity != "note"] == []
    assert set(found.tensors) == set(tensors)
    assert list(found.fingerprints) == WEIGHTS["sdxl"]


@pytest.mark.one_by_one
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("kernel", ["numba", "numpy"])
def test_nan_infinite_and_zero_values_are_counted(dtype, kernel, make_checkpoint, monkeypatch):
    from unetscope.checkpoints.kernels import kernel as chosen

    monkeypatch.setenv("UNETSCOPE_KERNEL", kernel)
    chosen.cache_clear()

    def change(tensors):
        tensors[UNET_WEIGHT].view(-1)[3:8] = torch.nan
        tensors["first_stage_model.decoder.conv_in.weight"].view(-1)[0] = -torch.inf
        tensors["model.diffusion_model.out.2.weight"].zero_()
        tensors["model.diffusion_model.out.2.bias"].zero_()

    found = scan(make_checkpoint("a", dtype=dtype, change=change)[0])
    chosen.cache_clear()
    wrong = {key: values for key, values in found.tensors.items() if values.remarkable}
    assert wrong[UNET_WEIGHT].nan == 5 and wrong[UNET_WEIGHT].inf == 0
    assert wrong["first_stage_model.decoder.conv_in.weight"].inf == 1
    assert {key for key, values in wrong.items() if values.zero} == {
        "model.diffusion_model.out.2.weight",
        "model.diffusion_model.out.2.bias",
    }
    assert [level(f) for f in found.health] == ["broken", "broken", "suspect", "note"]
    assert found.health[0].subject == (UNET_WEIGHT,) and "5 " in found.health[0].text


def test_values_too_large_for_fp16_are_noted_where_they_can_be(make_checkpoint):
    def change(tensors):
        tensors[UNET_WEIGHT].view(-1)[:3] = torch.tensor([65504.0, 65519.9, -7e4])

    found = scan(make_checkpoint("a", dtype="fp32", change=change)[0])
    assert found.tensors[UNET_WEIGHT].too_large == 1
    assert [f.severity for f in found.health if f.code == "health.too_large"] == ["note"]


@pytest.mark.parametrize(
    ("ids", "state"),
    [
        (torch.arange(77), PositionIds.SOUND),
        (torch.arange(77).int(), PositionIds.SOUND),
        (torch.arange(77).half(), PositionIds.FLOAT),
        (torch.arange(77).float(), PositionIds.FLOAT),
        (torch.arange(77) * 0.999, PositionIds.OFF),
        (torch.zeros(77, dtype=torch.int64), PositionIds.OFF),
    ],
)
def test_position_ids_are_judged_by_their_values(ids, state, make_checkpoint):
    path, _ = make_checkpoint("a", change=lambda t: t.update({POSITIONS: ids.reshape(1, 77)}))
    found = scan(path)
    assert found.position_ids == {POSITIONS: state}
    levels = [level(f) for f in found.health if f.code == "health.position_ids"]
    assert levels == {PositionIds.SOUND: [], PositionIds.FLOAT: ["note"], PositionIds.OFF: ["suspect"]}[state]


def test_missing_weights_are_broken_and_ballast_is_noted(make_checkpoint):
    def change(tensors):
        del tensors[UNET_WEIGHT]
        tensors["junk"] = torch.zeros(3)
        tensors["model_ema.diffusion_modelout2weight"] = torch.ones(2000)

    health = scan(make_checkpoint("a", change=change)[0]).health
    assert [f.code for f in health] == ["health.lacking", "health.needless", "health.unknown"]
    assert [level(f) for f in health] == ["broken", "note", "note"]
    assert UNET_WEIGHT in health[0].subject and health[2].subject == ("junk",) and "12 B" in health[2].text


def test_an_sd2_without_the_layer_that_it_does_not_use_is_not_broken(make_checkpoint):
    def change(tensors):
        return {k: t for k, t in tensors.items() if "resblocks.23." not in k}

    assert [f.severity for f in scan(make_checkpoint("a", "sd2", change=change)[0]).health] == ["note"]


def test_a_lora_is_scanned_without_being_taken_for_a_broken_checkpoint(saved):
    tensors = {f"lora_unet_x_{i}.lora_{way}.weight": torch.ones(4, 4) for i in range(3) for way in ("down", "up")}
    tensors["lora_unet_x_0.lora_up.weight"][0, 0] = torch.nan
    found = scan(saved(tensors))
    assert found.fingerprints == {} and [f.severity for f in found.health] == ["note"]
    assert len(found.sha256) == 64


@pytest.mark.parametrize("threads", [1, 4])
def test_sha256_is_that_of_the_whole_file_and_is_remembered(threads, make_checkpoint, monkeypatch):
    path, _ = make_checkpoint("a")
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    found = scan(path, threads=threads)
    assert (found.sha256, found.autov2) == (expected, expected[:10])
    again = scan(path)
    assert (again.sha256, again.fingerprints) == (expected, found.fingerprints)


def test_a_safetensors_file_is_read_once_and_whole(make_checkpoint, monkeypatch):
    from unetscope.checkpoints.files import FileReader

    path, _ = make_checkpoint("a")
    read, original = [], FileReader.read_into

    def counting(self, offset, buffer):
        read.append((offset, memoryview(buffer).nbytes))
        original(self, offset, buffer)

    monkeypatch.setattr(FileReader, "read_into", counting)
    assert scan(path, threads=3).sha256
    at = 0
    for offset, size in sorted(read):
        assert offset == at
        at += size
    assert at == path.stat().st_size


def test_a_pickle_has_a_sha256_too(make_checkpoint, saved):
    _, tensors = make_checkpoint("a")
    path = saved(tensors, "a.ckpt")
    assert scan(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_that_shrinks_while_it_is_read_fails_and_does_not_hang(make_checkpoint, monkeypatch):
    path, _ = make_checkpoint("a")

    def cut(*arguments):
        checkpoint = open_checkpoint(*arguments)
        with open(path, "r+b") as file:
            file.truncate(path.stat().st_size // 2)
        return checkpoint

    monkeypatch.setattr(importlib.import_module("unetscope.library.scan"), "open_checkpoint", cut)
    with pytest.raises(CheckpointError, match="ends at byte"):
        scan(path, threads=4)


# -- fingerprints ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", others_long(["sd1", "sd2", "sdxl"], lambda family: family == "sd1"))
def test_fingerprints_do_not_depend_on_container_key_order_or_exact_dtype(family, make_checkpoint, saved):
    path, tensors = make_checkpoint("a", family)
    expected = scan(path).fingerprints
    assert list(expected) == WEIGHTS[family]
    keys = list(tensors)
    random.Random(1).shuffle(keys)
    shuffled = {key: tensors[key] for key in keys}
    assert scan(saved(shuffled, "shuffled.ckpt")).fingerprints == expected
    wide = {k: t.float() if t.dtype == torch.float16 else t for k, t in tensors.items()}
    assert scan(saved(wide, "wide.safetensors")).fingerprints == expected
    bare = {k: t for k, t in tensors.items() if place(k).component in WEIGHTS[family] and "position_ids" not in k}
    assert scan(saved(bare, "bare.safetensors")).fingerprints == expected
    turned = {k: t.T.contiguous().T if t.ndim == 2 else t for k, t in tensors.items()}
    torch.save(turned, path.with_name("turned.pt"))
    assert scan(path.with_name("turned.pt")).fingerprints == expected


def test_a_fingerprint_is_what_its_description_says(saved):
    """Worked out by hand: fp32 blocks of 2^19 elements through XXH3-128, then a SHA-256 of the sorted tensors."""
    weights = {
        "decoder.conv_in.bias": torch.randn(7).half(),
        "decoder.conv_in.weight": torch.randn(3, (1 << 18) + 5).bfloat16(),
        "encoder.conv_in.weight": torch.randn(2, 3, 1, 1),
    }
    lines = []
    for name in sorted(weights):
        flat = weights[name].float().numpy().ravel()
        blocks = [xxhash.xxh3_128_digest(flat[at : at + (1 << 19)].tobytes()) for at in range(0, flat.size, 1 << 19)]
        lines.append(f"{name} float {list(weights[name].shape)} ".encode() + b"".join(blocks))
    path = saved({f"first_stage_model.{name}": tensor for name, tensor in weights.items()})
    assert scan(path).fingerprints == {"vae": hashlib.sha256(b"\n".join(lines)).hexdigest()[:32]}


def test_fingerprints_do_not_depend_on_threads(make_checkpoint):
    path, _ = make_checkpoint("a", "sdxl")
    assert scan(path, threads=1).fingerprints == scan(path, threads=5).fingerprints


def test_a_component_alone_has_the_fingerprint_that_it_has_in_a_checkpoint(make_checkpoint, saved):
    path, tensors = make_checkpoint("a", "sdxl")
    prefix = "conditioner.embedders.0.transformer."
    alone = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
    assert scan(saved(alone)).fingerprints == {"clip_l": scan(path).fingerprints["clip_l"]}


def test_rounding_changes_a_fingerprint_and_every_nan_is_the_same(make_checkpoint, saved):
    _, tensors = make_checkpoint("a", dtype="fp32")
    expected = scan(saved(tensors)).fingerprints
    rounded = {k: t.half() if t.is_floating_point() else t for k, t in tensors.items()}
    found = scan(saved(rounded, "half.safetensors")).fingerprints
    assert all(found[c] != expected[c] for c in expected)
    nans = []
    for name, bits in (("quiet", 0x7FC00000), ("payload", 0x7FC12345)):
        tensors[UNET_WEIGHT].view(-1)[0] = torch.from_numpy(np.array([bits], np.uint32).view(np.float32))[0]
        nans.append(scan(saved(tensors, f"{name}.safetensors")).fingerprints["unet"])
    assert nans[0] == nans[1] != expected["unet"]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """One SD1 file, its tensors and its fingerprints, for many small changes."""
    from tiny import tensors_of

    folder, tensors = tmp_path_factory.mktemp("model"), tensors_of("sd1", 0)
    save_file(tensors, folder / "a.safetensors")
    return folder, tensors, scan(folder / "a.safetensors").fingerprints


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_changed_value_changes_the_fingerprint_of_its_component_alone(model_file, data):
    folder, tensors, expected = model_file
    weights = sorted(k for k in tensors if place(k).component in expected and not k.endswith("position_ids"))
    key = data.draw(st.sampled_from(weights))
    index = data.draw(st.integers(0, tensors[key].numel() - 1))
    changed = tensors[key].clone()
    bits = changed.view(-1).view(torch.int16)
    bits[index] ^= 1
    save_file({**tensors, key: changed}, folder / "changed.safetensors")
    found = scan(folder / "changed.safetensors").fingerprints
    assert {c for c in expected if found[c] != expected[c]} == {place(key).component}


def test_two_tensors_that_change_places_change_the_fingerprint(make_checkpoint, saved):
    path, tensors = make_checkpoint("a")
    other = UNET_WEIGHT.replace("input_blocks.4", "input_blocks.5")
    assert tensors[other].shape == tensors[UNET_WEIGHT].shape
    tensors[other], tensors[UNET_WEIGHT] = tensors[UNET_WEIGHT], tensors[other]
    assert scan(saved(tensors)).fingerprints["unet"] != scan(path).fingerprints["unet"]


def test_buffers_and_what_a_layout_leaves_unused_do_not_count(make_checkpoint, saved):
    path, tensors = make_checkpoint("a", "sd2")
    for key in tensors:
        if "logit_scale" in key or "resblocks.23." in key or key.endswith("model.text_projection") or "ema" in key:
            tensors[key] = tensors[key] + 1
    tensors["betas"] = torch.ones(1000)
    assert scan(saved(tensors)).fingerprints == scan(path).fingerprints
