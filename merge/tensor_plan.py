"""One tensor of a merge's output: what it is made of, how it is written, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ..checkpoints.checkpoint import TensorInfo
from ..checkpoints.dtypes import DType
from ..checkpoints.families import Place
from ..checkpoints.tensors import Shape
from .forms import Form
from .solve import unsolved
from .spot import Spot

# What stands beside the weights that a family's layout has: it keeps its dtype, and infinities are nobody's fault.
BUFFERS = ("schedule", "marker", "extra", "other")
# Of these, what may be trained weights.
TRAINED = ("extra", "other")


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """One tensor of the output.

    Attributes:
        key, dtype, shape: as it is written.
        place: the block that it is in.
        name: what the output calls it: the key, but in files of no known family.
        form: the weighted sum that it is; a sum of one model with coefficient 1 is a copy.
        inputs: model index -> its tensor, for every model that the form reads.
        positions: write the integers 0, 1, 2... instead of reading anything.
        widened: the first input has more input channels than the others: only the channels that all have are merged, the
            rest is the first input's.
    """

    key: str
    dtype: DType
    shape: Shape
    form: Form
    inputs: dict[int, TensorInfo]
    place: Place
    name: str
    positions: bool = False
    widened: bool = False

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def merged_shape(self) -> Shape:
        """The shape of what is merged: of a widened tensor the channels that all inputs have."""
        if not self.widened:
            return self.shape
        return self.shape[0], min(info.shape[1] for info in self.inputs.values()), *self.shape[2:]

    @property
    def row(self) -> int:
        """1, or the elements of a row where a step of the form works on whole rows."""
        rows = any(step.method.rows for step in self.form.applied())
        return Spot(self.key, self.merged_shape, ()).row if rows else 1

    @property
    def nbytes(self) -> int:
        return self.elements * self.dtype.size

    @property
    def bytes_read(self) -> int:
        return 0 if self.positions else sum(info.nbytes for info in self.inputs.values())

    @property
    def copied(self) -> bool:
        """Whether the stored bytes of one model are the result as they are."""
        source = self.form.single
        plain = source is not None and not self.positions and not self.widened
        return plain and self.inputs[source.index].dtype == self.dtype

    @property
    def buffer(self) -> bool:
        """Whether it is a schedule buffer, marker, further model or unknown key: infinities stay as they are."""
        return self.place.component in BUFFERS

    @property
    def steps_memory(self) -> int:
        """Bytes that its steps hold beside tiles, at most: they are solved one after the other, and whole results stay."""
        total = 0
        for step in unsolved(self.form):
            if step.method.kind == "whole":
                total += self.elements * (4 + step.method.working) * (len(step.inputs) + 1)
            else:
                total += step.method.working * len(step.inputs)
        return total
