"""The numbered names of the first LoRA trainer (cloneofsimo/lora): `unet:N:up`, `text_encoder:N:down`.

N counts the layers that the trainer replaced, in the order in which PyTorch walks the modules of diffusers' model: in the
UNET the linear layers inside attention and GEGLU modules, in the text encoder those inside CLIP's attention. PyTorch walks in
the order in which a class makes its parts: the UNET's down blocks, up blocks, then the middle block; in a block the
transformers before the residual blocks; q, k, v, out in the UNET and k, v, q, out in CLIP. A `.pt` of that trainer is a
bare list, up and down in turn, of the UNET or of the text encoder. The extended training also replaces the linear
and convolution layers of the residual blocks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..errors import CheckpointError
from ..tensors import Shape
from .names import Target, targets

NAME = re.compile(r"(?:(unet|text_encoder):)?(\d{1,6}):(up|down)")
_SIDES = ("down_blocks", "up_blocks", "mid_block")
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
# diffusers made the feed-forward before the cross-attention until 0.14, behind it since.
_GEGLU = "ff.net.0.proj"
_ORDERS = {
    "before 0.15": (*(f"attn1.{m}" for m in _ATTENTION), _GEGLU, *(f"attn2.{m}" for m in _ATTENTION)),
    "since 0.15": (*(f"attn1.{m}" for m in _ATTENTION), *(f"attn2.{m}" for m in _ATTENTION), _GEGLU),
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

    return _sorted(family, "unet", position)


def text_order(family: str) -> list[Target]:
    """The text encoder's replaced layers in the order of their numbers."""

    def position(target: Target) -> tuple | None:
        layer = _LAYER.fullmatch(target.module)
        return (int(layer[1]), _CLIP.index(layer[2])) if layer and layer[2] in _CLIP else None

    return _sorted(family, "text_encoder", position)


def _sorted(family: str, component: str, position: Callable[[Target], tuple | None]) -> list[Target]:
    placed = [(at, t) for t in targets(family) if t.component == component and (at := position(t)) is not None]
    return [target for _, target in sorted(placed, key=lambda pair: pair[0])]


def is_numbered(names: Sequence[str]) -> bool:
    """Whether a file has numbered names."""
    return any(NAME.fullmatch(name) for name in names)


def numbered_targets(path: Path, shapes: Mapping[str, Shape], families: Sequence[str]) -> tuple[str, dict[str, Target]]:
    """The family, and `unet:N` (`N` in a bare list) -> the module that it stands for.

    The numbers alone do not say which layers were counted: the factors' widths choose among the known countings.

    Raises:
        CheckpointError: the count or the widths are those of no model.
    """
    layers = _layers(path, shapes)
    for family in families:
        found: dict[str, Target] = {}
        for component, widths in layers.items():
            chosen = next((o for o in _candidates(family, component) if _fits(o, widths)), None)
            if chosen is None:
                break
            prefix = f"{component}:" if component else ""
            found |= {f"{prefix}{i}": chosen[i] for i in widths}
        else:
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
