"""The one call that merges: `merge(recipe, output)`. The command line and the app use nothing else.

A recipe is planned, the output's header is laid out, the plan is executed, and the file is put in place: completely, or not at all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256 as digest_of
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..checkpoints.errors import UnetscopeError
from ..checkpoints.files.output import OutputFile
from ..checkpoints.files.resumable import Journal, ResumableFile
from ..checkpoints.files.targets import check_target, refuse_inputs
from ..checkpoints.formats import written_as
from ..checkpoints.hashes import sha256
from ..checkpoints.notices import Notice
from ..checkpoints.stream import Pass, Progress
from .executor import execute
from .linear_combination import MethodCall
from .metadata import describe
from .nonfinite import NonFinite
from .plan import Plan, TensorPlan, check_unchanged
from .planner import planned
from .recipe import Recipe
from .report import Report, equal_model, make_report
from .shape_rule import COMMON_CHANNELS, POSITION_IDS

# Raised whenever a recipe comes to other bytes than before: what an older version has finished is not continued then.
_ARITHMETIC = 2


def merge(
    recipe: Recipe,
    output: Path | str,
    *,
    threads: int | None = None,
    overwrite: bool = False,
    fsync: bool = True,
    hash_files: bool = False,
    reproducible: bool = False,
    resumable: bool = False,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Report:
    """Merge checkpoints by a recipe into one .safetensors file.

    Args:
        recipe: see `Recipe`; its relative paths count from the working directory.
        output: the file to write. It appears when it is complete, or not at all.
        threads: None for as many as there are cores; the result does not depend on it.
        overwrite: replace an existing file.
        fsync: wait until the disk has it.
        hash_files: compute the inputs' and the output's SHA-256 for metadata and report.
        reproducible: leave out of the header what differs from run to run, so that whole files are equal.
        resumable: leave what is finished next to the output when the run is stopped or killed; the same merge, asked for again with
            `resumable`, continues from there and gives the bytes that an undisturbed run gives.
        progress: called with (bytes done, bytes in all, key) about ten times a second.
        cancel: set it to stop; nothing is left behind.

    Raises:
        UnetscopeError: any mistake in the recipe, the inputs or the output, in one sentence.

    Example:
        >>> from unetscope.checkpoints import open_checkpoint
        >>> from unetscope.merge import Recipe
        >>> step = {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": {"LAYERS01": 0.5}}
        >>> models = {"a": "a.safetensors", "b": "b.safetensors"}
        >>> report = merge(Recipe.parse({"models": models, "steps": {"mix": step}}), "mix.safetensors")
        >>> report.tensors
        3
        >>> with open_checkpoint("mix.safetensors") as mix:
        ...     [float(mix.numpy(key).mean()) for key in mix.tensors]
        [1.0, 2.0, 1.0]
    """
    output = Path(output)
    with planned(recipe) as plan:
        report = make_report(plan, output, threads)
        check_output(plan, output, 0 if resumable else plan.bytes_written, overwrite)
        metadata = describe(plan, output, hash_inputs=hash_files, reproducible=reproducible)
        target = _Target(output, overwrite, fsync, resumable)
        written = _write(plan, target, metadata, Pass(threads, progress, cancel))
        repaired = {key for notice in written.repairs for key in notice.subject}
        if repaired or not report.equal_to:
            report.equal_to = equal_model(plan, output, written.offsets, repaired)
    report.seconds = written.seconds
    report.warnings += written.repairs
    report.resumed = written.resumed
    report.sha256 = sha256(output) if hash_files else None
    return report


def dry_run(recipe: Recipe, output: Path | str, *, threads: int | None = None, overwrite: bool = False) -> Report:
    """What `merge` would do, from headers alone; nothing is written.

    Raises:
        UnetscopeError: whatever would stop the merge before its first write.

    Example:
        >>> from unetscope.merge import Recipe
        >>> step = {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": {"LAYERS01": 0.5}}
        >>> models = {"a": "a.safetensors", "b": "b.safetensors"}
        >>> report = dry_run(Recipe.parse({"models": models, "steps": {"mix": step}}), "mix.safetensors")
        >>> [(row.label, row.shares) for row in report.labels][:2]
        [('LAYERS00', {'a': 1.0}), ('LAYERS01', {'a': 0.5, 'b': 0.5})]
    """
    output = Path(output)
    with planned(recipe) as plan:
        _, _, size = written_as(output).write(_entries(plan), {})
        check_output(plan, output, size, overwrite)
        return make_report(plan, output, threads)


def check_output(plan: Plan, output: Path, size: int, overwrite: bool) -> None:
    """Refuse an output that is an input or inside one, that is no .safetensors file, or that cannot be written.

    Raises:
        OutputError: with the reason.
    """
    written_as(output)  # else refused
    refuse_inputs(output, [checkpoint.path for checkpoint in plan.checkpoints])
    check_target(output, size, overwrite)


# -- writing --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Target:
    """Where a result goes, and how: see `merge`."""

    path: Path
    overwrite: bool
    fsync: bool
    resumable: bool


@dataclass
class _Written:
    """What a run wrote: how long it took, the first byte of every tensor by key, what was repaired on the way,
    and how many tensors an earlier run had finished."""

    seconds: float
    offsets: Mapping[str, int]
    repairs: list[Notice] = field(default_factory=list)
    resumed: int = 0


def _write(plan: Plan, target: _Target, metadata: dict[str, str], over: Pass) -> _Written:
    """Run a plan and put the result in place: completely, or not at all.

    Of a resumable target, what a run that is stopped has finished stays next to it, and the same run continues from there.

    Raises:
        OutputError: the output cannot be written, or is one of the inputs.
        RecipeError: weights that are not finite, or too large for the output's dtype, and the recipe refuses them.
        CheckpointError: an input ends early.
        Cancelled: on request.
    """
    began = time.perf_counter()
    nonfinite, inputs, container = NonFinite(plan), plan.identities(), written_as(target.path)
    with _journal(plan, target, inputs, metadata) as journal:
        header, written_at, size = container.write(_entries(plan), journal.kept if journal else metadata)
        offsets = {t.key: written_at[t.name] for t in plan.tensors}
        check_output(plan, target.path, 0 if journal else size, target.overwrite)
        file = _opened(plan, target, size, offsets, journal, nonfinite.is_note)
    with file as out:
        out.write_at(0, header)
        finished = journal.finished if journal else {}
        for key, note in finished.items():
            nonfinite.restore(key, note)

        def put(tensor: TensorPlan, start: int, raw: np.ndarray) -> None:
            out.write_at(offsets[tensor.key] + start * tensor.dtype.size, raw)

        execute(plan, put, nonfinite, over, finished, offsets, out if journal else None)
        try:
            nonfinite.refuse()
            check_unchanged(inputs)
        except UnetscopeError:
            if journal:
                out.give_up()
            raise
        container.check(out.partial, _entries(plan))
        out.commit()
    return _Written(time.perf_counter() - began, offsets, nonfinite.repairs(), len(finished))


def _entries(plan: Plan) -> list[tuple]:
    """Name, dtype and shape of every tensor, as a container lays them out."""
    return [(t.name, t.dtype, t.shape) for t in plan.tensors]


@contextmanager
def _journal(
    plan: Plan, target: _Target, inputs: dict[Path, str], metadata: dict[str, str]
) -> Iterator[Journal | None]:
    """The journal of a resumable target, None for others; where the block fails, one that holds nothing is removed again."""
    if not target.resumable:
        yield None
        return
    journal = Journal(target.path, _work(plan, inputs), metadata)
    try:
        yield journal
    except BaseException:
        journal.close() if journal.finished else journal.remove()
        raise


def _opened(
    plan: Plan, target: _Target, size: int, offsets: Mapping[str, int], journal: Journal | None, known: Any
) -> OutputFile:
    """The file under construction."""
    options: dict[str, Any] = {"overwrite": target.overwrite, "fsync": target.fsync}
    if journal is None:
        return OutputFile(target.path, size, **options)
    places = {t.key: (offsets[t.key], t.nbytes) for t in plan.tensors}
    return ResumableFile(journal, size, places, known=known, **options)


def _work(plan: Plan, inputs: dict[Path, str]) -> str:
    """What a run makes of what: two runs of one work can share what is finished."""
    digest = digest_of()
    models = [(name, str(c.path)) for name, c in zip(plan.names, plan.checkpoints, strict=True)]
    digest.update(repr((__version__, _ARITHMETIC, models, sorted(inputs.values()), plan.recipe.output)).encode())
    for t in plan.tensors:
        terms = [term.digest if isinstance(term, MethodCall) else term.index for term in t.combination.terms]
        rules = (t.rule is POSITION_IDS, t.rule is COMMON_CHANNELS)
        said = (t.key, t.dtype.name, t.shape, terms, t.combination.coefficients, list(t.inputs), *rules)
        digest.update(repr(said).encode())
    return digest.hexdigest()
