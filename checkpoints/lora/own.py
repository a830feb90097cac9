"""A LoRA for a model of no known family: its layers as the file itself names and shapes them.

What works on factors alone (merging, resizing, looking) needs no more. Baking needs the model, whose names then say what is what.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from math import prod

from ..errors import CheckpointError
from ..families import Family, Spec, Widths
from ..families.any import any_family
from ..recognition.other_models import foreign_model, name_forms
from ..tensors import Shape
from .roles import Parted, Role

# What trainers put before the names of a denoiser's modules, and before those of others.
_BEFORE = re.compile(r"^(base_model\.model\.|(lora_)?(unet|transformer)[._]|lycoris_|diffusion_model\.|lora_)+")
_TEXT = re.compile(r"te\d?[._]|text_encoder")
# The label of all layers of a model whose names do not tell of blocks.
_ALL = "MODEL"


@dataclass(frozen=True, slots=True)
class OwnLayer:
    """A layer that a LoRA changes: its name as the file has it, the shape of its weight, and whether its bias changes too."""

    name: str
    shape: Shape
    bias: bool = False

    @property
    def flat(self) -> bool:
        """Whether its name has `_` for dots."""
        return "." not in self.name


@dataclass(frozen=True, eq=False)
class OwnNames(Family):
    """The record that a LoRA's own names make.

    Attributes:
        layers: key of the weight -> the layer.
    """

    layers: Mapping[str, OwnLayer] = field(default_factory=dict)

    def layout(self, widths: Widths = "real", in_channels: int | None = None) -> Mapping[str, Spec]:
        """The weights that the LoRA changes, and their biases."""
        return self._specs

    @cached_property
    def _specs(self) -> dict[str, Spec]:
        weights = {key: Spec(layer.shape) for key, layer in self.layers.items()}
        biases = {_bias(key): Spec(layer.shape[:1]) for key, layer in self.layers.items() if layer.bias}
        return weights | biases

    def bias_of(self, key: str) -> str | None:
        """The key of the bias of a weight's layer, where the LoRA changes it."""
        return _bias(key) if self.layers[key].bias else None

    def spelled(self, key: str, flat: bool) -> str:
        """A layer's name in a file, with `_` for dots or with dots.

        Raises:
            CheckpointError: the LoRA's own name does not tell.
        """
        layer = self.layers[key]
        if layer.flat == flat:
            return layer.name
        if layer.flat:
            raise CheckpointError(
                f"{layer.name}: has _ for dots, and no known model has this layer: how it is written with dots is not known; "
                "write kohya style"
            )
        if _TEXT.match(_BEFORE.sub("", layer.name)):
            raise CheckpointError(
                f"{layer.name}: is a layer of a text encoder of no known model: kohya's name of it is not known; write peft style"
            )
        return "lora_unet_" + key.removesuffix(".weight").replace(".", "_")


def own_names(parted: Mapping[str, Parted | None], shapes: Mapping[str, Shape]) -> OwnNames | None:
    """The record of a LoRA whose layers are not a known family's; None where no tensor tells of a weight.

    Args:
        parted: the file's names, taken apart.
        shapes: their tensors' shapes.
    """
    members: dict[str, dict[Role, Shape]] = {}
    for name, found in parted.items():
        if found is not None:
            members.setdefault(found.module, {})[found.role] = shapes[name]
    layers = [
        OwnLayer(module, shape, any(role in roles for role in ("diff_b", "b_norm", "up_bias")))
        for module, roles in members.items()
        if (shape := _shape(roles))
    ]
    return _of_layers(layers) if layers else None


def joined(families: Sequence[OwnNames]) -> OwnNames:
    """The record of several LoRAs for one model: a layer that one writes with dots and another with `_` is one."""
    found: dict[str, OwnLayer] = {}
    for family in families:
        for key, layer in family.layers.items():
            flat = key.replace(".", "_")
            if flat not in found or found[flat].flat:
                found[flat] = layer
    return _of_layers(found.values())


def _of_layers(layers: Iterable[OwnLayer]) -> OwnNames:
    layers = list(layers)
    names = {dotted(layer.name): layer for layer in layers}
    if len(names) < len(layers):  # which only differ by what stands before them
        names = {layer.name: layer for layer in layers}
    # A record is made of the names of tensors, and wants several in each block.
    made = any_family({f"{name}{end}": layer.shape for name, layer in names.items() for end in (".weight", ".bias")})
    prefix = made.prefixes[0] if made else ""
    keys = {f"{name.removeprefix(prefix)}.weight": layer for name, layer in names.items()}
    if made is None or any(made.block_of(key).component == "other" for key in keys):
        keys = {f"{name}.weight": layer for name, layer in names.items()}
        starts = tuple(dict.fromkeys(name.partition(".")[0] for name in names))
        made = Family(
            id="any", title="", name="", blocks=((_ALL, -1, -1, starts),), core="model", prefix="", predicts=None
        )
    kept = {f.name: getattr(made, f.name) for f in fields(Family)}
    title = foreign_model(name_forms(list(names)), has_unet=False) or "a model of no known family"
    return OwnNames(**kept | {"title": title, "name": title}, layers=keys)


def dotted(module: str) -> str:
    """A module's name with dots around its numbers, without what trainers put before it: how files of models have it."""
    plain = _BEFORE.sub("", module)
    return plain if "." in plain else re.sub(r"_(\d+)(?=_|$)", r".\1", re.sub(r"_(\d+)_", r".\1.", plain))


def _bias(key: str) -> str:
    return key.removesuffix("weight") + "bias"


def _shape(roles: Mapping[Role, Shape]) -> Shape | None:
    """The shape of the weight that a module's tensors change, as far as they tell; None where they do not."""
    if {"up", "down"} <= roles.keys() and roles["up"] and len(roles["down"]) > 1:
        return (roles["up"][0], *roles["down"][1:]) if "mid" not in roles else _with_core(roles, "up", "down", "mid")
    if {"hada_w1_a", "hada_w1_b"} <= roles.keys():
        return _side(roles, "hada_w1", "hada_t1")
    if left := _side(roles, "lokr_w1", "lokr_t1"):
        right = _side(roles, "lokr_w2", "lokr_t2")
        return (left[0] * right[0], left[1] * right[1], *right[2:]) if right and len(left) > 1 < len(right) else None
    return roles.get("diff") or roles.get("w_norm") or None


def _side(roles: Mapping[Role, Shape], name: str, core: str) -> Shape | None:
    """The shape of one factor of a product, stored whole or as a product of two."""
    if name in roles:
        return roles[name]
    a, b = roles.get(f"{name}_a"), roles.get(f"{name}_b")
    if not a or b is None or len(a) < 2 or len(b) < 2:
        return None
    return (a[1], b[1], *roles[core][2:]) if core in roles else (a[0], *b[1:])


def _with_core(roles: Mapping[Role, Shape], up: Role, down: Role, core: Role) -> Shape:
    """With a Tucker core, which has the kernel."""
    return (roles[up][0], prod(roles[down][1:]), *roles[core][2:])
