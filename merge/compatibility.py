"""Whether checkpoints can be merged at all: architecture, prediction type, shapes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..checkpoints import Checkpoint
from ..checkpoints.families import FAMILIES, Family
from ..checkpoints.families.parts.schedule import CONTINUOUS_MARKERS
from ..checkpoints.tensors import Shape
from .errors import MergeError


def denoiser(checkpoints: Iterable[Checkpoint]) -> str:
    """What the denoiser is called as a component in the first of these that has one; else in the first that there is."""
    families = [checkpoint.family for checkpoint in checkpoints if checkpoint.architecture.what != "lora"]
    return next(
        (family.core for family in families if family.id in FAMILIES), families[0].core if families else "model"
    )


def check_architectures(checkpoints: Sequence[Checkpoint], names: Sequence[str]) -> Family:
    """The family that all of them share; where none of them says, as lone VAEs do not, that by which they are read.

    Raises:
        MergeError: one of them is no checkpoint (a LoRA, a ControlNet...), or they are of different architectures.
    """
    family, said_by = None, None
    for checkpoint, name in zip(checkpoints, names, strict=True):
        found = checkpoint.architecture
        if found.what not in ("checkpoint", "component"):
            advice = "add it to a model with task_arithmetic or add" if found.what == "lora" else "leave it out"
            raise MergeError(
                f"{name} ({checkpoint.path}): expected a checkpoint, found {found.name}; it cannot be merged as a model: {advice}"
            )
        if found.family is None:
            continue
        if family is not None and found.family != family:
            other = checkpoints[names.index(said_by)].architecture
            raise MergeError(
                f"{name} ({checkpoint.path}) is {found.name}, but {said_by} is {other.name}: "
                "models of different architectures cannot be merged; leave one of them out"
            )
        if family is None:
            family, said_by = found.family, name
    # A VAE or a CLIP-L alone belongs to several families alike.
    return checkpoints[0].family if family is None else checkpoints[names.index(said_by)].family


def check_predictions(
    checkpoints: Sequence[Checkpoint], names: Sequence[str], mix: bool
) -> tuple[str | None, list[str]]:
    """What the result predicts, and what to warn of, from the models that its UNET is made of.

    That is what the first of them says; an SD2 file that says nothing follows the others when they agree.

    SD1 and SDXL files without a mark predict epsilon; an SD2 file without one may be either.

    Raises:
        MergeError: they predict differently and `mix` is not set.
    """
    kinds: dict[str, list[str]] = {}
    for checkpoint, name in zip(checkpoints, names, strict=True):
        if not has_denoiser(checkpoint):
            continue
        unmarked = checkpoint.family.predicts or "unmarked"
        kinds.setdefault(checkpoint.prediction or unmarked, []).append(name)
    unmarked = kinds.pop("unmarked", [])
    schedules = _schedules(checkpoints, names)
    told = "; ".join(f"{', '.join(models)}: {kind}" for kind, models in kinds.items())
    if len(kinds) > 1 and not mix:
        raise MergeError(
            f"the models predict differently ({told}): their merge would predict neither; leave one kind out, or set "
            "output.mix_predictions (--mix-predictions) if you mean it"
        )
    notes = [f"the models predict differently ({told})"] if len(kinds) > 1 else []
    if len(schedules) > 1 and len(kinds) == 1:
        said = "; ".join(f"{', '.join(models)}: {kind}" for kind, models in schedules.items())
        notes.append(f"the models were trained on different noise schedules ({said}): their merge fits neither")
    if unmarked and kinds:
        notes.append(f"nothing says what {', '.join(unmarked)} predicts; the others: {told}")
    first = next((c for c in checkpoints if has_denoiser(c)), None)
    if first is not None and first.prediction is None and first.family.predicts is None and len(kinds) == 1:
        return next(iter(kinds)), notes
    return first.prediction if first is not None else None, notes


def _schedules(checkpoints: Sequence[Checkpoint], names: Sequence[str]) -> dict[str, list[str]]:
    """Noise schedule, as marker keys tell it -> the models that are trained on it."""
    found: dict[str, list[str]] = {}
    for checkpoint, name in zip(checkpoints, names, strict=True):
        if has_denoiser(checkpoint):
            continuous = any(marker in checkpoint for marker in CONTINUOUS_MARKERS)
            found.setdefault("continuous noise levels (EDM)" if continuous else "discrete steps", []).append(name)
    return found


def has_denoiser(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint holds its family's denoiser, not text encoders or a VAE alone."""
    return checkpoint.family.core in checkpoint.components


def common_shape(key: str, first_layer: str, shapes: Sequence[tuple[str, Shape]]) -> tuple[Shape, bool]:
    """The shape of the result, and whether the first input is wider than others (see `TensorPlan.widened`).

    `first_layer` is the key whose input channels may differ: the only tensor in which an inpainting UNET differs in shape.

    Raises:
        MergeError: the shapes differ otherwise.
    """
    name, first = shapes[0]
    widened = False
    for other, shape in shapes[1:]:
        if shape == first:
            continue
        same_but_channels = len(shape) == len(first) == 4 and (shape[0], *shape[2:]) == (first[0], *first[2:])
        if key == first_layer and same_but_channels and shape[1] < first[1]:
            widened = True
        elif key == first_layer and same_but_channels:
            raise MergeError(
                f"{other} takes {shape[1]} input channels and {name} takes {first[1]}: make {other} the first model of the "
                "merge; its extra channels are kept"
            )
        else:
            raise MergeError(f"{key}: {name} has shape {list(first)}, {other} has {list(shape)}: they cannot be merged")
    return first, widened
