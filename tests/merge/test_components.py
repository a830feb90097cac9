"""Where the parts of a result come from, and what they may be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from places import place
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import load, raw
from told import codes, raising

from unetscope.checkpoints import open_checkpoint
from unetscope.checkpoints.families.parts.vae import VAE
from unetscope.merge import MergeError, Recipe, merge


def merged(models, step, out, **rest):
    data = {"models": {n: str(p) for n, p in models.items()}, "steps": {"m": step}, **rest}
    report = merge(Recipe.parse(data), out)
    return load(out), report


def copy_of(name):
    return {"method": "copy", "inputs": [name]}


def test_a_unet_of_another_architecture_is_refused(make_checkpoint, tmp_path):
    models = {"a": make_checkpoint("a")[0], "xl": make_checkpoint("xl", "sdxl")[0]}
    with raising("models.architectures", MergeError):
        merged(models, copy_of("a"), tmp_path / "o.safetensors", components={"unet": "xl"})
    assert not (tmp_path / "o.safetensors").exists()


def test_only_the_text_encoders_that_an_architecture_has_are_taken(make_checkpoint, tmp_path):
    (pa, _), (px, x) = make_checkpoint("a"), make_checkpoint("xl", "sdxl", seed=3)
    models = {"a": pa, "xl": px}
    out, _ = merged(models, copy_of("a"), tmp_path / "o.safetensors", components={"text_encoders": "xl"})
    assert {place(k).component for k in out} == {"unet", "clip_l", "vae", "schedule"}
    key = "text_model.encoder.layers.0.mlp.fc1.weight"
    assert raw(out[f"cond_stage_model.transformer.{key}"]) == raw(x[f"conditioner.embedders.0.transformer.{key}"])
    with pytest.raises(MergeError, match="SD1"):
        merged(models, copy_of("a"), tmp_path / "p.safetensors", components={"clip_g": "xl"})


def prediction_of(path):
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("modelspec.prediction_type")


def marked(tensors):
    return {**tensors, "v_pred": torch.zeros(0)}


def test_the_result_predicts_what_its_unet_predicts(make_checkpoint, tmp_path):
    models = {"eps": make_checkpoint("eps", "sdxl")[0], "v": make_checkpoint("v", "sdxl", seed=2, change=marked)[0]}
    out = tmp_path / "o.safetensors"
    tensors, _ = merged(models, copy_of("v"), out, components={"unet": "eps"})
    assert prediction_of(out) is None and "v_pred" not in tensors and open_checkpoint(out).prediction is None
    both = {"method": "uniform", "inputs": ["eps", "v"]}
    tensors, _ = merged(models, both, tmp_path / "p.safetensors", output={"mix_predictions": True})
    assert prediction_of(tmp_path / "p.safetensors") is None and "v_pred" not in tensors
    both = {"method": "uniform", "inputs": ["v", "eps"]}
    merged(models, both, tmp_path / "q.safetensors", output={"mix_predictions": True})
    assert prediction_of(tmp_path / "q.safetensors") == "v"


def test_an_inpainting_model_stays_one_where_its_share_is_0(make_checkpoint, tmp_path):
    (pa, a), (pb, b) = make_checkpoint("inpaint", seed=1, in_channels=9), make_checkpoint("b", seed=2)
    step = {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": {"IN00": 1, "default": 0.5}}
    out, _ = merged({"a": pa, "b": pb}, step, tmp_path / "o.safetensors")
    key = "model.diffusion_model.input_blocks.0.0.weight"
    assert raw(out[key][:, :4]) == raw(b[key])
    assert raw(out[key][:, 4:]) == raw(a[key][:, 4:])


@pytest.mark.parametrize("nan", ["error", "zero"])
def test_an_infinity_in_a_schedule_buffer_is_copied(nan, make_checkpoint, tmp_path):
    name = "sqrt_recip_alphas_cumprod"

    def zero_terminal(tensors):
        tensors[name][-1] = float("inf")

    (pa, a), (pb, _) = make_checkpoint("a", change=zero_terminal), make_checkpoint("b", seed=2)
    out, report = merged(
        {"a": pa, "b": pb}, {"method": "uniform", "inputs": ["a", "b"]}, tmp_path / "o.safetensors", output={"nan": nan}
    )
    assert raw(out[name]) == raw(a[name]) and "merge.not_finite" not in codes(report.warnings)


def test_vaes_alone_are_merged(make_checkpoint, tmp_path):
    vaes, values = {}, []
    for i, name in enumerate("ab"):
        _, tensors = make_checkpoint(name, seed=i)
        vae = {k.removeprefix(VAE.prefixes[0]): t for k, t in tensors.items() if k.startswith(VAE.prefixes[0])}
        vaes[name] = tmp_path / f"vae_{name}.safetensors"
        save_file(vae, vaes[name])
        values.append(vae["decoder.conv_in.weight"].float().numpy())
    out, _ = merged(
        vaes, {"method": "uniform", "inputs": ["a", "b"]}, tmp_path / "o.safetensors", output={"dtype": "fp32"}
    )
    np.testing.assert_allclose(
        out[f"{VAE.prefixes[0]}decoder.conv_in.weight"].numpy(), (values[0] + values[1]) / 2, atol=1e-7
    )


def test_nan_copy_takes_the_first_finite_input_that_has_a_share(make_checkpoint, tmp_path):
    key = "model.diffusion_model.out.2.weight"

    def broken(tensors):
        tensors[key].view(-1)[0] = float("nan")

    (pa, _), (pb, b) = make_checkpoint("a", change=broken), make_checkpoint("b", seed=2)
    step = {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.5}
    out, _ = merged({"a": pa, "b": pb}, step, tmp_path / "o.safetensors", output={"nan": "copy"})
    assert out[key].view(-1)[0] == b[key].view(-1)[0]
    out, report = merged({"a": pa, "b": pb}, step | {"alpha": 0}, tmp_path / "p.safetensors", output={"nan": "copy"})
    assert out[key].view(-1)[0] == 0 and "merge.not_finite" in codes(report.warnings)
