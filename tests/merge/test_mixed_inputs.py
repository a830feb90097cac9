"""Three inputs as people have them, in different containers, orders and dtypes, against plain numpy on every tensor."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from places import TEXT_ENCODERS, UNET_LABELS, place
from safetensors.torch import save_file
from samples import others_long
from tiny import TORCH, load, tensors_of

from unetscope.checkpoints.families.diffusers import text_configs, unet_config, vae_config
from unetscope.merge import Recipe, merge

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
from diffusers.loaders import single_file_utils  # noqa: E402

FAMILIES = ("sd1", "sd2", "sdxl")
FP32_STEP = float(np.finfo(np.float32).eps)


def write_safetensors(path, tensors, seed):
    """A file whose keys stand in any order, its dtypes mixed: fp16, bf16 and fp32 by turns."""
    names = list(tensors)
    random.Random(seed).shuffle(names)
    dtypes = ("fp16", "bf16", "fp32")
    mixed = {}
    for i, name in enumerate(names):
        t = tensors[name]
        mixed[name] = t.to(TORCH[dtypes[i % 3]]) if t.is_floating_point() else t
    save_file(mixed, path)
    return mixed


def write_ckpt(path, tensors, seed):
    """What a trainer saves: nested, every third matrix transposed in memory, some tensors views of one storage."""
    names = list(tensors)
    random.Random(seed).shuffle(names)
    state, matrices, shared = {}, 0, torch.randn(1 << 16, generator=torch.Generator().manual_seed(seed))
    for i, name in enumerate(names):
        t = tensors[name]
        if t.is_floating_point() and t.ndim >= 2:
            matrices += 1
            if matrices % 3 == 0:
                t = t.transpose(0, 1).contiguous().transpose(0, 1)
        elif t.is_floating_point() and 0 < t.numel() <= 4096 and place(name).component == "unet":
            t = shared[i : i + t.numel()].reshape(t.shape)
        state[name] = t
    assert any(not t.is_contiguous() for t in state.values())
    torch.save({"epoch": 3, "global_step": 7, "state_dict": state}, path)
    return state


def write_folder(path, family, seed):
    """A pipeline's folder as diffusers and transformers save it, and its tensors under single-file keys by diffusers' own table.

    Nothing of ours translates here: diffusers converts single files to folders, so the keys are found by giving each tensor
    of the layout its own number and looking where the number ends up.
    """
    torch.manual_seed(seed)
    built = {
        "unet": diffusers.UNet2DConditionModel(**unet_config(family, "narrow")).half(),
        "vae": diffusers.AutoencoderKL(**vae_config(family, "narrow")).to(torch.bfloat16),
    }
    for name, config in text_configs(family, "narrow").items():
        kind = transformers.CLIPTextModelWithProjection if name == "text_encoder_2" else transformers.CLIPTextModel
        built[name] = kind(transformers.CLIPTextConfig(**config)).float()
    for name, module in built.items():
        # Fresh norms are all ones and biases all zeros; weights that mean something tell a swapped pair apart.
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
        module.save_pretrained(path / name, **({"max_shard_size": "2MB"} if name == "unet" else {}))
    xl = "StableDiffusionXLPipeline" if family == "sdxl" else "StableDiffusionPipeline"
    (path / "model_index.json").write_text(json.dumps({"_class_name": xl}))
    return {name: module.state_dict() for name, module in built.items()}


def as_diffusers(family, tensors):
    """Tensors under single-file keys as diffusers' own single-file loader converts them."""
    unet = single_file_utils.convert_ldm_unet_checkpoint(dict(tensors), unet_config(family, "narrow"))
    vae = single_file_utils.convert_ldm_vae_checkpoint(dict(tensors), vae_config(family, "narrow"))
    out = {"unet": unet, "vae": vae}
    prefixes = {
        "sd1": {"text_encoder": "cond_stage_model.transformer."},
        "sd2": {"text_encoder": "cond_stage_model.model."},
        "sdxl": {
            "text_encoder": "conditioner.embedders.0.transformer.",
            "text_encoder_2": "conditioner.embedders.1.model.",
        },
    }
    for name, config in text_configs(family, "narrow").items():
        prefix = prefixes[family][name]
        kind = transformers.CLIPTextModelWithProjection if name == "text_encoder_2" else transformers.CLIPTextModel
        with torch.device("meta"):
            model = kind(transformers.CLIPTextConfig(**config))
        if prefix.endswith("model."):
            state = single_file_utils.convert_open_clip_checkpoint(model, dict(tensors), prefix=prefix)
        else:
            state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        out[name] = {bare(k): v for k, v in state.items() if not k.endswith("position_ids")}
    return out


def bare(name):
    """Newer versions of transformers leave the `text_model.` out."""
    return name.removeprefix("text_model.")


