"""AutoMBW's recipes and logs, supermerger's weights and elemental lines, mergekit's configurations; and files that are none."""

from __future__ import annotations

import re

import pytest
from told import codes, raising, the

from unetscope.checkpoints.families import layout
from unetscope.merge import RecipeError
from unetscope.merge.exchange import Request
from unetscope.merge.exchange.reading import import_recipe, import_text
from unetscope.merge.methods import METHODS

IN = [f"IN{i:02}" for i in range(12)]
OUT = [f"OUT{i:02}" for i in range(12)]
# The two orders of AutoMBW, as its documentation lists them.
LOG_ORDER = [*IN, "M00", "OUT", *OUT, "TIME_EMBED"]
LINE_ORDER = [*IN, "M00", *OUT, "OUT", "TIME_EMBED"]
XL_ORDER = [*IN[:9], "LABEL_EMB", "M00", "OUT", *OUT[:9], "TIME_EMBED"]


def numbers(count: int) -> list[float]:
    return [round((i + 1) / 100, 2) for i in range(count)]


def labels(found, family="sd1", step=-1) -> dict[str, float]:
    last = list(found.recipe.steps.values())[step]
    return last.weights(found.recipe.convention)["alpha"].resolve(family).by_label()


def automb_line(count: int, models=("C:\\sd\\a.safetensors", "b.safetensors")) -> str:
    vector = ",".join(map(str, numbers(count)))
    return f"modelA={models[0]}\nmodelB={models[1]}\nmodelO=result.safetensors\n{vector}\n"


def log(columns: int, scores, start: float = 0.0) -> str:
    header = ",".join([*map(str, range(columns)), "score", "eval_times", "iter_times"])
    rows = [
        ",".join(map(str, [*(start + k + i / 100 for i in range(columns)), s, 1.5, 2])) for k, s in enumerate(scores)
    ]
    return "\n".join([header, *rows]) + "\n"


# -- AutoMBW ----------------------------------------------------------------------------------------------------------


def test_an_automb_recipe_is_read_in_the_order_of_its_line():
    found = import_text(automb_line(27), "recipe.txt")
    by_label = labels(found)
    assert {x: by_label[x] for x in LINE_ORDER} == dict(zip(LINE_ORDER, numbers(27), strict=True))
    assert by_label["CLIP_L"] == 0
    assert list(found.recipe.models.values()) == ["C:\\sd\\a.safetensors", "b.safetensors"]
    assert found.recipe.title == "result.safetensors"
    assert the(found.notes, "import.automb_text_encoders").text in found.to_yaml()


def test_the_old_automb_exchanged_out_and_time_embed():
    by_label = labels(import_text(automb_line(27), "recipe.txt", Request(old_automb=True)))
    assert (by_label["OUT"], by_label["TIME_EMBED"]) == (0.27, 0.26)


@pytest.mark.parametrize("columns, order, family", [(27, LOG_ORDER, "sd1"), (22, XL_ORDER, "sdxl")])
def test_logs_of_the_old_automb_are_exchanged_in_the_order_of_their_columns(columns, order, family):
    new, old = (labels(import_text(log(columns, [1]), "l.csv", Request(old_automb=o)), family) for o in (False, True))
    assert (new["OUT"], new["TIME_EMBED"]) == (order.index("OUT") / 100, order.index("TIME_EMBED") / 100)
    assert (old["OUT"], old["TIME_EMBED"]) == (new["TIME_EMBED"], new["OUT"])
    assert {x: v for x, v in old.items() if x in order[:11]} == {x: v for x, v in new.items() if x in order[:11]}


def test_22_numbers_are_automb_for_sdxl():
    by_label = labels(import_text(automb_line(22), "recipe.txt"), "sdxl")
    assert {x: by_label[x] for x in XL_ORDER} == dict(zip(XL_ORDER, numbers(22), strict=True))


def test_what_automb_printed_below_its_weights_is_left_out_and_its_settings_are_read():
    # As people keep it: the settings of the window, the weights, and the end of the program's log.
    printed = (
        "\n[0] hyper_score (Bayesian Optimization):  40%| | 101/250 [46:44:55<68:57:57, 1666.29s/it, best_iter=0, \n"
        "Results: 'hyper_score'\n   Best score: 0.5242462374039804\n      '0'  : 0.05\n   Random seed: 1201246259\n"
        "2023-11-08 00:40:53,644 - AutoMBWrt - INFO - merge completed.\n"
    )
    text = automb_line(27).replace("modelO", "position_id_fix=Fix\noutput_mode=Max Precision\nmodelO") + printed
    found = import_text(text, "02b.recipe.txt")
    assert {x: labels(found)[x] for x in LINE_ORDER} == dict(zip(LINE_ORDER, numbers(27), strict=True))
    assert found.recipe.output.position_ids == "restore"
    assert "6 " in the(found.notes, "import.printed_lines").text
    assert "import.output_mode" in codes(found.notes)
    later = "\n".join(reversed(automb_line(27).strip().splitlines()))
    assert list(import_text(later, "x").recipe.models.values())[1] == "b.safetensors"


