"""`unetscope index`."""

from __future__ import annotations

import hashlib
import json


def digest(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_models_are_listed_with_their_hashes(here, run):
    code, out, _ = run("index", ".", "--compute")
    assert code == 0
    for name in ("a", "xl", "lora"):
        assert digest(here / f"{name}.safetensors")[:10] in out


def test_the_list_as_json_has_whole_hashes(here, run):
    code, out, _ = run("index", here, "--compute", "--json")
    files = {f["path"]: f for f in json.loads(out)["files"]}
    assert code == 0
    assert all(files[str(p)]["sha256"] == digest(p) for p in here.iterdir())


def test_a_model_is_found(here, run):
    found = digest(here / "b.safetensors")
    run("index", here, "--compute")
    assert run("index", here, "--find", found[:10]) == (0, f"{here / 'b.safetensors'}\n", "")
    code, out, _ = run("index", here, "--find", "B.ckpt", "--json")
    assert code == 0 and json.loads(out)["sha256"] == found


def test_a_hash_that_nothing_has_is_an_error_that_says_what_was_not_read(here, run):
    code, out, err = run("index", here, "--find", "0123456789")
    assert (code, out) == (2, "")
    assert "none of 6 models" in err and "--compute" in err


def test_problems_are_warnings(here, run):
    (here / "gone.ckpt").symlink_to(here / "nowhere")
    code, _, err = run("index", here)
    assert code == 0 and "warning" in err and "gone.ckpt" in err
