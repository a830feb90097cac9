"""Recipes of sd-mecha, written out in the dialects of its releases or by its own serialiser."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import load
from told import codes, names, raising, the, those

from unetscope.merge import Recipe, RecipeError, merge
from unetscope.merge.exchange import Request, import_recipe
from unetscope.merge.exchange.reading import import_text
from unetscope.merge.methods import METHODS

sd_mecha = pytest.importorskip("sd_mecha")
import mecha_oracle  # noqa: E402 (only where sd-mecha is)
from sd_mecha.extensions.builtin.merge_methods import linear, ties  # noqa: E402 (only where sd-mecha is)

FIRST = """model "raw/base.safetensors"
model "raw/one.safetensors"
model "raw/two.safetensors"
call "subtract" &1 &0
call "weighted_sum" &0 &2 alpha=0.25
call "add_difference" &4 &3 alpha=0.5
"""
SECOND = """model "raw/base.safetensors" "sdxl" "base"
model "raw/one.safetensors" "sdxl" "base"
model "raw/two.safetensors" "sdxl" "base"
merge "subtract" &1 &0
merge "weighted_sum" &0 &2 alpha=0.25
merge "add_difference" &4 &3 alpha=0.5
"""
THIRD = """version 0.1.0
# a comment
model "raw/base.safetensors" model_config="sdxl-sgm" merge_space="weight"
model "raw/one.safetensors" model_config="sdxl-sgm" merge_space="weight"
model "raw/two.safetensors" model_config="sdxl-sgm" merge_space="weight"
merge "subtract" &1 &0
merge "weighted_sum" &0 &2 0.25
merge "add_difference" &4 &3 0.5
merge "fallback" &5 &0
"""


def text(node) -> str:
    return sd_mecha.serialize(node, finalize=False)


def imported(recipe: str, **request):
    return import_text(recipe, "x.mecha", Request(**request))


@pytest.mark.parametrize("recipe", [FIRST, SECOND, THIRD], ids=["call", "merge", "version"])
def test_all_dialects_say_the_same(recipe):
    found = imported(recipe)
    steps = found.recipe.steps
    assert [step.method for step in steps.values()] == ["weighted_sum", "add_difference"]
    assert steps["add_difference"].inputs == ["weighted_sum", "one", "base"]
    assert found.shares == pytest.approx({"base": 0.25, "one": 0.5, "two": 0.25})
    # Only the releases with a version merge the VAE.
    assert found.recipe.components == ({"vae": "merge"} if recipe is THIRD else {})


@pytest.mark.parametrize("written", ['"C:\\\\models\\\\x.safetensors"', '"C:\\models\\x.safetensors"'])
def test_windows_paths_are_read_with_and_without_escapes(written):
    found = imported(f'model {written}\nmodel "b \\"quoted\\" ü=1.safetensors"\ncall "weighted_sum" &0 &1 alpha=0.5')
    assert list(found.recipe.models.values()) == ["C:\\models\\x.safetensors", 'b "quoted" ü=1.safetensors']
    assert list(found.recipe.models) == ["x", 'b "quoted" ü=1']


@pytest.mark.parametrize("leaves", [10, 100, 200])
def test_a_deep_chain_keeps_every_leaf_and_its_share(leaves):
    lines = ["version 0.1.0", 'model "m0.safetensors"']
    shares, last = np.zeros(leaves), 0
    shares[0] = 1
    for i in range(1, leaves):
        alpha = 1 / (i + 1)
        lines += [f'model "m{i}.safetensors"', f'merge "weighted_sum" &{last} &{2 * i - 1} alpha={alpha}']
        shares = shares * (1 - alpha)
        shares[i] += alpha
        last = 2 * i
    found = imported("\n".join(lines))
    assert len(found.recipe.models) == leaves
    assert [found.shares[f"m{i}"] for i in range(leaves)] == pytest.approx(shares.tolist(), abs=1e-12)


def test_a_graph_of_hundreds_of_nodes_whose_branches_share_models_is_read():
    lines = ["version 0.1.0", *(f'model "m{i}.safetensors"' for i in range(200))]
    lines += [f'merge "subtract" &{i} &0' for i in range(1, 200)]
    lines += [
        'merge "n_average" ' + " ".join(f"&{i}" for i in range(200, 399)),
        'merge "add_difference" &0 &399 alpha=0.5',
    ]
    found = imported("\n".join(lines))
    assert found.shares["m0"] == pytest.approx(0.5)
    assert found.shares["m7"] == pytest.approx(0.5 / 199)


def _changes(a, b, c):
    return linear.subtract(a, c), linear.subtract(b, c)


GRAPHS = {
    "difference": lambda a, b, c: linear.add_difference(a, linear.subtract(b, c), 0.6),
    "helper": lambda a, b, c: sd_mecha.add_difference(a, b, c, alpha=0.6),
    "scaled": lambda a, b, c: linear.add_difference(a, linear.scale(linear.subtract(b, c), 0.3), 0.5),
    "sum of differences": lambda a, b, c: linear.add_difference(
        a, sd_mecha.weighted_sum(linear.subtract(b, a), linear.subtract(c, b), alpha=0.3), 0.9
    ),
    "average": lambda a, b, c: sd_mecha.n_average(a, b, c),
    "train difference": lambda a, b, c: linear.add_difference(
        a, linear.subtract(b, c), sd_mecha.train_difference_mask(a, b, c, alpha=0.7)
    ),
    "blocks": lambda a, b, c: sd_mecha.weighted_sum(
        a, b, alpha=sd_mecha.convert({x: i / 25 for i, x in enumerate(_SLOTS)}, "sd1-ldm")
    ),
    "add opposite": lambda a, b, c: linear.add_difference(
        a, linear.subtract(b, c), sd_mecha.add_opposite_mask(a, b, c, alpha=0.7)
    ),
    "clamp": lambda a, b, c: sd_mecha.clamp(linear.add_difference(a, linear.subtract(b, c), 0.5), a, b),
    "tensor sum": lambda a, b, c: sd_mecha.copy_region(a, b, width=0.4, offset=0.7),
    "component inside": lambda a, b, c: sd_mecha.weighted_sum(sd_mecha.pick_component(c, "clip_l") | b, a, alpha=0.3),
    "component": lambda a, b, c: sd_mecha.pick_component(c, "vae") | sd_mecha.weighted_sum(a, b, alpha=0.3),
    "slerp": lambda a, b, c: sd_mecha.slerp(a, b, alpha=0.3),
    "perpendicular": lambda a, b, c: sd_mecha.add_perpendicular(a, b, c, alpha=0.7),
    "median": lambda a, b, c: sd_mecha.geometric_median(a, b, c),
    "geometric sum": lambda a, b, c: sd_mecha.geometric_sum(a, b, alpha=0.3),
    "multiply quotient": lambda a, b, c: sd_mecha.multiply_quotient(a, b, c, alpha=0.7),
    "crossover": lambda a, b, c: sd_mecha.crossover(a, b, alpha=0.4, tilt=0.6),
    "rank": lambda a, b, c: linear.add_difference(
        a, sd_mecha.truncate_rank(linear.subtract(b, c), rank=3, use_approximate_basis=False), 0.8
    ),
    "without a component": lambda a, b, c: (
        sd_mecha.omit_component(sd_mecha.weighted_sum(a, b, alpha=0.3), "clip_l") | c
    ),
    "TIES by count": lambda a, b, c: linear.add_difference(c, ties.ties_sum(*_changes(a, b, c), k=1.0), 0.8),
    "TIES by size": lambda a, b, c: linear.add_difference(
        c, ties.ties_sum(*_changes(a, b, c), k=1.0, vote_sgn=True), 1.2
    ),
    "TIES and median": lambda a, b, c: linear.add_difference(
        c, ties.ties_sum_extended(*_changes(a, b, c), k=1.0, vote_sgn=True, apply_median=True), 0.9
    ),
    "DARE that drops nothing": lambda a, b, c: linear.add_difference(
        c, ties.ties_sum_with_dropout(*_changes(a, b, c), probability=0.0, k=1.0, apply_median=True), 1.0
    ),
}
_SLOTS = ["BASE", *(f"IN{i:02}" for i in range(12)), "M00", *(f"OUT{i:02}" for i in range(12))]


# Its median stops where its objective stands still in fp32, and its inner products and logarithms are in fp32.
LOOSE = {
    "perpendicular": 1e-5, "median": 3e-4, "TIES and median": 3e-4, "DARE that drops nothing": 3e-4, "rank": 2e-5,
    "multiply quotient": 5e-5,
}  # fmt: skip


@pytest.mark.parametrize("graph", GRAPHS)
def test_what_sd_mecha_wrote_merges_to_what_sd_mecha_merges(graph, mecha_models, tmp_path):
    theirs = GRAPHS[graph](*(sd_mecha.model(str(path)) for path in mecha_models("sd1")))
    recipe = imported(text(theirs)).recipe
    output = recipe.output.model_copy(update={"dtype": "fp32", "allow_missing": True})
    recipe = recipe.model_copy(update={"output": output})
    merge(recipe, tmp_path / "out.safetensors", fsync=False)
    out = load(tmp_path / "out.safetensors")
    mecha_oracle.assert_same_weights(out, mecha_oracle.merged(theirs), LOOSE.get(graph, 2e-6))


DELTAS = 'model "base"\nmodel "one"\nmodel "two"\nmerge "subtract" &1 &0\nmerge "subtract" &2 &0\n'
# A node of deltas in each dialect, and what it comes to by sd-mecha's code of that time.
SPARSE = {
    "TIES of the first dialects": (
        False, '"ties_sum" &3 &4', {"method": "ties", "density": 0.2, "elect": "sum", "combine": "mean"},
    ),
    "TIES-SOUP": (False, '"ties_sum" &3 &4 k=1.0 vote_sgn=1.0', {"density": 1.0, "elect": "count"}),
    "TIES of 1.0": (True, '"ties_sum" &3 &4', {"density": 1.0, "elect": "count"}),
    "TIES of 1.0 by size": (True, '"ties_sum" &3 &4 k=0.4 vote_sgn=true', {"density": 0.4, "elect": "sum"}),
    "TGMD": (
        False,
        '"ties_sum_with_dropout" &3 &4 no_rescale=1.0 k=1.0 vote_sgn=1.0 probability=0.1 apply_median=1.0 cos_eps=1e-06 '
        "maxiter=100 eps=1e-06 ftol=1e-20 seed=240603 apply_stock=0.0",
        {"method": "dare", "density": 0.9, "elect": "count", "combine": "median", "rescale": "none", "seed": 240603},
    ),
    "DGMLA": (
        True,
        '"ties_sum_with_dropout" &3 &4 probability=0.1 della_eps=-0.1 rescale=0.0 k=1.0 vote_sgn=true apply_stock=false '
        "cos_eps=1e-06 apply_median=true eps=1e-06 maxiter=100 ftol=1e-20 seed=250609",
        {"method": "della", "density": 0.9, "epsilon": -0.1, "ranks": "tensor", "elect": "sum", "combine": "median",
         "rescale": "none", "seed": 250609},
    ),
    "DELLA that is rescaled": (
        True, '"ties_sum_with_dropout" &3 &4 probability=0.5 della_eps=0.2 k=1.0',
        {"method": "della", "density": 0.5, "epsilon": 0.2, "rescale": "none"},
    ),
    "dropout": (
        True, '"dropout" &3 &4 probability=0.75',
        {"method": "dare", "density": 0.25, "elect": "none", "combine": "mean", "rescale": "density"},
    ),
    "model stock": (False, '"model_stock_for_tensor" &3 &4', {"method": "model_stock"}),
}  # fmt: skip


@pytest.mark.parametrize("name", SPARSE)
def test_differences_that_are_thinned_out_are_those_of_their_release(name):
    versioned, node, expected = SPARSE[name]
    head = "version 0.1.0\n" if versioned else ""
    found = imported(f'{head}{DELTAS}merge {node}\nmerge "add_difference" &0 &5 alpha=0.5')
    plain = [step.to_plain() for step in found.recipe.steps.values()]
    thinned = next(step for step in plain if step["method"] not in ("subtract", "weighted_sum"))
    assert thinned["inputs"] == ["base", "one", "two"]
    assert {key: thinned.get(key) for key in expected} == expected
    if "alpha" in METHODS[thinned["method"]].parameters:
        # The strength of the node above, times 1 / 0.5 where all elements are divided by the mean chance.
        assert thinned.get("alpha", 1.0) == (1.0 if name == "DELLA that is rescaled" else 0.5)
    else:
        assert plain[-1] == {"method": "weighted_sum", "inputs": ["base", "model_stock"], "alpha": 0.5}
    if "seed" in expected:
        assert "import.random" in codes(found.notes)


def test_a_node_that_is_not_known_may_be_left_out_of_a_chain_of_differences():
    # As the recipes of some models have it: a method of the author's own between the differences and the base.
    own = 'merge "ties_sum" &3 &4 k=1.0\nmerge "isotropic_own" &5 0.8 false true\nmerge "add_difference" &0 &6 1.0'
    text = f"version 0.1.0\n{DELTAS}{own}"
    with pytest.raises(RecipeError, match="'isotropic_own'"):
        imported(text)
    found = imported(text, partial=True)
    assert [step.method for step in found.recipe.steps.values()] == ["ties"]
    assert "isotropic_own" in the(found.notes, "import.no_equivalent").text


def test_a_base_among_its_own_fine_tunes_is_a_difference_of_nothing():
    text = DELTAS + 'merge "subtract" &0 &0\nmerge "ties_sum" &3 &5 &4 k=1.0\nmerge "add_difference" &0 &6 alpha=1.0'
    assert imported(text).recipe.steps["ties"].inputs == ["base", "one", "base", "two"]


def test_loras_are_differences():
    text = 'model "m" "sdxl" "base"\nmodel "raw\\my lora.safetensors" "sdxl" "lora"\nmerge "add_difference" &0 &1 alpha=0.7'
    found = imported(text)
    assert {name: lora.path for name, lora in found.recipe.loras.items()} == {"my lora": "raw\\my lora.safetensors"}
    assert found.recipe.steps["add"].to_plain() == {"method": "add", "inputs": ["m", "my lora"], "alpha": 0.7}
    assert found.shares["my lora"] == pytest.approx(0.7)


def test_classes_of_sdxls_two_text_encoders_stand_apart():
    # sd-mecha's own names and values, as it wrote them for a merge of UNET and text encoders from three models.
    openclip = (
        "positional_embedding text_projection token_embedding ln_final logit_scale attn_in_proj attn_out_proj ln_1 ln_2"
    )
    values = {f"g14_txt_class_{x}": 1.0 for x in openclip.split()} | {"g14_txt_class_default": 1.0}
    values |= {"l14_txt_class_q": 0.25, "l14_txt_block_in03": 0.5, "l14_txt_class_default": 0.0}
    values |= {"g14_txt_class_mlp_c_fc": 0.75, "g14_txt_block_in31": 0.125}
    values |= {"sdxl_unet_class_in0": 0.0, "sdxl_unet_class_time_embed0": 0.0, "sdxl_unet_class_default": 0.0}
    line = "dict " + " ".join(f"{name}={value}" for name, value in values.items())
    found = imported(f'model "a" "sdxl" "base"\nmodel "b" "sdxl" "base"\n{line}\nmerge "weighted_sum" &0 &1 alpha=&2')
    weights = found.recipe.steps["weighted_sum"].weights("supermerger")["alpha"].resolve("sdxl")
    one, two = "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."
    expected = {
        f"{one}encoder.layers.0.self_attn.q_proj.weight": 0.25,
        f"{one}encoder.layers.3.mlp.fc1.weight": 0.5,
        f"{one}final_layer_norm.weight": 0.0,
        f"{two}transformer.resblocks.4.attn.in_proj_weight": 1.0,
        f"{two}transformer.resblocks.4.mlp.c_fc.weight": 0.75,
        f"{two}transformer.resblocks.4.mlp.c_proj.weight": 1.0,
        f"{two}transformer.resblocks.31.ln_1.weight": 0.125,
        f"{two}positional_embedding": 1.0,
        "model.diffusion_model.time_embed.0.weight": 0.0,
        "model.diffusion_model.input_blocks.0.0.weight": 0.0,
    }
    assert {key: weights.weight(key) for key in expected} == expected


def test_old_block_names_become_lines():
    recipe = """model "a" "sd1" "base"
