"""supermerger's records: the weight of every tensor is the one that the program used, by its own rules replayed key by key."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from scipy import ndimage
from step_results import result
from told import codes, raising

from unetscope.checkpoints.families import family_of
from unetscope.merge import RecipeError
from unetscope.merge.exchange import Request
from unetscope.merge.exchange.reading import import_text
from unetscope.merge.exchange.recorded import from_metadata

SD1 = ["BASE", *(f"IN{i:02d}" for i in range(12)), "M00", *(f"OUT{i:02d}" for i in range(12))]
XL = ["BASE", *(f"IN{i:02d}" for i in range(9)), "M00", *(f"OUT{i:02d}" for i in range(9))]
NAMES = {"sd1": SD1, "sdxl": XL}
A, B, C = ("a" * 64, "b" * 64, "c" * 64)
# What the program does not find by name: tensors without "weight" or "bias", which its notes tell of.
UNNAMED = ("logit_scale", "text_projection", "positional_embedding", "position_ids")


MERGED = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner.")


def keys(family):
    return [k for k in family_of(family).layout() if k.startswith(MERGED) and not k.endswith(UNNAMED)]


def block_of(key, family, new=False):
    """The program's name for a tensor's block; None where it is not merged."""
    xl = family == "sdxl"
    if "time_embed" in key or "label_emb" in key:
        return ("IN00" if new else None) if xl else "OUT11"
    if ".out." in key and "diffusion_model" in key:
        return "OUT08" if xl else "OUT11"
    for part, name in (("input_blocks", "IN"), ("output_blocks", "OUT")):
        if found := re.search(rf"\.{part}\.(\d+)\.", key):
            return f"{name}{int(found[1]):02d}"
    return "M00" if ".middle_block." in key else "BASE"


def elemental(lines, key, block, family, alpha):
    """Elemental lines as the program reads them: SDXL's blocks by their place in SD1's list."""
    order = NAMES[family]
    name = SD1[order.index(block)]
    for blocks, elements, ratio in lines:
        words, parts = blocks.split(), elements.split()
        no_block, no_part = words[:1] == ["NOT"], parts[:1] == ["NOT"]
        words, parts = words[no_block:], parts[no_part:]
        named = set()
        for word in words:
            first, last = sorted(map(SD1.index, (word.split("-") * 2)[:2]))
            named |= set(SD1[first : last + 1])
        inside = (name in named) != no_block if words else True
        has = any(p in key for p in parts) != no_part if parts else True
        alpha = ratio if inside and has else alpha
    return alpha


def record(family, mode="Weight sum:A*(1-alpha)+B*alpha", **more):
    n = len(NAMES[family]) - 1
    numbers = [round(0.01 * (i + 1), 2) for i in range(n)]
    given = {
        "type": "sd-webui-supermerger", "model_a": A, "model_b": B, "model_c": C, "mode": mode, "calcmode": "normal",
        "base_alpha": 0.4, "base_beta": 0.3, "mbw": True, "elemental_merge": "",
        # The program appends a 0 to SDXL's numbers.
        "weights_alpha": numbers + [0] * (family == "sdxl"), "weights_beta": None,
        "weights_alpha_orig": ",".join(["0.4", *map(str, numbers)]), "Off": [""],
    }  # fmt: skip
    return given | more


def imported(recipe, **request):
    models = {d: {"name": f"{n}.safetensors"} for d, n in ((A, "a"), (B, "b"), (C, "c"))}
    said = {"sd_merge_recipe": json.dumps(recipe), "sd_merge_models": json.dumps(models)}
    return from_metadata(said, "mix.safetensors", Request(**request))


def weights(found, family, parameter="alpha"):
    """key -> the number that our recipe gives it, the VAE's included."""
    step = list(found.recipe.steps.values())[-1]
    value = step.weights(found.recipe.convention)[parameter]
    resolved = (value[0] if isinstance(value, list) else value).resolve(family)
    assert found.recipe.components == {"vae": "merge"}
    out = {}
    for key in keys(family):
        by_convention = key.startswith("first_stage_model.") and resolved.vae is None
        out[key] = resolved.vae_by_convention if by_convention else resolved.weight(key)
    return out


