"""Whatever a LoRA's file holds, opening and reading it gives a LoRA or our own error."""

from __future__ import annotations

import io
import json
import struct

import torch
from fuzz.cases import ANYTHING, FUZZ, damaged
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from unetscope.checkpoints import UnetscopeError
from unetscope.checkpoints.lora import open_lora

KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
PEFT = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
TEXT = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"
MODULES = st.sampled_from(
    [KOHYA, PEFT, TEXT, CONV, "lora_te1_" + TEXT[8:], "unet:0", "0", "bundle_emb.x", "lora_unet_x", ""]
)
ROLES = st.sampled_from([
    "lora_up.weight", "lora_down.weight", "lora_mid.weight", "alpha", "lora_A.weight", "lora_B.weight", "dora_scale",
    "lora_magnitude_vector", "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "lokr_w1",
    "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2", "diff", "diff_b", "w_norm", "b_norm", "weight",
    "on_input", "bias", "bias_values", "bias_indices", "bias_size", "oft_blocks", "a1.weight", "up", "down", "scale", "",
])  # fmt: skip
NAMES = st.tuples(MODULES, st.sampled_from([".", ":", "_"]), ROLES).map("".join)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 16, 32]), max_size=5)
DTYPES = st.sampled_from([torch.float16, torch.float32, torch.bfloat16, torch.int64, torch.bool])
TENSORS = st.dictionaries(NAMES, st.tuples(SHAPES, DTYPES, st.sampled_from([0, 1, -1, float("nan")])), max_size=5)
FACTORS = {
    f"{KOHYA}.lora_up.weight": torch.ones(16, 4), f"{KOHYA}.lora_down.weight": torch.ones(4, 32),
    f"{KOHYA}.alpha": torch.tensor(2.0), f"{TEXT}.hada_w1_a": torch.ones(32, 2), f"{TEXT}.hada_w1_b": torch.ones(2, 32),
    f"{TEXT}.hada_w2_a": torch.ones(32, 2), f"{TEXT}.hada_w2_b": torch.ones(2, 32),
}  # fmt: skip
SAFE = save(FACTORS, {"ss_network_dim": "4", "ss_network_args": '{"conv_dim": "2"}', "ss_v2": "False"})
_buffer = io.BytesIO()
torch.save([torch.ones(2, 1), torch.ones(1, 2)] * 2, _buffer)
LISTED = _buffer.getvalue()
METADATA = st.dictionaries(
    st.sampled_from([
        "lora_adapter_metadata", "ss_network_module", "ss_network_args", "ss_network_dim", "ss_v2", "ss_base_model_version",
        "modelspec.architecture", "unetscope.lora",
    ]),
    ANYTHING.map(json.dumps) | st.text(max_size=12),
    max_size=4,
)  # fmt: skip


def opened(path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        with open_lora(path) as lora:
            assert lora.architecture.name
            for module in lora.modules.values():
                for part in module.parts:
                    lora.load(part)
    except UnetscopeError as error:
        assert str(path) in str(error) and "\n" not in str(error)


@FUZZ
@given(TENSORS, METADATA)
def test_any_tensors_under_the_names_of_trainers(tmp_path, tensors, metadata):
    made = {name: torch.full(shape, value).to(dtype) for name, (shape, dtype, value) in tensors.items()}
    opened(tmp_path / "x.safetensors", save(made, metadata))


@FUZZ
@given(damaged(SAFE))
def test_a_damaged_lora(tmp_path, content):
    opened(tmp_path / "x.safetensors", content)


@FUZZ
@given(damaged(LISTED))
def test_a_damaged_list_of_the_first_trainer(tmp_path, content):
    opened(tmp_path / "x.pt", content)


@FUZZ
@given(st.dictionaries(NAMES, ANYTHING, max_size=4))
def test_any_header_with_the_names_of_a_lora(tmp_path, header):
    text = json.dumps(header).encode()
    opened(tmp_path / "x.safetensors", struct.pack("<Q", len(text)) + text + bytes(64))
