"""The script that compares two checkouts sees what differs. It makes no merges here: it takes minutes."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from same_bytes import (
    ROOT,
    Tensor,
    checkout,
    compared,
    difference,
    link_folder,
    metadata_difference,
    read_safetensors,
    sum_of,
    write_safetensors,
)
from same_bytes_jobs import Job, all_jobs, method_recipes

JOB = Job("group/a job", ("merge -o {file}",))


@pytest.fixture
def folders(tmp_path):
    """Two folders with an equal .safetensors file and an equal table each."""
    made = [tmp_path / name / JOB.slug for name in ("before", "after")]
    for folder in made:
        folder.mkdir(parents=True)
        save_file(
            {"a": np.arange(6, dtype=np.float16).reshape(2, 3), "b": np.ones(2, np.float32)}, folder / "x.safetensors"
        )
        (folder / "x.csv").write_text("block,value\nIN00,1\n")
    return made


def change(path, name, **fields):
    tensors = read_safetensors(path)[0]
    tensors[name] = replace(tensors[name], **fields)
    write_safetensors(path, tensors)


def test_equal_files_are_equal(folders):
    assert difference(*folders) == ""
    assert sum_of(folders[0]) == sum_of(folders[1])
    row = compared(JOB, [{JOB.name: [0]}] * 2, folders[0].parent.parent)
    assert row.equal and not row.differs


def test_one_value_that_differs_is_found_and_measured(folders):
    values = np.arange(6, dtype=np.float16)
    values[4] += 0.25
    change(folders[1] / "x.safetensors", "a", data=values.tobytes())
    found = difference(*folders)
    assert "1 of 2 tensors" in found and "first a " in found and "0.25" in found
    assert sum_of(folders[0]) != sum_of(folders[1])
    row = compared(JOB, [{JOB.name: [0]}] * 2, folders[0].parent.parent)
    assert row.differs and not row.equal


@pytest.mark.parametrize(
    "dtype, one, other, apart",
    [
        ("BF16", b"\x80\x3f", b"\x00\x40", 1),  # 1 and 2
        ("F8_E4M3", b"\x38", b"\x3c", 0.5),  # 1 and 1.5
        ("I64", bytes(8), b"\x07" + bytes(7), 7),
        ("BOOL", b"\x00", b"\x01", 1),
        ("F32", bytes(4), b"\x00\x00\xc0\x7f", np.inf),  # 0 and NaN
        ("of the future", b"\x01", b"\x04", 3),
    ],
)
def test_differences_are_those_of_the_numbers_whatever_the_dtype(folders, dtype, one, other, apart):
    for folder, data in zip(folders, (one, other), strict=True):
        write_safetensors(folder / "x.safetensors", {"a": Tensor(dtype, (1,), data)})
    assert difference(*folders).endswith(f"largest difference {apart:.3g} in a")


def test_zeros_of_other_signs_and_other_nans_are_other_bytes(folders):
    for folder, value in zip(folders, (0.0, -0.0), strict=True):
        change(folder / "x.safetensors", "b", data=np.array([value, np.nan], np.float32).tobytes())
    assert "by 0" in difference(*folders)


@pytest.mark.parametrize("fields", [{"dtype": "I32"}, {"shape": (1, 2)}])
def test_another_dtype_or_shape_is_different_though_the_bytes_are_equal(folders, fields):
    change(folders[1] / "x.safetensors", "b", **fields)
    assert "b was F32 [2]" in difference(*folders)
    assert sum_of(folders[0]) != sum_of(folders[1])


def test_the_order_of_tensors_in_a_file_does_not_matter(folders):
    path = folders[1] / "x.safetensors"
    write_safetensors(path, dict(reversed(read_safetensors(path)[0].items())))
    assert difference(*folders) == ""
    assert sum_of(folders[0]) == sum_of(folders[1])


def test_tensors_and_files_that_are_missing_are_different(folders):
    tensors = read_safetensors(folders[1] / "x.safetensors")[0]
    write_safetensors(folders[1] / "x.safetensors", {"a": tensors["a"]})
    assert "b" in difference(*folders)
    (folders[1] / "x.safetensors").unlink()
    assert "x.safetensors" in difference(*folders)


def test_a_line_of_text_that_differs_is_shown(folders):
    (folders[1] / "x.csv").write_text("block,value\nIN00,2\n")
    assert "x.csv: line 2" in difference(*folders)


@pytest.mark.parametrize("codes", [([0], [2]), ([0], None), (["traceback"], [0])])
def test_other_exit_codes_are_different(folders, codes):
    found = [{} if code is None else {JOB.name: code} for code in codes]
    row = compared(JOB, found, folders[0].parent.parent)
    assert row.differs and not row.equal


def test_what_both_refuse_and_what_makes_nothing_shows_nothing(folders, tmp_path):
    refused = compared(JOB, [{JOB.name: [2]}] * 2, folders[0].parent.parent)
    nothing = compared(Job("group/other", ()), [{"group/other": [0]}] * 2, folders[0].parent.parent)
    for row in (refused, nothing):
        assert not row.equal and not row.differs


def test_metadata_is_compared_without_versions_and_dates(folders):
    said = [{"modelspec.date": "1", "unetscope.version": "1", "note": "x"}, {"modelspec.date": "2", "note": "x"}]
    for folder, metadata in zip(folders, said, strict=True):
        save_file({"a": np.zeros(1)}, folder / "x.safetensors", metadata=metadata)
    assert metadata_difference(*folders) == ""
    save_file({"a": np.zeros(1)}, folders[1] / "x.safetensors", metadata=said[1] | {"note": "y"})
    assert metadata_difference(*folders) == "note"
    assert difference(*folders) == ""


def test_files_are_written_as_others_read_them(tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": Tensor("F32", (2,), np.array([1, 2], np.float32).tobytes())})
    assert load_file(path)["a"].tolist() == [1, 2]


def test_a_folder_of_any_name_is_a_checkout(tmp_path):
    copy = tmp_path / "of another name"
    link_folder(ROOT, copy)
    with checkout(str(copy), tmp_path / "side") as side:
        found = side.python(
            "-c", "import unetscope; print(unetscope.__file__)", folder=tmp_path, capture_output=True, text=True
        )
        assert found.stdout.startswith(str(tmp_path / "side"))
    assert not (tmp_path / "side" / "unetscope").exists()
    assert (ROOT / "cli" / "__init__.py").exists()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_revision_is_checked_out_and_removed_again(tmp_path, monkeypatch):
    repository = tmp_path / "repository"
    (repository / "cli").mkdir(parents=True)
    (repository / "__init__.py").write_text("number = 1")
    (repository / "cli" / "__init__.py").touch()

    def git(*words):
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.com")
        return subprocess.run(
            ["git", *identity, *words], cwd=repository, check=True, capture_output=True, text=True
        ).stdout

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "one")
    (repository / "__init__.py").write_text("number = 2")
    monkeypatch.setattr("same_bytes.ROOT", repository)
    with checkout("HEAD", tmp_path / "before") as side, checkout(str(repository), tmp_path / "after") as other:
        program = ("-c", "import unetscope; print(unetscope.number)")
        found = [x.python(*program, folder=tmp_path, capture_output=True, text=True).stdout for x in (side, other)]
        assert [int(x) for x in found] == [1, 2]
        assert len(git("worktree", "list").splitlines()) == 2
    assert len(git("worktree", "list").splitlines()) == 1
    assert not side.parent.joinpath("unetscope").exists()


@pytest.mark.parametrize("name", ["no-such-revision", "--help", "."])
def test_what_is_neither_checkout_nor_revision_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="is n"), checkout(name, tmp_path / "side"):
        pass


def test_every_method_is_a_job_by_default_with_other_numbers_and_by_block():
    parameters = {
        "alpha": {"kind": "number", "default": 1.0},
        "elect": {"kind": "choice", "default": "sum", "choices": ["sum", "count"]},
        "seed": {"kind": "integer", "default": 0},
    }
    recipes = method_recipes([{"name": "new", "inputs": ["base"], "variadic": True, "parameters": parameters}])
    assert recipes["new"].endswith("{method: new, inputs: [sd1-base, sd1-ink, sd1-photo, sd1-anime]}")
    assert "alpha: 0.7, seed: 7" in recipes["new other numbers"]
    assert "IN*: 0.8" in recipes["new by block"]
    assert "elect: count" in recipes["new elect=count"]


def test_every_method_of_this_checkout_has_jobs():
    from unetscope.merge.methods import METHODS

    listed = [{"name": name, "inputs": None, "variadic": True, "parameters": {}} for name in METHODS]
    names = {job.name for job in all_jobs(listed)}
    assert {f"method/{name}" for name in METHODS} <= names
    assert len(names) > 200
