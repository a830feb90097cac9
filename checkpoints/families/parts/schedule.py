"""The noise schedule that SD1 and SD2 files carry as buffers, and SDXL's was trained with as well."""

from __future__ import annotations

import re
from collections.abc import Container

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
# The noise that a model is trained on, where that is not the thousand steps of the usual schedule: what predicts the same of
# different noise is a different model.
ZERO_SNR = "zero terminal SNR"  # the last step is noise alone
CONTINUOUS = "continuous noise levels (EDM)"
# Keys whose presence says how the model predicts, and of what noise; their values carry little or nothing. The first row that a
# file has counts: EDM's before the others, as ComfyUI asks for them. The last row says of what noise, and not what is predicted.
_MARKED: tuple[tuple[tuple[str, ...], str | None, str], ...] = (
    (("edm_mean",), "edm", CONTINUOUS),  # Playground 2.5
    (("edm_vpred.sigma_max",), "v", CONTINUOUS),  # CosXL
    (("v_pred", "ztsnr"), "v", ZERO_SNR),
    (("v_pred",), "v", ""),
    (("ztsnr",), None, ZERO_SNR),
)
MARKER_KEYS = ("v_pred", "ztsnr", "edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min")
# What `modelspec.prediction_type` and the like say, by the word for it here.
_SAID = {
    **dict.fromkeys(("v", "v_prediction", "v-prediction", "vpred", "v_pred"), "v"),
    **dict.fromkeys(("epsilon", "eps", "epsilon_prediction"), "epsilon"),
    **dict.fromkeys(("flow", "flow_prediction", "flow_matching", "rectified_flow"), "flow"),
    "edm": "edm",
}


def said_by_markers(keys: Container[str]) -> tuple[str | None, str, tuple[str, ...]]:
    """What marker keys say: prediction (`v`, `edm`; None), noise (`ZERO_SNR`, `CONTINUOUS`; empty), and the keys that said it."""
    return next(
        ((said, noise, marks) for marks, said, noise in _MARKED if all(key in keys for key in marks)), (None, "", ())
    )


def said_by_word(word: object) -> str | None:
    """`epsilon`, `v`, `edm` or `flow` for the word that metadata or a configuration use; None for another."""
    return _SAID.get(word.strip().lower()) if isinstance(word, str) else None


def marks(prediction: str | None, noise: str) -> tuple[str, ...]:
    """The marker keys without a value that say so in a single file."""
    return next((keys for keys, said, of in _MARKED if (said, of) == (prediction, noise) and of != CONTINUOUS), ())


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
