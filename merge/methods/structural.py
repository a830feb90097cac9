"""Structural methods: they choose, key by key, which input a tensor is taken from."""

from __future__ import annotations

from .declaring import structural
from .method import Component
from .other_tools import Mecha


@structural(mecha=Mecha("fallback", "a default", read="default"))
def fallback(a, b, *, has):
    """a, and where the models of a lack a tensor, b.

    Source: `fallback` of sd-mecha.

    Use: files without text encoders or VAE, pruned files.
    """
    return a if has(a) else b


@structural(
    mecha=(
        Mecha("pick_component", "a component", read="component", write="component"),
        Mecha("omit_component", "a component", read="omitted", write=""),
    )
)
def pick_component(a, b, *, place, component: Component):
    """a, but for the named component, which is b's.

    `text_encoders` are all of them. The recipe's `components` do the same for the result of all steps; this is for steps
    between.

    Source: `pick_component` of sd-mecha, with `a` for the rest.

    Use: merge the UNET of one model with the text encoder of another.
    """
    return b if place.component == component or (component == "text_encoders" and place.text) else a


@structural(mecha=Mecha("exchange_ema", "model", also=("exchange_ema_'sd1-ldm'",), read="model", write=""))
def exchange_ema(a, *, place, ema):
    """a, with the moving average of its UNET in place of the UNET that training ended with.

    The model has to hold EMA weights (`model_ema.*`), as unpruned checkpoints do.

    Source: `exchange_ema` of sd-mecha; "EMA to non-EMA" of model toolkits.

    Use: unpruned files, whose EMA weights make better pictures.
    """
    return ema(a) if place.core else a