@pytest.mark.parametrize("columns, order, family", [(27, LOG_ORDER, "sd1"), (22, XL_ORDER, "sdxl")])
def test_the_best_row_of_a_log_is_taken_in_the_order_of_its_columns(columns, order, family):
    found = import_text(
        log(columns, [0.2, 0.9, "nan", 0.5]), "log.csv", Request(inputs=("a.safetensors", "b.safetensors"))
    )
    by_label = labels(found, family)
    assert {x: by_label[x] for x in order} == pytest.approx({x: 1 + i / 100 for i, x in enumerate(order)})
    assert list(found.recipe.models.values()) == ["a.safetensors", "b.safetensors"]
    assert not found.missing
    assert re.findall(r"[\d.]+", the(found.notes, "import.best_row").text) == ["2", "4", "0.9"]


def test_a_log_with_windows_line_breaks_written_twice_has_as_many_rows():
    text = log(27, [0.2, 0.9]).replace("\n", "\r\r\n")
    best = the(import_text(text, "log.csv").notes, "import.best_row")
    assert re.findall(r"[\d.]+", best.text) == ["2", "2", "0.9"]


def test_a_log_without_models_leaves_names_to_fill_in():
    found = import_text(log(27, [1]), "log.csv")
    assert found.missing == ("model A", "model B")


@pytest.mark.parametrize("text, about", [(log(26, [1]), ["26", "0..26", "0..21"]), (log(27, ["x", ""]), ["2", "27"])])
def test_logs_that_are_none_are_refused(text, about):
    with raising("import.fault", RecipeError, about):
        import_text(text, "log.csv")


# -- supermerger ------------------------------------------------------------------------------------------------------


def test_a_vector_of_supermerger_begins_with_base():
    found = import_text(",".join(map(str, numbers(26))), "x.txt", Request(inputs=("a", "b")))
    by_label = labels(found)
    assert [by_label[x] for x in ("CLIP_L", "IN00", "M00", "OUT11")] == [0.01, 0.02, 0.14, 0.26]
    assert found.recipe.components == {"vae": "merge"}
    assert "import.no_mode" in codes(found.notes)


def test_modes_settings_and_a_second_vector_are_read():
    text = (
        f"mode=Triple sum\n{','.join(map(str, numbers(26)))}\n{','.join(['0.5'] * 26)}\nmodelA=a\nmodelB=b\nmodelC=c\n"
    )
    step = next(iter(import_text(text, "x.txt").recipe.steps.values()))
    assert step.method == "triple_sum"
    assert step.inputs == ["a", "b", "c"]
    assert step.given["beta"] == [0.5] * 26


def test_a_vector_without_base_takes_it_from_its_setting():
    text = f"base_alpha=0.4\n{','.join(map(str, numbers(25)))}\nmodelA=a\nmodelB=b"
    by_label = labels(import_text(text, "x.txt"))
    assert [by_label[x] for x in ("CLIP_L", "IN00", "OUT11")] == [0.4, 0.01, 0.25]


def elemental(key: str, block: str, lines: list[tuple[list[str], bool, list[str], bool, float]]) -> float:
    """What supermerger's documentation says of elemental lines: the last line whose blocks and elements fit."""
    value = 0.0
    for blocks, without_blocks, elements, without_elements, ratio in lines:
        in_block = not blocks or (block in blocks) != without_blocks
        in_element = not elements or any(e in key for e in elements) != without_elements
        value = ratio if in_block and in_element else value
    return value


