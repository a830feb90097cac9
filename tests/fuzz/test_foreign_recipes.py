"""Whatever stands in another tool's recipe, importing it gives a recipe or our own error, and so does exporting that."""

from __future__ import annotations

import json

import yaml
from fuzz.cases import ANYTHING, FUZZ, SCALARS, damaged
from hypothesis import given
from hypothesis import strategies as st

from unetscope.checkpoints import UnetscopeError
from unetscope.library.history import merge_history
from unetscope.merge import Recipe
from unetscope.merge.exchange import Request, to_mecha
from unetscope.merge.exchange.mergekit import methods_of_mergekit
from unetscope.merge.exchange.reading import import_text
from unetscope.merge.exchange.recorded import from_metadata

MECHA = """version 0.1.0
model "C:\\\\a \\"x\\".safetensors" model_config=null merge_space="weight"
model "b" "sdxl" "base"
dict BASE=0.1 IN00=0.2
literal &2 model_config="sd1-supermerger_blocks"
merge "subtract" &0 &1
merge "weighted_sum" &0 &1 alpha=&3
merge "add_difference" &5 &4 1.0
merge "fallback" &6 &0
"""
LINES = (
    "modelA=a\nmodelB=C:\\b\nmode=Weight sum\n"
    + ",".join(["0.5"] * 26)
    + "\nIN05-OUT05:attn1:0.5\nNOT M00:NOT ff:0.2\n"
)
AUTOMB = "modelA=a\nmodelB=b\nmodelO=c\n" + ",".join(["0.25"] * 27)
LOG = ",".join(map(str, range(27))) + ",score,eval_times,iter_times\n" + ",".join(["0.5"] * 30) + "\n"
MERGEKIT = """models: [{model: a, parameters: {weight: [{filter: x, value: 1}, {value: 0.2}], density: 0.5}}, {model: b}]
base_model: c
merge_method: task_arithmetic
parameters: {lambda: 0.5, normalize: true}
dtype: float16
"""
HASHES = st.sampled_from(["a" * 64, "b" * 64, "c" * 64, "name", ""])
MODES = st.sampled_from(["Weight sum:A", "Add difference", "Triple sum", "sum Twice", "No interpolation", "x"])
WEBUI = st.fixed_dictionaries(
    {"primary_model_hash": HASHES | SCALARS, "interp_method": MODES | ANYTHING},
    optional={
        "secondary_model_hash": HASHES | ANYTHING,
        "tertiary_model_hash": HASHES | ANYTHING,
        "multiplier": SCALARS,
        "bake_in_vae": SCALARS,
        "save_as_half": SCALARS,
        "custom_name": SCALARS,
        "discard_weights": ANYTHING,
        "config_source": ANYTHING,
    },
)
SUPERMERGER = st.fixed_dictionaries(
    {"type": st.just("sd-webui-supermerger"), "model_a": HASHES | SCALARS, "mode": MODES | ANYTHING},
    optional={
        "model_b": HASHES | ANYTHING,
        "model_c": HASHES | ANYTHING,
        "mbw": SCALARS,
        "weights_alpha": st.lists(SCALARS, max_size=27) | ANYTHING,
        "weights_beta": st.lists(st.floats(), min_size=25, max_size=26) | ANYTHING,
        "base_alpha": SCALARS,
        "base_beta": SCALARS,
        "calcmode": st.sampled_from(["normal", "trainDifference", "tensor"]) | ANYTHING,
        "elemental_merge": st.lists(st.text(max_size=20), max_size=3) | ANYTHING,
        "Exclude": ANYTHING,
    },
)
SDNEXT = st.fixed_dictionaries(
    {"type": st.just("SDNext"), "merge_mode": st.sampled_from(["weighted_sum", "triple_sum"]) | ANYTHING},
    optional={"primary_model_hash": HASHES, "secondary_model_hash": HASHES, "alpha": ANYTHING, "beta": ANYTHING},
)
RECORDS = WEBUI | SUPERMERGER | SDNEXT | ANYTHING
MODELS = st.dictionaries(
    HASHES | st.text(max_size=5),
    st.fixed_dictionaries({"name": SCALARS, "sd_merge_recipe": RECORDS.map(json.dumps) | RECORDS}) | ANYTHING,
    max_size=4,
)


