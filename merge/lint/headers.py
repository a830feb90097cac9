"""What the headers of the models tell: kinds of files that do not go together, one model twice, dtypes that lose digits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations

import numpy as np

from ...analysis.rounding import spacing
from ...checkpoints.checkpoint import Checkpoint
from ...checkpoints.dtypes import DType, dtype_named
from ...checkpoints.errors import RecipeError
from ...checkpoints.hashes import identity, known_sha256
from ...checkpoints.notices import Notice
from ...checkpoints.text import file_size
from ...library.scan_cache import kept_scan
from ..compatibility import MIXED, check_architectures, check_predictions, denoiser, has_denoiser
from ..recipe import Recipe

# Binary digits with which merging and training go badly: those of fp8.
_FEW_DIGITS = 4


def header_findings(recipe: Recipe, models: Mapping[str, Checkpoint]) -> Iterator[Notice]:
    """What is wrong with models (by name) that are open, without reading a weight."""
    yield from _no_models(models)
    whole = {n: c for n, c in models.items() if c.architecture.what in ("checkpoint", "component")}
    merged = {*recipe.leaves(recipe.result), *recipe.leaves(recipe.source_of(denoiser(models.values()), text=False)[0])}
    merging = {name: checkpoint for name, checkpoint in whole.items() if name in merged}
    yield from _architectures(merging)
    yield from _predictions(recipe, merging)
    yield from _inpainting(recipe, whole)
    yield from _twice(whole)
    yield from _ema(recipe, whole)
    yield from _dtypes(recipe, whole)


def _no_models(models: Mapping[str, Checkpoint]) -> Iterator[Notice]:
    for name, checkpoint in models.items():
        if checkpoint.architecture.what in ("checkpoint", "component"):
            continue
        lora = checkpoint.architecture.what == "lora"
        yield Notice(
            "kind.not_a_model",
            f"{name} ({checkpoint.path.name}) is {checkpoint.architecture.name}, no checkpoint",
            (name,),
            severity="error",
            why="It holds differences, not weights" if lora else "Its tensors have no counterpart in the other models",
            remedy="List it under `loras:` and add it with task_arithmetic or add"
            if lora
            else "Name a checkpoint instead",
        )


def _architectures(models: Mapping[str, Checkpoint]) -> Iterator[Notice]:
    families = {name: c.architecture.family for name, c in models.items() if c.architecture.family}
    first = next(iter(families), None)
    for name in families:
        if families[name] == families[first]:
            continue
        try:
            check_architectures([models[first], models[name]], [first, name])
        except RecipeError as error:
            yield Notice(
                "architecture.differs",
                str(error),
                (first, name),
                severity="error",
                why="Their tensors have other shapes and other meanings",
                remedy=f"Take the counterpart of {name} for {models[first].architecture.name}",
            )


def _predictions(recipe: Recipe, models: Mapping[str, Checkpoint]) -> Iterator[Notice]:
    with_unet = {n: c for n, c in models.items() if has_denoiser(c)}
    found = check_predictions(list(with_unet.values()), list(with_unet), mix=True).notes
    mixed = [note for note in found if note.code == MIXED]
    if mixed and not recipe.output.mix_predictions:
        yield replace(
            mixed[0],
            severity="error",
            why="Half-way between a model that predicts noise and one that predicts v is neither",
            remedy="Leave one kind out, or set output.mix_predictions if you mean it",
        )
        return
    for note in found:
        differ = note.severity == "warning"
        yield replace(
            note,
            subject=tuple(with_unet),
            why="A merge of different kinds predicts neither" if differ else "Without a mark nobody can check it",
            remedy="Leave one kind out" if differ else "Make sure that all predict the same",
        )


def _inpainting(recipe: Recipe, models: Mapping[str, Checkpoint]) -> Iterator[Notice]:
    """A UNET with more input channels than the first input of its step: the merge would refuse it, or lose its mask."""
    firsts = {n: c.tensors.get(c.family.first_key) for n, c in models.items()}
    channels = {n: info.shape[1] for n, info in firsts.items() if info is not None and len(info.shape) > 1}
    for name, step in recipe.steps.items():
        first = next((channels[m] for m in recipe.models_of(name) if m in channels), None)
        for source in step.inputs[1:] if step.inputs[0] not in recipe.steps else ():
            if first is not None and source in channels and channels[source] > first:
                yield Notice(
                    "inpainting.not_first",
                    f"{source} takes {channels[source]} input channels (an inpainting or edit model) and is not the first input",
                    (source,),
                    severity="error",
                    why=f"The result has the {first} channels of the first input, and the mask channels have nowhere to go",
                    remedy=f"Make {source} the first input: a + (b - base) with a = {source} keeps them",
                    step=name,
                )


def _twice(models: Mapping[str, Checkpoint]) -> Iterator[Notice]:
    for (one, a), (other, b) in combinations(models.items(), 2):
        how = _same_file(a, b)
        if how:
            yield Notice(
                "twice.file",
                f"{one} and {other} are one model under two names: {how}",
                (one, other),
                severity="warning",
                why="Its shares add up, and a difference of the two is 0",
                remedy="Use one name, or name the file that was meant",
            )


def _same_file(a: Checkpoint, b: Checkpoint) -> str:
    """How one knows that two files hold the same model; empty when one does not."""
    try:
        if os.path.samefile(a.path, b.path):
            return "the same file"
        if not (a.path.is_file() and b.path.is_file()):
            return ""
        if (digest := known_sha256(a.path)) and digest == known_sha256(b.path):
            return f"their SHA-256 is the same ({digest[:10]}...)"
        scans = [kept_scan(identity(c.path)) for c in (a, b)]
    except OSError:
        return ""
    if all(scans) and scans[0]["fingerprints"] and scans[0]["fingerprints"] == scans[1]["fingerprints"]:
        return "all their fingerprints are the same"
    return ""


def _ema(recipe: Recipe, models: Mapping[str, Checkpoint]) -> Iterator[Notice]:
    wanted = {leaf for n, s in recipe.steps.items() if "ema" in s.kind.supplied for leaf in recipe.leaves(n)}
    for name, checkpoint in models.items():
        size = sum(t.nbytes for t in checkpoint.tensors.values() if t.component == "ema")
        # A few bytes are its counters.
        if size > 1000 and name not in wanted and not checkpoint.architecture.ema_only:
            yield Notice(
                "ema.not_read",
                f"{name} has a second UNET of EMA weights ({file_size(size)}) that the merge does not read",
                (name,),
                severity="note",
                why="Some authors mean the EMA weights to be used",
                remedy="Apply exchange_ema to it first if you want those",
            )


def _dtypes(recipe: Recipe, models: Mapping[str, Checkpoint]) -> Iterator[Notice]:
    if recipe.output.dtype == "keep":
        return
    written = dtype_named(recipe.output.dtype)
    digits = _digits(written)
    found = {name: _main_dtype(checkpoint) for name, checkpoint in models.items()}
    wider = {name: dtype.name for name, dtype in found.items() if dtype and _digits(dtype) > digits}
    few = digits < _FEW_DIGITS
    if wider:
        said = ", ".join(f"{name} {dtype}" for name, dtype in wider.items())
        yield Notice(
            "dtype.fewer_digits",
            f"the output is {recipe.output.dtype} ({digits} binary digits), its inputs have more: {said}",
            tuple(wider),
            severity="warning" if few else "note",
            why="Few digits are left for later merges and fine-tuning" if few else "Digits are rounded away",
            remedy="Write fp16 or wider and convert a copy" if few else "Write fp32 if more merges follow",
        )


def _digits(dtype: DType) -> int:
    """Binary digits behind the point that arithmetic in a dtype has."""
    return round(-np.log2(float(spacing(np.ones(1, np.float32), dtype)[0])))


def _main_dtype(checkpoint: Checkpoint) -> DType | None:
    """The dtype that most of a model's floats are stored in."""
    sizes: dict[DType, int] = {}
    for info in checkpoint.tensors.values():
        if info.dtype.is_float and info.component != "ema":
            sizes[info.dtype] = sizes.get(info.dtype, 0) + info.elements
    return max(sizes, key=sizes.get) if sizes else None
