"""ImageReward (Xu et al. 2023): BLIP reads the prompt while it looks at the image, and a head makes a number of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SearchError
from .clip import batches
from .contract import Reward
from .head import load_head
from .pixels import pixels
from .towers import blip_models
from .weights import chosen_device, load_state, require, require_package

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

# Of the raw scores on the authors' training data: published scores are standardised with them.
_MEAN, _STD = 0.16717362830052426, 1.0333394966054072
_LONGEST = 35
# `[DEC]` and `[ENC]`, which BLIP adds to BERT's vocabulary and a prompt never holds.
_ADDED = 2


class ImageReward(Reward):
    """ImageReward v1.0: about -2.3 to 2, higher is better. Prompts are cut after 35 tokens, as its authors do.

    Args:
        weights: the file `ImageReward.pt`.
        tokenizer: folder of bert-base-uncased's tokenizer.
        sigmoid: put scores between 0 and 1, as AutoMBW does, so that one bad image does not outweigh several good ones.
        batch: images at a time.
        device: `auto`, `cpu`, `cuda`...
    """

    name = "image_reward"
    measures = "how much people would like an image for its prompt, by ImageReward"

    def __init__(
        self,
        weights: Path = Path("ImageReward.pt"),
        tokenizer: Path = Path("bert-base-uncased"),
        sigmoid: bool = False,
        batch: int = 8,
        device: str = "auto",
    ):
        self._weights, self._tokenizer, self._sigmoid = weights, tokenizer, sigmoid
        self._batch, self._device = max(batch, 1), device
        self._vision: Any = None
        self._text: Any = None
        self._words: Any = None
        self._head: Any = None

    def check(self) -> None:
        require_package("transformers", self.name, "transformers")
        require(self._weights, self.name, "ImageReward's model", "huggingface.co/THUDM/ImageReward (ImageReward.pt)")
        require(
            self._tokenizer, self.name, "BERT's tokenizer (vocab.txt or tokenizer.json)",
            "huggingface.co/google-bert/bert-base-uncased", "vocab.txt", "tokenizer.json",
        )  # fmt: skip

    def load(self) -> None:
        from transformers import BertTokenizer

        tensors = load_state(self._weights, self.name)
        device = chosen_device(self._device)
        self._vision, self._text = (model.to(device) for model in blip_models(tensors, self._weights, self.name))
        config = self._text.config
        self._head = load_head(tensors, self._weights, self.name, config.hidden_size, "mlp.").to(device)
        try:
            self._words = BertTokenizer.from_pretrained(self._tokenizer, local_files_only=True)
        except Exception as error:  # transformers raises whatever it met
            line = " ".join(str(error).split())[:200]
            raise SearchError(f"reward {self.name}: {self._tokenizer}: the tokenizer cannot be read ({line})") from None
        if len(self._words) + _ADDED != config.vocab_size:
            raise SearchError(
                f"reward {self.name}: {self._tokenizer}: the tokenizer knows {len(self._words):,} tokens, the model takes "
                f"{config.vocab_size - _ADDED:,}; use the one of bert-base-uncased"
            )

    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> list[float]:
        if self._head is None:
            self.load()
        pairs = list(zip(images, prompts, strict=True))
        raw = [value for some in batches(pairs, self._batch) for value in self._raw(*zip(*some, strict=True))]
        scores = [(value - _MEAN) / _STD for value in raw]
        return [1 / (1 + math.exp(-score)) for score in scores] if self._sigmoid else scores

    def _raw(self, images: Sequence[Image], prompts: Sequence[str]) -> list[float]:
        import torch

        device = self._text.device
        given = self._words(
            list(prompts), padding="max_length", truncation=True, max_length=_LONGEST, return_tensors="pt"
        ).to(device)
        with torch.inference_mode():
            shown = torch.from_numpy(pixels(images, self._vision.config.image_size)).to(device)
            return self._head(self._read(given, self._vision(pixel_values=shown).last_hidden_state)).squeeze(1).tolist()

    def _read(self, given: Any, seen: torch.Tensor) -> torch.Tensor:
        """What BLIP has at the first token after it read the prompt and looked at the image: (images, 768)."""
        read = self._text(
            input_ids=given["input_ids"],
            attention_mask=given["attention_mask"],
            encoder_hidden_states=seen,
            is_decoder=False,
        )
        return read.last_hidden_state[:, 0].float()
