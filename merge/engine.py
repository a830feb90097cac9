"""Runs a plan: has pieces of the result made on several threads, and writes them where they belong.

What comes out is not decided here, only in what lengths it is made. Each thread owns its buffers; a piece is read, worked on and
written before the next one, so memory does not depend on how large the models are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np

from .. import __version__
from ..checkpoints.errors import CheckpointError, UnetscopeError
from ..checkpoints.files.output import OutputFile
from ..checkpoints.files.resumable import Journal, ResumableFile
from ..checkpoints.files.targets import check_target, refuse_inputs
from ..checkpoints.formats import written_as
from ..checkpoints.hashes import identity
from ..checkpoints.stream import Pass, Progress, Span, spans
from .evaluate import whole_rows
from .faults import Faults
from .forms import Applied
from .neighbours import Run, runs
from .pieces import PieceMaker
from .plan import Plan
from .solve import unsolved
from .tensor_plan import TensorPlan

# Raised whenever a recipe comes to other bytes than before: what an older version has finished is not gone on with then.
_ARITHMETIC = 2


@dataclass
class Written:
    """What a run wrote: the file, its size, how long it took, the first byte of every tensor by key, what was repaired on the way,
    in sentences, and how many tensors an earlier run had finished."""

    path: Path
    size: int
    seconds: float
    offsets: Mapping[str, int]
    repairs: list[str] = field(default_factory=list)
    resumed: int = 0


def write(
    plan: Plan,
    output: Path,
    metadata: dict[str, str],
    *,
    threads: int | None = None,
    overwrite: bool = False,
    fsync: bool = True,
    resumable: bool = False,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Written:
    """Run a plan and put the result under `output`: completely, or not at all.

    With `resumable`, what a run that is stopped has finished stays beside the output, and the same run goes on from there.

    Raises:
        OutputError: the output cannot be written, or is one of the inputs.
        MergeError: weights that are not finite, or too large for the output's dtype, and the recipe refuses them.
        CheckpointError: an input ends early.
        Cancelled: `cancel` was set.
    """
    began = time.perf_counter()
    faults, inputs = Faults(plan), identities(plan)
    journal = None
    if resumable:
        written_as(output)  # else refused
        journal = Journal(output, _work(plan, inputs), metadata)
        metadata = journal.kept
    entries = [(t.name, t.dtype, t.shape) for t in plan.tensors]
    form = written_as(Path(output))
    header, written_at, size = form.write(entries, metadata)
    offsets = {t.key: written_at[t.name] for t in plan.tensors}
    options = {"overwrite": overwrite, "fsync": fsync}
    try:
        check_output(plan, output, 0 if journal else size, overwrite)
        if journal:
            places = {t.key: (offsets[t.key], t.nbytes) for t in plan.tensors}
            file = ResumableFile(journal, size, places, known=faults.is_note, **options)
        else:
            file = OutputFile(output, size, **options)
    except BaseException:
        if journal:
            journal.close() if journal.finished else journal.remove()
        raise
    with file as out:
        out.write_at(0, header)
        finished = journal.finished if journal else {}
        for key, note in finished.items():
            faults.restore(key, note)

        def put(tensor: TensorPlan, start: int, raw: np.ndarray) -> None:
            out.write_at(offsets[tensor.key] + start * tensor.dtype.size, raw)

        run(plan, put, faults, Pass(threads, progress, cancel), finished, offsets, out if journal else None)
        try:
            faults.refuse()
            check_inputs(inputs)
        except UnetscopeError:
            if journal:
                out.give_up()
            raise
        form.check(out.partial, entries)
        out.commit()
    return Written(Path(output), size, time.perf_counter() - began, offsets, faults.repairs(), len(finished))


def _work(plan: Plan, inputs: dict[Path, str]) -> str:
    """What a run makes of what: two runs of one work can share what is finished."""
    digest = sha256()
    models = [(name, str(c.path)) for name, c in zip(plan.names, plan.checkpoints, strict=True)]
    digest.update(repr((__version__, _ARITHMETIC, models, sorted(inputs.values()), plan.recipe.output)).encode())
    for t in plan.tensors:
        terms = [term.digest if isinstance(term, Applied) else term.index for term in t.form.terms]
        said = (t.key, t.dtype.name, t.shape, terms, t.form.coefficients, list(t.inputs), t.positions, t.widened)
        digest.update(repr(said).encode())
    return digest.hexdigest()


def check_output(plan: Plan, output: Path, size: int, overwrite: bool) -> None:
    """Refuse an output that is an input or inside one, that is no .safetensors file, or that cannot be written.

    Raises:
        OutputError: with the reason.
    """
    written_as(output)  # else refused
    refuse_inputs(output, [checkpoint.path for checkpoint in plan.checkpoints])
    check_target(output, size, overwrite)


def identities(plan: Plan) -> dict[Path, str]:
    """Every file that is read, and what tells whether it has changed."""
    pieces = (piece for t in plan.tensors for info in t.inputs.values() for piece in info.stored.pieces)
    return {path: identity(path) for path in {piece.path for piece in pieces}}


def check_inputs(before: dict[Path, str]) -> None:
    """Refuse a result whose inputs were written to while they were read: it would be a mixture of old and new."""
    for path, known in before.items():
        if not path.exists() or identity(path) != known:
            raise CheckpointError(f"{path}: was changed while it was read; nothing was written, merge again")


# Takes a piece of the result: its tensor, its first element, and its raw bytes, which are overwritten by the next piece. Called
# from several threads; a tensor's pieces come in any order. Where neighbours are joined, "its tensor" may be a whole run of them.
Put = Callable[[TensorPlan, int, np.ndarray], None]


def run(
    plan: Plan,
    put: Put,
    faults: Faults,
    over: Pass,
    finished: Container[str] = (),
    offsets: Mapping[str, int] | None = None,
    resumed: ResumableFile | None = None,
) -> None:
    """Work out every tensor of a plan but those that are finished, and hand the pieces to `put`.

    Neighbours are joined where `offsets` says where each tensor begins in the output. A resumable file is told of every tensor
    that is complete.
    """
    joined, length = runs(plan, offsets, finished), plan.piece()
    tensors = [run.whole for run in joined]
    at_once = [t.widened or t.positions or bool(unsolved(t.form)) for t in tensors]
    whole = [Span(i, 0, t.elements) for i, t in enumerate(tensors) if at_once[i] and t.elements]
    pieces = spans([0 if once else t.elements for t, once in zip(tensors, at_once, strict=True)], length)
    todo = sorted([*pieces, *whole], key=lambda p: p.index)
    unwritten = _Unwritten(plan, joined, faults, resumed) if resumed else None

    def cost(piece: Span) -> int:
        tensor = tensors[piece.index]
        return (tensor.nbytes + tensor.bytes_read) * piece.elements // max(tensor.elements, 1)

    def worker() -> Callable[[Span], None]:
        at_once_sizes = (t.elements for t in tensors if t.widened or t.positions)
        maker = PieceMaker(plan, faults, max([length, *at_once_sizes, *(t.row for t in tensors)]))

        def work(span: Span) -> None:
            part_length = whole_rows(length, tensors[span.index].row)
            tensor, solved = maker.solve(tensors[span.index], part_length)
            most = tensor.elements if tensor.widened or tensor.positions else part_length
            for start in range(span.start, span.stop, most):
                stop = min(start + most, span.stop)
                raw = maker.fused(tensor, start, stop)
                if raw is not None:
                    put(tensor, start, raw)
                    continue
                # Not one fused loop, or something is not finite: tensor by tensor, looking for the reason.
                for one, own_start, own_stop in _apart(plan, joined[span.index], tensor, start, stop):
                    put(one, own_start, maker.make(one, own_start, own_stop, solved))
            if unwritten:
                unwritten.wrote(span)

        return work

    total = sum(t.nbytes + t.bytes_read for t in tensors)

    def key(piece: Span) -> str:
        number, _, _ = next(joined[piece.index].parts(piece.start, piece.stop))
        return plan.tensors[number].key

    over.run(todo, worker, weight=cost, total=total, key=key)


def _apart(plan: Plan, joined: Run, tensor: TensorPlan, start: int, stop: int) -> Iterator[tuple[TensorPlan, int, int]]:
    """The tensors that a piece of a run holds, each with its own part of the piece."""
    if joined.single:
        yield tensor, start, stop
        return
    for number, own_start, own_stop in joined.parts(start, stop):
        yield plan.tensors[number], own_start, own_stop


class _Unwritten:
    """Counts the elements that tensors still lack, and tells a resumable file of those that lack none."""

    def __init__(self, plan: Plan, joined: list[Run], faults: Faults, out: ResumableFile):
        self._tensors, self._joined, self._faults, self._out = plan.tensors, joined, faults, out
        self._lacking, self._guard = [t.elements for t in plan.tensors], threading.Lock()

    def wrote(self, span: Span) -> None:
        complete = []
        with self._guard:
            for number, start, stop in self._joined[span.index].parts(span.start, span.stop):
                self._lacking[number] -= stop - start
                if not self._lacking[number]:
                    complete.append(self._tensors[number].key)
        for key in complete:
            self._out.finish(key, self._faults.noted(key))
