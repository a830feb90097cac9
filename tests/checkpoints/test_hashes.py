"""Hashes of files, and when they are remembered."""

from __future__ import annotations

import hashlib
import json
import os

import pytest

from unetscope.checkpoints.hashes import autov2, known_sha256, legacy_hash, sha256


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(os.urandom(5_000_000))
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNETSCOPE_CACHE", str(tmp_path / "hashes"))
    return tmp_path / "hashes" / "sha256.json"


def test_a_hash_is_that_of_the_bytes_and_is_known_afterwards(file, cache):
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    assert known_sha256(file) is None
    assert sha256(file) == expected
    assert known_sha256(file) == expected
    assert autov2(expected) == expected[:10]


def test_a_known_hash_is_not_computed_again(file, cache):
    sha256(file)
    remembered = json.loads(cache.read_text())
    cache.write_text(json.dumps(dict.fromkeys(remembered, "remembered")))
    assert sha256(file) == "remembered"


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_changed_file_is_hashed_again(change, file, cache):
    sha256(file)
    if change == "size":
        stamp = file.stat().st_mtime_ns
        file.write_bytes(b"other")
        os.utime(file, ns=(stamp, stamp))
    else:
        content = bytearray(file.read_bytes())
        content[0] ^= 1
        file.write_bytes(content)
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert known_sha256(file) is None
    assert sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_two_paths_to_a_file_are_one(file, cache, tmp_path):
    (tmp_path / "link").symlink_to(file)
    assert sha256(tmp_path / "link") == known_sha256(file)


@pytest.mark.parametrize("content", [b"", b"not json", b"[1]", b"\xff\xfe", b'{"a": {"b": 1}}', b"[" * 100_000])
def test_a_spoilt_cache_is_as_good_as_none(content, file, cache):
    cache.parent.mkdir()
    cache.write_bytes(content)
    assert known_sha256(file) is None
    assert sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert known_sha256(file) is not None


def test_a_cache_that_remembers_nonsense_for_a_file_is_not_believed(file, cache):
    sha256(file)
    cache.write_text(json.dumps(dict.fromkeys(json.loads(cache.read_text()), 7)))
    assert known_sha256(file) is None


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(file, tmp_path, monkeypatch):
    (tmp_path / "blocked").write_text("a file where a folder should be")
    monkeypatch.setenv("UNETSCOPE_CACHE", str(tmp_path / "blocked"))
    assert sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_legacy_hash_is_of_64_kib_at_the_first_mib(file, tmp_path):
    content = file.read_bytes()
    assert legacy_hash(file) == hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]
    short = tmp_path / "short"
    short.write_bytes(b"abc")
    assert legacy_hash(short) == hashlib.sha256(b"").hexdigest()[:8] == "e3b0c442"
