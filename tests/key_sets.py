"""Narrow key sets of transformers that have no record: names as their published files have them, shapes of a few channels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from unetscope.checkpoints.families import FAMILIES

W = 8
Shapes = dict[str, tuple[int, ...]]


def _linears(prefix: str, names: Iterable[str], bias: bool = False) -> Shapes:
    out: Shapes = {}
    for name in names:
        out[f"{prefix}{name}.weight"] = (W, W)
        if bias:
            out[f"{prefix}{name}.bias"] = (W,)
    return out


def _vectors(prefix: str, names: Iterable[str]) -> Shapes:
    return {f"{prefix}{name}": (W,) for name in names}


def _repeated(path: str, count: int, linears: str, vectors: str = "", bias: bool = False) -> Shapes:
    out: Shapes = {}
    for i in range(count):
        out |= _linears(f"{path}.{i}.", linears.split(), bias) | _vectors(f"{path}.{i}.", vectors.split())
    return out


def flux() -> Shapes:
    """Flux.1, in the layout of one file."""
    double = " ".join(f"{s}_mod.lin {s}_attn.qkv {s}_attn.proj {s}_mlp.0 {s}_mlp.2" for s in ("img", "txt"))
    norms = " ".join(f"{s}_attn.norm.{n}_norm.scale" for s in ("img", "txt") for n in ("query", "key"))
    return (
        _linears(
            "",
            ["img_in", "txt_in", "time_in.in_layer", "time_in.out_layer", "vector_in.in_layer", "vector_in.out_layer"],
            True,
        )
        | _repeated("double_blocks", 3, double, norms, True)
        | _repeated(
            "single_blocks", 4, "linear1 linear2 modulation.lin", "norm.query_norm.scale norm.key_norm.scale", True
        )
        | _linears("final_layer.", ["linear", "adaLN_modulation.1"], True)
    )


def flux_diffusers() -> Shapes:
    """Flux.1, in the layout of diffusers."""
    double = (
        "norm1.linear norm1_context.linear attn.to_q attn.to_k attn.to_v attn.add_q_proj attn.add_k_proj attn.add_v_proj "
        "attn.to_out.0 attn.to_add_out ff.net.0.proj ff.net.2 ff_context.net.0.proj ff_context.net.2"
    )
    return (
        _linears("time_text_embed.", ["timestep_embedder.linear_1", "timestep_embedder.linear_2"], True)
        | _linears("", ["context_embedder", "x_embedder"], True)
        | _repeated("transformer_blocks", 3, double, "attn.norm_q.weight attn.norm_k.weight attn.norm_added_q.weight", True)
        | _repeated("single_transformer_blocks", 4, "attn.to_q attn.to_k attn.to_v norm.linear proj_mlp proj_out",
                    "attn.norm_q.weight attn.norm_k.weight", True)
        | _linears("", ["norm_out.linear", "proj_out"], True)
    )  # fmt: skip


def chroma() -> Shapes:
    """Chroma: Flux without modulations, which a network of its own makes."""
    keys = {k: s for k, s in flux().items() if not any(w in k for w in ("_mod.", "modulation", "time_in", "vector_in"))}
    guidance = _linears("distilled_guidance_layer.", ["in_proj", "out_proj"], True)
    guidance |= _repeated("distilled_guidance_layer.layers", 5, "in_layer out_layer", bias=True)
    guidance |= _vectors("distilled_guidance_layer.norms.", [f"{i}.scale" for i in range(5)])
    return keys | guidance


def z_image() -> Shapes:
    """Z-Image, in the layout of one file; Lumina 2 has the same blocks."""
    linears = "attention.qkv attention.out feed_forward.w1 feed_forward.w2 feed_forward.w3"
    norms = (
        "attention.q_norm.weight attention.k_norm.weight attention_norm1.weight attention_norm2.weight ffn_norm1.weight"
    )
    return (
        _linears("", ["x_embedder", "cap_embedder.1", "t_embedder.mlp.0", "t_embedder.mlp.2"], True)
        | _vectors("", ["cap_embedder.0.weight", "x_pad_token", "cap_pad_token"])
        | _repeated("layers", 5, linears + " adaLN_modulation.0", norms)
        | _repeated("noise_refiner", 2, linears + " adaLN_modulation.0", norms)
        | _repeated("context_refiner", 2, linears, norms)
        | _linears("final_layer.", ["linear", "adaLN_modulation.1"], True)
    )


def qwen_image() -> Shapes:
    """Qwen-Image; both layouts have these names."""
    block = (
        "img_mod.1 txt_mod.1 attn.to_q attn.to_k attn.to_v attn.add_q_proj attn.add_k_proj attn.add_v_proj attn.to_out.0 "
        "attn.to_add_out img_mlp.net.0.proj img_mlp.net.2 txt_mlp.net.0.proj txt_mlp.net.2"
    )
    return (
        _linears("", ["img_in", "txt_in", "time_text_embed.timestep_embedder.linear_1"], True)
        | _vectors("", ["txt_norm.weight"])
        | _repeated("transformer_blocks", 4, block, "attn.norm_q.weight attn.norm_k.weight", True)
        | _linears("", ["norm_out.linear", "proj_out"], True)
    )


def anima() -> Shapes:
    """Anima: Cosmos-Predict2's blocks, and a small network that reads the text."""
    attn = " ".join(
        f"{a}.{n}" for a in ("self_attn", "cross_attn") for n in ("q_proj", "k_proj", "v_proj", "output_proj")
    )
    mods = " ".join(f"adaln_modulation_{a}.{n}" for a in ("self_attn", "cross_attn", "mlp") for n in (1, 2))
    norms = " ".join(f"{a}.{n}_norm.weight" for a in ("self_attn", "cross_attn") for n in "qk")
    adapter = "self_attn.q_proj self_attn.o_proj cross_attn.q_proj cross_attn.o_proj mlp.0 mlp.2"
    return (
        _linears("", ["x_embedder.proj.1", "t_embedder.1.linear_1", "t_embedder.1.linear_2"])
        | _vectors("", ["t_embedding_norm.weight"])
        | _repeated("blocks", 4, f"{attn} mlp.layer1 mlp.layer2 {mods}", norms)
        | _linears("final_layer.", ["linear", "adaln_modulation.1", "adaln_modulation.2"])
        | _linears("llm_adapter.", ["embed", "out_proj"])
        | _vectors("llm_adapter.", ["norm.weight"])
        | _repeated("llm_adapter.blocks", 2, adapter, "norm_self_attn.weight norm_mlp.weight")
    )


