"""Merge metadata of checkpoints becomes recipes: nested histories, hashes that are missing, every tool's fields."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml
from tiny import load, tensors_of
from told import codes, raising, the

from unetscope.merge import Recipe, RecipeError, merge
from unetscope.merge.exchange import Request, import_recipe
from unetscope.merge.exchange.recorded import from_metadata


def digest(n: int) -> str:
    return f"{n:064x}"


def webui(*models, method="Weighted sum", multiplier=0.5, **more) -> dict:
    fields = ("primary_model_hash", "secondary_model_hash", "tertiary_model_hash")
    given = dict(zip(fields, [*models, None, None, None][:3], strict=True))
    common = {"save_as_half": True, "config_source": 0, "bake_in_vae": "None", "discard_weights": ""}
    return {"type": "webui", **given, "interp_method": method, "multiplier": multiplier, **common, **more}


def supermerger(*models, mode="Weight sum:A*(1-alpha)+B*alpha", **more) -> dict:
    given = dict(zip(("model_a", "model_b", "model_c"), [*models, None, None][:3], strict=True))
    common = {"base_alpha": 0.0, "base_beta": 0.0, "mbw": False, "elemental_merge": [], "calcmode": "normal"}
    return {"type": "sd-webui-supermerger", **given, "mode": mode, **common, **more}


def entry(name, recipe=None) -> dict:
    return {"name": name, "legacy_hash": "00000000", "sd_merge_recipe": json.dumps(recipe) if recipe else None}


def metadata(recipe: dict, models: dict) -> dict:
    return {"sd_merge_recipe": json.dumps(recipe), "sd_merge_models": json.dumps(models)}


def imported(recipe: dict, models: dict, **request):
    return from_metadata(metadata(recipe, models), "mix.safetensors", Request(**request))


def chain(leaves: int, alpha: float) -> tuple[dict, dict, np.ndarray]:
    """A chain of weighted sums over `leaves` models, and the share of each: ((m0 m1) m2) m3..."""
    models = {digest(i): entry(f"leaf{i}.safetensors") for i in range(leaves)}
    shares, last = np.zeros(leaves), digest(0)
    shares[0] = 1
    for i in range(1, leaves):
        recipe = webui(last, digest(i), multiplier=alpha)
        shares *= 1 - alpha
        shares[i] += alpha
        last = digest(1000 + i)
        models[last] = entry(f"mix{i}.safetensors", recipe)
    return recipe, models, shares


@pytest.mark.parametrize("leaves", [2, 10, 60, 200])
def test_a_chain_of_merges_is_unrolled_down_to_every_leaf_with_its_share(leaves):
    recipe, models, shares = chain(leaves, 0.1)
    found = imported(recipe, models)
    assert len(found.recipe.models) == leaves
    assert len(found.recipe.steps) == leaves - 1
    assert [found.shares[f"leaf{i}"] for i in range(leaves)] == pytest.approx(shares.tolist(), abs=1e-12)
    assert found.hashes["leaf1"] == digest(1)
    # A file on disk was made for every merge but the last.
    assert codes(found.notes).count("import.intermediate_rounding") == (leaves > 2)


def test_a_model_that_is_merged_twice_is_one_step():
    inner = webui(digest(1), digest(2), multiplier=0.3)
    outer = webui(digest(9), digest(1), digest(9), method="Add difference", multiplier=1.0)
    models = {
        digest(1): entry("a.safetensors"),
        digest(2): entry("b.safetensors"),
        digest(9): entry("m.safetensors", inner),
    }
    found = imported(outer, models)
    assert [step.method for step in found.recipe.steps.values()] == ["weighted_sum", "add_difference"]
    assert found.recipe.steps["merged"].inputs == ["m", "a", "m"]


def test_an_imported_merge_gives_the_weights_that_numpy_works_out(make_checkpoint, tmp_path):
    names = {digest(i): make_checkpoint(f"model {i}", seed=i)[0] for i in range(3)}
    inner = webui(digest(0), digest(1), multiplier=0.25)
    outer = webui(digest(7), digest(2), digest(0), method="Add difference", multiplier=0.5)
    models = {d: entry(path.name) for d, path in names.items()} | {digest(7): entry("x.safetensors", inner)}
    found = imported(outer, models, find=names.get)
    assert not found.missing
    recipe = found.recipe.model_copy(update={"output": found.recipe.output.model_copy(update={"dtype": "fp32"})})
    merge(recipe, tmp_path / "out.safetensors", fsync=False)
    out, parts = load(tmp_path / "out.safetensors"), [tensors_of("sd1", i) for i in range(3)]
    for key in (
        "model.diffusion_model.input_blocks.1.0.in_layers.2.weight",
        "first_stage_model.decoder.conv_in.weight",
    ):
        a, b, c = (t[key].double() for t in parts)
        torch.testing.assert_close(out[key].double(), 0.75 * a + 0.25 * b + 0.5 * (c - a), atol=1e-7, rtol=1e-6)


def test_null_hashes_stand_as_unknown_models_and_are_named():
    found = imported(webui(digest(1), None, multiplier=0.4), {digest(1): entry("a.safetensors")})
    assert list(found.recipe.models) == ["a", "unknown model 1"]
    assert "unknown model 1" in found.missing
    assert "import.no_hash" in codes(found.notes)
    assert found.shares == pytest.approx({"a": 0.6, "unknown model 1": 0.4})


def test_models_without_an_entry_keep_their_hash():
    found = imported(webui(digest(1), digest(2)), {})
    assert set(found.recipe.models.values()) == {digest(1), digest(2)}
    assert set(found.hashes.values()) == {digest(1), digest(2)}


def test_options_of_the_web_ui_are_carried_over_or_named():
    recipe = webui(
        digest(1), digest(2), bake_in_vae="vae-ft.pt", discard_weights="model_ema.*", save_as_half=False, custom_name="Mix 1",
        config_source=1, is_instruct_pix2pix=True,
    )  # fmt: skip
    found = imported(recipe, {digest(1): entry("a.safetensors"), digest(2): entry("b.safetensors")})
    assert found.recipe.components == {"vae": "./vae-ft.pt"}
    assert found.recipe.output.dtype == "keep"
    assert found.recipe.title == "Mix 1"
    text = found.to_yaml()
    for word in ("model_ema.*", "vae-ft.pt", "config_source", "is_instruct_pix2pix"):
        assert word in text.partition("models:")[0]


def test_the_vae_is_merged_as_the_web_ui_does():
    found = imported(webui(digest(1), digest(2)), {})
    assert found.recipe.components == {"vae": "merge"}


def test_unknown_merges_are_an_error_and_with_partial_a_note():
    recipe = webui(digest(1), digest(2), method="Sigmoid")
    with pytest.raises(RecipeError, match=r"Sigmoid.*--partial"):
        imported(recipe, {})
    found = imported(webui(digest(5), digest(3)), {digest(5): entry("s", recipe)}, partial=True)
    assert any("Sigmoid" in note.text for note in found.notes if note.code == "import.no_equivalent")
    assert len(found.recipe.models) == 2


def test_a_merge_of_an_unknown_tool_among_the_inputs_stays_one_model():
    strange = {"type": "merge-models-chattiori", "primary_model_hash": digest(1), "merge_method": "Weighted Sum"}
    found = imported(webui(digest(5), digest(3)), {digest(5): entry("s.safetensors", strange), digest(3): entry("b")})
    assert found.recipe.steps["merged"].inputs == ["s", "b"]
    assert "import.record_not_unrolled" in codes(found.notes)
    with pytest.raises(RecipeError, match="chattiori"):
        imported(strange, {})


def test_a_record_that_goes_in_a_circle_ends():
    one, two = webui(digest(2), digest(3)), webui(digest(1), digest(3))
    models = {digest(1): entry("one", one), digest(2): entry("two", two), digest(3): entry("leaf")}
    found = imported(webui(digest(1), digest(2)), models)
    assert "import.own_ancestor" in codes(found.notes)


def test_a_history_deeper_than_recipes_go_is_refused():
    recipe, models, _ = chain(300, 0.5)
    with raising("import.refused", RecipeError, ["250"]):
        imported(recipe, models)
    assert imported(recipe, models, partial=True).recipe.steps


@pytest.mark.parametrize(
    "mode, method, coefficients",
    [
        ("Weight sum:A*(1-alpha)+B*alpha", "weighted_sum", [0.7, 0.3]),
        ("Add difference:A+(B-C)*alpha", "add_difference", [1, 0.3, -0.3]),
        ("Triple sum:A*(1-alpha-beta)+B*alpha+C*beta", "triple_sum", [0.5, 0.3, 0.2]),
        ("sum Twice:(A*(1-alpha)+B*alpha)*(1-beta)+C*beta", "sum_twice", [0.56, 0.24, 0.2]),
    ],
)
def test_modes_of_supermerger(mode, method, coefficients):
    recipe = supermerger(digest(1), digest(2), digest(3), mode=mode, base_alpha=0.3, base_beta=0.2)
    found = imported(recipe, {})
    assert found.recipe.steps["merged"].method == method
    assert list(found.shares.values()) == pytest.approx(coefficients)


@pytest.mark.parametrize("as_text", [False, True], ids=["list", "text"])
def test_block_weights_of_supermerger_keep_base_apart(as_text):
    weights = [i / 100 for i in range(25)]
    given = ",".join(map(str, weights)) if as_text else weights
    found = imported(supermerger(digest(1), digest(2), mbw=True, weights_alpha=given, base_alpha=0.77), {})
    resolved = found.recipe.steps["merged"].weights("supermerger")["alpha"].resolve("sd1").by_label()
    assert resolved["CLIP_L"] == 0.77
    assert [resolved[label] for label in ("IN00", "IN11", "M00", "OUT00", "OUT11")] == [0, 0.11, 0.12, 0.13, 0.24]


def test_the_last_of_20_numbers_of_supermerger_is_not_the_vaes():
    weights = [*(i / 100 for i in range(19)), 0]  # the program appends it, and never reads it: the VAE has that of BASE
    found = imported(
        supermerger(digest(1), digest(2), mbw=True, weights_alpha=weights, base_alpha=0.5), {}, family="sdxl"
    )
    resolved = found.recipe.steps["merged"].weights("supermerger")["alpha"].resolve("sdxl")
    assert (resolved.vae, resolved.vae_by_convention) == (None, 0.5)
    assert [resolved.by_label()[x] for x in ("CLIP_G", "IN00", "OUT08")] == [0.5, 0, 0.18]


def test_elemental_lines_change_alpha():
    lines = ["IN05-OUT05:attn1:0.5", "M00::0.2"]
    found = imported(supermerger(digest(1), digest(2), base_alpha=0.1, elemental_merge=lines), {})
    weights = found.recipe.steps["merged"].weights("supermerger")["alpha"].resolve("sd1")
    unet = "model.diffusion_model."
    assert weights.weight(f"{unet}output_blocks.3.1.transformer_blocks.0.attn1.to_q.weight") == 0.5
    assert weights.weight(f"{unet}output_blocks.3.1.transformer_blocks.0.attn2.to_q.weight") == 0.1
    assert weights.weight(f"{unet}middle_block.1.transformer_blocks.0.attn1.to_q.weight") == 0.2
    assert weights.weight(f"{unet}input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight") == 0.1


@pytest.mark.parametrize(
    "more", [{"calcmode": "cosineA"}, {"calcmode": "plus random"}, {"mbw": True, "weights_alpha": ["R", 1]}]
)
def test_what_supermerger_does_and_we_do_not_is_named(more):
    recipe = supermerger(digest(1), digest(2), **more)
    with pytest.raises(RecipeError, match="--partial"):
        imported(recipe, {})
    assert imported(recipe, {}, partial=True).notes


def test_our_own_metadata_comes_back_as_the_recipe_it_was(make_checkpoint, tmp_path):
    paths = [make_checkpoint(name, seed=i)[0] for i, name in enumerate("ab")]
    step = {"method": "weighted_sum", "inputs": ["x", "y"], "alpha": {"IN04": 0.5, "default": 0.25}}
    recipe = Recipe.parse({"models": {"x": str(paths[0]), "y": str(paths[1])}, "steps": {"out": step}, "title": "T"})
    merge(recipe, tmp_path / "out.safetensors", fsync=False)
    found = import_recipe(tmp_path / "out.safetensors")
    assert found.recipe.steps == recipe.steps
    assert found.recipe.title == "T"
    assert list(found.recipe.models) == ["x", "y"]
    there = import_recipe(
        tmp_path / "out.safetensors", Request(find=lambda said: tmp_path / said if said[1:2] == "." else None)
    )
    merge(there.recipe, tmp_path / "again.safetensors", fsync=False)
    one, two = load(tmp_path / "out.safetensors"), load(tmp_path / "again.safetensors")
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_loras_of_our_own_recipe_come_back_too():
    data = {
        "models": {"m": "m.safetensors", "other": "o.safetensors"},
        "loras": {"l": "l.safetensors", "d": {"path": "d.safetensors", "base": "other"}},
        "steps": {"out": {"method": "task_arithmetic", "inputs": ["m", "l", "d"], "weights": [0.5, 0.25]}},
    }
    recipe = Recipe.parse(data)
    written = {
        "unetscope.recipe": recipe.to_yaml(),
        "unetscope.inputs": json.dumps([{"name": "l", "sha256": digest(4)}]),
    }
    found = from_metadata(written, "x.safetensors", Request(find={digest(4): "folder/renamed.safetensors"}.get))
    assert found.recipe.loras["l"].path == "folder/renamed.safetensors"
    assert found.recipe.loras["d"] == recipe.loras["d"]
    assert found.recipe.models == recipe.models
    assert found.shares == pytest.approx({"m": 1, "l": 0.5, "d": 0.25})
    assert Recipe.parse(yaml.safe_load(found.to_yaml())) == found.recipe


def test_metadata_saved_as_json_is_read_too(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(metadata(webui(digest(1), digest(2)), {digest(1): entry("a"), digest(2): entry("b")})))
    assert import_recipe(path).shares == {"a": 0.5, "b": 0.5}


def test_a_checkpoint_without_a_record_says_so(make_checkpoint):
    path, _ = make_checkpoint("plain")
    with raising("import.no_record", RecipeError, [path.name]):
        import_recipe(path)


def test_a_comfyui_workflow_that_merges_is_said_to_be_there(make_checkpoint):
    from safetensors.torch import save_file
    from tiny import load

    path, _ = make_checkpoint("comfyui")
    nodes = {"3": {"class_type": "ModelMergeSimple", "inputs": {"ratio": 0.7}}}
    save_file(load(path), path, {"prompt": json.dumps(nodes)})
    with pytest.raises(RecipeError, match="ComfyUI"):
        import_recipe(path)


def chattiori(method="Weighted Sum", alpha="0.3", beta=None, **more) -> dict:
    """A record as Chattiori-Model-Merger writes it: all fields, always."""
    return {
        "type": "merge-models-chattiori", "primary_model_hash": digest(1), "secondary_model_hash": digest(2),
        "tertiary_model_hash": digest(3), "merge_method": method, "block_weights": False, "alpha_info": alpha, "beta_info": beta,
        "calculation": None, "fp": "fp16", "output_name": "x", "bake_in_vae": False, "pruned": True, **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    "method, ours, shares",
    [
        ("Weighted Sum", "weighted_sum", [0.7, 0.3]), ("Add Difference", "add_difference", [1, 0.3, -0.3]),
        ("Triple Sum", "triple_sum", [0.5, 0.3, 0.2]), ("Sum Twice", "sum_twice", [0.56, 0.24, 0.2]),
        ("Train Difference", "train_difference", None), ("smooth Add Difference", "smooth_add", None),
        ("Multiply Difference", "multiply_difference", None), ("Tensor Sum", "tensor_sum", None), ("No Interpolation", "copy", [1]),
    ],
)  # fmt: skip
def test_modes_of_chattiori_model_merger(method, ours, shares):
    found = imported(
        chattiori(method, beta="0.2"), {digest(1): entry("a"), digest(2): entry("b"), digest(3): entry("c")}
    )
    assert found.recipe.steps["merged"].method == ours
    if shares:
        assert list(found.shares.values()) == pytest.approx(shares)
    assert found.recipe.output.dtype == "fp16"


def test_block_weights_of_chattiori_model_merger_leave_the_vae_and_the_embeddings():
    numbers = [round(0.03 * i, 3) for i in range(25)]
    found = imported(chattiori(alpha=f"preset:[GRAD_V],0.4,[{numbers},[[]]]"), {})
    resolved = found.recipe.steps["merged"].weights("supermerger")["alpha"].resolve("sd1")
    labels = resolved.by_label()
    assert [labels[x] for x in ("CLIP_L", "IN00", "OUT11", "TIME_EMBED")] == [0.4, 0, 0.72, 0.72]
    assert resolved.vae == 0
    xl = imported(chattiori(alpha=f"0.4,[{numbers[1:20]},[[]]]"), {})
    labels = xl.recipe.steps["merged"].weights("supermerger")["alpha"].resolve("sdxl").by_label()
    assert [labels[x] for x in ("CLIP_G", "IN00", "OUT08", "TIME_EMBED", "LABEL_EMB")] == [0.4, 0.03, 0.57, 0, 0]


@pytest.mark.parametrize(
    "more",
    [
        {"method": "Sigmoid Merge"},
        {"calculation": "cosine_0"},
        {"alpha": "x"},
        {"alpha": "0.4,[[0.1, 0.2],[['IN00:attn:0.5']]]"},
    ],
)
def test_what_chattiori_model_merger_does_and_we_do_not_is_refused(more):
    with pytest.raises(RecipeError, match="--partial"):
        imported(chattiori(**more), {})


def test_a_broken_record_of_an_input_is_noted():
    models = {digest(1): entry("a.safetensors") | {"sd_merge_recipe": '{"type": "webui", "int'}, digest(2): entry("b")}
    assert "a.safetensors" in the(imported(webui(*models), models).notes, "import.record_broken").text


def test_of_models_without_a_hash_the_last_one_keeps_its_recorded_name():
    # The web UI files all of them under the key that JSON makes of None.
    models = {digest(1): entry("a.safetensors"), "null": entry("c.safetensors")}
    found = imported(webui(digest(1), None, None, method="Add difference"), models)
    assert found.recipe.steps["merged"].inputs == ["a", "unknown model 1", "c"]
    assert found.recipe.models["c"] == "c.safetensors"
    assert "c.safetensors" in the(found.notes, "import.filed_without_hash").text
    one = imported(webui(None, digest(1)), {digest(1): entry("a"), "None": entry("b.safetensors")})
    assert one.recipe.steps["merged"].inputs == ["b", "a"]


def test_how_the_web_ui_rounds_and_averages_the_vae_is_noted():
    assert "import.web_ui_rounding" in codes(imported(webui(digest(1), digest(2)), {}).notes)
