"""Where the tensors are in what a pickle describes: in the state dict that a trainer saved, or anywhere below."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..errors import CheckpointError
from ..text import some
from .unpickler import Inert, TensorRef

MAX_METADATA_CHARACTERS = 4096
# What is looked at: a dict that is written once can stand in another a million times.
MAX_VALUES = 1_000_000
MAX_NAME_CHARACTERS = 64 << 20
MAX_DEPTH = 16
# Where trainers put the state dict, next to what else they save.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "params_ema", "params")
# Where a part of a model is put: its names are the file's where nothing else is there.
_PARTS = ("unet", "vae")
# Modules that are no more than a dict or list of tensors.
_CONTAINERS = ("torch.nn.modules.container.ParameterDict", "torch.nn.modules.container.ParameterList")
# A file that is one tensor has no name for it.
ALONE = "tensor"
_SHOWN, _MAX_SHOWN = 4, 40


@dataclass
class State:
    """The tensors of a pickle.

    Attributes:
        tensors: name -> tensor; where dicts or lists are nested, their keys joined by dots.
        values: plain values met on the way to the tensors, as short strings.
        left_out: what stands next to the state dict -> how many tensors it holds.
    """

    tensors: dict[str, object]
    values: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)


def is_tensor(value: object) -> bool:
    """Whether a value is a tensor, or one that torch would make in a way that is not supported."""
    return isinstance(value, TensorRef) or (isinstance(value, Inert) and value.is_tensor)


def find_tensors(content: object) -> State:
    """The tensors of what a pickle describes: those of the state dict where a trainer put one, else all of them.

    Raises:
        CheckpointError: there are none, or they have no names of their own; a clause without the file's name.
    """
    if is_tensor(content):
        return State({ALONE: content})
    if isinstance(content, list) and content and all(map(is_tensor, content)):
        # The first LoRA trainer (cloneofsimo) saves a bare list: up and down of each layer in turn.
        return State({f"{i // 2}:{('up', 'down')[i % 2]}": tensor for i, tensor in enumerate(content)})
    looking, state, inner = _Looking(), State({}), content
    while isinstance(inner, dict):
        state.values |= _plain_values(inner)
        name = _wrapper(inner, looking)
        if name is None:
            break
        for other, value in inner.items():
            if other != name and (count := sum(1 for _ in looking.below(value))):
                state.left_out[str(other)] = count
        inner = inner[name]
    for name, tensor in looking.below(inner):
        if name in state.tensors:
            raise CheckpointError(f"two of its tensors are called {name[:200]}; save it again under different names")
        state.tensors[name] = tensor
    if not state.tensors:
        raise CheckpointError(
            f"holds no state dict of tensors (found {_told(content)}); give the model as .safetensors"
        )
    return state


def _wrapper(content: dict, looking: _Looking) -> str | None:
    """The entry that is the state dict, None where the tensors stand in `content` itself or in several entries of it."""
    if any(isinstance(value, TensorRef) and value.shape != () for value in content.values()):
        wrappers = _WRAPPERS[:1]
    else:  # a trainer may keep its counters as tensors without axes
        wrappers = (*_WRAPPERS, *_PARTS)
    holding = [key for key, value in content.items() if isinstance(value, dict) and looking.finds(value)]
    if len(holding) > 1:
        wrappers = tuple(name for name in wrappers if name not in _PARTS)
    return next((name for name in wrappers if name in holding), None)


class _Looking:
    """A look through nested dicts and lists, which ends: what a pickle describes can be far larger than the pickle."""

    def __init__(self) -> None:
        self._values = self._characters = 0

    def finds(self, value: object) -> bool:
        """Whether there is a tensor in it, at any depth."""
        return next(self.below(value), None) is not None

    def below(self, value: object, path: str = "", depth: int = 0) -> Iterator[tuple[str, object]]:
        """The tensors in a value, at any depth, and the keys that lead to them, joined by dots."""
        self._values += 1
        self._characters += len(path)
        if self._values > MAX_VALUES or self._characters > MAX_NAME_CHARACTERS or depth > MAX_DEPTH:
            raise CheckpointError("its pickle nests more than any checkpoint does")
        if is_tensor(value):
            yield path, value
            return
        if isinstance(value, Inert) and value.what in _CONTAINERS:
            value = (value.attributes or {}).get("_parameters")
        if isinstance(value, dict):
            entries = value.items()
        elif isinstance(value, (list, tuple)):
            entries = enumerate(value)
        else:
            return
        for key, inner in entries:
            if isinstance(inner, (TensorRef, Inert, dict, list, tuple)):
                yield from self.below(inner, f"{path}.{key}" if path else str(key), depth + 1)


def _plain_values(content: dict) -> dict[str, str]:
    """The strings, numbers and truth values of a dict, as short strings."""
    plain = ((k, v) for k, v in content.items() if isinstance(k, str) and isinstance(v, (str, int, float)))
    texts = {k: str(v) for k, v in plain if not isinstance(v, int) or abs(v) < 1 << 63}
    return {k: v for k, v in texts.items() if len(k) + len(v) <= MAX_METADATA_CHARACTERS}


def _told(content: object) -> str:
    """What a pickle without tensors describes, for people."""
    if isinstance(content, Inert):
        return content.what
    if isinstance(content, dict) and content:
        names = [str(key)[:_MAX_SHOWN] + (f": {v.what}" if isinstance(v, Inert) else "") for key, v in content.items()]
        return f"a dict of {some(names, _SHOWN)}"
    words = ((dict, "an empty dict"), ((list, tuple), "a list"), (str, "a text"), ((int, float), "a number"))
    return next((word for kind, word in words if isinstance(content, kind)), "nothing that holds any")
