"""The noise schedule that SD1 and SD2 files carry as buffers, and SDXL's was trained with as well."""

from __future__ import annotations

import re

from .part import Spec

STEPS = 1000
# In the order of the training code. The values follow from the betas, so programs that load a file ignore them.
SCHEDULE_KEYS = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)
# What the training code's single files hold around the UNET, and what is left of the averaged weights in published ones.
DDPM_BUFFERS = tuple((key, Spec((STEPS,))) for key in SCHEDULE_KEYS)
DDPM_LEFTOVERS = (("model_ema.decay", Spec(())), ("model_ema.num_updates", Spec((), "I32")))
# Buffers of the noise schedule: top-level names of the training code's `DDPM` classes, and of others'.
_SCHEDULE = re.compile(
    r"^(betas|alphas_cumprod(_prev)?|sqrt_(one_minus_)?alphas_cumprod|sqrt_recip(m1)?_alphas_cumprod"
    r"|sqrt_recipm?1?_alphas_cumprod|log_one_minus_alphas_cumprod|posterior_(variance|log_variance_clipped|mean_coef[12])"
    r"|logvar|scale_factor|lvlb_weights|denoiser\.(sigmas|log_sigmas)|model\.sigmas)$"
)
# Keys whose presence says how the model predicts; their values carry little or nothing.
MARKER_KEYS = ("v_pred", "ztsnr", "edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min")
# Of models trained on noise levels between which there are others (CosXL, Playground), not on the thousand steps of a schedule.
CONTINUOUS_MARKERS = ("edm_mean", "edm_vpred.sigma_max")


def is_schedule(key: str) -> bool:
    """Whether a key is a buffer of the noise schedule."""
    return bool(_SCHEDULE.match(key))


def is_marker(key: str) -> bool:
    """Whether a key's presence says how the model predicts."""
    return key in MARKER_KEYS


def schedule(first: float = 0.00085, last: float = 0.012) -> dict:
    """The buffers' values, float64 arrays of 1000 steps: betas whose square roots grow linearly, and what follows."""
    import numpy as np

    betas = np.linspace(first**0.5, last**0.5, STEPS) ** 2
    alphas = 1 - betas
    product = np.cumprod(alphas)
    previous = np.append(1.0, product[:-1])
    variance = betas * (1 - previous) / (1 - product)
    values = (
        betas,
        product,
        previous,
        np.sqrt(product),
        np.sqrt(1 - product),
        np.log(1 - product),
        np.sqrt(1 / product),
        np.sqrt(1 / product - 1),
        variance,
        np.log(np.maximum(variance, 1e-20)),
        betas * np.sqrt(previous) / (1 - product),
        (1 - previous) * np.sqrt(alphas) / (1 - product),
    )
    return dict(zip(SCHEDULE_KEYS, values, strict=True))
