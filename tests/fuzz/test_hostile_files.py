"""Files made to do harm: refused within a gigabyte of address space and without hanging, in a process that may have no more."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zipfile

import pytest
from samples import others_long

from unetscope.checkpoints import CheckpointError
from unetscope.checkpoints.formats.diffusers_folder import read_folder
from unetscope.checkpoints.opening import open_checkpoint
from unetscope.library.hash_index import HashIndex
from unetscope.merge import Recipe, merge

# Each takes seconds where nothing else runs; the time is there for what would never end.
SECONDS, BYTES = 900, 1500 << 20
OPEN = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))  # its own seconds, however busy the machine
from unetscope.checkpoints import UnetscopeError
from unetscope.library.history import merge_history
from unetscope.checkpoints.lora import open_lora
from unetscope.checkpoints.opening import open_checkpoint
try:
    if sys.argv[3:] == ["lora"]:
        print("opened", len(open_lora(sys.argv[1]).modules))
        sys.exit()
    checkpoint = open_checkpoint(sys.argv[1])
    merge_history(checkpoint.metadata, "x")
    print("opened", len(checkpoint.tensors))
except UnetscopeError as error:
    print("refused", error)
"""
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x10tQ"
# (), ((), ()), ... forty times: 2^40 empty tuples in a hundred bytes.
NESTED = b")" + b"2\x86" * 40
LONG = b"](" + b"K\x01" * 100_000 + b"e" + b"q\x00"


def tensor(shape: bytes, offset: bytes = b"K\x00", strides: bytes = b")") -> bytes:
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + offset + shape + strides + b"\x89}tR"


def state(value: bytes) -> bytes:
    return b"\x80\x02}X\x01\x00\x00\x00a" + value + b"s."


def zipped(path, pickle: bytes, compression: int = zipfile.ZIP_STORED, **others: bytes):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x/data.pkl", pickle)
        archive.writestr("x/data/0", bytes(64))
        for name, content in others.items():
            archive.writestr(name, content)
    return path


def many_entries(path):
    """A zip whose list of entries is long, without the entries."""
    name = b"x/data.pkl"
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 1, 1, len(name), 0, 0, 0, 0, 0, 0) + name
    count = 400_000
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, count * len(entry), 4, 0)
    path.write_bytes(b"PK\3\4" + entry * count + end)
    return path


def header(path, text: bytes, length: int | None = None, size: int | None = None):
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text)
    if size:
        os.truncate(path, size)
    return path


def entries(count: int) -> bytes:
    one = {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}
    return json.dumps({f"model.diffusion_model.x{i}": one for i in range(count)}).encode()


HOSTILE = {
    "a shape nested beyond printing": lambda p: zipped(p, state(tensor(NESTED))),
    "a name nested beyond hashing": lambda p: zipped(p, b"\x80\x02}" + NESTED + b"K\x01s."),
    "a storage nested beyond printing": lambda p: zipped(p, state(tensor(b")", offset=NESTED))),
    "a list copied a million times": lambda p: zipped(
        p, state(LONG + b"ctorch\nSize\nq\x01" + b"h\x01h\x00\x85R" * 400_000 + b"0" * 400_000)
    ),
    "a list copied into a million dicts": lambda p: zipped(
        p, b"\x80\x02" + LONG + b"ccollections\nOrderedDict\nq\x01" + b"h\x01h\x00\x85R0" * 300_000 + b"."
    ),
    "a call with a million arguments": lambda p: zipped(
        p,
        b"\x80\x02("
        + b"N" * 1_000_000
        + b"tq\x00ctorch._utils\n_rebuild_tensor_v2\nq\x01"
        + b"h\x01h\x00R0" * 150_000
        + b".",
    ),
    "a tensor of 2^60 elements": lambda p: zipped(
        p, state(tensor(b"\x8a\x08" + (1 << 60).to_bytes(8, "little") + b"\x85", strides=b"K\x00\x85"))
    ),
    "a global with a name of megabytes": lambda p: zipped(p, b"\x80\x02c" + b"a" * 20_000_000 + b"\nb\n)R."),
    "a compressed gigabyte": lambda p: zipped(p, bytes(1 << 28), zipfile.ZIP_DEFLATED),
    "half a million entries": many_entries,
    "a header of 2^63 bytes": lambda p: header(p, b"{}", 1 << 63),
    "a header as long as a terabyte of nothing": lambda p: header(p, b"{}", 99_000_000, size=1 << 40),
    "a deeply nested header": lambda p: header(p, b'{"a":' * 1_000_000),
    "lists in a header": lambda p: header(p, b'{"a":' + b"[" * 5_000_000),
    "a number with a million digits": lambda p: header(p, b'{"a":{"dtype":"F16","shape":[' + b"9" * 1_000_000 + b"]}}"),
    "a tensor beyond the end of the file": lambda p: header(
        p, json.dumps({"a": {"dtype": "F16", "shape": [1 << 40], "data_offsets": [0, 2 << 40]}}).encode()
    ),
    "a history that nests without end": lambda p: header(
        p,
        json.dumps({"__metadata__": {"sd_merge_recipe": '{"a":' * 100_000, "sd_merge_models": "[" * 100_000}}).encode(),
    ),
}


