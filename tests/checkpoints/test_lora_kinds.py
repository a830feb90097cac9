"""The change that each kind of LoRA makes, against LyCORIS' and PEFT's own modules and against numpy."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from threadpoolctl import threadpool_info
from tiny import tensors_of

from unetscope.checkpoints import CheckpointError, open_checkpoint
from unetscope.checkpoints.demo import write_demo_lora
from unetscope.checkpoints.demo.loras import KINDS
from unetscope.checkpoints.lora import lora_checkpoint, open_lora

LINEAR = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
LINEAR_NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
CONV = "model.diffusion_model.input_blocks.4.0.in_layers.2.weight"
CONV_NAME = "lora_unet_down_blocks_1_resnets_0_conv1"
CASES = {
    "linear": (LINEAR, LINEAR_NAME, (16, 32)),
    "3x3": (CONV, CONV_NAME, (32, 16, 3, 3)),
}


def lora_file(path, tensors, metadata=None):
    save_file(
        {name: t.detach().contiguous() for name, t in tensors.items()}, path, metadata=metadata or {"format": "pt"}
    )
    return path


def randomised(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + (parameter.abs() > 0.5))
    return module


def layer_with(weight: torch.Tensor) -> torch.nn.Module:
    outputs, inputs, *kernel = weight.shape
    layer = torch.nn.Conv2d(inputs, outputs, kernel, padding=1) if kernel else torch.nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def merged_by(module: torch.nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """The weight that a LyCORIS layer computes with in its forward pass.

    Its `get_diff_weight` multiplies LoHa and LoKr by the scale a second time; the forward pass and the trainers do not.
    """
    if module.name in ("hada", "loha", "kron"):
        change = module.get_weight(weight.shape)
        return (module.apply_weight_decompose(weight + change) if module.wd else weight + change).detach()
    return module.get_merged_weight(1)[0].detach()


LYCORIS = [
    ("locon", "LoConModule", {}),
    ("locon", "LoConModule", {"use_tucker": True}),
    ("locon", "LoConModule", {"rs_lora": True}),
    ("loha", "LohaModule", {}),
    ("loha", "LohaModule", {"use_tucker": True}),
    ("lokr", "LokrModule", {"factor": 4}),
    ("lokr", "LokrModule", {"factor": 4, "decompose_both": True, "lora_dim": 1}),
    ("lokr", "LokrModule", {"factor": 4, "full_matrix": True}),
    ("lokr", "LokrModule", {"factor": 2, "use_tucker": True}),
    ("ia3", "IA3Module", {}),
    ("ia3", "IA3Module", {"train_on_input": True}),
    ("full", "FullModule", {}),
    ("locon", "LoConModule", {"weight_decompose": True}),
    ("locon", "LoConModule", {"weight_decompose": True, "wd_on_out": False}),
    ("loha", "LohaModule", {"weight_decompose": True}),
    ("lokr", "LokrModule", {"weight_decompose": True, "wd_on_out": False, "factor": 4}),
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("file", "name", "options"), LYCORIS, ids=lambda x: str(x))
def test_changes_are_those_of_lycoris(tmp_path, case, file, name, options):
    modules = pytest.importorskip("lycoris.modules." + file)
    key, spelled, shape = CASES[case]
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 0.1
    options = {"lora_dim": 3, "alpha": 2.0} | options
    module = randomised(getattr(modules, name)(spelled, layer_with(weight), **options))
    if options.get("weight_decompose"):
        with torch.no_grad():
            module.dora_scale.abs_()
    own = module.custom_state_dict() if file != "full" else None
    stored = {f"{spelled}.{k}": t for k, t in (own or module.state_dict()).items()}
    if file == "full":
        stored = {f"{spelled}.diff": module.weight}
    merged = merged_by(module, weight)
    path = lora_file(tmp_path / "a.safetensors", stored)
    with open_lora(path, shapes={key: shape}) as lora:
        assert lora.unknown == []
        found = lora.modules[key].delta(weight.numpy())
    np.testing.assert_allclose(found, (merged - weight).numpy(), atol=2e-6)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}, {"lora_bias": True}], ids=str)
def test_changes_are_those_of_peft(tmp_path, case, options):
    peft = pytest.importorskip("peft")
    key, _, shape = CASES[case]
    name = {
        "linear": "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
        "3x3": "down_blocks.1.resnets.0.conv1",
    }
    if case == "linear" and "lora_bias" in options:
        name, key = {case: name[case].replace("to_k", "to_out.0")}, key.replace("to_k", "to_out.0")
        shape = (16, 16)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 0.1
    model = torch.nn.Sequential(layer_with(weight))
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["0"], **options)
    wrapped = randomised(peft.get_peft_model(model, config))
    with torch.no_grad():
        wrapped.base_model.model[0].base_layer.weight.copy_(weight)
    bias = wrapped.base_model.model[0].base_layer.bias.detach().clone()
    stored = peft.get_peft_model_state_dict(wrapped)
    told = {"unet.r": 3, "unet.lora_alpha": 5, "unet.use_rslora": options.get("use_rslora", False)}
    stored = {n.replace("base_model.model.0.", f"unet.{name[case]}."): t for n, t in stored.items()}
    path = lora_file(tmp_path / "a.safetensors", stored, {"lora_adapter_metadata": json.dumps(told)})
    merged = wrapped.merge_and_unload()[0]
    with open_lora(path, shapes={key: shape}) as lora:
        assert lora.unknown == [] and lora.style == "peft"
        np.testing.assert_allclose(
            lora.modules[key].delta(weight.numpy()), (merged.weight.detach() - weight).numpy(), atol=2e-6
        )
        if "lora_bias" in options:
            change = lora.modules[key.removesuffix("weight") + "bias"].delta()
            np.testing.assert_allclose(change, (merged.bias.detach() - bias).numpy(), atol=2e-6)


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (2.0, 0.5), (8.0, 2.0)])
def test_the_scale_is_alpha_over_rank_and_1_without_alpha(tmp_path, alpha, scale):
    rng = np.random.default_rng(0)
    up, down = rng.standard_normal((16, 4)).astype(np.float32), rng.standard_normal((4, 32)).astype(np.float32)
    stored = {
        f"{LINEAR_NAME}.lora_up.weight": torch.from_numpy(up),
        f"{LINEAR_NAME}.lora_down.weight": torch.from_numpy(down),
    }
    if alpha is not None:
        stored[f"{LINEAR_NAME}.alpha"] = torch.tensor(alpha, dtype=torch.bfloat16)
    with open_lora(lora_file(tmp_path / "a.safetensors", stored)) as lora:
        module = lora.modules[LINEAR]
        assert (module.kind, module.rank, module.alpha, module.scale) == ("lora", 4, alpha, scale)
        exact = scale * (up.astype(np.float64) @ down.astype(np.float64))
        np.testing.assert_array_equal(module.delta(), exact.astype(np.float32))
        left, right = module.factors()
        np.testing.assert_allclose(left @ right, exact, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_ranges_have_the_numbers_of_the_whole(tmp_path, make_checkpoint, kind):
    base_path, _ = make_checkpoint("base", "sd2", seed=3)
    path = write_demo_lora(tmp_path / "l.safetensors", "sd2", kind=kind, alpha=3, base=base_path, modules="all")
    with open_checkpoint(base_path) as base, lora_checkpoint(path, base) as changes:
        for key in list(changes.tensors)[::23]:
            info, module = changes[key], changes.lora.modules[key]
            whole = changes.numpy(key)
            weight = base.numpy(key) if module.needs_weight else None
            np.testing.assert_array_equal(module.delta(weight), whole)
            rows = info.shape[0]
            for start, stop in ((0, 1), (rows // 3, rows - 1), (rows - 1, rows), (5, 5)):
                np.testing.assert_array_equal(module.delta(weight, slice(start, stop)), whole[start:stop])
            start, stop = info.elements // 5, info.elements - 3
            out = np.empty((stop - start) * 4, np.uint8)
            changes.read_raw(info, start, stop, out)
            np.testing.assert_array_equal(out.view(np.float32), whole.reshape(-1)[start:stop])


def test_large_products_do_not_depend_on_where_reading_begins(tmp_path):
    rng = np.random.default_rng(5)
    stored = {
        f"{CONV_NAME}.lora_up.weight": torch.from_numpy(rng.standard_normal((640, 70, 1, 1), dtype=np.float32)),
        f"{CONV_NAME}.lora_down.weight": torch.from_numpy(rng.standard_normal((70, 320, 3, 3), dtype=np.float32)),
    }
    with open_lora(lora_file(tmp_path / "a.safetensors", stored)) as lora:
        module = lora.modules[CONV]
        whole = module.delta()
        for start, stop in ((0, 640), (1, 2), (63, 65), (100, 355), (639, 640)):
            np.testing.assert_array_equal(module.delta(rows=slice(start, stop)), whole[start:stop])


def test_q_k_and_v_of_an_open_clip_encoder_are_thirds_of_one_tensor(tmp_path):
    rng, stored, products = np.random.default_rng(2), {}, []
    for part in "qv":
        up, down = rng.standard_normal((48, 2)).astype(np.float32), rng.standard_normal((2, 48)).astype(np.float32)
        products.append(up.astype(np.float64) @ down)
        name = f"lora_te2_text_model_encoder_layers_3_self_attn_{part}_proj"
        stored |= {f"{name}.lora_up.weight": torch.from_numpy(up), f"{name}.lora_down.weight": torch.from_numpy(down)}
    key = "conditioner.embedders.1.model.transformer.resblocks.3.attn.in_proj_weight"
    expected = np.concatenate([products[0], np.zeros((48, 48)), products[1]])
    with open_lora(lora_file(tmp_path / "a.safetensors", stored)) as lora:
        assert lora.family == "sdxl" and list(lora.modules) == [key]
        module = lora.modules[key]
        assert module.shape == (144, 48) and module.rank == 2
        np.testing.assert_allclose(module.delta(), expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(module.delta(rows=slice(90, 100)), module.delta()[90:100])
        up, down = module.factors()
        assert up.shape == (144, 4)
        np.testing.assert_allclose(up @ down, expected, atol=1e-12)


def test_the_text_projection_is_turned_round(tmp_path):
    diff = torch.randn(48, 48, generator=torch.Generator().manual_seed(3))
    stored = {"lora_te2_text_projection.diff": diff}
    with open_lora(lora_file(tmp_path / "a.safetensors", stored), family="sdxl") as lora:
        module = lora.modules["conditioner.embedders.1.model.text_projection"]
        np.testing.assert_array_equal(module.delta(), diff.T.numpy())
        np.testing.assert_array_equal(module.delta(rows=slice(3, 9)), diff.T.numpy()[3:9])


def test_kinds_that_follow_from_the_weight_ask_for_it(tmp_path):
    path = write_demo_lora(tmp_path / "l.safetensors", "sd1", kind="dora")
    with pytest.raises(CheckpointError, match="follows from the weight itself; give that checkpoint"):
        lora_checkpoint(path)
    with open_lora(path) as lora:
        assert lora.needs_base
        with pytest.raises(CheckpointError, match="give the checkpoint"):
            lora.modules[LINEAR].delta()


def test_a_base_of_other_widths_is_refused_by_name(tmp_path, make_checkpoint):
    base_path, _ = make_checkpoint("base", "sd1")
    stored = {
        f"{LINEAR_NAME}.lora_up.weight": torch.zeros(320, 4),
        f"{LINEAR_NAME}.lora_down.weight": torch.zeros(4, 768),
    }
    path = lora_file(tmp_path / "l.safetensors", stored)
    with open_checkpoint(base_path) as base, pytest.raises(CheckpointError, match=r"\[16, 32\], found .*\[320, 768\]"):
        lora_checkpoint(path, base)


def test_a_lora_checkpoint_names_the_files_that_it_reads(tmp_path, make_checkpoint):
    base_path, _ = make_checkpoint("base", "sd1")
    path = write_demo_lora(tmp_path / "l.safetensors", "sd1", kind="dora", base=base_path)
    with open_checkpoint(base_path) as base, lora_checkpoint(path, base) as changes:
        assert {p.path for t in changes.tensors.values() for p in t.stored.pieces} == {path, base_path}
        assert all(t.dtype.name == "F32" and t.shape == base[k].shape for k, t in changes.tensors.items())


def test_the_narrow_models_are_those_of_the_tests():
    assert (
        tensors_of("sd1", 0)[LINEAR].shape == CASES["linear"][2] and tensors_of("sd1", 0)[CONV].shape == CASES["3x3"][2]
    )


def test_products_run_on_the_threads_that_read_while_a_lora_is_open(tmp_path):
    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    before = threads()
    one, other = (lora_checkpoint(write_demo_lora(tmp_path / f"{n}.safetensors", "sd1")) for n in ("one", "other"))
    assert threads() == {1}
    one.close()
    one.close()
    assert threads() == {1}
    other.close()
    assert threads() == before
