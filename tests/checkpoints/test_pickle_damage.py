"""Zip pickles made by hand: commands, tensors outside their storage, floods, and damage anywhere."""

import collections
import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unetscope.checkpoints.errors import CheckpointError
from unetscope.checkpoints.formats.pickle_file import looks_like_zip, read_pickle

torch = pytest.importorskip("torch")


def zipped(path, data, *, storages=(), extra=(), compression=zipfile.ZIP_STORED, root="archive/"):
    """A file laid out as torch.save does, around any pickle."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr(root + "data.pkl", data)
        for i, content in enumerate(storages):
            file.writestr(f"{root}data/{i}", content)
        for name, content in extra:
            file.writestr(root + name, content)
    return path


def described(offset=0, shape=(4,), strides=(1,), kind="FloatStorage", key="0", elements=4):
    """A pickle of {"w": tensor} by hand: protocol 2 text that torch.save would write."""

    def integers(values):
        return b"(" + b"".join(b"L%dL\n" % v for v in values) + b"t"

    storage = b"(X\x07\0\0\0storagectorch\n" + kind.encode() + b"\nX" + struct.pack("<I", len(key)) + key.encode()
    storage += b"X\x03\0\0\0cpuL%dL\ntQ" % elements
    arguments = b"(" + storage + b"L%dL\n" % offset + integers(shape) + integers(strides) + b"\x89Nt"
    return b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


SIXTEEN = np.arange(4, dtype="<f4").tobytes()


@pytest.mark.parametrize(
    "call",
    [
        b"cos\nsystem\n(X\x0c\0\0\0touch BADFILtR",
        b"(X\x0c\0\0\0touch BADFILios\nsystem\n",
        b"(cos\nsystem\nX\x0c\0\0\0touch BADFILo",
        b"cos\nsystem\n(X\x0c\0\0\0touch BADFILt\x81",
        b"\x8c\x02os\x8c\x06system\x93(X\x0c\0\0\0touch BADFILt}\x92",
        b"cbuiltins\neval\n(X\x0c\0\0\0touch BADFILtR}X\x01\0\0\0aK\x01sb",
    ],
)
def test_a_command_in_a_pickle_is_not_run(tmp_path, monkeypatch, call):
    run = []
    monkeypatch.setattr(os, "system", run.append)
    body = described()[:-1] + b"X\x01\0\0\0x" + call + b"s."
    path = zipped(tmp_path / "a.ckpt", body, storages=[SIXTEEN])
    assert [t.name for t in read_pickle(path)[0]] == ["w"]
    assert run == []


def test_attributes_that_a_pickle_sets_reach_no_class(tmp_path):
    hostile = described()[:-1] + b"X\x01\0\0\0xccollections\nCounter\nN}X\x04\0\0\0evilK\x01s\x86bs."
    read_pickle(zipped(tmp_path / "a.ckpt", hostile, storages=[SIXTEEN]))
    assert not hasattr(collections.Counter, "evil")


def test_a_quantised_tensor_is_refused_by_name(tmp_path):
    data = b"\x80\x02}X\x01\0\0\0qctorch._utils\n_rebuild_qtensor\n)Rs."
    with pytest.raises(CheckpointError, match="q is a qtensor"):
        read_pickle(zipped(tmp_path / "a.pt", data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset": 1}, "reaches to element 4 of a storage with 4"),
        ({"shape": (5,)}, "reaches to element 4"),
        ({"strides": (2,)}, "reaches to element 6"),
        ({"elements": 100, "shape": (5,)}, "reaches to element 4"),
        ({"elements": 2}, "reaches to element 3 of a storage with 2"),
        ({"shape": (1 << 40,), "strides": (0,)}, "repeats 4 stored elements"),
        ({"shape": (1 << 61, 1 << 61), "strides": (1 << 61, 1)}, "reaches to element"),
        ({"shape": (-1,)}, "no sensible shape"),
        ({"strides": (-1,)}, "no sensible shape"),
        ({"offset": -4}, "no sensible shape"),
        ({"shape": (2, 2)}, "no sensible shape"),
        ({"shape": (1,) * 40, "strides": (1,) * 40}, "no sensible shape"),
        ({"key": "7"}, "storage 7, which the file lacks"),
        ({"kind": "QInt8Storage"}, "dtype QInt8"),
        ({"kind": "UntypedStorage"}, "dtype bytes"),
    ],
)
def test_a_tensor_that_its_storage_cannot_hold_is_refused(tmp_path, change, message):
    path = zipped(tmp_path / "a.ckpt", described(**change), storages=[SIXTEEN])
    with pytest.raises(CheckpointError, match=message) as caught:
        read_pickle(path)
    assert str(path) in str(caught.value)


def test_a_file_made_by_hand_is_read_when_it_is_right(tmp_path):
    path = zipped(tmp_path / "a.ckpt", described(), storages=[SIXTEEN])
    (tensor,), _ = read_pickle(path)
    assert path.read_bytes()[tensor.pieces[0].offset :].startswith(SIXTEEN)


def test_a_compressed_file_is_refused_with_how_to_save_it_again(tmp_path):
    path = zipped(tmp_path / "a.ckpt", described(), storages=[SIXTEEN], compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"safetensors.torch.save_file"):
        read_pickle(path)


def test_a_pickle_that_claims_gigabytes_is_refused_unread(tmp_path):
    bomb = b"\0" * (80 << 20)
    path = zipped(tmp_path / "a.ckpt", bomb, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="67,108,864"):
        read_pickle(path)


def test_an_encrypted_entry_is_refused(tmp_path):
    path = zipped(tmp_path / "a.ckpt", described(), storages=[SIXTEEN])
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="encrypted"):
        read_pickle(path)


def test_a_part_of_a_zip_on_several_disks_is_refused(tmp_path):
    path = zipped(tmp_path / "a.ckpt", described(), storages=[SIXTEEN])
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 34] = 3
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="several disks"):
        read_pickle(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_that_names_an_entry_twice_is_refused(tmp_path):
    path = zipped(tmp_path / "a.ckpt", described(), storages=[SIXTEEN], extra=[("data.pkl", described())])
    with pytest.raises(CheckpointError, match="twice"):
        read_pickle(path)


def test_a_big_endian_file_is_refused(tmp_path):
    path = zipped(tmp_path / "a.ckpt", described(), storages=[SIXTEEN], extra=[("byteorder", "big")])
    with pytest.raises(CheckpointError, match="big-endian"):
        read_pickle(path)


def test_a_torchscript_program_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "a.pt"))
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_pickle(tmp_path / "a.pt")


def test_the_old_format_is_refused_with_how_to_convert_it(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "a.ckpt", _use_new_zipfile_serialization=False)
    assert not looks_like_zip(tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"1.6.*weights_only=True"):
        read_pickle(tmp_path / "a.ckpt")


@pytest.mark.parametrize("content", [b"", b"PK", b"\x10\0\0\0\0\0\0\0{}", b"PK\x03\x04" + b"\0" * 100, b"<html>"])
def test_what_is_no_checkpoint_is_one_sentence(tmp_path, content):
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.ckpt: "):
        read_pickle(tmp_path / "a.ckpt")


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_pickle(tmp_path / "a.ckpt")


def test_a_zip_without_tensors_is_refused(tmp_path):
    path = zipped(tmp_path / "a.ckpt", pickle.dumps({"a": 1, "b": [1, 2]}, 2))
    with pytest.raises(CheckpointError, match="no state dict"):
        read_pickle(path)
    with zipfile.ZipFile(tmp_path / "b.ckpt", "w") as file:
        file.writestr("readme.txt", "x")
    with pytest.raises(CheckpointError, match=r"data\.pkl"):
        read_pickle(tmp_path / "b.ckpt")


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    torch.save({"a": torch.ones(50), "b": torch.ones(50)}, tmp_path / "a.ckpt")
    whole = (tmp_path / "a.ckpt").read_bytes()
    for end in range(1, len(whole) - 1, 61):
        (tmp_path / "b.ckpt").write_bytes(whole[:end])
        with pytest.raises(CheckpointError):
            read_pickle(tmp_path / "b.ckpt")


NESTED = b"\x80\x02" + b")" + b"\x85" * 200_000


@pytest.mark.parametrize(
    "data",
    [
        NESTED + b".",
        b"\x80\x02}" + NESTED[2:] + b"K\x01s.",  # deep enough to overflow the stack of whoever hashes it
        b"\x80\x02]r\xff\xff\xff\xff.",  # a memo of four billion places
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes of half the address space
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x02\x8b\xff\xff\xff\x7f.",
        b"\x80\x02Pid\n.",
        b"\x80\x02NQ.",
        b"\x80\x05\x97.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02(((.",
        b"\x80\x02" + b"N" * 5_100_000 + b".",
        b".",
        b"\x80\x02R.",
        b"",
    ],
)
def test_a_pickle_that_would_crash_or_flood_is_refused(tmp_path, data):
    with pytest.raises(CheckpointError):
        read_pickle(zipped(tmp_path / "a.ckpt", data))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6))
def test_damage_anywhere_gives_our_own_error_or_tensors_inside_the_file(tmp_path, flips):
    buffer = io.BytesIO()
    torch.save({"state_dict": {"a": torch.ones(3, 4).t(), "b": torch.ones(2).half()}, "epoch": 3}, buffer)
    content = bytearray(buffer.getvalue())
    for at, byte in flips:
        content[at % len(content)] = byte
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    try:
        tensors, _ = read_pickle(path)
    except CheckpointError:
        return
    for tensor in tensors:
        (piece,) = tensor.pieces
        assert piece.offset + piece.span * tensor.dtype.size <= len(content)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=60), start=st.integers(0, 60))
def test_any_bytes_as_a_pickle_give_our_own_error_or_a_reading(tmp_path, data, start):
    whole = described()
    try:
        read_pickle(zipped(tmp_path / "a.ckpt", whole[:start] + data + whole[start:], storages=[SIXTEEN]))
    except CheckpointError:
        return


def test_a_shape_of_tuples_that_multiply_is_refused_before_it_fills_the_memory(tmp_path):
    doubled = b"K\x01" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(11, 61))  # (x, x) of (x, x) of ..., 50 deep
    pickled = described(shape=()).replace(b"(t(", doubled + b"(", 1)
    path = zipped(tmp_path / "x.ckpt", pickled, storages=[SIXTEEN])
    with pytest.raises(CheckpointError, match="no sensible shape"):
        read_pickle(path)
