"""Components are found by what they hold: other tools' prefixes and names for them change neither what a file is nor a merge."""

import pytest
import torch
from safetensors.torch import save_file
from samples import others_long
from tiny import load

from unetscope.checkpoints import open_checkpoint
from unetscope.checkpoints.recognition import to_diffusers
from unetscope.merge import Recipe, merge

UNET, VAE = "model.diffusion_model.", "first_stage_model."
L, G = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."


def moved(tensors, *pairs):
    """The first prefix that fits a name is replaced."""

    def name(key):
        old, new = next(((a, b) for a, b in pairs if key.startswith(a)), ("", ""))
        return new + key.removeprefix(old)

    return {name(key): tensor for key, tensor in tensors.items()}


def transformers_names(tensors):
    """CLIP-G of a single file under the names of transformers, by the layers' own: q, k and v apart, the projection turned."""
    out = {}
    for key, tensor in tensors.items():
        name = key.removeprefix(G)
        layer = name.split(".")
        if "in_proj" in name:
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                end = name.rpartition("_")[2]
                out[f"text_model.encoder.layers.{layer[2]}.self_attn.{part}_proj.{end}"] = third
        elif name == "text_projection":
            out["text_projection.weight"] = tensor.T
        elif name.startswith("transformer.resblocks."):
            inner = ".".join(layer[3:])
            for old, new in (("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"), ("c_fc", "fc1"), ("c_proj", "fc2")):
                inner = inner.replace(old, new)
            out[f"text_model.encoder.layers.{layer[2]}.{inner.replace('attn.', 'self_attn.')}"] = tensor
        else:
            whole = {
                "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
                "positional_embedding": "text_model.embeddings.position_embedding.weight",
            }
            out[whole.get(name, name.replace("ln_final", "text_model.final_layer_norm"))] = tensor
    return out


def with_clip_g(tensors, prefix, singles):
    """CLIP-G under transformers' names behind a prefix; what stands alone (`logit_scale`) behind another."""
    ours = {key: tensor for key, tensor in tensors.items() if key.startswith(G)}
    renamed = {(singles if n == "logit_scale" else prefix) + n: t for n, t in transformers_names(ours).items()}
    return {key: tensor for key, tensor in tensors.items() if key not in ours} | renamed


def forge(tensors):
    named = with_clip_g(tensors, "text_encoders.clip_g.transformer.", "text_encoders.clip_g.")
    return moved(named, (L, "text_encoders.clip_l.transformer."), (VAE, "vae."))


def side_by_side(tensors):
    """A diffusers pipeline's components in one file, each behind the name of its folder."""
    from unetscope.checkpoints.dtypes import DTYPES
    from unetscope.checkpoints.tensors import StoredTensor

    stored = {k: StoredTensor.at(k, DTYPES["F16"], tuple(t.shape), None, 0) for k, t in tensors.items()}
    named = {}
    for key, tensor in tensors.items():
        if key.startswith(UNET):
            ((folder, names),) = to_diffusers({key: stored[key]}, "sdxl").components.items()
            (name,) = names
            named[f"{folder}.{name}"] = tensor
    rest = {key: tensor for key, tensor in tensors.items() if not key.startswith(UNET)}
    return named | moved(rest, (VAE, "vae."), (L, "text_encoder."))


SHAPES = {
    "a compiled UNET": lambda t: moved(t, (UNET, UNET + "_orig_mod.")),
    "everything behind module.": lambda t: moved(t, ("", "module.")),
    "everything behind model.": lambda t: moved(t, ("", "model.")),
    "everything behind state_dict.": lambda t: moved(t, ("", "state_dict.")),
    "CLIP-G under transformers' names": lambda t: with_clip_g(t, G + "transformer.", G),
    "Forge's prefixes": forge,
    "folders side by side": side_by_side,
}


@pytest.fixture
def models(make_checkpoint):
    (a, _), (b, tensors) = make_checkpoint("a", "sdxl", seed=1), make_checkpoint("b", "sdxl", seed=2)
    return a, b, tensors


@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_is_what_it_holds_whatever_its_names_begin_with(shape, models, tmp_path):
    _, whole, tensors = models
    odd = tmp_path / "odd.safetensors"
    save_file({k: t.contiguous() for k, t in SHAPES[shape](tensors).items()}, odd)
    with open_checkpoint(odd) as checkpoint, open_checkpoint(whole) as plain:
        assert (checkpoint.architecture.family, checkpoint.architecture.what) == ("sdxl", "checkpoint")
        assert checkpoint.architecture.parts == plain.architecture.parts
        assert set(checkpoint.tensors) == set(plain.tensors)
        assert checkpoint.notes  # the other names are told
        for key in (UNET + "out.2.weight", VAE + "decoder.conv_in.weight", L + "text_model.final_layer_norm.bias"):
            assert torch.equal(checkpoint.torch(key), tensors[key])
        query = G + "transformer.resblocks.7.attn.in_proj_weight"
        assert torch.equal(checkpoint.torch(query), tensors[query])
        assert torch.equal(checkpoint.torch(G + "text_projection"), tensors[G + "text_projection"])


@pytest.mark.parametrize(
    "shape", others_long(SHAPES, lambda shape: shape in ("Forge's prefixes", "folders side by side"))
)
def test_a_merge_takes_every_component_whatever_its_names_begin_with(shape, models, tmp_path):
    a, b, tensors = models
    odd = tmp_path / "odd.safetensors"
    save_file({k: t.contiguous() for k, t in SHAPES[shape](tensors).items()}, odd)
    results = []
    for other in (b, odd):
        out = tmp_path / f"of {other.name}"
        step = {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.25}
        recipe = {"models": {"a": str(a), "b": str(other)}, "steps": {"m": step}, "components": {"vae": "merge"}}
        merge(Recipe.parse(recipe), out)
        results.append(load(out))
    wanted, found = results
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[key], found[key]) for key in wanted)