class Inputs:
    """A .safetensors file, a .ckpt and a diffusers folder of one family, and all of their values as diffusers names them."""

    def __init__(self, family, folder):
        self.family, self.folder = family, folder
        self.paths = [folder / "a.safetensors", folder / "b.ckpt", folder / "c"]
        a = write_safetensors(self.paths[0], tensors_of(family, 1, dtype="fp32"), seed=1)
        b = write_ckpt(self.paths[1], tensors_of(family, 2, dtype="fp32"), seed=2)
        c = write_folder(self.paths[2], family, seed=3)
        self.files = [a, b]
        self.folder_states = {name: {bare(k): v for k, v in state.items()} for name, state in c.items()}
        self.keys = self._keys(a)

    def _keys(self, tensors):
        """(folder, diffusers name) -> where that tensor's elements stand in single-file tensors: a flat array of numbers."""
        numbers, at = {}, 0
        self.starts = {}
        for key, t in tensors.items():
            numbers[key] = torch.arange(at, at + t.numel(), dtype=torch.float64).reshape(t.shape)
            self.starts[key] = at
            at += t.numel()
        return {
            (part, name): t.numpy().astype(np.int64).ravel()
            for part, state in as_diffusers(self.family, numbers).items()
            for name, t in state.items()
        }

    def flat(self, tensors):
        """All tensors of a single file one after another, in double precision, in the first file's order."""
        return np.concatenate([tensors[key].double().numpy().ravel() for key in self.starts])

    def merged(self, step, **recipe):
        models = dict(zip("abc", map(str, self.paths), strict=True))
        data = {"models": models, "steps": {"out": step}, "output": {"dtype": "fp32"}, **recipe}
        out = self.folder / "out.safetensors"
        merge(Recipe.parse(data), out, overwrite=True, fsync=False)
        return load(out)

    def check(self, out, formula, weight, parts):
        """Every tensor of these parts of the result equals formula(a, b, c, weight of its label) in double precision."""
        flats = [self.flat(t) for t in self.files]
        complete = {k: out.get(k, torch.full_like(t, torch.nan, dtype=torch.float32)) for k, t in self.files[0].items()}
        result, label_of = self.flat(complete), self.labels()
        seen = 0
        for (part, name), where in self.keys.items():
            if part not in parts:
                continue
            third = self.folder_states[part][name].double().numpy().ravel()
            a, b = flats[0][where], flats[1][where]
            alpha = np.array([weight.get(label, 0.0) for label in self.label_names])[label_of[where]]
            expected = formula(a, b, third, alpha)
            largest = np.max(np.abs([a, b, third]))
            # A few roundings of fp32, each of at most half a step of the largest value that occurs.
            assert np.max(np.abs(result[where] - expected)) <= 8 * FP32_STEP * largest, (part, name)
            seen += 1
        assert seen == sum(len(s) for part, s in self.folder_states.items() if part in parts)

    def labels(self):
        """The label of every element of `flat`, as an index into `label_names`."""
        self.label_names = sorted({place(key).label for key in self.starts})
        sizes = [self.files[0][key].numel() for key in self.starts]
        return np.repeat([self.label_names.index(place(key).label) for key in self.starts], sizes)


@pytest.fixture(scope="module", params=others_long(FAMILIES, lambda family: family == "sd1"))
def inputs(request, tmp_path_factory):
    return Inputs(request.param, tmp_path_factory.mktemp(request.param))


ENCODERS_AND_UNET = ("unet", "text_encoder", "text_encoder_2")


def test_uniform_is_the_mean_of_every_tensor(inputs):
    out = inputs.merged({"method": "uniform", "inputs": ["a", "b", "c"]}, components={"vae": "merge"})
    inputs.check(out, lambda a, b, c, w: (a + b + c) / 3, {}, (*ENCODERS_AND_UNET, "vae"))


def test_the_vae_is_the_first_models_bit_for_bit_when_nobody_asks(inputs):
    out = inputs.merged({"method": "uniform", "inputs": ["c", "a", "b"]})
    inputs.check(out, lambda a, b, c, w: c, {}, ("vae",))


def test_block_weights_reach_every_tensor_of_their_block(inputs):
    labels = (*TEXT_ENCODERS[inputs.family], *UNET_LABELS[inputs.family], "VAE")
    weight = {label: i / (len(labels) - 1) for i, label in enumerate(labels)}
    out = inputs.merged({"method": "weighted_sum", "inputs": ["b", "c"], "alpha": weight})
    inputs.check(out, lambda a, b, c, w: (1 - w) * b + w * c, weight, (*ENCODERS_AND_UNET, "vae"))


def test_train_difference_equals_its_formula_on_every_tensor(inputs):
    def formula(a, b, c, w):
        both = np.abs(b - a) + np.abs(b - c)
        return a + 1.8 * 0.7 * np.divide(np.abs(b - a), both, out=np.zeros_like(both), where=both != 0) * (b - c)

    out = inputs.merged({"method": "train_difference", "inputs": ["a", "b", "c"], "alpha": 0.7})
    inputs.check(out, formula, {}, ENCODERS_AND_UNET)


def test_the_order_of_the_inputs_keys_does_not_matter(inputs):
    """The same weights in another order and container: the same bytes."""
    step = {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.35}
    first = inputs.merged(step)
    again = inputs.folder / "again.safetensors"
    save_file({k: inputs.files[1][k].contiguous().clone() for k in sorted(inputs.files[1])}, again)
    data = {"models": {"a": str(inputs.paths[0]), "b": str(again)}, "steps": {"out": step}, "output": {"dtype": "fp32"}}
    merge(Recipe.parse(data), inputs.folder / "second.safetensors", overwrite=True, fsync=False)
    second = load(inputs.folder / "second.safetensors")
    assert set(first) == set(second)
    assert all(torch.equal(first[k], second[k]) for k in first)
