"""The .safetensors container against the safetensors library, and headers that are wrong in every way."""

from __future__ import annotations

import json
import struct

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tiny import raw
from told import codes, raising, the

from unetscope.checkpoints.dtypes import DTYPES, dtype_named
from unetscope.checkpoints.errors import CheckpointError
from unetscope.checkpoints.formats.safetensors_file import HEADER_LIMIT, plan_header, read_header
from unetscope.library.inspection import inspect
from unetscope.merge.convert import convert

TORCH = {name: getattr(torch, dtype.torch) for name, dtype in DTYPES.items()}
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def write(path, header, data=b"", length=None):
    """A file with this header: an object, or its bytes as they are."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def library(path):
    """What the safetensors library finds in a file: name -> (dtype, shape, bytes); None when it refuses it."""
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            metadata = file.metadata()
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, OverflowError, RuntimeError):
        return None
    return {n: (tensors[n].dtype, tuple(tensors[n].shape), raw(tensors[n])) for n in names}, metadata or {}


def ours(path):
    """The same by our reading of the header; None when it is refused."""
    try:
        tensors, metadata = read_header(path)
    except CheckpointError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return None
    data = path.read_bytes()
    found = {}
    for t in tensors:
        (piece,) = t.pieces
        assert piece.offset + t.nbytes <= len(data)
        found[t.name] = TORCH[t.dtype.name], t.shape, data[piece.offset : piece.offset + t.nbytes]
    return found, metadata


# -- files that are right ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_read_as_the_library_wrote_it(dtype, tmp_path):
    bits = torch.from_numpy(np.random.default_rng(0).integers(0, 2, 3 * 5 * DTYPES[dtype].size, dtype=np.uint8))
    tensors = {"a": bits.view(TORCH[dtype]).reshape(3, 5), "empty": torch.empty(0, 4, dtype=TORCH[dtype])}
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, {"format": "pt", "title": "Ünï [red] \x1b"})
    assert ours(path) == library(path)
    assert ours(path)[1]["title"] == "Ünï [red] \x1b"


ENTRIES = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name != "__metadata__"),
    st.tuples(st.sampled_from(list(DTYPES)), st.lists(st.integers(0, 4), max_size=3)),
    max_size=6,
)


@QUICK
@given(ENTRIES, st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
def test_the_library_reads_what_we_lay_out(tmp_path, entries, metadata):
    planned = [(name, dtype_named(dtype), tuple(shape)) for name, (dtype, shape) in entries.items()]
    head, offsets, size = plan_header(planned, metadata)
    data = bytearray(size)
    data[: len(head)] = head
    expected = {}
    for i, (name, dtype, shape) in enumerate(planned):
        content = bytes((i + j) % 2 for j in range(int(np.prod(shape)) * dtype.size))
        data[offsets[name] : offsets[name] + len(content)] = content
        expected[name] = TORCH[dtype.name], shape, content
        assert offsets[name] % dtype.size == 0, "readers that map the file need aligned tensors"
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    assert library(path) == (expected, metadata)
    assert ours(path) == (expected, metadata)


# -- files that are wrong ---------------------------------------------------------------------------------------------

WRONG = {
    "empty file": b"",
    "seven bytes": b"\x01" * 7,
    "length of 2^60": struct.pack("<Q", 1 << 60) + b"{}",
    "length of -1": struct.pack("<q", -1) + b"{}",
    "length beyond the file": struct.pack("<Q", 3) + b"{}",
    "a zip": b"PK\x03\x04" + b"\0" * 60,
    "a web page": b"<!DOCTYPE html><html>" + b" " * 60,
}


@pytest.mark.parametrize("name", WRONG)
def test_files_that_are_no_safetensors_files_are_refused(name, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(WRONG[name])
    promised = int.from_bytes(WRONG[name][:8], "little")
    with raising("header.absent", CheckpointError, [str(path), f"{promised:,}", f"{len(WRONG[name]):,}"]):
        read_header(path)
    assert library(path) is None


HEADERS = {
    "not UTF-8": (b'{"\xff\xfe": 1}', "header.not_json"),
    "UTF-16": ("{}".encode("utf-16"), "header.not_json"),
    "deeply nested": (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "header.not_json"),
    "a list": (b"[]", "header.not_json"),
    "a number": (b"1", "header.not_json"),
    "half an object": (b'{"a"', "header.not_json"),
    "duplicate name": (b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), "header.name_twice", "'a'"),
    "entry is a list": ({"a": [1]}, "header.entry", "'a'"),
    "no offsets": ({"a": {"dtype": "F32", "shape": [2]}}, "header.entry", "'a'"),
    "negative shape": ({"a": entry(shape=(-2,))}, "header.entry", "'a'"),
    "negative offsets": ({"a": entry(offsets=(-8, 0))}, "header.entry", "'a'"),
    "shape of text": ({"a": entry() | {"shape": "2"}}, "header.entry", "'a'"),
    "fractional shape": ({"a": entry() | {"shape": [2.0]}}, "header.entry", "'a'"),
    "true as a size": ({"a": entry(offsets=(0, 4)) | {"shape": [True]}}, "header.entry", "'a'"),
    "huge number": ({"a": entry(shape=(1 << 70,))}, "header.entry", "'a'"),
    "thousands of axes": ({"a": entry(offsets=(0, 4)) | {"shape": [1 << 61] * 5000}}, "header.entry", "'a'"),
    "unknown dtype": ({"a": entry("F33")}, "header.dtype", "'a'", "'F33'", "F64"),
    "dtype is a list": ({"a": entry() | {"dtype": ["F32"]}}, "header.dtype", "'a'", "F64"),
    "offsets backwards": ({"a": entry(offsets=(8, 0))}, "header.size", "'a'", "8"),
    "three offsets": ({"a": entry(offsets=(0, 8, 8))}, "header.size", "'a'", "8"),
    "wrong size": ({"a": entry(shape=(3,))}, "header.size", "'a'", "12", "[0, 8]"),
    "overlap": ({"a": entry(), "b": entry(offsets=(4, 12))}, "header.order", "'b'", "4", "8"),
    "same place": ({"a": entry(), "b": entry()}, "header.order", "'b'", "0", "8"),
    "gap": ({"a": entry(), "b": entry(offsets=(12, 20))}, "header.order", "'b'", "12", "8"),
    "gap at the start": ({"a": entry(offsets=(4, 12))}, "header.order", "'a'", "4", "0"),
    "metadata is a list": ({"__metadata__": []}, "header.metadata"),
    "metadata is zero": ({"__metadata__": 0}, "header.metadata"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, "header.metadata"),
    "a lone surrogate": (b'{"__metadata__":{"a":"\\ud800"}}', "header.not_json"),
    "bytes after the end": ({"a": entry(offsets=(0, 8))}, "header.bytes_left", "16"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_contradict_themselves_are_refused_by_us_and_the_library(name, tmp_path):
    header, code, *about = HEADERS[name]
    path = write(tmp_path / "x.safetensors", header, b"\0" * 24)
    with raising(code, CheckpointError, [str(path), *about]):
        read_header(path)
    assert library(path) is None


def test_a_truncated_file_is_refused_by_saying_how_much_is_there_and_can_be_looked_at(tmp_path):
    path = write(tmp_path / "x.safetensors", {"a": entry(shape=(200,), offsets=(0, 800))}, b"\0" * 100)
    size = path.stat().st_size
    with raising("header.truncated", CheckpointError, [str(path), f"{size + 700:,}", f"{size:,}"]):
        read_header(path)
    tensors, _ = read_header(path, allow_truncated=True)
    assert [(t.name, t.shape) for t in tensors] == [("a", (200,))]
    assert library(path) is None


def test_a_header_above_the_limit_is_not_even_read(tmp_path):
    path = tmp_path / "x.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", HEADER_LIMIT + 1))
        file.truncate(HEADER_LIMIT + 100)  # sparse
    with pytest.raises(CheckpointError, match="100,000,001"):
        read_header(path)


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.safetensors", tmp_path / ("x" * 300)):
        with raising("header.not_read", CheckpointError, [str(path)]):
            read_header(path)


# Values as they should be, nearly so, or not at all.
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 2**65) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
SIZE = st.integers(-1, 5)
NEARLY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*DTYPES, "F4", "f32"]),
        "shape": st.lists(SIZE, max_size=3),
        "data_offsets": st.tuples(SIZE, SIZE),
    },
    optional={"more": ANYTHING},
)


@QUICK
@given(
    header=st.dictionaries(st.text(max_size=6) | st.just("__metadata__"), NEARLY | ANYTHING, max_size=4) | ANYTHING,
    data=st.binary(max_size=40),
    pad=st.sampled_from([b"", b" ", b"\n", b"\t ", b"\0"]),
)
def test_of_any_header_we_accept_nothing_that_the_library_refuses(tmp_path, header, data, pad):
    path = write(tmp_path / "x.safetensors", json.dumps(header).encode() + pad, data)
    found = ours(path)
    if found is not None:
        assert library(path) == found


@st.composite
def damaged(draw):
    """A good file with some bytes changed, cut off, doubled or put in."""
    tensors = {"a": (F32 := "F32", (2, 2), 16), "b": ("F16", (3,), 6), "c": (F32, (0,), 0)}
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = entry(dtype, shape, (at, at + size))
        at += size
    text = json.dumps(header).encode()
    file = bytearray(struct.pack("<Q", len(text)) + text + bytes(range(at)))
    for _ in range(draw(st.integers(1, 3))):
        where = draw(st.integers(0, len(file) - 1))
        kind = draw(st.sampled_from(["change", "cut", "insert", "double", "digit"]))
        if kind == "change":
            file[where] = draw(st.integers(0, 255))
        elif kind == "cut":
            del file[max(where, 1) :]
        elif kind == "insert":
            file[where:where] = draw(st.binary(min_size=1, max_size=4))
        elif kind == "double":
            file[where:where] = file[where : where + 20]
        else:
            digits = [i for i, c in enumerate(file) if chr(c).isdigit() and i > 8]
            if digits:
                file[digits[where % len(digits)]] = ord(draw(st.sampled_from("0123456789-e.")))
    return bytes(file)


@settings(QUICK, max_examples=400)
@given(damaged())
def test_of_a_damaged_file_we_accept_nothing_that_the_library_refuses(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    found = ours(path)
    if found is not None:
        assert library(path) == found


# -- what other readers take --------------------------------------------------------------------------------------------

METADATA = {
    "a number": ({"step": 5, "title": "x"}, {"step": "5", "title": "x"}),
    "null, true and an object": (
        {"a": None, "b": True, "c": {"d": [1]}},
        {"a": "null", "b": "true", "c": '{"d": [1]}'},
    ),
    "a list": ([1, 2], {}),
    "a text": ("hello", {}),
    "lists in lists": ({"a": json.loads("[" * 400 + "]" * 400)}, None),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_that_are_no_strings_are_read_said_and_mended_by_a_conversion(name, tmp_path):
    said, expected = METADATA[name]
    path = write(tmp_path / "a.safetensors", {"__metadata__": said, "w.weight": entry()}, b"\1" * 8)
    assert library(path) is None
    (note,) = inspect(path).notes
    assert note.code in ("file.metadata_left_out", "file.metadata_not_text")
    assert [note.code] == codes(convert(path, tmp_path / "b.safetensors").notes)
    tensors, metadata = library(tmp_path / "b.safetensors")
    assert tensors == {"w.weight": (torch.float32, (2,), b"\1" * 8)}
    if expected is not None:
        assert metadata == {"format": "pt"} | expected
    assert inspect(tmp_path / "b.safetensors").notes == ()


def test_bytes_behind_the_last_tensor_are_mended_by_a_conversion(tmp_path):
    path = write(tmp_path / "a.safetensors", {"w.weight": entry()}, b"\1" * 8 + b"\0" * 12)
    assert library(path) is None
    assert "12 " in the(inspect(path).notes, "file.trailing_bytes").text
    convert(path, tmp_path / "b.safetensors")
    assert library(tmp_path / "b.safetensors")[0] == {"w.weight": (torch.float32, (2,), b"\1" * 8)}


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [
        ("F4", (4, 16), 32),
        ("F6_E2M3", (2, 4), 6),
        ("F6_E3M2", (8,), 6),
        ("F8_E8M0", (4,), 4),
        ("F8_E4M3FNUZ", (2, 2), 4),
    ],
)
def test_codes_that_the_library_reads_are_looked_at_and_refused_by_what_computes(tmp_path, dtype, shape, size):
    header = {"a.weight": entry(dtype, shape, (0, size)), "b.weight": entry(offsets=(size, size + 8))}
    path = write(tmp_path / "a.safetensors", header, bytes(size + 8))
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == {"a.weight", "b.weight"}
    found = inspect(path)
    assert (found.total.tensors, found.total.parameters, found.total.bytes) == (2, int(np.prod(shape)) + 2, size + 8)
    assert found.dtypes[dtype].bytes == size and found.truncation is None
    assert not found.stored[0].decoded
    with pytest.raises(CheckpointError, match=f"{dtype}.*fp16.*bf16.*fp32"):
        convert(path, tmp_path / "b.safetensors")
    path.write_bytes(path.read_bytes()[:-10])
    assert inspect(path).truncation.damaged_tensors == 2


@pytest.mark.parametrize(
    ("sides", "encoding"), [(("weight_scale", "weight_scale_2"), "nvfp4"), (("weight_scale",), "codes")]
)
def test_packed_codes_with_scales_are_not_called_fp8(tmp_path, sides, encoding):
    header = {"a.weight": entry("F4", (4, 16), (0, 32))}
    for i, side in enumerate(sides):
        header[f"a.{side}"] = entry("F8_E4M3", (4, 1), (32 + 4 * i, 36 + 4 * i))
    found = inspect(write(tmp_path / "a.safetensors", header, bytes(32 + 4 * len(sides))))
    assert [(part.encoding, part.tensors) for part in found.stored if part.sign] == [(encoding, 1)]
    assert found.tensors[0].shape == (4, 16)


def test_codes_that_end_inside_a_byte_are_refused_by_us_and_the_library(tmp_path):
    path = write(tmp_path / "a.safetensors", {"a": entry("F4", (3,), (0, 2))}, bytes(2))
    with pytest.raises(CheckpointError, match=r"'a'.* F4 .*\[3\]"):
        inspect(path)
    assert library(path) is None


def test_complex_buffers_are_copied_and_complex_weights_refused(tmp_path):
    buffers = {"rope.freqs_cis": torch.tensor([1 + 2j, 3 - 4j]), "w.weight": torch.ones(2)}
    save_file(buffers, tmp_path / "a.safetensors")
    assert inspect(tmp_path / "a.safetensors").dtypes["C64"].bytes == 16
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", dtype="fp16")
    written = load_file(tmp_path / "b.safetensors")
    assert (
        torch.equal(written["rope.freqs_cis"], buffers["rope.freqs_cis"]) and written["w.weight"].dtype == torch.float16
    )
    save_file({"w.weight": buffers["rope.freqs_cis"]}, tmp_path / "c.safetensors")
    with pytest.raises(CheckpointError, match="C64"):
        convert(tmp_path / "c.safetensors", tmp_path / "d.safetensors")
