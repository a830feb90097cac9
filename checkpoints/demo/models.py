"""Demo checkpoints: complete, valid files of random weights, for trying things out and for tests."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..checkpoint import Checkpoint
from ..dtypes import DTYPES, DType, dtype_named
from ..errors import CheckpointError
from ..families import FAMILIES, Family, family_of
from ..files.output import replace_file
from ..files.targets import refuse_inputs
from ..formats import FORMATS, written_as, written_suffixes
from ..kernels import kernel
from ..opening import open_checkpoint
from ..stream import Pass, Progress
from ..tensors import Shape
from ..transfer import Fill, Outgoing, write_tensors
from .weights import PIECE, change, change_size, constant, start_values

# Keys that say how a model predicts, as community files carry them; plain noise prediction has none.
_MARKERS: dict[str | None, tuple[str, ...]] = {
    None: (),
    "epsilon": (),
    "v": ("v_pred",),
    "edm": ("edm_mean", "edm_std"),
}
# Elements from which the size of a tensor's weights is estimated.
_SAMPLE = 1 << 16


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor to write, and where its numbers come from: elements `start` to `stop` as float32."""

    key: str
    dtype: DType
    shape: Shape
    values: Callable[[int, int], np.ndarray]


def write_demo(
    path: Path,
    family: str | Family,
    *,
    seed: int = 0,
    finetune_of: Path | None = None,
    theme: int = 0,
    full_size: bool = False,
    dtype: str = "fp16",
    in_channels: int | None = None,
    prediction: str | None = None,
    title: str = "",
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Path:
    """Write a complete .safetensors checkpoint of random weights; the same arguments give the same bytes.

    Args:
        path: the file to write.
        family: one with a published layout: its record, or its id (`sd1`).
        seed: which random weights, or which fine-tune.
        finetune_of: perturb this checkpoint instead of starting afresh: some blocks more than others, the text encoders
            less, the VAE not at all. Keys and shapes are the base's, so `full_size` and `in_channels` follow from it.
        theme: fine-tunes of the same theme share the low-rank part of their changes, as models trained on similar
            pictures do.
        full_size: the true shapes (GBs) instead of narrow ones (MBs).
        dtype: of the weights: `fp16`, `bf16`, `fp32`, `fp8_e4m3`...
        in_channels: of the first layer, where variants differ in them: 9 makes an inpainting model of a UNET.
        prediction: `epsilon`, `v` or `edm`: noted in the metadata and by the marker keys that the field uses.
        title: for the metadata; by default family and seed.

    Raises:
        CheckpointError: the base is of another family, or an argument is none of the above.
        OutputError: the file cannot be written, or is the base or is inside it.
    """
    written_as(path)  # else refused
    refuse_inputs(path, [finetune_of] if finetune_of is not None else [])
    weights = dtype_named(dtype)
    if not weights.is_float:
        raise CheckpointError(f"demo weights cannot be stored as {weights}; use fp32, fp16, bf16 or fp8_e4m3")
    if prediction not in _MARKERS:
        raise CheckpointError(f"there is no prediction type {prediction!r}; use epsilon, v or edm")
    family = family_of(family)
    metadata = _metadata(family, seed, finetune_of, prediction, title)
    if finetune_of is None:
        tensors = _fresh(family, seed, full_size, weights, in_channels, _MARKERS[prediction])
        _write(path, tensors, metadata, overwrite, Pass(threads, progress, cancel))
        return Path(path)
    base = _open_base(Path(finetune_of), family)
    try:
        tensors = _finetuned(base, seed, theme, weights)
        _write(path, tensors, metadata, overwrite, Pass(threads, progress, cancel))
    finally:
        base.close()
    return Path(path)


def _metadata(family: Family, seed: int, base: Path | None, prediction: str | None, title: str) -> dict[str, str]:
    kind = f"fine-tune {seed} of {Path(base).name}" if base else f"base {seed}"
    metadata = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": family.modelspec_architecture(
            prediction or ("v" if family.predicts is None else None)
        ),
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": title or f"Demo {family.title}, {kind}",
        "modelspec.description": "Random weights in the layout of a real checkpoint. Makes no pictures.",
    }
    return metadata | ({"modelspec.prediction_type": prediction} if prediction else {})


def _fresh(
    family: Family, seed: int, full_size: bool, weights: DType, in_channels: int | None, markers: tuple[str, ...]
) -> list[_Tensor]:
    """The tensors of a new model."""
    least = min(family.variants, default=1)
    if in_channels is not None and in_channels < least:
        raise CheckpointError(f"a {family.core_title} has at least {least} input channels, not {in_channels}")
    specs = family.layout("real" if full_size else "narrow", in_channels)
    tensors = []
    for key, spec in specs.items():
        fixed = constant(key)
        if fixed is not None:
            tensors.append(_fixed(key, fixed))
            continue

        def values(start: int, stop: int, key: str = key, shape: Shape = spec.shape) -> np.ndarray:
            return start_values(family, key, shape, seed, start, stop)

        tensors.append(_Tensor(key, weights, spec.shape, values))
    return tensors + [_fixed(key, constant(key)) for key in markers]


