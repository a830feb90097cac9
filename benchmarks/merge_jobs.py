"""The merges that are measured, their input files, and what each has to give."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from unetscope.checkpoints import open_checkpoint
from unetscope.checkpoints.demo import write_demo
from unetscope.checkpoints.families import family_of
from unetscope.checkpoints.families.conventions import CONVENTIONS
from unetscope.checkpoints.formats.safetensors_file import plan_header
from unetscope.merge import BlockWeights

_MERGED = ("unet", "clip_l", "clip_g", "vae")
_ALPHA = 0.3
_BLOCK = 1 << 24


@dataclass(frozen=True, eq=False)
class Job:
    """One merge: `alpha` is a number, or one for each of sd-mecha's block names; `shuffled` reorders the second file."""

    title: str
    family: str
    models: int
    method: str
    alpha: float | dict[str, float] = _ALPHA
    shuffled: bool = False

    def paths(self, folder: Path) -> list[Path]:
        names = [f"{self.family}-{n}" for n in range(self.models)]
        return [folder / f"{n}{'-shuffled' if self.shuffled and n == names[1] else ''}.safetensors" for n in names]

    def shares(self, folder: Path) -> dict[str, list[float]]:
        """For each fp16 weight the share of every input; other keys are the first file's."""
        with open_checkpoint(self.paths(folder)[0]) as checkpoint:
            keys = [k for k, t in checkpoint.tensors.items() if t.component in _MERGED and t.dtype.name == "F16"]
        return {key: self._shares(alpha) for key, alpha in self._alphas(keys).items()}

    def _alphas(self, keys: list[str]) -> dict[str, float]:
        if not isinstance(self.alpha, dict):
            return dict.fromkeys(keys, self.alpha)
        weights = BlockWeights.parse(list(self.alpha.values()), "sd-mecha").resolve(self.family)
        vae = weights.vae_by_convention
        return {
            key: vae if family_of(self.family).block_of(key).component == "vae" else weights.weight(key) for key in keys
        }

    def _shares(self, alpha: float) -> list[float]:
        if self.method == "uniform":
            return [1 / self.models] * self.models
        return [1.0, alpha, -alpha] if self.method == "add_difference" else [1 - alpha, alpha]

    def write_files(self, folder: Path) -> tuple[Path, Path]:
        """The job for the other mergers (JSON) and for Unetscope (a recipe)."""
        paths = [str(path) for path in self.paths(folder)]
        job, recipe = folder / "job.json", folder / "recipe.yaml"
        said = {"inputs": paths, "method": self.method, "alpha": self.alpha, "shares": self.shares(folder)}
        job.write_text(json.dumps(said), encoding="utf-8")
        models = {f"m{n}": path for n, path in enumerate(paths)}
        step: dict[str, Any] = {"method": self.method, "inputs": list(models)}
        if self.method != "uniform":
            step["alpha"] = list(self.alpha.values()) if isinstance(self.alpha, dict) else self.alpha
        plain = {"models": models, "steps": {"out": step}, "components": {"vae": "merge"}, "convention": "sd-mecha"}
        recipe.write_text(yaml.safe_dump(plain | {"output": {"dtype": "fp16"}}), encoding="utf-8")
        return job, recipe


_SLOTS = CONVENTIONS["sd-mecha"].slots("sd1", 26)
_BLOCKS = {slot: n / (len(_SLOTS) - 1) for n, slot in enumerate(_SLOTS)}

JOBS = [
    Job("SD1, weighted sum of 2", "sd1", 2, "weighted_sum"),
    Job("SD1, block-weighted sum of 2", "sd1", 2, "weighted_sum", _BLOCKS),
    Job("SD1, uniform of 4", "sd1", 4, "uniform"),
    Job("SD1, uniform of 8", "sd1", 8, "uniform"),
    Job("SD1, add difference", "sd1", 3, "add_difference"),
    Job("SDXL, weighted sum of 2, equal layouts", "sdxl", 2, "weighted_sum"),
    Job("SDXL, weighted sum of 2, different layouts", "sdxl", 2, "weighted_sum", shuffled=True),
]


def make_inputs(job: Job, folder: Path, full_size: bool) -> None:
    """Write a job's input files where they are not there yet."""
    for seed, path in enumerate(job.paths(folder)):
        plain = path.with_name(path.name.replace("-shuffled", ""))
        if not plain.exists():
            write_demo(plain, job.family, full_size=full_size, seed=seed, dtype="fp16")
        if not path.exists():
            _shuffle(plain, path)


def _shuffle(source: Path, target: Path) -> None:
    """The same tensors in another order."""
    with open_checkpoint(source) as checkpoint, open(target, "xb") as out:
        infos = list(checkpoint.tensors.values())
        random.Random(0).shuffle(infos)
        infos.sort(key=lambda info: -info.dtype.size)
        header, _, _ = plan_header([(i.stored.name, i.dtype, i.shape) for i in infos], {"format": "pt"})
        out.write(header)
        with open(source, "rb") as stored:
            for info in infos:
                (piece,) = info.stored.pieces
                stored.seek(piece.offset)
                for start in range(0, info.nbytes, _BLOCK):
                    out.write(stored.read(min(_BLOCK, info.nbytes - start)))
