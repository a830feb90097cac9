"""Opened checkpoints made of shapes alone: no file is behind them."""

from pathlib import Path

from unetscope.checkpoints.checkpoint import Checkpoint, TensorInfo
from unetscope.checkpoints.dtypes import F16
from unetscope.checkpoints.families import family_of, layout
from unetscope.checkpoints.recognition.architecture import Architecture
from unetscope.checkpoints.tensors import StoredTensor


def checkpoint_of(
    family, *, name="model.safetensors", widths="narrow", in_channels=4, drop=(), extra=None
) -> Checkpoint:
    """A checkpoint with a family's layout, without the keys in `drop` and with the shapes in `extra`."""
    shapes = {key: spec.shape for key, spec in layout(family, widths=widths, in_channels=in_channels).items()}
    shapes = {key: shape for key, shape in shapes.items() if key not in drop} | (extra or {})
    path = Path("folder") / name
    stored = {key: StoredTensor.at(key, F16, shape, path, 0) for key, shape in shapes.items()}
    tensors = {key: TensorInfo(key, tensor, family_of(family)) for key, tensor in stored.items()}
    return Checkpoint(path, "safetensors", tensors, {}, Architecture(family, "checkpoint", name=f"{family} checkpoint"))
