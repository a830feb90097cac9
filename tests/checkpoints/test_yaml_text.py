"""The one loader of YAML: what it takes, and what it refuses before anything grows."""

from __future__ import annotations

import pytest
import yaml

from unetscope.checkpoints.errors import LabelError
from unetscope.checkpoints.files.yaml_text import plain_from_yaml
from unetscope.checkpoints.opening import open_checkpoint
from unetscope.merge import RecipeError
from unetscope.merge.recipe_file import parse_yaml
from unetscope.merge.weights_text import parse_weights


def bomb(levels: int) -> str:
    """Lists of nine lists of nine lists...: 9 to the power of `levels` values in a line a level."""
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    return "\n".join([*lines, *(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels + 1)), ""])


SOUND = [
    "",
    "5",
    "{a: [1, 2.5, yes, null, text, 2026-01-02], b: {c: d}}",
    "base: &base {x: 1, y: 2}\nother: {<<: *base, y: 3}\nlist: [*base, *base]",
    "{<<: &mid {<<: {x: 1, y: 1}, x: 2}, other: *mid, 1: a}",
    "a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc: {<<: [*a, *b], z: 3}\nd: {<<: [*b, *a]}",
    "a: |\n  lines\n  of text\n",
    bomb(3),
]


@pytest.mark.parametrize("text", SOUND)
def test_what_is_sound_is_read_as_pyyaml_reads_it(text):
    assert plain_from_yaml(text) == yaml.safe_load(text)


def test_many_values_without_aliases_are_no_bomb():
    assert len(plain_from_yaml(f"[{','.join(['0'] * 30_000)}]")) == 30_000


@pytest.mark.parametrize(
    "text",
    [
        bomb(12),
        bomb(60),
        "b: &b {k0: v}\n"
        + "".join(f"m{i}: &m{i} {{a: *m{i - 1}, b: *m{i - 1}}}\n" for i in range(1, 40)).replace("*m0", "*b"),
        "a: &a [*a]",
        "a: &a {b: {c: *a}}",
        "a: 1\na: 2",
        "a: [",
        "[" * 5000,
        "!!python/object/apply:os.system [echo]",
        "!!timestamp x",
        "a: *nobody",
        "\x00",
    ],
)
def test_what_multiplies_holds_itself_or_is_no_yaml_is_refused_in_a_line(text):
    with pytest.raises(ValueError) as error:
        plain_from_yaml(text)
    assert 0 < len(str(error.value)) <= 300 and "\n" not in str(error.value)


def test_what_is_merged_into_what_is_merged_does_not_multiply():
    lines = ["a0: &a0 {x: 1, y: 2}", *(f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 30))]
    assert plain_from_yaml("\n".join(lines), most_repeated=None)["a29"] == {"x": 1, "y": 2}


def test_every_reader_of_yaml_is_bounded(tmp_path, make_checkpoint):
    path, _ = make_checkpoint("model")
    side = path.with_suffix(".yaml")
    side.write_text(bomb(12) + "model: {params: {parameterization: *a12}}\n")
    with open_checkpoint(path) as found:
        assert found.prediction != "v" and "sidecar" not in found.prediction_from
    side.write_text("model: {params: {parameterization: v}}\n")
    with open_checkpoint(path) as found:
        assert (found.prediction, found.prediction_from) == ("v", "sidecar model.yaml")
    with pytest.raises(RecipeError, match="aliases"):
        parse_yaml(bomb(12), "recipe.yaml")
    (tmp_path / "weights.yaml").write_text(bomb(12))
    with pytest.raises(LabelError, match="aliases"):
        parse_weights("@weights.yaml", tmp_path)
