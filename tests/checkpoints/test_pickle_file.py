"""Zip pickles that torch writes, against the tensors that were saved."""

import collections
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unetscope.checkpoints.errors import CheckpointError
from unetscope.checkpoints.formats.pickle_file import read_pickle
from unetscope.library.inspection import inspect

torch = pytest.importorskip("torch")
save_file = pytest.importorskip("safetensors.torch").save_file

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
from unetscope.checkpoints.formats.pickle_file import read_pickle
print(len(read_pickle({str(tmp_path / "a.pt")!r})[0]), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]


# -- objects that are not tensors ----------------------------------------------------------------------------------------


def test_a_trainers_objects_are_read_past_without_being_made(tmp_path):
    listlike, dictlike = Listlike([1, 2]), Dictlike(a=1)
    listlike.extra = dictlike.extra = 1
    state = {"a": torch.ones(2), "b": torch.zeros(1)}
    callbacks = {Callback: Callback(), (1, Callback): 1, "odd": listlike, "keyed": dictlike, "hostile": Hostile()}
    torch.save({"callbacks": callbacks, "state_dict": state, "end": [Hostile(), {Hostile}]}, tmp_path / "a.ckpt")
    MADE.clear()
    check(tmp_path / "a.ckpt", state)
    assert MADE == []


def test_a_whole_pickled_model_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"no state dict of tensors \(found torch.nn.modules.linear.Linear\)"):
        read_pickle(tmp_path / "a.pt")


def test_complex_and_sparse_tensors_are_refused_by_name(tmp_path):
    torch.save({"spectrum": torch.zeros(2, dtype=torch.complex64)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="ComplexFloat"):
        read_pickle(tmp_path / "a.pt")
    sparse = torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (2,), check_invariants=True)
    torch.save({"few": sparse}, tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="few is a sparse tensor"):
        read_pickle(tmp_path / "b.pt")


def test_a_tensor_with_a_pending_negation_is_refused(tmp_path):
    torch.save({"w": torch._neg_view(torch.ones(2))}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="negated view"):
        read_pickle(tmp_path / "a.pt")


# -- tensors below the first dict ---------------------------------------------------------------------------------------


def a(*shape):
    return torch.arange(float(np.prod(shape))).reshape(shape)


def network(width):
    """Half of what a hypernetwork has for one width."""
    return collections.OrderedDict({"linear.0.weight": a(4, width), "linear.0.bias": a(4)})


