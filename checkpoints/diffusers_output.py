"""Plans a checkpoint as a diffusers folder: which tensor goes where under which name, and the configurations next to them.

Head counts and norm groups are in no tensor's shape, so configurations are written for the published widths (and the narrow
ones of demo checkpoints) only. Tokenizers are not part of a checkpoint; they are not written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .checkpoint import Checkpoint
from .dtypes import F32
from .errors import CheckpointError
from .families import FAMILIES, Family, Widths, is_buffer
from .families.diffusers import tokenizer_folder, write_pipeline_config
from .families.parts.schedule import CONTINUOUS, ZERO_SNR, is_marker
from .files.output import replace_file
from .notices import Notice
from .recognition import DiffusersTranslation, to_diffusers
from .recognition.architecture import Architecture
from .tensors import Shape, StoredTensor
from .text import some

_FILES = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
}
_SHOWN = 3


@dataclass(frozen=True)
class FolderPlan:
    """A diffusers folder to write.

    Attributes:
        files: path in the folder -> name in it -> tensor.
        unplaced: keys that the diffusers layout has no place for.
        notes: what the folder lacks or assumes, in sentences.
    """

    files: dict[str, dict[str, StoredTensor]]
    unplaced: tuple[str, ...]
    notes: tuple[Notice, ...]
    family: Family
    widths: Widths
    architecture: Architecture
    prediction: str
    zero_snr: bool

    def write_configs(self, folder: Path) -> None:
        """Write `config.json` of each component, the scheduler's configuration and `model_index.json`."""
        channels = _channels(self.family, self.architecture)
        write_pipeline_config(folder, self.family, widths=self.widths, in_channels=channels, prediction=self.prediction)
        here = {path.split("/")[0] for path in self.files}
        for extra in set(_FILES) - here:
            shutil.rmtree(folder / extra, ignore_errors=True)
        if self.zero_snr:
            _amend(
                folder / "scheduler/scheduler_config.json",
                {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
            )
        index = folder / "model_index.json"
        variant = self.architecture.variant
        if here != _components(self.family) or not _runs(self.family, variant):
            index.unlink()
        elif variant != "base":
            _amend(index, {"_class_name": self.family.pipeline.variants[variant]})


def plan_folder(checkpoint: Checkpoint, tensors: Mapping[str, StoredTensor]) -> FolderPlan:
    """Plan the folder for a checkpoint's tensors (keys in single-file naming).

    Raises:
        CheckpointError: the checkpoint is none of the families, lacks weights, or has widths that were never published.
    """
    architecture = checkpoint.architecture
    family = checkpoint.told_family
    if family is None or family.pipeline is None or architecture.what not in ("checkpoint", "component"):
        known = [f.title for f in FAMILIES.values() if f.pipeline]
        raise CheckpointError(
            f"{checkpoint.path}: is {architecture.name}; a diffusers folder can be made of a checkpoint or denoiser of "
            f"{', '.join(known[:-1])} or {known[-1]}"
        )
    if architecture.ema_only:
        raise CheckpointError(
            f"{checkpoint.path}: has its {family.core_title} as EMA weights only; put them in its place with `merge exchange-ema`, "
            "and convert what that writes"
        )
    if architecture.variant not in family.variants.values():
        raise CheckpointError(
            f"{checkpoint.path}: its {family.core_title} has an unusual number of input channels; no diffusers pipeline runs it"
        )
    if checkpoint.noise == CONTINUOUS or checkpoint.prediction not in (None, "epsilon", "v"):
        kind = "an EDM" if checkpoint.noise == CONTINUOUS else f"a {checkpoint.prediction}"
        raise CheckpointError(
            f"{checkpoint.path}: is {kind} model ({checkpoint.prediction_from}); diffusers' configuration of those is not written"
        )
    translation = to_diffusers(tensors, family)
    widths = _check(checkpoint, family, translation)
    files = {f"{component}/{_FILES[component]}": named for component, named in translation.components.items()}
    prediction, notes = _prediction(checkpoint, family)
    return FolderPlan(
        files=files,
        # The scheduler's configuration says what the markers do.
        unplaced=tuple(key for key in translation.unplaced if not is_marker(key)),
        notes=(*notes, *_lacking(family, architecture, set(translation.components))),
        family=family,
        widths=widths,
        architecture=architecture,
        prediction=prediction,
        zero_snr=checkpoint.noise == ZERO_SNR,
    )


def _check(checkpoint: Checkpoint, family: Family, translation: DiffusersTranslation) -> Widths:
    """The widths of a translated checkpoint, when every tensor that diffusers needs is there and fits."""
    channels = _channels(family, checkpoint.architecture)
    for component, named in translation.components.items():
        missing = sorted(_expected(family, "real", channels)[component].keys() - named.keys())
        if missing:
            raise CheckpointError(
                f"{checkpoint.path}: {component} lacks {len(missing):,} of the tensors that diffusers needs "
                f"({some(missing, _SHOWN)}); give a donor file that has them",
                code="diffusers.lacking",
            )
    wrong = ""
    for widths in ("real", "narrow"):
        wrong = _first_misfit(translation, _expected(family, widths, channels)) or ""
        if not wrong:
            return widths
    raise CheckpointError(
        f"{checkpoint.path}: {wrong} does not have the shape of a published {family.id} model; its head counts are unknown, "
        "so diffusers' configuration cannot be written"
    )


@cache
def _expected(family: Family, widths: Widths, channels: int) -> dict[str, dict[str, Shape]]:
    """Component -> name in diffusers -> shape, of what a complete folder holds."""
    stored = {
        key: StoredTensor.at(key, F32, spec.shape, Path(), 0)
        for key, spec in family.layout(widths, channels).items()
        if not is_buffer(key)
    }
    components = to_diffusers(stored, family).components
    return {component: {name: t.shape for name, t in named.items()} for component, named in components.items()}


def _first_misfit(translation: DiffusersTranslation, expected: Mapping[str, Mapping[str, Shape]]) -> str | None:
    for component, named in translation.components.items():
        for name, shape in expected[component].items():
            if named[name].shape != shape:
                return f"{component}'s {name} {list(named[name].shape)}"
    return None


@cache
def _components(family: Family) -> frozenset[str]:
    return frozenset(_expected(family, "real", 4))


def _prediction(checkpoint: Checkpoint, family: Family) -> tuple[str, list[Notice]]:
    """What the scheduler's configuration says, and a note when that is a guess."""
    if checkpoint.prediction:
        return checkpoint.prediction, []
    text = "nothing in the checkpoint says what it predicts; the scheduler's configuration says epsilon"
    if family.predicts is None:
        text += (
            f", but many {family.title} models (those for 768 pixels) predict v: check scheduler/scheduler_config.json"
        )
    return "epsilon", [Notice("diffusers.prediction_guessed", text)]


def _lacking(family: Family, architecture: Architecture, here: set[str]) -> list[Notice]:
    """What must be added before a pipeline runs."""
    absent = sorted(_components(family) - here)
    if absent:
        text = f"the folder has no {', no '.join(absent)}, so it has no model_index.json: load its parts one by one"
        return [Notice("diffusers.absent", text, tuple(absent))]
    if not _runs(family, architecture.variant):
        text = "a depth model needs a depth estimator as well, so model_index.json was not written"
        return [Notice("diffusers.depth_estimator", text)]
    folders = [tokenizer_folder(held.folder) for held in family.components if held.part.text]
    text = f"tokenizer files are not part of a checkpoint: copy {' and '.join(folders)} from any {family.id} folder"
    return [Notice("diffusers.tokenizers", text, tuple(folders))]


def _channels(family: Family, architecture: Architecture) -> int:
    """The input channels of a variant."""
    return next(n for n, variant in family.variants.items() if variant == architecture.variant)


def _runs(family: Family, variant: str) -> bool:
    """Whether a pipeline runs the variant by itself: one with depth needs a depth estimator next to it."""
    return variant == "base" or variant in family.pipeline.variants


def _amend(path: Path, change: dict) -> None:
    """Change entries of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8")) | change
    replace_file(path, json.dumps(content, indent=2) + "\n")
