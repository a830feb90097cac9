"""Configurations of mergekit: read by mergekit itself and by us, they come to the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from tiny import load, tensors_of
from told import codes

from unetscope.checkpoints.demo import write_demo
from unetscope.merge import merge
from unetscope.merge.exchange.reading import import_text

pytest.importorskip("mergekit")
from mergekit.config import MergeConfiguration
from mergekit.merge_methods import merge_tensors
from mergekit.merge_methods.registry import get
from mergekit.parameter_resolver import resolve_parameters

NAMES = ("base", "a", "b", "c", "far")
UNET, VAE = "model.diffusion_model.", "first_stage_model."
BASED = "models: [{model: A}, {model: B}, {model: C}]\nbase_model: BASE\n"
OWN = "models: [{model: A, parameters: {weight: 0.3}}, {model: B, parameters: {weight: 6e-1}}, {model: C}]\n"
BY_KEY = "[{filter: attn1, value: 0.7}, {filter: attn, value: 0.4}, {value: 0.1}]"
CONFIGURATIONS = {
    "linear": OWN + "merge_method: linear\nparameters: {weight: 0.5}",
    "linear by key": f"models: [{{model: A, parameters: {{weight: {BY_KEY}}}}}, {{model: B, parameters: {{weight: 1}}}}]\n"
    "merge_method: linear\nparameters: {normalize: false}",
    # Of near models mergekit takes a weighted sum.
    "slerp": f"models: [{{model: FAR}}, {{model: BASE}}]\nbase_model: BASE\nmerge_method: slerp\nparameters: {{t: {BY_KEY}}}",
    "slerp of one slice": "slices: [{sources: [{model: BASE, layer_range: [0, 9]}, {model: FAR, layer_range: [0, 9]}]}]\n"
    "base_model: BASE\nmerge_method: slerp\nparameters: {t: 0.3}",
    "nuslerp": "models: [{model: A, parameters: {weight: 1}}, {model: B, parameters: {weight: 3}}]\nmerge_method: nuslerp",
    "nuslerp of changes": "models: [{model: A, parameters: {weight: 1}}, {model: B, parameters: {weight: 3}}]\n"
    "base_model: BASE\nmerge_method: nuslerp",
    "multislerp of changes": OWN + "base_model: BASE\nmerge_method: multislerp\nparameters: {weight: 0.4}",
    "karcher": "models: [{model: A}, {model: B}]\nmerge_method: karcher\nparameters: {max_iter: 100, tol: 1e-9}",
    "task_arithmetic": OWN + "base_model: BASE\nmerge_method: task_arithmetic\nparameters: {weight: 0.5, lambda: 0.8, "
    "normalize: true}",
    "ties": OWN + "base_model: BASE\nmerge_method: ties\nparameters: {weight: 0.5, lambda: 1.1, density: 0.5}",
    "ties that adds": BASED + "merge_method: ties\nparameters: {weight: 0.5, normalize: false, density: 0.3}",
    "breadcrumbs": BASED + "merge_method: breadcrumbs\nparameters: {weight: 0.5, density: 0.6, gamma: 0.05}",
    "breadcrumbs_ties": BASED + "merge_method: breadcrumbs_ties\nparameters: {weight: 0.5, density: 0.6}",
    "model_stock": BASED + "merge_method: model_stock",
    "nearswap": "models: [{model: A}]\nbase_model: BASE\nmerge_method: nearswap\nparameters: {t: 0.02}",
    "arcee_fusion": "models: [{model: A}]\nbase_model: BASE\nmerge_method: arcee_fusion",
    "sce": BASED + "merge_method: sce\nparameters: {select_topk: 0.3}",
    # Nothing is left to chance where everything is kept.
    "dare_ties": BASED + "merge_method: dare_ties\nparameters: {weight: 0.5, density: 1.0, normalize: true}",
    "della": BASED + "merge_method: della\nparameters: {weight: 0.5}",
    "della_linear": BASED + "merge_method: della_linear\nparameters: {weight: 0.5}",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A base, three fine-tunes of it that have something in common, and a model that has nothing in common with them, by name.

    In fp32: differences of fp16 are often equal, and then the two programs keep others of them. And much changed: mergekit treats
    tiny changes apart.
    """
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("mergekit")
    paths = {name: folder / f"{name}.safetensors" for name in NAMES}
    for seed, (name, path) in enumerate(paths.items(), start=10):
        own = name in ("base", "far")
        write_demo(
            path, "sd1", seed=seed, finetune_of=None if own else paths["base"], theme=0 if own else 3, dtype="fp32"
        )
    few = tensors_of("sd1", 0, thin=True).keys()
    models = {name: {key: tensor for key, tensor in load(path).items() if key in few} for name, path in paths.items()}
    base = models["base"]
    for name in "abc":
        vae = {
            k: t + 0.3 * t.std().nan_to_num() * torch.randn_like(t)
            for k, t in models[name].items()
            if k.startswith(VAE)
        }
        loud = {k: base[k] + 30 * (t - base[k]) if t.is_floating_point() else t for k, t in models[name].items()}
        models[name] = loud | vae
    for name, path in paths.items():
        save_file(models[name], path, {"format": "pt"})
    return paths


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_an_imported_configuration_comes_to_what_mergekit_makes_of_it(name, files, tmp_path):
    text = CONFIGURATIONS[name]
    for model, path in files.items():
        text = text.replace(f": {model.upper()}}}", f": {path}}}").replace(f": {model.upper()},", f": {path},")
        text = text.replace(f"base_model: {model.upper()}\n", f"base_model: {path}\n")
    recipe = import_text(text, "x.yaml").recipe
    output = recipe.output.model_copy(update={"dtype": "fp32", "allow_missing": True})
    merge(recipe.model_copy(update={"output": output}), tmp_path / "out.safetensors", fsync=False)
    out, models = load(tmp_path / "out.safetensors"), {str(path): load(path) for path in files.values()}
    # It merges every tensor, the VAE's too.
    unet, vae = ([k for k in out if k.startswith(prefix) and k.endswith(".weight")] for prefix in (UNET, VAE))
    # In a vector, one element is a large part already.
    keys = [k for k in unet if out[k].ndim > 1] + [k for k in vae if "conv" in k or "attn" in k]
    configuration, differing = MergeConfiguration.model_validate(yaml.safe_load(text)), []
    if name == "model_stock":  # against each other mergekit has models drive each other beyond the base
        keys = [
            key
            for key in keys
            if likeness([models[str(files[n])][key] - models[str(files["base"])][key] for n in "abc"]) > 0
        ]
    for key in keys:
        expected = theirs(configuration, models, key)
        differing.append(np.mean((abs(out[key].double() - expected.double()) > 2e-6).numpy()))
    assert len(keys) > (10 if name == "model_stock" else 25)
    # Where two elements are equal, or no sign wins, each of the two programs has its own way.
    assert max(differing) <= 0.02 and np.mean(differing) <= 0.002


