"""Merge histories as the tools of the field write them, and as nobody should."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetscope.library.history import MAX_NODES, HistoryNode, merge_history

A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)


def webui(*hashes, method="Weighted sum", multiplier=0.3, **more):
    primary, secondary, tertiary = [*hashes, None, None, None][:3]
    return {
        "type": "webui",
        "primary_model_hash": primary,
        "secondary_model_hash": secondary,
        "tertiary_model_hash": tertiary,
        "interp_method": method,
        "multiplier": multiplier,
        "save_as_half": True,
        "custom_name": "",
        "config_source": 0,
        "bake_in_vae": "",
        "discard_weights": "",
        "is_inpainting": False,
        **more,
    }


def model(name, recipe=None):
    return {"name": name, "legacy_hash": "12345678", "sd_merge_recipe": recipe}


def written(recipe, models, **more):
    return {"format": "pt", "sd_merge_recipe": json.dumps(recipe), "sd_merge_models": json.dumps(models), **more}


def count(node: HistoryNode) -> int:
    return 1 + sum(count(child) for child in node.children)


def depth(node: HistoryNode) -> int:
    return 1 + max((depth(child) for child in node.children), default=0)


def test_a_file_that_records_nothing_has_no_history():
    assert merge_history({"format": "pt"}, "x.safetensors") is None


def test_a_weighted_sum_of_the_web_ui_names_method_weight_and_models():
    models = {A: model("one.safetensors"), B: model("two.ckpt")}
    root = merge_history(written(webui(A, B), models), "mix.safetensors")
    assert root == HistoryNode(
        "mix.safetensors",
        None,
        "Weighted sum",
        "multiplier 0.3",
        (HistoryNode("one.safetensors", A), HistoryNode("two.ckpt", B)),
    )


def test_a_merge_of_merges_is_a_tree():
    models = {
        A: model("base"),
        B: model("style"),
        C: model("old mix", webui(A, B, multiplier=0.5)),
        D: model("photo"),
    }
    root = merge_history(written(webui(C, D, A, method="Add difference", multiplier=1.0), models), "new")
    assert [child.name for child in root.children] == ["old mix", "photo", "base"]
    old = root.children[0]
    assert (old.hash, old.method, old.detail) == (C, "Weighted sum", "multiplier 0.5")
    assert [child.name for child in old.children] == ["base", "style"]


def test_a_model_without_a_hash_is_unknown_where_the_method_takes_one():
    root = merge_history(written(webui(A, None), {A: model("one")}), "mix")
    assert [child.name for child in root.children] == ["one", "unknown model"]
    alone = merge_history(written(webui(A, method="No interpolation"), {A: model("one")}), "half")
    assert [child.name for child in alone.children] == ["one"]


def test_a_hash_that_the_models_do_not_list_stays_a_hash():
    root = merge_history(written(webui(A, B), {}), "mix")
    assert [(child.name, child.hash) for child in root.children] == [("unknown model", A), ("unknown model", B)]


def test_supermerger_recipes_name_mode_and_block_weights():
    recipe = {
        "type": "sd-webui-supermerger",
        "weights_alpha": "0.5,0.1,0.2",
        "weights_beta": None,
        "model_a": A,
        "model_b": B,
        "model_c": None,
        "base_alpha": 0.5,
        "base_beta": 0.25,
        "mode": "Weight sum:A*(1-alpha)+B*alpha",
        "mbw": True,
        "elemental_merge": "",
        "calcmode": "normal",
    }
    root = merge_history(written(recipe, {A: model("one"), B: model("two")}), "mix")
    assert root.method == "Weight sum"
    assert "weights_alpha 0.5,0.1,0.2" in root.detail and "base_alpha 0.5" in root.detail
    assert [child.name for child in root.children] == ["one", "two"]


def test_a_recipe_of_an_unknown_tool_still_shows_its_models():
    recipe = {"type": "merge-models-chattiori", "primary_model_hash": A, "secondary_model_hash": B, "alpha_info": "0.4"}
    root = merge_history(written(recipe, {A: model("one"), B: model("two")}), "mix")
    assert (root.method, root.detail) == ("merge-models-chattiori", "alpha_info 0.4")
    assert [child.name for child in root.children] == ["one", "two"]


def test_models_without_a_recipe_are_listed():
    root = merge_history({"sd_merge_models": json.dumps({A: model("one"), B: model("two")})}, "mix")
    assert root.method == "" and "not recorded" in root.detail
    assert [child.name for child in root.children] == ["one", "two"]


OURS = """
models: {m: base.safetensors, n: style.safetensors, o: photo.safetensors}
steps:
  even: {method: uniform, inputs: [m, n]}
  more: {method: weighted_sum, inputs: [even, o], alpha: {"IN*": 0.3}}
