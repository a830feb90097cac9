"""Merge methods from outside: by an entry point, by `methods:` in a recipe, by `--methods FILE`; and what is refused."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from guides import files_of
from places import place
from safetensors import safe_open
from tiny import load

import unetscope
from unetscope.cli import main
from unetscope.merge import METHODS, MethodError, Recipe, RecipeError, load_methods, merge
from unetscope.merge.exchange import to_mecha
from unetscope.merge.methods import files
from unetscope.merge.methods.declaring import RESERVED, elementwise, linear, statistics, structural, whole
from unetscope.merge.methods.method import Delta, Numbers, Share

MINE = '''\
import numpy as np

from unetscope.merge import Delta, Mecha, Numbers, Share, elementwise, linear, whole


@linear(base="b", mecha=Mecha("weighted_sum", "a b alpha", {"alpha": ("share", 0.5)}, read=""))
def my_mix(a, b, *, share: float = 0.25):
    """(1 - share) a + share b."""
    return 1 - share, share


@elementwise
def my_larger(a, b, *, alpha: float = 1.0):
    """a + alpha (m - a), m the one of a and b that is larger in size."""
    return a + np.float32(alpha) * (np.where(abs(b) > abs(a), b, a) - a)


@whole(working=8)
def my_sum(*deltas: Delta, weights: Numbers = 1.0, density: Share = 1.0):
    """base + density sum w_t (x_t - base)."""
    return np.float32(density) * sum(np.float32(w) * d for w, d in zip(weights, deltas, strict=True))
'''
NAMES = ("my_mix", "my_larger", "my_sum")
STEPS = {"mix": {"method": "my_larger", "inputs": ["a", "b"], "alpha": {"OUT05": 0.5, "default": 1.0}}}
LINEAR = {"mix": {"method": "my_mix", "inputs": ["a", "b"], "share": 0.3}}


@pytest.fixture(autouse=True)
def _forgets():
    """No test leaves methods behind."""
    yield
    for file in files.all_files():
        files.forget_methods(file)


@pytest.fixture
def mine(tmp_path, make_checkpoint) -> Path:
    """A folder with two models and a file of methods."""
    make_checkpoint("a", seed=1), make_checkpoint("b", seed=2)
    (tmp_path / "my_methods.py").write_text(MINE, encoding="utf-8")
    return tmp_path


def write_recipe(folder: Path, steps: dict, name: str = "recipe.yaml", methods: list | None = None) -> Path:
    data = {"models": {"a": "a.safetensors", "b": "b.safetensors"}, "steps": steps}
    path = folder / name
    path.write_text(yaml.safe_dump(data | ({"methods": methods} if methods else {}), sort_keys=False), encoding="utf-8")
    return path


def command(*words) -> int:
    """The exit code of a command, run in this process."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code or 0


# Commands one after another in one process, each of which tells how it ended, and what it printed.
SEVERAL = """
import contextlib, io, json, sys
from unetscope.cli import main
for words in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            main(words)
        except SystemExit as stop:
            code = stop.code or 0
    print(json.dumps([code, out.getvalue()]))
"""


def outputs(folder: Path, commands: list[list[str]], path: Path | None = None) -> list[str]:
    """What commands print in a new process, whose path begins with a folder of packages; all end well."""
    root = str(Path(unetscope.__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*([str(path)] if path else []), root])}
    words = [sys.executable, "-c", SEVERAL, json.dumps(commands)]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    ended = [json.loads(line) for line in done.stdout.splitlines()]
    assert [code for code, _ in ended] == [0] * len(commands), done.stderr
    return [text for _, text in ended]


def larger(folder: Path, alpha) -> dict[str, np.ndarray]:
    """The UNET that `my_larger` makes of a and b, by numpy; `alpha` of a key's label."""
    a, b = ({k: t.numpy().astype(np.float32) for k, t in load(folder / f"{name}.safetensors").items()} for name in "ab")
    return {
        k: (a[k] + np.float32(alpha(place(k).label)) * (np.where(abs(b[k]) > abs(a[k]), b[k], a[k]) - a[k])).astype(
            np.float16
        )
        for k in a
        if k.startswith("model.diffusion_model.")
    }


def assert_unet(path: Path, expected: dict[str, np.ndarray]) -> None:
    written = load(path)
    assert len(expected) > 600
    for key, values in expected.items():
        assert np.array_equal(written[key].numpy(), values), key