EMBEDDINGS = torch.nn.ParameterDict({"*": torch.nn.Parameter(a(2, 768))})
NESTED = {
    "the first trainer's textual inversion": (
        {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": EMBEDDINGS},
        {"string_to_token.*": torch.tensor(265), "string_to_param.*": EMBEDDINGS["*"]},
        "a textual inversion embedding, 2 vectors of 768 (SD1)",
    ),
    "the web UI's textual inversion": (
        {"string_to_token": {"*": 265}, "string_to_param": {"*": a(1, 1024)}, "name": "style", "step": 500},
        {"string_to_param.*": a(1, 1024)},
        "a textual inversion embedding, 1 vector of 1,024 (SD2)",
    ),
    "one of both text encoders": (
        {"clip_g": a(3, 1280), "clip_l": a(3, 768)},
        {"clip_g": a(3, 1280), "clip_l": a(3, 768)},
        "a textual inversion embedding, 3 vectors of 768 and 1,280 (SDXL)",
    ),
    "one of diffusers": (
        {"<cat-toy>": a(768)}, {"<cat-toy>": a(768)}, "a textual inversion embedding, 1 vector of 768 (SD1)"
    ),
    "a list of embeddings": (
        [{"<a>": a(768)}, {"<b>": a(768)}],
        {"0.<a>": a(768), "1.<b>": a(768)},
        "a textual inversion embedding, 2 vectors of 768 (SD1)",
    ),
    "an aesthetic embedding": (a(1, 768), {"tensor": a(1, 768)}, "an aesthetic embedding, 1 vector of 768 (SD1)"),
    "a hypernetwork": (
        {768: (network(768), network(768)), "step": 5, "layer_structure": [1, 2, 1]},
        {f"768.{i}.{name}": tensor for i in (0, 1) for name, tensor in network(768).items()},
        "a hypernetwork for SD1",
    ),
    "an IP-Adapter": (
        {"image_proj": {"norm.weight": a(4)}, "ip_adapter": {"1.to_k_ip.weight": a(4, 2048)}},
        {"image_proj.norm.weight": a(4), "ip_adapter.1.to_k_ip.weight": a(4, 2048)},
        "an IP-Adapter for SDXL",
    ),
    "an IP-Adapter of faces, most of which are LoRA layers": (
        {
            "image_proj": {"norm.weight": a(4)},
            "ip_adapter": {f"{n}.to_{c}_lora.{end}.weight": a(4, 4) for n in (0, 1) for c in "qkv" for end in ("down", "up")},
        },
        None,
        "an IP-Adapter",
    ),
    "a PhotoMaker, most of which are LoRA layers": (
        {
            "id_encoder": {"fuse_module.mlp1.fc1.weight": a(4, 4)},
            "lora_weights": {f"unet.down_blocks.{n}.attn2.processor.to_k_lora.down.weight": a(4, 2048) for n in range(3)},
        },
        None,
        "a PhotoMaker for SDXL",
    ),
    "parts of a model": (
        {"unet": {"a.weight": a(4)}, "vae": {"b.weight": a(3)}},
        {"unet.a.weight": a(4), "vae.b.weight": a(3)},
        "no Stable Diffusion UNET, VAE or text encoder among its 2 tensors",
    ),
    "one part of a model": ({"unet": {"a.weight": a(4)}, "step": 3}, {"a.weight": a(4)}, None),
    "a state dict with counters next to it": (
        {"epoch": torch.tensor(3), "model": {"a.weight": a(4)}}, {"a.weight": a(4)}, None
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", NESTED)
def test_tensors_are_found_at_any_depth_and_the_file_is_named_by_what_it_is(tmp_path, what):
    content, expected, name = NESTED[what]
    path = tmp_path / "a.pt"
    torch.save(content, path)
    if expected is not None:
        check(path, expected)
    if name is not None:
        found = inspect(path)
        assert found.architecture.name == name
        assert {t.name for t in found.tensors} == {t.name for t in read_pickle(path)[0]}


def test_the_same_in_a_safetensors_file_has_the_same_name(tmp_path):
    pairs = [(name, expected) for _, expected, name in NESTED.values() if name and expected]
    for i, (name, tensors) in enumerate(pairs):
        save_file({key: tensor.detach().clone() for key, tensor in tensors.items()}, tmp_path / f"{i}.safetensors")
        found = inspect(tmp_path / f"{i}.safetensors")
        assert found.architecture.name == name
        assert {(t.name, t.shape) for t in found.tensors} == {(key, tuple(t.shape)) for key, t in tensors.items()}


def test_what_stands_next_to_the_state_dict_is_counted(tmp_path):
    rest = {"ema": {"w": a(4), "v": a(2)}, "optimizer": {"state": {0: {"exp_avg": a(4)}}}, "lr": 0.1}
    torch.save({"state_dict": {"w": a(4)}, **rest}, tmp_path / "a.ckpt")
    check(tmp_path / "a.ckpt", {"w": a(4)})
    (note,) = inspect(tmp_path / "a.ckpt").notes
    assert re.findall(r"[\w.]+ \(\d+\)|^\d+", note.text) == ["3", "ema (2)", "optimizer (1)"]


@pytest.mark.parametrize("content", [{"a.b": 1, "a": {"b": 2}}, {1: 1, "1": 2}])
def test_two_tensors_of_one_name_are_refused(tmp_path, content):
    def tensors(value):
        return {k: tensors(v) for k, v in value.items()} if isinstance(value, dict) else a(value)

    torch.save(tensors(content), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"two of its tensors are called (a\.b|1);"):
        read_pickle(tmp_path / "a.pt")


@pytest.mark.parametrize("wide", [1, 16])
def test_dicts_that_nest_into_more_tensors_than_anybody_can_list_are_refused(tmp_path, wide):
    content = {"w": a(2)}
    for _ in range(60 if wide == 1 else 8):
        content = {f"x{i}": content for i in range(wide)}
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="nests more than any checkpoint"):
        read_pickle(tmp_path / "a.pt")


CLASSES = r"TensorRef|StorageRef|Inert|Global|_Unpickler|NoneType|Error\b|Traceback"


@pytest.mark.parametrize(
    "data", [b"}.", b"N.", b"]N.", b"cos\nsystem\n.", b"K\x01R.", b"}K\x01s.", b"h\x07.", b"(K\x01o."]
)
def test_no_sentence_names_a_class_of_the_code(tmp_path, data):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as file:
        file.writestr("x/data.pkl", b"\x80\x02" + data)
    with pytest.raises(CheckpointError) as caught:
        read_pickle(tmp_path / "a.pt")
    assert not re.search(CLASSES, str(caught.value)), str(caught.value)
