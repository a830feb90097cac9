"""The models of a recipe, opened: headers only, each file once, with a number by which plans speak of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from ..checkpoints import Checkpoint
from ..checkpoints.errors import RecipeError
from ..checkpoints.families import is_text
from ..checkpoints.files.targets import resolved
from ..checkpoints.notices import Notice
from ..checkpoints.recognition.averaged import averaged_keys, averaged_name, lacking
from ..checkpoints.text import counted, free_name
from .compatibility import check_architectures
from .recipe import Recipe

# A model that the result does not use.
UNUSED = "plan.unused"


class Models:
    """The models, LoRAs and component files that the result of a recipe is made from, opened.

    Args:
        recipe: names them.
        opened: opens a model.

    Attributes:
        checkpoints, names: by index, and the name of each in the recipe.
        index: model, LoRA or component file -> its index; names of one file share one.
        warnings: what a user should know.

    Raises:
        CheckpointError: one cannot be read.
        RecipeError: a LoRA counts from what is not a model.
    """

    def __init__(self, recipe: Recipe, opened: Callable[[Path], Checkpoint]):
        self._recipe, self._opened = recipe, opened
        self.checkpoints: list[Checkpoint] = []
        self.names: list[str] = []
        self.index: dict[str, int] = {}
        self._averages: dict[int, int] = {}
        used = set(recipe.leaves(recipe.result))
        for source in recipe.components.values():
            if source in recipe.models or source in recipe.steps:
                used.update(recipe.leaves(source))
        named = [*recipe.models, *recipe.loras]
        self.warnings = [
            Notice(UNUSED, f"model {name!r} is not used by the result", (name,)) for name in named if name not in used
        ]
        self._open_models(used)
        for name in recipe.loras:
            if name in used:
                self._open_lora(name)
        held = (held for checkpoint in self.checkpoints for held in checkpoint.family.components)
        self._texts = {each.id for each in held if each.part.text}
        for checkpoint, name in zip(self.checkpoints, self.names, strict=True):
            self.warnings += [note.of(name) for note in checkpoint.notes]

    def _open_models(self, used: set[str]) -> None:
        recipe = self._recipe
        files = {v: v for v in recipe.components.values() if recipe.is_file(v)}
        averaged = {leaf for n, s in recipe.steps.items() if "ema" in s.kind.supplied for leaf in recipe.leaves(n)}
        by_path: dict[Path, int] = {}
        for name, path in {**{n: p for n, p in recipe.models.items() if n in used}, **files}.items():
            real = resolved(path)
            if real not in by_path:
                by_path[real] = self._add(self._opened(Path(path)), Path(name).name if name in files else name)
            self.index[name] = by_path[real]
            if name in averaged and self.checkpoints[by_path[real]].architecture.ema_only:
                self.take_average(by_path[real])

    def _open_lora(self, name: str) -> None:
        """A LoRA as a model of differences; the model that it counts from is the first one unless it names another."""
        from ..checkpoints.lora import lora_checkpoint

        lora, counted_from = self._recipe.loras[name], None
        base = lora.base or next(iter(self._recipe.models_of(self._recipe.result)), None)
        if base is not None:
            if base not in self.index:  # used by no step: opened for the LoRA's sake
                self.index[base] = self._add(self._opened(Path(self._recipe.models[base])), base)
            counted_from = self.checkpoints[self.index[base]]
            check_architectures([counted_from], [base])  # a LoRA counts from a model
        self.index[name] = self._add(lora_checkpoint(Path(lora.path), counted_from, adapter=lora.adapter), name)

    def _add(self, checkpoint: Checkpoint, name: str) -> int:
        """Its index. Files of components have no names of their own and may be called alike: then they get a number."""
        self.checkpoints.append(checkpoint)
        self.names.append(free_name(name, self.names.__contains__, "{} ({})"))
        return len(self.names) - 1

    # -- what they are --------------------------------------------------------------------------------------------------

    def below(self, source: str) -> list[int]:
        """The indices of the models below a step, model or file, the first model first."""
        if source in self.index:
            return [self.index[source]]
        return list(dict.fromkeys(self.index[name] for name in self._recipe.models_of(source)))

    def chosen(self, indices: Iterable[int]) -> tuple[list[Checkpoint], list[str]]:
        """The models of these indices, and their names."""
        indices = list(indices)
        return [self.checkpoints[i] for i in indices], [self.names[i] for i in indices]

    def is_lora(self, index: int) -> bool:
        """Whether it is a LoRA, whose tensors are differences."""
        return self.checkpoints[index].architecture.what == "lora"

    def is_vae(self, indices: Iterable[int]) -> bool:
        """Whether all of them are a VAE and nothing else."""
        return all(self.checkpoints[i].components == {"vae"} for i in indices)

    def is_text(self, component: str) -> bool:
        """Whether a component is a text encoder, of a known family or next to one of these models."""
        return is_text(component) or component in self._texts

    # -- moving averages (EMA) ------------------------------------------------------------------------------------------

    def average(self, index: int) -> int:
        """The index of a model's EMA copy, which is a model like others: its UNET is the moving average.

        Raises:
            RecipeError: the model has no such copy, or one that lacks tensors.
        """
        if index not in self._averages:
            name = self.names[index]
            self._averages[index] = self._add(with_average(self.checkpoints[index], name), f"{name} (EMA)")
        return self._averages[index]

    def with_copies(self, index: int) -> set[int]:
        """The indices under which a model's weights may be read: its own, and that of its EMA copy where one is used."""
        return {index, self._averages.get(index, index)}

    def take_average(self, index: int) -> None:
        """Make the average of a model that has no other UNET its UNET.

        Raises:
            RecipeError: the average lacks tensors.
        """
        name = self.names[index]
        self.checkpoints[index] = with_average(self.checkpoints[index], name)
        self._averages[index] = index
        text = f"{name} has its UNET as EMA weights only: they are its UNET"
        self.warnings.append(Notice("plan.ema_only", text, (name,)))


