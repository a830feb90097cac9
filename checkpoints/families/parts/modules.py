"""The layers that everything is built from: each yields (name, shape) in the order of the module's state dict."""

from __future__ import annotations

from .part import Tensors


def named(prefix: str, tensors: Tensors) -> Tensors:
    """The same tensors inside a module called `prefix`."""
    for name, shape in tensors:
        yield f"{prefix}.{name}", shape


def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> Tensors:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def conv(name: str, inputs: int, outputs: int, size: int = 3) -> Tensors:
    yield f"{name}.weight", (outputs, inputs, size, size)
    yield f"{name}.bias", (outputs,)


def norm(name: str, width: int) -> Tensors:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
