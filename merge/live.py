"""A merge that goes into a model in memory instead of a file, again and again, with only what has changed since the last time.

Searches try hundreds of recipes of the same models. The pieces come from the executor that files come from, so a live model holds
what the saved file would hold, bit for bit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..checkpoints import Checkpoint, open_checkpoint
from ..checkpoints.dtypes import DType, carrier
from ..checkpoints.errors import CheckpointError
from ..checkpoints.hashes import identity
from ..checkpoints.notices import Notice
from ..checkpoints.stream import Pass, Progress
from ..checkpoints.tensors import Shape
from .executor import Put, execute
from .nonfinite import NonFinite
from .plan import Plan, TensorPlan, check_unchanged
from .planner import make_plan
from .recipe import Recipe


@dataclass(frozen=True)
class Changes:
    """What an update did.

    Attributes:
        keys: the tensors that were worked out, in file order.
        unchanged: how many were left as they were.
        tensors: every tensor of the result -> its dtype and shape.
        family, prediction: of the result.
        warnings: of the plan, and what was repaired.
    """

    keys: tuple[str, ...]
    unchanged: int
    tensors: dict[str, tuple[DType, Shape]]
    family: str
    prediction: str | None
    warnings: list[Notice] = field(default_factory=list)


class LiveMerge:
    """Merges one recipe after another into memory. Models stay open; close it, or use it in a `with` block.

    Args:
        put: takes a piece: its tensor, its first element, and raw bytes of the output's dtype, which are overwritten by the next
            piece. It is called from several threads, and a tensor's pieces come in any order.
        threads: None for as many as there are cores; the result does not depend on it.
        wanted: whether a key is needed; None for all. What is not needed is neither read nor worked out.
    """

    def __init__(self, put: Put, *, threads: int | None = None, wanted: Callable[[str], bool] | None = None):
        self._put, self._threads, self._wanted = put, threads, wanted or (lambda key: True)
        self._models: dict[Path, tuple[Checkpoint, str]] = {}
        self._made: dict[str, tuple] = {}
        self._files: dict[Path, str] = {}

    def update(
        self,
        recipe: Recipe,
        *,
        begin: Callable[[Plan], None] | None = None,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> Changes:
        """Work out the tensors of a recipe's result that differ from those of the last one.

        Args:
            recipe: of the same models as those before it, or of others.
            begin: called with the plan before anything is worked out or asked of `wanted`; it may refuse, or `forget`.
            progress, cancel: of the pass.

        Raises:
            CheckpointError: a model cannot be read, or its file has changed since it was first read.
            RecipeError: the models do not fit together; weights that are not finite, and the recipe refuses them.
            Cancelled: `cancel` was set.

        After an error the tensors that were being worked out count as unknown: the next update makes them anew.
        """
        plan = make_plan(recipe, self._open)
        try:
            if begin:
                begin(plan)
            return self._run(plan, Pass(self._threads, progress, cancel))
        finally:
            kept = {id(checkpoint) for checkpoint, _ in self._models.values()}
            for checkpoint in plan.checkpoints:
                if id(checkpoint) not in kept:  # a LoRA, opened for this plan
                    checkpoint.close()

    def _run(self, plan: Plan, over: Pass) -> Changes:
        self._check_files(plan)
        said = {t.key: _signature(plan, t) for t in plan.tensors if self._wanted(t.key)}
        changed = [key for key, signature in said.items() if self._made.get(key) != signature]
        for key in changed:
            self._made.pop(key, None)
        nonfinite, todo = NonFinite(plan), set(changed)
        execute(plan, self._put, nonfinite, over, {t.key for t in plan.tensors} - todo)
        nonfinite.refuse()
        check_unchanged(self._files)
        self._made |= {key: said[key] for key in changed}
        return Changes(
            tuple(changed),
            len(said) - len(changed),
            {t.key: (t.dtype, t.shape) for t in plan.tensors},
            plan.family.id,
            plan.prediction,
            [*plan.warnings, *nonfinite.repairs()],
        )

    def _check_files(self, plan: Plan) -> None:
        """Note every file of the plan, and refuse those that were written to since they were noted."""
        for path, found in plan.identities().items():
            if self._files.setdefault(path, found) != found:
                raise CheckpointError(
                    f"{path}: has changed since it was first read here; start again with the new file"
                )

    def _open(self, path: Path) -> Checkpoint:
        """A model, opened once."""
        resolved = path.resolve()
        if resolved in self._models and self._models[resolved][1] == identity(resolved):
            return self._models[resolved][0]
        checkpoint = open_checkpoint(path)
        self._models[resolved] = (checkpoint, identity(resolved))
        return checkpoint

    def forget(self) -> None:
        """Work everything out anew next time."""
        self._made.clear()

    def close(self) -> None:
        """Close the models and forget what was made."""
        for checkpoint, _ in self._models.values():
            checkpoint.close()
        self._models.clear()
        self._made.clear()
        self._files.clear()

    def __enter__(self) -> LiveMerge:
        return self

    def __exit__(self, *exc) -> None:
        self.close()


def _signature(plan: Plan, tensor: TensorPlan) -> tuple:
    """What decides a tensor's bytes: two tensors of one key and one signature are equal.

    Models go by their numbers in the plan; the byte ranges that are read tell which models those are.
    """
    inputs = tuple((i, plan.names[i], info.shape, info.dtype, info.stored.pieces) for i, info in tensor.inputs.items())
    output = plan.recipe.output
    how = (tensor.dtype, tensor.shape, tensor.rule, output.nan, output.overflow)
    # What is summed over a tensor may depend, in the last digit, on where its pieces end.
    how += (plan.piece_length if tensor.combination.measuring() else None,)
    return (*how, tensor.combination, inputs)


class HeldMerge:
    """The result of recipes as arrays in memory, key by key, each in one buffer that is used again.

    Memory is that of one result in its output dtype. Close it, or use it in a `with` block.
    """

    def __init__(self, *, threads: int | None = None, keys: Iterable[str] | None = None):
        chosen = None if keys is None else frozenset(keys)
        self._live = LiveMerge(self._take, threads=threads, wanted=None if chosen is None else chosen.__contains__)
        self._chosen, self._guard = chosen, threading.Lock()
        self._held: dict[str, np.ndarray] = {}
        self.changes: Changes | None = None

    def update(self, recipe: Recipe, **options) -> dict[str, np.ndarray]:
        """The tensors of a recipe's result: key -> raw bits, shaped, in the numpy type that carries the dtype (fp16 as uint16).

        The arrays are the same objects from call to call, and change with the next call. Raises what `LiveMerge.update` raises.
        """
        self.changes = self._live.update(recipe, **options)
        out = {}
        for key, (dtype, shape) in self.changes.tensors.items():
            if self._chosen is None or key in self._chosen:
                raw = self._held.setdefault(key, np.empty(0, np.uint8))
                out[key] = raw.view(carrier(dtype)).reshape(shape)
        for key in self._held.keys() - out.keys():
            del self._held[key]
        return out

    def torch(self, recipe: Recipe, **options) -> dict:
        """The same as torch tensors of the output's dtypes, which share the memory. Imports torch."""
        import torch

        arrays = self.update(recipe, **options)
        tensors = {}
        for key, array in arrays.items():
            dtype = getattr(torch, self.changes.tensors[key][0].torch)
            tensors[key] = torch.from_numpy(array.reshape(-1).view(np.uint8)).view(dtype).reshape(array.shape)
        return tensors

    def _take(self, tensor: TensorPlan, start: int, raw: np.ndarray) -> None:
        with self._guard:
            held = self._held.get(tensor.key)
            if held is None or held.size != tensor.nbytes:
                held = self._held[tensor.key] = np.empty(tensor.nbytes, np.uint8)
        first = start * tensor.dtype.size
        held[first : first + raw.size] = raw

    def close(self) -> None:
        """Close the models and give the memory back."""
        self._live.close()
        self._held.clear()

    def __enter__(self) -> HeldMerge:
        return self

    def __exit__(self, *exc) -> None:
        self.close()
