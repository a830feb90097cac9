"""Every combination of some UNETs with some text encoders: how people choose what goes into a merge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints.errors import OutputError
from ..checkpoints.formats import written_suffixes
from ..checkpoints.stream import Progress
from .recipe import Recipe
from .report import Report
from .run import dry_run, merge


@dataclass(frozen=True)
class Combination:
    """One file of a grid: the UNET (and the VAE with it) of one checkpoint, the text encoders of another."""

    unet: Path
    text_encoder: Path
    target: Path
    recipe: Recipe


def combinations(
    unets: Sequence[Path], text_encoders: Sequence[Path], folder: Path, *, vae: str | None = None, dtype: str = "fp16"
) -> list[Combination]:
    """All of them, named `<unet>+<text encoder>.safetensors`.

    Raises:
        OutputError: two combinations would have the same name.
    """
    found: dict[Path, Combination] = {}
    for unet in unets:
        for text in text_encoders:
            target = Path(folder) / f"{unet.stem}+{text.stem}{written_suffixes()[0]}"
            if target in found:
                raise OutputError(f"{target}: two combinations would have this name; rename one of the inputs")
            data = {
                "models": {"unet": str(unet), "text": str(text)},
                "steps": {"grid": {"method": "copy", "inputs": ["unet"]}},
                "components": {"text_encoders": "text", **({"vae": vae} if vae else {})},
                "output": {"dtype": dtype},
                "title": target.stem,
            }
            found[target] = Combination(unet, text, target, Recipe.parse(data))
    return list(found.values())


def check(combination: Combination, *, threads: int | None = None, overwrite: bool = False) -> Report:
    """What writing a combination would do; the folder may be missing still."""
    folder = combination.target.parent
    target = combination.target if folder.exists() else folder.with_name(combination.target.name)
    return dry_run(combination.recipe, target, threads=threads, overwrite=overwrite)


def write(
    combination: Combination, *, threads: int | None = None, overwrite: bool = False, progress: Progress | None = None
) -> Report:
    """Write a combination; its folder is made when it is missing."""
    combination.target.parent.mkdir(parents=True, exist_ok=True)
    return merge(combination.recipe, combination.target, threads=threads, overwrite=overwrite, progress=progress)
