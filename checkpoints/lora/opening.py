"""Opens a LoRA by its header: any trainer's file, as modules by canonical key."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from ..checkpoint import Checkpoint, TensorInfo
from ..errors import CheckpointError
from ..families import Family, components_in_order, family_of
from ..notices import Notice
from ..opening import read_tensors
from ..recognition.architecture import Architecture, adapter_or_embedding, known_id
from ..tensors import Shape
from ..text import counted, some
from .building import LayerTensors, bias_formula, weight_formula
from .formulas import Formula, Loaded
from .module import LoraModule, ModulePart
from .names import FUSED, Style, Target, module_shape, usual_channels
from .recognised import Recognised
from .recognition import recognise_names
from .trainer import peft_inputs, peft_scales

# What the factors of the modules in use may take together; the largest module of SDXL at rank 128 takes 13 MB.
_KEPT_BYTES = 32 << 20


@dataclass
class Lora:
    """A LoRA whose header was read.

    Attributes:
        path: the file.
        format: `safetensors` or `ckpt` (a pickle).
        family: whose weights it changes.
        style: how its names are written: `kohya`, `single-file`, `diffusers`, `peft` or `numbered`.
        modules: canonical single-file key -> the change of that tensor, weights and biases.
        metadata: the header's strings.
        unknown: names of tensors that no key of the family fits.
        tensors: the file's own names -> its tensors.
        size: bytes on disk.
    """

    path: Path
    format: str
    family: str | Family
    style: Style
    modules: dict[str, LoraModule]
    metadata: dict[str, str]
    unknown: list[str]
    source: Checkpoint
    size: int = 0
    _loaded: OrderedDict[int, tuple[ModulePart, Loaded]] = field(default_factory=OrderedDict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self.source.tensors

    @property
    def layers(self) -> dict[str, tuple[LoraModule, ModulePart]]:
        """The layers that it changes, by the file's names: of each the change of its weight, or of its bias where that is all."""
        found: dict[str, tuple[LoraModule, ModulePart]] = {}
        for module in self.modules.values():
            for part in module.parts:
                if part.name not in found or not module.of_bias:
                    found[part.name] = module, part
        return found

    @property
    def kinds(self) -> dict[str, int]:
        """Kind -> how many layers of it there are."""
        return dict(Counter(part.formula.kind for _, part in self.layers.values()).most_common())

    def check_effect(self) -> list[Notice]:
        """`without_effect`, of a LoRA that is applied as a whole.

        Raises:
            CheckpointError: it changes nothing.
        """
        self.refuse_without_effect(str(self.path))
        return self.without_effect()

    def without_effect(self) -> list[Notice]:
        """What to say of changes that are nothing, whatever their factors are: their alpha is 0."""
        formulas = [part.formula for module in self.modules.values() for part in module.parts]
        silent = sum(formula.is_zero for formula in formulas)
        if not silent:
            return []
        text = f"the alpha of {counted(silent, 'change')} of {len(formulas):,} is 0: nothing changes there"
        return [Notice("lora.alpha_zero", text)]

    def left_out(self) -> list[Notice]:
        """What to say of tensors that have no known place."""
        if not self.unknown:
            return []
        text = f"{len(self.unknown)} tensors have no known place and are left out ({some(self.unknown)})"
        return [Notice("lora.unknown", text, tuple(self.unknown))]

    @property
    def needs_base(self) -> bool:
        """Whether any change follows from the weight itself."""
        return any(module.needs_weight for module in self.modules.values())

    @property
    def architecture(self) -> Architecture:
        """What it is, in the terms of checkpoints."""
        family = family_of(self.family)
        parts = tuple(components_in_order({family.block_of(key).component for key in self.modules}))
        return Architecture(known_id(family), "lora", parts=parts, name=f"LoRA for {family.title}", kind="LoRA")

    def idle(self, keys: Collection[str] | None = None) -> list[str]:
        """Of these keys (all that it changes) those whose change is multiplied by 0."""
        return [key for key in (self.modules if keys is None else keys) if self.modules[key].scaled_to_nothing]

    def refuse_without_effect(self, name: str, keys: Collection[str] | None = None) -> None:
        """Refuse a LoRA that changes nothing of these keys (of all that it changes), called `name` by its user.

        Raises:
            CheckpointError: saying why: its alpha is 0, or all its changes are.
        """
        keys = self.modules if keys is None else keys
        named = name if name == str(self.path) else f"{name} ({self.path})"
        if len(self.idle(keys)) == len(keys):
            raise CheckpointError(
                f"{named}: its alpha is 0 in all of {counted(len(keys), 'layer')}, so that it changes nothing (LyCORIS reads "
                "0 as alpha = rank, other programs as no effect); give it the alpha that it was trained with, or leave it out"
            )
        if not any(self.modules[key].changes_something() for key in keys):
            raise CheckpointError(
                f"{named}: its change is 0 in all of {counted(len(keys), 'layer')}: it was not trained, or lost its numbers; "
                "leave it out"
            )

    def load(self, part: ModulePart) -> Loaded:
        """The factors of a part, kept while they are in use. From any thread."""
        with self._lock:
            known = self._loaded.pop(id(part), None)
            found = known[1] if known else part.formula.load(self.source)
            self._loaded[id(part)] = part, found  # the part is kept with it, so that no other gets its id
            kept = sum(loaded.nbytes for _, loaded in self._loaded.values())
            while kept > _KEPT_BYTES and len(self._loaded) > 1:
                kept -= self._loaded.popitem(last=False)[1][1].nbytes
        return found

    def close(self) -> None:
        """Close the file. A closed LoRA opens it again when it is read."""
        with self._lock:
            self._loaded.clear()
        self.source.close()

    def __enter__(self) -> Lora:
        return self

    def __exit__(self, *exc) -> None:
        self.close()


