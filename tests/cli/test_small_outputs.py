"""Tables, pictures and recipes that replace older ones: the old one, or the new one, whatever fails in between."""

from __future__ import annotations

import errno
import os
import shlex

import pytest

from unetscope.checkpoints.files.output import replace_file, write_output
from unetscope.checkpoints.files.partial import PARTIAL, create_partial
from unetscope.cli import main

COMMANDS = {
    "stats.csv": ["stats", "a.safetensors", "--csv"],
    "histogram.png": ["stats", "a.safetensors", "--histograms"],
    "diff.csv": ["diff", "a.safetensors", "b.safetensors", "--csv"],
    "diagram.svg": ["diagram", "sd1", "-o"],
    "diagram.pdf": ["diagram", "sd1", "-o"],
    "layers.csv": ["layers", "sd1", "-o"],
    "layers.json": ["layers", "sd1", "-o"],
    "recipe.yaml": ["merge", "uniform", "a.safetensors", "b.safetensors", "-o", "o.safetensors", "--save-recipe"],
    "imported.yaml": ["import", "weights.txt", "--inputs", "a.safetensors", "--inputs", "b.safetensors", "-o"],
    "trace.yaml": ["trace", "a.safetensors", "--among", "a.safetensors", "b.safetensors", "--save-recipe"],
    "predict.csv": ["predict", "recipe.yaml", "--csv"],
}


@pytest.fixture
def folder(tmp_path, make_any_models, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_any_models(tmp_path)
    return tmp_path


@pytest.fixture
def make_any_models():
    import torch
    from safetensors.torch import save_file

    def make(folder):
        for seed, name in enumerate("ab"):
            numbers = torch.Generator().manual_seed(seed)
            tensors = {
                f"net.blocks.{i}.{p}.weight": torch.randn(8, 8, generator=numbers) for i in range(3) for p in "xyz"
            }
            save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})
        (folder / "weights.txt").write_text(",".join(["0.5"] * 26))
        (folder / "recipe.yaml").write_text(
            "models: {a: a.safetensors, b: b.safetensors}\nsteps: {m: {method: weighted_sum, inputs: [a, b], alpha: 0.3}}\n"
        )

    return make


def run(*words) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(map(str, words)))
    return end.value.code or 0


@pytest.mark.parametrize("name", COMMANDS)
def test_an_old_file_outlives_a_disk_that_fills(name, folder, monkeypatch, capsys):
    target = folder / f"kept-{name}"
    assert run(*COMMANDS[name], target, "--overwrite") == 0, capsys.readouterr().err
    whole = target.read_bytes()
    assert len(whole) > 20
    target.write_bytes(b"precious")

    def full(path, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        # The file's own fsync is where a full disk shows at the latest.
        patched.setattr("unetscope.checkpoints.files.output.UnderConstruction._finish", full)
        assert run(*COMMANDS[name], target, "--overwrite") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert target.read_bytes() == b"precious"
    assert not [left for left in os.listdir(folder) if PARTIAL in left]
    assert run(*COMMANDS[name], target, "--overwrite") == 0
    assert len(target.read_bytes()) == len(whole)


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "real").write_text("precious")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "hard").hardlink_to(tmp_path / "real")
    (tmp_path / "nowhere").symlink_to("gone/too")
    for name in ("link", "hard", "nowhere"):
        write_output(tmp_path / name, "new")
        assert (tmp_path / name).read_text() == "new" and not (tmp_path / name).is_symlink()
    assert (tmp_path / "real").read_text() == "precious"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes with names")
def test_a_pipe_is_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_output(tmp_path / "pipe", "new")
    assert os.read(reader, 10) == b"new"
    os.close(reader)
    assert os.path.exists(tmp_path / "pipe") and os.listdir(tmp_path) == ["pipe"]


def test_permissions_of_a_file_that_is_replaced_stay(tmp_path):
    (tmp_path / "x").write_text("old")
    os.chmod(tmp_path / "x", 0o600)
    replace_file(tmp_path / "x", "new")
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600


def test_names_that_are_no_utf8_can_be_read_back(tmp_path):
    import json

    import yaml

    name = "m\udce9.safetensors"
    replace_file(tmp_path / "x.json", json.dumps({"file": name}, ensure_ascii=False))
    replace_file(tmp_path / "x.yaml", yaml.safe_dump({"file": name}, allow_unicode=True))
    assert json.loads((tmp_path / "x.json").read_text()) == {"file": name}
    assert yaml.safe_load((tmp_path / "x.yaml").read_text()) == {"file": name}


@pytest.mark.parametrize(
    "words",
    [
        ["stats", "a.safetensors", "--csv", "new.csv"],
        ["merge", "uniform", "a.safetensors", "b.safetensors", "-o", "new.safetensors"],
        ["convert", "a.safetensors", "new.safetensors"],
        ["diagram", "sd1", "-o", "new.svg"],
    ],
)
def test_what_killed_runs_left_is_told_in_a_line_and_stays(words, folder, capsys):
    dead = folder / f"old model.safetensors{PARTIAL}1-abcdef"
    dead.write_bytes(bytes(2_130_000))
    with create_partial(folder / "living.safetensors") as living:
        assert run(*words) == 0
        (line,) = [line for line in capsys.readouterr().err.splitlines() if PARTIAL in line]
        assert dead.name in line and "2.13 MB" in line and f"rm {shlex.quote(dead.name)}" in line
        assert dead.exists() and os.path.exists(living.name)


def test_what_a_killed_run_left_of_the_file_that_is_written_goes_and_is_told(folder, capsys):
    dead = folder / f"new.safetensors{PARTIAL}1-abcdef"
    dead.write_bytes(bytes(100))
    assert run("merge", "uniform", "a.safetensors", "b.safetensors", "-o", "new.safetensors") == 0
    assert dead.name in capsys.readouterr().err and not dead.exists()
