"""A family from outside the package, in one file: opened, measured, merged, drawn, searched and shown like those of the house."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from unetscope.analysis import diff
from unetscope.checkpoints import LabelError, open_checkpoint
from unetscope.checkpoints.demo import write_demo
from unetscope.checkpoints.errors import UnetscopeError
from unetscope.checkpoints.families import FAMILIES, in_order, known_labels
from unetscope.checkpoints.families.conventions import CONVENTIONS
from unetscope.checkpoints.families.presets import preset
from unetscope.dashboard import jobs, worker
from unetscope.diagrams import draw
from unetscope.library.inspection import inspect
from unetscope.merge import METHODS, BlockWeights, Recipe, merge
from unetscope.search.search_space import read_template

CORE = "model.diffusion_model."
WORDS, VAE = "text_encoders.words.", "first_stage_model."
DOUBLE, SINGLE = [f"DOUBLE{n:02d}" for n in range(4)], [f"SINGLE{n:02d}" for n in range(6)]
LABELS = ["IN", *DOUBLE, *SINGLE, "OUT"]
QKV = CORE + "double_blocks.2.image_attn.qkv.weight"
# The vector that every tool but the family's own has for it.
VECTOR = [i / 12 for i in range(13)]


@pytest.fixture(scope="module", autouse=True)
def madeup(installed):
    installed("madeup_family", "families", "MADEUP")
    return FAMILIES["madeup"]


@pytest.fixture(scope="module")
def models(madeup, tmp_path_factory) -> Path:
    """A model and two fine-tunes of it, that no test changes."""
    folder = tmp_path_factory.mktemp("models")
    base = write_demo(folder / "a.safetensors", "madeup", seed=1, dtype="fp32")
    for seed, name in ((2, "b"), (3, "c")):
        write_demo(folder / f"{name}.safetensors", "madeup", seed=seed, finetune_of=base, dtype="fp32")
    return folder


@pytest.fixture
def here(models, tmp_path, monkeypatch) -> Path:
    """A copy of them, as working directory."""
    folder = tmp_path / "here"
    shutil.copytree(models, folder)
    monkeypatch.chdir(folder)
    return folder


def numbers(path: Path) -> dict[str, np.ndarray]:
    return {key: tensor.numpy() for key, tensor in load_file(path).items()}


def core_of(path: Path) -> dict[str, torch.Tensor]:
    """The denoiser's tensors under their names without prefix."""
    return {k.removeprefix(CORE): t for k, t in load_file(path).items() if k.startswith(CORE)}


# -- what a file is ------------------------------------------------------------------------------------------------------


@pytest.mark.one_by_one
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("prefix", ["", "transformer.", CORE])
def test_its_denoiser_is_known_behind_every_prefix_in_every_container(models, tmp_path, prefix, suffix):
    tensors = {prefix + name: t.contiguous() for name, t in core_of(models / "a.safetensors").items()}
    path = tmp_path / f"x{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(tensors, path)
    found = inspect(path)
    assert (found.architecture.family, found.architecture.what) == ("madeup", "component")
    assert found.architecture.name == "Made-up transformer" and not found.missing and not found.junk
    assert list(found.labels) == LABELS and list(found.components) == ["transformer"]
    with open_checkpoint(path) as checkpoint:
        assert set(checkpoint.tensors) == {CORE + name for name in core_of(models / "a.safetensors")}


def test_a_whole_file_has_all_its_parts_and_lacks_nothing(models, madeup):
    found = inspect(models / "a.safetensors")
    assert (found.architecture.family, found.architecture.what) == ("madeup", "checkpoint")
    assert found.architecture.name == "Made-up checkpoint" and not found.missing and not found.absent
    assert list(found.components) == ["transformer", "words", "vae"]
    assert list(found.labels) == ["WORDS", *LABELS, "VAE"]
    assert set(load_file(models / "a.safetensors")) == set(madeup.layout("narrow")) == set(madeup.layout("real"))


@pytest.mark.parametrize(
    ("key", "component"), [(QKV, "transformer"), (WORDS + "encoder.block.1.dense.wi.weight", "words")]
)
def test_a_hole_is_counted_and_the_file_stays_what_it_is(models, tmp_path, key, component):
    tensors = load_file(models / "a.safetensors")
    del tensors[key]
    save_file(tensors, tmp_path / "hole.safetensors")
    found = inspect(tmp_path / "hole.safetensors")
    assert found.architecture.family == "madeup" and found.missing == {component: (key,)}


