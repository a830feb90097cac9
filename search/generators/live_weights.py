"""The weights of a live pipeline as the target of a merge: every piece is copied to its place as soon as it is worked out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...checkpoints.dtypes import DTYPES, DType
from ...checkpoints.families import Family
from ...checkpoints.kernels import kernel
from ...checkpoints.recognition import to_diffusers
from ...checkpoints.tensors import Piece, Shape, StoredTensor, row_major
from ...checkpoints.text import counted
from ..errors import SearchError

if TYPE_CHECKING:
    import torch

    from ...merge.plan import TensorPlan

_SHOWN = 3


@dataclass(frozen=True)
class _Place:
    """Elements `start` to `stop` of a key and the flat tensor that they go into, element by element."""

    start: int
    stop: int
    target: torch.Tensor


class LiveWeights:
    """Where the tensors of a checkpoint lie in the parts of a diffusers pipeline.

    Args:
        parts: `unet`, `vae`, `text_encoder`, `text_encoder_2` -> the module.
        family: of the checkpoint.
        shapes: key -> shape of every tensor of the checkpoint.

    Raises:
        SearchError: the checkpoint lacks weights that a part needs.
    """

    def __init__(self, parts: Mapping[str, torch.nn.Module], family: Family, shapes: Mapping[str, Shape]):
        self._places: dict[str, list[_Place]] = {}
        self._turned: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.component: dict[str, str] = {}
        # One byte an element, so that byte offsets of the translated pieces count elements of the key that they name.
        tagged = {key: StoredTensor.at(key, DTYPES["U8"], shape, Path(key), 0) for key, shape in shapes.items()}
        translated = to_diffusers(tagged, family).components
        for component, module in parts.items():
            targets = dict(module.state_dict())
            for name, stored in translated.get(component, {}).items():
                target = targets.pop(name, None)
                if target is None:  # transformers 5 leaves this out of some encoders' names
                    target = targets.pop(name.removeprefix("text_model."), None)
                if target is not None:
                    self._bind(stored, target, component)
            _refuse_missing(component, targets, translated)

    def _bind(self, stored: StoredTensor, target: torch.Tensor, component: str) -> None:
        if tuple(target.shape) != stored.shape:
            raise SearchError(
                f"{stored.name}: has the shape {list(stored.shape)}, and the pipeline's {list(target.shape)}: not a model that "
                "this family's configuration describes"
            )
        flat, filled = target.view(-1), 0
        for piece in stored.pieces:
            part = flat[filled : filled + piece.elements]
            key = str(piece.path)
            self.component[key] = component
            if piece.strides is not None:
                part = self._beside(piece, part)
            self._places.setdefault(key, []).append(_Place(piece.offset, piece.offset + piece.elements, part))
            filled += piece.elements

    def _beside(self, piece: Piece, part: torch.Tensor) -> torch.Tensor:
        """A tensor in the key's own order, for a part that has it turned; `finish` turns it."""
        import torch

        if piece.strides != row_major(piece.shape[::-1])[::-1]:
            raise SearchError(f"{piece.path}: is stored in an order that no pipeline has")
        here = torch.empty(piece.shape[::-1], dtype=part.dtype)
        self._turned.append((here.permute(*range(here.dim())[::-1]), part.view(piece.shape)))
        return here.view(-1)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def put(self, tensor: TensorPlan, start: int, raw: np.ndarray) -> None:
        """Copy a piece of a tensor to its place; see `merge.executor.Put`."""
        stop, size = start + raw.size // tensor.dtype.size, tensor.dtype.size
        for place in self._places.get(tensor.key, ()):
            first, last = max(start, place.start), min(stop, place.stop)
            if first < last:
                part = place.target[first - place.start : last - place.start]
                _copy(raw[(first - start) * size : (last - start) * size], tensor.dtype, part)

    def finish(self) -> None:
        """Put in place what had to be turned."""
        for here, target in self._turned:
            target.copy_(here)


def _copy(raw: np.ndarray, dtype: DType, target: torch.Tensor) -> None:
    """Raw bytes into a flat tensor of any float dtype on any device."""
    import torch

    if target.dtype == torch.float32 and target.device.type == "cpu":
        kernel().decode(raw, dtype, target.numpy())
    else:
        target.copy_(torch.from_numpy(raw).view(getattr(torch, dtype.torch)))


def _refuse_missing(component: str, missing: Iterable[str], translated: Mapping[str, object]) -> None:
    missing = sorted(missing)
    if not missing:
        return
    recipe = {"unet": "unet", "vae": "vae"}.get(component, "text_encoders")
    if component not in translated:
        raise SearchError(
            f"the recipe's result has no {component}; take one from a file (components: {{{recipe}: FILE}})"
        )
    raise SearchError(
        f"the recipe's result lacks {counted(len(missing), 'tensor')} of {component} ({', '.join(missing[:_SHOWN])}"
        f"{', ...' if len(missing) > _SHOWN else ''}); take it from a file that has them (components: {{{recipe}: FILE}})"
    )
