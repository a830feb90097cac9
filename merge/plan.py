"""A plan: for every tensor of the output what it is made of, how it is written, and what that costs.

Everything that can be refused is refused while a plan is made (`planner`), before the first byte of weight is read. What runs it
has no decisions left to make.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path

from ..checkpoints import Checkpoint, Family
from ..checkpoints.checkpoint import TensorInfo
from ..checkpoints.dtypes import DType
from ..checkpoints.errors import CheckpointError
from ..checkpoints.families import BUFFERS, Place
from ..checkpoints.hashes import identity
from ..checkpoints.notices import Notice
from ..checkpoints.stream import default_threads, piece_length
from ..checkpoints.tensors import Shape
from .linear_combination import LinearCombination
from .recipe import Recipe
from .shape_rule import SAME, ShapeRule
from .tensor_slice import TensorSlice, tile_length

# Of what stands next to the weights that a family's layout has, what may be trained.
TRAINED = ("extra", "other")


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """One tensor of the output.

    Attributes:
        key, dtype, shape: as it is written.
        combination: the linear combination that it is; one of a single model with coefficient 1 is a copy.
        inputs: model index -> its tensor, for every model that the combination reads.
        place: the block that it is in.
        name: what the output calls it: the key, but in files of no known family.
        rule: how the inputs' shapes become the output's.
    """

    key: str
    dtype: DType
    shape: Shape
    combination: LinearCombination
    inputs: dict[int, TensorInfo]
    place: Place
    name: str
    rule: ShapeRule = SAME

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def merged_shape(self) -> Shape:
        """The shape of what is merged."""
        return self.rule.merged(self.shape, [info.shape for info in self.inputs.values()])

    @property
    def slice(self) -> TensorSlice:
        """The tensor from its beginning, as methods are told of it."""
        return TensorSlice(self.key, self.merged_shape, ())

    @property
    def row(self) -> int:
        """1, or the elements of a row where a method below the combination works on whole rows."""
        return self.slice.row if any(call.method.rows for call in self.combination.calls()) else 1

    @property
    def nbytes(self) -> int:
        return self.elements * self.dtype.size

    @property
    def bytes_read(self) -> int:
        return sum(info.nbytes for info in self.inputs.values()) if self.rule.reads else 0

    @property
    def copied(self) -> bool:
        """Whether the stored bytes of one model are the result as they are."""
        source = self.combination.single
        return source is not None and self.rule is SAME and self.inputs[source.index].dtype == self.dtype

    @property
    def in_parts(self) -> bool:
        """Whether any part of it can be made without the rest: its rule allows it, and no method has to see all of it first."""
        return self.rule.in_parts and not self.combination.measuring()

    @property
    def buffer(self) -> bool:
        """Whether it is a schedule buffer, marker, further model or unknown key: infinities stay as they are."""
        return self.place.component in BUFFERS

    @property
    def weight(self) -> bool:
        """Whether it holds weights of the models, not integers or buffers."""
        return self.dtype.is_float and not self.buffer

    @property
    def methods_memory(self) -> int:
        """Bytes that its methods hold next to tiles, at most: they measure one after the other, and whole results stay."""
        total = 0
        for call in self.combination.measuring():
            if call.method.kind == "whole":
                total += self.elements * (4 + call.method.working) * (len(call.inputs) + 1)
            else:
                total += call.method.working * len(call.inputs)
        return total


@dataclass(frozen=True)
class Plan:
    """A merge that can be run.

    Attributes:
        recipe: what was asked for.
        checkpoints, names: the models by index, and the name of each in the recipe.
        family, prediction: of the result.
        tensors: the output, in the order in which it is written.
        warnings: what a user should know.
    """

    recipe: Recipe
    checkpoints: list[Checkpoint]
    names: list[str]
    family: Family
    prediction: str | None
    tensors: list[TensorPlan]
    warnings: list[Notice] = field(default_factory=list)

    @property
    def bytes_read(self) -> int:
        """What a pass reads from files."""
        read = (item for t in self.tensors if t.rule.reads for item in t.inputs.items())
        return sum(self.checkpoints[i].bytes_of(info) for i, info in read)

    @property
    def bytes_written(self) -> int:
        return sum(t.nbytes for t in self.tensors)

    @cached_property
    def most_inputs(self) -> int:
        return max((len(t.inputs) for t in self.tensors), default=1)

    @cached_property
    def widest_input(self) -> int:
        """Bytes of an element of the widest dtype that is read."""
        return max((info.dtype.size for t in self.tensors for info in t.inputs.values()), default=1)

    @property
    def piece_length(self) -> int:
        """Elements of a piece: the same for every thread and run."""
        return piece_length(self.most_inputs, self.widest_input)

    def memory(self, threads: int | None = None) -> int:
        """Bytes of buffers that a run holds, an upper bound, for each thread:

        a piece of each input as stored, twice where some tensors are linear and others are not, as fp32 and repaired, and of the
        result; of methods that measure, a tile of each input in double precision and what is made of it, and what they count in;
        of methods on whole tensors, the largest of them, each input and what the method makes of it.
        """
        piece = self.piece_length * ((2 * self.widest_input + 8) * self.most_inputs + 24)
        tile = tile_length(self.most_inputs) * 24 * self.most_inputs
        methods = max((t.methods_memory for t in self.tensors), default=0)
        return (threads or default_threads()) * (piece + tile + methods)

    @property
    def passes(self) -> int:
        """How often the inputs are read, at most: once, and again for everything that a method has to measure first."""
        return max(
            (1 + sum(call.method.passes - 1 for call in t.combination.measuring()) for t in self.tensors), default=1
        )

    @property
    def weights(self) -> list[TensorPlan]:
        """The tensors that hold weights."""
        return [t for t in self.tensors if t.weight]

    @property
    def equal_to(self) -> str:
        """The model that the result is a copy of, by name, and the dtypes where they change; empty where it is made of more."""
        sources = {t.combination.single for t in self.weights}
        if len(sources) != 1 or None in sources:
            return ""
        (source,) = sources
        changed = dict.fromkeys(t.dtype.name for t in self.weights if t.dtype != t.inputs[source.index].dtype)
        return self.names[source.index] + (f", stored as {', '.join(changed)}" if changed else "")

    @property
    def architecture(self) -> str:
        """What the metadata's `modelspec.architecture` says: where no record tells, what the first model's says."""
        if self.family.modelspec:
            return self.family.modelspec_architecture(self.prediction)
        return self.checkpoints[0].metadata.get("modelspec.architecture", "")

    def identities(self) -> dict[Path, str]:
        """Every file that is read, and what tells whether it has changed."""
        pieces = (piece for t in self.tensors for info in t.inputs.values() for piece in info.stored.pieces)
        return {path: identity(path) for path in {piece.path for piece in pieces}}

    def close(self) -> None:
        """Close the models' files."""
        for checkpoint in self.checkpoints:
            checkpoint.close()


def check_unchanged(before: dict[Path, str]) -> None:
    """Refuse a result whose inputs were written to while they were read: it would be a mixture of old and new.

    Args:
        before: what `Plan.identities` said when the run began.
    """
    for path, known in before.items():
        if not path.exists() or identity(path) != known:
            raise CheckpointError(f"{path}: was changed while it was read; nothing was written, merge again")
