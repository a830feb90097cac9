"""Files as they are typed: patterns and lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from unetscope.checkpoints import CheckpointError
from unetscope.cli.arguments import expand


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("[m]/a.safetensors", "[m]/b [1].safetensors", "m/c.safetensors", "d.safetensors"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"")
    return tmp_path


def names(*given):
    return [path.as_posix() for path in expand(list(given))]


def test_only_stars_and_question_marks_are_wildcards(models):
    assert names("[m]/*.safetensors") == ["[m]/a.safetensors", "[m]/b [1].safetensors"]
    assert names("[m]/? [1].*") == ["[m]/b [1].safetensors"]
    assert names("?/*.safetensors", "[m]/b [1].safetensors") == ["m/c.safetensors", "[m]/b [1].safetensors"]
    with pytest.raises(CheckpointError, match="no file fits"):
        expand(["[a-m]/*.safetensors"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_list_holds_names_patterns_and_remarks(encoding, models):
    Path("list.txt").write_text("d.safetensors\n\n  # no\n#neither\n [m]/*.safetensors \n", encoding=encoding)
    assert names("@list.txt") == ["d.safetensors", "[m]/a.safetensors", "[m]/b [1].safetensors"]


@pytest.mark.parametrize("inner", ["@list.txt", "@other.txt"])
def test_a_list_names_no_list_not_even_itself(inner, models, run):
    Path("list.txt").write_text(f"d.safetensors\n{inner}\n")
    with pytest.raises(CheckpointError, match="lists do not hold other lists"):
        expand(["@list.txt"])
    code, out, err = run("merge", "uniform", "@list.txt", "-o", "x.safetensors")
    assert (code, out, len(err.splitlines())) == (2, "", 1)


def test_demo_weights_have_a_dtype_of_their_own(models, run):
    code, _, err = run("demo-checkpoint", "sd1", "-o", "x.safetensors", "--dtype", "keep")
    assert code == 2 and "'keep' is not one of" in err