def used(found) -> None:
    """What a user does with an imported recipe."""
    again = Recipe.parse(yaml.safe_load(found.to_yaml()), "again")
    assert again.to_plain() == found.recipe.to_plain()
    assert all(line.startswith("#") for line in found.to_yaml().partition("models:")[0].splitlines())
    found.to_yaml().encode("utf-8")
    json.dumps(found.to_plain())
    to_mecha(found.recipe, "sd1")


def tried(make) -> None:
    try:
        used(make())
    except UnetscopeError as error:
        assert str(error)


@FUZZ
@given(RECORDS, MODELS | ANYTHING, st.booleans())
def test_any_merge_metadata(recipe, models, partial):
    metadata = {"sd_merge_recipe": json.dumps(recipe), "sd_merge_models": json.dumps(models)}
    merge_history(metadata, "x")
    try:
        found = from_metadata(metadata, "x", Request(partial=partial))
        if found is not None:
            used(found)
    except UnetscopeError as error:
        assert str(error)


@FUZZ
@given(st.sampled_from([MECHA, LINES, AUTOMB, LOG, MERGEKIT]).flatmap(lambda x: damaged(x.encode())), st.booleans())
def test_damaged_texts(content, partial):
    text = content.decode("utf-8", "replace")
    tried(lambda: import_text(text, "x", Request(partial=partial, old_automb=partial)))


METHODS = st.sampled_from([
    "weighted_sum", "add_difference", "subtract", "scale", "n_average", "slerp", "clamp", "fallback", "pick_component", "ties_sum",
    "train_difference_mask", "ties_sum_with_dropout", "model_stock", "geometric_median", "cast", "convert_x", "tensor_sum", "zzz",
    "perpendicular_component", "add_opposite_mask", "dropout", "ties_sum_extended", "model_stock_for_tensor", "train_difference",
])  # fmt: skip
ARGUMENTS = st.lists(
    st.sampled_from(["&0", "&1", "&2", "&3", "&4", "&5", "0.5", "1", "null", "true", '"vae"', "alpha=0.3", "alpha=&2",
        "k=0.2", "alpha=&4", "k=1.0", "vote_sgn=1.0", "apply_median=true", "della_eps=-0.1", "probability=0.5", "seed=7"]),
    max_size=4,
).map(" ".join)  # fmt: skip
NODES = st.tuples(METHODS, ARGUMENTS).map(lambda node: f'merge "{node[0]}" {node[1]}') | st.sampled_from(
    [
        'literal &2 model_config="sd1-supermerger_blocks"',
        "dict key=0.5",
        "dict unet_class_op=1 txt_default=0",
        "dict a=&0",
    ]
)


@FUZZ
@given(st.lists(NODES, max_size=6), st.booleans(), st.booleans())
def test_any_graph_of_sd_mecha(nodes, versioned, partial):
    lines = ["version 0.1.0"] * versioned + ['model "a"', 'model "b"', "dict BASE=0.1 IN00=0.2", *nodes]
    tried(lambda: import_text("\n".join(lines), "x", Request(partial=partial)))


@FUZZ
@given(
    ANYTHING,
    st.sampled_from(sorted(methods_of_mergekit())),
    ANYTHING,
    ANYTHING,
    ANYTHING,
)
def test_any_configuration_of_mergekit(models, method, parameters, base, more):
    data = {"merge_method": method, "models": models, "parameters": parameters, "base_model": base, "dtype": more}
    tried(lambda: import_text(yaml.safe_dump(data), "x", Request(partial=True)))
    listed = [{"model": "a", "parameters": parameters}, {"model": "b", "parameters": {"weight": more, "t": more}}]
    tried(lambda: import_text(yaml.safe_dump(data | {"models": listed, "base_model": "a"}), "x", Request(partial=True)))
    plain = [{"model": "a"}, {"model": "b", "parameters": {"weight": 0.5, "density": more, "t": 0.3}}]
    tried(lambda: import_text(yaml.safe_dump(data | {"models": plain, "base_model": base}), "x", Request(partial=True)))


@FUZZ
@given(st.text(max_size=60) | st.lists(st.floats() | st.integers(), max_size=28).map(lambda x: ",".join(map(str, x))))
def test_any_text(text):
    tried(lambda: import_text(text, "x", Request(partial=True)))
