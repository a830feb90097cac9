"""The web UI's samplers by name, as diffusers has them.

Samplers that diffusers has no counterpart of are not in the table: DPM++ 2S a, Restart, DPM adaptive and the like need a web UI.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...checkpoints.errors import nearest
from ...checkpoints.families.diffusers import scheduler_config
from ..errors import SearchError


@dataclass(frozen=True)
class Sampler:
    """A sampler: diffusers' class, its arguments, and the schedule that the web UI gives it when none is chosen."""

    scheduler: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "uniform"


_SDE = {"algorithm_type": "sde-dpmsolver++"}
_TWO, _THREE = {"solver_order": 2}, {"solver_order": 3}
SAMPLERS: dict[str, Sampler] = {
    "Euler a": Sampler("EulerAncestralDiscreteScheduler"),
    "Euler": Sampler("EulerDiscreteScheduler"),
    "LMS": Sampler("LMSDiscreteScheduler"),
    "Heun": Sampler("HeunDiscreteScheduler"),
    "DPM2": Sampler("KDPM2DiscreteScheduler", schedule="karras"),
    "DPM2 a": Sampler("KDPM2AncestralDiscreteScheduler", schedule="karras"),
    "DPM++ 2M": Sampler("DPMSolverMultistepScheduler", _TWO, "karras"),
    "DPM++ 2M SDE": Sampler("DPMSolverMultistepScheduler", _TWO | _SDE, "exponential"),
    "DPM++ 2M SDE Heun": Sampler("DPMSolverMultistepScheduler", _TWO | _SDE | {"solver_type": "heun"}, "exponential"),
    "DPM++ 3M SDE": Sampler("DPMSolverMultistepScheduler", _THREE | _SDE, "exponential"),
    "DPM++ SDE": Sampler("DPMSolverSinglestepScheduler", _TWO | _SDE, "karras"),
    "DDIM": Sampler("DDIMScheduler", {"timestep_spacing": "leading"}),
    "PLMS": Sampler("PNDMScheduler", {"timestep_spacing": "leading", "skip_prk_steps": True}),
    "UniPC": Sampler("UniPCMultistepScheduler", _TWO),
    "LCM": Sampler("LCMScheduler", {"timestep_spacing": "leading"}),
}
# The web UI's schedules: how the noise falls from step to step.
_SCHEDULES: dict[str, dict[str, Any]] = {
    "uniform": {},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "sgm uniform": {"timestep_spacing": "trailing"},
}
_AUTOMATIC = "automatic"
_BY_LOWER = {name.lower(): name for name in SAMPLERS}
# What the web UI itself calls samplers elsewhere.
_BY_LOWER |= {"k_euler_a": "Euler a", "k_euler": "Euler", "k_dpmpp_2m": "DPM++ 2M", "k_heun": "Heun", "k_lms": "LMS"}


def sampler_named(name: str, schedule: str | None = None) -> tuple[Sampler, str]:
    """The sampler of a name (`DPM++ 2M Karras`, `DPM++ 2M`) and its schedule.

    Args:
        name: the web UI's, with or without the schedule behind it, in any case.
        schedule: the payload's `scheduler` field, for names without one; None or `Automatic` for the sampler's own.

    Raises:
        SearchError: diffusers has no such sampler, or not with that schedule.
    """
    wanted, chosen = " ".join(name.lower().split()), (schedule or _AUTOMATIC).lower()
    for ending in _SCHEDULES:
        if wanted.endswith(f" {ending}") and wanted not in _BY_LOWER:
            wanted, chosen = wanted.removesuffix(f" {ending}"), ending
            break
    if wanted not in _BY_LOWER:
        raise SearchError(
            f"the sampler {name!r} is not one that diffusers has{nearest(name, SAMPLERS)}; there are {', '.join(SAMPLERS)}, "
            "most of them also with Karras, Exponential or Beta; others need the generator web_ui"
        )
    sampler = SAMPLERS[_BY_LOWER[wanted]]
    chosen = sampler.schedule if chosen == _AUTOMATIC else chosen
    if chosen not in _SCHEDULES:
        raise SearchError(f"the schedule {schedule!r} of {name} is not known here; there are {', '.join(_SCHEDULES)}")
    if chosen != "uniform" and not _takes(sampler.scheduler, _SCHEDULES[chosen]):
        raise SearchError(f"diffusers has no {_BY_LOWER[wanted]} with the schedule {chosen}; leave it out")
    return sampler, chosen


def make_scheduler(name: str, schedule: str | None, prediction: str, zero_snr: bool = False) -> Any:
    """diffusers' scheduler for a sampler of the web UI. Imports torch.

    Args:
        name, schedule: see `sampler_named`.
        prediction: what the UNET predicts, `epsilon` or `v`.
        zero_snr: the model was trained down to no signal at all, so it is sampled from there.

    Raises:
        SearchError: see `sampler_named`; or the sampler cannot do without signal.
    """
    import diffusers

    sampler, chosen = sampler_named(name, schedule)
    kind = getattr(diffusers, sampler.scheduler)
    takes = inspect.signature(kind.__init__).parameters
    config = {key: value for key, value in scheduler_config(prediction).items() if key in takes}
    if "timestep_spacing" in takes:
        config["timestep_spacing"] = "linspace"  # as k-diffusion counts its steps
    config |= {**sampler.arguments, **_SCHEDULES[chosen]}
    if zero_snr:
        if "rescale_betas_zero_snr" not in takes:
            raise SearchError(
                f"{name} cannot sample a model with zero terminal SNR; use Euler, Euler a, DDIM or DPM++ 2M"
            )
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return kind(**config)


def _takes(scheduler: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a scheduler knows these arguments."""
    import diffusers

    known = inspect.signature(getattr(diffusers, scheduler).__init__).parameters
    return all(name in known for name in arguments)
