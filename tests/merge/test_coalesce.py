"""Tensors that follow one another are merged as one, and nobody can tell from the result."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from places import place
from tiny import load, raw, tensors_of

from unetscope.checkpoints.demo import write_demo_lora
from unetscope.checkpoints.formats.safetensors_file import plan_header
from unetscope.merge import MergeError, Recipe, merge
from unetscope.merge.coalesce import Extent, coalesced
from unetscope.merge.planner import planned

MERGED = ("unet", "clip_l")


def write_in_order(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """A file whose tensors lie in the order of the dictionary, which the safetensors library does not promise."""
    header, at = {}, 0
    names = {torch.float16: "F16", torch.float32: "F32", torch.int64: "I64"}
    for key, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        header[key] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(raw(t) for t in tensors.values()))
    return path


def two_models(folder: Path) -> tuple[Path, Path]:
    return tuple(write_in_order(folder / f"{n}.safetensors", tensors_of("sd1", n)) for n in range(2))


def recipe(paths, alpha=0.3, **output) -> Recipe:
    models = {f"m{n}": str(path) for n, path in enumerate(paths)}
    step = {"method": "weighted_sum", "inputs": list(models), "alpha": alpha}
    return Recipe.parse({"models": models, "steps": {"out": step}, "output": {"dtype": "fp16", **output}})


def joined(read: Recipe) -> tuple[list[Extent], list[str]]:
    """The runs of a recipe whose output is one file, and the keys of that file in order."""
    with planned(read) as plan:
        _, offsets, _ = plan_header([(t.key, t.dtype, t.shape) for t in plan.tensors], {})
        return coalesced(plan, offsets), [t.key for t in plan.tensors]


def test_files_of_one_layout_make_few_runs_which_hold_every_tensor_once(tmp_path):
    found, keys = joined(recipe(two_models(tmp_path)))
    assert len(found) < 20 < len(keys)
    assert [n for run in found for n in range(run.first, run.first + len(run.starts) - 1)] == list(range(len(keys)))
    sizes = {key: tensor.numel() for key, tensor in tensors_of("sd1", 0).items()}
    for run in found:
        inside = keys[run.first : run.first + len(run.starts) - 1]
        assert list(np.diff(run.starts)) == [sizes[key] for key in inside]


def test_runs_end_where_the_weight_changes(tmp_path):
    found, keys = joined(recipe(two_models(tmp_path), {"IN04": 0.9, "default": 0.3}))
    for run in found:
        inside = keys[run.first : run.first + len(run.starts) - 1]
        assert len({place(key).label == "IN04" for key in inside}) == 1
    assert any(run.first and not run.single and place(keys[run.first]).label == "IN04" for run in found)


def test_without_an_output_file_nothing_is_joined(tmp_path):
    with planned(recipe(two_models(tmp_path))) as plan:
        assert all(each.single for each in coalesced(plan, None))
        assert len(coalesced(plan, None, without={plan.tensors[3].key})) == len(plan.tensors) - 1


@pytest.mark.parametrize("seed", range(3))
def test_another_order_of_the_second_file_gives_the_same_file(seed, tmp_path):
    first, second = two_models(tmp_path)
    tensors = list(tensors_of("sd1", 1).items())
    # Some neighbours stay together: stretches of random length, in random order.
    rng, stretches = random.Random(seed), []
    while tensors:
        n = rng.randint(1, 40)
        stretches.append(tensors[:n])
        tensors = tensors[n:]
    rng.shuffle(stretches)
    moved = write_in_order(tmp_path / "moved.safetensors", dict(item for part in stretches for item in part))
    assert 20 < len(joined(recipe([first, moved]))[0]) < len(tensors_of("sd1", 0))
    for name, other in (("a", second), ("b", moved)):
        merge(recipe([first, other]), tmp_path / f"out-{name}.safetensors", reproducible=True, threads=2)
    assert raw_of(tmp_path / "out-a.safetensors") == raw_of(tmp_path / "out-b.safetensors")


def raw_of(path: Path) -> dict[str, bytes]:
    return {key: raw(tensor) for key, tensor in load(path).items()}


@pytest.mark.long
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_value_that_is_not_finite_is_found_in_its_own_tensor(data, tmp_path):
    tensors = tensors_of("sd1", 1)
    floats = [key for key in tensors if place(key).component in MERGED and tensors[key].dtype == torch.float16]
    broken = data.draw(st.sets(st.sampled_from(floats), min_size=1, max_size=3))
    for key in broken:
        at = data.draw(st.sampled_from([0, tensors[key].numel() // 2, tensors[key].numel() - 1]))
        tensors[key].view(-1)[at] = data.draw(st.sampled_from([float("nan"), float("inf")]))
    first = write_in_order(tmp_path / "0.safetensors", tensors_of("sd1", 0))
    second = write_in_order(tmp_path / "1.safetensors", tensors)
    with pytest.raises(MergeError) as refused:
        merge(recipe([first, second]), tmp_path / "out.safetensors", overwrite=True)
    assert all(f"{key} (1 values)" in str(refused.value) for key in broken)
    merge(recipe([first, second], nan="zero"), tmp_path / "out.safetensors", overwrite=True)
    out, a = load(tmp_path / "out.safetensors"), tensors_of("sd1", 0)
    for key in floats:
        x, y = a[key].float().numpy(), np.nan_to_num(tensors[key].float().numpy(), nan=0, posinf=0, neginf=0)
        # Anchored on the larger share, in fp32, one operation at a time.
        expected = np.where(x == 0, np.float32(0.3) * (y - x), x + np.float32(0.3) * (y - x))
        assert np.array_equal(out[key].numpy(), expected.astype(np.float16)), key


def test_a_copy_whose_values_are_not_finite_names_its_tensor(tmp_path):
    tensors = tensors_of("sd1", 0)
    key = "first_stage_model.decoder.mid.attn_1.q.weight"
    tensors[key].view(-1)[5] = float("nan")
    first = write_in_order(tmp_path / "0.safetensors", tensors)
    second = write_in_order(tmp_path / "1.safetensors", tensors_of("sd1", 1))
    with pytest.raises(MergeError, match=rf"{key} \(1 values\)"):
        merge(recipe([first, second]), tmp_path / "out.safetensors")
    merge(recipe([first, second], nan="zero"), tmp_path / "out.safetensors")
    out = load(tmp_path / "out.safetensors")
    tensors[key].view(-1)[5] = 0
    vae = [k for k in tensors if place(k).component == "vae"]
    assert all(raw(out[k]) == raw(tensors[k]) for k in vae)


def with_a(value: float, key: str, seed: int, **options) -> dict[str, torch.Tensor]:
    tensors = tensors_of("sd1", seed, **options)
    tensors[key].view(-1)[3] = value
    return tensors


UNET = "model.diffusion_model.input_blocks.4.1.proj_in.weight"
CASES = {
    "one dtype": (tensors_of("sd1", 1), {}),
    "another dtype": (tensors_of("sd1", 1, "fp32"), {}),
    "NaN among other dtypes": (with_a(float("nan"), UNET, 1, dtype="fp32"), {"nan": "zero"}),
    "NaN replaced": (with_a(float("nan"), UNET, 1), {"nan": "copy"}),
    "infinity kept out": (with_a(float("-inf"), UNET, 1), {"nan": "zero"}),
    "too large": (with_a(60000.0, UNET, 1), {"overflow": "clamp"}),
}


@pytest.mark.parametrize("case", CASES)
def test_joined_or_not_the_file_and_the_report_are_the_same(case, tmp_path, monkeypatch):
    tensors, output = CASES[case]
    first = write_in_order(tmp_path / "0.safetensors", tensors_of("sd1", 0))
    second = write_in_order(tmp_path / "1.safetensors", tensors)
    asked = recipe([first, second], -7.0 if case == "too large" else 0.3, **output)
    one = merge(asked, tmp_path / "joined.safetensors", reproducible=True)
    monkeypatch.setattr(
        "unetscope.merge.executor.coalesced", lambda plan, offsets, without: coalesced(plan, None, without)
    )
    other = merge(asked, tmp_path / "apart.safetensors", reproducible=True)
    assert (tmp_path / "joined.safetensors").read_bytes() == (tmp_path / "apart.safetensors").read_bytes()
    assert one.warnings == other.warnings
    assert any(k.startswith(UNET) for said in one.warnings for k in said.subject) == (
        "dtype" not in case or "NaN" in case
    )


def test_a_lora_is_never_joined_for_its_tensors_are_worked_out(tmp_path):
    base = write_in_order(tmp_path / "0.safetensors", tensors_of("sd1", 0))
    write_demo_lora(tmp_path / "lora.safetensors", "sd1", seed=2)
    given = {"models": {"m": str(base)}, "loras": {"l": str(tmp_path / "lora.safetensors")}}
    with planned(Recipe.parse({**given, "steps": {"out": {"method": "add", "inputs": ["m", "l"]}}})) as plan:
        _, offsets, _ = plan_header([(t.key, t.dtype, t.shape) for t in plan.tensors], {})
        found = coalesced(plan, offsets)
    lora = plan.names.index("l")
    assert any(lora in each.whole.inputs for each in found) and any(not each.single for each in found)
    assert all(each.single for each in found if lora in each.whole.inputs)
