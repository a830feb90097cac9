"""The layers that a LoRA changes: how a file of each style names them and their factors, and their weights in a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

import numpy as np

from ...checkpoints.checkpoint import Checkpoint
from ...checkpoints.errors import RecipeError, nearest
from ...checkpoints.families import Family, family_of
from ...checkpoints.kernels import kernel
from ...checkpoints.lora.names import FUSED, Target, factor_ends, has_own_names, spelled, targets
from ...checkpoints.lora.own import OwnNames
from ...checkpoints.tensors import Shape

Style = Literal["kohya", "single-file", "diffusers", "peft"]
STYLES: tuple[Style, ...] = get_args(Style)
# Styles whose readers know no alpha: there the scale is a part of the factors.
WITHOUT_ALPHA: tuple[Style, ...] = ("diffusers", "peft")


def style_named(name: str | None, family: str | Family) -> Style:
    """A style by its name; None: what trainers write for the architecture.

    Raises:
        RecipeError: there is no such style.
    """
    record = family_of(family)
    if name is None:  # a kin's are written as those of the family that it varies
        facts = record.lora or (family_of(record.parent).lora if record.parent else None)
        return facts.denoiser if facts else "peft"
    if name not in STYLES:
        raise RecipeError(f"there is no style of LoRA names {name!r}{nearest(name, STYLES)}; use {', '.join(STYLES)}")
    if name in ("diffusers", "single-file") and isinstance(record, OwnNames):
        raise RecipeError(
            f"{name} has no names for the layers of {record.title}; use the LoRA's own: peft (dotted), or kohya"
        )
    if name == "diffusers" and has_own_names(record):
        raise RecipeError(f"diffusers has no names for the layers of {record.title}; use peft, or kohya")
    return name


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear layer or convolution of the UNET or a text encoder.

    Attributes:
        target: the module, and where its weight is in a single file.
        family: the architecture.
        shape: of the weight, or bias, that is changed: (outputs, inputs), (outputs, inputs, height, width), or (outputs,).
    """

    target: Target
    family: str | Family
    shape: Shape

    @property
    def key(self) -> str:
        """The canonical key of the weight; q, k and v of OpenCLIP's encoders share one."""
        return self.target.weight

    @property
    def kernel(self) -> int:
        """The area of a convolution's kernel; 1 for a linear layer."""
        return self.shape[2] * self.shape[3] if len(self.shape) == 4 else 1

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def is_norm(self) -> bool:
        """Whether it is a norm: its weight has one axis."""
        return family_of(self.family).kind_of(self.key) == "norm"

    @property
    def in_transformer(self) -> bool:
        """Whether a plain LoRA changes the layer, as trainers make it: text encoders' layers and the UNET's transformers, all of
        what only its own names tell of."""
        return not self.target.core or has_own_names(self.family) or ".attentions." in self.target.module

    def name(self, style: Style) -> str:
        """What a file of this style calls the layer."""
        return spelled(self.target, self.family, style)

    def factor_names(self, style: Style) -> tuple[str, str]:
        """What a file of this style calls the factors: down, up."""
        down, up = factor_ends(self.target, style)
        return self.name(style) + down, self.name(style) + up

    def read(self, checkpoint: Checkpoint) -> np.ndarray:
        """The weight in a checkpoint as a matrix (outputs, inputs x height x width), fp32."""
        info, first = checkpoint[self.key], (self.target.third or 0) * self.elements
        raw = np.empty(self.elements * info.dtype.size, np.uint8)
        checkpoint.read_raw(info, first, first + self.elements, raw)
        out = np.empty(self.elements, np.float32)
        kernel().decode(raw, info.dtype, out)
        return out.reshape(self.shape[0], -1)


def layers_of(checkpoint: Checkpoint, family: str | Family) -> Iterator[Layer]:
    """The layers of a checkpoint that LoRAs change: all linear layers and convolutions but embeddings and text projections."""
    for target in targets(family):
        if target.weight not in checkpoint or target.transposed:
            continue
        info = checkpoint[target.weight]
        if info.dtype.is_float and len(info.shape) in (2, 4) and not target.module.endswith("_embedding"):
            rows = info.shape[0] // FUSED if target.third is not None else info.shape[0]
            yield Layer(target, family, (rows, *info.shape[1:]))