def check(folder: Path, more: list[str], listed: bool, path: Path | None = None, methods: list | None = None) -> None:
    """Take the methods through the commands, `more` options at the end of each."""
    write_recipe(folder, STEPS, methods=methods), write_recipe(folder, LINEAR, "linear.yaml", methods)
    commands = [
        ["merge", "run", "recipe.yaml", "-o", "run.safetensors", *more],
        ["lint", "linear.yaml", "--json", *more],
        ["predict", "linear.yaml", "--json", "--by", "component", *more],
    ]
    if listed:
        commands += [
            ["methods", "--json", *more],
            ["methods", "my_larger", *more],
            [
                "merge",
                "my-larger",
                "a.safetensors",
                "b.safetensors",
                "-o",
                "command.safetensors",
                "--alpha",
                "0.5",
                *more,
            ],
        ]
    _, lint, predicted, *rest = outputs(folder, commands, path)
    assert_unet(folder / "run.safetensors", larger(folder, lambda label: 0.5 if label == "OUT05" else 1.0))
    (unet,) = (part for part in json.loads(lint)["shares"] if part["component"] == "unet")
    assert unet["shares"] == {"a": pytest.approx(0.7), "b": pytest.approx(0.3)}
    (row,) = (row for row in json.loads(predicted) if row["component"] == "unet")
    a, b = (load(folder / f"{name}.safetensors") for name in "ab")
    keys = [k for k in a if k.startswith("model.diffusion_model.")]
    apart = sum(float(np.square(a[k].numpy().astype(float) - b[k].numpy().astype(float)).sum()) for k in keys) ** 0.5
    length = sum(float(np.square(a[k].numpy().astype(float)).sum()) for k in keys) ** 0.5
    assert row["relative a"] == pytest.approx(0.3 * apart / length, rel=1e-3)
    if listed:
        assert {m["name"] for m in json.loads(rest[0])} >= set(NAMES)
        assert "a + alpha (m - a)" in rest[1]
        assert_unet(folder / "command.safetensors", larger(folder, lambda label: 0.5))


# -- three ways in ----------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path):
    """A distribution that is installed: a module, and metadata that names it."""
    folder = tmp_path / "packages"
    metadata = folder / "my_methods-1.0.dist-info"
    metadata.mkdir(parents=True)
    (folder / "my_methods.py").write_text(MINE, encoding="utf-8")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-methods\nVersion: 1.0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text("[unetscope.methods]\nmine = my_methods\n", encoding="utf-8")
    return folder


def test_an_entry_point_adds_methods_everywhere(mine, package):
    (mine / "my_methods.py").unlink()
    check(mine, [], listed=True, path=package)


def test_a_recipe_names_its_file_of_methods(mine):
    check(mine, [], listed=False, methods=["my_methods.py"])


def test_the_command_line_names_a_file_of_methods(mine):
    check(mine, ["--methods", "my_methods.py"], listed=True)


def test_the_file_may_stand_before_the_method(mine, monkeypatch):
    monkeypatch.chdir(mine)
    words = ["--methods", "my_methods.py", "my-sum", "a.safetensors", "b.safetensors", "-o", "out.safetensors"]
    assert command("merge", *words) == 0
    key = "model.diffusion_model.out.2.weight"
    a, b = (load(mine / f"{name}.safetensors")[key].numpy().astype(np.float32) for name in "ab")
    written = load(mine / "out.safetensors")[key].numpy()
    assert np.array_equal(written, (a + (b - a)).astype(np.float16))