result: more
components: {vae: m}
"""


def test_our_recipe_shows_its_steps_with_the_inputs_own_histories_below():
    inputs = [{"name": "m", "file": "base.safetensors", "sha256": A}, {"name": "n", "file": "s", "sha256": None}]
    models = {A: model("base.safetensors", webui(C, D)), C: model("c"), D: model("d")}
    metadata = {
        "unetscope.recipe": OURS,
        "unetscope.inputs": json.dumps(inputs),
        "sd_merge_models": json.dumps(models),
    }
    root = merge_history(metadata, "mix.safetensors")
    assert (root.name, root.method) == ("mix.safetensors", "weighted_sum")
    assert "alpha {IN*: 0.3}" in root.detail and "components {vae: m}" in root.detail
    even, photo = root.children
    assert (even.name, even.method, photo.name) == ("even", "uniform", "photo.safetensors")
    base, style = even.children
    assert (base.name, base.hash, base.method) == ("base.safetensors", A, "Weighted sum")
    assert [child.name for child in base.children] == ["c", "d"]
    assert style == HistoryNode("style.safetensors")


def test_our_recipe_inside_another_history_is_read_too():
    nested = {
        "type": "unetscope",
        "recipe": {
            "models": {"m": "one.safetensors", "n": "two.safetensors"},
            "steps": {"out": {"method": "uniform", "inputs": ["m", "n"]}},
        },
        "models": [{"name": "m", "sha256": A}, {"name": "n", "sha256": None}],
    }
    root = merge_history(written(webui(C, B), {C: model("ours", nested), A: model("one.safetensors")}), "mix")
    ours = root.children[0]
    assert (ours.name, ours.hash, ours.method) == ("ours", C, "uniform")
    assert [(child.name, child.hash) for child in ours.children] == [("one.safetensors", A), ("two.safetensors", None)]


def test_a_later_merge_by_another_tool_hides_the_recipe_that_it_copied():
    inputs = json.dumps([{"name": "m", "file": "base.safetensors", "sha256": A}])
    metadata = written(webui(C, D), {}, **{"unetscope.recipe": OURS, "unetscope.inputs": inputs})
    assert [child.hash for child in merge_history(metadata, "mix").children] == [C, D]


def test_a_history_in_a_circle_ends():
    models = {A: model("one", webui(B, C)), B: model("two", webui(A, C)), C: model("three")}
    root = merge_history(written(webui(A, B), models), "mix")
    again = root.children[0].children[0].children[0]
    assert (again.name, again.children) == ("one", ()) and "circle" in again.detail


def test_steps_in_a_circle_end():
    text = "models: {m: a}\nsteps:\n  x: {method: uniform, inputs: [y, m]}\n  y: {method: uniform, inputs: [x, m]}\n"
    root = merge_history({"unetscope.recipe": text}, "mix")
    assert depth(root) <= 4


def test_a_history_that_doubles_at_every_step_is_cut_off():
    chain = [f"{i:064x}" for i in range(60)]
    models = {d: model(f"m{i}", webui(chain[i - 1], chain[i - 1]) if i else None) for i, d in enumerate(chain)}
    root = merge_history(written(webui(chain[-1], chain[-1]), models), "mix")
    assert count(root) <= 2 * MAX_NODES


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{", '"x"', "[" * 100_000, '{"type": "webui", "primary_model_hash": {"a": 1}}', "9" * 10_000],
)
def test_damaged_records_are_no_error(text):
    for key in ("sd_merge_recipe", "sd_merge_models", "unetscope.recipe", "unetscope.inputs"):
        merge_history({key: text}, "mix")
        merge_history({"unetscope.recipe": OURS, key: text}, "mix")


def test_names_cannot_talk_to_the_terminal_or_flood_it():
    models = {A: model("\x1b[2Jbad\nname"), B: model("x" * 100_000)}
    root = merge_history(written(webui(A, B, multiplier="\x07" + "9" * 5000), models), "mix\x1b")
    names = [root.name, root.detail, *(child.name for child in root.children)]
    assert all(text.isprintable() and len(text) <= 320 for text in names)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([A, B, "m", "out"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
FIELDS = (
    "type",
    "recipe",
    "models",
    "steps",
    "result",
    "primary_model_hash",
    "model_b",
    "interp_method",
    "alpha",
    "out",
)


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES), st.dictionaries(st.sampled_from([A, B]), VALUES))
def test_no_record_of_any_shape_is_an_error(recipe, models):
    models = {d: {"name": "x", "sd_merge_recipe": v} for d, v in models.items()} | {C: recipe}
    ours = {"type": "unetscope", "recipe": {"models": {}, **recipe}, "models": models}
    for each in (recipe, ours):
        root = merge_history(written(each, models), "mix")
        assert root is None or json.dumps(root.to_plain())


def test_a_recipe_whose_yaml_aliases_multiply_is_shown_in_a_moment():
    lists = ["k0: &d0 [x]", *(f"k{i}: &d{i} [{', '.join([f'*d{i - 1}'] * 9)}]" for i in range(1, 20))]
    steps = ["models: {a: x}", "steps: {m: {method: uniform, inputs: [a, *d19], alpha: *d19}}", "result: m"]
    found = merge_history({"unetscope.recipe": "\n".join([*lists, *steps])}, "x")
    assert [child.name for child in found.children] == ["x", "..."]
    assert merge_history({"unetscope.recipe": "\n".join([*lists, *steps[:2], "result: *d19"])}, "x")
