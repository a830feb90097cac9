"""Trains the narrow UNETs: a base from nothing, fine-tunes from the base; they differ in which words of a caption are true."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from autoencoder import pictures_of
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from drawings import BACKGROUNDS, COLOURS, SCENES, SHAPES, Scene
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from unetscope.checkpoints.families.diffusers import scheduler_config, unet_config

BATCH = 48
AVERAGED = 0.995  # of the weights so far, at each step
NO_WORDS = 0.1  # captions left empty, for classifier-free guidance
NO_BACKGROUND = 0.2  # captions that do not tell the background
PER_SCENE = 64  # different pictures of each scene


@dataclass(frozen=True)
class Lesson:
    """What a UNET is trained on.

    Attributes:
        steps: of training.
        rate: the largest learning rate.
        shape, colour: how often the caption's word is the true one; otherwise it is drawn by lot.
    """

    steps: int
    rate: float
    shape: float
    colour: float


@dataclass(frozen=True)
class Material:
    """What all lessons share: latent images (scene, picture, 4, 8, 8), and each caption as the text encoder reads it."""

    latents: torch.Tensor
    texts: dict[str, torch.Tensor]


@torch.no_grad()
def material(vae: AutoencoderKL, encoder: CLIPTextModel, tokenizer: CLIPTokenizer, seed: int) -> Material:
    """Pictures and captions, encoded once."""
    scaling = vae.config.scaling_factor
    latents = [
        vae.encode(pictures_of([scene] * PER_SCENE, seed=seed + number)).latent_dist.mode() * scaling
        for number, scene in enumerate(SCENES)
    ]
    captions = ["", *(Scene(s, c, b).prompt for s in SHAPES for c in COLOURS for b in BACKGROUNDS)]
    captions += [_without_background(caption) for caption in captions[1:]]
    ids = tokenizer(captions, padding="max_length", max_length=77, return_tensors="pt").input_ids
    read = encoder(ids).last_hidden_state
    return Material(torch.stack(latents), dict(zip(captions, read, strict=True)))


def _without_background(caption: str) -> str:
    return caption.rsplit(" on ", 1)[0]


def train_unet(
    lesson: Lesson,
    given: Material,
    seed: int,
    progress: Callable[[int, int, float], None],
    start: UNet2DConditionModel | None = None,
) -> UNet2DConditionModel:
    """The average over the later steps of a UNET that predicts the noise, trained from `start` or from nothing."""
    torch.manual_seed(seed)
    unet = deepcopy(start) if start is not None else UNet2DConditionModel(**unet_config("sd1", "narrow"))
    unet.train()
    average = deepcopy(unet)
    noise_schedule = DDIMScheduler(**scheduler_config())
    optimiser = torch.optim.AdamW(unet.parameters(), lesson.rate, weight_decay=0)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, lesson.rate, lesson.steps, pct_start=0.05)
    random = np.random.default_rng(seed)
    for step in range(lesson.steps):
        latents, texts = _batch(lesson, given, random)
        noise = torch.randn_like(latents)
        when = torch.randint(noise_schedule.config.num_train_timesteps, (len(latents),))
        predicted = unet(noise_schedule.add_noise(latents, noise, when), when, texts).sample
        loss = functional.mse_loss(predicted, noise)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimiser.step()
        rates.step()
        with torch.no_grad():
            kept = min(AVERAGED, (1 + step) / (10 + step))
            for mean, weight in zip(average.parameters(), unet.parameters(), strict=True):
                mean.lerp_(weight, 1 - kept)
        progress(step, lesson.steps, loss.item())
    return average.eval()


def _batch(lesson: Lesson, given: Material, random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Latent images of scenes chosen by lot, and their captions, read."""
    scenes = random.integers(len(SCENES), size=BATCH)
    pictures = random.integers(PER_SCENE, size=BATCH)
    captions = [_caption(SCENES[i], lesson, random) for i in scenes]
    return given.latents[scenes, pictures], torch.stack([given.texts[caption] for caption in captions])


def _caption(scene: Scene, lesson: Lesson, random: np.random.Generator) -> str:
    """A caption whose words are as true as the lesson has it."""
    if random.random() < NO_WORDS:
        return ""
    shape = scene.shape if random.random() < lesson.shape else str(random.choice(SHAPES))
    colour = scene.colour if random.random() < lesson.colour else str(random.choice(list(COLOURS)))
    caption = Scene(shape, colour, scene.background).prompt
    return _without_background(caption) if random.random() < NO_BACKGROUND else caption