def test_its_text_encoder_alone_is_known_too(models, tmp_path):
    tensors = {k: t for k, t in load_file(models / "a.safetensors").items() if k.startswith(WORDS)}
    save_file(tensors, tmp_path / "words.safetensors")
    found = inspect(tmp_path / "words.safetensors")
    assert found.architecture.name == "text encoder Words alone" and found.architecture.parts == ("words",)


def test_what_its_rule_excludes_is_not_its_file(models, tmp_path):
    tensors = core_of(models / "a.safetensors") | {"guidance_in.weight": torch.ones(8, 8)}
    save_file(tensors, tmp_path / "other.safetensors")
    assert inspect(tmp_path / "other.safetensors").architecture.family != "madeup"


def test_other_families_are_what_they_were(make_checkpoint):
    path, _ = make_checkpoint("sd")
    found = inspect(path)
    assert found.architecture.family == "sd1" and not found.missing
    labels = [x for x in found.labels if x in FAMILIES["sd1"].all_labels]
    assert labels == ["CLIP_L", *FAMILIES["sd1"].labels, "VAE"]


def test_labels_stand_in_the_order_of_their_own_network():
    assert in_order(["VAE", "OUT", *reversed(SINGLE), *DOUBLE, "IN", "WORDS"]) == ["WORDS", *LABELS, "VAE"]
    assert in_order(["OUT", "M00", "OUT00", "IN00"]) == ["IN00", "M00", "OUT00", "OUT"]
    assert {"DOUBLE00", "WORDS"} <= set(known_labels())


# -- commands ------------------------------------------------------------------------------------------------------------


COMMANDS = {
    "inspect": "inspect a.safetensors --scan",
    "layers": "layers a.safetensors",
    "layers of the layout": "layers madeup",
    "stats": "stats a.safetensors --by kind",
    "stats by layer": "stats a.safetensors --by layer --histograms h.svg",
    "diff": "diff a.safetensors b.safetensors --by kind --heatmap h.svg --diagram d.svg",
    "diff from a base": "diff b.safetensors c.safetensors --base a.safetensors",
    "compare": "compare a.safetensors b.safetensors c.safetensors --by label --plot plots",
    "compare a part": "compare a.safetensors b.safetensors --component transformer",
    "spectrum": "spectrum a.safetensors b.safetensors",
    "index": "index . --compute",
    "convert": "convert a.safetensors out.safetensors --dtype bf16 --prune",
    "diagram": "diagram a.safetensors -o d.svg",
    "diagram of modules": "diagram a.safetensors -o d.svg --level module",
    "diagram of layers": "diagram a.safetensors -o d.dot --level layer",
    "diagram of a block": "diagram a.safetensors -o d.svg --level layer --block DOUBLE02",
    "diagram of its text encoder": "diagram a.safetensors -o d.svg --block WORDS",
    "diagram of the layout": "diagram madeup -o d.svg --weights DOUBLE00-SINGLE02:0.5",
    "demo": "demo-checkpoint madeup -o new.safetensors",
    "its own convention": "merge weighted-sum a.safetensors b.safetensors -o o.safetensors --convention made-up "
    "--alpha 0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9",
    "grid": "merge grid --unets a.safetensors b.safetensors --text-encoders c.safetensors -o grid",
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_every_command_takes_it(here, run, command):
    run(*command.split())


RECIPE = {
    "models": {"a": "a.safetensors", "b": "b.safetensors"},
    "steps": {
        "mix": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": {"DOUBLE*": 0.25, "IN": 0.5, "default": 0.75}}
    },
    "output": {"dtype": "fp32"},
}


@pytest.fixture
def recipe(here) -> Path:
    path = here / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE, sort_keys=False), encoding="utf-8")
    return path


def test_a_recipe_is_checked_predicted_merged_drawn_and_traced_back(recipe, here, run):
    checked = json.loads(run("lint", recipe, "--json"))
    assert checked["family"] == "madeup" and not checked["findings"]
    shares = {part["component"]: part["shares"] for part in checked["shares"]}
    assert 0.25 < shares["transformer"]["b"] < 0.75 and shares["words"]["b"] == pytest.approx(0.75)
    assert shares["vae"] == {"a": 1.0}
    run("predict", recipe)
    run("diagram", recipe, "-o", "tree.svg")
    run("merge", "run", recipe, "-o", "m.safetensors")
    traced = json.loads(run("trace", "m.safetensors", "--among", "a.safetensors", "b.safetensors", "--json"))
    found = {row["label"]: row["shares"]["b"] for row in traced["labels"] if row["component"] == "transformer"}
    assert traced["verdict"] == "exact" and list(found) == LABELS
    assert found == pytest.approx(
        {"IN": 0.5} | dict.fromkeys(DOUBLE, 0.25) | dict.fromkeys((*SINGLE, "OUT"), 0.75), abs=0.01
    )
    imported = yaml.safe_load(run("import", "m.safetensors"))
    assert imported["steps"]["mix"]["alpha"] == RECIPE["steps"]["mix"]["alpha"]


