"""A LoRA under the names of another trainer or program."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...checkpoints.dtypes import F32, DType
from ...checkpoints.errors import RecipeError
from ...checkpoints.families import family_of
from ...checkpoints.files.targets import check_target, refuse_inputs
from ...checkpoints.formats import written_as
from ...checkpoints.hashes import OWN_DIGESTS
from ...checkpoints.kernels import kernel
from ...checkpoints.lora import open_lora
from ...checkpoints.lora.formulas import LowRank
from ...checkpoints.lora.roles import split
from ...checkpoints.lora.values import values
from ...checkpoints.stream import Pass
from ...checkpoints.transfer import Fill, Outgoing, copied, write_tensors
from .changes import Change, changes_of
from .layers import WITHOUT_ALPHA, Style, style_named
from .report import LoraReport
from .writing import file_name


def convert_lora(
    lora: Path | str, output: Path | str, *, to: str, adapter: str | None = None, overwrite: bool = False
) -> LoraReport:
    """Write a LoRA under the names of another style. Values, dtypes and metadata stay as they are.

    Alphas are kept. Readers of the styles diffusers and peft know none: there a scale (alpha / rank) other than 1 becomes a
    part of the up factor, rounded to its dtype.

    Args:
        lora: the file; any that can be read, numbered names and pickles too.
        output: the .safetensors file to write.
        to: `kohya`, `single-file`, `diffusers` or `peft`.
        adapter: PEFT's name of the one that is meant, of a file that holds several.

    Raises:
        UnetscopeError: a file that cannot be read, kinds of LoRA that the style has no names for, an output that cannot be
            written.
    """
    began, output = time.perf_counter(), Path(output)
    with open_lora(lora, adapter=adapter) as opened:
        style = style_named(to, opened.family)
        written_as(output)  # else refused
        refuse_inputs(output, [opened.path])
        check_target(output, 0, overwrite)
        if style in WITHOUT_ALPHA:
            opened.check_effect()
        tensors = [t for change in changes_of(opened) for t in _renamed(change, style)]
        if twice := next((name for name, count in Counter(t.name for t in tensors).items() if count > 1), None):
            raise RecipeError(
                f"{opened.path}: two of its tensors would be called {twice}; it names one module in two ways"
            )
        metadata = {k: v for k, v in opened.metadata.items() if k not in OWN_DIGESTS}
        size = write_tensors(output, tensors, {"format": "pt", **metadata}, Pass(1), overwrite=overwrite)
        report = LoraReport(str(output), family_of(opened.family).id, style, [file_name(opened.path)], size=size)
        report.modules = len(opened.layers)
        ranks = [part.formula.rank for _, part in opened.layers.values() if part.formula.rank is not None]
        report.ranks = (min(ranks, default=0), max(ranks, default=0))
        report.parameters = sum(t.elements for t in tensors if not t.name.endswith(".alpha"))
        report.notes = opened.left_out()
        report.seconds = time.perf_counter() - began
        return report


def _renamed(change: Change, style: Style) -> Iterator[Outgoing]:
    """The tensors of one change under their new names."""
    formula, source = change.part.formula, change.lora.source
    if isinstance(formula, LowRank):
        yield from _factors(change, formula, style)
        return
    if style in WITHOUT_ALPHA or change.lora.style in WITHOUT_ALPHA:
        raise RecipeError(
            f"{change.lora.path}: {change.key} is changed by {formula.kind}, which only kohya and single-file style have the same "
            f"names for; bake it into a checkpoint or merge it into a LoRA instead"
        )
    for info in formula.tensors:
        # These endings are the same in both styles.
        ending = info.key.removeprefix(split(info.key).module)
        yield Outgoing(change.layer.name(style) + ending, info.dtype, info.shape, copied(source, info))


def _factors(change: Change, formula: LowRank, style: Style) -> Iterator[Outgoing]:
    source, scale, layer = change.lora.source, formula.scale.factor, change.layer
    if formula.mid is not None and style in WITHOUT_ALPHA:
        raise RecipeError(
            f"{change.lora.path}: {change.key} has a third factor (lora_mid), for which {style} style has no name; merge it alone "
            "into a new LoRA first, which folds it in"
        )
    down, up = layer.factor_names(style)
    yield Outgoing(down, formula.down.dtype, formula.down.shape, copied(source, formula.down))
    if formula.mid is not None:
        name = layer.name(style) + ".lora_mid.weight"
        yield Outgoing(name, formula.mid.dtype, formula.mid.shape, copied(source, formula.mid))
    if style in WITHOUT_ALPHA and scale != 1.0:
        scaled = values(source, formula.up) * scale
        yield Outgoing(up, formula.up.dtype, formula.up.shape, _stored(up, scaled, formula.up.dtype))
        return
    yield Outgoing(up, formula.up.dtype, formula.up.shape, copied(source, formula.up))
    if style not in WITHOUT_ALPHA:
        stored = formula.scale.stored
        name = layer.name(style) + ".alpha"
        if stored is not None:
            yield Outgoing(name, stored.dtype, stored.shape, copied(source, stored))
        else:
            yield Outgoing(name, F32, (), _stored(name, np.array(scale * formula.rank), F32))


def _stored(name: str, numbers: np.ndarray, dtype: DType) -> Fill:
    """Numbers rounded to a dtype."""
    raw = np.empty(numbers.size * dtype.size, np.uint8)
    if kernel().encode(numbers.reshape(-1).astype(np.float32), dtype, raw):
        raise RecipeError(f"{name}: times its scale it is too large for {dtype}; convert to kohya or single-file style")

    def fill(start: int, stop: int, out: np.ndarray) -> None:
        out[:] = raw[start * dtype.size : stop * dtype.size]

    return fill
