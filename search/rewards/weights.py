"""Weights of reward models: local files only, read without running code in them, and what to say when one is missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...checkpoints.formats import FORMATS, HEAD_BYTES
from ..errors import SearchError
from .options import weights_folder

if TYPE_CHECKING:
    import torch


def require(path: Path, reward: str, what: str, source: str, *inside: str) -> None:
    """Refuse weights that are not there.

    Args:
        path: a file, or a folder.
        reward: kind of the reward.
        what: what it is, for people.
        source: where to get it.
        inside: names of which a folder has to hold one.

    Raises:
        SearchError: with where to get it and where to put it.
    """
    if not path.exists():
        raise SearchError(
            f"reward {reward}: {path}: {what} is not there; get it from {source} and put it in {weights_folder()}, or name its path"
        )
    if path.is_dir() and inside and not any((path / name).is_file() for name in inside):
        raise SearchError(
            f"reward {reward}: {path}: this folder holds none of {', '.join(inside)}; {what} is complete at {source}"
        )


def require_package(name: str, reward: str, install: str) -> None:
    """Refuse to go on without a package.

    Raises:
        SearchError: it is not installed.
    """
    import importlib.util

    if importlib.util.find_spec(name) is None:
        raise SearchError(f"reward {reward}: needs the package {name}: pip install {install}")


def load_state(path: Path, reward: str) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file or of a pickle, of which nothing but tensors is unpickled.

    Raises:
        SearchError: the file is damaged, or holds more than tensors.
    """
    import torch

    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
        if FORMATS["safetensors"].magic(head):
            from safetensors.torch import load_file

            return load_file(path)
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each container fails in its own way
        line = " ".join(str(error).split())[:200]
        raise SearchError(f"reward {reward}: {path}: cannot be read as weights ({line})") from None
    for name in ("state_dict", "model", "module"):
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    tensors = {str(k): v for k, v in found.items() if isinstance(v, torch.Tensor)} if isinstance(found, Mapping) else {}
    if not tensors:
        raise SearchError(f"reward {reward}: {path}: holds no tensors by name; expected the weights of a model")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): tensor for key, tensor in tensors.items()}
    return tensors


def fill(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor], path: Path, reward: str) -> torch.nn.Module:
    """Give a model its weights, all of them, and make it ready to evaluate.

    Raises:
        SearchError: a tensor is missing or has another shape.
    """
    wanted = model.state_dict()
    for key, there in wanted.items():
        if key not in tensors:
            raise SearchError(f"reward {reward}: {path}: {key} is missing; is it the right file?")
        if tensors[key].shape != there.shape:
            raise SearchError(
                f"reward {reward}: {path}: {key} has shape {tuple(tensors[key].shape)}, expected {tuple(there.shape)}"
            )
    model.load_state_dict({key: tensors[key].float() for key in wanted})
    return model.eval().requires_grad_(False)


def chosen_device(device: str) -> str:
    """`auto` is CUDA when there is one."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device
