"""Runs a plan: reads pieces of the inputs, combines them in fp32, rounds once, writes them where they belong.

Nothing is decided here. Each thread owns its buffers; a piece is read, worked on and written before the next one, so memory
does not depend on how large the models are.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

import numpy as np

from .. import __version__
from ..checkpoints import codec
from ..checkpoints.errors import CheckpointError, UnetscopeError
from ..checkpoints.hashes import identity
from ..checkpoints.output import OutputFile, check_target
from ..checkpoints.position_ids import positions
from ..checkpoints.resumable import Journal, ResumableFile
from ..checkpoints.safetensors_file import check_written, plan_header
from ..checkpoints.stream import Pass, Progress, Span, spans
from ..checkpoints.targets import refuse_inputs, require_suffix
from .evaluate import Solved, whole_rows
from .faults import Faults
from .forms import Applied, Form
from .plan import Plan, TensorPlan
from .solve import solve, unsolved
from .spot import Spot


@dataclass
class Written:
    """What a run wrote: the file, its size, how long it took, what was repaired on the way, in sentences, and how many tensors
    an earlier run had finished."""

    path: Path
    size: int
    seconds: float
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
        require_suffix(output)
        journal = Journal(output, _work(plan, inputs), metadata)
        metadata = journal.kept
    entries = [(t.key, t.dtype, t.shape) for t in plan.tensors]
    header, offsets, size = plan_header(entries, metadata)
    options = {"overwrite": overwrite, "fsync": fsync}
    try:
        check_output(plan, output, 0 if journal else size, overwrite)
        file = ResumableFile(journal, size, **options) if journal else OutputFile(output, size, **options)
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

        run(plan, put, faults, Pass(threads, progress, cancel), finished, out if journal else None)
        try:
            faults.refuse()
            check_inputs(inputs)
        except UnetscopeError:
            if journal:
                out.give_up()
            raise
        check_written(out.partial, entries)
        out.commit()
    return Written(Path(output), size, time.perf_counter() - began, faults.repairs(), len(finished))


def _work(plan: Plan, inputs: dict[Path, str]) -> str:
    """What a run makes of what: two runs of one work can share what is finished."""
    digest = sha256()
    models = [(name, str(c.path)) for name, c in zip(plan.names, plan.checkpoints, strict=True)]
    digest.update(repr((__version__, models, sorted(inputs.values()), plan.recipe.output)).encode())
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
    require_suffix(output)
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
# from several threads; a tensor's pieces come in any order.
Put = Callable[[TensorPlan, int, np.ndarray], None]


def run(
    plan: Plan,
    put: Put,
    faults: Faults,
    over: Pass,
    finished: Container[str] = (),
    resumed: ResumableFile | None = None,
) -> None:
    """Work out every tensor of a plan but those that are finished, and hand the pieces to `put`.

    A resumable file is told of every tensor that is complete.
    """
    tensors, length = plan.tensors, plan.piece()
    at_once = [t.widened or t.positions or bool(unsolved(t.form)) for t in tensors]
    whole = [Span(i, 0, t.elements) for i, t in enumerate(tensors) if at_once[i] and t.elements]
    pieces = list(spans([0 if once else t.elements for t, once in zip(tensors, at_once, strict=True)], length))
    todo = sorted((p for p in [*pieces, *whole] if tensors[p.index].key not in finished), key=lambda p: p.index)
    unwritten = _Unwritten(tensors, todo, faults, resumed) if resumed else None

    def cost(piece: Span) -> int:
        tensor = tensors[piece.index]
        return (tensor.nbytes + tensor.bytes_read) * piece.elements // max(tensor.elements, 1)

    def worker() -> Callable[[Span], None]:
        largest = [length, *(t.elements for t in tensors if t.widened or t.positions)]
        buffers = _Buffers(plan, max(*largest, *(t.row for t in tensors)))

        def work(span: Span) -> None:
            part_length = whole_rows(length, tensors[span.index].row)
            tensor, solved = _solved(plan, tensors[span.index], part_length, buffers)
            most = tensor.elements if tensor.widened or tensor.positions else part_length
            for part in spans([span.elements], most):
                piece = Span(span.index, span.start + part.start, span.start + part.stop)
                put(tensor, piece.start, _result(plan, tensor, piece, buffers, faults, solved))
            if unwritten:
                unwritten.wrote(span)

        return work

    total = sum(t.nbytes + t.bytes_read for t in tensors if t.key not in finished)
    over.run(todo, worker, weight=cost, total=total, key=lambda p: tensors[p.index].key)


class _Unwritten:
    """Counts the pieces that tensors still lack, and tells a resumable file of those that lack none."""

    def __init__(self, tensors: list[TensorPlan], todo: list[Span], faults: Faults, out: ResumableFile):
        self._tensors, self._faults, self._out = tensors, faults, out
        self._pieces, self._guard = Counter(span.index for span in todo), threading.Lock()

    def wrote(self, span: Span) -> None:
        with self._guard:
            self._pieces[span.index] -= 1
            complete = not self._pieces[span.index]
        if complete:
            key = self._tensors[span.index].key
            self._out.finish(key, self._faults.noted(key))


def _solved(plan: Plan, tensor: TensorPlan, length: int, buffers: _Buffers) -> tuple[TensorPlan, Solved]:
    """A tensor whose steps have measured what they need to know, and what they found; most tensors have no such steps."""
    if not unsolved(tensor.form):
        return tensor, {}

    def pieces(models: tuple[int, ...]) -> Iterator[tuple[int, dict[int, np.ndarray]]]:
        for piece in [Span(0, 0, tensor.elements)] if tensor.widened else spans([tensor.elements], length):
            yield piece.start, _decoded(tensor, _read(plan, tensor, models, piece, buffers), buffers)

    solved = solve(tensor.form, Spot(tensor.key, tensor.merged_shape, ()), pieces)
    form = tensor.form.resolved({step: found for step, found in solved.items() if isinstance(found, Form)})
    # Of a widened tensor all inputs stay: which channels are merged depends on them.
    reads = [i for i in tensor.inputs if i in form.models() or tensor.widened]
    return replace(tensor, form=form, inputs={i: tensor.inputs[i] for i in reads}), solved


class _Buffers:
    """A thread's memory: raw inputs side by side, the same as fp32 where that is needed, and one raw output.

    It is used again for every piece: fresh memory would cost the system more time than reading into it.
    """

    def __init__(self, plan: Plan, length: int):
        self._count, self._length, self._widest = plan.most_inputs, length, plan.widest_input
        self._inputs = np.empty(self._count * length * self._widest, np.uint8)
        self._singles: np.ndarray | None = None
        self.output = np.empty(length * 8, np.uint8)

    def rows(self, count: int, nbytes: int) -> np.ndarray:
        return self._inputs[: count * nbytes].reshape(count, nbytes)

    def raw(self, slot: int, nbytes: int) -> np.ndarray:
        """Room for a piece of the `slot`-th input as it is stored."""
        start = slot * self._length * self._widest
        return self._inputs[start : start + nbytes]

    def single(self, slot: int, elements: int) -> np.ndarray:
        """Room for a piece of the `slot`-th input as fp32."""
        if self._singles is None:
            self._singles = np.empty((self._count, self._length), np.float32)
        return self._singles[slot, :elements]


def _result(
    plan: Plan, tensor: TensorPlan, piece: Span, buffers: _Buffers, faults: Faults, solved: Solved
) -> np.ndarray:
    """The raw bytes of a piece of the output."""
    out = buffers.output[: piece.elements * tensor.dtype.size]
    if tensor.positions:
        out.view(np.int64)[:] = positions(tensor.shape, piece.start, piece.stop)
        return out
    if tensor.copied:
        index = tensor.form.single.index
        info = tensor.inputs[index]
        plan.checkpoints[index].read_raw(info, piece.start, piece.stop, out)
        if tensor.dtype.is_float and not tensor.buffer:
            _check_copy(tensor, index, out, faults)
        return out
    models, dtypes = tensor.form.linear_models(), {i.dtype for i in tensor.inputs.values()}
    if models is None or len(dtypes) > 1 or tensor.widened:
        raws = _read(plan, tensor, tensor.inputs, piece, buffers)
        _evaluated(tensor, raws, out, faults, buffers, piece.start, solved)
        return out
    (dtype,) = dtypes
    rows = buffers.rows(len(models), piece.elements * dtype.size)
    for row, index in zip(rows, models, strict=True):
        plan.checkpoints[index].read_raw(tensor.inputs[index], piece.start, piece.stop, row)
    if _combine(codec.stored(rows, dtype), tensor.form, tensor, out):
        # Something is not finite: do the piece again, looking for the reason.
        _evaluated(tensor, dict(zip(models, rows, strict=True)), out, faults, buffers)
    return out


def _check_copy(tensor: TensorPlan, index: int, raw: np.ndarray, faults: Faults) -> None:
    """Note values that are not finite in a tensor that is copied as it is, and put 0 in their place."""
    elements = codec.stored(raw, tensor.dtype)
    if codec.kernel().count_bad(elements, codec.finite_limit(tensor.dtype)):
        values = np.empty(elements.size, np.float32)
        codec.decode(raw, tensor.dtype, values)
        broken = ~np.isfinite(values)
        faults.note(tensor.key, {index: int(broken.sum())})
        elements[broken] = 0


def _combine(rows: np.ndarray, form: Form, tensor: TensorPlan, out: np.ndarray) -> int:
    coefficients = np.array(form.coefficients, np.float32)
    limit = codec.finite_limit(tensor.dtype)
    return codec.kernel().linear(rows, coefficients, form.anchor, codec.stored(out, tensor.dtype), limit)


def _read(
    plan: Plan, tensor: TensorPlan, models: Iterable[int], piece: Span, buffers: _Buffers
) -> dict[int, np.ndarray]:
    """A piece of some inputs as raw bytes; of a widened tensor, where inputs differ in shape, all of it."""
    raws = {}
    for slot, index in enumerate(models):
        info = tensor.inputs[index]
        start, stop = (0, info.elements) if tensor.widened else (piece.start, piece.stop)
        raws[index] = buffers.raw(slot, (stop - start) * info.dtype.size)
        plan.checkpoints[index].read_raw(info, start, stop, raws[index])
    return raws


def _decoded(tensor: TensorPlan, raws: dict[int, np.ndarray], buffers: _Buffers) -> dict[int, np.ndarray]:
    """Inputs as fp32, until the next piece; of a widened tensor the channels that all have, flat."""
    values = {}
    for slot, (index, raw) in enumerate(raws.items()):
        info = tensor.inputs[index]
        values[index] = buffers.single(slot, raw.size // info.dtype.size)
        codec.decode(raw, info.dtype, values[index])
        if tensor.widened:
            values[index] = values[index].reshape(info.shape)[:, : tensor.merged_shape[1]].ravel()
    return values


def _evaluated(
    tensor: TensorPlan,
    raws: dict[int, np.ndarray],
    out: np.ndarray,
    faults: Faults,
    buffers: _Buffers,
    start: int = 0,
    solved: Solved = MappingProxyType({}),
) -> None:
    """Any form, by way of fp32 copies of the inputs; values that are not finite are repaired or noted."""
    result = faults.value(tensor, _decoded(tensor, raws, buffers), start, solved)
    if tensor.widened:
        first = next(iter(tensor.inputs))
        wide = np.empty(tensor.elements, np.float32)
        codec.decode(raws[first], tensor.inputs[first].dtype, wide)
        wide = wide.reshape(tensor.shape)
        wide[:, : tensor.merged_shape[1]] = result.reshape(tensor.merged_shape)
        result = wide.ravel()
    codec.encode(result, tensor.dtype, out)
