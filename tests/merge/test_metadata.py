"""What a merged file says about itself, as the safetensors library reads it."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime

import pytest
import torch
import yaml
from safetensors import safe_open

import unetscope
from unetscope.merge import Recipe, merge
from unetscope.merge.metadata import VARIABLE_FIELDS


def metadata(path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def run(paths, method="weighted_sum", *, out, recipe=None, hash_files=False, reproducible=False, **parameters):
    models = {f"m{i}": str(p) for i, p in enumerate(paths)}
    data = {"models": models, "steps": {"out": {"method": method, "inputs": list(models), **parameters}}}
    merge(Recipe.parse(data | (recipe or {})), out, hash_files=hash_files, reproducible=reproducible, fsync=False)
    return metadata(out)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def pair(make_checkpoint):
    return [make_checkpoint(name, seed=i)[0] for i, name in enumerate("ab")]


def test_the_recipe_in_the_header_makes_the_merge_again_beside_its_inputs(pair, tmp_path):
    text = "IN04-IN08: 0.7; OUT*: 0.3"
    found = run(pair, out=tmp_path / "x.safetensors", alpha=text, recipe={"components": {"clip_l": str(pair[1])}})
    assert str(tmp_path) not in json.dumps(found)
    (tmp_path / "again.yaml").write_text(found["unetscope.recipe"])
    merge(Recipe.load(tmp_path / "again.yaml"), tmp_path / "y.safetensors", fsync=False)
    with safe_open(tmp_path / "x.safetensors", "pt") as x, safe_open(tmp_path / "y.safetensors", "pt") as y:
        assert set(x.keys()) == set(y.keys())
        assert all(torch.equal(x.get_tensor(key), y.get_tensor(key)) for key in x.keys())  # noqa: SIM118


def test_no_folder_of_the_users_disk_is_written_not_even_a_windows_one(pair, tmp_path):
    recipe = Recipe.parse(
        {"models": {"a": "C:\\Users\\me\\a.safetensors", "b": "/home/me/b.ckpt", "c": "folder/c/"}, "result": "a"}
        | {"components": {"vae": "D:\\vae\\good.pt", "clip_l": "b"}}
    )
    from unetscope.merge.metadata import anonymous

    plain = anonymous(recipe)
    assert plain.models == {"a": "a.safetensors", "b": "b.ckpt", "c": "c"}
    assert plain.components == {"vae": "good.pt", "clip_l": "b"}


def test_a_merge_that_the_web_ui_could_have_made_is_written_in_its_words(pair, make_checkpoint, tmp_path):
    third = make_checkpoint("c", seed=3)[0]
    found = run(pair, out=tmp_path / "sum.safetensors", alpha=0.3, hash_files=True, recipe={"title": "Mine"})
    recipe = json.loads(found["sd_merge_recipe"])
    hashes = [sha256(p) for p in pair]
    assert recipe == {
        "type": "webui",
        "primary_model_hash": hashes[0],
        "secondary_model_hash": hashes[1],
        "tertiary_model_hash": None,
        "interp_method": "Weighted sum",
        "multiplier": 0.3,
        "save_as_half": True,
        "custom_name": "Mine",
        "config_source": 0,
        "bake_in_vae": False,
        "discard_weights": "",
        "is_inpainting": False,
    }
    found = run([*pair, third], "add_difference", out=tmp_path / "d.safetensors", hash_files=True)
    recipe = json.loads(found["sd_merge_recipe"])
    assert (recipe["interp_method"], recipe["multiplier"]) == ("Add difference", 1.0)
    assert recipe["tertiary_model_hash"] == sha256(third)
    dashed = run(pair, "weighted-sum", out=tmp_path / "dash.safetensors", alpha=0.3, hash_files=True)
    assert json.loads(dashed["sd_merge_recipe"])["type"] == "webui"


@pytest.mark.parametrize("more", [{"alpha": "GRAD_V"}, {"recipe": {"components": {"vae": "merge"}}}])
def test_a_merge_beyond_the_web_ui_is_written_as_ours(more, pair, tmp_path):
    found = run(pair, out=tmp_path / "x.safetensors", **more)
    recipe = json.loads(found["sd_merge_recipe"])
    assert recipe["type"] == "unetscope"
    assert [m["name"] for m in recipe["models"]] == ["m0", "m1"]
    assert Recipe.parse(recipe["recipe"]).models == {"m0": "a.safetensors", "m1": "b.safetensors"}


def test_hashes_are_there_only_where_they_are_known(pair, tmp_path):
    found = run(pair, out=tmp_path / "x.safetensors")
    assert [m["sha256"] for m in json.loads(found["unetscope.inputs"])] == [None, None]
    assert json.loads(found["sd_merge_models"]) == {}
    found = run(pair, out=tmp_path / "y.safetensors", hash_files=True)
    models = json.loads(found["sd_merge_models"])
    assert {h: m["name"] for h, m in models.items()} == {sha256(p): p.name for p in pair}
    found = run(pair, out=tmp_path / "z.safetensors")  # known from the cache now
    assert json.loads(found["sd_merge_models"]) == models
    inputs = json.loads(found["unetscope.inputs"])
    assert [(m["name"], m["file"], m["size"]) for m in inputs] == [
        (f"m{i}", p.name, p.stat().st_size) for i, p in enumerate(pair)
    ]


def test_the_history_of_the_inputs_is_kept_over_generations(pair, make_checkpoint, tmp_path):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    run(pair, out=first, alpha=0.3, hash_files=True)
    third = make_checkpoint("c", seed=3)[0]
    found = run([first, third], out=second, hash_files=True)
    models = json.loads(found["sd_merge_models"])
    assert {m["name"] for m in models.values()} == {
        "a.safetensors",
        "b.safetensors",
        "first.safetensors",
        "c.safetensors",
    }
    assert models[sha256(first)]["sd_merge_recipe"]["multiplier"] == 0.3
    assert models[sha256(third)]["sd_merge_recipe"] is None


def test_the_names_of_a_simple_merge_are_kept_over_generations_when_no_hash_is_known(pair, tmp_path):
    from unetscope.library.inspection import inspect

    first, last = tmp_path / "first.safetensors", tmp_path / "last.safetensors"
    found = run(pair, out=first, alpha=0.3)
    assert json.loads(found["sd_merge_recipe"])["type"] == "unetscope"
    run([first, pair[0]], out=last, alpha=0.5)
    merged, plain = inspect(last).history.children
    assert (merged.name, merged.method) == ("first.safetensors", "weighted_sum")
    assert [child.name for child in merged.children] == ["a.safetensors", "b.safetensors"]
    assert plain.name == "a.safetensors"


def test_the_history_of_an_input_is_kept_when_its_hash_is_not_known(pair, make_checkpoint, tmp_path):
    from unetscope.library.inspection import inspect

    first, last = tmp_path / "first.safetensors", tmp_path / "last.safetensors"
    run(pair, "uniform", out=first)
    run([first, pair[0]], "uniform", out=last)
    found = [(child.name, child.method, child.hash, len(child.children)) for child in inspect(last).history.children]
    assert found == [("first.safetensors", "uniform", None, 2), ("a.safetensors", "", None, 0)]


def test_histories_that_are_no_json_are_left_out(make_checkpoint, tmp_path):
    spoilt = {"format": "pt", "sd_merge_models": "[" * 50_000, "sd_merge_recipe": "nonsense"}
    odd = {"format": "pt", "sd_merge_models": "[1]", "sd_merge_recipe": '"text"'}
    paths = [make_checkpoint(n, seed=i, metadata=m)[0] for i, (n, m) in enumerate((("a", spoilt), ("b", odd)))]
    found = run(paths, out=tmp_path / "x.safetensors", hash_files=True)
    assert [m["sd_merge_recipe"] for m in json.loads(found["sd_merge_models"]).values()] == [None, None]


@pytest.mark.parametrize(
    ("family", "architecture"),
    [
        ("sd1", "stable-diffusion-v1"),
        ("sd2", "stable-diffusion-v2-512"),
        ("sdxl", "stable-diffusion-xl-v1-base"),
    ],
)
def test_the_modelspec_says_what_it_is(family, architecture, make_checkpoint, tmp_path):
    paths = [make_checkpoint(n, family, seed=i)[0] for i, n in enumerate("ab")]
    found = run(paths, out=tmp_path / "Best Mix.safetensors")
    assert found["format"] == "pt"
    assert found["modelspec.sai_model_spec"] == "1.0.0"
    assert found["modelspec.architecture"] == architecture
    assert found["modelspec.title"] == "Best Mix"
    assert found["modelspec.merged_from"] == "a.safetensors, b.safetensors"
    written = datetime.fromisoformat(found["modelspec.date"]).replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - written).total_seconds()) < 600
    assert found["unetscope.version"] == unetscope.__version__
    assert all(isinstance(v, str) for v in found.values())


def test_a_v_prediction_model_stays_one(make_checkpoint, tmp_path):
    marked = {"change": lambda t: {**t, "v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}}
    paths = [make_checkpoint(n, "sdxl", seed=i, **marked)[0] for i, n in enumerate("ab")]
    found = run(paths, out=tmp_path / "x.safetensors")
    assert found["modelspec.prediction_type"] == "v"
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert {"v_pred", "ztsnr"} <= set(file.keys())


def test_what_differs_from_run_to_run_is_left_out_on_request(pair, tmp_path, monkeypatch):
    one = run(pair, out=tmp_path / "one.safetensors", reproducible=True)
    monkeypatch.setattr("unetscope.merge.metadata.__version__", "99")
    two = run(pair, out=tmp_path / "two.safetensors", reproducible=True, hash_files=True)
    assert one == two
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    assert not set(VARIABLE_FIELDS) & set(one)
    assert one["unetscope.recipe"] and one["sd_merge_recipe"]
    named = run(pair, out=tmp_path / "named.safetensors", reproducible=True, recipe={"title": "Name"})
    assert named["modelspec.title"] == "Name"


def test_names_of_any_script_come_through(make_checkpoint, tmp_path):
    path = make_checkpoint("モデル [red]\x1b")[0]
    found = run([path], "copy", out=tmp_path / "ü.safetensors")
    assert found["modelspec.title"] == "ü"
    assert found["modelspec.merged_from"] == "モデル [red]\x1b.safetensors"
    assert yaml.safe_load(found["unetscope.recipe"])["models"] == {"m0": "モデル [red]\x1b.safetensors"}
