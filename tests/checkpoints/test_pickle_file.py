"""Zip pickles against torch.load, and against files that mean harm or are broken."""

import collections
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unetscope.checkpoints.errors import CheckpointError
from unetscope.checkpoints.pickle_file import looks_like_zip, read_pickle

torch = pytest.importorskip("torch")

MADE = []


def note(*arguments):
    """What a hostile pickle wants called."""
    MADE.append(arguments)


class Hostile:
    def __reduce__(self):
        return note, ("called",)


class Callback:
    """Stands for a trainer's object: state, slots, a list and a dict in one."""

    def __init__(self):
        self.best = torch.zeros(2)
        self.self_reference = self


class Listlike(list):
    pass


class Dictlike(collections.OrderedDict):
    pass


def numbers(path, stored):
    """The raw bytes of a stored tensor in row-major order."""
    (piece,) = stored.pieces
    size = stored.dtype.size
    with open(path, "rb") as file:
        file.seek(piece.offset)
        data = np.frombuffer(file.read(piece.span * size), f"V{size}")
    strides = None if piece.strides is None else [s * size for s in piece.strides]
    return np.lib.stride_tricks.as_strided(data, piece.shape, strides).tobytes()


def check(path, expected):
    """Every tensor has the dtype, shape and bytes that torch has."""
    tensors, _ = read_pickle(path)
    assert [t.name for t in tensors] == list(expected)
    for stored in tensors:
        tensor = expected[stored.name].detach()
        assert stored.dtype.torch == str(tensor.dtype).removeprefix("torch.")
        assert stored.shape == tuple(tensor.shape)
        plain = tensor.clone(memory_format=torch.contiguous_format).reshape(-1)
        assert numbers(path, stored) == plain.view(torch.uint8).numpy().tobytes(), stored.name


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


# -- what torch writes --------------------------------------------------------------------------------------------------


def test_every_dtype_that_torch_saves_is_read_with_its_bytes(tmp_path):
    kinds = (
        "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 int64 int32 int16 int8 uint8 uint16 uint32 uint64"
    )
    state = {kind: torch.arange(6).reshape(2, 3).to(getattr(torch, kind)) for kind in kinds.split()}
    state["bool"] = torch.tensor([True, False, True])
    torch.save(state, tmp_path / "a.ckpt")
    check(tmp_path / "a.ckpt", state)


def test_views_strides_and_shared_storages_are_read_as_torch_sees_them(tmp_path):
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = {
        "base": base,
        "transposed": base.t(),
        "row": base[2],
        "column": base[:, 3],
        "every other": base[1::2, ::2],
        "scalar": base[1, 1],
        "repeated": base[0, :1].expand(5),
        "empty": base[:0],
        "new axis": base[:, None].permute(2, 1, 0),
        "parameter": torch.nn.Parameter(base * 2),
        "half": base.half().t(),
    }
    torch.save(state, tmp_path / "a.pt")
    check(tmp_path / "a.pt", state)
    starts = {t.name: t.pieces[0].offset for t in read_pickle(tmp_path / "a.pt")[0]}
    assert starts["base"] == starts["transposed"] == starts["row"] - 12 * 4


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), shape=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_any_permuted_slice_of_a_tensor_is_read_as_torch_sees_it(tmp_path, data, shape):
    base = torch.arange(int(np.prod(shape)), dtype=torch.int32).reshape(shape)
    cut = tuple(slice(data.draw(st.integers(0, n - 1)), None, data.draw(st.integers(1, 3))) for n in shape)
    view = base[cut].permute(data.draw(st.permutations(range(len(shape)))))
    torch.save({"view": view}, tmp_path / "a.pt")
    check(tmp_path / "a.pt", {"view": view})


@pytest.mark.parametrize("wrap", ["state_dict", "model", "module", "params", "model_state_dict"])
def test_the_state_dict_is_found_where_trainers_put_it(tmp_path, wrap):
    state = collections.OrderedDict(a=torch.ones(2), b=torch.zeros(3))
    state._metadata = {"": {"version": 1}}
    torch.save({"epoch": 3, "optimizer": {"lr": torch.ones(1)}, wrap: state}, tmp_path / "a.ckpt")
    check(tmp_path / "a.ckpt", state)


def test_a_state_dict_inside_a_model_is_found(tmp_path):
    state = {"a": torch.ones(2)}
    torch.save({"model": {"state_dict": state}}, tmp_path / "a.ckpt")
    check(tmp_path / "a.ckpt", state)


