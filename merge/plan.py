"""From a recipe and the headers of its models to a plan: for every tensor of the output, what it is made of.

Everything that can be refused is refused here, before the first byte of weight is read. The engine that follows has no
decisions left to make. `tensor_plan` says what is known of one tensor, `planner` how that is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..checkpoints import Checkpoint, Family, open_checkpoint
from ..checkpoints.notices import Notice
from ..checkpoints.stream import default_threads, piece_length
from .evaluate import tile_length
from .planner import Planner
from .recipe import Recipe
from .solve import unsolved
from .tensor_plan import TensorPlan


@dataclass
class Plan:
    """A merge that can be run.

    Attributes:
        recipe: what was asked for.
        checkpoints, names: the models by index, and the name of each in the recipe.
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
        read = (item for t in self.tensors if not t.positions for item in t.inputs.items())
        return sum(self.checkpoints[i].bytes_of(info) for i, info in read)

    @property
    def bytes_written(self) -> int:
        return sum(t.nbytes for t in self.tensors)

    @property
    def most_inputs(self) -> int:
        return max((len(t.inputs) for t in self.tensors), default=1)

    @property
    def widest_input(self) -> int:
        """Bytes of an element of the widest dtype that is read."""
        return max((info.dtype.size for t in self.tensors for info in t.inputs.values()), default=1)

    def piece(self) -> int:
        """Elements of a piece: the same for every thread and run."""
        return piece_length(self.most_inputs, self.widest_input)

    def memory(self, threads: int | None = None) -> int:
        """Bytes of buffers that a run holds, an upper bound, for each thread:

        a piece of each input as stored, twice where some tensors are linear and others are not, as fp32 and repaired, and of the
        result; of methods that measure, a tile of each input in double precision and what is made of it, and what they count in;
        of methods on whole tensors, the largest of them, each input and what the method makes of it.
        """
        piece = self.piece() * ((2 * self.widest_input + 8) * self.most_inputs + 24)
        tile = tile_length(self.most_inputs) * 24 * self.most_inputs
        steps = max((t.steps_memory for t in self.tensors), default=0)
        return (threads or default_threads()) * (piece + tile + steps)

    @property
    def passes(self) -> int:
        """How often the inputs are read, at most: once, and again for everything that a method has to measure first."""
        return max((1 + sum(s.method.passes - 1 for s in unsolved(t.form)) for t in self.tensors), default=1)

    @property
    def equal_to(self) -> str:
        """The model that the result is a copy of, by name, and the dtypes where they change; empty where it is made of more."""
        weights = [t for t in self.tensors if t.dtype.is_float and not t.buffer and not t.positions]
        sources = {t.form.single for t in weights}
        if len(sources) != 1 or None in sources:
            return ""
        (source,) = sources
        changed = dict.fromkeys(t.dtype.name for t in weights if t.dtype != t.inputs[source.index].dtype)
        return self.names[source.index] + (f", stored as {', '.join(changed)}" if changed else "")

    @property
    def architecture(self) -> str:
        """What the metadata's `modelspec.architecture` says: where no record tells, what the first model's says."""
        if self.family.modelspec:
            return self.family.modelspec_architecture(self.prediction)
        return self.checkpoints[0].metadata.get("modelspec.architecture", "")

    def close(self) -> None:
        """Close the models' files."""
        for checkpoint in self.checkpoints:
            checkpoint.close()


@contextmanager
def planned(recipe: Recipe) -> Iterator[Plan]:
    """`make_plan`, whose files are closed at the end of the `with` block."""
    plan = make_plan(recipe)
    try:
        yield plan
    finally:
        plan.close()


def make_plan(recipe: Recipe, opened: Callable[[Path], Checkpoint] = open_checkpoint) -> Plan:
    """Open the models of a recipe (headers only) and work out every tensor of the result.

    `opened` opens a model: those who plan many recipes of the same models keep them open.

    Raises:
        CheckpointError: a model cannot be read.
        MergeError: the models do not fit together, or the recipe's result has no tensors.
        LabelError: a block weight does not fit the architecture.
    """
    planner = Planner(recipe, opened)
    tensors = planner.tensors()
    return Plan(
        recipe, planner.checkpoints, planner.names, planner.family, planner.prediction, tensors, planner.warnings
    )
