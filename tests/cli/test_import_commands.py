"""`unetscope import` and `unetscope export`, as a user types them."""

from __future__ import annotations

import json

import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from unetscope.merge import Recipe

MECHA = 'model "{}"\nmodel "b.safetensors"\ncall "weighted_sum" &0 &1 alpha=0.25\n'


@pytest.fixture
def merged(here, run):
    """A merge by our own command, with the hashes of its inputs."""
    code, _, error = run(
        "merge", "weighted-sum", "a.safetensors", "b.safetensors", "--alpha", "0.25", "-o", "mix.safetensors", "--hash"
    )
    assert code == 0, error
    return here / "mix.safetensors"


def test_a_merge_is_imported_run_again_and_gives_the_same_weights(merged, here, run):
    code, out, _ = run("import", "mix.safetensors", "-o", "recipe.yaml", "--models", ".")
    assert code == 0
    assert "wrote recipe.yaml: 2 models, 1 step\n" in out
    assert run("merge", "run", "recipe.yaml", "-o", "again.safetensors")[0] == 0
    one, two = load_file(merged), load_file(here / "again.safetensors")
    assert all((one[key] == two[key]).all() for key in one)


def test_a_recipe_in_another_folder_counts_its_paths_from_there(merged, here, run):
    (here / "recipes").mkdir()
    assert run("import", "mix.safetensors", "-o", "recipes/recipe.yaml", "--models", ".")[0] == 0
    written = yaml.safe_load((here / "recipes/recipe.yaml").read_text(encoding="utf-8"))
    assert sorted(written["models"].values()) == ["../a.safetensors", "../b.safetensors"]


def test_the_record_of_the_web_ui_is_found_by_hash_where_names_differ(merged, here, run):
    with safe_open(merged, "pt") as file:
        metadata = file.metadata()
    models = json.loads(metadata["sd_merge_models"])
    recipe = json.loads(metadata["sd_merge_recipe"])
    assert recipe["type"] == "webui"
    renamed = {digest: {**entry, "name": f"old name {i}"} for i, (digest, entry) in enumerate(models.items())}
    theirs = {"sd_merge_recipe": json.dumps(recipe), "sd_merge_models": json.dumps(renamed)}
    save_file(load_file(merged), here / "theirs.safetensors", theirs)
    code, out, _ = run("import", "theirs.safetensors", "--models", ".", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["missing"] == []
    assert {path.rpartition("/")[2] for path in found["recipe"]["models"].values()} == {
        "a.safetensors",
        "b.safetensors",
    }
    assert sorted(found["shares"].values()) == [0.25, 0.75]


def test_without_an_output_the_recipe_is_printed_with_its_comments(here, run):
    (here / "x.mecha").write_text(MECHA.format("nowhere.safetensors"))
    code, out, _ = run("import", "x.mecha")
    assert code == 0
    assert out.startswith("# Imported by Unetscope")
    assert "# - nowhere: no hash recorded" in out
    assert Recipe.parse(yaml.safe_load(out)).models["b"] == "b.safetensors"


def test_weights_alone_take_their_models_from_the_command_line(here, run):
    (here / "w.txt").write_text(",".join(["0.5"] * 26))
    code, _, error = run("import", "w.txt", "--inputs", "a.safetensors", "b.safetensors", "-o", "w.yaml")
    assert code == 0, error
    assert run("merge", "run", "w.yaml", "-o", "w.safetensors", "--dry-run")[0] == 0


def test_an_export_is_written_and_imported_again(here, run):
    (here / "r.yaml").write_text(
        "models: {a: a.safetensors, b: b.safetensors}\nsteps: {s: {method: weighted_sum, inputs: [a, b], alpha: {BASE: 0.5}}}\n"
        "convention: sd-mecha\n"
    )
    code, out, error = run("export", "r.yaml", "--to", "mecha", "-o", "r.mecha")
    assert code == 0, error
    # The first model's file told the architecture that block weights need.
    assert "sd1-supermerger_blocks" in (here / "r.mecha").read_text()
    assert "wrote r.mecha" in out
    sd_mecha = pytest.importorskip("sd_mecha")
    read = sd_mecha.serialize(sd_mecha.deserialize_path(here / "r.mecha"), finalize=False)
    assert "weighted_sum" in read and "b.safetensors" in read
    code, out, _ = run("import", "r.mecha", "--json")
    assert json.loads(out)["recipe"]["components"] == {"vae": "a"}


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("import", "a.safetensors"), "records no merge"),
        (("import", "nothing.mecha"), "cannot be read"),
        (("import", "bad.mecha"), "--partial"),
        (("import", "x.mecha", "-o", "x.mecha", "--overwrite"), "is the input"),
        (("import", "x.mecha", "-o", "old.yaml"), "overwrite"),
        (("import", "x.mecha", "--models", "no folder"), "no folder"),
        (("import", "w.txt", "--mode", "Sigmoid"), "no mode"),
        (("export", "old.yaml", "-o", "b.safetensors", "--overwrite"), "is the input"),
        (("export", "iso.yaml"), "steps.s"),
        (("export", "x.mecha"), "x.mecha"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(here, run, arguments, said):
    (here / "x.mecha").write_text(MECHA.format("a.safetensors"))
    (here / "bad.mecha").write_text(MECHA.format("a.safetensors") + 'call "rotate" &2 &0\n')
    (here / "w.txt").write_text(",".join(["0.5"] * 26))
    steps = "steps: {s: {method: weighted_sum, inputs: [a, b], alpha: 0.5}}"
    (here / "old.yaml").write_text(f"models: {{a: a.safetensors, b: b.safetensors}}\n{steps}\n")
    (here / "iso.yaml").write_text((here / "old.yaml").read_text().replace("alpha: 0.5", "alpha: {attn1: 1}"))
    before = {path.name: path.read_bytes() for path in here.iterdir() if path.suffix != ".safetensors"}
    code, _, error = run(*arguments)
    assert code == 2
    assert said in error
    assert error.startswith("unetscope: ")
    assert error.count("\n") == 1
    assert {path.name: path.read_bytes() for path in here.iterdir() if path.suffix != ".safetensors"} == before


def test_a_partial_import_names_what_it_left_out(here, run):
    (here / "bad.mecha").write_text(MECHA.format("a.safetensors") + 'call "rotate" &2 &0\n')
    code, out, error = run("import", "bad.mecha", "--partial", "-o", "r.yaml")
    assert code == 0, error
    assert "rotate" in (here / "r.yaml").read_text()
    assert "rotate" in out + error
