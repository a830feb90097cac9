"""Recipes: what is read, what is refused and how it is said, and that what is written reads back the same."""

from __future__ import annotations

import copy
import textwrap

import hypothesis.strategies as st
import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings

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

REFUSED = {
    "no mapping": ([1], "recipe: a recipe is a mapping with models and steps, not list"),
    "nothing": (None, "not NoneType"),
    "no models": ({"steps": {}}, "recipe: models: is missing"),
    "models empty": (recipe(models={}), "recipe: models: must be at least one"),
    "models a list": (recipe(models=["a"]), "recipe: models: must be a mapping of names"),
    "a model is a number": (recipe(models=MODELS | {"d": 5}), "recipe: models.d: must be text, found 5"),
    "a model is a mapping": (recipe(models={"a": {"file": "x"}}), "recipe: models.a: must be text"),
    "a model's name is a number": (
        recipe(models={1: "x"}),
        "recipe: models: the name 1 is not text; write it in quotes",
    ),
    "a model's name is a switch": (recipe(models={True: "x"}), "models: the name True is not text; write it in quotes"),
    "a model named merge": (recipe(models=MODELS | {"merge": "x"}), "recipe: models.merge: components use this word"),
    "a name on top": (recipe(setps={}), "recipe: setps: unknown name .did you mean 'steps'"),
    "a number on top": (recipe() | {5: 1}, "recipe: the names at the top must be words"),
    "steps a number": (recipe(steps=5), "recipe: steps: must be a mapping of names, found 5"),
    "steps a list": (recipe(steps=[MIX]), "recipe: steps: must be a mapping of names"),
    "a step is text": (recipe(steps={"mix": "a"}), "recipe: steps.mix: must be a mapping of names, found 'a'"),
    "no method": (recipe(steps={"mix": {"inputs": ["a"]}}), "recipe: steps.mix.method: is missing"),
    "no inputs": (recipe(steps={"mix": {"method": "copy"}}), "recipe: steps.mix.inputs: is missing"),
    "a method that is none": (
        steps(method="wieghted_sum"),
        "no merge method 'wieghted_sum' .did you mean 'weighted_sum'",
    ),
    "inputs of text": (steps(inputs="a"), "recipe: steps.mix.inputs: must be a list, found 'a'"),
    "an input that is none": (
        steps(inputs=["a", "bb"]),
        "recipe: steps.mix.inputs: 'bb' is neither a model nor a step",
    ),
    "an input is a number": (steps(inputs=["a", 1]), "recipe: steps.mix.inputs.1: must be text, found 1"),
    "too many inputs": (
        steps(inputs=["a", "b", "c"]),
        r"recipe: steps.mix: weighted_sum takes 2 inputs \(a, b\), 3 given",
    ),
    "no input at all": (steps(method="uniform", inputs=[]), "steps.mix: uniform takes one or more inputs, 0 given"),
    "a parameter misspelt": (steps(aplha=1), "recipe: steps.mix.aplha: weighted_sum takes alpha .did you mean 'alpha'"),
    "a parameter of another": (steps(method="copy", inputs=["a"], beta=1), "steps.mix.beta: copy takes no parameters"),
    "alpha of words": (steps(alpha="lots"), "recipe: steps.mix: Unknown preset 'lots'"),
    "alpha NaN": (steps(alpha=float("nan")), "recipe: steps.mix: .*finite number"),
    "alpha true": (steps(alpha=True), "recipe: steps.mix: .*has to be a number, found True"),
    "alpha none": (steps(alpha=None), "recipe: steps.mix: .*has to be a number, found None"),
    "a label that is none": (steps(alpha={"IN44": 1}), "recipe: steps.mix: .*'IN44'.*did you mean 'IN04'"),
    "a convention that is none": (steps(convention="supermerge"), "recipe: steps.mix: .*did you mean 'supermerger'"),
    "a convention for all": (recipe(convention="comfy"), "recipe: .*did you mean 'comfyui'"),
    "weights missing": (steps(method="weighted_average"), "steps.mix.weights: needs a list of 2 weights.*none given"),
    "weights of one for all, by block": (
        steps(method="weighted_average", weights={"IN*": 1}),
        r"needs a list of 2 weights, one for each input; found \{'IN\*': 1\}",
    ),
    "weights too few": (steps(method="weighted_average", weights=[1]), "needs a list of 2 weights.*1 given"),
    "a switch of text": (
        steps(method="weighted_average", weights=[1, 1], normalise="yes"),
        "steps.mix.normalise: must be true or false, not 'yes'",
    ),
    "a step of itself": (
        recipe(steps={"s": MIX | {"inputs": ["a", "s"]}}),
        "steps.s: is made from itself .s <- s.; break",
    ),
    "a circle": (
        recipe(steps={"x": MIX | {"inputs": ["a", "y"]}, "y": MIX | {"inputs": ["x", "b"]}}),
        "steps.x: is made from itself .x <- y <- x.; break the circle",
    ),
    "a model and a step": (recipe(steps={"a": MIX}), "'a' names both a model and a step"),
    "a result that is none": (
        recipe(result="mixx"),
        "recipe: result: 'mixx' is neither a step nor a model .did you mean 'mix'",
    ),
    "no result": (recipe(steps={}), "recipe: result: is missing; there is no step, so name the model to take"),
    "a component that is none": (
        recipe(components={"vea": "a"}),
        "components.vea: no such component .did you mean 'vae'",
    ),
    "a component from nowhere": (
        recipe(components={"vae": "d"}),
        "components.vae: 'd' is neither a model, a step nor a file",
    ),
    "a dtype that is none": (recipe(output={"dtype": "fp17"}), "output.dtype: .*'fp16'.* found 'fp17'"),
    "output misspelt": (recipe(output={"dtpye": "fp16"}), "output.dtpye: unknown name .did you mean 'dtype'"),
    "output of text": (recipe(output="fp16"), "recipe: output: must be a mapping of names, found 'fp16'"),
    "a title of numbers": (recipe(title=5), "recipe: title: must be text, found 5"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_recipe_is_refused_by_naming_the_place(name):
    data, said = REFUSED[name]
    with pytest.raises(RecipeError, match=said) as error:
        Recipe.parse(data)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    assert not any(word in str(error.value) for word in ("pydantic", "dictionary", "instance", "NoneType'"))


def test_steps_in_a_long_circle_and_too_deep_are_refused():
    chain = {f"s{i}": MIX | {"inputs": ["a", f"s{i + 1}"]} for i in range(400)}
    with pytest.raises(RecipeError, match="nested more than 250 deep"):
        Recipe.parse(recipe(steps=chain | {"s400": MIX}))
    inner = MIX
    for _ in range(400):
        inner = MIX | {"inputs": ["a", inner]}
    with pytest.raises(RecipeError, match="nested more than 250 deep"):
        Recipe.parse({"models": MODELS, "steps": {"s": inner}})
    long = {f"s{i}": MIX | {"inputs": ["a", f"s{i - 1}" if i else "b"]} for i in range(240)}
    assert len(Recipe.parse(recipe(steps=long)).steps) == 240


def test_aliases_that_multiply_are_refused_before_they_fill_the_memory(tmp_path):
    lines = ["models: {a: x.safetensors}", "steps:", "  s0: &s0 {method: copy, inputs: [a]}"]
    lines += [f"  s{i}: &s{i} {{method: uniform, inputs: [*s{i - 1}, *s{i - 1}, *s{i - 1}]}}" for i in range(1, 60)]
    (tmp_path / "r.yaml").write_text("\n".join(lines))
    with pytest.raises(RecipeError, match="more than"):
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
    with pytest.raises(RecipeError, match="aliases"):
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
    "no UTF-8": (b"\xff\xfe\x00m", "not text in UTF-8"),
    "no YAML": ("models: {a: [", "is not valid YAML"),
    "a key twice": ("models: {a: x, a: y}", "line 1 names 'a' a second time"),
    "a step twice": (
        "models: {a: x}\nsteps:\n  s: {method: copy, inputs: [a]}\n  s: {method: copy, inputs: [a]}",
        "line 4 names 's'",
    ),
    "a list as key": ("? [a, b]\n: c\nmodels: {a: x}", "is not valid YAML"),
    "a mapping as key": ("? {a: b}\n: c\nmodels: {a: x}", "is not valid YAML"),
    "a foreign tag": ("models: !!python/object/apply:os.system ['true']", "is not valid YAML"),
    "a tag that does not fit": ("models: !!int ''", "is not valid YAML"),
    "a date that is none": ("models: {a: 2001-99-99}", "is not valid YAML"),
    "itself": ("models: &m {a: *m}", "is not valid YAML|models.a"),
    "deep": ("[" * 5000, "is not valid YAML"),
    "empty": ("", "a recipe is a mapping"),
    "two documents": ("models: {a: x}\n---\nmodels: {a: y}", "is not valid YAML"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_recipes_are_refused_by_name(name, tmp_path):
    content, said = FILES[name]
    with pytest.raises(RecipeError, match=said) as error:
        load(tmp_path, content)
    assert str(tmp_path / "r.yaml") in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_files_folders_and_checkpoints_are_no_recipes(tmp_path):
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.truncate(1 << 40)  # sparse: a terabyte that must not be read
    for path in (tmp_path, tmp_path / "none.yaml", tmp_path / ("x" * 300), tmp_path / "model.safetensors"):
        with pytest.raises(RecipeError, match=r"cannot be read|is a model"):
            Recipe.load(path)


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
