"""CLIP from a local folder (transformers' layout) or a local file (OpenCLIP's names): images and prompts to embeddings."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from ..errors import SearchError
from .pixels import Fit, pixels
from .towers import open_clip_model
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
        self.model = model
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


def check_clip(path: Path, reward: str, source: str, tokenizer: Path | None = None) -> None:
    """Refuse a CLIP that could not be loaded.

    Args:
        path: folder or file.
        reward: kind of the reward.
        source: where to get it.
        tokenizer: folder of the tokenizer, if one is named.

    Raises:
        SearchError: something is missing.
    """
    require_package("transformers", reward, "transformers")
    require(path, reward, "the CLIP model", source, "config.json")
    if tokenizer is not None:
        require(
            tokenizer,
            reward,
            "the tokenizer (tokenizer.json, or vocab.json with merges.txt)",
            source,
            *_TOKENIZER_FILES,
        )


# Models that a reward holds, so that others share them; those that none holds any more are gone.
_LOADED: WeakValueDictionary[tuple[Path, bool, str], Any] = WeakValueDictionary()


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
        tokenizer: its folder; by default what is next to the weights, else CLIP's own, which comes with this package.
        prompts: whether prompts will be embedded.
        quick_gelu: of a file, which does not say: OpenAI's own weights need it, those of LAION do not.

    Raises:
        SearchError: it cannot be loaded.
    """
    key = (path, quick_gelu and path.is_file(), chosen_device(device))
    model = _LOADED.get(key)
    if model is None:
        model = _LOADED[key] = _model(path, reward, quick_gelu).requires_grad_(False).to(key[2])
    words = _words(path, tokenizer, model.config.text_config.vocab_size, reward) if prompts else None
    return Clip(model, words, key[2])


def _model(path: Path, reward: str, quick_gelu: bool) -> Any:
    from transformers import CLIPModel

    if path.is_file():
        return open_clip_model(load_state(path, reward), path, reward, quick_gelu)
    try:
        return CLIPModel.from_pretrained(path, local_files_only=True).float().eval()
    except Exception as error:  # transformers raises whatever it met
        raise SearchError(f"reward {reward}: {path}: is not a CLIP model of transformers ({_line(error)})") from None


def _words(path: Path, tokenizer: Path | None, size: int, reward: str) -> Any:
    """The tokenizer that belongs to a model of that many tokens."""
    from transformers import CLIPTokenizer

    from ..generators.tokenizer import write_tokenizer

    folder = tokenizer or (path if path.is_dir() else path.parent)
    with tempfile.TemporaryDirectory() as scratch:
        if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
            folder = write_tokenizer(Path(scratch), "clip_h")
        try:
            words = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:
            raise SearchError(f"reward {reward}: {folder}: the tokenizer cannot be read ({_line(error)})") from None
    # Without its files transformers makes a tokenizer of two tokens, silently.
    if len(words) != size:
        raise SearchError(
            f"reward {reward}: {path}: the tokenizer knows {len(words):,} tokens, the model {size:,}; name its own as tokenizer"
        )
    return words


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
