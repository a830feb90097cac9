"""Tiny vision-language models with random weights, in the layouts that real ones have, and what they compute, written out."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

# 512 bytes and ends of words, and two special tokens: a CLIP vocabulary without merges.
CLIP_WORDS = 514
BERT_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "castle", "dog", "of", "##s"]


def write_clip_tokenizer(folder: Path) -> Path:
    """CLIP's tokenizer files for a vocabulary of single bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    letters = [chr(byte) for byte in kept] + [chr(256 + at) for at in range(len(others))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: at for at, word in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return folder


def write_bert_tokenizer(folder: Path) -> Path:
    """BERT's vocabulary file with a few words."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(BERT_WORDS) + "\n", encoding="utf-8")
    return folder


def write_clip_folder(folder: Path, width: int = 24) -> Path:
    """A CLIP in transformers' layout with its tokenizer."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(3)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        projection_dim=width,
        vision_config={**tower, "image_size": 28, "patch_size": 14, "projection_dim": width},
        text_config={
            **tower,
            "vocab_size": CLIP_WORDS,
            "bos_token_id": CLIP_WORDS - 2,
            "eos_token_id": CLIP_WORDS - 1,
            "projection_dim": width,
        },
    )
    CLIPModel(config).save_pretrained(folder)
    return write_clip_tokenizer(folder)


def head_tensors(width: int, prefix: str = "", seed: int = 5) -> dict[str, torch.Tensor]:
    """Random weights of the aesthetic head, as its authors name them."""
    random, sizes = torch.Generator().manual_seed(seed), [width, 1024, 128, 64, 16, 1]
    found = {}
    for place, (a, b) in zip((0, 2, 4, 6, 7), pairwise(sizes), strict=True):
        found[f"{prefix}layers.{place}.weight"] = torch.randn(b, a, generator=random) / a**0.5
        found[f"{prefix}layers.{place}.bias"] = torch.randn(b, generator=random)
    return found


# -- OpenCLIP ---------------------------------------------------------------------------------------------------------


class OpenClipBlock(nn.Module):
    """A residual attention block as OpenCLIP has it."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 2 * width))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        normal = self.ln_1(x)
        x = x + self.attn(normal, normal, normal, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class OpenClipTransformer(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.resblocks = nn.ModuleList(OpenClipBlock(width, heads) for _ in range(2))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class OpenClipVision(nn.Module):
    def __init__(self, width: int, heads: int, patch: int, side: int, out: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn(side * side + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = OpenClipTransformer(width, heads)
        self.proj = nn.Parameter(torch.randn(width, out) / width**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(x), 1, -1)
        x = self.ln_pre(torch.cat([first, x], 1) + self.positional_embedding)
        return self.ln_post(self.transformer(x)[:, 0]) @ self.proj


class OpenClip(nn.Module):
    """OpenCLIP's CLIP with its names: two layers, 128 and 64 wide, so that heads are 64 wide."""

    def __init__(self, words: int = CLIP_WORDS):
        super().__init__()
        torch.manual_seed(7)
        self.visual = OpenClipVision(128, 2, 14, 2, 24)
        self.token_embedding = nn.Embedding(words, 64)
        self.positional_embedding = nn.Parameter(torch.randn(77, 64))
        self.transformer = OpenClipTransformer(64, 1)
        self.ln_final = nn.LayerNorm(64)
        self.text_projection = nn.Parameter(torch.randn(64, 24) / 8)
        self.logit_scale = nn.Parameter(torch.tensor(4.6))
        for parameter in self.parameters():  # norms and biases too, so that a forgotten one shows
            if parameter.ndim == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        mask = torch.full((77, 77), float("-inf")).triu(1)
        x = self.transformer(self.token_embedding(tokens) + self.positional_embedding, mask)
        return self.ln_final(x)[torch.arange(len(x)), tokens.argmax(1)] @ self.text_projection


def byte_tokens(prompt: str) -> torch.Tensor:
    """The tokens of a prompt of ASCII letters and blanks in the vocabulary above, zero-padded as OpenCLIP does."""
    at = {chr(byte): place for place, byte in enumerate([*range(33, 127)])}
    found = [CLIP_WORDS - 2]
    for word in prompt.split():
        found += [at[letter] for letter in word[:-1]] + [256 + at[word[-1]]]
    found.append(CLIP_WORDS - 1)
    return torch.tensor([found + [0] * (77 - len(found))])


# -- BLIP as ImageReward stores it ------------------------------------------------------------------------------------


