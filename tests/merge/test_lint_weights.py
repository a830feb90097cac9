"""Mistakes that only the values of the weights tell are found, by samples of them or by reading all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lint_reports import changed, checks, the
from places import place
from safetensors.torch import load_file, save_file
from tiny import tensors_of

from unetscope.checkpoints.hashes import identity
from unetscope.library.scan import scan
from unetscope.library.scan_cache import keep_scan, kept_scan
from unetscope.merge.lint import lint
from unetscope.merge.lint.finding import check_of

UNET = "model.diffusion_model."
HEALTHY = {"method": "uniform", "inputs": ["a", "b", "c"]}


@pytest.mark.parametrize(
    "method, inputs",
    [
        ("add_difference", "a b other"),
        ("train_difference", "a b other"),
        ("add_perpendicular", "a b other"),
        ("nuslerp", "other a b"),
        ("ties", "other a b"),
    ],
)
def test_a_base_of_another_family_tree_is_found(method, inputs, recipe):
    report = lint(recipe("a b other", {"mix": {"method": method, "inputs": inputs.split()}}))
    bases = [f for f in report.findings if check_of(f) == "base"]
    assert bases and all(f.step == "mix" and f.subject[0] == "other" for f in bases)
    assert any("unet" in f.text for f in bases) and any("clip_l" in f.text for f in bases)


def test_of_task_vectors_the_model_that_does_not_belong_is_named(recipe):
    report = lint(
        recipe("base a stranger", {"mix": {"method": "task_arithmetic", "inputs": ["base", "a", "stranger"]}})
    )
    assert {f.subject for f in report.findings if check_of(f) == "base"} == {("base", "stranger")}


def test_a_base_that_is_only_a_distant_relative_is_found(folder, recipe, tmp_path):
    """Fine-tunes of `base`, measured from a model that is 0.3 of its length away from it."""
    rng = torch.Generator().manual_seed(0)

    def far(key, tensor):
        if not tensor.is_floating_point() or tensor.ndim < 2:
            return None
        values = tensor.float()
        return (values + 0.3 * values.std() * torch.randn(values.shape, generator=rng)).half()

    paths = {"old": changed(folder / "base.safetensors", tmp_path / "old.safetensors", far)}
    made = recipe("a b old", {"mix": {"method": "add_difference", "inputs": ["a", "b", "old"]}}, paths=paths)
    (found,) = [f for f in lint(made).findings if check_of(f) == "base" and "unet" in f.text]
    assert found.subject == ("old", "a", "b") and "nearer to each other" in found.text


def test_the_distances_that_are_told_are_those_of_the_sampled_weights(folder, recipe):
    from unetscope.checkpoints.opening import open_checkpoint
    from unetscope.merge.lint.sampling import take_sample

    with open_checkpoint(folder / "a.safetensors") as a, open_checkpoint(folder / "base.safetensors") as base:
        sample = take_sample({"a": a, "base": base})
        whole = [load_file(folder / f"{n}.safetensors") for n in ("a", "base")]
    # The demo's tensors are small: most are sampled whole.
    change = size = 0.0
    for key in sample.keys["unet"]:
        x, y = (t[key].double().numpy().ravel() for t in whole)
        start = (x.size - sample.values["a"][key].size) // 2
        stop = start + sample.values["a"][key].size
        assert np.array_equal(sample.values["a"][key], x[start:stop].astype(np.float32))
        change, size = change + np.sum((x - y)[start:stop] ** 2), size + np.sum(y[start:stop] ** 2)
    assert sample.distance("a", "base", "unet") == pytest.approx(np.sqrt(change / size))
    labels = {place(k).label for keys in sample.keys.values() for k in keys}
    assert {"IN00", "M00", "OUT11", "OUT", "TIME_EMBED", "CLIP_L", "VAE"} <= labels


def test_moves_that_fp16_rounds_back_are_found(recipe):
    steps = {"mix": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.0005}}
    found = the(lint(recipe("a b", steps)), "rounding")
    assert found.step == "mix" and "fp16" in found.text
    assert "rounding" not in checks(lint(recipe("a b", steps, output={"dtype": "fp32"})))
    nearly_b = {"mix": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.9995}}
    assert "away from b" in the(lint(recipe("a b", nearly_b)), "rounding").text


def test_the_share_of_weights_that_change_is_that_of_numpy(folder, recipe):
    from unetscope.checkpoints.opening import open_checkpoint
    from unetscope.merge.compile import RecipeCompiler
    from unetscope.merge.lint.sampling import take_sample
    from unetscope.merge.lint.values import changed_share

    made = recipe("a b", {"mix": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.01}})
    with open_checkpoint(folder / "a.safetensors") as a, open_checkpoint(folder / "b.safetensors") as b:
        sample = take_sample({"a": a, "b": b})
    found = changed_share(made, RecipeCompiler(made, "sd1", {"a": 0, "b": 1}), "mix", "a", sample)
    moved = shown = 0
    for key in sample.keys["unet"]:
        x, y = sample.values["a"][key], sample.values["b"][key]
        mixed = (0.99 * x.astype(np.float64) + 0.01 * y.astype(np.float64)).astype(np.float16)
        moved, shown = moved + np.sum(x != y), shown + np.sum(mixed != x.astype(np.float16))
    assert 0.05 < found < 0.95 and found == pytest.approx(shown / moved, abs=1e-3)


def is_text(key: str) -> bool:
    return key.startswith("cond_stage_model.")


def test_a_text_encoder_that_is_averaged_with_a_copy_is_found(folder, recipe, tmp_path):
    """b has the base's text encoder; a has its own."""
    base = load_file(folder / "base.safetensors")
    paths = {
        "b": changed(
            folder / "b.safetensors", tmp_path / "b2.safetensors", lambda k, t: base[k] if is_text(k) else None
        ),
    }
    step = {"mix": {"method": "uniform", "inputs": ["a", "b", "base"]}}
    found = the(lint(recipe("a b base", step, paths=paths)), "text_encoder")
    assert found.subject == ("a", "b", "base") and "0.333" in found.why
    whole = recipe("a b base", step, paths=paths, components={"text_encoders": "a"})
    assert "text_encoder" not in checks(lint(whole))
    assert "text_encoder" not in checks(lint(recipe("a b c", {"mix": HEALTHY})))