def expected(family, recipe, lines=(), new=False):
    out = {}
    for key in keys(family):
        block = block_of(key, family, new)
        if block is None:
            out[key] = 0.0
            continue
        place = NAMES[family].index(block)
        alpha = recipe["weights_alpha"][place - 1] if place and recipe["mbw"] else recipe["base_alpha"]
        out[key] = elemental(lines, key, block, family, alpha)
    return out


LINES = [
    [],
    [("", "norm", 0.9)],
    [("NOT IN04", "proj_out", 0.7)],
    [("", "", 0.2), ("M00", "", 1.0)],
    [("BASE", "", 0.8), ("IN05-OUT02", "attn1 ff", 0.6)],
    [("NOT BASE", "NOT attn1 attn2", 0.35)],
    [("OUT05-IN07", "NOT weight", 0.15), ("NOT OUT11 OUT05", "", 0.05)],
    [("IN00 OUT11", "weight", 0.55)],
]


@pytest.mark.one_by_one
@pytest.mark.parametrize("mbw", [True, False], ids=["by block", "one number"])
@pytest.mark.parametrize("lines", LINES, ids=[str(i) for i in range(len(LINES))])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_every_tensor_has_the_number_that_the_program_gave_it(family, lines, mbw):
    recipe = record(family, mbw=mbw, elemental_merge=[f"{b}:{e}:{r}" for b, e, r in lines] or "")
    found = weights(imported(recipe, family=family), family)
    assert found == expected(family, recipe, lines)


def test_what_the_record_does_not_say_is_noted():
    told = {"adjust", "tensors_not_merged", "embeddings_left", "elemental_blocks"}
    assert {f"import.{word}" for word in told} <= set(
        codes(imported(record("sdxl", elemental_merge=["M00::1.0"])).notes)
    )
    assert "import.embeddings_out11" in codes(imported(record("sd1")).notes)
    old = record("sd1")
    del old["Off"]  # before releases that had Include and Exclude
    assert "import.embeddings_guessed" in codes(imported(old).notes)
    # Nothing tells SD1 from SDXL.
    assert "import.embeddings_of_xl" in codes(imported(record("sd1", mbw=False)).notes)


def test_newer_releases_merge_the_embeddings_of_sdxl_with_in00():
    values = [0.0, *([0.5] * 17), 1.0]
    recipe = record(
        "sdxl", weights_alpha=[*values, 0], weights_alpha_orig=",".join(map(str, [0.4, *values]))
    )  # as the program writes them back
    assert weights(imported(recipe), "sdxl") == expected("sdxl", recipe, new=True)
    typed = recipe | {"weights_alpha_orig": ",".join(f"{x:g}" for x in [0.4, *values])}
    assert weights(imported(typed), "sdxl") == expected("sdxl", recipe)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_the_text_as_typed_serves_where_the_numbers_used_are_not_there(family):
    recipe = record(family)
    found = imported(recipe | {"weights_alpha": None})
    assert weights(found, family) == weights(imported(recipe), family) == expected(family, recipe)


def place_110(key):
    """The name of a tensor in the list of 110."""
    for part, name in (
        ("time_embed", "TIME"),
        ("label_emb", "LABEL"),
        ("embedders.0", "CLIPL"),
        ("embedders.1", "CLIPG"),
    ):
        if part in key:
            return name
    if key.startswith("first_stage_model."):
        return "VAE"
    if "diffusion_model.out." in key:
        return "OUT9"
    kind = next(k for k in ("input", "mid", "output") if k in key)
    digits = re.sub(r"\D", "", key)
    number = digits[:1] + "0" if kind == "mid" else digits[:2]
    inner = re.findall(r"transformer_blocks\.(\d+)\.", key)
    return {"input": "IN", "mid": "MID", "output": "OUT"}[kind] + number + "".join(inner[:1])


