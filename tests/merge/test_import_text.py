"""AutoMBW's recipes and logs, supermerger's weights and elemental lines, mergekit's configurations; and files that are none."""

from __future__ import annotations

import pytest

from unetscope.checkpoints.layouts import layout
from unetscope.merge import RecipeError
from unetscope.merge.exchange import Request
from unetscope.merge.exchange.reading import import_recipe, import_text

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
    assert "VAE with model A" in found.to_yaml()


def test_the_old_automb_exchanged_out_and_time_embed():
    by_label = labels(import_text(automb_line(27), "recipe.txt", Request(old_automb=True)))
    assert (by_label["OUT"], by_label["TIME_EMBED"]) == (0.27, 0.26)


def test_22_numbers_are_automb_for_sdxl():
    by_label = labels(import_text(automb_line(22), "recipe.txt"), "sdxl")
    assert {x: by_label[x] for x in XL_ORDER} == dict(zip(XL_ORDER, numbers(22), strict=True))


@pytest.mark.parametrize("columns, order, family", [(27, LOG_ORDER, "sd1"), (22, XL_ORDER, "sdxl")])
def test_the_best_row_of_a_log_is_taken_in_the_order_of_its_columns(columns, order, family):
    found = import_text(
        log(columns, [0.2, 0.9, "nan", 0.5]), "log.csv", Request(inputs=("a.safetensors", "b.safetensors"))
    )
    by_label = labels(found, family)
    assert {x: by_label[x] for x in order} == pytest.approx({x: 1 + i / 100 for i, x in enumerate(order)})
    assert list(found.recipe.models.values()) == ["a.safetensors", "b.safetensors"]
    assert not found.missing
    assert any("row 2 of 4" in note and "0.9" in note for note in found.notes)


def test_a_log_without_models_leaves_names_to_fill_in():
    found = import_text(log(27, [1]), "log.csv")
    assert found.missing == ("model A", "model B")


@pytest.mark.parametrize(
    "text, said", [(log(26, [1]), "26 numbered columns"), (log(27, ["x", ""]), "none of its 2 rows")]
)
def test_logs_that_are_none_are_refused(text, said):
    with pytest.raises(RecipeError, match=said):
        import_text(text, "log.csv")


# -- supermerger ------------------------------------------------------------------------------------------------------


def test_a_vector_of_supermerger_begins_with_base():
    found = import_text(",".join(map(str, numbers(26))), "x.txt", Request(inputs=("a", "b")))
    by_label = labels(found)
    assert [by_label[x] for x in ("CLIP_L", "IN00", "M00", "OUT11")] == [0.01, 0.02, 0.14, 0.26]
    assert found.recipe.components == {"vae": "merge"}
    assert any("Weight sum was taken" in note for note in found.notes)


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
    "text, said",
    [
        ("0.1," * 12 + "0.3", "a vector has 13 numbers; known are 19, 20"),
        ("mode=Sigmoid\n" + ",".join(["0"] * 26), "no mode 'Sigmoid'"),
        ("base_alpha=x\n" + ",".join(["0"] * 25), "base_alpha=x is no number"),
        ("IN99:attn:0.5", "elemental lines cannot be read: .*IN99"),
        (",".join(["0"] * 26) + "\nnonsense", "'nonsense' is no setting.*--partial"),
    ],
)
def test_mistakes_in_weights_are_named(text, said):
    with pytest.raises(RecipeError, match=said):
        import_text(text, "x.txt")


def test_more_models_than_a_method_takes_are_refused():
    with pytest.raises(RecipeError, match="takes 2 models; --inputs gives 3"):
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
    assert any("tokenizer_source" in note for note in found.notes)


def test_task_arithmetic_with_filters_takes_the_first_that_fits():
    found = import_text(TASKS, "x.yaml")
    step = found.recipe.steps["task_arithmetic"]
    assert step.inputs == ["zero", "one", "two"]
    one, two = (w.resolve("sd1") for w in step.weights("supermerger")["weights"])
    block = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0"
    assert [one.weight(f"{block}.{x}.weight") for x in ("attn1.to_q", "attn2.to_q", "ff.net.2")] == [0.7, 0.5, 0.1]
    assert two.weight(f"{block}.attn1.to_q.weight") == 1
    assert step.given["alpha"] == 0.5


@pytest.mark.parametrize(
    "text, said",
    [
        ("merge_method: frankenmerge\nmodels: [a]", "'frankenmerge' has no equivalent"),
        ("merge_method: passthrough\nslices: [{sources: []}]", "slices"),
        ("merge_method: linear", "no list of models"),
        ("merge_method: task_arithmetic\nmodels: [{model: a}]", "needs a base_model"),
        ("merge_method: linear\nmodels: [{model: a, parameters: {weight: [0, 1]}}, {model: b}]", "gradients"),
        ("merge_method: linear\nmodels: [{model: a, parameters: {strange: 1}}, {model: b}]", "parameter strange"),
    ],
)
def test_what_mergekit_says_and_we_cannot_is_refused(text, said):
    with pytest.raises(RecipeError, match=said):
        import_text(text, "x.yaml")


# -- files that are none ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content, said",
    [
        (b"hello world", "read are"),
        (b"", "read are"),
        (b"\xff\xfe\x00", "is no text"),
        (b'{"_class_name": "UNet2DConditionModel"}', "configuration of a diffusers model"),
        (b'{"3": {"class_type": "KSampler", "inputs": {}}}', "ComfyUI prompt"),
        (b'{"nodes": [], "links": []}', "ComfyUI workflow"),
        (b"models: {a: b}\nsteps: {}", "recipe of Unetscope already"),
    ],
)
def test_any_other_file_is_refused_with_what_can_be_read(tmp_path, content, said):
    path = tmp_path / "x.txt"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=said) as error:
        import_recipe(path)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"nothing\.mecha"):
        import_recipe(tmp_path / "nothing.mecha")
