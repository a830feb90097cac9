"""Recipes: what is read, what is refused and how it is said, and that what is written reads back the same."""

from __future__ import annotations

import copy
import re
import textwrap

import hypothesis.strategies as st
import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from told import raising

from unetscope.checkpoints.errors import UnetscopeError
from unetscope.merge import METHODS, BlockWeights, Recipe, RecipeError

MODELS = {"a": "a.safetensors", "b": "b.ckpt", "c": "folder/c"}
MIX = {"method": "weighted_sum", "inputs": ["a", "b"]}


def recipe(**changes):
    """A good recipe with fields changed."""
    return copy.deepcopy({"models": MODELS, "steps": {"mix": MIX}} | changes)


def steps(**changes):
    return recipe(steps={"mix": copy.deepcopy(MIX) | changes})


# -- what is refused, and how ------------------------------------------------------------------------------------------

# What is said, by its code, and what it has to name: the place, what was found there, what would be right.
REFUSED = {
    "no mapping": ([1], "recipe.not_mapping"),
    "nothing": (None, "recipe.not_mapping"),
    "no models": ({"steps": {}}, "recipe.missing", "recipe: models:"),
    "models empty": (recipe(models={}), "recipe.value", "recipe: models:", "{}"),
    "models a list": (recipe(models=["a"]), "recipe.value", "recipe: models:", "['a']"),
    "a model is a number": (recipe(models=MODELS | {"d": 5}), "recipe.value", "recipe: models.d:", "5"),
    "a model is a mapping": (recipe(models={"a": {"file": "x"}}), "recipe.value", "recipe: models.a:"),
    "a model's name is a number": (recipe(models={1: "x"}), "recipe.value", "recipe: models:", "1"),
    "a model's name is a switch": (recipe(models={True: "x"}), "recipe.value", "recipe: models:", "True"),
    "a model named merge": (recipe(models=MODELS | {"merge": "x"}), "", "recipe: models.merge:"),
    "a name on top": (recipe(setps={}), "recipe.unknown_field", "recipe: setps:", "'steps'"),
    "a number on top": (recipe() | {5: 1}, "recipe.names", "recipe:"),
    "steps a number": (recipe(steps=5), "recipe.value", "recipe: steps:", "5"),
    "steps a list": (recipe(steps=[MIX]), "recipe.value", "recipe: steps:"),
    "a step is text": (recipe(steps={"mix": "a"}), "recipe.value", "recipe: steps.mix:", "'a'"),
    "no method": (recipe(steps={"mix": {"inputs": ["a"]}}), "recipe.missing", "recipe: steps.mix.method:"),
    "no inputs": (recipe(steps={"mix": {"method": "copy"}}), "recipe.missing", "recipe: steps.mix.inputs:"),
    "a method that is none": (steps(method="wieghted_sum"), "", "'wieghted_sum'", "'weighted_sum'"),
    "inputs of text": (steps(inputs="a"), "recipe.value", "recipe: steps.mix.inputs:", "'a'"),
    "an input that is none": (steps(inputs=["a", "bb"]), "recipe.unknown_name", "recipe: steps.mix.inputs:", "'bb'"),
    "an input is a number": (steps(inputs=["a", 1]), "recipe.value", "recipe: steps.mix.inputs.1:", "1"),
    "too many inputs": (steps(inputs=["a", "b", "c"]), "", "recipe: steps.mix:", "weighted_sum", "2", "(a, b)", "3"),
    "no input at all": (steps(method="uniform", inputs=[]), "", "recipe: steps.mix:", "uniform", "0"),
    "a parameter misspelt": (
        steps(aplha=1),
        "recipe.parameter",
        *("recipe: steps.mix.aplha:", "weighted_sum", "'alpha'"),
    ),
    "a parameter of another": (
        steps(method="copy", inputs=["a"], beta=1),
        *("recipe.parameter", "recipe: steps.mix.beta:", "copy"),
    ),
    "alpha of words": (steps(alpha="lots"), "", "recipe: steps.mix:", "'lots'"),
    "alpha NaN": (steps(alpha=float("nan")), "", "recipe: steps.mix:", "nan"),
    "alpha true": (steps(alpha=True), "", "recipe: steps.mix:", "True"),
    "alpha none": (steps(alpha=None), "", "recipe: steps.mix:", "None"),
    "a label that is none": (steps(alpha={"IN44": 1}), "", "recipe: steps.mix:", "'IN44'", "'IN04'"),
    "a convention that is none": (
        steps(convention="supermerge"),
        *("", "recipe: steps.mix:", "'supermerge'", "'supermerger'"),
    ),
    "a convention for all": (recipe(convention="comfy"), "", "recipe:", "'comfy'", "'comfyui'"),
    "weights missing": (steps(method="weighted_average"), "recipe.weights", "recipe: steps.mix.weights:", "2"),
    "weights of one for all, by block": (
        steps(method="weighted_average", weights={"IN*": 1}),
        *("recipe.weights", "2", "{'IN*': 1}"),
    ),
    "weights too few": (steps(method="weighted_average", weights=[1]), "recipe.weights", "2", "1"),
    "a switch of text": (
        steps(method="weighted_average", weights=[1, 1], normalise="yes"),
        *("", "recipe: steps.mix.normalise:", "'yes'"),
    ),
    "a step of itself": (
        recipe(steps={"s": MIX | {"inputs": ["a", "s"]}}),
        *("recipe.circle", "steps.s:", "s <- s"),
    ),
    "a circle": (
        recipe(steps={"x": MIX | {"inputs": ["a", "y"]}, "y": MIX | {"inputs": ["x", "b"]}}),
        *("recipe.circle", "steps.x:", "x <- y <- x"),
    ),
    "a model and a step": (recipe(steps={"a": MIX}), "recipe.name_twice", "'a'"),
    "a result that is none": (recipe(result="mixx"), "recipe.unknown_name", "recipe: result:", "'mixx'", "'mix'"),
    "no result": (recipe(steps={}), "", "recipe: result:"),
    "a component that is none": (
        recipe(components={"vea": "a"}),
        *("recipe.component", "recipe: components.vea:", "'vae'"),
    ),
    "a component from nowhere": (
        recipe(components={"vae": "d"}),
        *("recipe.unknown_name", "recipe: components.vae:", "'d'"),
    ),
    "a dtype that is none": (
        recipe(output={"dtype": "fp17"}),
        *("recipe.value", "recipe: output.dtype:", "'fp16'", "'fp17'"),
    ),
    "output misspelt": (
        recipe(output={"dtpye": "fp16"}),
        *("recipe.unknown_field", "recipe: output.dtpye:", "'dtype'"),
    ),
    "output of text": (recipe(output="fp16"), "recipe.value", "recipe: output:", "'fp16'"),
    "a title of numbers": (recipe(title=5), "recipe.value", "recipe: title:", "5"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_recipe_is_refused_by_naming_the_place(name):
    data, code, *about = REFUSED[name]
    with raising(code, RecipeError, about) as error:
        Recipe.parse(data)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    assert not any(word in str(error.value) for word in ("pydantic", "dictionary", "instance", "NoneType'"))


def test_steps_in_a_long_circle_and_too_deep_are_refused():
    chain = {f"s{i}": MIX | {"inputs": ["a", f"s{i + 1}"]} for i in range(400)}
    with raising("recipe.too_deep", RecipeError, ["250"]):
        Recipe.parse(recipe(steps=chain | {"s400": MIX}))
    inner = MIX
    for _ in range(400):
        inner = MIX | {"inputs": ["a", inner]}
    with raising("recipe.too_deep", RecipeError, ["250"]):
        Recipe.parse({"models": MODELS, "steps": {"s": inner}})
    long = {f"s{i}": MIX | {"inputs": ["a", f"s{i - 1}" if i else "b"]} for i in range(240)}
    assert len(Recipe.parse(recipe(steps=long)).steps) == 240


def test_aliases_that_multiply_are_refused_before_they_fill_the_memory(tmp_path):
    lines = ["models: {a: x.safetensors}", "steps:", "  s0: &s0 {method: copy, inputs: [a]}"]
    lines += [f"  s{i}: &s{i} {{method: uniform, inputs: [*s{i - 1}, *s{i - 1}, *s{i - 1}]}}" for i in range(1, 60)]
    (tmp_path / "r.yaml").write_text("\n".join(lines))
    with raising("recipe.not_yaml", RecipeError, ["12", "100,000"]):
        Recipe.load(tmp_path / "r.yaml")
    lists = ["models: {a: x.safetensors}", "output: {dtype: &d0 [x]}"]
    lists += [f"k{i}: &d{i} [{', '.join([f'*d{i - 1}'] * 9)}]" for i in range(1, 12)]
    (tmp_path / "r.yaml").write_text("\n".join([*lists, "title: *d11"]))
    with pytest.raises(RecipeError, match=r"recipe|r\.yaml"):
        Recipe.load(tmp_path / "r.yaml")
    switch = "&d0 [x]"
    for i in range(1, 12):
        switch = f"&d{i} [{switch}{f', *d{i - 1}' * 8}]"
    step = f"steps: {{m: {{method: weighted_average, inputs: [a], weights: [1], normalise: {switch}}}}}"
    (tmp_path / "r.yaml").write_text(f"models: {{a: x.safetensors}}\n{step}\n")
    with raising("recipe.not_yaml", RecipeError, [str(tmp_path / "r.yaml"), "100,000"]):
        Recipe.load(tmp_path / "r.yaml")


# -- what is read ------------------------------------------------------------------------------------------------------


def test_the_result_is_the_last_step_and_a_lone_model_is_its_own():
    assert Recipe.parse(recipe(steps={"x": MIX, "y": MIX | {"inputs": ["x", "c"]}})).result == "y"
    assert Recipe.parse({"models": {"a": "x.safetensors"}}).result == "a"
    assert Recipe.parse(recipe(result="a")).models_of("a") == ["a"]


def test_a_step_inside_a_step_gets_a_name_of_its_own_that_no_other_step_has():
    inner = {"method": "copy", "inputs": ["c"]}
    data = recipe(steps={"mix.1": {"method": "copy", "inputs": ["b"]}, "mix": MIX | {"inputs": [inner, "mix.1"]}})
    read = Recipe.parse(data)
    first, second = read.steps["mix"].inputs
    assert read.steps[first].inputs == ["c"]
    assert read.steps[second].inputs == ["b"]
    assert read.result == "mix"
    nested = Recipe.parse(recipe(steps={"top": MIX | {"inputs": [MIX | {"inputs": [inner, "a"]}, "b"]}}))
    assert set(nested.steps) == {"top", "top.1", "top.1.1"}
    assert nested.order("top") == ["top.1.1", "top.1", "top"]
    assert nested.models_of("top") == ["c", "a", "b"]


def test_a_step_inside_a_step_is_checked_like_any_other():
    with pytest.raises(RecipeError, match=r"steps.mix.2.alhpa.*weighted_sum"):
        Recipe.parse(steps(inputs=["a", MIX | {"alhpa": 1}]))


def test_steps_may_stand_in_any_order_and_dashes_are_underscores():
    data = recipe(steps={"top": MIX | {"inputs": ["low", "c"]}, "low": MIX | {"method": "weighted-sum"}}, result="top")
    assert Recipe.parse(data).order("top") == ["low", "top"]


def test_a_model_may_be_written_with_its_path_below_it():
    assert Recipe.parse(recipe(models={k: {"path": v} for k, v in MODELS.items()})).models == MODELS


def test_every_method_of_the_registry_is_taken_by_recipes():
    needed = {"component": "vae"}
    for method in METHODS.values():
        inputs = [*list(MODELS)[: len(method.inputs)], *(["b", "c"] if method.variadic else [])]
        inputs = [
            "d" if name in method.deltas else source for name, source in zip(method.inputs, inputs, strict=False)
        ] + (inputs[len(method.inputs) :])
        missing = {p.name: needed.get(p.name, 1) for p in method.parameters.values() if p.default is None}
        steps = {
            "d": {"method": "subtract", "inputs": ["a", "b"]},
            "s": {"method": method.name, "inputs": inputs, **missing},
            "m": {"method": "add", "inputs": ["a", "s"]}
            if method.result == "delta"
            else {"method": "copy", "inputs": ["s"]},
        }
        assert Recipe.parse(recipe(steps=steps)).steps["s"].kind is method


# -- files -------------------------------------------------------------------------------------------------------------


def load(folder, text, name="r.yaml"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())
    return Recipe.load(path)


def test_paths_count_from_the_recipes_folder_however_they_are_written(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "odd\\name.safetensors").write_text("x")  # possible on Linux
    read = load(
        tmp_path,
        """
        models:
          plain: x.safetensors
          windows: sub\\y.safetensors
          above: ..\\z.safetensors
          absolute: /models/w.safetensors
          drive: C:\\models\\v.safetensors
          share: '\\\\nas\\models\\v.safetensors'
          odd: odd\\name.safetensors
        result: plain
        components: {vae: 'sub\\vae.safetensors', clip_l: windows}
        """,
    )
    folder = str(tmp_path)
    assert read.models["plain"] == f"{folder}/x.safetensors"
    assert read.models["windows"] == f"{folder}/sub/y.safetensors"
    assert read.models["above"] == f"{folder}/../z.safetensors"
    assert read.models["absolute"] == "/models/w.safetensors"
    # Windows' own absolute paths name the same file wherever the recipe is read, and not one below its folder.
    assert read.models["drive"] == "C:\\models\\v.safetensors"
    assert read.models["share"] == "\\\\nas\\models\\v.safetensors"
    assert read.models["odd"] == f"{folder}/odd\\name.safetensors"
    assert read.components == {"vae": f"{folder}/sub/vae.safetensors", "clip_l": "windows"}


def test_names_of_any_script_are_read_and_written(tmp_path):
    text = "models: {'モデル': 'ü/日本.safetensors', '[red]': b.safetensors}\nresult: 'モデル'\ntitle: Ünï\n"
    read = load(tmp_path, text)
    assert list(read.models) == ["モデル", "[red]"]
    assert "モデル" in read.to_yaml()
    assert Recipe.parse(yaml.safe_load(read.to_yaml())) == read
    assert load(tmp_path, b"\xef\xbb\xbf" + text.encode()) == read  # as Windows' editors save it


FILES = {
    "no UTF-8": (b"\xff\xfe\x00m", "recipe.no_text", "UTF-8"),
    "no YAML": ("models: {a: [", "recipe.not_yaml"),
    "a key twice": ("models: {a: x, a: y}", "recipe.not_yaml", "1", "'a'"),
    "a step twice": (
        "models: {a: x}\nsteps:\n  s: {method: copy, inputs: [a]}\n  s: {method: copy, inputs: [a]}",
        "recipe.not_yaml",
        "4",
        "'s'",
    ),
    "a list as key": ("? [a, b]\n: c\nmodels: {a: x}", "recipe.not_yaml"),
    "a mapping as key": ("? {a: b}\n: c\nmodels: {a: x}", "recipe.not_yaml"),
    "a foreign tag": ("models: !!python/object/apply:os.system ['true']", "recipe.not_yaml"),
    "a tag that does not fit": ("models: !!int ''", "recipe.not_yaml"),
    "a date that is none": ("models: {a: 2001-99-99}", "recipe.not_yaml"),
    "itself": ("models: &m {a: *m}", "recipe.not_yaml"),
    "deep": ("[" * 5000, "recipe.not_yaml"),
    "empty": ("", "recipe.not_mapping"),
    "two documents": ("models: {a: x}\n---\nmodels: {a: y}", "recipe.not_yaml"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_recipes_are_refused_by_name(name, tmp_path):
    content, code, *about = FILES[name]
    with raising(code, RecipeError, [str(tmp_path / "r.yaml"), *about]) as error:
        load(tmp_path, content)
    assert "\n" not in str(error.value)


def test_missing_files_folders_and_checkpoints_are_no_recipes(tmp_path):
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.truncate(1 << 40)  # sparse: a terabyte that must not be read
    for path in (tmp_path, tmp_path / "none.yaml", tmp_path / ("x" * 300), tmp_path / "model.safetensors"):
        with pytest.raises(RecipeError, match=re.escape(str(path))) as error:
            Recipe.load(path)
        assert error.value.code in ("recipe.not_read", "recipe.is_model")


# -- writing -----------------------------------------------------------------------------------------------------------


def test_what_is_written_reads_back_the_same_block_weights_as_their_user_wrote_them():
    data = recipe(
        steps={
            "one": MIX | {"alpha": {"IN04-IN08": 0.7, "OUT*": {"gradient": [0, 1]}, "default": 0}},
            "two": {
                "method": "weighted_average",
                "inputs": ["a", "one"],
                "weights": ["GRAD_V", [0.5] * 26],
                "normalise": False,
            },
            "three": MIX | {"alpha": ",".join(["0.5"] * 27), "convention": "automb"},
            "four": MIX
            | {"inputs": [MIX | {"alpha": 0.25}, "three"], "alpha": {"vector": [0.1] * 27}, "convention": "automb"},
        },
        components={"vae": "merge", "text_encoders": "a", "clip_l": "./x.pt"},
        output={
            "dtype": "bf16",
            "nan": "zero",
            "overflow": "clamp",
            "position_ids": "restore",
            "mix_predictions": True,
        },
        title="A 'title': #1",
        convention="sd-mecha",
    )
    read = Recipe.parse(data)
    again = Recipe.parse(yaml.safe_load(read.to_yaml()))
    assert again == read
    assert again.to_yaml() == read.to_yaml()
    assert read.to_plain()["steps"]["one"] == data["steps"]["one"]


def test_block_weights_made_in_python_are_written_as_plain_data():
    weights = BlockWeights.parse({"IN04": 0.5, "OUT*": {"gradient": (0, 1)}})
    read = Recipe.parse(steps(alpha=weights))
    plain = yaml.safe_load(read.to_yaml())
    assert plain["steps"]["mix"]["alpha"] == {"IN04": 0.5, "OUT*": {"gradient": [0, 1]}}
    family = "sd1"
    same = Recipe.parse(plain).steps["mix"].weights("supermerger")["alpha"].resolve(family).by_label()
    assert same == weights.resolve(family).by_label()
    numpy_numbers = Recipe.parse(steps(alpha=[np.float32(0.5)] * 26))
    assert Recipe.parse(yaml.safe_load(numpy_numbers.to_yaml())).to_plain()["steps"]["mix"]["alpha"] == [0.5] * 26


# -- anything at all ---------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["a", "b", "mix", "models", "steps", "inputs", "method", "alpha", "weights", "result", "components", "vae", "output"]
) | st.sampled_from(
    ["dtype", "path", "title", "convention", "IN04", "merge", "copy", "uniform", "weighted_sum", "x.safetensors", "0.5", ""]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=5) | st.binary(max_size=3)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(WORDS | SCALARS.filter(lambda x: x == x), inner, max_size=4)
    ),
    max_leaves=25,
)
STEPS = st.dictionaries(
    WORDS,
    st.fixed_dictionaries(
        {"method": st.sampled_from(list(METHODS)), "inputs": st.lists(st.sampled_from("abc") | ANYTHING, max_size=3)},
        optional={"alpha": ANYTHING, "weights": st.lists(ANYTHING, max_size=3), "convention": WORDS},
    )
    | ANYTHING,
    max_size=3,
)
NEARLY = st.fixed_dictionaries(
    {"models": st.just(MODELS) | ANYTHING, "steps": STEPS | ANYTHING},
    optional={"result": WORDS, "components": ANYTHING, "output": ANYTHING, "title": ANYTHING, "convention": ANYTHING},
)


@settings(max_examples=400, deadline=None)
@given(NEARLY | ANYTHING)
@example({"models": {"\n": None}, "steps": {}})
@example({"models": MODELS, "steps": {"x": {"method": "copy", "inputs": [{"method": "copy", "inputs": [{}]}]}}})
def test_any_data_is_a_recipe_that_can_be_written_or_is_refused_in_a_sentence(data):
    try:
        read = Recipe.parse(data)
    except UnetscopeError as error:
        assert "\n" not in str(error)
        return
    assert Recipe.parse(yaml.safe_load(read.to_yaml())) == read


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab:-?[]{}&*!|>'\"#%, \n\t0x<.~", max_size=40))
def test_any_text_is_refused_in_a_sentence(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError):
        Recipe.load(path)


@pytest.mark.parametrize("step", [{"method": "ties", "trim": 10**5000}, {"method": 10**5000}, {"seed": 10**5000}])
def test_a_number_of_more_digits_than_python_writes_is_a_sentence(step):
    models = {"a": "a.safetensors", "b": "b.safetensors"}
    steps = {"m": {"method": "slerp", "inputs": ["a", "b", "b"], **step}}
    with pytest.raises(RecipeError, match=r"steps\.m") as refused:
        Recipe.parse({"models": models, "steps": steps})
    assert len(str(refused.value)) < 400