model "b" "sd1" "base"
dict txt_default=0.5 sd1_unet_block_in4=0.2 unet_block_mid=0.3 unet_class_trans_attn2_k=0.9 unet_class_default=0.1
merge "weighted_sum" &0 &1 alpha=&2
"""
    found = imported(recipe)
    weights = found.recipe.steps["weighted_sum"].weights("supermerger")["alpha"].resolve("sd1")
    unet = "model.diffusion_model."
    assert weights.weight(f"{unet}input_blocks.4.0.in_layers.2.weight") == 0.2
    assert weights.weight(f"{unet}input_blocks.5.0.in_layers.2.weight") == 0.1
    assert weights.weight(f"{unet}output_blocks.5.1.transformer_blocks.0.attn2.to_k.weight") == 0.9
    assert weights.by_label()["CLIP_L"] == 0.5


def test_blocks_that_are_not_given_are_named():
    lines = ["version 0.1.0", 'model "a"', 'model "b"', "dict IN04=0.5"]
    lines += [
        'literal &2 model_config="sd1-supermerger_blocks" merge_space="param"',
        'merge "convert_sd1_blocks_to_ldm" &3',
    ]
    found = imported("\n".join([*lines, 'merge "weighted_sum" &0 &1 &4']))
    assert found.recipe.steps["weighted_sum"].given["alpha"]["IN04"] == 0.5
    assert "import.line" in codes(found.notes)


@pytest.mark.parametrize(
    "line, code, about",
    [
        ('merge "rotate" &0 &1', "import.refused", ["3", "'rotate'", "--partial"]),
        ('merge "weighted_sum" &0 &9', "import.fault", ["3", "&9"]),
        ('merge "weighted_sum" &0 "b', "import.fault", ["3", "'\"b'"]),
        ("merge &0", "import.fault", ["3"]),
        ('merge "weighted_sum" &0', "import.refused", ["3", "--partial"]),
        ('merge "weighted_sum" &0 &1 alpha=true', "import.refused", ["3", "alpha", "True"]),
        ('merge "subtract" &0 &1', "import.fault", ["3"]),
        ("frobnicate &0", "import.fault", ["3", "'frobnicate'"]),
        ('merge "weighted_sum" &0 &1 alpha=x', "import.fault", ["3", "'x'"]),
        ("dict IN44=0.5", "import.fault", ["3"]),
    ],
)
def test_mistakes_name_the_line(line, code, about):
    with raising(code, RecipeError, about):
        imported(f'model "a"\nmodel "b"\n{line}')


def test_partial_leaves_out_what_is_not_known_and_says_so():
    found = imported('model "a"\nmodel "b"\ncall "rotate" &0 &1\ncall "weighted_sum" &2 &1 alpha=0.5', partial=True)
    assert found.recipe.steps["weighted_sum"].inputs == ["a", "b"]
    note = the(found.notes, "import.no_equivalent").text
    assert "'rotate'" in note and note in found.to_yaml()


def test_defaults_of_the_first_dialects_are_those_of_their_time():
    found = imported('model "a"\nmodel "b"\nmodel "c"\ncall "subtract" &1 &2\ncall "add_difference" &0 &3')
    assert found.recipe.steps["add_difference"].given["alpha"] == 0.5
    assert "import.alpha_default" in codes(found.notes)


def test_parameters_of_a_recipe_stand_as_models_to_fill_in():
    found = imported('parameter "a" "MODEL"\nparameter "b" "MODEL"\ncall "weighted_sum" &0 &1 alpha=0.5')
    assert list(found.recipe.models) == ["a", "b"]
    first, second = those(found.notes, "import.parameter")
    assert names(first.text, "a") and names(second.text, "b") and first.text in found.to_yaml()


def test_a_file_is_known_by_what_it_holds(tmp_path):
    path = tmp_path / "recipe.txt"
    path.write_bytes(b"\xef\xbb\xbf" + FIRST.replace("\n", "\r\n").encode())
    assert import_recipe(path).shares["one"] == pytest.approx(0.5)


@pytest.mark.parametrize("words", ['model_config="sdxl-sgm" merge_space="weight"', '"sdxl" "base"'])
def test_the_architecture_of_shares_is_the_one_that_the_recipe_names(words):
    head = "version 0.1.0\n" if "=" in words else ""
    graph = f'{head}model "a" {words}\nmodel "b" {words}\nmerge "weighted_sum" &0 &1 alpha=0.25'
    assert imported(graph).family.id == "sdxl"
    assert imported(graph.replace("sdxl", "sd1")).family.id == "sd1"


def test_block_weights_that_name_every_slot_of_an_architecture_are_of_that_one():
    from unetscope.merge.compile import fitting_families

    slots = ["BASE", *(f"IN{i:02}" for i in range(9)), "M00", *(f"OUT{i:02}" for i in range(9)), "VAE"]
    weights = {"convention": "sd-mecha", **dict.fromkeys(slots, 0.5)}
    step = {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": weights}
    recipe = Recipe.parse({"models": {"a": "a", "b": "b"}, "steps": {"out": step}})
    assert fitting_families(recipe)[0].id == "sdxl"


@pytest.mark.parametrize(
    "node, said",
    [('"perpendicular_component" &3 &4', "difference is 0"), ('"geometric_median" &3 &4', "stands still")],
)
def test_where_a_method_of_sd_mecha_differs_the_import_and_the_export_say_so(node, said):
    found = imported(f'version 0.1.0\n{DELTAS}merge {node}\nmerge "add_difference" &0 &5 1.0')
    assert "import.method" in codes(found.notes)
    from unetscope.merge.exchange import to_mecha

    assert said in to_mecha(found.recipe, "sd1")


def test_sd_mecha_takes_nothing_where_the_first_difference_is_0_and_we_take_all():
    import torch

    from unetscope.merge.methods import METHODS as methods

    b = torch.tensor([1.0, -2.0, 3.0])
    assert not linear.perpendicular_component.__wrapped__(torch.zeros(3), b).any()
    assert "sd-mecha" in methods["perpendicular"].doc


SHAPES = [(6, 8, 3, 3), (7, 9), (12,), (6, 8, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alpha, tilt", [(0.5, 0), (0.3, 0.4), (0.3, 1.5), (0.7, 2), (0.6, 2.6), (0.4, 3.5), (0.4, 1)])
def test_crossover_is_sd_mechas_at_every_tilt(shape, alpha, tilt):
    import torch

    a, b = np.random.default_rng(1).standard_normal((2, *shape)).astype(np.float32)
    theirs = sd_mecha.crossover.__wrapped__(torch.tensor(a), torch.tensor(b), alpha=alpha, tilt=tilt)
    np.testing.assert_allclose(METHODS["crossover"](a, b, alpha=alpha, tilt=tilt), theirs.numpy(), atol=2e-6)
