"""The library reads each header once, remembers scans, and stays in its folder."""

from __future__ import annotations

import json
import os

import pytest
from quantised import scaled_fp8, write_quantised

from unetscope.dashboard import jobs, library, worker
from unetscope.dashboard.library import health_words, identity_of, read_library, shared_parts
from unetscope.library import inspection
from unetscope.library.scan import scan
from unetscope.library.scan_cache import keep_scan, kept_scan, scan_file


@pytest.fixture(scope="module")
def demo_headers() -> dict:
    """Nothing is known of the demo files: what is read, and when, is what these tests look at."""
    return {}


@pytest.fixture
def headers_read(monkeypatch) -> list[str]:
    """The names of the files whose headers are read, as it happens."""
    read, real = [], inspection.inspect
    monkeypatch.setattr(inspection, "inspect", lambda path: read.append(path.name) or real(path))
    return read


def test_files_and_sub_folders_are_listed_with_what_headers_say(models):
    (models / "deep" / "er").mkdir(parents=True)
    (models / "tuned.safetensors").rename(models / "deep" / "er" / "tuned.safetensors")
    (models / "notes.txt").write_text("no checkpoint")
    (models / ".hidden.safetensors").write_text("no checkpoint")
    library = read_library(models)
    assert [e.name for e in library.entries] == [
        "base.safetensors", "merged.safetensors", "wide.safetensors", "deep/er/tuned.safetensors",
    ]  # fmt: skip
    base, merged, wide, _ = library.entries
    assert (base.family, base.what, base.merged) == ("sd1", "checkpoint", False)
    assert base.size == (models / "base.safetensors").stat().st_size
    assert merged.merged and wide.family == "sdxl"
    assert set(wide.components) >= {"unet", "clip_l", "clip_g", "vae"}
    assert library.unread == 0 and all(e.mergeable for e in library.entries)


def test_headers_are_read_once_until_a_file_changes(models, headers_read):
    read_library(models)
    assert len(headers_read) == 4
    read_library(models)
    library._memory.at = -2  # as in a new process: the index comes from disk
    read_library(models)
    assert len(headers_read) == 4
    os.utime(models / "base.safetensors", ns=(1, 1))
    read_library(models)
    assert headers_read[4:] == ["base.safetensors"]
    assert not any(key[-2:] == "|1" for key in library._load_index() if "tuned" in key)


def test_a_large_library_is_read_in_parts(models, headers_read):
    first = read_library(models, seconds=0)
    assert (len(first.entries), first.unread) == (1, 3)
    assert [read_library(models, seconds=0).unread for _ in range(4)] == [2, 1, 0, 0]
    assert len(headers_read) == 4


def test_damaged_files_are_listed_with_the_reason(models):
    (models / "junk.safetensors").write_bytes(b"not a checkpoint at all")
    whole = (models / "base.safetensors").read_bytes()
    (models / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    library = read_library(models)
    assert "junk.safetensors" in library.named("junk.safetensors").error
    assert library.named("cut.safetensors").truncated
    assert {e.name for e in library.models}.isdisjoint({"junk.safetensors", "cut.safetensors"})


def test_links_out_of_the_folder_are_named_and_not_followed(models, tmp_path, demo_files):
    os.symlink(demo_files, models / "door")
    os.symlink(demo_files / "base.safetensors", models / "link.safetensors")
    os.symlink(models / "base.safetensors", models / "inside.safetensors")
    os.symlink(models, models / "circle")
    library = read_library(models)
    assert set(library.skipped) == {"door", "link.safetensors", "circle"}
    assert library.named("inside.safetensors") and not library.named("link.safetensors")


def test_a_diffusers_folder_is_one_entry(models, make_checkpoint):
    folder = models / "pipeline"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    names = [e.name for e in read_library(models).entries]
    assert "pipeline" in names and not any(name.startswith("pipeline/") for name in names)


def test_the_scan_job_fills_in_health_and_fingerprints_until_a_file_changes(models, no_workers):
    junk = models / "junk.safetensors"
    junk.write_bytes(b"junk")
    files = [models / "base.safetensors", models / "tuned.safetensors", junk]
    job = jobs.submit("scan", "scan", {"files": [str(path) for path in files]})
    worker.work("background")
    assert jobs.get(job.id).result["scanned"] == 2
    assert list(jobs.get(job.id).result["failed"]) == ["junk.safetensors"]
    kept = kept_scan(identity_of(files[0]))
    assert kept["fingerprints"] == scan(files[0]).fingerprints
    assert health_words(kept) == "sound" and health_words(None) == "not scanned"
    os.utime(files[0], ns=(1, 1))
    assert kept_scan(identity_of(files[0])) is None


def test_two_files_of_one_name_that_cannot_be_scanned_are_both_told(models, no_workers):
    (models / "deep").mkdir()
    files = [models / "junk.safetensors", models / "deep" / "junk.safetensors"]
    for path in files:
        path.write_bytes(b"junk")
    job = jobs.submit("scan", "scan", {"files": [str(path) for path in files]})
    worker.work("background")
    assert list(jobs.get(job.id).result["failed"]) == [str(path) for path in files]


def test_a_scan_that_cannot_be_kept_is_told(models, tmp_path, no_workers):
    (tmp_path / "cache").mkdir(exist_ok=True)
    (tmp_path / "cache" / "scans").write_text("no folder")
    job = jobs.submit("scan", "scan", {"files": [str(models / "base.safetensors")]})
    worker.work("background")
    result = jobs.get(job.id).result
    assert result["scanned"] == 0 and str(tmp_path / "cache") in result["failed"]["base.safetensors"]


def test_files_that_share_a_component_are_grouped():
    scans = {
        "a": {"fingerprints": {"vae": "1" * 32, "unet": "a" * 32}},
        "b": {"fingerprints": {"vae": "2" * 32}},
        "c": {"fingerprints": {"vae": "1" * 32}},
        "d": {"fingerprints": {"vae": "3" * 32}},
        "e": {"fingerprints": {"vae": "2" * 32}},
        "f": {"fingerprints": {"vae": "2" * 32}},
        "g": {"fingerprints": {}},
    }
    assert shared_parts(scans, "vae") == {
        "a": "B (2 files)",
        "b": "A (3 files)",
        "c": "B (2 files)",
        "d": "33333333",
        "e": "A (3 files)",
        "f": "A (3 files)",
    }


def test_health_counts_what_is_broken_and_suspect():
    findings = [{"level": level, "text": ""} for level in ("broken", "broken", "suspect", "note")]
    assert health_words({"health": findings}) == "2 broken, 1 suspect"


def test_a_damaged_cache_is_as_good_as_none(models, tmp_path):
    identity = identity_of(models / "base.safetensors")
    keep_scan(identity, {"fingerprints": {}, "health": []})
    scan_file(identity).write_text("{")
    assert kept_scan(identity) is None
    file = tmp_path / "cache" / "library.json"
    file.write_text('{"form": 0}')
    assert len(read_library(models).entries) == 4
    kept = json.loads(file.read_text())
    for damage in ([], 3, {"no such": 1}):
        file.write_text(json.dumps(kept | {"files": dict.fromkeys(kept["files"], damage)}))
        assert [entry.error for entry in read_library(models).entries] == [""] * 4


def test_a_file_of_codes_is_listed_and_is_no_choice_for_merges(models):
    write_quantised(models / "q.safetensors", scaled_fp8)
    entry = read_library(models).named("q.safetensors")
    assert (entry.error, entry.family, entry.what) == ("", "sd1", "checkpoint")
    assert entry.encoding and not entry.mergeable and entry not in read_library(models).models
