"""Models of no known family: merged by every method and by block, linted, traced, taken apart into LoRAs and put together again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from key_sets import behind, clip_l, flux, t5, vae, write, z_image
from safetensors.numpy import load_file, save_file
from samples import first_of_each

from unetscope.analysis.trace import trace
from unetscope.checkpoints import UnetscopeError, open_checkpoint
from unetscope.checkpoints.demo import write_demo_lora
from unetscope.cli import main
from unetscope.merge import METHODS, MergeError, Recipe, merge
from unetscope.merge.errors import RecipeError
from unetscope.merge.lint.finding import check_of
from unetscope.merge.lint.linter import lint
from unetscope.merge.lora import merge_loras
from unetscope.merge.lora.bake import bake_recipe
from unetscope.merge.lora.extract import extract_lora
from unetscope.merge.lora.uses import LoraUse
from unetscope.search.search_space import read_template

KOHYA, PEFT = (".lora_down.weight", ".lora_up.weight"), (".lora_A.weight", ".lora_B.weight")
PREFIX = "model.diffusion_model."


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three files of one model, each with another prefix, and one with a block less. Not to be changed."""
    folder = tmp_path_factory.mktemp("any")
    for seed, (name, prefix) in enumerate({"a": "", "b": PREFIX, "c": "net."}.items()):
        write(folder / f"{name}.safetensors", z_image(), seed, prefix)
    write(folder / "short.safetensors", {k: s for k, s in z_image().items() if not k.startswith("layers.4.")}, 5)
    return folder


def weights_of(path, prefix=""):
    return {name.removeprefix(prefix): values.astype(np.float32) for name, values in load_file(path).items()}


def recipe_of(files, step, names="ab", **more):
    models = {name: str(files / f"{name}.safetensors") for name in names}
    return Recipe.parse({"models": models, "steps": {"mix": {"inputs": list(names), **step}}, **more})


def near(found, expected):
    return np.abs(found.astype(np.float32) - expected).max() <= 1e-3


def run(*arguments) -> int:
    """Run a command; its exit code. Anything but an ordinary end is an error of the test."""
    with pytest.raises(SystemExit) as end:
        main([str(x) for x in arguments])
    return end.value.code or 0


# -- merging ---------------------------------------------------------------------------------------------------------------


def way_of(name: str) -> tuple:
    """What makes the way of a method through the engine another one."""
    method = METHODS[name]
    return method.kind, method.variadic, bool(method.deltas), method.result


@pytest.mark.parametrize("name", first_of_each(sorted(METHODS), way_of))
def test_every_method_takes_them(name, files, tmp_path):
    method = METHODS[name]
    if method.deltas or method.result == "delta" or "ema" in method.supplied:
        pytest.skip("takes or makes differences")
    names = "abc"[: max(2, len(method.inputs))] if method.variadic else "abc"[: len(method.inputs)]
    out = tmp_path / "out.safetensors"
    more = {"weights": [1, 2]} if name == "weighted_average" else {}
    more |= {"component": "vae"} if "component" in method.parameters else {}
    merge(recipe_of(files, {"method": name, **more}, names), out)
    made = load_file(out)
    assert set(made) == set(z_image())
    assert all(np.isfinite(values).all() for values in made.values())


@pytest.mark.parametrize("first", ["a", "b", "c"])
def test_the_result_has_the_first_files_own_names(first, files, tmp_path):
    second = "b" if first != "b" else "a"
    recipe = recipe_of(files, {"method": "weighted_sum", "alpha": 0.25}, first + second)
    merge(recipe, tmp_path / "out.safetensors")
    made = load_file(tmp_path / "out.safetensors")
    assert set(made) == set(load_file(files / f"{first}.safetensors"))
    prefix = {"a": "", "b": PREFIX, "c": "net."}
    one, other = (weights_of(files / f"{x}.safetensors", prefix[x]) for x in (first, second))
    for key, values in made.items():
        key = key.removeprefix(prefix[first])
        assert near(values, 0.75 * one[key] + 0.25 * other[key])


