"""What the generator diffusers makes of a payload's other fields: it uses some, passes over some, and refuses the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...checkpoints.text import shown
from ..errors import SearchError
from ..image_requests import ImageRequest

# Fields that change no picture, or none as long as hires fix, variations and the refiner are off.
_HARMLESS = frozenset([
    "save_images", "send_images", "do_not_save_samples", "do_not_save_grid", "override_settings_restore_afterwards",
    "force_task_id", "infotext", "denoising_strength", "hr_scale", "hr_upscaler", "hr_second_pass_steps", "hr_resize_x",
    "hr_resize_y", "hr_prompt", "hr_negative_prompt", "hr_cfg", "hr_sampler_name", "hr_scheduler", "hr_checkpoint_name",
    "hr_additional_modules", "hr_distilled_cfg", "distilled_cfg_scale", "firstphase_width", "firstphase_height", "subseed",
    "s_tmin", "s_tmax", "refiner_switch_at", "script_args", "comments", "disable_extra_networks", "id",
])  # fmt: skip
# Fields that are switched off by a number other than 0.
_OFF = {"s_noise": 1, "seed_resize_from_h": -1, "seed_resize_from_w": -1}
_USED = ("scheduler", "clip_skip", "override_settings")
_CLIP_SKIP = "CLIP_stop_at_last_layers"
# Of the UI's own settings: those that say which model to use, which the search decides.
_DECIDED = frozenset(
    [_CLIP_SKIP, "sd_model_checkpoint", "sd_vae", "sd_checkpoint_hash", "samples_format", "forge_additional_modules"]
)
_MOST_SKIP = 11


@dataclass(frozen=True)
class Fields:
    """The schedule (A1111's `scheduler`) and the clip skip of a request."""

    schedule: str | None = None
    clip_skip: int = 1


def diffusers_fields(request: ImageRequest) -> Fields:
    """What is used of a request's other fields.

    Raises:
        SearchError: one asks for what only a web UI does.
    """
    for name, value in request.extra.items():
        if value and name not in _HARMLESS and name not in _USED and value != _OFF.get(name):
            raise SearchError(
                f"{request.name}: {name}: is {shown(value)}, which the generator diffusers does not do; leave it out, or use the "
                "generator web_ui"
            )
    schedule = request.extra.get("scheduler")
    if schedule is not None and not isinstance(schedule, str):
        raise SearchError(f"{request.name}: scheduler: must be a name such as Karras, found {schedule!r}")
    return Fields(schedule, _clip_skip(request))


def _clip_skip(request: ImageRequest) -> int:
    settings = request.extra.get("override_settings") or {}
    if not isinstance(settings, Mapping):
        raise SearchError(f"{request.name}: override_settings: must be a mapping, found {settings!r}")
    for name, value in settings.items():
        if name not in _DECIDED and value not in (None, False, ""):
            raise SearchError(
                f"{request.name}: override_settings.{name}: is a setting of a web UI; leave it out, or use the generator web_ui"
            )
    skip = request.extra.get("clip_skip") or settings.get(_CLIP_SKIP) or 1
    if isinstance(skip, bool) or not isinstance(skip, int) or not 1 <= skip <= _MOST_SKIP:
        raise SearchError(f"{request.name}: clip skip: must be from 1 to {_MOST_SKIP}, found {skip!r}")
    return skip