def test_short_plain_values_become_metadata(tmp_path):
    values = {
        "epoch": 3,
        "global_step": 1200,
        "lr": 0.5,
        "name": "mine",
        "long": "x" * 5000,
        "list": [1],
        "huge": 10**5000,
    }
    torch.save({**values, "state_dict": {"a": torch.ones(1), "note": "inside"}}, tmp_path / "a.ckpt")
    expected = {"epoch": "3", "global_step": "1200", "lr": "0.5", "name": "mine", "note": "inside"}
    assert read_pickle(tmp_path / "a.ckpt")[1] == expected


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_that_torch_can_write_is_read(tmp_path, protocol):
    state = {"a": torch.arange(6.0).reshape(2, 3), "n": np.float64(3), "s": {1, 2}, "f": frozenset((1,)), "b": b"x"}
    torch.save(state, tmp_path / "a.pt", pickle_protocol=protocol)
    check(tmp_path / "a.pt", {"a": state["a"]})


def test_reading_imports_neither_torch_nor_what_the_file_names(tmp_path):
    torch.save({"a": torch.ones(2), "c": collections.Counter("aab")}, tmp_path / "a.pt")
    script = f"""
import sys
from unetscope.checkpoints.pickle_file import read_pickle
print(len(read_pickle({str(tmp_path / "a.pt")!r})[0]), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]


# -- objects that are no tensors ----------------------------------------------------------------------------------------


def test_a_trainers_objects_are_read_past_without_being_made(tmp_path):
    listlike, dictlike = Listlike([1, 2]), Dictlike(a=1)
    listlike.extra = dictlike.extra = 1
    state = {"a": torch.ones(2), "b": torch.zeros(1)}
    callbacks = {Callback: Callback(), (1, Callback): 1, "odd": listlike, "keyed": dictlike, "hostile": Hostile()}
    torch.save({"callbacks": callbacks, "state_dict": state, "end": [Hostile(), {Hostile}]}, tmp_path / "a.ckpt")
    MADE.clear()
    check(tmp_path / "a.ckpt", state)
    assert MADE == []


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
    monkeypatch.setattr(os, "system", note)
    MADE.clear()
    body = described()[:-1] + b"X\x01\0\0\0x" + call + b"s."
    path = zipped(tmp_path / "a.ckpt", body, storages=[SIXTEEN])
    assert [t.name for t in read_pickle(path)[0]] == ["w"]
    assert MADE == []


def test_attributes_that_a_pickle_sets_reach_no_class(tmp_path):
    hostile = described()[:-1] + b"X\x01\0\0\0xccollections\nCounter\nN}X\x04\0\0\0evilK\x01s\x86bs."
    read_pickle(zipped(tmp_path / "a.ckpt", hostile, storages=[SIXTEEN]))
    assert not hasattr(collections.Counter, "evil")


def test_a_whole_pickled_model_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"no state dict of tensors \(found torch.nn.modules.linear.Linear\)"):
        read_pickle(tmp_path / "a.pt")


def test_complex_and_quantised_tensors_are_refused_by_name(tmp_path):
    torch.save({"spectrum": torch.zeros(2, dtype=torch.complex64)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="spectrum has dtype ComplexFloat"):
        read_pickle(tmp_path / "a.pt")
    sparse = torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (2,), check_invariants=True)
    torch.save({"few": sparse}, tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="few is a sparse tensor"):
        read_pickle(tmp_path / "b.pt")
    small = b"\x80\x02}X\x01\0\0\0qctorch._utils\n_rebuild_qtensor\n)Rs."
    with pytest.raises(CheckpointError, match="q is a qtensor"):
        read_pickle(zipped(tmp_path / "c.pt", small))


def test_a_tensor_with_a_pending_negation_is_refused(tmp_path):
    torch.save({"w": torch._neg_view(torch.ones(2))}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="negated view"):
        read_pickle(tmp_path / "a.pt")


# -- files that cannot be right -----------------------------------------------------------------------------------------


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
    assert numbers(path, tensor) == SIXTEEN


def test_a_compressed_file_is_refused_with_how_to_save_it_again(tmp_path):
    path = zipped(tmp_path / "a.ckpt", described(), storages=[SIXTEEN], compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"compressed.*safetensors.torch.save_file"):
        read_pickle(path)


def test_a_pickle_that_claims_gigabytes_is_refused_unread(tmp_path):
    bomb = b"\0" * (80 << 20)
    path = zipped(tmp_path / "a.ckpt", bomb, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="more than the 67,108,864"):
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
    with pytest.raises(CheckpointError, match=r"before torch 1.6.*weights_only=True.*safetensors"):
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
    with pytest.raises(CheckpointError, match=r"no data\.pkl"):
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