@pytest.mark.parametrize(
    ("lines", "share"),
    [
        ({"default": 0.5, "LAYERS01-LAYERS03": 0.1}, lambda k: 0.1 if k[:9] in ("layers.1.", "layers.2.", "layers.3.") else 0.5),
        ({"START": 1}, lambda k: 1.0 if k.startswith(("x_", "cap_", "t_embedder")) else 0.0),
        ({"END": 1, "CONTEXT_REFINER*": 0.5}, lambda k: 1.0 if k.startswith("final") else 0.5 if k.startswith("context") else 0.0),
        ({"default": 0.2, "norm": 0.9}, lambda k: 0.9 if "norm" in k else 0.2),
        ({"attn.qkv": 0.7}, lambda k: 0.7 if "qkv" in k else 0.0),
        ({"key:*feed_forward.w2*": 0.7}, lambda k: 0.7 if "feed_forward.w2" in k else 0.0),
        ({"/layers\\.[0-1]\\./": 0.3}, lambda k: 0.3 if k.startswith(("layers.0.", "layers.1.")) else 0.0),
        ({"MODEL": 0.6}, lambda k: 0.6),
        ([i / 10 for i in range(11)], lambda k: 1.0 if k.startswith("final") else 0.9 if k.startswith("layers.4.") else None),
        ({"LAYERS00-LAYERS04": {"gradient": [0, 1]}}, lambda k: int(k[7]) / 4 if k.startswith("layers.") else 0.0),
    ],
)  # fmt: skip
def test_weights_by_block_kind_and_key(lines, share, files, tmp_path):
    merge(recipe_of(files, {"method": "weighted_sum", "alpha": lines}), tmp_path / "out.safetensors")
    made, a, b = (
        load_file(tmp_path / "out.safetensors"),
        weights_of(files / "a.safetensors"),
        weights_of(files / "b.safetensors", PREFIX),
    )
    for key, values in made.items():
        if (alpha := share(key)) is not None:
            assert near(values, (1 - alpha) * a[key] + alpha * b[key]), key


@pytest.mark.parametrize("names", [("a", "short"), ("short", "a")])
def test_what_one_model_lacks_is_counted_and_refused_unless_that_is_allowed(names, files, tmp_path):
    step, out = {"method": "weighted_sum", "alpha": 0.5, "inputs": list(names)}, tmp_path / "out.safetensors"
    models = {name: str(files / f"{name}.safetensors") for name in names}
    with pytest.raises(MergeError, match="short lacks 11 tensors that a has"):
        merge(Recipe.parse({"models": models, "steps": {"mix": step}}), out)
    assert not out.exists()
    merge(Recipe.parse({"models": models, "steps": {"mix": step}, "output": {"allow_missing": True}}), out)
    made, a = load_file(out), load_file(files / "a.safetensors")
    assert set(made) == set(a)
    assert (made["layers.4.attention.qkv.weight"] == a["layers.4.attention.qkv.weight"]).all()


def test_what_is_taken_from_another_model_gets_the_first_models_prefix(files, tmp_path):
    models = {"short": str(files / "short.safetensors"), "b": str(files / "b.safetensors")}
    step = {"mix": {"method": "uniform", "inputs": list(models)}}
    merge(
        Recipe.parse({"models": models, "steps": step, "output": {"allow_missing": True}}), tmp_path / "out.safetensors"
    )
    made, b = load_file(tmp_path / "out.safetensors"), load_file(files / "b.safetensors")
    assert set(made) == set(z_image())
    assert (made["layers.4.attention.qkv.weight"] == b[PREFIX + "layers.4.attention.qkv.weight"]).all()


