"""The head on top of a tower's embedding: five linear layers, from 768 numbers to one.

Improved aesthetic predictor (Schuhmann 2022), the Chad scorer and ImageReward (Xu et al. 2023) share its shape and its
names. There is no activation between the layers: dropout was, and only in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SearchError
from .weights import fill

if TYPE_CHECKING:
    import torch

WIDTHS = (1024, 128, 64, 16, 1)
# Positions in the trained `Sequential`, which counts dropout layers too.
_PLACES = (0, 2, 4, 6, 7)


def load_head(
    tensors: Mapping[str, torch.Tensor], path: Path, reward: str, width: int = 768, prefix: str = ""
) -> torch.nn.Module:
    """The head from tensors called `layers.0.weight` and so on.

    Args:
        tensors: of the file.
        path, reward: for errors.
        width: numbers of an embedding.
        prefix: before each name in the file.

    Raises:
        SearchError: a layer is missing or has another shape.
    """
    from torch import nn

    sizes = [width, *WIDTHS]
    renamed = {}
    for at, place in enumerate(_PLACES):
        for part in ("weight", "bias"):
            name = f"{prefix}layers.{place}.{part}"
            if name not in tensors:
                raise SearchError(
                    f"reward {reward}: {path}: {name} is missing; expected the head {'-'.join(map(str, sizes))} "
                    f"(layers {', '.join(map(str, _PLACES))})"
                )
            renamed[f"{at}.{part}"] = tensors[name]
    head = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(sizes)))
    return fill(head, renamed, path, reward)