def with_average(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """A checkpoint, its UNET's tensors those of the EMA copy (`model_ema.*`); where there is no other UNET, as one.

    Raises:
        RecipeError: it holds no EMA copy, or one that lacks tensors; `name` is the model's in the recipe.
    """
    if checkpoint.architecture.ema_only:
        return _from_average(checkpoint, name)
    tensors, lost = dict(checkpoint.tensors), []
    for key, info in checkpoint.tensors.items():
        if not info.place.core:
            continue
        found = checkpoint.tensors.get(averaged_name(key))
        if found is None or found.shape != info.shape:
            lost.append(key)
        else:
            tensors[key] = replace(info, stored=found.stored)
    if lost:
        none = len(lost) == sum(t.place.core for t in checkpoint.tensors.values())
        what = "no EMA weights" if none else _lacks(lost)
        raise RecipeError(f"{name} ({checkpoint.path}): holds {what}; leave exchange_ema out for this file")
    return replace(checkpoint, tensors=tensors)


def _from_average(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """A checkpoint whose UNET is there as EMA weights only, with them as its UNET."""
    family, architecture = checkpoint.family, checkpoint.architecture
    if lost := lacking(family, checkpoint.tensors):
        raise RecipeError(f"{name} ({checkpoint.path}): holds {_lacks(lost)}, and no other UNET; take another file")
    keys = averaged_keys(family)
    tensors = {}
    for key, info in checkpoint.tensors.items():
        if key in keys:
            tensors[keys[key]] = replace(info, key=keys[key])
        elif info.component != "ema":
            tensors[key] = info
    parts = (family.core, *(part for part in architecture.parts if part != "ema"))
    whole = replace(architecture, ema_only=False, parts=parts)
    return replace(checkpoint, tensors=tensors, architecture=whole)


def _lacks(keys: list[str]) -> str:
    return f"EMA weights that lack {counted(len(keys), 'tensor')} ({keys[0]}, ...)"
