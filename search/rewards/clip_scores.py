"""How well an image fits its prompt, by CLIP models: CLIP score, PickScore, HPS v2.1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .clip import Clip, check_clip, load_clip
from .contract import Reward
from .pixels import Fit

if TYPE_CHECKING:
    from PIL.Image import Image


class ClipScore(Reward):
    """100 times the cosine between image and prompt (Hessel et al. 2021): any CLIP model. No model of taste, but of meaning.

    Args:
        weights: folder in transformers' layout, or file with OpenCLIP's names.
        tokenizer: folder with the tokenizer's files; by default those next to the weights, else CLIP's, which Unetscope brings.
        quick_gelu: whether a file needs it (OpenAI's own do); a folder says so itself.
        batch: images at a time.
        device: `auto`, `cpu`, `cuda`...
    """

    name = "clip_score"
    is_preference = False
    measures = "how near the meanings of image and prompt are, by CLIP"
    source = "huggingface.co/openai/clip-vit-large-patch14"
    fit: Fit = "crop"

    def __init__(
        self,
        weights: Path = Path("clip-vit-large-patch14"),
        tokenizer: Path | None = None,
        quick_gelu: bool = False,
        batch: int = 8,
        device: str = "auto",
    ):
        self._weights, self._tokenizer, self._quick_gelu = weights, tokenizer, quick_gelu
        self._batch, self._device = max(batch, 1), device
        self._clip: Clip | None = None

    def check(self) -> None:
        check_clip(self._weights, self.name, self.source, self._tokenizer)

    def load(self) -> None:
        self._clip = load_clip(
            self._weights, self.name, device=self._device, tokenizer=self._tokenizer, quick_gelu=self._quick_gelu
        )

    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> list[float]:
        if self._clip is None:
            self.load()
        scale = self.scale(self._clip)
        return [scale * cosine for cosine in self._clip.cosines(images, prompts, self._batch, self.fit)]

    def scale(self, clip: Clip) -> float:
        """What cosines are multiplied by."""
        return 100.0


class PickScore(ClipScore):
    """PickScore v1 (Kirstain et al. 2023): CLIP ViT-H/14 tuned on choices between pairs; the cosine times its logit scale.

    Args: as `ClipScore`; `weights` is the folder of the model.
    """

    name = "pick_score"
    is_preference = True
    measures = "how much people would like an image for its prompt, by PickScore"
    source = "huggingface.co/yuvalkirstain/PickScore_v1"

    def __init__(
        self,
        weights: Path = Path("PickScore_v1"),
        tokenizer: Path | None = None,
        batch: int = 8,
        device: str = "auto",
    ):
        super().__init__(weights, tokenizer, False, batch, device)

    def scale(self, clip: Clip) -> float:
        return clip.logit_scale


class HpsV21(ClipScore):
    """Human Preference Score v2.1 (Wu et al. 2023): OpenCLIP ViT-H/14 tuned on rankings; the cosine as it is, about 0.2 to 0.35.

    Images that are not square are padded, as its authors do. Their code runs in half precision; here it is fp32.

    Args: as `ClipScore`; `weights` is the file.
    """

    name = "hps_v21"
    is_preference = True
    measures = "how much people would like an image for its prompt, by HPS v2.1"
    source = "huggingface.co/xswu/HPSv2 (HPS_v2.1_compressed.pt)"
    fit = "pad"

    def __init__(
        self,
        weights: Path = Path("HPS_v2.1_compressed.pt"),
        tokenizer: Path | None = None,
        batch: int = 8,
        device: str = "auto",
    ):
        super().__init__(weights, tokenizer, False, batch, device)

    def scale(self, clip: Clip) -> float:
        return 1.0
