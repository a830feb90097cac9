"""Samplers by the web UI's names: classes, schedules and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from unetscope.search.errors import SearchError
from unetscope.search.generators.fields import Fields, diffusers_fields
from unetscope.search.generators.samplers import SAMPLERS, make_scheduler, sampler_named
from unetscope.search.image_requests import ImageRequest

pytest.importorskip("diffusers")

STEPS = 10


def levels() -> np.ndarray:
    """Stable Diffusion's noise levels, as its training code spaces them: scaled linear betas, sigma of all 1000 steps."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept = np.cumprod(1 - betas)
    return np.sqrt((1 - kept) / kept)


def karras(steps: int, rho: float = 7.0) -> np.ndarray:
    """Equation 5 of Karras et al. 2022."""
    low, high = levels()[0] ** (1 / rho), levels()[-1] ** (1 / rho)
    return (high + np.linspace(0, 1, steps) * (low - high)) ** rho


def sigmas(name: str, schedule: str | None = None, **more) -> np.ndarray:
    scheduler = make_scheduler(name, schedule, "epsilon", **more)
    scheduler.set_timesteps(STEPS)
    return np.asarray(scheduler.sigmas, np.float64)


@pytest.mark.parametrize("name", ["Euler", "Euler a"])
def test_without_a_schedule_steps_are_spaced_evenly_in_time(name):
    expected = np.interp(np.linspace(999, 0, STEPS), np.arange(1000), levels())
    np.testing.assert_allclose(sigmas(name)[:-1], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("Euler Karras", None),
        ("euler  karras", None),
        ("Euler", "Karras"),
        ("DPM++ 2M Karras", "Automatic"),
        ("DPM++ 2M", None),
    ],
)
def test_karras_schedules_are_those_of_the_paper_whichever_way_they_are_asked_for(name, schedule):
    found = sigmas(name, schedule)
    np.testing.assert_allclose(found[:STEPS], karras(STEPS), rtol=2e-2)
    assert found[-1] == 0


def test_exponential_schedules_fall_by_one_factor():
    found = sigmas("Euler Exponential")[:STEPS]
    np.testing.assert_allclose(found[1:] / found[:-1], found[1] / found[0], rtol=1e-3)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_predicts_what_the_model_predicts(name):
    kinds = {p: make_scheduler(name, None, p).config.prediction_type for p in ("epsilon", "v")}
    assert kinds == {"epsilon": "epsilon", "v": "v_prediction"}


def test_models_with_zero_terminal_snr_begin_at_pure_noise():
    assert sigmas("Euler", zero_snr=True)[0] > 1000
    with pytest.raises(SearchError, match="zero terminal SNR"):
        make_scheduler("LMS", None, "v", zero_snr=True)


@pytest.mark.parametrize(
    ("name", "schedule", "said"),
    [
        ("DPM++ 2S a Karras", None, r"'DPM\+\+ 2S a Karras' is not one that diffusers has.*web_ui"),
        ("Eular", None, r"'Eular'.*Euler"),
        ("Euler a Karras", None, "no Euler a with the schedule karras"),
        ("Euler", "KL Optimal", "'KL Optimal' of Euler is not known here"),
    ],
)
def test_samplers_that_diffusers_does_not_have_are_refused(name, schedule, said):
    with pytest.raises(SearchError, match=said):
        sampler_named(name, schedule)


def test_fields_that_are_switched_off_are_passed_over():
    off = {
        "enable_hr": False,
        "hr_scale": 2,
        "hr_upscaler": "Latent",
        "denoising_strength": 0.7,
        "styles": [],
        "subseed": -1,
        "subseed_strength": 0,
        "seed_resize_from_h": -1,
        "s_noise": 1.0,
        "s_churn": 0,
        "tiling": False,
        "override_settings": {"sd_model_checkpoint": "x.safetensors", "sd_vae": "Automatic"},
    }
    assert diffusers_fields(ImageRequest("a", "a", 1, extra=off)) == Fields(None, 1)
    used = {"scheduler": "Karras", "override_settings": {"CLIP_stop_at_last_layers": 2}}
    assert diffusers_fields(ImageRequest("a", "a", 1, extra=used)) == Fields("Karras", 2)


@pytest.mark.parametrize(
    "extra", [{"tiling": True}, {"s_churn": 5}, {"subseed_strength": 0.2}, {"styles": ["ink"]}, {"clip_skip": "two"}]
)
def test_fields_that_change_the_picture_in_ways_that_are_not_done_are_refused(extra):
    with pytest.raises(SearchError, match=r"^a: "):
        diffusers_fields(ImageRequest("a", "a", 1, extra=extra))
