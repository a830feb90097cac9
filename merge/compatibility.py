"""Whether checkpoints can be merged at all: architecture, prediction type, shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..checkpoints import Checkpoint
from ..checkpoints.checkpoint import TensorInfo
from ..checkpoints.errors import RecipeError
from ..checkpoints.families import FAMILIES, Family
from ..checkpoints.families.parts.schedule import CONTINUOUS
from ..checkpoints.notices import Notice

# They predict differently.
MIXED = "prediction.mixed"
# A marker's value is a number, or one for each latent channel.
_MARKER_BYTES = 1024


def denoiser(checkpoints: Iterable[Checkpoint]) -> str:
    """What the denoiser is called as a component in the first of these that has one; else in the first that there is."""
    families = [checkpoint.family for checkpoint in checkpoints if checkpoint.architecture.what != "lora"]
    return next(
        (family.core for family in families if family.id in FAMILIES), families[0].core if families else "model"
    )


def check_architectures(checkpoints: Sequence[Checkpoint], names: Sequence[str]) -> Family:
    """The family that all of them share; where none of them says, as lone VAEs do not, that by which they are read.

    Raises:
        RecipeError: one of them is not a checkpoint (a LoRA, a ControlNet...), or they are of different architectures.
    """
    family, said_by = None, None
    for checkpoint, name in zip(checkpoints, names, strict=True):
        found = checkpoint.architecture
        if found.what not in ("checkpoint", "component"):
            lora = found.what == "lora"
            advice = "bake it into one (`lora bake`, or `loras:` in a recipe)" if lora else "leave it out"
            raise RecipeError(
                f"{name} ({checkpoint.path}): expected a checkpoint, found {found.name}; it cannot be merged as a model: {advice}"
            )
        if found.family is None:
            continue
        if family is not None and found.family != family:
            other = checkpoints[names.index(said_by)].architecture
            raise RecipeError(
                f"{name} ({checkpoint.path}) is {found.name}, but {said_by} is {other.name}: "
                "models of different architectures cannot be merged; leave one of them out",
                code="models.architectures",
            )
        if family is None:
            family, said_by = found.family, name
    # A VAE or a CLIP-L alone belongs to several families alike.
    return checkpoints[0].family if family is None else checkpoints[names.index(said_by)].family


@dataclass(frozen=True)
class Predictions:
    """What a merged denoiser predicts.

    Attributes:
        kind: `epsilon`, `v`..., None where nothing says.
        marked_by: the index of the model whose marker keys are the result's, None where none has any.
        notes: what to warn of.
    """

    kind: str | None
    marked_by: int | None
    notes: tuple[Notice, ...] = ()


def check_predictions(checkpoints: Sequence[Checkpoint], names: Sequence[str], mix: bool) -> Predictions:
    """What the result predicts, and what to warn of, from the models that its UNET is made of.

    That is what the first of them says; an SD2 file that says nothing follows the others when they agree. Its marker keys are those
    of the first model that has some and predicts the same: of an input that says so by other means no file would tell it any more.

    SD1 and SDXL files without a mark predict epsilon; an SD2 file without one may be either.

    Raises:
        RecipeError: they predict differently and `mix` is not set.
    """
    named = {i: names[i] for i, checkpoint in enumerate(checkpoints) if has_denoiser(checkpoint)}
    if not named:
        return Predictions(None, None)
    kinds, noises, silent = {}, {}, []
    for i, name in named.items():
        kind = checkpoints[i].prediction or checkpoints[i].family.predicts
        if kind is None:
            silent.append(name)
            continue
        kinds.setdefault(kind, []).append(name)
        noises.setdefault(checkpoints[i].noise or "discrete steps", []).append(name)
    if len(kinds) > 1 and not mix:
        raise RecipeError(
            f"the models predict differently ({_by_kind(kinds)}): their merge would predict neither; leave one kind out, or set "
            "output.mix_predictions (--mix-predictions) if you mean it",
            code="models.predictions",
        )
    owner = checkpoints[min(named)]
    kind = owner.prediction
    if kind is None and owner.family.predicts is None and len(kinds) == 1:
        kind = next(iter(kinds))
    marked_by = _marked_by(checkpoints, list(named), kind)
    notes = []
    if len(kinds) > 1:
        text = f"the models predict differently ({_by_kind(kinds)})"
        notes.append(Notice(MIXED, text, tuple(named.values()), "warning"))
    if len(noises) > 1:
        of = f"; the result is marked as {named[marked_by]} is" if marked_by is not None else ""
        text = (
            f"the models were trained on different noise schedules ({_by_kind(noises)}): their merge fits neither{of}"
        )
        notes.append(Notice("prediction.noise", text, tuple(named.values()), "warning"))
    if owner.noise and marked_by is None:
        text = f"{named[min(named)]} was trained on {owner.noise}, which no key says: the result has no mark of it"
        notes.append(Notice("prediction.no_mark", text, (named[min(named)],)))
    if silent and kinds:
        text = f"nothing says what {', '.join(silent)} predicts; the others: {_by_kind(kinds)}"
        notes.append(Notice("prediction.unknown", text, tuple(silent)))
    return Predictions(kind, marked_by, (*notes, *_levels(checkpoints, named, marked_by)))


def _marked_by(checkpoints: Sequence[Checkpoint], named: Sequence[int], kind: str | None) -> int | None:
    """The model whose marker keys say what the result predicts.

    The first where it has any, else one that predicts the same of the same noise, or at least of noise in steps.
    """
    first = checkpoints[named[0]]
    marked = [i for i in named if _markers(checkpoints[i])]
    if named[0] in marked or kind is None:
        return named[0] if named[0] in marked else None
    alike = [i for i in marked if checkpoints[i].prediction == kind]
    same = [i for i in alike if checkpoints[i].noise == first.noise]
    return next(iter([*same, *(i for i in alike if checkpoints[i].noise != CONTINUOUS)]), None)


def _by_kind(kinds: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{', '.join(models)}: {kind}" for kind, models in kinds.items())


def _markers(checkpoint: Checkpoint) -> dict[str, TensorInfo]:
    return {key: checkpoint[key] for key in checkpoint.keys_by_component.get("marker", ())}


def _levels(checkpoints: Sequence[Checkpoint], named: Mapping[int, str], marked_by: int | None) -> Iterator[Notice]:
    """Markers whose values differ, as the largest noise level of EDM models may."""
    if marked_by is None:
        return
    for key, info in _markers(checkpoints[marked_by]).items():
        if not info.elements or info.nbytes > _MARKER_BYTES:
            continue
        mine = checkpoints[marked_by].numpy(key)
        for i, name in named.items():
            if key in checkpoints[i] and not np.array_equal(checkpoints[i].numpy(key), mine):
                text = f"{key} of {name} is not that of {named[marked_by]}, which the result has"
                yield Notice("prediction.levels", text, (name, named[marked_by], key), "warning")


def has_denoiser(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint holds its family's denoiser, not text encoders or a VAE alone."""
    return checkpoint.family.core in checkpoint.components


def tensor_in(checkpoint: Checkpoint, family: Family, key: str) -> TensorInfo | None:
    """A checkpoint's tensor of a family's key, wherever its own family keeps it; None where it has none."""
    tensors = checkpoint.tensors
    if key in tensors:
        return tensors[key]
    prefixes = family.prefixes_of(family.block_of(key).component)
    rest = next((key.removeprefix(p) for p in prefixes if key.startswith(p)), None)
    return next((tensors[p + rest] for p in prefixes if rest is not None and p + rest in tensors), None)


def renaming(family: Family, component: str) -> Callable[[str], str]:
    """A component's key, as another family has it, to the one that this family has for it: SD1's CLIP_L serves in SDXL."""
    held = family.component(component)
    prefixes = family.prefixes_of(component) if held else ()

    def renamed(key: str) -> str:
        prefix = next((p for p in prefixes if key.startswith(p)), None)
        return key if prefix is None else held.prefix + key.removeprefix(prefix)

    return renamed
