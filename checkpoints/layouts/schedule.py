"""The noise schedule that SD1 and SD2 files carry as buffers, and SDXL's was trained with as well."""

from __future__ import annotations

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