def test_a_donor_fills_what_a_file_lacks_under_its_own_prefix(files, tmp_path):
    out = tmp_path / "out.safetensors"
    assert run("convert", files / "short.safetensors", out, "--donor", files / "b.safetensors") == 0
    assert set(load_file(out)) == set(z_image())
    write(tmp_path / "flux.safetensors", flux())
    assert (
        run(
            "convert",
            files / "short.safetensors",
            tmp_path / "no.safetensors",
            "--donor",
            tmp_path / "flux.safetensors",
        )
        != 0
    )


def test_models_that_share_no_layout_are_refused_before_a_byte_is_written(files, tmp_path):
    write(tmp_path / "flux.safetensors", flux())
    recipe = {"models": {"a": str(files / "a.safetensors"), "f": str(tmp_path / "flux.safetensors")},
              "steps": {"mix": {"method": "uniform", "inputs": ["a", "f"]}}}  # fmt: skip
    with pytest.raises(MergeError, match="no layout says which are right"):
        merge(Recipe.parse(recipe), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_shape_that_differs_is_refused_even_where_missing_tensors_are_allowed(files, tmp_path):
    write(tmp_path / "w.safetensors", z_image() | {"layers.0.attention.out.weight": (8, 9)})
    models = {"a": str(files / "a.safetensors"), "w": str(tmp_path / "w.safetensors")}
    step = {"mix": {"method": "uniform", "inputs": ["a", "w"]}}
    with pytest.raises(MergeError, match=r"layers\.0\.attention\.out\.weight"):
        merge(
            Recipe.parse({"models": models, "steps": step, "output": {"allow_missing": True}}),
            tmp_path / "out.safetensors",
        )


@pytest.mark.parametrize("alpha", [{"IN05": 1}, "GRAD_V", [0.5] * 26, {"LAYERS07": 1}, {"BLOCKS00": 1}])
def test_weights_for_blocks_that_they_lack_are_refused(alpha, files, tmp_path):
    recipe = _written(recipe_of(files, {"method": "weighted_sum", "alpha": alpha}), tmp_path)
    assert run("merge", "run", recipe, "-o", tmp_path / "o.safetensors") != 0
    assert not (tmp_path / "o.safetensors").exists()


def _written(recipe, folder):
    (folder / "r.yaml").write_text(recipe.to_yaml())
    return folder / "r.yaml"


# -- text encoders next to the model ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    shapes = behind(PREFIX, flux()) | behind("text_encoders.clip_l.transformer.", clip_l())
    shapes |= behind("text_encoders.t5xxl.transformer.", t5()) | behind("vae.", vae())
    for seed, name in enumerate("ab"):
        write(folder / f"{name}.safetensors", shapes, seed)
    return folder


def shares_in(folder, out):
    """Which share of b each part of the result has, by least squares."""
    a, b, made = (weights_of(path) for path in (folder / "a.safetensors", folder / "b.safetensors", out))
    assert set(made) == set(a)
    found = {}
    for start in (
        PREFIX + "double_blocks",
        PREFIX + "final_layer",
        "text_encoders.clip_l",
        "text_encoders.t5xxl",
        "vae",
    ):
        change, whole_change = (
            np.concatenate([(x[k] - a[k]).ravel() for k in a if k.startswith(start)]) for x in (made, b)
        )
        found[start.rpartition(".")[2]] = round(float(change @ whole_change / (whole_change @ whole_change)), 3)
    return found


@pytest.mark.parametrize(
    ("alpha", "components", "expected"),
    [
        (0.5, {}, {"double_blocks": 0.5, "final_layer": 0.5, "clip_l": 0.5, "t5xxl": 0.5, "vae": 0}),
        ({"T5XXL": 0.25, "CLIP_L": 1}, {}, {"double_blocks": 0, "final_layer": 0, "clip_l": 1, "t5xxl": 0.25, "vae": 0}),
        ({"BASE": 0.75, "END": 1}, {}, {"double_blocks": 0, "final_layer": 1, "clip_l": 0.75, "t5xxl": 0.75, "vae": 0}),
        ({"MODEL": 0.5}, {"vae": "b"}, {"double_blocks": 0.5, "final_layer": 0.5, "clip_l": 0, "t5xxl": 0, "vae": 1}),
        (0.5, {"text_encoders": "b", "model": "a"}, {"double_blocks": 0, "final_layer": 0, "clip_l": 1, "t5xxl": 1, "vae": 0}),
        ({"default": 0.5, "VAE": 0.5}, {}, {"double_blocks": 0.5, "final_layer": 0.5, "clip_l": 0.5, "t5xxl": 0.5, "vae": 0.5}),
    ],
)  # fmt: skip
def test_text_encoders_and_vae_have_weights_of_their_own(alpha, components, expected, whole, tmp_path):
    recipe = recipe_of(whole, {"method": "weighted_sum", "alpha": alpha}, components=components)
    merge(recipe, tmp_path / "out.safetensors")
    assert shares_in(whole, tmp_path / "out.safetensors") == expected


def test_a_vector_is_for_the_blocks_and_leaves_text_encoders_to_the_first_model(whole, tmp_path):
    with open_checkpoint(whole / "a.safetensors") as checkpoint:
        count = len(checkpoint.family.labels)
    merge(recipe_of(whole, {"method": "weighted_sum", "alpha": [0.5] * count}), tmp_path / "out.safetensors")
    found = shares_in(whole, tmp_path / "out.safetensors")
    assert found == {"double_blocks": 0.5, "final_layer": 0.5, "clip_l": 0, "t5xxl": 0, "vae": 0}


def test_a_grid_combines_models_and_text_encoders(whole, files, tmp_path):
    done = run(
        "merge", "grid", "--unets", whole / "a.safetensors", "--text-encoders", whole / "b.safetensors", "-o", tmp_path
    )
    assert done == 0
    (made,) = tmp_path.glob("*.safetensors")
    assert shares_in(whole, made) == {"double_blocks": 0, "final_layer": 0, "clip_l": 1, "t5xxl": 1, "vae": 0}
    none = run(
        "merge", "grid", "--unets", files / "a.safetensors", "--text-encoders", files / "b.safetensors", "-o", tmp_path
    )
    assert none != 0


@pytest.mark.parametrize("component", ["text_encoders", "vae", "unet", "clip_l"])
def test_a_component_that_they_lack_is_refused(component, files, tmp_path):
    recipe = recipe_of(files, {"method": "weighted_sum", "alpha": 0.5}, components={component: "b"})
    with pytest.raises((MergeError, RecipeError)):
        merge(recipe, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


# -- lint, trace, and other tools ------------------------------------------------------------------------------------------


def test_lint_finds_nothing_where_nothing_is_wrong_and_knows_the_shares(files):
    report = lint(recipe_of(files, {"method": "weighted_sum", "alpha": {"default": 0.5, "LAYERS00": 0.25}}))
    assert report.findings == []
    assert report.family == "any"
    (part,) = report.shares
    sizes = {key: int(np.prod(shape)) for key, shape in z_image().items()}
    block = sum(size for key, size in sizes.items() if key.startswith("layers.0."))
    assert part.component == "model"
    assert part.shares["b"] == pytest.approx(0.5 - 0.25 * block / sum(sizes.values()))
    assert part.spread["b"] == (0.25, 0.5)


@pytest.mark.parametrize(
    ("step", "names", "check"),
    [
        ({"method": "weighted_sum", "alpha": {"IN05": 1}}, "ab", "labels"),
        ({"method": "weighted_sum", "alpha": {"LAYERS00": 3}}, "ab", "range"),
        ({"method": "weighted_average", "weights": [1, 1], "normalise": False}, "ab", "total"),
        ({"method": "uniform", "inputs": ["a", "short"]}, ("a", "short"), "refused"),
    ],
)
def test_lint_finds_what_is_wrong(step, names, check, files):
    assert check in {check_of(finding) for finding in lint(recipe_of(files, step, names)).findings}


def test_a_copy_under_another_prefix_is_found(files, tmp_path):
    write(tmp_path / "copy.safetensors", z_image(), 0, PREFIX)
    models = {"a": str(files / "a.safetensors"), "copy": str(tmp_path / "copy.safetensors")}
    report = lint(Recipe.parse({"models": models, "steps": {"mix": {"method": "uniform", "inputs": list(models)}}}))
    assert "twice" in {check_of(finding) for finding in report.findings}


def test_a_trace_finds_the_shares_and_a_recipe_that_makes_the_merge_again(files, tmp_path):
    recipe = recipe_of(files, {"method": "weighted_sum", "alpha": {"default": 0.5, "LAYERS02": 0.125}})
    merge(recipe, tmp_path / "out.safetensors")
    opened = [
        open_checkpoint(path)
        for path in (tmp_path / "out.safetensors", files / "a.safetensors", files / "b.safetensors")
    ]
    report = trace(opened[0], opened[1:])
    assert report.verdict == "exact"
    merge(Recipe.parse(report.recipe), tmp_path / "again.safetensors")
    first, again = (load_file(tmp_path / f"{name}.safetensors") for name in ("out", "again"))
    assert all(np.abs(first[key].astype(np.float32) - again[key]).max() < 2e-3 for key in first)


def test_commands_answer_or_say_why_not(files, tmp_path, capsys):
    recipe = _written(
        recipe_of(files, {"method": "weighted_sum", "alpha": {"default": 0.5, "LAYERS00": 0.25}}), tmp_path
    )
    out, a, b = tmp_path / "out.safetensors", files / "a.safetensors", files / "b.safetensors"
    assert run("merge", "run", recipe, "-o", out) == 0
    assert run("lint", recipe) == 0
    assert run("predict", recipe) == 0
    assert run("diagram", recipe, "-o", tmp_path / "r.svg") == 0
    assert run("import", out, "-o", tmp_path / "again.yaml") == 0
    again = yaml.safe_load((tmp_path / "again.yaml").read_text())
    assert again["steps"]["result" if "result" in again["steps"] else "mix"]["alpha"] == {
        "default": 0.5,
        "LAYERS00": 0.25,
    }
    assert run("spectrum", a, b) == 0
    assert run("compare", a, b, out) == 0
    assert run("stats", b) == 0
    assert run("convert", b, tmp_path / "c.safetensors", "--dtype", "bf16") == 0
    assert set(load_names(tmp_path / "c.safetensors")) == set(load_file(b))
    for refused in (["convert", b, tmp_path / "folder", "--to", "diffusers"], ["export", recipe, "--to", "mecha"]):
        capsys.readouterr()
        assert run(*refused) != 0
        assert "model family 'any'" not in capsys.readouterr().err


def load_names(path):
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return [name for name in header if name != "__metadata__"]


def test_a_search_has_a_free_number_for_each_block(files):
    data = {
        "models": {name: str(files / f"{name}.safetensors") for name in "ab"},
        "steps": {"mix": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": {"free": [0, 1], "per": "block"}}},
    }
    template = read_template(data)
    with open_checkpoint(files / "a.safetensors") as checkpoint:
        labels = checkpoint.family.labels
    assert len(template.parameters) == len(labels)
    assert [parameter.name.rpartition(".")[2] for parameter in template.parameters] == list(labels)


# -- LoRAs -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A base, a model in which only matrices differ from it, under another prefix; and the weights of both."""
    folder = tmp_path_factory.mktemp("tuned")
    base = write(folder / "base.safetensors", z_image(), 1)
    other = write(folder / "tuned.safetensors", z_image(), 2)
    mixed = {key: other[key] if base[key].ndim == 2 else base[key] for key in base}
    save_file({PREFIX + key: values for key, values in mixed.items()}, folder / "tuned.safetensors")
    return folder, base, mixed


MATRICES = [key.removesuffix(".weight") for key, shape in z_image().items() if len(shape) == 2]


@pytest.mark.parametrize(
    ("style", "names"),
    [
        (None, lambda m: {f"diffusion_model.{m}.lora_A.weight", f"diffusion_model.{m}.lora_B.weight"}),
        ("peft", lambda m: {f"diffusion_model.{m}.lora_A.weight", f"diffusion_model.{m}.lora_B.weight"}),
        ("kohya", lambda m: {f"lora_unet_{m.replace('.', '_')}{end}" for end in (*KOHYA, ".alpha")}),
    ],
)  # fmt: skip
def test_base_and_lora_at_full_rank_are_the_tuned_model(style, names, tuned, tmp_path):
    folder, base, expected = tuned
    path = tmp_path / "l.safetensors"
    report = extract_lora(
        folder / "tuned.safetensors", folder / "base.safetensors", path, rank=64, dtype="fp32", style=style
    )
    lora = load_file(path)
    assert set(lora) == set().union(*map(names, MATRICES))
    assert report.error < 1e-5
    for module in MATRICES:
        stem = names(module).pop().removesuffix(".alpha").partition(".lora_")[0]
        down, up = (
            lora[stem + end]
            for end in (
                (".lora_A.weight", ".lora_B.weight") if style != "kohya" else (".lora_down.weight", ".lora_up.weight")
            )
        )
        change = up.astype(np.float64) @ down * (float(lora[stem + ".alpha"]) / len(down) if style == "kohya" else 1)
        assert np.abs(base[f"{module}.weight"] + change - expected[f"{module}.weight"]).max() < 1e-4
    baked = tmp_path / "baked.safetensors"
    merge(bake_recipe(folder / "base.safetensors", [LoraUse(path)]), baked)
    made = load_file(baked)
    assert set(made) == set(base)
    assert all(np.abs(made[key].astype(np.float32) - expected[key]).max() < 1e-3 for key in made)


def test_its_metadata_name_no_family(tuned, tmp_path):
    folder, _, _ = tuned
    extract_lora(folder / "tuned.safetensors", folder / "base.safetensors", tmp_path / "l.safetensors", rank=2)
    with open_checkpoint(tmp_path / "l.safetensors") as checkpoint:
        assert checkpoint.architecture.what == "lora"
        said = checkpoint.metadata
    assert not {"ss_base_model_version", "ss_v2", "modelspec.architecture"} & set(said)
    assert "any" not in said.values()


def test_ranks_by_block_and_the_error_by_label(tuned, tmp_path):
    folder, _, _ = tuned
    report = extract_lora(
        folder / "tuned.safetensors", folder / "base.safetensors", tmp_path / "l.safetensors",
        ranks={"default": 0, "LAYERS00-LAYERS01": 3},
    )  # fmt: skip
    assert [row.label for row in report.labels] == ["LAYERS00", "LAYERS01"]
    down = [values for name, values in load_file(tmp_path / "l.safetensors").items() if name.endswith("lora_A.weight")]
    assert {len(values) for values in down} == {3}
    assert len(down) == sum(module.startswith(("layers.0.", "layers.1.")) for module in MATRICES)


def test_a_lora_has_a_strength_by_block(tuned, tmp_path):
    folder, base, expected = tuned
    extract_lora(
        folder / "tuned.safetensors", folder / "base.safetensors", tmp_path / "l.safetensors", rank=64, dtype="fp32"
    )
    recipe = {
        "models": {"m": str(folder / "base.safetensors")},
        "loras": {"l": str(tmp_path / "l.safetensors")},
        "steps": {"out": {"method": "add", "inputs": ["m", "l"], "alpha": {"default": 0.5, "LAYERS02": 1, "END": 0}}},
    }
    merge(Recipe.parse(recipe), tmp_path / "out.safetensors")
    made = load_file(tmp_path / "out.safetensors")
    for module in MATRICES:
        alpha = 1 if module.startswith("layers.2.") else 0 if module.startswith("final") else 0.5
        key = f"{module}.weight"
        assert near(made[key], (1 - alpha) * base[key].astype(np.float32) + alpha * expected[key])


def test_what_no_lora_can_be_made_of_is_refused(tuned, files, tmp_path):
    folder, _, _ = tuned
    base, out = folder / "base.safetensors", tmp_path / "l.safetensors"
    write(tmp_path / "flux.safetensors", flux())
    for pair, options in (
        ((files / "short.safetensors", base), {}),
        ((tmp_path / "flux.safetensors", base), {}),
        ((folder / "tuned.safetensors", base), {"style": "diffusers"}),
        ((base, base), {}),
    ):
        with pytest.raises(MergeError):
            extract_lora(*pair, out, **options)
        assert not out.exists()


def change_of(path: Path) -> dict[str, np.ndarray]:
    """Module, its dots written as `_` and nothing before it -> the change that a file makes of it."""
    tensors, out = load_file(path), {}
    for name, down in tensors.items():
        if name.endswith((".lora_A.weight", ".lora_down.weight")):
            stem = name.rpartition(".lora_")[0]
            up = tensors[name.replace("lora_A", "lora_B").replace("lora_down", "lora_up")]
            scale = float(tensors[stem + ".alpha"]) / len(down) if stem + ".alpha" in tensors else 1.0
            module = stem.removeprefix("diffusion_model.").removeprefix("lora_unet_").replace(".", "_")
            out[module] = scale * up.astype(np.float64).reshape(len(up), -1) @ down.reshape(len(down), -1)
    return out


def test_without_a_base_such_loras_are_merged_and_resized_by_their_own_names(tuned, tmp_path):
    folder, _, _ = tuned
    paths = {style: tmp_path / f"{style}.safetensors" for style in ("peft", "kohya")}
    for style, path in paths.items():
        extract_lora(folder / "tuned.safetensors", folder / "base.safetensors", path, rank=2, style=style, dtype="fp32")
    one = change_of(paths["peft"])
    for first, style in (("peft", "kohya"), ("kohya", "kohya"), ("peft", "peft")):
        out = tmp_path / "sum.safetensors"
        uses = [LoraUse(paths[first], 0.5), LoraUse(paths["kohya" if style == "kohya" else "peft"], 2.0)]
        report = merge_loras(uses, out, style=style, dtype="fp32", overwrite=True)
        found = change_of(out)
        assert report.modules == len(one) == len(found) and report.style == style and json.dumps(report.to_plain())
        assert all(np.allclose(found[module], 2.5 * change, atol=1e-5) for module, change in one.items())
    with pytest.raises(UnetscopeError, match="has _ for dots"):
        merge_loras([LoraUse(paths["kohya"])], tmp_path / "o.safetensors", style="peft")
    assert run("lora", "resize", paths["peft"], "--rank", 1, "-o", tmp_path / "small.safetensors") == 0
    for module, change in change_of(tmp_path / "small.safetensors").items():
        kept = np.linalg.svd(one[module], compute_uv=False)
        assert np.linalg.norm(change - one[module]) == pytest.approx(kept[1], abs=2e-3)
    assert run("lora", "convert", paths["peft"], "--to", "kohya", "-o", tmp_path / "k.safetensors") == 0
    assert set(load_file(tmp_path / "k.safetensors")) == set(load_file(paths["kohya"]))
    for refused in (["convert", paths["kohya"], "--to", "peft"], ["convert", paths["peft"], "--to", "diffusers"]):
        assert run("lora", *refused, "-o", tmp_path / "o.safetensors") == 2
    baked = {}
    for name, path in (("sum", tmp_path / "sum.safetensors"), ("small", tmp_path / "small.safetensors")):
        merge(bake_recipe(folder / "base.safetensors", [LoraUse(path)]), tmp_path / f"{name}_out.safetensors")
        baked[name] = load_file(tmp_path / f"{name}_out.safetensors")
    assert any((baked["sum"][key] != baked["small"][key]).any() for key in baked["sum"])
    assert run("inspect", paths["kohya"]) == 0


def test_what_diffusers_says_of_a_transformer_scales_it_and_strengths_are_by_part(tuned, tmp_path):
    """alpha / rank stands in the metadata alone; with the model and without it."""
    folder, base, _ = tuned
    extract_lora(
        folder / "tuned.safetensors", folder / "base.safetensors", tmp_path / "l.safetensors", rank=2, dtype="fp32"
    )
    tensors = {
        name.replace("diffusion_model.", "transformer."): t for name, t in load_file(tmp_path / "l.safetensors").items()
    }
    said = {
        "lora_adapter_metadata": json.dumps(
            {"transformer.r": 2, "transformer.lora_alpha": 6, "transformer.rank_pattern": {}}
        )
    }
    save_file(tensors, tmp_path / "scaled.safetensors", said)
    one = change_of(tmp_path / "l.safetensors")
    merge_loras([LoraUse(tmp_path / "scaled.safetensors")], tmp_path / "merged.safetensors", dtype="fp32")
    merged = change_of(tmp_path / "merged.safetensors")
    merged = {name.removeprefix("transformer_"): change for name, change in merged.items()}
    assert all(np.allclose(merged[module], 3 * change, atol=1e-5) for module, change in one.items())
    recipe = bake_recipe(folder / "base.safetensors", [LoraUse(tmp_path / "scaled.safetensors", 0.5, 0.0)])
    merge(Recipe.parse({**recipe.to_plain(), "output": {"dtype": "fp32"}}), tmp_path / "out.safetensors")
    made = load_file(tmp_path / "out.safetensors")
    for module in MATRICES:
        change = one[module.replace(".", "_")].reshape(base[f"{module}.weight"].shape)
        assert np.allclose(made[f"{module}.weight"], base[f"{module}.weight"] + 1.5 * change, atol=1e-5)


def test_loras_that_share_no_layer_need_the_model_that_both_are_for(tuned, tmp_path):
    folder, _, _ = tuned
    extract_lora(folder / "tuned.safetensors", folder / "base.safetensors", tmp_path / "l.safetensors", rank=2)
    tensors = load_file(tmp_path / "l.safetensors")
    module = next(iter(tensors)).rpartition(".lora_")[0]
    parts = [{k: t for k, t in tensors.items() if k.startswith(module + ".") == own} for own in (True, False)]
    for number, part in enumerate(parts):
        save_file(part, tmp_path / f"{number}.safetensors")
    uses = [LoraUse(tmp_path / f"{number}.safetensors") for number in (0, 1)]
    with pytest.raises(MergeError, match="nothing shows that they are for one model"):
        merge_loras(uses, tmp_path / "o.safetensors")
    merge_loras(uses, tmp_path / "o.safetensors", base=folder / "base.safetensors")
    assert change_of(tmp_path / "o.safetensors").keys() == change_of(tmp_path / "l.safetensors").keys()


def test_a_lora_for_a_known_family_is_told_from_one_for_such_a_model(tuned, tmp_path):
    folder, _, _ = tuned
    known = write_demo_lora(tmp_path / "sd1.safetensors", "sd1")
    ones = {f"lora_unet_rooms_0_door.lora_{side}.weight": np.ones((2, 2), np.float32) for side in ("up", "down")}
    save_file(ones, tmp_path / "own.safetensors")
    refused = {
        known: "is a LoRA for SD1, but .*base.safetensors is ",
        tmp_path / "own.safetensors": "found layers that none of these has",
    }
    for path, said in refused.items():
        with pytest.raises(UnetscopeError, match=said):
            merge(bake_recipe(folder / "base.safetensors", [LoraUse(path)]), tmp_path / "out.safetensors")
        assert not (tmp_path / "out.safetensors").exists()
    with pytest.raises(MergeError, match="LoRAs"):
        merge_loras([LoraUse(known), LoraUse(tmp_path / "own.safetensors")], tmp_path / "out.safetensors")
