"""Files found by what others recorded about them."""

from __future__ import annotations

import hashlib
import json
import os
import threading

import pytest

from unetscope.checkpoints.demo import write_demo
from unetscope.checkpoints.errors import CheckpointError, UnetscopeError
from unetscope.checkpoints.hashes import sha256
from unetscope.checkpoints.stream import Cancelled
from unetscope.library.hash_index import HashIndex
from unetscope.library.scan import scan


def digest(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two demo models, made once."""
    folder = tmp_path_factory.mktemp("made")
    write_demo(folder / "One.safetensors", "sd1", seed=1)
    write_demo(folder / "two.safetensors", "sd1", seed=2)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """Models in subfolders, linked to those: `sd/One.safetensors`, `sd/deep/two.safetensors`, an embedding, and other files."""
    root = tmp_path / "models"
    (root / "sd" / "deep").mkdir(parents=True)
    os.link(made / "One.safetensors", root / "sd" / "One.safetensors")
    os.link(made / "two.safetensors", root / "sd" / "deep" / "two.safetensors")
    (root / "word.pt").write_bytes(os.urandom(2_000_000))
    (root / "readme.txt").write_text("no model")
    return root


def paths(index):
    return [file.path.name for file in index.files]


def test_models_are_listed_with_what_is_known_without_reading_them(folder):
    index = HashIndex.load([folder])
    assert paths(index) == ["One.safetensors", "two.safetensors", "word.pt"]
    for file in index.files:
        content = file.path.read_bytes()
        assert file.legacy == hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]
        assert (file.size, file.sha256, file.fingerprints) == (len(content), None, {})
    assert index.problems == ()


def test_computing_gives_every_hash_and_remembers_it(folder):
    index = HashIndex.load([folder], compute=True)
    for file in index.files:
        assert (file.sha256, file.sha256_from) == (digest(file.path), "read")
    one = index.files[0]
    assert one.fingerprints == scan(one.path).fingerprints and one.fingerprints["unet"]
    again = HashIndex.load([folder])
    assert {f.sha256_from for f in again.files} == {"remembered"}
    assert [(f.sha256, f.fingerprints) for f in again.files] == [(f.sha256, f.fingerprints) for f in index.files]


def test_what_was_computed_is_not_read_again(folder, monkeypatch):
    HashIndex.load([folder], compute=True)

    def refuse(*args, **named):
        raise AssertionError("read again")

    monkeypatch.setattr("unetscope.library.scan.scan", refuse)
    index = HashIndex.load([folder / "sd"], compute=True)
    assert all(file.sha256 and file.fingerprints for file in index.files)


def test_a_changed_file_is_not_taken_for_what_it_was(folder):
    HashIndex.load([folder], compute=True)
    (folder / "word.pt").write_bytes(b"other")
    file = HashIndex.load([folder]).files[-1]
    assert file.path.name == "word.pt" and file.sha256 is None


def test_a_file_that_was_moved_or_renamed_is_found_where_it_is_once_it_was_read_there(folder):
    HashIndex.load([folder], compute=True)
    old, new = folder / "sd" / "One.safetensors", folder / "sd" / "deep" / "Renamed.safetensors"
    found = digest(old)
    old.rename(new)
    # Another model under the old name, of the same size: no record of the old file may answer for it.
    content = bytearray(new.read_bytes())
    content[-1] ^= 1
    old.write_bytes(content)
    before = HashIndex.load([folder])
    assert before.find(found) is None
    assert before.find("one") == old and before.find("renamed") == new
    after = HashIndex.load([folder], compute=True)
    assert after.find(found[:10]) == new
    assert after.find(hashlib.sha256(content).hexdigest()) == old


def test_a_sha256_that_was_computed_elsewhere_is_known(folder):
    path = folder / "sd" / "One.safetensors"
    found = sha256(path)
    assert HashIndex.load([folder]).find(found[:10]) == path


def test_a_model_is_found_by_any_of_its_hashes(folder):
    index = HashIndex.load([folder], compute=True)
    for file in index.files:
        whole = digest(file.path)
        for text in (whole, whole[:10], whole.upper(), f" {whole[:12]}\n", file.legacy, *file.fingerprints.values()):
            assert index.find(text) == file.path
    assert index.find("0" * 64) is None
    assert index.find("") is None
    assert index.find(whole[:9]) is None


def test_a_model_is_found_by_its_name_whatever_case_suffix_and_folder(folder):
    index = HashIndex.load([folder])
    one = folder / "sd" / "One.safetensors"
    for text in ("One.safetensors", "one", "ONE.CKPT", r"D:\models\Stable-diffusion\one.safetensors", "x/one.pt"):
        assert index.find(text) == one
    assert index.find("one.v2") is None


def test_the_web_uis_title_is_a_hash_and_a_name(folder):
    index = HashIndex.load([folder], compute=True)
    one, two = (folder / "sd" / "One.safetensors", folder / "sd" / "deep" / "two.safetensors")
    assert index.find(f"renamed.safetensors [{digest(two)[:10]}]") == two
    assert index.find("sd/one.safetensors [0123456789]") == one


def test_a_name_of_several_models_is_an_error_that_lists_them(folder):
    (folder / "xl").mkdir()
    other = folder / "xl" / "one.ckpt"
    other.write_bytes(b"x")
    index = HashIndex.load([folder])
    with pytest.raises(UnetscopeError, match="fits 2 different files") as error:
        index.find("one")
    assert error.value.code == "index.ambiguous"
    assert all(str(path) in str(error.value) for path in (folder / "sd" / "One.safetensors", other))
    # What is typed beyond the name decides.
    assert index.find("one.ckpt") == other
    assert index.find("xl/one") == other


def test_copies_of_one_model_are_one(folder):
    copy = folder / "copy of one.safetensors"
    copy.write_bytes((folder / "sd" / "One.safetensors").read_bytes())
    index = HashIndex.load([folder], compute=True)
    assert index.find(digest(copy)) == copy
    (folder / "link.safetensors").symlink_to(folder / "sd" / "deep" / "two.safetensors")
    assert HashIndex.load([folder]).find(digest(folder / "link.safetensors")).resolve().name == "two.safetensors"


def test_equal_values_in_different_files_are_told_apart(folder):
    from unetscope.merge.convert import convert

    convert(folder / "sd" / "One.safetensors", folder / "wide.safetensors", dtype="fp32")
    index = HashIndex.load([folder], compute=True)
    with pytest.raises(UnetscopeError, match=r"wide\.safetensors"):
        index.find(index.files[0].fingerprints["unet"])


# -- claims -----------------------------------------------------------------------------------------------------------

DIGEST = "ab" * 32
OTHER = "cd" * 32
SITE = {
    "id": 1,
    "files": [{"name": "two.safetensors", "sizeKB": 1.0, "hashes": {"SHA256": DIGEST.upper(), "AutoV2": "x"}}],
}
TWO_FILES = {
    "files": [
        {"name": "vae.safetensors", "sizeKB": 9, "hashes": {"SHA256": OTHER}},
        {"name": "two.safetensors", "sizeKB": 1, "hashes": {"SHA256": DIGEST}},
    ]
}


@pytest.mark.parametrize(
    "name, content",
    [
        ("two.sha256", DIGEST),
        ("two.safetensors.sha256", f"{DIGEST} *two.safetensors\n"),
        ("two.sha256", f"{OTHER}  other.safetensors\n{DIGEST}  ./models/two.safetensors\n"),
        ("two.civitai.info", json.dumps(SITE)),
        ("two.json", json.dumps(TWO_FILES)),
        ("two.cm-info.json", json.dumps({"Hashes": {"SHA256": DIGEST, "CRC32": "1"}})),
        ("two.metadata.json", json.dumps({"sha256": DIGEST})),
        ("two.json", "\ufeff" + json.dumps({"hashes": {"SHA256": DIGEST}})),
    ],
)
def test_what_stands_beside_a_model_is_a_claim(name, content, folder):
    (folder / "sd" / "deep" / name).write_text(content, encoding="utf-8")
    index = HashIndex.load([folder])
    file = next(f for f in index.files if f.path.name == "two.safetensors")
    assert (file.sha256, file.sha256_from, file.claimed) == (DIGEST, name, True)
    assert index.find(DIGEST[:10]) == file.path
    assert file.to_plain()["claimed"] is True


@pytest.mark.parametrize(
    "content",
    [
        "", "no json", "[]", "null", '{"files": 3}', '{"files": [1, {"hashes": []}]}', '{"sha256": "abc"}', "[" * 100_000,
        json.dumps({"files": [{"hashes": {"SHA256": DIGEST}}, {"hashes": {"SHA256": OTHER}}]}),
    ],
)  # fmt: skip
def test_a_sidecar_that_says_nothing_certain_says_nothing(content, folder):
    for ending in ("json", "civitai.info", "sha256"):
        (folder / "sd" / "deep" / f"two.{ending}").write_text(content, encoding="utf-8")
    index = HashIndex.load([folder])
    assert all(file.sha256 is None for file in index.files) and not index.problems


def test_of_a_record_of_several_files_the_one_of_this_size_counts(folder):
    path = folder / "sd" / "deep" / "two.safetensors"
    record = {
        "files": [{"sizeKB": 5, "hashes": {"SHA256": OTHER}}, {"sizeKB": path.stat().st_size / 1024, "sha256": DIGEST}]
    }
    path.with_suffix(".json").write_text(json.dumps(record))
    assert HashIndex.load([folder]).find(DIGEST) == path


def test_what_was_read_counts_before_a_claim_and_a_wrong_claim_is_said(folder):
    path = folder / "sd" / "deep" / "two.safetensors"
    path.with_suffix(".sha256").write_text(DIGEST)
    index = HashIndex.load([folder], compute=True)
    assert index.find(digest(path)) == path
    assert index.find(DIGEST) is None
    assert len(index.problems) == 1 and DIGEST[:10] in index.problems[0] and "two.sha256" in index.problems[0]


def test_the_web_uis_cache_is_believed_for_files_that_did_not_change_since(folder, tmp_path):
    path = folder / "sd" / "deep" / "two.safetensors"
    os.utime(path, (1000, 1000))
    cache = tmp_path / "cache.json"
    entries = {"checkpoint/deep\\two.safetensors": {"mtime": 1000.0, "sha256": DIGEST}, "checkpoint/x": 3, "y": {}}
    cache.write_text(json.dumps({"hashes": entries}))
    index = HashIndex.load([folder], webui_cache=cache)
    assert index.find(DIGEST[:10]) == path
    assert next(f for f in index.files if f.path == path).sha256_from == "cache.json"
    os.utime(path, (2000, 2000))
    assert HashIndex.load([folder], webui_cache=cache).find(DIGEST) is None
    with pytest.raises(CheckpointError, match="no such file"):
        HashIndex.load([folder], webui_cache=tmp_path / "missing.json")


# -- folders ----------------------------------------------------------------------------------------------------------


def test_links_in_circles_and_broken_links_are_reported(folder):
    (folder / "sd" / "deep" / "again").symlink_to(folder, target_is_directory=True)
    (folder / "gone.safetensors").symlink_to(folder / "nowhere.safetensors")
    (folder / "self.safetensors").symlink_to(folder / "self.safetensors")
    index = HashIndex.load([folder])
    assert paths(index) == ["One.safetensors", "two.safetensors", "word.pt"]
    assert sorted(os.path.basename(p.split(": ")[0]) for p in index.problems) == [
        "again", "gone.safetensors", "self.safetensors",
    ]  # fmt: skip


def test_links_to_folders_elsewhere_are_followed(folder, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "far.ckpt").write_bytes(b"x")
    (folder / "linked").symlink_to(tmp_path / "outside", target_is_directory=True)
    assert HashIndex.load([folder]).find("far") == folder / "linked" / "far.ckpt"


def test_a_file_that_cannot_be_read_is_reported_and_the_rest_goes_on(folder, monkeypatch):
    from unetscope.library import hash_index

    def locked(path):
        if path.name == "word.pt":
            raise PermissionError(13, "Permission denied", str(path))
        return "0" * 8

    monkeypatch.setattr(hash_index, "legacy_hash", locked)
    index = HashIndex.load([folder], compute=True)
    assert [f.sha256 is None for f in index.files] == [False, False, True]
    assert index.problems == (f"{folder / 'word.pt'}: cannot be read (Permission denied)",)


def test_a_damaged_checkpoint_has_a_hash_all_the_same(folder):
    path = folder / "sd" / "cut.safetensors"
    path.write_bytes((folder / "sd" / "One.safetensors").read_bytes()[:1_500_000])
    index = HashIndex.load([folder / "sd"], compute=True)
    assert index.find(digest(path)) == path


def test_a_diffusers_folder_is_found_by_its_name_and_not_looked_into(folder):
    pipe = folder / "Pipe"
    (pipe / "unet").mkdir(parents=True)
    (pipe / "model_index.json").write_text("{}")
    (pipe / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"x")
    index = HashIndex.load([folder], compute=True)
    assert index.find("pipe") == pipe
    assert index.find("diffusion_pytorch_model") is None


def test_folders_that_overlap_hold_each_model_once(folder):
    assert len(HashIndex.load([folder, folder / "sd", folder]).files) == 3


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        HashIndex.load([tmp_path / "nowhere"])


def test_reading_can_be_stopped_and_tells_how_far_it_is(folder):
    seen = []
    HashIndex.load([folder], compute=True, progress=lambda done, total, name: seen.append((done, total, name)))
    total = sum(f.size for f in HashIndex.load([folder]).files)
    assert {t for _, t, _ in seen} == {total} and [d for d, _, _ in seen] == sorted(d for d, _, _ in seen)
    assert {name for *_, name in seen} == {"One.safetensors", "two.safetensors", "word.pt"}
    stop = threading.Event()
    stop.set()
    os.utime(folder / "word.pt", (5, 5))
    with pytest.raises(Cancelled):
        HashIndex.load([folder], compute=True, cancel=stop)


def test_nothing_is_written_beside_the_models(folder):
    before = sorted(p.relative_to(folder) for p in folder.rglob("*"))
    HashIndex.load([folder], compute=True)
    assert sorted(p.relative_to(folder) for p in folder.rglob("*")) == before