def test_elemental_lines_select_what_supermerger_selects():
    text = "IN05-OUT05:attn1 attn2:0.5\nNOT M00:proj_in:0.2\nOUT03 OUT04:NOT attn ff:0.9\n:norm1:0.7\nM00::0.3"
    span = ["IN05", "IN06", "IN07", "IN08", "IN09", "IN10", "IN11", "M00", *OUT[:6]]
    lines = [
        (span, False, ["attn1", "attn2"], False, 0.5),
        (["M00"], True, ["proj_in"], False, 0.2),
        (["OUT03", "OUT04"], False, ["attn", "ff"], True, 0.9),
        ([], False, ["norm1"], False, 0.7),
        (["M00"], False, [], False, 0.3),
    ]
    found = import_text(text, "x.txt", Request(inputs=("a", "b")))
    weights = next(iter(found.recipe.steps.values())).weights("supermerger")["alpha"].resolve("sd1")
    checked = 0
    for key in layout("sd1"):
        parts = key.removeprefix("model.diffusion_model.").split(".")
        names = {"input_blocks": "IN", "output_blocks": "OUT"}
        if parts[0] in names or parts[0] == "middle_block":
            block = "M00" if parts[0] == "middle_block" else f"{names[parts[0]]}{int(parts[1]):02}"
            assert weights.weight(key) == elemental(key, block, lines), key
            checked += 1
    assert checked > 600


@pytest.mark.parametrize(
    "text, code, about",
    [
        ("0.1," * 12 + "0.3", "import.fault", ["13", "19", "20"]),
        ("mode=Sigmoid\n" + ",".join(["0"] * 26), "import.fault", ["'Sigmoid'"]),
        ("base_alpha=x\n" + ",".join(["0"] * 25), "import.fault", ["base_alpha=x"]),
        ("IN99:attn:0.5", "import.refused", ["'IN99:attn:0.5'"]),
        (",".join(["0"] * 26) + "\nnonsense", "import.refused", ["'nonsense'", "--partial"]),
    ],
)
def test_mistakes_in_weights_are_named(text, code, about):
    with raising(code, RecipeError, about):
        import_text(text, "x.txt")


def test_more_models_than_a_method_takes_are_refused():
    with pytest.raises(RecipeError, match=r"2.*--inputs.*3"):
        import_text(",".join(["0"] * 26), "x.txt", Request(inputs=("a", "b", "c")))


# -- mergekit ---------------------------------------------------------------------------------------------------------

LINEAR = """models:
  - model: a/model
    parameters: {weight: 3}
  - model: b/model
    parameters: {weight: 1}
merge_method: linear
parameters: {normalize: true}
dtype: bfloat16
tokenizer_source: union
"""
TASKS = """models:
  - model: one
    parameters:
      weight:
        - filter: attn1
          value: 0.7
        - filter: attn
          value: 0.5
        - value: 0.1
  - model: two
base_model: zero
merge_method: task_arithmetic
parameters: {lambda: 0.5}
"""


def test_a_linear_configuration_of_mergekit_is_a_weighted_average():
    found = import_text(LINEAR, "x.yaml")
    assert found.shares == pytest.approx({"model": 0.75, "model.2": 0.25})
    assert found.recipe.output.dtype == "bf16"
    assert "import.setting" in codes(found.notes)


def test_task_arithmetic_with_filters_takes_the_first_that_fits():
    found = import_text(TASKS, "x.yaml")
    step = found.recipe.steps["task_arithmetic"]
    assert step.inputs == ["zero", "one", "two"]
    one, two = (w.resolve("sd1") for w in step.weights("supermerger")["weights"])
    block = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0"
    assert [one.weight(f"{block}.{x}.weight") for x in ("attn1.to_q", "attn2.to_q", "ff.net.2")] == [0.7, 0.5, 0.1]
    assert two.weight(f"{block}.attn1.to_q.weight") == 1
    assert step.given["alpha"] == 0.5


