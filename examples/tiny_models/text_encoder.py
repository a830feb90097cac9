"""Trains the narrow text encoder that the tiny models share, as CLIP is trained: texts and pictures must find each other."""

from __future__ import annotations

from itertools import product

import torch
from autoencoder import pictures_of
from drawings import BACKGROUNDS, COLOURS, SCENES, SHAPES, Scene
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from unetscope.checkpoints.families.diffusers import text_configs

STEPS = 500
BATCH = 48
RATE = 1e-3
# Words that a prompt needs at most. A causal encoder reads them alike whatever the padding behind them.
LENGTH = 12


def prompts() -> dict[str, torch.Tensor]:
    """Full and partial descriptions, each with the share that every scene has among those that it describes."""
    found = {"": _shares(None, None, None)}
    for shape, colour, background in product((None, *SHAPES), (None, *COLOURS), (None, *BACKGROUNDS)):
        words = ["a", *([colour] if colour else []), shape or "shape", *(["on", background] if background else [])]
        found[" ".join(words)] = _shares(shape, colour, background)
    return found


def _shares(shape: str | None, colour: str | None, background: str | None) -> torch.Tensor:
    def fits(scene: Scene) -> bool:
        pairs = ((shape, scene.shape), (colour, scene.colour), (background, scene.background))
        return all(asked in (None, shown) for asked, shown in pairs)

    described = torch.tensor([float(fits(scene)) for scene in SCENES])
    return described / described.sum()


def train_text_encoder(tokenizer: CLIPTokenizer, seed: int, progress) -> CLIPTextModel:
    """A text encoder whose last token tells which scenes a text describes. Words that it has never read are all alike."""
    torch.manual_seed(seed)
    encoder = CLIPTextModel(CLIPTextConfig(**text_configs("sd1", "narrow")["text_encoder"]))
    width = encoder.config.hidden_size
    eye = nn.Sequential(
        nn.Conv2d(3, 16, 4, 4), nn.GELU(), nn.Conv2d(16, 32, 4, 4), nn.GELU(), nn.Flatten(), nn.Linear(512, width)
    )
    descriptions = prompts()
    texts, shares = list(descriptions), torch.stack(list(descriptions.values()))
    ids = tokenizer(texts, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
    _forget_unused_words(encoder, ids)
    optimiser = torch.optim.AdamW([*encoder.parameters(), *eye.parameters()], RATE, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, STEPS, pct_start=0.1)
    chosen = torch.Generator().manual_seed(seed)
    for step in range(STEPS):
        rows = torch.randperm(len(texts), generator=chosen)[:BATCH]
        seen = functional.normalize(eye(pictures_of(SCENES, seed=seed * STEPS + step)), dim=1)
        read = functional.normalize(encoder(ids[rows]).pooler_output, dim=1)
        loss = functional.cross_entropy(10 * read @ seen.T, shares[rows])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        progress(step, STEPS, loss.item())
    _read_alike(encoder, *tokenizer("a an the", add_special_tokens=False).input_ids)
    return encoder.eval()


@torch.no_grad()
def _read_alike(encoder: CLIPTextModel, known: int, *others: int) -> None:
    """Let words that no text had be read as one that all of them have."""
    table = encoder.get_input_embeddings().weight
    table[list(others)] = table[known].clone()


@torch.no_grad()
def _forget_unused_words(encoder: CLIPTextModel, ids: torch.Tensor) -> None:
    """Zeros for the words that no prompt uses: they are 95 % of the encoder, and compress to nothing."""
    table = encoder.get_input_embeddings().weight
    used = torch.zeros(len(table), 1)
    used[ids.unique()] = 1
    table *= used * 20  # from the usual start of 0.02, for the few words to differ at once