def test_an_entry_point_that_takes_a_name_is_refused(mine, package):
    (mine / "my_methods.py").unlink()
    (package / "my_methods.py").write_text(MINE.replace("my_mix", "weighted_sum"), encoding="utf-8")
    root = str(Path(unetscope.__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(package), root])}
    words = ["merge", "uniform", "a.safetensors", "b.safetensors", "-o", "out.safetensors"]
    done = subprocess.run(
        [sys.executable, "-m", "unetscope", *words], cwd=mine, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2 and "weighted_sum" in done.stderr and "Traceback" not in done.stderr
    assert not (mine / "out.safetensors").exists()


# -- what a result remembers ------------------------------------------------------------------------------------------


def remembered(path: Path) -> dict:
    with safe_open(path, "np") as file:
        return yaml.safe_load(file.metadata()["unetscope.recipe"])


def test_a_result_remembers_the_file_and_can_be_repeated_with_it_alone(mine, monkeypatch):
    monkeypatch.chdir(mine)
    load_methods(mine / "my_methods.py")
    recipe = Recipe.load(write_recipe(mine, STEPS))
    merge(recipe, mine / "first.safetensors")
    digest = hashlib.sha256(MINE.encode()).hexdigest()
    assert remembered(mine / "first.safetensors")["methods"] == [{"path": "my_methods.py", "sha256": digest}]

    for file in files.all_files():
        files.forget_methods(file)
    (mine / "kept").mkdir()
    (mine / "my_methods.py").rename(mine / "kept" / "my_methods.py")
    again = ["import", "first.safetensors", "-o", "again.yaml", "--models", "."]
    assert command(*again) == 2 and not (mine / "again.yaml").exists()
    assert command(*again, "--methods", "kept/my_methods.py") == 0
    assert command("merge", "run", "again.yaml", "-o", "second.safetensors") == 0
    first, second = load(mine / "first.safetensors"), load(mine / "second.safetensors")
    assert all(np.array_equal(first[k].numpy(), second[k].numpy()) for k in first)


def test_another_content_of_the_file_is_refused(mine, monkeypatch):
    monkeypatch.chdir(mine)
    recipe = write_recipe(mine, STEPS, methods=["my_methods.py"])
    assert command("merge", "run", recipe, "-o", "a2.safetensors", "--save-recipe", "saved.yaml") == 0
    (mine / "my_methods.py").write_text(MINE.replace("abs(b) > abs(a)", "b > a"), encoding="utf-8")
    assert command("merge", "run", "saved.yaml", "-o", "b2.safetensors") == 2
    assert not (mine / "b2.safetensors").exists()
    # The first recipe takes the file as it is now.
    assert command("merge", "run", recipe, "-o", "c2.safetensors") == 0
    changed = load(mine / "a2.safetensors"), load(mine / "c2.safetensors")
    assert any(not np.array_equal(changed[0][k].numpy(), changed[1][k].numpy()) for k in changed[0])


def test_a_recipe_without_own_methods_says_nothing_of_them(mine):
    merge(Recipe.load(write_recipe(mine, {"m": {"method": "uniform", "inputs": ["a", "b"]}})), mine / "o.safetensors")
    assert "methods" not in remembered(mine / "o.safetensors")


def test_paths_of_methods_move_with_the_recipe(mine):
    recipe = Recipe.load(write_recipe(mine, STEPS, methods=["my_methods.py"]))
    assert [source.path for source in recipe.methods] == [str(mine / "my_methods.py")]
    assert str(mine / "my_methods.py") in recipe.files()
    assert recipe.with_paths(lambda path: f"x/{Path(path).name}").to_plain()["methods"][0]["path"] == "x/my_methods.py"


# -- what runs code, and what does not --------------------------------------------------------------------------------


def test_plain_data_never_runs_a_file(mine):
    (mine / "my_methods.py").write_text(f"{MINE}\nopen({str(mine / 'ran')!r}, 'w').close()\n", encoding="utf-8")
    path = write_recipe(mine, STEPS, methods=[str(mine / "my_methods.py")])
    with pytest.raises(RecipeError, match=r"--methods my_methods\.py"):
        Recipe.parse(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert not (mine / "ran").exists()
    Recipe.load(path)
    assert (mine / "ran").exists()


def test_the_app_takes_a_recipe_only_of_files_that_it_was_started_with(mine, monkeypatch):
    pytest.importorskip("streamlit")
    from unetscope.dashboard import own_methods
    from unetscope.dashboard.merge_form import MergeForm
    from unetscope.dashboard.merge_load import parse

    text = write_recipe(mine, STEPS, methods=["my_methods.py"]).read_text(encoding="utf-8")
    with pytest.raises(RecipeError, match=r"--methods my_methods\.py"):
        parse(text, "recipe.yaml")
    own_methods._load.cache_clear()
    monkeypatch.setenv(own_methods.METHODS_VARIABLE, str(mine / "my_methods.py"))
    own_methods.load_own_methods()
    assert parse(text, "recipe.yaml").steps["mix"].kind is METHODS["my_larger"]
    form = MergeForm("my_larger", ("a.safetensors", "b.safetensors"), {"alpha": 0.5})
    assert form.recipe().to_plain()["methods"][0]["sha256"] == hashlib.sha256(MINE.encode()).hexdigest()
    # A file of that name with another content is another file.
    other = yaml.safe_load(text) | {"methods": [{"path": "my_methods.py", "sha256": "0" * 64}]}
    with pytest.raises(RecipeError, match="SHA-256"):
        parse(yaml.safe_dump(other), "recipe.yaml")
    own_methods._load.cache_clear()


def test_a_study_takes_the_methods_of_its_recipe(mine):
    from unetscope.search.study import Study

    steps = {"mix": {"method": "my_mix", "inputs": ["a", "b"], "share": {"free": [0, 1]}}}
    write_recipe(mine, steps, methods=["my_methods.py"])
    study = Study.parse({"recipe": "recipe.yaml", "objective": "objective.py:score"}, "study", mine)
    template = study.template()
    recipe = template.recipe(template.middle())
    assert recipe.steps["mix"].given["share"] == 0.5 and recipe.steps["mix"].kind is METHODS["my_mix"]
    kept = yaml.safe_load(study.to_yaml())["recipe"]
    assert kept["methods"] == ["my_methods.py"]


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_file_is_run_once_however_often_it_is_named(mine):
    (mine / "my_methods.py").write_text(f"{MINE}\nopen({str(mine / 'ran')!r}, 'a').write('x')\n", encoding="utf-8")
    first = load_methods(mine / "my_methods.py")
    (mine / "copy.py").write_bytes((mine / "my_methods.py").read_bytes())
    assert load_methods(mine / "copy.py") is first and first.methods == NAMES
    assert (mine / "ran").read_text(encoding="utf-8") == "x"


def test_two_files_with_one_name_are_refused_and_leave_nothing(mine):
    load_methods(mine / "my_methods.py")
    (mine / "more.py").write_text(MINE.replace("my_mix", "another").replace("my_sum", "third"), encoding="utf-8")
    with pytest.raises(MethodError, match="'my_larger'"):
        load_methods(mine / "more.py")
    assert "another" not in METHODS and "third" not in METHODS


BROKEN = {
    "nothing.py": ("x = 1\n", "holds no merge methods"),
    "raises.py": ("raise ValueError('no')\n", "raises.py, line 1"),
    "syntax.py": ("def f(:\n", "cannot be run"),
    "built_in.py": (MINE.replace("my_mix", "weighted_sum"), "'weighted_sum' already"),
    "wrong.py": (MINE.replace("return 1 - share, share", "return 1 - share"), "wrong.py, line 6: my_mix"),
    "text.txt": (MINE, ".py"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_taken_ends_the_command_with_a_sentence(mine, name, monkeypatch, capsys):
    monkeypatch.chdir(mine)
    text, says = BROKEN[name]
    (mine / name).write_text(text, encoding="utf-8")
    words = ["uniform", "a.safetensors", "b.safetensors", "-o", "out.safetensors"]
    assert command("merge", *words, "--methods", name) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
    assert not (mine / "out.safetensors").exists()
    recipe = write_recipe(mine, STEPS, methods=[name])
    assert command("merge", "run", recipe, "-o", "out.safetensors") == 2 and not (mine / "out.safetensors").exists()


def test_the_example_of_the_documentation_works(mine):
    (mine / "example.py").write_text(files_of("recipes.md")["my_methods.py"], encoding="utf-8")
    assert load_methods(mine / "example.py").methods == ("toward", "larger", "summed")
    steps = {"mix": {"method": "larger", "inputs": ["a", "b"]}}
    merge(Recipe.load(write_recipe(mine, steps)), mine / "out.safetensors")
    assert_unet(mine / "out.safetensors", larger(mine, lambda label: 1.0))


# -- signatures -------------------------------------------------------------------------------------------------------


def no_docstring(a, b):
    return a


def one_share(a, b, *, alpha: float = 0.5):
    """a."""
    return (alpha,)


def unknown_annotation(a, b, *, alpha: str = "x"):
    """a."""
    return a


def no_annotation(a, b, *, alpha=0.5):
    """a."""
    return a


def wrong_default(a, b, *, share: Share = 2.0):
    """a."""
    return a


def none_as_default(a, b, *, alpha: float = None):  # noqa: RUF013 (the mistake that is meant)
    """a."""
    return a


def parameter_as_input(a, b, alpha: float = 0.5):
    """a."""
    return a


def supplied_as_input(a, key, *, has):
    """a."""
    return a


def of_another_kind(a, *, ema):
    """a."""
    return a


def any_keywords(a, **more):
    """a."""
    return a


def no_inputs(*, alpha: float = 0.5):
    """a."""
    return alpha


def after_inputs(a, *models, weights: Numbers = 1.0):
    """a."""
    return a


def an_option(a, *, title: float = 0.5):
    """a."""
    return a


def yields(a, b):
    """a."""
    yield a


def never_yields(a, b):
    """a."""
    return 1.0, 0.0


def fails(a, b, *, alpha: float = 0.5):
    """a."""
    return 1 / (alpha - 0.5), 0.0


def run(a):
    """a."""
    return (1.0,)


WRONG = [
    (linear, one_share, "returns 1 share for 2 inputs"),
    (linear, fails, "cannot be called with its defaults"),
    (linear, run, "another command"),
    (linear, of_another_kind, "ema is supplied"),
    (elementwise, no_docstring, "docstring"),
    (elementwise, unknown_annotation, "alpha is annotated"),
    (elementwise, no_annotation, "found nothing"),
    (elementwise, wrong_default, "default of share"),
    (elementwise, none_as_default, "default of alpha"),
    (elementwise, parameter_as_input, "alpha looks like a parameter"),
    (elementwise, any_keywords, "names each of its parameters"),
    (elementwise, no_inputs, "takes no inputs"),
    (elementwise, after_inputs, "Delta"),
    (elementwise, an_option, "cannot be called title"),
    (elementwise, yields, "yields"),
    (structural, supplied_as_input, "key is supplied"),
    (statistics(passes=2), never_yields, "never does"),
    (statistics(passes=1), yields, "at least 2"),
    (whole(working=-1), one_share, "number of bytes"),
    (elementwise(base="c"), one_share, "not an input"),
    (linear, "a b", "above a function"),
]


@pytest.mark.parametrize(("decorator", "function", "says"), WRONG, ids=lambda x: getattr(x, "__name__", None))
def test_a_wrong_signature_is_refused_where_it_stands(decorator, function, says):
    with pytest.raises(MethodError) as refused:
        decorator(function)
    said = str(refused.value)
    assert says in said and "\n" not in said
    if callable(function):
        line = function.__code__.co_firstlineno
        assert said.startswith(f"{__file__}, line {line}: {function.__name__}: ")


def test_the_signature_is_the_declaration():
    @whole(working=4)
    def made(*deltas: Delta, at, weights: Numbers, density: Share = 0.5, seed: int = 3, far: bool = False):
        """base + sum."""

    assert made.inputs == ("base",) and made.variadic and made.on_deltas and made.base_at == 0
    assert made.supplied == ("at",) and made.passes == 1
    kinds = {p.name: (p.kind, p.default, p.share) for p in made.parameters.values()}
    assert kinds == {
        "weights": ("numbers", None, False), "density": ("number", 0.5, True), "seed": ("integer", 3, False),
        "far": ("switch", False, False),
    }  # fmt: skip

    @linear(result="first", base="b")
    def told(a, b: Delta, *, alpha: float = 2):
        """a + alpha b."""
        return 1.0, alpha

    assert told.inputs == ("a", "b") and told.deltas == {"b"} and told.base_at == 1
    assert told("a", "b", alpha=0.5) == (1.0, 0.5) == told.shares(2, {"alpha": 0.5})
    assert METHODS["subtract"].result == "delta"


def test_every_option_of_a_merge_is_a_name_that_no_parameter_has():
    from unetscope.cli.merging import _COMMON

    assert set(_COMMON) <= RESERVED


def test_methods_come_in_the_order_of_their_modules_and_names_are_taken_once():
    assert list(METHODS)[:3] == ["uniform", "weighted_sum", "weighted_average"] and list(METHODS)[-1] == "exchange_ema"

    @linear
    def weighted_sum(a, b):
        """a."""
        return 1.0, 0.0

    before = METHODS["weighted_sum"]
    with pytest.raises(MethodError, match="'weighted_sum'"):
        METHODS.register(weighted_sum)
    assert METHODS["weighted_sum"] is before


def test_a_method_can_be_sent_to_another_process():
    assert pickle.loads(pickle.dumps(METHODS["slerp"])) is METHODS["slerp"]


# -- what others know of it -------------------------------------------------------------------------------------------


def test_a_method_that_sd_mecha_has_is_written_for_it(mine):
    load_methods(mine / "my_methods.py")
    recipe = Recipe.load(write_recipe(mine, LINEAR))
    assert 'merge "weighted_sum" &0 &1 alpha=0.3' in to_mecha(recipe, "sd1")
    with pytest.raises(RecipeError, match="my_larger"):
        to_mecha(Recipe.load(write_recipe(mine, STEPS)), "sd1")


def test_no_table_outside_the_methods_lists_them():
    """Others ask records: a list, a set or a mapping that names several methods is a fact in the wrong place."""
    root, tables = Path(unetscope.__file__).parent, 0
    for room in ("merge", "search", "cli", "dashboard", "analysis", "diagrams", "library", "checkpoints"):
        for path in (root / room).rglob("*.py"):
            if path.parent.name == "methods":
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                items = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", ())
                named = {x.value for x in items if isinstance(x, ast.Constant)} & set(METHODS)
                tables += 1
                assert len(named) < 2, (path, node.lineno, named)
    assert tables > 1000
