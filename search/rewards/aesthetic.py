"""How pleasing an image looks, whatever its prompt: improved aesthetic predictor and Chad scorer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .clip import Clip, check_clip, load_clip
from .contract import Reward
from .head import load_head
from .weights import load_state, require

if TYPE_CHECKING:
    from PIL.Image import Image

_HEAD = "github.com/christophschuhmann/improved-aesthetic-predictor (the Chad scorer: github.com/grexzen/SD-Chad)"
_CLIP = "huggingface.co/openai/clip-vit-large-patch14"


class Aesthetic(Reward):
    """The head of `head.py` on the unit embedding of OpenAI's CLIP ViT-L/14: about 1 to 10, higher is better.

    Args:
        weights: of the head: `sac+logos+ava1-l14-linearMSE.pth`, `chadscorer.pth`, or another of that shape.
        clip: folder of CLIP ViT-L/14 in transformers' layout, or its file with OpenCLIP's names.
        batch: images at a time.
        device: `auto`, `cpu`, `cuda`...
    """

    name = "aesthetic"
    measures = "how pleasing an image looks, whatever its prompt, by a head on CLIP's embedding"

    def __init__(
        self,
        weights: Path = Path("sac+logos+ava1-l14-linearMSE.pth"),
        clip: Path = Path("clip-vit-large-patch14"),
        batch: int = 8,
        device: str = "auto",
    ):
        self._weights, self._clip_path, self._batch, self._device = weights, clip, max(batch, 1), device
        self._clip: Clip | None = None
        self._head: Any = None

    def check(self) -> None:
        require(self._weights, self.name, "the head", _HEAD)
        check_clip(self._clip_path, self.name, _CLIP)

    def load(self) -> None:
        self._clip = load_clip(self._clip_path, self.name, device=self._device, prompts=False, quick_gelu=True)
        width = self._clip.model.config.projection_dim
        self._head = load_head(load_state(self._weights, self.name), self._weights, self.name, width)

    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> list[float]:
        if self._head is None:
            self.load()
        return self._head(self._clip.image_embeddings(images, self._batch)).squeeze(1).tolist()
