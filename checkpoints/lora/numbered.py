"""The numbered names of the first LoRA trainer (cloneofsimo/lora): `unet:N:up`, `text_encoder:N:down`.

N counts the layers that the trainer replaced, in the order in which PyTorch walks the modules of diffusers' model: in the
UNET the linear layers inside attention (16 x 8 in SD1 and SD2), later those of GEGLU modules too, in the text encoder those
inside CLIP's attention. PyTorch walks in the order in which a class makes its parts: the UNET's down blocks, up blocks, then the
middle block; in a block the transformers before the residual blocks; q, k, v, out in the UNET and k, v, q, out in CLIP. A `.pt`
of that trainer is a bare list, up and down in turn, of the UNET or of the text encoder. The extended training also replaces the
linear and convolution layers of the residual blocks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import CheckpointError
from ..families import Widths as PublishedWidths
from ..tensors import Shape
from .names import Target, module_shape, targets

NAME = re.compile(r"(?:(unet|text_encoder):)?(\d{1,6}):(up|down)")
_SIDES = ("down_blocks", "up_blocks", "mid_block")
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_ATTN1, _ATTN2 = (tuple(f"{attention}.{m}" for m in _ATTENTION) for attention in ("attn1", "attn2"))
# diffusers made the feed-forward before the cross-attention until 0.14, behind it since.
_GEGLU = "ff.net.0.proj"
_ORDERS = {
    "before 0.15": (*_ATTN1, _GEGLU, *_ATTN2),
    "since 0.15": (*_ATTN1, *_ATTN2, _GEGLU),
    "attention alone": (*_ATTN1, *_ATTN2),
}
_RESNET = ("conv1", "time_emb_proj", "conv2", "conv_shortcut")
_CLIP = tuple(f"self_attn.{m}_proj" for m in ("k", "v", "q", "out"))
_PLACE = re.compile(r"(down_blocks|up_blocks|mid_block)\.(?:(\d+)\.)?(attentions|resnets)\.(\d+)\.(.+)")
_INSIDE = re.compile(r"transformer_blocks\.(\d+)\.(.+)")
_LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)\.(.+)")

# (outputs, inputs) of a layer as the file has it.
Widths = tuple[int, int]


def unet_order(family: str, order: str, resnets: bool) -> list[Target]:
    """The UNET's replaced layers in the order of their numbers."""
    inside = _ORDERS[order]

    def position(target: Target) -> tuple | None:
        place = _PLACE.fullmatch(target.module)
        if place is None:
            return None
        side, block, kind, number, rest = place.groups()
        before = (_SIDES.index(side), int(block or 0), kind == "resnets", int(number))
        if kind == "resnets":
            return (*before, 0, _RESNET.index(rest)) if resnets and rest in _RESNET else None
        layer = _INSIDE.fullmatch(rest)
        return (*before, int(layer[1]), inside.index(layer[2])) if layer and layer[2] in inside else None

    return _sorted((t for t in targets(family) if t.core), position)


def text_order(family: str) -> list[Target]:
    """The text encoder's replaced layers in the order of their numbers."""

    def position(target: Target) -> tuple | None:
        layer = _LAYER.fullmatch(target.module)
        return (int(layer[1]), _CLIP.index(layer[2])) if layer and layer[2] in _CLIP else None

    return _sorted((t for t in targets(family) if t.component == "text_encoder"), position)


def _sorted(found: Iterable[Target], position: Callable[[Target], tuple | None]) -> list[Target]:
    placed = [(at, t) for t in found if (at := position(t)) is not None]
    return [target for _, target in sorted(placed, key=lambda pair: pair[0])]


def is_numbered(names: Sequence[str]) -> bool:
    """Whether a file has numbered names."""
    return any(NAME.fullmatch(name) for name in names)


def numbered_targets(path: Path, shapes: Mapping[str, Shape], families: Sequence[str]) -> tuple[str, dict[str, Target]]:
    """The family, and `unet:N` (`N` in a bare list) -> the module that it stands for.

    The numbers alone do not say which layers were counted: the factors' widths choose among the known countings, and among
    families with the same layers the one whose widths they are: SD1 and SD2 differ in what attn2 reads.

    Raises:
        CheckpointError: the count or the widths are those of no model.
    """
    layers = _layers(path, shapes)
    fitting: list[tuple[int, str, dict[str, Target]]] = []
    for family in families:
        found: dict[str, Target] = {}
        equal = 0
        for component, widths in layers.items():
            chosen = next((o for o in _candidates(family, component) if _fits(o, widths)), None)
            if chosen is None:
                break
            prefix = f"{component}:" if component else ""
            found |= {f"{prefix}{i}": chosen[i] for i in widths}
            equal += max(_equal(chosen, widths, family, published) for published in ("real", "narrow"))
        else:
            fitting.append((equal, family, found))
    if fitting:
        _, family, found = max(fitting, key=lambda one: one[0])
        return family, found
    counts = ", ".join(f"{len(widths)} of {component or 'one component'}" for component, widths in layers.items())
    raise CheckpointError(
        f"{path}: numbers its layers, but {counts} with these widths are the layers of no UNET or text encoder of "
        f"{', '.join(families)}; convert it with the trainer that wrote it"
    )


def _layers(path: Path, shapes: Mapping[str, Shape]) -> dict[str, dict[int, Widths]]:
    """Component (empty in a bare list) -> number -> outputs and inputs."""
    out: dict[str, dict[int, Widths]] = {}
    for name, shape in shapes.items():
        found = NAME.fullmatch(name)
        if not found or found[3] != "up":
            continue
        down = shapes.get(name.removesuffix("up") + "down")
        if down is None or len(shape) < 2 or len(down) < 2:
            raise CheckpointError(
                f"{path}: {name}: expected an up and a down matrix, found one alone; the file is incomplete"
            )
        out.setdefault(found[1] or "", {})[int(found[2])] = (shape[0], down[1])
    return out


def _candidates(family: str, component: str) -> list[list[Target]]:
    unet = [unet_order(family, order, resnets) for resnets in (False, True) for order in _ORDERS]
    text = [text_order(family)]
    return {"unet": unet, "text_encoder": text, "": [*text, *unet]}[component]


def _equal(order: list[Target], widths: Mapping[int, Widths], family: str, published: PublishedWidths) -> int:
    """How many layers are as wide as those of the family's models."""
    return sum(module_shape(target, family, published)[:2] == widths[number] for number, target in enumerate(order))


def _fits(order: list[Target], widths: Mapping[int, Widths]) -> bool:
    """Whether the numbers are exactly those of the order, and layers that are wider than others are so here.

    A model of any width has square attention outputs, a GEGLU eight times as wide as its inputs, and one text width.
    """
    if sorted(widths) != list(range(len(order))):
        return False
    contexts = set()
    for number, target in enumerate(order):
        outputs, inputs = widths[number]
        if target.module.endswith(_GEGLU):
            if outputs != 8 * inputs:
                return False
        elif target.module.endswith(("attn2.to_k", "attn2.to_v")):
            contexts.add(inputs)
        elif ".resnets." not in target.module and outputs != inputs:
            return False
    return len(contexts) <= 1