def sd3() -> Shapes:
    """SD3, in the layout of one file."""
    block = " ".join(
        f"{s}_block.{n}"
        for s in ("x", "context")
        for n in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1")
    )
    return (
        _vectors("", ["pos_embed"])
        | _linears("", ["x_embedder.proj", "context_embedder", "y_embedder.mlp.0", "t_embedder.mlp.0"], True)
        | _repeated("joint_blocks", 4, block, "x_block.attn.ln_q.weight x_block.attn.ln_k.weight", True)
        | _linears("final_layer.", ["linear", "adaLN_modulation.1"], True)
    )


def wan() -> Shapes:
    """Wan 2.1, in the layout of one file."""
    block = " ".join(f"{a}.{n}" for a in ("self_attn", "cross_attn") for n in "qkvo") + " ffn.0 ffn.2"
    norms = (
        "self_attn.norm_q.weight self_attn.norm_k.weight cross_attn.norm_q.weight norm3.weight norm3.bias modulation"
    )
    return (
        _linears(
            "",
            ["patch_embedding", "text_embedding.0", "text_embedding.2", "time_embedding.0", "time_projection.1"],
            True,
        )
        | _repeated("blocks", 4, block, norms, True)
        | _linears("", ["head.head"], True)
        | _vectors("", ["head.modulation"])
    )