def _fixed(key: str, array: np.ndarray) -> _Tensor:
    dtype = {"f": DTYPES["F32"], "i": DTYPES[f"I{array.itemsize * 8}"]}[array.dtype.kind]
    flat = array.reshape(-1)
    return _Tensor(key, dtype, array.shape, lambda start, stop: flat[start:stop])


def _open_base(path: Path, family: Family) -> Checkpoint:
    """Open the model to fine-tune and check that it is of the family that was asked for."""
    base = open_checkpoint(path)
    if base.architecture.family != family.id or base.architecture.what != "checkpoint":
        raise CheckpointError(f"{path}: is {base.architecture.name}; a fine-tune of it cannot be {family.title}")
    return base


def _finetuned(base: Checkpoint, seed: int, theme: int, weights: DType) -> list[_Tensor]:
    """The tensors of a fine-tune of a model."""
    return [_perturbed(base, key, seed, theme, weights) for key in base.tensors]


def _perturbed(base: Checkpoint, key: str, seed: int, theme: int, weights: DType) -> _Tensor:
    info = base[key]

    def original(start: int, stop: int) -> np.ndarray:
        raw = np.empty((stop - start) * info.dtype.size, np.uint8)
        base.read_raw(info, start, stop, raw)
        if not info.dtype.is_float:
            return raw.view(info.dtype.bits)
        values = np.empty(stop - start, np.float32)
        kernel().decode(raw, info.dtype, values)
        return values

    size = change_size(base.family, key, seed)
    if not info.dtype.is_float or constant(key) is not None:
        return _Tensor(key, info.dtype, info.shape, original)
    if not size or not info.elements:
        return _Tensor(key, weights, info.shape, original)
    first = original(0, min(_SAMPLE, info.elements)).astype(np.float64)
    scale = np.float32(size * np.sqrt(np.mean(first * first)))

    def perturbed(start: int, stop: int) -> np.ndarray:
        return original(start, stop) + change(key, info.shape, seed, theme, start, stop) * scale

    return _Tensor(key, weights, info.shape, perturbed)


def _write(path: Path, tensors: list[_Tensor], metadata: dict[str, str], overwrite: bool, run: Pass) -> None:
    """Write the tensors, in the pieces that the random streams are keyed by."""
    outgoing = [Outgoing(t.key, t.dtype, t.shape, _stored(t)) for t in tensors]
    write_tensors(Path(path), outgoing, metadata, run, overwrite=overwrite, piece=PIECE)


def _stored(tensor: _Tensor) -> Fill:
    """Numbers as the bytes of the tensor's dtype."""

    def fill(start: int, stop: int, out: np.ndarray) -> None:
        values = np.ascontiguousarray(tensor.values(start, stop))
        if tensor.dtype.is_float:
            kernel().encode(values, tensor.dtype, out)
        else:
            out[:] = values.view(np.uint8)

    return fill


def write_demo_ckpt(path: Path, family: str | Family, **options) -> Path:
    """Write a demo checkpoint as old trainers did: a pickle by `torch.save` with the weights nested under `state_dict`.

    Takes what `write_demo` takes. Holds the model in memory, so keep it narrow. Imports torch.
    """
    import torch
    from safetensors.torch import load_file

    path = Path(path)
    whole = path.with_name(f"{path.name}.{os.getpid()}{written_suffixes()[0]}")
    content = io.BytesIO()
    try:
        write_demo(whole, family, **options)
        # Loaded in one go: the file is removed below.
        state = {key: tensor.clone() for key, tensor in load_file(whole).items()}
        torch.save(
            {"epoch": 0, "global_step": 10_000, "pytorch-lightning_version": "1.4.2", "state_dict": state}, content
        )
        replace_file(path, content.getvalue())
    finally:
        whole.unlink(missing_ok=True)
    return path


def demo_collection(folder: Path, progress: Callable[[str], None] = lambda name: None) -> dict[str, Path]:
    """Write the files that the demo and the tutorials use; existing ones are replaced.

    Args:
        folder: made when it does not exist.
        progress: called with each file's name before it is written.

    Returns:
        name without suffix -> path, of the files that families name (`Family.demos`): `sd1-base`, its fine-tunes `sd1-ink`,
        `sd1-photo`, `sd1-anime` and `sd1-old` (a pickle in fp32), `sdxl-base` and its fine-tune `sdxl-photo`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[str, Path] = {}
    for family in FAMILIES.values():
        for demo in family.demos:
            name = demo.name + (FORMATS["ckpt"].suffixes[0] if demo.old else written_suffixes()[0])
            progress(name)
            write, options = (write_demo_ckpt, {"dtype": "fp32"}) if demo.old else (write_demo, {"overwrite": True})
            base = made[demo.finetune_of] if demo.finetune_of else None
            made[demo.name] = write(folder / name, family, seed=demo.seed, finetune_of=base, **options)
    return made
