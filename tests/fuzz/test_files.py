"""Whatever a file holds, opening it gives a checkpoint or our own error."""

from __future__ import annotations

import io
import json
import pickletools
import struct
import zipfile

import torch
from fuzz.cases import ANYTHING, FUZZ, damaged
from hypothesis import given
from hypothesis import strategies as st

from unetscope.checkpoints import UnetscopeError, open_checkpoint
from unetscope.library.history import merge_history

NAMES = st.text(max_size=5) | st.sampled_from(
    [
        "__metadata__",
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.out.2.bias",
        "cond_stage_model.transformer.text_model.embeddings.position_ids",
        "v_pred",
        "first_stage_model.quant_conv.weight",
        "lora_unet_x.lora_up.weight",
    ]
)
SIZES = st.integers(0, 4) | st.sampled_from([-1, 2**31, 2**62, 2**63, 2**64, 10**30, True, 1.0, "1", None])


def opened(path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        with open_checkpoint(path) as checkpoint:
            for info in checkpoint.tensors.values():
                checkpoint.raw(info.key)
            merge_history(checkpoint.metadata, path.name)
    except UnetscopeError as error:
        assert str(path) in str(error)


def safetensors(header: object, data: bytes = bytes(64)) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@FUZZ
@given(
    st.dictionaries(
        NAMES,
        ANYTHING
        | st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F16", "F32", "BF16", "I64", "BOOL", "F4", "", None]),
                "shape": st.lists(SIZES, max_size=5),
                "data_offsets": st.lists(SIZES, max_size=3),
            }
        ),
        max_size=5,
    )
)
def test_any_header(tmp_path, header):
    opened(tmp_path / "x.safetensors", safetensors(header))


KEYS = ["model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.out.2.bias"]
GOOD = safetensors(
    {
        "__metadata__": {"format": "pt", "sd_merge_recipe": '{"type": "webui"}'},
        KEYS[0]: {"dtype": "F16", "shape": [2, 4], "data_offsets": [0, 16]},
        KEYS[1]: {"dtype": "F32", "shape": [4], "data_offsets": [16, 32]},
    },
    bytes(32),
)


@FUZZ
@given(damaged(GOOD))
def test_a_damaged_safetensors_file(tmp_path, content):
    opened(tmp_path / "x.safetensors", content)


# -- pickles ------------------------------------------------------------------------------------------------------------

BUFFER = io.BytesIO()
torch.save({"state_dict": {KEYS[0]: torch.ones(3, 4).t(), KEYS[1]: torch.ones(2).half()}, "epoch": 3}, BUFFER)
WHOLE = BUFFER.getvalue()
with zipfile.ZipFile(BUFFER) as archive:
    ROOT = archive.namelist()[0].partition("/")[0]
    PICKLE = archive.read(f"{ROOT}/data.pkl")
    REST = {name: archive.read(name) for name in archive.namelist() if not name.endswith("data.pkl")}


def torch_file(pickle: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr(f"{ROOT}/data.pkl", pickle)
        for name, content in REST.items():
            made.writestr(name, content)
    return out.getvalue()


# Instructions without an argument, and some with one that a reader might stumble over.
PLAIN = [op.code.encode("latin-1") for op in pickletools.opcodes if op.arg is None]
TELLING = [
    b"K\x00", b"K\x02", b"M\xff\xff", b"J\xff\xff\xff\xff", b"\x8a\x09" + b"\xff" * 8 + b"\x00", b"I99\n", b"F1e999\n", b"q\x00",
    b"q\x01", b"h\x00", b"h\x01", b"h\x09", b"X\x01\x00\x00\x00a", b"X\x07\x00\x00\x00storage", b"X\x01\x00\x00\x000",
    b"X\x0a\x00\x00\x00state_dict", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_tensor_v3\n",
    b"ctorch._utils\n_rebuild_parameter\n", b"ctorch._tensor\n_rebuild_from_type_v2\n", b"ctorch\nFloatStorage\n",
    b"ctorch\nSize\n", b"ccollections\nOrderedDict\n", b"cos\nsystem\n", b"ios\nsystem\n", b"\x8c\x02os", b"C\x01x", b"S'a'\n",
    b"\x82\x01", b"P0\n", b"\x86", b"\x85", b"\x87", b"2", b"(", b"t", b"l", b"d", b"}", b"]", b")", b"R", b"s", b"u", b"b", b"Q",
]  # fmt: skip


@FUZZ
@given(st.lists(st.sampled_from(TELLING) | st.sampled_from(PLAIN), max_size=40), st.booleans())
def test_any_instructions_of_a_pickle(tmp_path, instructions, ended):
    opened(tmp_path / "x.ckpt", torch_file(b"\x80\x02" + b"".join(instructions) + (b"." if ended else b"")))


@FUZZ
@given(damaged(PICKLE))
def test_a_damaged_pickle(tmp_path, pickle):
    opened(tmp_path / "x.ckpt", torch_file(pickle))


@FUZZ
@given(damaged(WHOLE))
def test_a_damaged_zip(tmp_path, content):
    opened(tmp_path / "x.ckpt", content)


# -- what files say of themselves ---------------------------------------------------------------------------------------

FIELDS = st.sampled_from([
    "type", "primary_model_hash", "secondary_model_hash", "tertiary_model_hash", "interp_method", "multiplier",
    "custom_name", "name", "sd_merge_recipe", "weights_alpha", "weights_beta", "recipe", "models", "steps", "result",
    "inputs", "method", "sha256", "file", "legacy_hash", "mode",
])  # fmt: skip
SAID = st.recursive(
    ANYTHING, lambda inner: st.dictionaries(FIELDS, inner, max_size=6) | st.lists(inner, max_size=3), max_leaves=12
)


@FUZZ
@given(
    st.dictionaries(
        st.sampled_from(["sd_merge_recipe", "sd_merge_models", "unetscope.recipe", "unetscope.inputs", "format", "x"]),
        SAID.map(json.dumps) | st.text(max_size=30),
        max_size=4,
    )
)
def test_any_merge_history(metadata):
    found = merge_history(metadata, "x.safetensors")
    assert found is None or json.dumps(found.to_plain())
