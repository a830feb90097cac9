"""No name that is typed into a page leads out of the app's folders."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unetscope.checkpoints.errors import UnetscopeError
from unetscope.dashboard.folders import Folders, choose_folders, current_folders


@pytest.fixture
def folders(tmp_path) -> Folders:
    (tmp_path / "models" / "sdxl").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.safetensors").write_bytes(b"x")
    (tmp_path / "models" / "a.safetensors").write_bytes(b"x")
    (tmp_path / "models" / "sdxl" / "b.safetensors").write_bytes(b"x")
    return Folders.at(tmp_path / "models", tmp_path / "out")


def test_names_below_the_models_folder_are_found(folders):
    assert folders.find("a.safetensors") == folders.models / "a.safetensors"
    found = folders.find("sdxl/b.safetensors")
    assert found.read_bytes() == b"x"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../secret/key.safetensors",
        "sdxl/../../secret/key.safetensors",
        "sdxl/../a.safetensors",
        "..\\secret\\key.safetensors",
        "/etc/passwd",
        "\\\\server\\share\\x.safetensors",
        "C:\\models\\x.safetensors",
        "C:x.safetensors",
        "a.safetensors\0.txt",
        "missing.safetensors",
        "x" * 5000,
    ],
)
def test_other_names_are_refused_in_a_sentence(folders, name):
    with pytest.raises(UnetscopeError):
        folders.find(name)


def test_links_that_lead_out_are_refused_and_links_inside_are_followed(folders, tmp_path):
    os.symlink(tmp_path / "secret", folders.models / "door")
    os.symlink(tmp_path / "secret" / "key.safetensors", folders.models / "key.safetensors")
    os.symlink(folders.models / "a.safetensors", folders.models / "same.safetensors")
    for name in ("door/key.safetensors", "key.safetensors"):
        with pytest.raises(UnetscopeError, match="by a link"):
            folders.find(name)
    assert folders.find("same.safetensors") == folders.models / "a.safetensors"


def test_outputs_stay_in_the_output_folder_even_through_links(folders, tmp_path):
    assert folders.target("mix") == folders.output / "mix.safetensors"
    assert folders.target(" mix.SAFETENSORS ").name == "mix.SAFETENSORS"
    os.symlink(tmp_path / "secret" / "key.safetensors", folders.output / "trap.safetensors")
    os.symlink(tmp_path / "secret", folders.output / "door")
    for name in ("trap", "door/new", "../models/a", "/tmp/x", "", "nowhere/x", "a:b", "what?", "tab\there"):
        with pytest.raises(UnetscopeError):
            folders.target(name)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(name=st.text(st.sampled_from("ab./\\:~ \0"), max_size=12))
def test_whatever_is_typed_resolves_below_the_folder_or_is_refused(folders, name):
    for method in (folders.find, folders.target):
        try:
            path = method(name)
        except UnetscopeError:
            continue
        assert path.resolve().is_relative_to(folders.models if method == folders.find else folders.output)


def test_the_folder_of_the_environment_wins_and_cannot_be_changed_from_a_page(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    choose_folders(str(tmp_path / "one"))
    assert current_folders() == Folders.at(tmp_path / "one")
    monkeypatch.setenv("UNETSCOPE_MODELS", str(tmp_path / "two"))
    assert current_folders().models == tmp_path / "two"
    with pytest.raises(UnetscopeError, match="--models"):
        choose_folders(str(tmp_path / "one"))


def test_a_chosen_folder_is_remembered_and_its_loss_is_told(tmp_path):
    assert current_folders() is None
    (tmp_path / "one").mkdir()
    with pytest.raises(UnetscopeError, match="absent"):
        choose_folders(str(tmp_path / "absent"))
    choose_folders(str(tmp_path / "one"))
    (tmp_path / "one").rmdir()
    with pytest.raises(UnetscopeError, match="one"):
        current_folders()
