"""What a recipe comes to for one tensor: a weighted sum of terms.

A term is a model, or the result of a step that is not linear, whose own inputs are such sums. Linear steps, however nested, add
up to one coefficient per term, so nothing between them is ever written or rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from .methods import Method

# Coefficients this close to 0 or 1 are meant to be it: 0.1 + 0.2 + 0.7 in binary is 1 - 1e-16.
_NOISE = 1e-12


@dataclass(frozen=True, slots=True)
class Model:
    """The tensor of the `index`-th model."""

    index: int


@dataclass(frozen=True, slots=True)
class Applied:
    """The result of a method that is not linear, on weighted sums.

    Two are equal when they compute the same; a digest says so, for steps that use others twice would otherwise be compared
    (and walked through) as often as there are ways down to a model.

    Attributes:
        method, values: the method and its parameters.
        inputs: of a method on differences, the differences; the base is no input.
        sources: the names of the inputs in the recipe, where the method asks for them.
        models: the indices of the models that it reads, each once, in order of first use.
        methods: the names of its own method and those below it, each once.
    """

    method: Method = field(compare=False)
    values: tuple[tuple[str, float | bool | int | str | tuple], ...] = field(compare=False)
    inputs: tuple[Form, ...] = field(compare=False)
    sources: tuple[str, ...] = field(default=(), compare=False)
    digest: bytes = field(init=False, repr=False)
    models: tuple[int, ...] = field(init=False, repr=False, compare=False)
    methods: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        digest = blake2b(repr((self.method.name, self.values, self.sources)).encode(), digest_size=16)
        below = [term for form in self.inputs for term in form.terms if isinstance(term, Applied)]
        for form in self.inputs:
            digest.update(repr(form.coefficients).encode())
            for term in form.terms:
                digest.update(term.digest if isinstance(term, Applied) else b"<%d>" % term.index)
        reads = dict.fromkeys(i for form in self.inputs for i in form.models())
        names = dict.fromkeys([self.name, *(name for term in below for name in term.methods)])
        object.__setattr__(self, "digest", digest.digest())
        object.__setattr__(self, "models", tuple(reads))
        object.__setattr__(self, "methods", tuple(names))

    @property
    def name(self) -> str:
        return self.method.name


Term = Model | Applied


@dataclass(frozen=True, slots=True)
class Form:
    """sum c_i t_i, coefficients in double precision, terms in the order in which the recipe first uses them.

    Without terms it is 0: what a LoRA adds to a tensor that it does not change.
    """

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
        if total and not kept:  # everything cancels: 0 times the first term keeps the shape known
            kept = {next(iter(total)): 0.0}
        return cls(tuple(kept), tuple(kept.values()))

    @property
    def anchor(self) -> int:
        """The term with the largest coefficient when they sum to one, else -1: see `kernels.reference.linear`."""
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
                found |= dict.fromkeys(term.models)
        return list(found)

    def applied(self) -> list[Applied]:
        """Every step below this form that is not linear, each once and after those that it needs."""
        ordered: dict[Applied, None] = {}
        stack = [(term, False) for term in self.terms if isinstance(term, Applied)]
        while stack:
            term, ready = stack.pop()
            if ready:
                ordered[term] = None
            elif term not in ordered:
                stack.append((term, True))
                stack += [(t, False) for form in term.inputs for t in form.terms if isinstance(t, Applied)]
        return list(ordered)

    def resolved(self, known: Mapping[Applied, Form]) -> Form:
        """The same with steps replaced by the weighted sums that they turned out to be."""
        if not any(term in known for term in self.terms):
            return self
        forms = [known[t] if t in known else Form.of(t) for t in self.terms]
        return Form.combined(self.coefficients, forms)

    def linear_models(self) -> tuple[int, ...] | None:
        """The models of a form that is linear in them, one for each coefficient; None when a method stands between."""
        if all(isinstance(t, Model) for t in self.terms):
            return tuple(t.index for t in self.terms)
        return None


@dataclass(frozen=True, slots=True)
class Lacking:
    """What stands in place of a form where models lack the tensor.

    Attributes:
        models: the indices of the models that lack it.
        step: empty where none of the models below has it. Else the step that cannot do without it: others have it, and no sum of
            theirs is what the recipe says.
    """

    models: frozenset[int]
    step: str = ""


def _settled(coefficient: float) -> float:
    for whole in (0.0, 1.0):
        if abs(coefficient - whole) < _NOISE:
            return whole
    return coefficient