def auraflow() -> Shapes:
    """AuraFlow, in the layout of one file."""
    double = " ".join(f"attn.w{n}{x}" for n in (1, 2) for x in "qkvo")
    double += " mlpX.c_fc1 mlpX.c_fc2 mlpX.c_proj mlpC.c_fc1 mlpC.c_fc2 mlpC.c_proj modX.1 modC.1"
    return (
        _linears("", ["init_x_linear", "cond_seq_linear", "t_embedder.mlp.0", "modF.1", "final_linear"], True)
        | _vectors("", ["positional_encoding", "register_tokens"])
        | _repeated("double_layers", 2, double)
        | _repeated("single_layers", 3, "attn.w1q attn.w1k attn.w1v attn.w1o mlp.c_fc1 mlp.c_fc2 mlp.c_proj modCX.1")
    )


def hunyuan_dit() -> Shapes:
    """HunyuanDiT, in the layout of one file."""
    block = "attn1.Wqkv attn1.out_proj attn2.q_proj attn2.kv_proj attn2.out_proj mlp.fc1 mlp.fc2 default_modulation.1"
    return (
        _vectors("", ["text_embedding_padding"])
        | _linears("", ["x_embedder.proj", "mlp_t5.0", "mlp_t5.2", "extra_embedder.0", "t_embedder.mlp.0"], True)
        | _repeated("blocks", 4, block, "attn1.q_norm.weight norm1.weight norm2.weight norm3.weight", True)
        | _linears("final_layer.", ["linear", "adaLN_modulation.1"], True)
    )


def t5() -> Shapes:
    """A T5 encoder, as transformers names it."""
    block = (
        " ".join(f"layer.0.SelfAttention.{n}" for n in "qkvo")
        + " "
        + " ".join(f"layer.1.DenseReluDense.{n}" for n in ("wi_0", "wi_1", "wo"))
    )
    return (
        _linears("", ["shared", "encoder.embed_tokens", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"])
        | _repeated("encoder.block", 4, block, "layer.0.layer_norm.weight layer.1.layer_norm.weight")
        | _vectors("", ["encoder.final_layer_norm.weight"])
    )  # fmt: skip


def unet() -> Shapes:
    """A UNET whose blocks no family has."""
    block = "0.in_layers.2 0.emb_layers.1 0.out_layers.3 1.attn.qkv 1.attn.proj_out"
    return (
        _linears("", ["time_embed.0", "time_embed.2"], True)
        | _repeated("input_blocks", 5, block, "0.in_layers.0.weight", True)
        | _repeated("middle_block", 3, "in_layers.2 out_layers.3", "in_layers.0.weight", True)
        | _repeated("output_blocks", 5, block, "0.in_layers.0.weight", True)
        | _linears("out.", ["2"], True)
        | _vectors("", ["out.0.weight", "out.0.bias"])
    )


MODELS = {
    f.__name__: f
    for f in (flux, flux_diffusers, chroma, z_image, qwen_image, anima, sd3, wan, auraflow, hunyuan_dit, t5, unet)
}


def behind(prefix: str, shapes: Shapes) -> Shapes:
    """The same names behind a prefix."""
    return {prefix + name: shape for name, shape in shapes.items()}


def write(path: Path, shapes: Shapes, seed: int = 0, prefix: str = "") -> dict[str, np.ndarray]:
    """Write a file of random fp16 weights under these names; answers with them, without the prefix."""
    generator = np.random.default_rng(seed)
    weights = {name: (generator.standard_normal(shape) * 0.1).astype(np.float16) for name, shape in shapes.items()}
    save_file({prefix + name: values for name, values in weights.items()}, path)
    return weights


def _part(family: str, prefix: str) -> Shapes:
    layout = FAMILIES[family].layout("narrow")
    return {key.removeprefix(prefix): spec.shape for key, spec in layout.items() if key.startswith(prefix)}


def clip_l() -> Shapes:
    """A narrow CLIP-L, without prefix."""
    names = _part("sd1", "cond_stage_model.transformer.")
    return {name: shape for name, shape in names.items() if not name.endswith("position_ids")}


def vae() -> Shapes:
    """A narrow VAE, without prefix."""
    return _part("sd1", "first_stage_model.")