def test_the_long_vector_of_sdxl_has_a_number_for_every_transformer_block():
    from unetscope.merge.exchange.supermerger import EXTENDED

    order = list(EXTENDED)
    assert len(order) == 110
    numbers = [round(0.001 * (i + 1), 3) for i in range(109)]
    recipe = record("sdxl", weights_alpha=numbers, weights_alpha_orig=",".join(map(str, [0.4, *numbers])))
    found = weights(imported(recipe), "sdxl")
    seen = set()
    for key, value in found.items():
        name = place_110(key)
        seen.add(name)
        # The first and the last number are not read: CLIP_L and the VAE have that of BASE.
        wanted = 0.4 if name in ("CLIPL", "VAE") else numbers[order.index(name) - 1]
        assert value == wanted, key
    assert set(order) - seen == {"IN0"}
    typed = import_text(",".join(map(str, [0.4, *numbers])), "x.txt", Request(inputs=("a", "b")))
    assert weights(typed, "sdxl") == found
    # Blocks whose parts agree are one line.
    assert len(imported(recipe | {"weights_alpha": [0.5] * 109}).recipe.steps["merged"].given["alpha"]) < 30


@pytest.mark.parametrize(
    "blocks, elements, reached",
    [
        ("MID10 IN410", "", lambda key, name: name in ("MID10", "IN410")),
        ("CLIPG VAE", "norm", lambda key, name: name in ("CLIPG", "VAE") and "norm" in key),
        ("NOT OUT9 CLIPL", "attn1 bias", lambda key, name: name not in ("OUT9", "CLIPL") and ("attn1" in key or "bias" in key)),
        ("IN710-IN711", "NOT weight", lambda key, name: name in ("IN710", "IN711") and "weight" not in key),
        ("", "NOT ff", lambda key, name: "ff" not in key),
    ],
)  # fmt: skip
def test_elemental_lines_beside_the_long_vector_have_its_names(blocks, elements, reached):
    recipe = record("sdxl", weights_alpha=[0.25] * 109, elemental_merge=[f"{blocks}:{elements}:0.75"])
    for key, value in weights(imported(recipe), "sdxl").items():
        name = place_110(key)
        assert value == (0.75 if reached(key, name) else 0.4 if name in ("CLIPL", "VAE") else 0.25), key


def chosen(key, family, names, elements):
    block = block_of(key, family)
    vae = key.startswith("first_stage_model.")
    return block in names or (vae and "VAE" in names) or any(e in key for e in elements)


@pytest.mark.one_by_one
@pytest.mark.parametrize("field", ["Include", "Exclude"])
@pytest.mark.parametrize(
    "names, elements",
    [
        (["IN00", "IN05", "M00"], []),
        (["BASE"], []),
        (["VAE"], []),
        ([], ["attn1", "proj"]),
        (["OUT08", "VAE"], ["norm"]),
    ],
)
@pytest.mark.parametrize("family, mbw", [("sd1", True), ("sdxl", True), ("sd1", False)])
def test_what_is_excluded_or_not_included_stays_with_the_first_model(family, mbw, names, elements, field):
    recipe = record(family, mbw=mbw, **{field: [*names, *elements]})
    del recipe["Off"]
    found = weights(imported(recipe, family=family), family)
    for key, value in expected(family, recipe).items():
        kept = chosen(key, family, names, elements) == (field == "Include")
        assert found[key] == (value if kept else 0.0), key


def test_include_and_exclude_change_beta_too_and_adjust_is_known():
    recipe = record("sd1", mode="Triple sum", weights_beta=[0.2] * 25, Exclude=["Adjust"])
    found = imported(recipe)
    for parameter in ("alpha", "beta"):
        zero = {k for k, v in weights(found, "sd1", parameter).items() if v == 0}
        assert {k.partition("diffusion_model.")[2][:15] for k in zero} == {
            "input_blocks.0.", "out.0.bias", "out.0.weight", "out.2.bias", "out.2.weight"
        }  # fmt: skip