HOSTILE_LORAS = {
    "a list of hundreds of thousands of tensors": lambda p: zipped(
        p, b"\x80\x02](" + tensor(b")") + b"q\x00" + b"h\x00" * 300_000 + b"e."
    ),
    "a list of one tensor and nested tuples": lambda p: zipped(p, b"\x80\x02](" + tensor(b")") + NESTED + b"e."),
    "a shape nested beyond printing": HOSTILE["a shape nested beyond printing"],
    "a compressed gigabyte": HOSTILE["a compressed gigabyte"],
    "a call of the shell": lambda p: zipped(p, b"\x80\x02cos\nsystem\nX\x05\x00\x00\x00false\x85R."),
    "a header of many modules": lambda p: header(p, modules(30_000)),
    "an alpha beyond the end of the header": lambda p: header(p, modules(1).replace(b"[0, 0]", b"[0, 999999999999]")),
}


def modules(count: int) -> bytes:
    one = {"dtype": "F16", "shape": [0, 0], "data_offsets": [0, 0]}
    return json.dumps(
        {f"lora_unet_x{i}.{end}": one for i in range(count) for end in ("alpha", "lora_up.weight")}
    ).encode()


# One of each kind: nested, multiplied, too large, compressed; of pickles, headers and archives.
SHORT = (
    "a shape nested beyond printing", "a list copied a million times", "a tensor of 2^60 elements", "a compressed gigabyte",
    "half a million entries", "a header of 2^63 bytes", "a deeply nested header", "a number with a million digits",
    "a history that nests without end", "LoRA: a list of hundreds of thousands of tensors", "LoRA: a call of the shell",
)  # fmt: skip
ALL = [*HOSTILE, *(f"LoRA: {what}" for what in HOSTILE_LORAS)]


@pytest.mark.parametrize("what", others_long(ALL, lambda what: what in SHORT))
def test_a_hostile_file_is_refused_in_bounded_time_and_memory(what, tmp_path):
    _, lora, name = what.rpartition("LoRA: ")
    end = "safetensors" if "header" in what else "pt" if lora else "ckpt"
    path = (HOSTILE_LORAS if lora else HOSTILE)[name](tmp_path / f"x.{end}")
    run = subprocess.run(
        [sys.executable, "-c", OPEN, str(path), str(BYTES), *["lora"] * bool(lora)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert run.returncode == 0, run.stderr[-600:]
    assert run.stdout.startswith("refused") or "history" in what, run.stdout[:300]
    assert len(run.stdout) < 3000


@pytest.mark.long
def test_a_header_of_many_tensors_is_read_within_bounds(tmp_path):
    path = header(tmp_path / "x.safetensors", entries(100_000))
    run = subprocess.run(
        [sys.executable, "-c", OPEN, str(path), str(BYTES)], capture_output=True, text=True, timeout=SECONDS
    )
    assert run.stdout.strip() == "opened 100000"


def test_links_that_lead_in_circles_are_refused(tmp_path):
    (tmp_path / "a.safetensors").symlink_to("b.safetensors")
    (tmp_path / "b.safetensors").symlink_to("a.safetensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_checkpoint(tmp_path / "a.safetensors")
    folder = tmp_path / "pipeline"
    folder.mkdir()
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (folder / "unet").symlink_to("../pipeline")
    (folder / "vae").symlink_to("vae")
    with pytest.raises(CheckpointError):
        read_folder(folder)


@pytest.mark.parametrize("name", ["/dev/zero", "pipe"])
def test_what_never_ends_is_refused_unread(name, tmp_path):
    if name == "pipe":
        os.mkfifo(tmp_path / "pipe.safetensors")
        name = str(tmp_path / "pipe.safetensors")
    with pytest.raises(CheckpointError, match="neither a file nor a folder"):
        open_checkpoint(name)


def test_links_that_lead_in_circles_are_refused_by_merges_and_left_out_of_indexes(tmp_path):
    (tmp_path / "a.safetensors").symlink_to("a.safetensors")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "above").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.safetensors")
    step = {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.5}
    for name in ("a.safetensors", "null\0byte"):
        recipe = Recipe.parse({"models": {"a": str(tmp_path / name), "b": "b"}, "steps": {"out": step}})
        with pytest.raises(CheckpointError, match="cannot be read"):
            merge(recipe, tmp_path / "out.safetensors")
    index = HashIndex.load([tmp_path])
    assert index.files == ()
    assert len([p for p in index.problems if "pipe.safetensors: is not a file" in p]) == 1
    assert len([p for p in index.problems if "read already" in p]) == 1
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", "below", "pipe.safetensors"]
