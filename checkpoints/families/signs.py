"""What a file's names and shapes tell of its denoiser: what records are asked with, and words to say it.

>>> known_by = has("double_blocks.0.img_attn.qkv.weight") & lacks("distilled_guidance_layer.in_proj.weight")
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from .parts.part import Shape


@dataclass(frozen=True)
class Signs:
    """A denoiser as a file has it.

    Attributes:
        shapes: the denoiser's names, without prefix, and their shapes.
        parts: the text encoders and VAE next to it (`clip_h`).
        others: the names of the file that are not the denoiser's.
        answers: what rules have said of it: several records ask the same.
    """

    shapes: Mapping[str, Shape]
    parts: tuple[str, ...] = ()
    others: Collection[str] = ()
    answers: dict[Rule, bool] = field(default_factory=dict, repr=False)

    @cached_property
    def blocks(self) -> frozenset[str]:
        """The first two words of names: `input_blocks.4`."""
        return frozenset(".".join(name.split(".", 2)[:2]) for name in self.shapes)

    @cached_property
    def halves(self) -> frozenset[str]:
        """The first words of names."""
        return frozenset(block.partition(".")[0] for block in self.blocks)

    @cached_property
    def attention(self) -> frozenset[str]:
        """The blocks of a UNET that have a transformer."""
        return frozenset(".".join(n.split(".", 2)[:2]) for n in self.shapes if ".1.transformer_blocks." in n)

    @cached_property
    def context_width(self) -> int:
        """The width of the text that cross-attention reads; 0 where it differs or nothing reads any."""
        ends = ".attn2.to_k.weight"
        widths = {shape[1] for name, shape in self.shapes.items() if name.endswith(ends) and len(shape) == 2}
        return widths.pop() if len(widths) == 1 else 0

    @cached_property
    def projection_ranks(self) -> frozenset[int]:
        """The ranks of the transformers' outer projections: 4 of convolutions, 2 of linear layers."""
        ends = (".proj_in.weight", ".proj_out.weight")
        return frozenset(len(shape) for name, shape in self.shapes.items() if name.endswith(ends))


class Rule:
    """A rule on signs; `&`, `|` and `~` join rules."""

    def __init__(self, says: Callable[[Signs], bool]):
        self._says = says

    def __call__(self, signs: Signs) -> bool:
        if self not in signs.answers:
            signs.answers[self] = bool(self._says(signs))
        return signs.answers[self]

    def __and__(self, other: Rule) -> Rule:
        return Rule(lambda signs: self(signs) and other(signs))

    def __or__(self, other: Rule) -> Rule:
        return Rule(lambda signs: self(signs) or other(signs))

    def __invert__(self) -> Rule:
        return Rule(lambda signs: not self(signs))


def has(*names: str) -> Rule:
    """All of these names are there."""
    return Rule(lambda signs: all(name in signs.shapes for name in names))


def lacks(*names: str) -> Rule:
    """None of these names is there."""
    return Rule(lambda signs: not any(name in signs.shapes for name in names))


def starts(*beginnings: str) -> Rule:
    """A name begins with each of these."""
    return Rule(lambda signs: all(any(name.startswith(b) for name in signs.shapes) for b in beginnings))


def next_to(*beginnings: str) -> Rule:
    """A name of the file that is not the denoiser's begins with one of these."""
    return Rule(lambda signs: any(name.startswith(beginnings) for name in signs.others))


def ratio(above: str, axis: int, below: str, other: int, times: float) -> Rule:
    """One axis of a tensor is `times` as long as an axis of another: widths themselves tell nothing."""

    def says(signs: Signs) -> bool:
        a, b = signs.shapes.get(above, ()), signs.shapes.get(below, ())
        return axis < len(a) and other < len(b) and a[axis] == times * b[other]

    return Rule(says)