def noisy_vae(folder, target):
    rng = torch.Generator().manual_seed(1)
    return changed(
        folder / "c.safetensors",
        target,
        lambda k, t: (
            (t.float() * (1 + 0.1 * torch.randn(t.shape, generator=rng))).half()
            if k.startswith("first_stage_model.")
            else None
        ),
    )


def test_a_mean_of_different_vaes_is_found(folder, recipe, tmp_path):
    paths = {"c": noisy_vae(folder, tmp_path / "c2.safetensors")}
    step = {"mix": {"method": "uniform", "inputs": ["a", "b", "c"]}}
    averaged = recipe("a b c", step, paths=paths, components={"vae": "merge"})
    assert the(lint(averaged), "vae").severity == "warning"
    assert not [f for f in lint(recipe("a b c", step, paths=paths)).findings if check_of(f) == "vae"]
    odd = the(lint(recipe("a b c", step, paths=paths, components={"vae": "c"})), "vae")
    assert odd.severity == "note" and odd.subject[0] == "c"
    same = recipe("a b base", {"mix": {"method": "uniform", "inputs": ["a", "b", "base"]}}, components={"vae": "merge"})
    assert not [f for f in lint(same).findings if check_of(f) == "vae"]


def test_nan_in_the_sample_stops_the_merge_or_is_repaired(folder, recipe, tmp_path):
    def spoil(key, tensor):
        return torch.full_like(tensor, float("nan")) if key.startswith(UNET + "input_blocks.4.") else None

    paths = {"b": changed(folder / "b.safetensors", tmp_path / "bad.safetensors", spoil)}
    step = {"mix": {"method": "uniform", "inputs": ["a", "b"]}}
    assert the(lint(recipe("a b", step, paths=paths)), "nan").severity == "error"
    repaired = recipe("a b", step, paths=paths, output={"nan": "copy"})
    assert the(lint(repaired), "nan").severity == "warning"


def test_one_nan_anywhere_is_found_by_reading_everything(folder, recipe, tmp_path):
    def spoil(key, tensor):
        if key != UNET + "output_blocks.3.0.in_layers.0.weight":
            return None
        tensor = tensor.clone()
        tensor[0] = float("nan")
        return tensor

    path = changed(folder / "b.safetensors", tmp_path / "one.safetensors", spoil)
    made = recipe("a b", {"mix": {"method": "uniform", "inputs": ["a", "b"]}}, paths={"b": path})
    assert checks(lint(made)) == []
    assert scan(path).tensors[UNET + "output_blocks.3.0.in_layers.0.weight"].nan == 1
    (found,) = [f for f in lint(made, deep=True).findings if f.severity == "error"]
    assert (check_of(found), found.code, found.subject) == ("health", "health.not_finite", ("b",))
    # What an older release kept of a scan says no codes: the file is read again.
    old = kept_scan(identity(path)) | {"health": [{"level": "broken", "text": "NaN"}]}
    keep_scan(identity(path), old)
    assert found in lint(made, deep=True).findings
    assert [problem["code"] for problem in kept_scan(identity(path))["health"]] == ["health.not_finite"]


def test_random_models_without_any_relation_have_no_common_base(recipe, tmp_path):
    paths = {}
    for seed, name in enumerate("xyz"):
        paths[name] = tmp_path / f"{name}.safetensors"
        save_file(tensors_of("sd1", seed), paths[name], {"format": "pt"})
    report = lint(recipe("x y z", {"mix": {"method": "add_difference", "inputs": ["x", "y", "z"]}}, paths=paths))
    assert "base" in checks(report)