@pytest.mark.parametrize(
    "mode, calculation, method, given",
    [
        ("Add", "trainDifference", "train_difference", {}),  # the word that it writes where it changes the mode itself
        ("Add difference:A+(B-C)*alpha", "smoothAdd", "smooth_add", {}),
        ("Add difference", "smoothAdd MT", "smooth_add", {}),
        ("Add", "extract", "extract", {"beta": 0.3}),
        ("Weight sum", "tensor2", "tensor_sum", {"along": "columns"}),
        ("Weight sum", "tensor", "tensor_sum", {}),
    ],
)
def test_calculations_are_methods_of_ours(mode, calculation, method, given):
    step = imported(record("sd1", mode=mode, calcmode=calculation, mbw=False)).recipe.steps["merged"]
    assert step.method == method
    assert {name: step.given[name] for name in given} == given


@pytest.mark.parametrize("calculation", ["cosineA", "cosineB", "plus random"])
def test_calculations_that_need_the_whole_model_or_chance_are_refused(calculation):
    with raising("import.refused", RecipeError, [calculation]):
        imported(record("sd1", calcmode=calculation))


def test_self_multiplies_the_first_model_but_for_what_the_program_leaves_out():
    recipe = record("sd1", calcmode="self", weights_alpha=[0, *([0.5] * 24)])
    found = imported(recipe)
    assert found.recipe.steps["merged"].inputs == ["a"]
    got = weights(found, "sd1", "weights")
    for key, value in expected("sd1", recipe).items():
        left = value == 0 or any(part in key for part in ("to_out", "proj_out", "norm"))
        assert got[key] == (1.0 if left else value), key


# -- the methods ------------------------------------------------------------------------------------------------------


def arrays(shape=(6, 5, 3, 3), count=3):
    rng = np.random.default_rng(7)
    return [rng.standard_normal(shape).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("shape", [(6, 5, 3, 3), (9, 14), (31,), ()])
def test_smooth_add_filters_the_difference_over_all_axes(shape):
    a, b, c = arrays(shape)
    smooth = ndimage.gaussian_filter(ndimage.median_filter(b - c, size=3), sigma=1) if shape else b - c
    np.testing.assert_allclose(result("smooth_add", [a, b, c], alpha=0.7), a + 0.7 * smooth, atol=1e-6)
    assert (result("smooth_add", [a, b, b]) == a).all()


@pytest.mark.parametrize("shape", [(6, 5, 3, 3), (9, 14), (31,)])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_extract_keeps_what_two_models_have_in_common_or_have_not(shape, beta):
    import torch

    a, b, c = map(torch.tensor, arrays(shape))
    alike = ((torch.nn.functional.cosine_similarity(b - a, c - a, -1).unsqueeze(-1) + 1) / 2) ** 0.3
    wanted = a + torch.lerp(b - a, c - a, 0.4) * torch.lerp(alike, 1 - alike, beta)
    got = result("extract", [a.numpy(), b.numpy(), c.numpy()], alpha=0.4, beta=beta)
    np.testing.assert_allclose(got, wanted.numpy(), atol=1e-5)
    # N copies of a fine-tune are alike everywhere.
    same = result("extract", [a.numpy(), b.numpy(), b.numpy()], alpha=0.4, beta=0.0)
    np.testing.assert_allclose(same, b.numpy(), atol=1e-5)


@pytest.mark.parametrize("shape, length", [((8, 104), 832), ((8, 104, 3, 3), 100), ((10, 4, 3, 3), 77), ((12,), 5)])
@pytest.mark.parametrize("alpha, beta", [(0.25, 0.5), (0.5, 0.75), (1.0, 0.0), (0.0, 0.0)])
def test_tensor_sum_cuts_columns_where_it_is_asked_to(shape, length, alpha, beta):
    a, b = arrays(shape, 2)
    n = shape[1] if len(shape) > 1 and shape[1] > 100 else shape[0]
    axis = 1 if len(shape) > 1 else 0
    places = np.arange(shape[axis])
    if alpha + beta <= 1:
        from_b = (places >= round(n * beta)) & (places < round(n * (alpha + beta)))
    else:
        from_b = ~((places >= round(n * (alpha + beta - 1))) & (places < round(n * beta)))
    where = from_b.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    assert (elementwise_result(a, b, length, alpha=alpha, beta=beta) == np.where(where, b, a)).all()


def elementwise_result(a, b, length, **values):
    return result("tensor_sum", [a, b], length=length, along="columns", **values)