def likeness(changes: list[torch.Tensor]) -> float:
    """The mean cosine of all pairs."""
    directions = torch.nn.functional.normalize(torch.stack([x.double().flatten() for x in changes]), dim=1)
    return float((directions @ directions.T).triu(1).sum() / 3)


def theirs(configuration: MergeConfiguration, models: dict, key: str) -> torch.Tensor:
    """mergekit's result for a tensor, parameters resolved by mergekit."""
    method, base = get(configuration.merge_method), configuration.base_model
    listed = configuration.models or configuration.slices[0].sources
    names = list(dict.fromkeys([each.model for each in listed] + ([base] if base else [])))

    def scopes(model):
        yield from (each.parameters for each in listed if model is not None and each.model == model)
        yield configuration.parameters

    shared, each = resolve_parameters(
        method.spec, tensor_name=key, inputs=dict.fromkeys(names, key), sources=scopes, base_model=base
    )
    for parameter in method.spec.input_parameters:
        shared[parameter.name] = {n: each[n][parameter.name] for n in names if parameter.name in each[n]}
    tensors = [models[str(n.model.path)][key].float() for n in names]
    return merge_tensors(tensors, method, parameters=shared, ids=names, base_index=names.index(base) if base else None)


def test_models_without_a_vae_are_merged_without_one(files, tmp_path):
    for name in "ab":
        unet = {key: tensor for key, tensor in load(files[name]).items() if key.startswith(UNET)}
        save_file(unet, tmp_path / f"{name}.safetensors", {"format": "pt"})
    text = f"merge_method: linear\nmodels: [{{model: {tmp_path}/a.safetensors}}, {{model: {tmp_path}/b.safetensors}}]\n"
    recipe = import_text(text + "parameters: {weight: 1}", "x.yaml").recipe
    recipe = recipe.model_copy(update={"output": recipe.output.model_copy(update={"allow_missing": True})})
    report = merge(recipe, tmp_path / "out.safetensors", fsync=False)
    assert "plan.component_absent" in codes(report.warnings)
    assert all(key.startswith(UNET) for key in load(tmp_path / "out.safetensors"))
