"""Images by diffusers in this process: the pipeline is built once, and merged weights are put into it while it lives."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ...checkpoints.families.parts.schedule import CONTINUOUS, ZERO_SNR, said_by_markers
from ...merge.live import Changes, LiveMerge
from ...merge.plan import Plan
from ...merge.planner import planned
from ..errors import NO_IMAGE, SearchError
from ..image_requests import ImageRequest
from .conditioning import Conditioning
from .contract import Generator
from .fields import Fields, diffusers_fields
from .live_weights import LiveWeights
from .pipeline import Parts, empty_pipeline, recognised_widths
from .prompts import check_prompt
from .samplers import make_scheduler, sampler_named
from .settings import Settings, checked

if TYPE_CHECKING:
    from PIL.Image import Image

    from ...checkpoints.families import Family
    from ...merge.recipe import Recipe

_NEEDED = ("diffusers", "transformers", "PIL")


class DiffusersSettings(Settings):
    """Attributes:
    device: `auto` takes the graphics card where there is one, else the CPU; or a name of torch's (`cuda:1`).
    dtype: of the UNET and the text encoders while images are made; `auto` is fp16 on a graphics card and fp32 on the CPU.
    batch: images made at once, of requests that differ only in prompt and seed. With 1, an image does not depend on its company.
    prediction: what the models predict, where nothing in their files says it.
    threads: for merging; left out: as many as there are cores.
    """

    device: str = "auto"
    dtype: Literal["auto", "fp16", "bf16", "fp32"] = "auto"
    batch: Annotated[int, Field(ge=1)] = 1
    prediction: Literal["epsilon", "v"] | None = None
    threads: Annotated[int, Field(ge=1)] | None = None


class DiffusersGenerator(Generator):
    """See `DiffusersSettings`. Nothing is downloaded; only the blocks that a recipe changes are worked out and copied."""

    def __init__(self, settings: Mapping[str, Any], folder: Path = Path()):
        self.settings = checked(DiffusersSettings, settings)
        self._live = LiveMerge(self._put, threads=self.settings.threads, wanted=lambda key: key in self._weights)
        self._built: tuple | None = None
        self._parts: Parts | None = None
        self._weights: LiveWeights | None = None
        self._conditioning: Conditioning | None = None
        self._family: Family | None = None
        self._prediction, self._zero_snr = "epsilon", False
        self.changes: Changes | None = None

    # -- before anything loads ----------------------------------------------------------------------------------------

    def check(self, recipe: Recipe, requests: Sequence[ImageRequest]) -> None:
        for package in _NEEDED:
            if importlib.util.find_spec(package) is None:
                raise SearchError(f"the generator diffusers needs {package}: pip install 'unetscope[search]'")
        for request in requests:
            sampler_named(request.sampler_name, diffusers_fields(request).schedule)
            check_prompt(request.prompt, request.name)
            check_prompt(request.negative_prompt, request.name)
        _check_device(self.settings.device)
        with planned(recipe) as plan:
            recognised_widths(plan.family, {t.key: t.shape for t in plan.tensors})
            self._predicted(plan)
            held = {"text_encoders" if t.place.text else t.place.component for t in plan.tensors}
            for what in (plan.family.core, "vae", "text_encoders"):
                if what not in held:
                    raise SearchError(f"the models have no {what}; take one from a file (components: {{{what}: FILE}})")

    def _predicted(self, plan: Plan) -> str:
        said = self.settings.prediction or plan.prediction
        if said is None and plan.family.predicts is None:
            raise SearchError(
                "nothing in the models says whether they predict noise (SD2 for 512 pixels) or v (768 pixels); say "
                "generator.prediction: epsilon or v"
            )
        if said not in (None, "epsilon", "v") or self._noise(plan) == CONTINUOUS:
            way = "EDM's way" if self._noise(plan) == CONTINUOUS or said == "edm" else said
            raise SearchError(f"the models predict {way}, which the generator diffusers does not know; use web_ui")
        return said or "epsilon"

    @staticmethod
    def _noise(plan: Plan) -> str:
        """Of what noise the models predict, by the marker keys of their merge."""
        return said_by_markers({tensor.key for tensor in plan.tensors})[1]

    # -- the model ----------------------------------------------------------------------------------------------------

    def prepare(self, recipe: Recipe) -> None:
        self.changes = self._live.update(recipe, begin=self._begin)
        self._weights.finish()
        if any(self._weights.component[key].startswith("text_encoder") for key in self.changes.keys):
            self._conditioning.forget()

    def _begin(self, plan: Plan) -> None:
        """Build the pipeline for the first plan, and for one of another shape."""
        shapes = {t.key: t.shape for t in plan.tensors}
        prediction, zero_snr = self._predicted(plan), self._noise(plan) == ZERO_SNR
        wanted = (plan.family, shapes)
        self._prediction, self._zero_snr = prediction, zero_snr
        if wanted == self._built:
            return
        widths = recognised_widths(plan.family, shapes)
        self._release()
        self._live.forget()
        parts = empty_pipeline(plan.family, widths, prediction, self.device, self._dtype())
        self._weights = LiveWeights(parts.modules, plan.family, shapes)
        encoders = {name: parts.modules[name] for name in parts.tokenizers}
        self._conditioning = Conditioning(plan.family, encoders, parts.tokenizers)
        self._parts, self._family, self._built = parts, plan.family, wanted

    def _put(self, tensor, start: int, raw: np.ndarray) -> None:
        self._weights.put(tensor, start, raw)

    @property
    def device(self) -> str:
        """The device in use."""
        import torch

        if self.settings.device != "auto":
            return self.settings.device
        return "cuda" if torch.cuda.is_available() else "cpu"

    def _dtype(self):
        import torch

        named = self.settings.dtype
        if named == "auto":
            named = "fp32" if self.device == "cpu" else "fp16"
        return {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[named]

    @property
    def modules(self) -> dict[str, Any]:
        """The live modules: `unet`, `vae`, `text_encoder`, `text_encoder_2`.

        Raises:
            SearchError: nothing was prepared.
        """
        if self._parts is None:
            raise SearchError("no model is prepared yet")
        return self._parts.modules

    # -- images -------------------------------------------------------------------------------------------------------

    def images(self, requests: Sequence[ImageRequest]) -> list[Image]:
        _ = self.modules
        return [image for group in self._groups(requests) for image in self._made(group)]

    def _groups(self, requests: Sequence[ImageRequest]) -> Iterator[list[ImageRequest]]:
        """Neighbours that can be made at once."""

        def settings(request: ImageRequest) -> tuple:
            chunks = self._length([request]) if self.settings.batch > 1 else 0
            return (
                request.steps,
                request.cfg_scale,
                request.width,
                request.height,
                request.sampler_name,
                diffusers_fields(request),
                chunks,
            )

        for _, alike in groupby(requests, settings):
            alike = list(alike)
            for first in range(0, len(alike), self.settings.batch):
                yield alike[first : first + self.settings.batch]

    def _made(self, requests: list[ImageRequest]) -> list[Image]:
        import torch

        request, fields, pipeline = requests[0], diffusers_fields(requests[0]), self._parts.pipeline
        schedule = fields.schedule
        pipeline.scheduler = make_scheduler(request.sampler_name, schedule, self._prediction, self._zero_snr)
        generators = [torch.Generator("cpu").manual_seed(s.seed) for s in requests]
        shape = (1, 4, request.height // 8, request.width // 8)
        # Drawn one by one on the CPU, in single precision: the same picture in any company and on any device.
        noise = torch.cat([torch.randn(shape, generator=g, dtype=torch.float32) for g in generators])
        with torch.no_grad():
            latents = pipeline(
                **self._prompts(requests, fields),
                latents=noise.to(self.device, self._dtype()),
                generator=generators,
                num_inference_steps=request.steps,
                guidance_scale=request.cfg_scale,
                height=request.height,
                width=request.width,
                output_type="latent",
            ).images
            return [self._decoded(one, s) for one, s in zip(latents, requests, strict=True)]

    def _length(self, requests: Sequence[ImageRequest]) -> int:
        return max(self._conditioning.length(prompt) for s in requests for prompt in (s.prompt, s.negative_prompt))

    def _prompts(self, requests: list[ImageRequest], fields: Fields) -> dict[str, Any]:
        """The arguments of the pipeline that stand for prompts."""
        import torch

        length, skip, arguments = self._length(requests), fields.clip_skip, {}
        with torch.no_grad():
            for prefix in ("", "negative_"):
                prompts = [s.negative_prompt if prefix else s.prompt for s in requests]
                found = [self._conditioning.encoded(prompt, length, skip) for prompt in prompts]
                if prefix and self._family.pipeline.empty_is_zero:
                    # An empty negative prompt is nothing at all to SDXL.
                    found = [
                        (e, p) if prompt else (torch.zeros_like(e), torch.zeros_like(p))
                        for (e, p), prompt in zip(found, prompts, strict=True)
                    ]
                arguments[f"{prefix}prompt_embeds"] = torch.cat([embedding for embedding, _ in found])
                if self._family.pipeline.pooled:
                    arguments[f"{prefix}pooled_prompt_embeds"] = torch.cat([pooled for _, pooled in found])
        return arguments

    def _decoded(self, latents: Any, request: ImageRequest) -> Image:
        """The picture of one image's latents."""
        from PIL import Image

        vae = self._parts.modules["vae"]
        pixels = vae.decode(latents[None].to(vae.dtype) / vae.config.scaling_factor).sample[0]
        values = pixels.float().permute(1, 2, 0).cpu().numpy()
        if not np.isfinite(values).all():
            raise SearchError(f"{request.name}: the merged model makes no picture, only NaN", code=NO_IMAGE)
        return Image.fromarray((np.clip(values / 2 + 0.5, 0, 1) * 255).round().astype(np.uint8))

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        self._release()
        self._live.close()

    def _release(self) -> None:
        """Give the memory of the pipeline back."""
        held = self._parts is not None
        self._parts = self._weights = self._conditioning = self._built = None
        if held:
            import torch

            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _check_device(name: str) -> None:
    """Refuse a device that torch does not know or this machine does not have; torch is asked only where one is named.

    Raises:
        SearchError: naming it.
    """
    if name in ("auto", "cpu"):
        return
    import torch

    try:
        torch.empty(1, device=name)
    # torch raises AssertionError where it was built without CUDA.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise SearchError(
            f"generator.device: {name!r} cannot be used here ({reason}); write auto, cpu or cuda"
        ) from None
