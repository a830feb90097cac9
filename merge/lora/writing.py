"""Writes the .safetensors file of a LoRA: factors in a style of names, alphas, and what the file says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__
from ...checkpoints.dtypes import F32, DType
from ...checkpoints.errors import RecipeError
from ...checkpoints.families import Family, family_of
from ...checkpoints.files.targets import check_target, refuse_inputs
from ...checkpoints.formats import written_as
from ...checkpoints.stream import Pass
from ...checkpoints.text import readable
from ...checkpoints.transfer import write_tensors
from .layers import WITHOUT_ALPHA, Layer, Style
from .low_rank import Factors
from .report import LoraReport
from .spool import Spool

# Ends of the names of changes that are not a product of factors, by whether the module is a norm and it is a bias.
VECTOR_ENDS = {(True, False): ".w_norm", (True, True): ".b_norm", (False, True): ".diff_b"}
# What a header says of its own file's tensors, or of the ranks: no longer true of another file.
_STALE = (
    "sshs_",
    "modelspec.hash_sha256",
    "ss_network_dim",
    "ss_network_alpha",
    "ss_network_args",
    "ss_network_module",
)


def file_name(path: Path | str) -> str:
    """A file's base name as text."""
    return readable(Path(path).name)


def kept_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """What a LoRA says of itself that stays true of another file with its contents."""
    return {key: text for key, text in metadata.items() if not key.startswith(_STALE)}


class LoraWriter:
    """A LoRA file under construction. Use it as a context manager; without `finish()` nothing is left behind.

    Raises:
        OutputError: the target cannot be written, or is an input.
        RecipeError: weights cannot be stored in the dtype.
    """

    def __init__(
        self, target: Path, inputs: Sequence[Path], family: str | Family, style: Style, dtype: DType, *, overwrite: bool
    ):
        if not dtype.is_float:
            raise RecipeError(f"a LoRA cannot be stored as {dtype}; use fp32, fp16 or bf16")
        written_as(target)  # else refused
        refuse_inputs(target, inputs)
        check_target(target, 0, overwrite)
        self.family, self.style, self.dtype = family, style, dtype
        self._target, self._inputs, self._overwrite = target, list(inputs), overwrite
        self._spool = Spool(target)
        self._ranks: dict[str, tuple[int, bool]] = {}
        self._alphas: set[float] = set()

    def __enter__(self) -> LoraWriter:
        return self

    def __exit__(self, *exc) -> None:
        self._spool.__exit__(*exc)

    def add(self, layer: Layer, change: Factors, alpha: float | None = None) -> Factors:
        """Set a layer's factors aside; returns them as they will be read, the scale included. Safe for threads.

        Args:
            change: of the layer's matrix (outputs, inputs x height x width).
            alpha: what the file says; the factors are divided by alpha / rank. None: the rank, a scale of 1.
        """
        shape, rank = layer.shape, change.rank
        down_name, up_name = layer.factor_names(self.style)
        scale = np.float32(1.0)
        if self.style not in WITHOUT_ALPHA:
            alpha = float(rank) if alpha is None else alpha
            scale = np.float32(alpha / rank)
            self._spool.add(f"{layer.name(self.style)}.alpha", np.float32(alpha), F32)
            self._alphas.add(alpha)
        change = Factors(change.up / scale, change.down).balanced()
        down = self._spool.add(down_name, change.down.reshape(rank, *shape[1:]), self.dtype)
        ones = (1,) * (len(shape) - 2)
        up = self._spool.add(up_name, change.up.reshape(shape[0], rank, *ones), self.dtype)
        self._ranks[down_name] = (rank, layer.kernel > 1)
        return Factors(up.reshape(shape[0], rank) * scale, down.reshape(rank, -1))

    def add_vector(self, layer: Layer, bias: bool, values: np.ndarray) -> np.ndarray:
        """Set the change of a bias, or of a norm, aside as it is; returns it as it will be read.

        Raises:
            RecipeError: the style has no name for it.
        """
        if self.style in WITHOUT_ALPHA:
            raise RecipeError(
                f"{self._target}: {layer.name(self.style)} has a change of its {'bias' if bias else 'norm'}, for which LoRAs in "
                f"{self.style} style have no place; write kohya or single-file style"
            )
        end = VECTOR_ENDS[layer.is_norm, bias]
        return self._spool.add(layer.name(self.style) + end, values, self.dtype)

    def finish(self, report: LoraReport, origin: Mapping[str, Any], kept: Mapping[str, str] | None = None) -> None:
        """Write the file and note its size in the report.

        Args:
            origin: how the file came to be, for its metadata; base names of files only.
            kept: metadata of an input that stays true.
        """
        metadata = {"format": "pt", **(kept or {}), **self._metadata(origin)}
        # The spool is one file: reading it from several threads gains nothing.
        report.size = write_tensors(self._target, self._spool.tensors, metadata, Pass(1), overwrite=self._overwrite)
        report.parameters = sum(t.elements for t in self._spool.tensors if not t.name.endswith(".alpha"))

    def _metadata(self, origin: Mapping[str, Any]) -> dict[str, str]:
        family = family_of(self.family)
        plain = {rank for rank, large in self._ranks.values() if not large}
        large = {rank for rank, large in self._ranks.values() if large}
        dim, conv_dim = (str(ranks.copy().pop()) if len(ranks) == 1 else "Dynamic" for ranks in (plain or large, large))
        alpha = f"{self._alphas.copy().pop():g}" if len(self._alphas) == 1 else "Dynamic"
        out = {
            "ss_network_module": "networks.lora",
            "ss_network_dim": dim,
            "ss_network_alpha": dim if self.style in WITHOUT_ALPHA else alpha,
            "modelspec.title": file_name(self._target.with_suffix("")),
            "modelspec.date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"),
            "unetscope.lora": json.dumps(origin),
            "unetscope.version": __version__,
        }
        if large:
            out["ss_network_args"] = json.dumps({"conv_dim": conv_dim, "conv_alpha": conv_dim})
        if family.modelspec:
            out["modelspec.sai_model_spec"] = "1.0.0"
            out["modelspec.architecture"] = f"{family.modelspec_architecture()}/lora"
            out["modelspec.implementation"] = "https://github.com/Stability-AI/generative-models"
        if family.lora:
            out["ss_v2"] = str(family.lora.v2)
            out["ss_base_model_version"] = family.lora.base_version
        return out
