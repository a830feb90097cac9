"""Images by a web UI that runs already: A1111's or Forge's, over its HTTP API.

Each trial is written into the UI's model folder under a new name (a UI keeps what it has loaded under a name), loaded, and
removed once the next one is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ...checkpoints.errors import nearest
from ..errors import NO_IMAGE, OUT_OF_ORDER, SearchError
from ..image_requests import ImageRequest, picture_hash
from .contract import Generator
from .settings import Settings, checked
from .trial_files import Sample, TrialFiles, differ
from .web_ui_client import WebUi

if TYPE_CHECKING:
    from PIL.Image import Image

    from ...merge.recipe import Recipe

# How often the UI is asked whether it sees a new file, a second apart: network folders take a while to show one.
_LOOKS = 10
# Set for every image, whatever the payload says: one image a request, and nothing written to the UI's own folder.
_ALWAYS = {"batch_size": 1, "n_iter": 1, "send_images": True, "save_images": False, "do_not_save_samples": True}


@dataclass
class _Loaded:
    """The model that the UI was told to load: its title there, its name, some of its numbers, and image -> hash of its picture."""

    title: str
    stem: str
    sample: Sample
    pictures: dict[str, str] = field(default_factory=dict)


class WebUiSettings(Settings):
    """Attributes:
    models_folder: the UI's folder of models (`models/Stable-diffusion`), as this machine sees it.
    url: where the UI listens.
    timeout: seconds that loading a model or making an image may take.
    retries: how often a failed request is sent again.
    user: of `--api-auth`; the password is in the environment variable UNETSCOPE_WEB_UI_PASSWORD.
    restore: load the model again that the UI had, when the search ends.
    """

    models_folder: Path
    url: str = "http://127.0.0.1:7860"
    timeout: Annotated[float, Field(gt=0)] = 600.0
    retries: Annotated[int, Field(ge=0, le=20)] = 4
    user: str | None = None
    restore: bool = True


class WebUiGenerator(Generator):
    """See `WebUiSettings`."""

    def __init__(self, settings: Mapping[str, Any], folder: Path = Path(), wait: Callable[[float], None] = sleep):
        self.settings = checked(WebUiSettings, settings)
        self._wait = wait
        self._ui = WebUi(self.settings.url, self.settings.timeout, self.settings.retries, self.settings.user, wait=wait)
        self._files = TrialFiles(folder / self.settings.models_folder.expanduser())
        self._before: str | None = None
        self._loaded: _Loaded | None = None
        self._painted: _Loaded | None = None

    def check(self, recipe: Recipe, requests: Sequence[ImageRequest]) -> None:
        if not self._files.folder.is_dir():
            raise SearchError(
                f"generator.models_folder: there is no folder {self._files.folder}; name the web UI's models/Stable-diffusion"
            )
        self._ui.options()
        known = self._ui.samplers()
        for request in requests:
            # Older UIs have the schedule in the name, newer ones next to it; both take either.
            sampler = request.sampler_name
            if known and not any(sampler.lower().startswith(name.lower()) for name in known):
                raise SearchError(
                    f"{request.name}: {self.settings.url} has no sampler {sampler!r}{nearest(sampler, known)}"
                )

    def prepare(self, recipe: Recipe) -> None:
        if self._before is None:
            self._before = str(self._ui.options().get("sd_model_checkpoint") or "")
            self._files.remove_leftovers()
        before, path = self._loaded, self._files.write(recipe)
        try:
            title = self._title(path)
            self._ui.set_options(sd_model_checkpoint=title)
        except BaseException:
            self._loaded = None
            self._files.remove()
            raise
        if before is not None and before.pictures:
            self._painted = before
        self._loaded = _Loaded(title, path.stem, self._files.sample(path))
        self._files.remove(but=path)

    def _title(self, path: Path) -> str:
        """What the UI calls a file that was just written."""
        for look in range(_LOOKS):
            if look:
                self._wait(1.0)
            self._ui.refresh_checkpoints()
            for model in self._ui.models():
                # The UI may run on another system: only the last part of its path is ours.
                if str(model.get("filename", "")).replace("\\", "/").rpartition("/")[2] == path.name:
                    return model["title"]
        raise SearchError(
            f"{self.settings.url}: does not see {path.name} in {path.parent}; is this the web UI's own model folder "
            "(generator.models_folder)?",
            code=OUT_OF_ORDER,
        )

    def images(self, requests: Sequence[ImageRequest]) -> list[Image]:
        if self._loaded is None:
            raise SearchError("no model is prepared yet")
        return [self._image(request, self._loaded) for request in requests]

    def _image(self, request: ImageRequest, loaded: _Loaded) -> Image:
        image = self._painting(request, loaded)
        if self._repeats(request, image, loaded):
            # The UI may have missed the change.
            self._ui.set_options(sd_model_checkpoint=loaded.title)
            image = self._painting(request, loaded)
            if self._repeats(request, image, loaded):
                raise SearchError(
                    f"{self.settings.url}: paints {request.name} with {loaded.stem} exactly as with the model before, though their "
                    "numbers differ: it seems to continue with the old model (restart it), or what is free has no effect on images",
                    code=OUT_OF_ORDER,
                )
        loaded.pictures[request.name] = picture_hash(image)
        return image

    def _repeats(self, request: ImageRequest, image: Image, loaded: _Loaded) -> bool:
        """Whether the model before has made the very same picture, which no model with other numbers does."""
        before = self._painted
        if before is None or before.pictures.get(request.name) != picture_hash(image):
            return False
        return differ(before.sample, loaded.sample)

    def _painting(self, request: ImageRequest, loaded: _Loaded) -> Image:
        title, stem = loaded.title, loaded.stem
        image, info = self._ui.txt2img(txt2img_fields(request, title))
        made_by = info.get("sd_model_name")
        if made_by and made_by != stem:
            raise SearchError(
                f"{self.settings.url}: made {request.name} with {made_by} instead of {stem}: does another program use this web UI?"
            )
        if image.getbbox() is None:
            raise SearchError(
                f"{request.name}: {self.settings.url} sent a black image: the merged model makes NaN there",
                code=NO_IMAGE,
            )
        return image

    def close(self) -> None:
        """Remove the trial files and load the model again that was loaded before; a UI that is gone is left alone."""
        if self._before is not None:
            with contextlib.suppress(SearchError):
                if self.settings.restore and self._before:
                    self._ui.set_options(sd_model_checkpoint=self._before)
            self._files.remove()
            with contextlib.suppress(SearchError):
                self._ui.refresh_checkpoints()
        self._before = self._loaded = self._painted = None
        self._ui.close()


def txt2img_fields(request: ImageRequest, title: str) -> dict[str, Any]:
    """The fields of the web UI's txt2img for an image, to be made with the model of a title."""
    overrides = {k: v for k, v in (request.extra.get("override_settings") or {}).items() if k != "sd_checkpoint_hash"}
    overrides["sd_model_checkpoint"] = title
    extra = dict(request.extra)
    if (skip := extra.pop("clip_skip", None)) is not None:
        overrides.setdefault("CLIP_stop_at_last_layers", skip)
    return {
        **extra,
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "seed": request.seed,
        "steps": request.steps,
        "cfg_scale": request.cfg_scale,
        "width": request.width,
        "height": request.height,
        "sampler_name": request.sampler_name,
        **_ALWAYS,
        "override_settings": overrides,
        # Other settings are put back; the model is the one that is loaded anyway.
        "override_settings_restore_afterwards": True,
    }