def test_a_tensor_that_two_have_alike_is_found_by_lint(here, run):
    shutil.copy("a.safetensors", "same.safetensors")
    data = RECIPE | {"models": {"a": "a.safetensors", "b": "same.safetensors"}}
    Path("twice.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    found = json.loads(run("lint", "twice.yaml", "--json"))["findings"]
    assert "twice" in {finding["check"] for finding in found}


REFUSED = {
    "a preset": "merge weighted-sum a.safetensors b.safetensors -o o.safetensors --alpha GRAD_V",
    "a vector of another length": "merge weighted-sum a.safetensors b.safetensors -o o.safetensors --alpha 0.1,0.2,0.3",
    "a block of another family": "merge weighted-sum a.safetensors b.safetensors -o o.safetensors --alpha M00:0.5",
    "another family's denoiser": "merge weighted-sum a.safetensors b.safetensors -o o.safetensors --alpha UNET:0.5",
    "presets": "presets madeup",
    "a diffusers folder": "convert a.safetensors folder --to diffusers",
    "a recipe of sd-mecha": "export recipe.yaml --to mecha",
    "a block that it lacks": "diagram madeup -o o.svg --level layer --block IN05",
}


@pytest.mark.parametrize("command", REFUSED.values(), ids=list(REFUSED))
def test_what_it_does_not_have_is_refused_in_a_sentence_and_nothing_is_written(recipe, here, run, command):
    before = sorted(here.iterdir())
    said = run(*command.split(), code=2)
    assert "Traceback" not in said and len(said.strip().splitlines()) == 1
    assert sorted(here.iterdir()) == before


def test_a_new_process_finds_it_by_its_entry_point(here):
    done = subprocess.run(
        [sys.executable, "-m", "unetscope", "inspect", "a.safetensors", "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["architecture"]["family"] == "madeup"


# -- merges --------------------------------------------------------------------------------------------------------------


def names_of(models: Path) -> dict[str, str]:
    return {name: str(models / f"{name}.safetensors") for name in "abc"}


def merged(folder: Path, target: Path, step: dict, **more) -> dict[str, np.ndarray]:
    data = {"models": names_of(folder), "steps": {"mix": step}, "output": {"dtype": "fp32"}} | more
    merge(Recipe.parse(data), target)
    return numbers(target)


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_every_method_merges_it(models, tmp_path, method):
    names = names_of(models)
    if method.name == "exchange_ema":  # takes a file with an EMA copy: that of another model
        whole, other = load_file(names["a"]), core_of(models / "b.safetensors")
        ema = {f"model_ema.diffusion_model{name.replace('.', '')}": tensor for name, tensor in other.items()}
        save_file(whole | ema, tmp_path / "ema.safetensors")
        names["a"] = str(tmp_path / "ema.safetensors")
    inputs = list("abc")[: None if method.variadic else len(method.inputs)]
    step: dict = {"method": method.name, "inputs": inputs}
    step |= {p.name: "words" if p.kind == "choice" else 0.5 for p in method.parameters.values() if p.default is None}
    steps = {"mix": step}
    difference = {"method": "subtract", "inputs": ["b", "c"]}
    if method.deltas and method.result == "delta":
        steps = {"d": difference, "less": step | {"inputs": ["d"]}, "mix": {"method": "add", "inputs": ["a", "less"]}}
    elif method.deltas:
        steps = {"d": difference, "mix": step | {"inputs": ["a", "d"]}}
    elif method.result == "delta":
        steps = {"d": step, "mix": {"method": "add", "inputs": ["a", "d"]}}
    made = merged(models, tmp_path / "m.safetensors", {}, models=names, steps=steps, result="mix")
    assert {k: v.shape for k, v in made.items()} == {k: v.shape for k, v in numbers(models / "a.safetensors").items()}
    assert all(np.isfinite(v).all() for v in made.values())
    if method.name not in ("copy", "fallback", "pick_component"):
        assert not np.array_equal(made[QKV], numbers(models / "a.safetensors")[QKV])


def test_merges_are_what_their_formulas_say(models, tmp_path):
    a, b, c = (numbers(models / f"{name}.safetensors") for name in "abc")
    made = merged(models, tmp_path / "1.safetensors", {"method": "add_difference", "inputs": list("abc"), "alpha": 0.5})
    assert np.allclose(made[QKV], a[QKV] + 0.5 * (b[QKV] - c[QKV]), rtol=1e-5, atol=1e-7)
    made = merged(models, tmp_path / "2.safetensors", {"method": "uniform", "inputs": list("abc")})
    assert np.allclose(made[QKV], (a[QKV] + b[QKV] + c[QKV]) / 3, rtol=1e-5, atol=1e-7)
    picked = {"method": "pick_component", "inputs": ["a", "b"], "component": "transformer"}
    made = merged(models, tmp_path / "3.safetensors", picked)
    assert np.array_equal(made[QKV], b[QKV]) and np.array_equal(
        made[WORDS + "shared.weight"], a[WORDS + "shared.weight"]
    )
    assert made.keys() == a.keys()
    taken = {"transformer": "b", "words": "c", "vae": "a"}
    made = merged(models, tmp_path / "4.safetensors", {"method": "copy", "inputs": ["a"]}, components=taken)
    for key in a:
        source = b if key.startswith(CORE) else c if key.startswith(WORDS) else a
        assert np.array_equal(made[key], source[key])


SHARES = {
    "a number": (0.5, {"IN": 0.5, "DOUBLE02": 0.5, "OUT": 0.5}),
    "a label": ({"DOUBLE02": 1}, {"DOUBLE01": 0, "DOUBLE02": 1, "SINGLE00": 0}),
    "a range from double to single": (
        {"DOUBLE03-SINGLE01": 1},
        {"DOUBLE02": 0, "DOUBLE03": 1, "SINGLE01": 1, "SINGLE02": 0},
    ),
    "a glob": ({"SINGLE*": 1}, {"DOUBLE00": 0, "SINGLE00": 1, "SINGLE05": 1, "OUT": 0}),
    "everything else": ({"NOT DOUBLE*": 1}, {"IN": 1, "DOUBLE00": 0, "SINGLE05": 1, "OUT": 1}),
    "the denoiser": ({"TRANSFORMER": 1, "WORDS": 0.5}, {"IN": 1, "DOUBLE00": 1, "OUT": 1, "WORDS": 0.5}),
    "its text encoders": ({"BASE": 1}, {"WORDS": 1, "IN": 0}),
    "a gradient": ({"TRANSFORMER": {"gradient": [0, 1]}}, {"DOUBLE00": 0, "DOUBLE03": 3 / 9, "SINGLE05": 1}),
    "a vector": (VECTOR, dict(zip(["WORDS", *LABELS], VECTOR, strict=True))),
    "a vector of its own convention": (
        {"vector": [i / 9 for i in range(10)], "convention": "made-up"},
        {label: i / 9 for i, label in enumerate([*DOUBLE, *SINGLE])} | {"IN": 0, "OUT": 1, "WORDS": 0},
    ),
    "lines in its own convention": (
        {"convention": "made-up", "DOUBLE00": 0.25, "default": 0.5},
        {"IN": 0.25, "DOUBLE00": 0.25, "DOUBLE01": 0.5, "OUT": 0.5},
    ),
}


@pytest.mark.parametrize("given", SHARES, ids=list(SHARES))
def test_block_weights_mean_its_blocks(given):
    weights, expected = SHARES[given]
    found = BlockWeights.parse(weights).resolve("madeup").by_label()
    assert {label: found[label] for label in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("line", "moved"),
    [
        ("attn.qkv", lambda key: ".image_attn.qkv." in key or ".words_attn.qkv." in key),
        ("modulation", lambda key: ".modulation." in key),
        ("SINGLE02 ff.in", lambda key: ".single_blocks.2.linear1." in key),
        ("key:*.words_mlp.2.*", lambda key: ".words_mlp.2." in key),
        ("/double_blocks\\.[01]\\./", lambda key: ".double_blocks.0." in key or ".double_blocks.1." in key),
    ],
)
def test_kinds_of_layers_and_patterns_of_keys_select_its_tensors(models, tmp_path, line, moved):
    step = {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": {line: 1}}
    made, a, b = merged(models, tmp_path / "m.safetensors", step), *(numbers(models / f"{n}.safetensors") for n in "ab")
    changed = {key for key in a if not np.array_equal(made[key], a[key])}
    assert changed == {key for key in a if moved(key) and not np.array_equal(a[key], b[key])} != set()
    assert all(np.array_equal(made[key], b[key]) for key in changed)


def test_its_convention_is_listed_and_no_other_family_has_it():
    assert "made-up" in CONVENTIONS and CONVENTIONS["made-up"].about == "one number a block"
    assert CONVENTIONS["made-up"].lengths("madeup") == (10,) and CONVENTIONS["made-up"].lengths("sd1") == ()
    with pytest.raises(LabelError, match="Made-up has other blocks"):
        preset("GRAD_V", "madeup")


def test_its_kinds_of_layers_have_rows_of_their_own(models):
    with open_checkpoint(models / "a.safetensors") as a, open_checkpoint(models / "b.safetensors") as b:
        kinds = list(dict.fromkeys(diff(a, b).table("kind")["kind"]))
    assert "modulation" in kinds


def test_a_drawing_says_what_a_file_lacks(models, tmp_path):
    tensors = load_file(models / "a.safetensors")
    for name in ("weight", "bias"):
        del tensors[CORE + f"single_blocks.1.linear1.{name}"]
    save_file(tensors, tmp_path / "hole.safetensors")
    whole, hole = (
        draw(open_checkpoint(path), "layer").svg for path in (models / "a.safetensors", tmp_path / "hole.safetensors")
    )
    assert whole.count("single_blocks.1.linear1") == hole.count("single_blocks.1.linear1") > 0
    assert whole != hole


# -- searches ------------------------------------------------------------------------------------------------------------


def test_a_search_has_its_blocks_as_parameters(models):
    data = RECIPE | {"models": {name: str(models / f"{name}.safetensors") for name in "ab"}}
    data["steps"] = {"mix": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": {"free": [0, 1], "per": "block"}}}
    template = read_template(data)
    assert [p.name for p in template.parameters] == [f"mix.alpha.{x}" for x in ("BASE", *LABELS)]
    point = {p.name: i / 12 for i, p in enumerate(template.parameters)}
    weights = template.recipe(point).steps["mix"].weights("supermerger")["alpha"].resolve("madeup").by_label()
    assert weights == pytest.approx(dict(zip(["WORDS", *LABELS], VECTOR, strict=True)))


# -- the app -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page", ["library", "explore", "compare", "merge", "collection", "where_from", "search", "jobs"]
)
def test_every_page_shows_it(models, open_page, page):
    at = open_page(page, models)
    assert not at.exception and not at.error


def test_the_library_says_what_it_is_and_its_parts(models, open_page):
    at = open_page("library", models, file="a.safetensors")
    table = at.dataframe[0].value
    assert not at.exception and list(table["architecture"]) == ["Made-up checkpoint"] * 3
    assert list(table["components"]) == ["transformer, Words, VAE"] * 3


@pytest.mark.parametrize("of", ["a.safetensors", "madeup"])
def test_its_blocks_can_be_explored_in_a_file_and_in_the_layout(models, open_page, of):
    at = open_page("explore", models, of=of)
    assert not at.exception and not at.error


def test_a_difference_a_collection_and_a_merge_are_worked_out_and_shown(models, tmp_path, open_page):
    folder = tmp_path / "library"
    shutil.copytree(models, folder)
    at = open_page("compare", folder, a="a.safetensors", b="b.safetensors")
    at.button(key="start-difference").click().run()
    worker.work("analysis")
    at = open_page("compare", folder, a="a.safetensors", b="b.safetensors")
    assert not at.exception and not at.error
    at = open_page("collection", folder)
    at.button(key="start-comparison").click().run()
    worker.work("analysis")
    at = open_page("collection", folder)
    assert not at.exception and not at.error
    assert "Component Words" in at.selectbox(key="collection of").options
    assert {job.status for kind in ("difference", "comparison") for job in jobs.listed(kind)} == {"done"}


def test_the_merge_page_offers_its_parts_and_its_convention(models, open_page):
    at = open_page("merge", models, a="a.safetensors", b="b.safetensors")
    assert not at.exception and not at.error
    assert [box.key for box in at.selectbox if str(box.key).startswith("m.component.")] == [
        "m.component.transformer", "m.component.text_encoders", "m.component.vae",
    ]  # fmt: skip
    at.selectbox(key="m.component.transformer").set_value("c.safetensors").run()
    assert not at.exception and not at.error


# -- what cannot work ----------------------------------------------------------------------------------------------------


def test_a_record_that_cannot_work_is_refused(madeup):
    from dataclasses import replace

    for changes in (
        {"blocks": "IN a\nIN b"},
        {"blocks": ""},
        {"conventions": {"Made_Up": next(iter(madeup.conventions.values()))}},
    ):
        with pytest.raises(LabelError):
            FAMILIES.register(replace(madeup, id="other", **changes))
    with pytest.raises(UnetscopeError):
        FAMILIES.register(replace(madeup, id="sd1"))
    assert "other" not in FAMILIES and FAMILIES["sd1"].title == "SD1"
