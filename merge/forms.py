"""What a recipe comes to for one tensor: a weighted sum of terms.

A term is a model, or the result of an elementwise step whose own inputs are such sums. Linear steps, however nested, add up
to one coefficient per term, so nothing between them is ever written or rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# Coefficients this close to 0 or 1 are meant to be it: 0.1 + 0.2 + 0.7 in binary is 1 - 1e-16.
_NOISE = 1e-12


@dataclass(frozen=True, slots=True)
class Model:
    """The tensor of the `index`-th model."""

    index: int


@dataclass(frozen=True, slots=True)
class Applied:
    """The result of an elementwise method on weighted sums."""

    name: str
    function: Callable
    values: tuple[tuple[str, float | bool], ...]
    inputs: tuple[Form, ...]


Term = Model | Applied


@dataclass(frozen=True, slots=True)
class Form:
    """sum c_i t_i, coefficients in double precision, terms in the order in which the recipe first uses them."""

    terms: tuple[Term, ...]
    coefficients: tuple[float, ...]

    @classmethod
    def of(cls, term: Term) -> Form:
        return cls((term,), (1.0,))

    @classmethod
    def combined(cls, shares: tuple[float, ...], forms: list[Form]) -> Form:
        """sum of share_i form_i; equal terms join, and those that cancel out are dropped."""
        total: dict[Term, float] = {}
        for share, form in zip(shares, forms, strict=True):
            for term, coefficient in zip(form.terms, form.coefficients, strict=True):
                total[term] = total.get(term, 0.0) + share * coefficient
        kept = {t: _settled(c) for t, c in total.items() if _settled(c) != 0.0}
        if not kept:  # everything cancels: 0 times the first term keeps the shape known
            kept = {next(iter(total)): 0.0}
        return cls(tuple(kept), tuple(kept.values()))

    @property
    def anchor(self) -> int:
        """The term with the largest coefficient when they sum to one, else -1: see `kernel_numba.linear`."""
        if abs(sum(self.coefficients) - 1.0) > 1e-9:
            return -1
        return max(range(len(self.coefficients)), key=lambda i: self.coefficients[i])

    @property
    def single(self) -> Model | None:
        """The model that this form is a plain copy of, if it is one."""
        if len(self.terms) == 1 and self.coefficients[0] == 1.0 and isinstance(self.terms[0], Model):
            return self.terms[0]
        return None

    def models(self) -> list[int]:
        """The models that are read, each once, in order of first use."""
        found: dict[int, None] = {}
        for term in self.terms:
            if isinstance(term, Model):
                found[term.index] = None
            else:
                for form in term.inputs:
                    found.update(dict.fromkeys(form.models()))
        return list(found)

    def linear_models(self) -> tuple[int, ...] | None:
        """The models of a form that is linear in them, one for each coefficient; None when a method stands between."""
        if all(isinstance(t, Model) for t in self.terms):
            return tuple(t.index for t in self.terms)
        return None


def _settled(coefficient: float) -> float:
    for whole in (0.0, 1.0):
        if abs(coefficient - whole) < _NOISE:
            return whole
    return coefficient
