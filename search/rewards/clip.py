"""CLIP from a local folder (transformers' layout) or a local file (OpenCLIP's names): images and prompts to embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SearchError
from .open_clip_names import model_of
from .pixels import Fit, pixels
from .weights import chosen_device, load_state, require, require_package

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
_LONGEST = 77


class Clip:
    """A CLIP model on a device.

    Attributes:
        model: transformers' `CLIPModel`.
        logit_scale: what trained cosines are multiplied by.
    """

    def __init__(self, model: Any, tokenizer: Any, device: str):
        self.model = model.to(device)
        self.logit_scale = float(model.logit_scale.exp())
        self._tokenizer, self._device = tokenizer, device
        self._size = model.config.vision_config.image_size

    def image_embeddings(self, images: Sequence[Image], batch: int, fit: Fit = "crop") -> torch.Tensor:
        """Unit vectors of shape (images, width of the embedding), float32, on the CPU."""
        import torch

        found = []
        with torch.inference_mode():
            for some in batches(images, batch):
                given = torch.from_numpy(pixels(some, self._size, fit)).to(self._device)
                found.append(_unit(self.model.get_image_features(pixel_values=given)))
        return torch.cat(found)

    def text_embeddings(self, prompts: Sequence[str], batch: int) -> torch.Tensor:
        """Unit vectors of shape (prompts, width of the embedding); prompts are cut after 77 tokens."""
        import torch

        found = []
        with torch.inference_mode():
            for some in batches(prompts, batch):
                given = self._tokenizer(
                    list(some), padding="max_length", truncation=True, max_length=_LONGEST, return_tensors="pt"
                )
                found.append(_unit(self.model.get_text_features(input_ids=given["input_ids"].to(self._device))))
        return torch.cat(found)

    def cosines(self, images: Sequence[Image], prompts: Sequence[str], batch: int, fit: Fit = "crop") -> list[float]:
        """The cosine between each image and its prompt. Equal prompts are encoded once."""
        unique = list(dict.fromkeys(prompts))
        texts = self.text_embeddings(unique, batch)[[unique.index(prompt) for prompt in prompts]]
        return (self.image_embeddings(images, batch, fit) * texts).sum(1).tolist()


def batches(items: Sequence[Any], count: int) -> Iterator[Sequence[Any]]:
    """At most `count` items at a time."""
    for start in range(0, len(items), count):
        yield items[start : start + count]


def _unit(features: Any) -> torch.Tensor:
    # transformers 5 answers with an object, earlier ones with the tensor itself.
    tensor = getattr(features, "pooler_output", features).float().cpu()
    return tensor / tensor.norm(dim=1, keepdim=True)


def check_clip(path: Path, reward: str, source: str, tokenizer: Path | None, prompts: bool) -> None:
    """Refuse a CLIP that could not be loaded.

    Args:
        path: folder or file.
        reward: kind of the reward.
        source: where to get it.
        tokenizer: folder of the tokenizer, when it is not beside the weights.
        prompts: whether a tokenizer is needed at all.

    Raises:
        SearchError: something is missing.
    """
    require_package("transformers", reward, "transformers")
    require(path, reward, "the CLIP model", source, "config.json")
    if prompts:
        _tokenizer_folder(path, tokenizer, reward, source)


def _tokenizer_folder(path: Path, tokenizer: Path | None, reward: str, source: str) -> Path:
    folder = tokenizer or (path if path.is_dir() else path.parent)
    require(folder, reward, "the tokenizer (tokenizer.json, or vocab.json with merges.txt)", source, *_TOKENIZER_FILES)
    return folder


@lru_cache(maxsize=2)
def load_clip(
    path: Path,
    reward: str,
    *,
    device: str,
    tokenizer: Path | None = None,
    prompts: bool = True,
    quick_gelu: bool = False,
) -> Clip:
    """A CLIP model; rewards that use the same one share it.

    Args:
        path: folder in transformers' layout, or file of OpenCLIP.
        reward: kind of the reward, for errors.
        device: `auto`, `cpu`, `cuda`...
        tokenizer: its folder, when it is not where the weights are.
        prompts: whether prompts will be embedded.
        quick_gelu: of a file, which does not say: OpenAI's own weights need it, those of LAION do not.

    Raises:
        SearchError: it cannot be loaded.
    """
    from transformers import CLIPModel, CLIPTokenizer

    if path.is_dir():
        try:
            model = CLIPModel.from_pretrained(path, local_files_only=True).float().eval()
        except Exception as error:  # transformers raises whatever it met
            raise SearchError(f"reward {reward}: {path}: is no CLIP model of transformers ({_line(error)})") from None
    else:
        model = model_of(load_state(path, reward), path, reward, quick_gelu)
    model.requires_grad_(False)
    words = None
    if prompts:
        folder = _tokenizer_folder(path, tokenizer, reward, "the folder of its model on the Hugging Face hub")
        try:
            words = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:
            raise SearchError(f"reward {reward}: {folder}: the tokenizer cannot be read ({_line(error)})") from None
        size = model.config.text_config.vocab_size
        # Without its files transformers makes a tokenizer of two tokens, silently.
        if len(words) != size:
            raise SearchError(
                f"reward {reward}: {folder}: the tokenizer knows {len(words):,} tokens, the model {size:,}; take its own"
            )
    return Clip(model, words, chosen_device(device))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