BASED = "base_model: zero\nmodels: [{model: one}, {model: two}]\n"
# mergekit's methods with the defaults and options that its `registry.py` gives them -> our step.
CONFIGURATIONS = {
    "slerp": (
        "base_model: b\nmodels: [{model: a}, {model: b}]\nmerge_method: slerp\nparameters: {t: 1e-1}",
        {"method": "slerp", "inputs": ["b", "a"], "alpha": 0.1, "norms": "slerp"},
    ),
    "nuslerp": (
        BASED.replace("two}", "two, parameters: {weight: 3}}") + "merge_method: nuslerp\nparameters: {weight: 1}",
        {"method": "nuslerp", "inputs": ["zero", "one", "two"], "alpha": 0.75},
    ),
    "nuslerp without a base": (
        "models: [{model: a}, {model: b}]\nmerge_method: nuslerp\nparameters: {weight: 1}",
        {"method": "slerp", "inputs": ["a", "b"], "alpha": 0.5, "norms": "slerp"},
    ),
    "multislerp": (
        "models: [a, b, c]\nmerge_method: multislerp\nparameters: {weight: 0.5}",
        {"method": "multislerp", "inputs": ["a", "b", "c"], "weights": [0.5, 0.5, 0.5]},
    ),
    "karcher": (
        "models: [a, b, c]\nmerge_method: karcher\nparameters: {max_iter: 10, tol: 1e-5}",
        {"method": "karcher_mean", "inputs": ["a", "b", "c"]},
    ),
    "model_stock": (BASED + "merge_method: model_stock", {"method": "model_stock", "inputs": ["zero", "one", "two"]}),
    "ties": (
        BASED + "merge_method: ties\nparameters: {weight: 0.5, lambda: 1.5, int8_mask: true}",
        {"method": "ties", "weights": [0.5, 0.5], "alpha": 1.5, "density": 1.0, "elect": "sum", "trim": "count",
         "combine": "mean"},
    ),
    "ties without normalize": (
        BASED + "merge_method: ties\nparameters: {weight: 0.5, density: 0.2, normalize: false}",
        {"method": "ties", "density": 0.2, "combine": "sum"},
    ),
    "dare_linear": (
        BASED + "merge_method: dare_linear\nparameters: {weight: 1, density: 0.4, normalize: true}",
        {"method": "dare", "weights": [0.5, 0.5], "density": 0.4, "elect": "none", "combine": "sum", "rescale": "l1"},
    ),
    "dare_ties": (
        BASED + "merge_method: dare_ties\nparameters: {weight: 1, density: 0.4, rescale: false}",
        {"method": "dare", "weights": [1, 1], "elect": "sum", "combine": "sum", "rescale": "none"},
    ),
    "della": (
        BASED + "merge_method: della\nparameters: {weight: 1, density: 0.6, epsilon: 0.1}",
        {"method": "della", "density": 0.6, "epsilon": 0.2, "elect": "sum", "combine": "mean", "rescale": "l1"},
    ),
    "della that keeps all": (BASED + "merge_method: della\nparameters: {weight: 1}", {"density": 1.0, "epsilon": 0.0}),
    "della_linear": (
        BASED + "merge_method: della_linear\nparameters: {weight: 1, density: 0.6}",
        {"method": "della", "epsilon": 0.3, "elect": "none", "combine": "sum"},
    ),
    "breadcrumbs": (
        BASED + "merge_method: breadcrumbs\nparameters: {weight: 1, density: 0.6}",
        {"method": "breadcrumbs", "density": 0.6, "gamma": 0.01, "elect": "none", "combine": "sum"},
    ),
    "breadcrumbs_ties": (
        BASED + "merge_method: breadcrumbs_ties\nparameters: {weight: 1, density: 0.6, gamma: 0.05}",
        {"method": "breadcrumbs", "gamma": 0.05, "elect": "sum", "combine": "sum"},
    ),
    "sce": (BASED + "merge_method: sce\nparameters: {select_topk: 0.3}", {"method": "sce", "density": 0.3}),
    "sce that selects all": (BASED + "merge_method: sce", {"method": "sce", "density": 1.0}),
    "passthrough": (
        "models: [{model: a, parameters: {scale: 0.5}}]\nmerge_method: passthrough",
        {"method": "weighted_average", "inputs": ["a"], "weights": [0.5], "normalise": False},
    ),
    "one slice": (
        "slices: [{sources: [{model: a, layer_range: [0, 32]}, {model: b, layer_range: [0, 32]}]}]\nmerge_method: slerp\n"
        "base_model: a\nparameters: {t: {filter: attn, value: 0.2}}",
        {"method": "slerp", "inputs": ["a", "b"], "alpha": {"default": 0.5, "VAE": 0.5, "key:*attn*": 0.2, "VAE key:*attn*": 0.2}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_method_that_mergekit_shares_with_us_keeps_its_defaults_and_options(name):
    text, expected = CONFIGURATIONS[name]
    step = list(import_text(text, "x.yaml").recipe.steps.values())[-1].to_plain()
    assert {key: step.get(key) for key in expected} == expected
    # Whatever decides the result is written down, not left to a default of ours.
    known = METHODS[step["method"]].parameters
    assert set(known) - {"ranks", "seed", "trim"} <= {*step, *(() if "alpha" in step else ("alpha",)), "weights"}


def test_a_negative_weight_where_signs_are_elected_is_noted():
    text = BASED.replace("two}", "two, parameters: {weight: -0.4}}") + "merge_method: ties\nparameters: {weight: 0.7}"
    assert "import.negative_weight" in codes(import_text(text, "x.yaml").notes)
    assert "import.negative_weight" not in codes(import_text(text.replace("-0.4", "0.4"), "x.yaml").notes)
    # Without a division the two agree.
    added = import_text(text.replace("{weight: 0.7}", "{weight: 0.7, normalize: false}"), "x.yaml")
    assert "import.negative_weight" not in codes(added.notes)


def test_filters_of_a_model_come_before_those_of_the_configuration():
    text = (
        "merge_method: task_arithmetic\nbase_model: z\nmodels: [{model: a, parameters: {weight: [{filter: attn1, value: 0.9}]}}]\n"
        "parameters: {weight: [{filter: attn, value: 0.5}, {value: 0.1}]}"
    )
    step = next(iter(import_text(text, "x.yaml").recipe.steps.values()))
    weights = step.weights("supermerger")["weights"][0].resolve("sd1")
    block = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0"
    found = [weights.weight(f"{block}.{x}.weight") for x in ("attn1.to_q", "attn2.to_q", "ff.net.2")]
    assert found == [0.9, 0.5, 0.1]


def test_loras_and_revisions_of_mergekit_models_are_carried_over_or_named():
    text = "models: [a/m+b/lora, c/n@v2]\nmerge_method: linear\nparameters: {weight: 1}"
    found = import_text(text, "x.yaml")
    assert {name: lora.path for name, lora in found.recipe.loras.items()} == {"lora": "b/lora"}
    assert found.recipe.steps["add"].inputs == ["m", "lora"]
    assert found.recipe.models == {"m": "a/m", "n": "c/n"}
    assert "import.revision" in codes(found.notes)


@pytest.mark.parametrize(
    "text, code, about",
    [
        (BASED + "merge_method: ties\nparameters: {weight: 1, rescale: true}", "import.refused", ["rescale"]),
        (BASED + "merge_method: model_stock\nparameters: {filter_wise: true}", "import.refused", ["filter_wise"]),
        (
            BASED + "merge_method: nuslerp\nparameters: {weight: 1, nuslerp_flatten: false}",
            "import.refused",
            ["nuslerp_flatten"],
        ),
        (
            BASED.replace("two}", "two, parameters: {density: 0.1}}") + "merge_method: ties\nparameters: {weight: 1}",
            *("import.refused", ["density"]),
        ),
        (BASED + "merge_method: linear\nparameters: {weight: 1}", "import.refused", ["base_model"]),
        (BASED + "merge_method: ram", "import.fault", ["'ram'"]),
        ("merge_method: frankenmerge\nmodels: [a]", "import.fault", ["'frankenmerge'"]),
        ("merge_method: passthrough\nslices: [{sources: []}]", "import.fault", ["slices"]),
        ("merge_method: linear", "import.fault", ["models"]),
        ("merge_method: task_arithmetic\nmodels: [{model: a}]", "import.fault", ["task_arithmetic", "base_model"]),
        (
            "merge_method: linear\nmodels: [{model: a, parameters: {weight: [0, 1]}}, {model: b}]",
            "import.refused",
            ["[0, 1]"],
        ),
        (
            "merge_method: linear\nmodels: [{model: a, parameters: {strange: 1}}, {model: b}]",
            "import.refused",
            ["strange"],
        ),
    ],
)
def test_what_mergekit_says_and_we_cannot_is_refused(text, code, about):
    with raising(code, RecipeError, about):
        import_text(text, "x.yaml")


# -- files that are none ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content, code, about",
    [
        (b"hello world", "import.not_a_recipe", []),
        (b"", "import.not_a_recipe", []),
        (b"\xff\xfe\x00", "import.not_a_recipe", []),
        (b'{"_class_name": "UNet2DConditionModel"}', "import.not_a_recipe", []),
        (b'{"3": {"class_type": "KSampler", "inputs": {}}}', "import.not_a_recipe", ["ComfyUI"]),
        (b'{"nodes": [], "links": []}', "import.not_a_recipe", ["ComfyUI"]),
        (b"models: {a: b}\nsteps: {}", "import.own_recipe", ["Unetscope"]),
    ],
)
def test_any_other_file_is_refused_with_what_can_be_read(tmp_path, content, code, about):
    path = tmp_path / "x.txt"
    path.write_bytes(content)
    with raising(code, RecipeError, ["x.txt", *about]) as error:
        import_recipe(path)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"nothing\.mecha"):
        import_recipe(tmp_path / "nothing.mecha")
