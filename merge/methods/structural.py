"""Structural methods: they choose, key by key, which input a tensor is taken from."""

from __future__ import annotations

from .registry import structural


@structural("a b")
def fallback(a, b, key, *, has):
    """a, and where the models of a lack a tensor, b.

    Source: `fallback` of sd-mecha.

    Use: files without text encoders or VAE, pruned files.
    """
    return a if has(a) else b
