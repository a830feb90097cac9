"""Where a merge comes from: the shares of candidate models in every label of it, how sure they are, and what is missing.

A linear merge is a weighted sum of its ingredients, rounded once. Weighted least squares finds the weights, and what is
left over, measured against what rounding alone would leave, tells whether the listed candidates are all there is.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.errors import UnetscopeError
from ..checkpoints.families import in_order
from ..checkpoints.stream import Progress
from .alignment import distinct_names
from .suggestion import suggest
from .trace_label import trace_label, trace_tensor
from .trace_pass import read_sums
from .trace_report import TraceReport, Verdict
from .verdict import sentences

_WORST_FIRST: tuple[Verdict, ...] = ("incomplete", "nearly", "exact", "equal", "identical", "unknown")


def trace(
    merged: Checkpoint,
    among: Sequence[Checkpoint],
    names: Sequence[str] | None = None,
    base: Checkpoint | None = None,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> TraceReport:
    """Recover the recipe of a merge among candidates, per label; every file is read once.

    Args:
        merged: the finished merge.
        among: candidates, in any number; a single component (a VAE) is one too.
        names: what to call them; by default after their files.
        base: what the candidates were tuned from; one more candidate, and the one that differences are taken from.
        threads: None for as many as there are cores, at most 8; the result does not depend on it.
        progress: called with bytes done, bytes in all, and a key.
        cancel: stops the pass when it is set.

    Raises:
        UnetscopeError: no candidates, or none that shares a tensor with the merge; names that do not fit them.
        Cancelled: `cancel` was set.
    """
    candidates, names = _candidates(merged, among, names, base)
    found, left_out = read_sums(merged, candidates, threads=threads, progress=progress, cancel=cancel)
    if not found:
        kinds = "; ".join(f"{n}: {c.architecture.name}" for n, c in zip(names, candidates, strict=True))
        raise UnetscopeError(f"{merged.path}: shares no tensor with the listed files ({kinds})")
    by_label: dict[str, list[int]] = {}
    for i, tensor in enumerate(found):
        by_label.setdefault(tensor.tensor.label, []).append(i)
    tensors = [trace_tensor(tensor, names) for tensor in found]
    labels = tuple(
        trace_label([found[i] for i in at], names, [tensors[i] for i in at])
        for at in (by_label[label] for label in in_order(by_label))
    )
    verdict = next(v for v in _WORST_FIRST if any(label.verdict == v for label in labels))
    suggestion = suggest(
        labels,
        tensors,
        {name: str(c.path) for name, c in zip(names, candidates, strict=True)},
        merged.told_family,
        base=names[-1] if base is not None and len(candidates) > len(among) else _name_of(base, candidates, names),
    )
    broken = sum(tensor.broken for tensor in found)
    return TraceReport(
        merged=distinct_names([merged])[0],
        names=names,
        labels=labels,
        tensors=tuple(tensors),
        verdict=verdict,
        method=suggestion.method,
        sentences=sentences(labels, names, suggestion, left_out, broken),
        recipe=suggestion.recipe,
    )


def _candidates(merged, among, names, base) -> tuple[list[Checkpoint], tuple[str, ...]]:
    candidates = list(among)
    if names is not None and len(names) != len(candidates):
        raise UnetscopeError(f"{len(candidates)} candidates have {len(names)} names; give one for each")
    if base is not None and _name_of(base, candidates, ["x"] * len(candidates)) is None:
        candidates.append(base)
        names = [*names, *_unused(distinct_names([base])[0], names)] if names is not None else None
    if not candidates:
        raise UnetscopeError("nothing to trace the merge to: name at least one file that it may be made of")
    for checkpoint in (merged, *candidates):
        if checkpoint.architecture.what in ("lora", "controlnet"):
            raise UnetscopeError(
                f"{checkpoint.path}: is {checkpoint.architecture.name}; trace takes checkpoints or their parts"
            )
    names = tuple(names) if names is not None else distinct_names(candidates)
    if len(set(names)) < len(names):
        raise UnetscopeError(f"two candidates are both called {max(names, key=names.count)!r}; give each its own name")
    return candidates, names


def _unused(name: str, names: Sequence[str]) -> tuple[str]:
    return (name if name not in names else f"{name} (base)",)


def _name_of(base: Checkpoint | None, candidates: Sequence[Checkpoint], names: Sequence[str]) -> str | None:
    """The name of the candidate that is the same file as the base."""
    if base is None:
        return None
    wanted = base.path.resolve()
    return next((n for n, c in zip(names, candidates, strict=True) if c.path.resolve() == wanted), None)
