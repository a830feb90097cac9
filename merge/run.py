"""The one call that merges: `merge(recipe, output)`. The command line and the app use nothing else."""

from __future__ import annotations

import threading
from pathlib import Path

from ..checkpoints.formats import written_as
from ..checkpoints.hashes import sha256
from ..checkpoints.stream import Progress
from .engine import check_output, write
from .metadata import describe
from .plan import planned
from .recipe import Recipe
from .report import Report, equal_model, make_report


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
        resumable: leave what is finished beside the output when the run is stopped or killed; the same merge, asked for again with
            `resumable`, goes on from there and gives the bytes that an undisturbed run gives.
        progress: called with (bytes done, bytes in all, key) about ten times a second.
        cancel: set it to stop; nothing is left behind.

    Raises:
        UnetscopeError: any mistake in the recipe, the inputs or the output, in one sentence.

    Example:
        >>> from unetscope.checkpoints import open_checkpoint
        >>> from unetscope.merge import Recipe
        >>> import numpy as np
        >>> from safetensors.numpy import save_file
        >>> for name, value in {"a": 1, "b": 3}.items():
        ...     save_file({f"layers.{n}.weight": np.full((4, 4), value, np.float32) for n in range(3)}, f"{name}.safetensors")
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
        written = write(
            plan,
            output,
            metadata,
            threads=threads,
            overwrite=overwrite,
            fsync=fsync,
            resumable=resumable,
            progress=progress,
            cancel=cancel,
        )
        report.equal_to = report.equal_to or equal_model(plan, output, written.offsets)
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
        >>> import numpy as np
        >>> from safetensors.numpy import save_file
        >>> for name, value in {"a": 1, "b": 3}.items():
        ...     save_file({f"layers.{n}.weight": np.full((4, 4), value, np.float32) for n in range(3)}, f"{name}.safetensors")
        >>> step = {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": {"LAYERS01": 0.5}}
        >>> models = {"a": "a.safetensors", "b": "b.safetensors"}
        >>> report = dry_run(Recipe.parse({"models": models, "steps": {"mix": step}}), "mix.safetensors")
        >>> [(row.label, row.shares) for row in report.labels][:2]
        [('LAYERS00', {'a': 1.0}), ('LAYERS01', {'a': 0.5, 'b': 0.5})]
    """
    output = Path(output)
    with planned(recipe) as plan:
        _, _, size = written_as(output).write([(t.name, t.dtype, t.shape) for t in plan.tensors], {})
        check_output(plan, output, size, overwrite)
        return make_report(plan, output, threads)
