"""The text encoders' tensors: CLIP-L as transformers names it, OpenCLIP-H and -G as open_clip does."""

from __future__ import annotations

from .families import TOKENS, VOCABULARY, TextEncoder
from .parts import Tensors, linear, named, norm


def text_encoder(spec: TextEncoder) -> Tensors:
    """All tensors of a text encoder, without its prefix."""
    return open_clip(spec) if spec.open_clip else named("text_model", clip(spec))


def clip(spec: TextEncoder) -> Tensors:
    width = spec.width
    yield "embeddings.position_ids", (1, TOKENS)
    yield "embeddings.token_embedding.weight", (VOCABULARY, width)
    yield "embeddings.position_embedding.weight", (TOKENS, width)
    for i in range(spec.layers):
        layer = f"encoder.layers.{i}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from linear(f"{layer}.self_attn.{part}", width, width)
        yield from norm(f"{layer}.layer_norm1", width)
        yield from linear(f"{layer}.mlp.fc1", width, 4 * width)
        yield from linear(f"{layer}.mlp.fc2", 4 * width, width)
        yield from norm(f"{layer}.layer_norm2", width)
    yield from norm("final_layer_norm", width)


def open_clip(spec: TextEncoder) -> Tensors:
    width = spec.width
    yield "positional_embedding", (TOKENS, width)
    yield "text_projection", (width, width)  # used as x @ text_projection: inputs first
    yield "logit_scale", ()
    for i in range(spec.layers):
        block = f"transformer.resblocks.{i}"
        yield from norm(f"{block}.ln_1", width)
        yield f"{block}.attn.in_proj_weight", (3 * width, width)  # q, k, v
        yield f"{block}.attn.in_proj_bias", (3 * width,)
        yield from linear(f"{block}.attn.out_proj", width, width)
        yield from norm(f"{block}.ln_2", width)
        yield from linear(f"{block}.mlp.c_fc", width, 4 * width)
        yield from linear(f"{block}.mlp.c_proj", 4 * width, width)
    yield "token_embedding.weight", (VOCABULARY, width)
    yield from norm("ln_final", width)
