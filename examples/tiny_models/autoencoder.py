"""Trains the narrow autoencoder (VAE) that the tiny models share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL
from drawings import SCENES, Scene, draw
from torch.nn import functional

from unetscope.checkpoints.families.diffusers import vae_config

STEPS = 1400
BATCH = 8
RATE = 2e-3
# Of the mean divergence per latent number, next to an error of pixels of about 0.02.
DIVERGENCE = 1e-4
EXAMPLES = 768


def pictures(count: int, seed: int) -> torch.Tensor:
    """Pictures of scenes chosen at random, (count, 3, 64, 64) from -1 to 1."""
    random = np.random.default_rng(seed)
    return pictures_of([SCENES[i] for i in random.integers(len(SCENES), size=count)], seed)


def pictures_of(scenes: Sequence[Scene], seed: int) -> torch.Tensor:
    """A picture of each scene, (count, 3, 64, 64) from -1 to 1."""
    random = np.random.default_rng(seed)
    drawn = np.stack([draw(scene, random) for scene in scenes])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_autoencoder(seed: int, progress) -> AutoencoderKL:
    """An autoencoder for such pictures whose latent numbers have mean 0 and, scaled as SD1 scales them, variance 1."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(**vae_config("sd1", "narrow"))
    optimiser = torch.optim.AdamW(vae.parameters(), RATE, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, STEPS, pct_start=0.05)
    for step in range(STEPS):
        batch = pictures(BATCH, seed=seed * STEPS + step)
        posterior = vae.encode(batch).latent_dist
        decoded = vae.decode(posterior.sample()).sample
        error = functional.l1_loss(decoded, batch) + functional.mse_loss(decoded, batch)
        loss = error + DIVERGENCE * posterior.kl().mean() / posterior.mean[0].numel()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        progress(step, STEPS, error.item())
    vae.eval()
    _standardise(vae, pictures(EXAMPLES, seed))
    return vae


@torch.no_grad()
def _standardise(vae: AutoencoderKL, examples: torch.Tensor) -> None:
    """Rotate and scale the latent numbers until their channels are independent, by the 1x1 convolutions around them.

    What is decoded stays the same: the convolution behind the latent image takes the inverse.
    """
    channels = vae.config.latent_channels
    means = torch.cat([vae.encode(part).latent_dist.mean for part in examples.split(64)])
    flat = means.permute(1, 0, 2, 3).reshape(channels, -1).double()
    middle = flat.mean(1)
    values, vectors = torch.linalg.eigh(torch.cov(flat))
    away = torch.diag(values.rsqrt() / vae.config.scaling_factor) @ vectors.T
    back = torch.linalg.inv(away)

    before, after = vae.quant_conv, vae.post_quant_conv
    weight, bias = before.weight[:channels, :, 0, 0].double(), before.bias[:channels].double()
    before.weight[:channels, :, 0, 0] = (away @ weight).float()
    before.bias[:channels] = (away @ (bias - middle)).float()
    # Independent noise of equal size stays so; its spread is set to the mean spread after scaling.
    spread = torch.cat([vae.encode(part).latent_dist.logvar for part in examples[:64].split(64)]).mean()
    before.weight[channels:] = 0
    before.bias[channels:] = spread + 2 * away.norm(dim=1).log().float()

    weight, bias = after.weight[:, :, 0, 0].double(), after.bias.double()
    after.weight[:, :, 0, 0] = (weight @ back).float()
    after.bias[:] = (bias + weight @ middle).float()