def image_reward_tensors(vision: int = 128, text: int = 64, layers: int = 2) -> dict[str, torch.Tensor]:
    """Random weights under ImageReward.pt's names: patches of 8 in images of 16."""
    random = torch.Generator().manual_seed(11)

    def weights(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random) / shape[-1] ** 0.5

    found = {
        "blip.visual_encoder.cls_token": weights(1, 1, vision),
        "blip.visual_encoder.pos_embed": weights(1, 5, vision),
        "blip.visual_encoder.patch_embed.proj.weight": weights(vision, 3, 8, 8),
        "blip.visual_encoder.patch_embed.proj.bias": weights(vision),
        "blip.text_encoder.embeddings.word_embeddings.weight": weights(len(BERT_WORDS) + 2, text),
        "blip.text_encoder.embeddings.position_embeddings.weight": weights(48, text),
        "blip.text_encoder.embeddings.position_ids": torch.arange(48)[None],
        "blip.vision_proj.weight": weights(256, vision),
    }

    def linear(name: str, out: int, into: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = weights(out, into), weights(out)

    def norm(name: str, width: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = 1 + weights(width), weights(width)

    norm("blip.visual_encoder.norm", vision)
    norm("blip.text_encoder.embeddings.LayerNorm", text)
    for at in range(layers):
        block, layer = f"blip.visual_encoder.blocks.{at}", f"blip.text_encoder.encoder.layer.{at}"
        norm(f"{block}.norm1", vision)
        norm(f"{block}.norm2", vision)
        linear(f"{block}.attn.qkv", 3 * vision, vision)
        linear(f"{block}.attn.proj", vision, vision)
        linear(f"{block}.mlp.fc1", 2 * vision, vision)
        linear(f"{block}.mlp.fc2", vision, 2 * vision)
        for kind, source in (("attention", text), ("crossattention", vision)):
            linear(f"{layer}.{kind}.self.query", text, text)
            linear(f"{layer}.{kind}.self.key", text, source)
            linear(f"{layer}.{kind}.self.value", text, source)
            linear(f"{layer}.{kind}.output.dense", text, text)
            norm(f"{layer}.{kind}.output.LayerNorm", text)
        linear(f"{layer}.intermediate.dense", 2 * text, text)
        linear(f"{layer}.output.dense", text, 2 * text)
        norm(f"{layer}.output.LayerNorm", text)
    return found | head_tensors(text, "mlp.")


def attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
    """Attention with heads that are 64 wide; `keep` says which keys count."""
    heads = q.shape[-1] // 64
    q, k, v = (x.unflatten(-1, (heads, 64)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) / 8
    if keep is not None:
        scores = scores.masked_fill(~keep[:, None, None, :], float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def image_reward(tensors: dict[str, torch.Tensor], shown: torch.Tensor, tokens: list[list[int]]) -> torch.Tensor:
    """What ImageReward says before it is standardised, after the papers' code: pre-norm ViT, post-norm BERT."""

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def norm(name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps)

    v = "blip.visual_encoder"
    x = F.conv2d(shown, tensors[f"{v}.patch_embed.proj.weight"], tensors[f"{v}.patch_embed.proj.bias"], stride=8)
    x = torch.cat([tensors[f"{v}.cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
    x = x + tensors[f"{v}.pos_embed"]
    for at in range(2):
        block = f"{v}.blocks.{at}"
        q, k, value = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x, 1e-6)).chunk(3, -1)
        x = x + linear(f"{block}.attn.proj", attended(q, k, value))
        x = x + linear(f"{block}.mlp.fc2", F.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x, 1e-6))))
    seen = norm(f"{v}.norm", x, 1e-6)

    length = max(map(len, tokens))
    ids = torch.tensor([one + [0] * (length - len(one)) for one in tokens])
    keep = torch.tensor([[at < len(one) for at in range(length)] for one in tokens])
    t = "blip.text_encoder"
    y = tensors[f"{t}.embeddings.word_embeddings.weight"][ids]
    y = norm(f"{t}.embeddings.LayerNorm", y + tensors[f"{t}.embeddings.position_embeddings.weight"][:length], 1e-12)
    for at in range(2):
        layer = f"{t}.encoder.layer.{at}"
        for kind, source, mask in (("attention", None, keep), ("crossattention", seen, None)):
            one, source = f"{layer}.{kind}", y if source is None else source
            context = attended(
                linear(f"{one}.self.query", y),
                linear(f"{one}.self.key", source),
                linear(f"{one}.self.value", source),
                mask,
            )
            y = norm(f"{one}.output.LayerNorm", linear(f"{one}.output.dense", context) + y, 1e-12)
        wide = F.gelu(linear(f"{layer}.intermediate.dense", y))
        y = norm(f"{layer}.output.LayerNorm", linear(f"{layer}.output.dense", wide) + y, 1e-12)
    found = y[:, 0]
    for place in (0, 2, 4, 6, 7):
        found = linear(f"mlp.layers.{place}", found)
    return found[:, 0]
