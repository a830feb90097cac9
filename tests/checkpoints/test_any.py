"""Models of no known family: blocks, order and kinds from names, whatever prefix they carry; and what never passes for one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from key_sets import MODELS, behind, clip_l, flux, t5, vae, write, z_image
from safetensors.numpy import load_file, save_file

from unetscope.checkpoints import open_checkpoint
from unetscope.checkpoints.errors import CheckpointError, LabelError
from unetscope.checkpoints.families import FAMILIES, in_order
from unetscope.checkpoints.families.any import PREFIXES, any_family
from unetscope.merge.block_weights import BlockWeights


def numbered(stem: str, count: int) -> list[str]:
    return [f"{stem}{i:02d}" for i in range(count)]


# Labels in order, and how many tensors each block of a list holds.
LABELS = {
    "flux": (["START", *numbered("DOUBLE_BLOCKS", 3), *numbered("SINGLE_BLOCKS", 4), "END"],
             {"DOUBLE_BLOCKS": 24, "SINGLE_BLOCKS": 8}),
    "flux_diffusers": (["START", *numbered("TRANSFORMER_BLOCKS", 3), *numbered("SINGLE_TRANSFORMER_BLOCKS", 4), "END"],
                       {"TRANSFORMER_BLOCKS": 31, "SINGLE_TRANSFORMER_BLOCKS": 14}),
    "chroma": (["START", *numbered("DISTILLED_GUIDANCE_LAYER", 5), *numbered("DOUBLE_BLOCKS", 3),
                *numbered("SINGLE_BLOCKS", 4), "END"],
               {"DISTILLED_GUIDANCE_LAYER": 4, "DOUBLE_BLOCKS": 20, "SINGLE_BLOCKS": 6}),
    "z_image": (["START", *numbered("CONTEXT_REFINER", 2), *numbered("NOISE_REFINER", 2), *numbered("LAYERS", 5), "END"],
                {"CONTEXT_REFINER": 10, "NOISE_REFINER": 11, "LAYERS": 11}),
    "qwen_image": (["START", *numbered("TRANSFORMER_BLOCKS", 4), "END"], {"TRANSFORMER_BLOCKS": 30}),
    "anima": (["START", *numbered("LLM_ADAPTER", 2), *numbered("BLOCKS", 4), "END"], {"LLM_ADAPTER": 8, "BLOCKS": 20}),
    "sd3": (["START", *numbered("JOINT_BLOCKS", 4), "END"], {"JOINT_BLOCKS": 22}),
    "wan": (["START", *numbered("BLOCKS", 4), "END"], {"BLOCKS": 26}),
    "auraflow": (["START", *numbered("DOUBLE_LAYERS", 2), *numbered("SINGLE_LAYERS", 3), "END"],
                 {"DOUBLE_LAYERS": 16, "SINGLE_LAYERS": 8}),
    "hunyuan_dit": (["START", *numbered("BLOCKS", 4), "END"], {"BLOCKS": 20}),
    "t5": (["START", *numbered("ENCODER", 4), "END"], {"ENCODER": 9}),
    "unet": (["START", *numbered("INPUT_BLOCKS", 5), *numbered("MIDDLE_BLOCK", 3), *numbered("OUTPUT_BLOCKS", 5), "END"],
             {"INPUT_BLOCKS": 11, "MIDDLE_BLOCK": 5, "OUTPUT_BLOCKS": 11}),
}  # fmt: skip
ENDS = {
    "flux": ({"img_in", "txt_in", "time_in", "vector_in"}, {"final_layer"}),
    "flux_diffusers": ({"time_text_embed", "context_embedder", "x_embedder"}, {"norm_out", "proj_out"}),
    "qwen_image": ({"img_in", "txt_in", "txt_norm", "time_text_embed"}, {"norm_out", "proj_out"}),
    "anima": ({"x_embedder", "t_embedder", "t_embedding_norm", "llm_adapter"}, {"final_layer"}),
    "auraflow": ({"init_x_linear", "cond_seq_linear", "t_embedder", "positional_encoding", "register_tokens"},
                 {"modF", "final_linear"}),
    "wan": ({"patch_embedding", "text_embedding", "time_embedding", "time_projection"}, {"head"}),
    "t5": ({"shared", "encoder"}, {"encoder"}),
    "unet": ({"time_embed"}, {"out"}),
}  # fmt: skip
KINDS = {
    "flux": {
        "double_blocks.0.img_attn.qkv.weight": "attn.qkv", "double_blocks.1.txt_attn.proj.bias": "attn.out",
        "double_blocks.0.img_attn.norm.query_norm.scale": "norm", "double_blocks.0.img_mlp.0.weight": "ff.in",
        "double_blocks.2.txt_mlp.2.weight": "ff.out", "double_blocks.0.img_mod.lin.weight": "emb",
        "single_blocks.0.linear1.weight": "other", "single_blocks.3.modulation.lin.weight": "emb",
        "final_layer.adaLN_modulation.1.weight": "emb",
    },
    "flux_diffusers": {
        "transformer_blocks.0.attn.to_q.weight": "attn.q", "transformer_blocks.0.attn.add_k_proj.bias": "attn.k",
        "transformer_blocks.0.attn.to_out.0.weight": "attn.out", "transformer_blocks.0.attn.norm_added_q.weight": "norm",
        "transformer_blocks.0.ff.net.0.proj.weight": "ff.in", "transformer_blocks.0.ff_context.net.2.weight": "ff.out",
        "transformer_blocks.0.norm1.linear.weight": "emb", "norm_out.linear.weight": "emb",
    },
    "z_image": {
        "layers.4.attention.qkv.weight": "attn.qkv", "layers.4.feed_forward.w2.weight": "ff.out",
        "layers.4.feed_forward.w3.weight": "ff.in", "layers.4.attention_norm2.weight": "norm",
        "layers.4.attention.k_norm.weight": "norm", "noise_refiner.0.adaLN_modulation.0.weight": "emb",
        "t_embedder.mlp.0.weight": "emb",
    },
    "anima": {
        "blocks.0.self_attn.q_proj.weight": "attn.q", "blocks.0.cross_attn.output_proj.weight": "attn.out",
        "blocks.0.mlp.layer1.weight": "ff.in", "blocks.0.mlp.layer2.weight": "ff.out",
        "blocks.0.adaln_modulation_mlp.1.weight": "emb", "blocks.0.self_attn.q_norm.weight": "norm",
    },
    "sd3": {
        "joint_blocks.0.x_block.attn.qkv.weight": "attn.qkv", "joint_blocks.0.context_block.mlp.fc2.weight": "ff.out",
        "joint_blocks.0.x_block.attn.ln_q.weight": "norm", "y_embedder.mlp.0.weight": "emb",
    },
    "wan": {
        "blocks.0.self_attn.q.weight": "attn.q", "blocks.0.cross_attn.o.weight": "attn.out", "blocks.0.ffn.0.weight": "ff.in",
        "blocks.0.ffn.2.bias": "ff.out", "blocks.0.norm3.weight": "norm", "blocks.0.modulation": "emb",
    },
    "auraflow": {
        "double_layers.0.attn.w1q.weight": "attn.q", "single_layers.0.attn.w1o.weight": "attn.out",
        "double_layers.0.mlpX.c_fc2.weight": "ff.in", "double_layers.0.mlpC.c_proj.weight": "ff.out", "modF.1.weight": "emb",
    },
    "hunyuan_dit": {
        "blocks.0.attn1.Wqkv.weight": "attn.qkv", "blocks.0.attn2.q_proj.weight": "attn.q", "blocks.0.norm2.weight": "norm",
    },
    "t5": {
        "encoder.block.0.layer.0.SelfAttention.v.weight": "attn.v", "encoder.block.0.layer.1.DenseReluDense.wo.weight": "ff.out",
        "encoder.block.0.layer.1.DenseReluDense.wi_1.weight": "ff.in", "encoder.block.0.layer.0.layer_norm.weight": "norm",
    },
    "unet": {
        "input_blocks.1.0.in_layers.0.weight": "norm", "input_blocks.1.0.in_layers.2.weight": "conv",
        "input_blocks.1.0.emb_layers.1.weight": "emb", "input_blocks.1.1.attn.proj_out.weight": "attn.out",
    },
}  # fmt: skip
ONES = [(name, key, kind) for name, kinds in KINDS.items() for key, kind in kinds.items()]


@pytest.mark.parametrize("name", LABELS)
def test_labels_are_the_numbered_names_in_network_order(name):
    shapes = MODELS[name]()
    record, (labels, sizes) = any_family(shapes), LABELS[name]
    assert list(record.labels) == labels
    assert in_order(reversed(labels)) == labels
    held = Counter(record.block_of(key).label for key in shapes)
    assert set(held) == set(labels)
    for stem, size in sizes.items():
        found = {held[label] for label in labels if label.rstrip("0123456789") == stem}
        assert max(found) - (name == "t5") == min(found) == size  # T5's first block has the bias of positions too
    assert all(record.block_of(key).core for key in shapes)


@pytest.mark.parametrize("name", ENDS)
def test_what_stands_beside_blocks_is_before_or_behind_them(name):
    shapes = MODELS[name]()
    record = any_family(shapes)
    held = {"START": set(), "END": set()}
    for key in shapes:
        label = record.block_of(key).label
        if label in held:
            held[label].add(key.partition(".")[0])
    assert (held["START"], held["END"]) == ENDS[name]


@pytest.mark.parametrize(("name", "key", "kind"), ONES)
def test_kinds_of_layers_are_told_by_words_that_trainers_share(name, key, kind):
    shapes = MODELS[name]()
    assert key in shapes
    assert any_family(shapes).kind_of(key) == kind


@pytest.mark.parametrize("name", MODELS)
def test_a_vector_has_one_number_a_block(name):
    record = any_family(MODELS[name]())
    vector = [i / 100 for i in range(len(record.labels))]
    assert BlockWeights.parse(vector).resolve(record).by_label() == dict(zip(record.labels, vector, strict=True))
    with pytest.raises(LabelError):
        BlockWeights.parse(vector[1:]).resolve(record)


@pytest.mark.one_by_one
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("prefix", ["", *PREFIXES, "module.model.diffusion_model.", "dit.", "_orig_mod.net."])
def test_a_prefix_is_no_part_of_a_key(name, prefix):
    shapes = MODELS[name]()
    plain, wrapped = any_family(shapes), any_family({prefix + key: shape for key, shape in shapes.items()})
    assert wrapped.prefixes == (prefix + plain.prefixes[0],)
    assert dict(wrapped.layout()) == dict(plain.layout())
    assert wrapped.labels == plain.labels


@pytest.mark.one_by_one
@pytest.mark.parametrize("name", [name for name in MODELS if name != "unet"])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "net."])
def test_a_file_opens_with_its_own_keys_and_values(name, prefix, tmp_path):
    weights = write(tmp_path / "a.safetensors", MODELS[name](), 1, prefix)
    with open_checkpoint(tmp_path / "a.safetensors") as checkpoint:
        assert (checkpoint.architecture.family, checkpoint.architecture.what) == ("any", "checkpoint")
        assert set(checkpoint.tensors) == set(weights)
        assert checkpoint.family.labels == tuple(LABELS[name][0])
        for key, values in weights.items():
            assert (checkpoint.numpy(key) == values).all()


def test_numbers_with_a_hole_are_labels_without_the_hole():
    shapes = {key: shape for key, shape in z_image().items() if not key.startswith("layers.2.")}
    assert [x for x in any_family(shapes).labels if x.startswith("LAYERS")] == [
        "LAYERS00",
        "LAYERS01",
        "LAYERS03",
        "LAYERS04",
    ]


# -- what is not a model -------------------------------------------------------------------------------------------------------

ADDED = [
    "lora_unet_blocks_0_attn.lora_down.weight", "blocks.0.attn.q.lora_A.weight", "blocks.0.attn.q.lora_up.weight",
    "blocks.0.attn.q.hada_w1_a", "blocks.0.attn.q.lokr_w1", "blocks.0.attn.q.oft_blocks", "blocks.0.attn.q.ia3_l",
    "blocks.0.attn.q.alpha", "blocks.0.attn.q.diff", "blocks.0.attn.q.diff_b", "blocks.0.attn.q.dora_scale",
    "lycoris_blocks_0_attn_q.lokr_w2", "blocks.0.norm.w_norm", "state.0.exp_avg", "optimizer.state.0.step", "emb_params",
    "string_to_param.*", "clip_l",
]  # fmt: skip


@pytest.mark.parametrize("name", ADDED)
def test_names_that_tell_of_a_difference_an_optimiser_or_an_embedding_are_no_model(name):
    assert any_family(MODELS["wan"]()) is not None
    assert any_family(MODELS["wan"]() | {name: (4, 4)}) is None


@pytest.mark.parametrize("ends", [(".lora_A.weight", ".lora_B.weight"), (".lora_down.weight", ".lora_up.weight", ".alpha"),
                                  (".hada_w1_a", ".hada_w1_b", ".hada_w2_a", ".hada_w2_b"), (".lokr_w1", ".lokr_w2"),
                                  (".oft_blocks",), (".ia3_l",), (".diff",)])  # fmt: skip
def test_a_file_of_differences_never_opens_as_a_model(ends, tmp_path):
    modules = [key.removesuffix(".weight") for key in z_image() if key.endswith(".weight")]
    shapes = {f"diffusion_model.{module}{end}": (4, 4) for module in modules for end in ends}
    write(tmp_path / "l.safetensors", shapes)
    with open_checkpoint(tmp_path / "l.safetensors") as checkpoint:
        assert checkpoint.architecture.family != "any"
        assert checkpoint.architecture.what in ("lora", "other")


def test_a_file_of_codes_is_refused(tmp_path):
    weights = write(tmp_path / "a.safetensors", z_image())
    coded = {key: values.astype(np.int8) if values.ndim == 2 else values for key, values in weights.items()}
    save_file(coded, tmp_path / "coded.safetensors")
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path / "coded.safetensors")


@pytest.mark.parametrize(
    "shapes", [{"emb_params": (4, 768)}, {"clip_l": (4, 768), "clip_g": (4, 1280)}, {"a.weight": (4, 4)}]
)
def test_an_embedding_or_a_lone_matrix_is_no_model(shapes):
    assert any_family(shapes) is None


# -- files of several components --------------------------------------------------------------------------------------------

SMALL = flux()
LARGE = {key: tuple(40 * n for n in shape) for key, shape in SMALL.items()}


@pytest.mark.one_by_one
@pytest.mark.parametrize("model", [SMALL, LARGE], ids=["smaller than its text encoder", "larger"])
@pytest.mark.parametrize("image", ["vae.", "first_stage_model."])
def test_text_encoders_and_vae_beside_an_unknown_model_keep_their_names(model, image, tmp_path):
    shapes = behind("model.diffusion_model.", model) | behind("text_encoders.clip_l.transformer.", clip_l())
    shapes |= behind("text_encoders.t5xxl.transformer.", t5()) | behind(image, vae())
    weights = write(tmp_path / "whole.safetensors", shapes)
    with open_checkpoint(tmp_path / "whole.safetensors") as checkpoint:
        assert set(checkpoint.tensors) == {name.removeprefix("model.diffusion_model.") for name in weights}
        assert {t.stored.name for t in checkpoint.tensors.values()} == set(weights)
        assert Counter(t.component for t in checkpoint.tensors.values()) == {
            "model": len(model), "clip_l": len(clip_l()), "t5xxl": len(t5()), "vae": len(vae()),
        }  # fmt: skip
        assert set(checkpoint.architecture.parts) == {"model", "clip_l", "t5xxl", "vae"}
        assert checkpoint.family.text_encoders == ("CLIP_L", "T5XXL")
        texts = [t for t in checkpoint.tensors.values() if t.place.text]
        assert {t.label for t in texts} == {"CLIP_L", "T5XXL"}
        assert not any(t.place.core for t in texts)


def test_the_model_may_stand_without_a_prefix_beside_its_parts(tmp_path):
    weights = write(tmp_path / "whole.safetensors", LARGE | behind("vae.", vae()))
    with open_checkpoint(tmp_path / "whole.safetensors") as checkpoint:
        assert set(checkpoint.tensors) == set(weights)
        assert Counter(t.component for t in checkpoint.tensors.values()) == {"model": len(LARGE), "vae": len(vae())}


def test_a_stable_diffusion_file_with_a_few_strange_tensors_is_none_of_these(tmp_path):
    shapes = {key: spec.shape for key, spec in FAMILIES["sd1"].layout("narrow").items() if spec.shape}
    write(
        tmp_path / "sd.safetensors",
        shapes | {"blocks.0.a": (2,), "blocks.0.b": (2,), "blocks.0.c": (2,), "blocks.1.a": (2,)},
    )
    with open_checkpoint(tmp_path / "sd.safetensors") as checkpoint:
        assert checkpoint.architecture.family == "sd1"


def test_text_encoders_without_a_model_are_renamed_as_before(tmp_path):
    write(tmp_path / "text.safetensors", behind("text_encoders.clip_l.transformer.", clip_l()) | {"scale.x": (2,)})
    with open_checkpoint(tmp_path / "text.safetensors") as checkpoint:
        assert checkpoint.architecture.what == "component"
        assert any(key.startswith("cond_stage_model.transformer.text_model.") for key in checkpoint.tensors)


def test_an_unknown_unet_keeps_its_own_blocks(tmp_path):
    weights = write(tmp_path / "unet.safetensors", MODELS["unet"](), 1, "model.diffusion_model.")
    with open_checkpoint(tmp_path / "unet.safetensors") as checkpoint:
        assert set(checkpoint.tensors) == set(weights)
        assert checkpoint.family.labels == tuple(LABELS["unet"][0])
    assert set(load_file(tmp_path / "unet.safetensors")) == {f"model.diffusion_model.{name}" for name in weights}