def open_lora(
    path: Path | str,
    *,
    family: str | Family | None = None,
    shapes: Mapping[str, Shape] | None = None,
    adapter: str | None = None,
) -> Lora:
    """Open a LoRA (.safetensors, or a .pt zip pickle); only its header and its alphas are read.

    Args:
        path: the file.
        family: its id or record; None to find it out from names and widths.
        shapes: canonical key -> shape in the checkpoint that it is for, where it is known.
        adapter: PEFT's name of the one that is meant, of a file that holds several.

    Raises:
        CheckpointError: it cannot be read, is not a LoRA, is of a kind that is not supported, its tensors do not fit
            together or do not fit `shapes`, or it holds several adapters and none is meant.

    Example:
        >>> import numpy as np
        >>> from safetensors.numpy import save_file
        >>> factors = {"lora_A": np.ones((2, 8), np.float32), "lora_B": np.ones((4, 2), np.float32)}
        >>> save_file({f"transformer.layers.3.mlp.{x}.weight": values for x, values in factors.items()}, "lora.safetensors")
        >>> with open_lora("lora.safetensors") as lora:
        ...     list(lora.modules)
        ['layers.3.mlp.weight']
    """
    path = Path(path)
    form, stored, metadata = read_tensors(path)
    if what := adapter_or_embedding({t.name: t.shape for t in stored}):
        raise CheckpointError(f"{path}: expected a LoRA, found {what}")
    tensors = {t.name: TensorInfo(t.name, t) for t in stored}
    size = path.stat().st_size
    source = Checkpoint(path, form, tensors, metadata, Architecture(None, "lora"), size=size)
    names = recognise_names(path, {name: info.shape for name, info in tensors.items()}, metadata, family, adapter)
    modules = _modules(path, source, names, metadata, shapes or {})
    lora = Lora(path, form, names.family, names.style, {}, metadata, names.unknown, source, size)
    for key, (shape, parts) in modules.items():
        lora.modules[key] = LoraModule(path, key, shape, tuple(parts), source, lora.load)
    return lora


def _modules(
    path: Path, source: Checkpoint, names: Recognised, metadata: dict[str, str], shapes: Mapping[str, Shape]
) -> dict[str, tuple[Shape, list[ModulePart]]]:
    """Canonical key -> its shape, and the parts of its change."""
    scales, on_input = peft_scales(path, metadata, names), peft_inputs(path, metadata, names)
    out: dict[str, tuple[Shape, list[ModulePart]]] = {}
    for target, members in names.modules.items():
        expected = _expected(target, names.family, shapes)
        tensors = {role: source.tensors[name] for role, name in members.tensors.items()}
        group = LayerTensors(
            path, members.spelling, source, tensors, expected, scales.get(target), on_input.get(target)
        )
        weight, bias = weight_formula(group), bias_formula(group)
        if weight is not None:
            part = ModulePart(members.spelling, weight, target.third, target.transposed)
            _add(out, path, target.weight, _canonical_shape(target, weight), part, shapes, names.family)
        if bias is not None:
            if target.bias is None:
                raise CheckpointError(f"{path}: {members.spelling}: changes a bias, but {target.weight} has none")
            shape = (bias.shape[0] * (FUSED if target.third is not None else 1),)
            _add(out, path, target.bias, shape, ModulePart(members.spelling, bias, target.third), shapes, names.family)
    return out


def _expected(target: Target, family: str | Family, shapes: Mapping[str, Shape]) -> tuple[Shape, ...]:
    """The shapes that the module's weight may have: the checkpoint's, or else the family's in either width."""
    usual = (module_shape(target, family), module_shape(target, family, "narrow"))
    known = shapes.get(target.weight)
    if known is None or len(known) < 1:
        return usual
    if target.third is not None:
        known = (known[0] // FUSED, *known[1:])
    fewer = usual_channels(target.weight, known, family)
    return (known[::-1] if target.transposed else known, *((fewer,) if fewer else ()))


def _canonical_shape(target: Target, formula: Formula) -> Shape:
    shape = formula.shape
    if target.third is not None:
        return (shape[0] * FUSED, *shape[1:])
    return shape[::-1] if target.transposed else shape


def _add(
    out: dict, path: Path, key: str, shape: Shape, part: ModulePart, shapes: Mapping[str, Shape], family: str | Family
) -> None:
    known = shapes.get(key, out[key][0] if key in out else shape)
    if shape == usual_channels(key, known, family):  # nothing is changed of the further channels
        shape = known
    if shape != known and key == family_of(family).first_key and (shape[0], *shape[2:]) == (known[0], *known[2:]):
        raise CheckpointError(
            f"{path}: {part.name}: changes {shape[1]} input channels of {key}, and the model has {known[1]}; use a model "
            f"with {shape[1]}"
        )
    if shape != known:
        raise CheckpointError(
            f"{path}: {part.name}: expected factors of {key} of shape {list(known)}, found those of {list(shape)} "
            f"({prod(shape):,} elements); the LoRA is for another model"
        )
    out.setdefault(key, (shape, []))[1].append(part)
