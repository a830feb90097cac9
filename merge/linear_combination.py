"""What a recipe comes to for one tensor: a linear combination of terms.

A term is a model, or the call of a method that is not linear, whose own inputs are such combinations. Linear steps, however
nested, add up to one coefficient per term, so nothing between them is ever written or rounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
class MethodCall:
    """A method that is not linear, called on linear combinations.

    Two are equal when they compute the same; a digest says so, for steps that use others twice would otherwise be compared
    (and walked through) as often as there are ways down to a model.

    Attributes:
        method, values: the method and its parameters.
        inputs: of a method on differences, the differences; the base is not an input.
        sources: the names of the inputs in the recipe, where the method asks for them.
        models: the indices of the models that it reads, each once, in order of first use.
        methods: the names of its own method and those below it, each once.
    """

    method: Method = field(compare=False)
    values: tuple[tuple[str, float | bool | int | str | tuple], ...] = field(compare=False)
    inputs: tuple[LinearCombination, ...] = field(compare=False)
    sources: tuple[str, ...] = field(default=(), compare=False)
    digest: bytes = field(init=False, repr=False)
    models: tuple[int, ...] = field(init=False, repr=False, compare=False)
    methods: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        digest = blake2b(repr((self.method.name, self.values, self.sources)).encode(), digest_size=16)
        below = [term for each in self.inputs for term in each.terms if isinstance(term, MethodCall)]
        for each in self.inputs:
            digest.update(repr(each.coefficients).encode())
            for term in each.terms:
                digest.update(term.digest if isinstance(term, MethodCall) else b"<%d>" % term.index)
        reads = dict.fromkeys(i for each in self.inputs for i in each.models())
        names = dict.fromkeys([self.name, *(name for term in below for name in term.methods)])
        object.__setattr__(self, "digest", digest.digest())
        object.__setattr__(self, "models", tuple(reads))
        object.__setattr__(self, "methods", tuple(names))

    @property
    def name(self) -> str:
        return self.method.name


Term = Model | MethodCall


@dataclass(frozen=True, slots=True)
class LinearCombination:
    """sum c_i t_i: coefficients in double precision, terms in the order in which the recipe first uses them.

    Without terms it is 0: what a LoRA adds to a tensor that it does not change.
    """

    terms: tuple[Term, ...]
    coefficients: tuple[float, ...]

    @classmethod
    def of(cls, term: Term) -> LinearCombination:
        return cls((term,), (1.0,))

    @classmethod
    def of_model(cls, index: int) -> LinearCombination:
        """The `index`-th model as it is."""
        return cls.of(Model(index))

    @classmethod
    def combined(cls, shares: tuple[float, ...], combinations: list[LinearCombination]) -> LinearCombination:
        """sum of share_i combination_i: equal terms join, and those that cancel out are dropped."""
        total: dict[Term, float] = {}
        for share, combination in zip(shares, combinations, strict=True):
            for term, coefficient in combination.items():
                total[term] = total.get(term, 0.0) + share * coefficient
        kept = {t: _settled(c) for t, c in total.items() if _settled(c) != 0.0}
        if total and not kept:  # everything cancels: 0 times the first term keeps the shape known
            kept = {next(iter(total)): 0.0}
        return cls(tuple(kept), tuple(kept.values()))

    def items(self) -> Iterator[tuple[Term, float]]:
        """Every term with its coefficient."""
        return zip(self.terms, self.coefficients, strict=True)

    @property
    def anchor(self) -> int:
        """The term with the largest coefficient when they sum to one, else -1: see `kernels.reference.linear`."""
        if abs(sum(self.coefficients) - 1.0) > 1e-9:
            return -1
        return max(range(len(self.coefficients)), key=lambda i: self.coefficients[i])

    @property
    def single(self) -> Model | None:
        """The model that this combination is a plain copy of, if it is one."""
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

    def calls(self) -> list[MethodCall]:
        """Every call below this combination, each once and after those that it needs."""
        ordered: dict[MethodCall, None] = {}
        stack = [(term, False) for term in self.terms if isinstance(term, MethodCall)]
        while stack:
            term, ready = stack.pop()
            if ready:
                ordered[term] = None
            elif term not in ordered:
                stack.append((term, True))
                stack += [
                    (t, False) for combination in term.inputs for t in combination.terms if isinstance(t, MethodCall)
                ]
        return list(ordered)

    def substituted(self, known: Mapping[MethodCall, object]) -> LinearCombination:
        """The same with calls replaced by the linear combinations that they turned out to be, where that is what is known."""
        known = {call: found for call, found in known.items() if isinstance(found, LinearCombination)}
        if not any(term in known for term in self.terms):
            return self
        combinations = [known[t] if t in known else LinearCombination.of(t) for t in self.terms]
        return LinearCombination.combined(self.coefficients, combinations)

    def measuring(self) -> list[MethodCall]:
        """The calls that have to see a whole tensor before an element of it can be written, each after those that it needs."""
        return [call for call in self.calls() if call.method.kind in ("statistics", "whole")]

    def linear_models(self) -> tuple[int, ...] | None:
        """The models of a combination that is linear in them, one for each coefficient; None when a method stands between."""
        if all(isinstance(t, Model) for t in self.terms):
            return tuple(t.index for t in self.terms)
        return None


@dataclass(frozen=True, slots=True)
class Missing:
    """What stands in place of a combination where models lack the tensor.

    Attributes:
        models: the indices of the models that lack it.
        step: empty where none of the models below has it. Else the step that cannot do without it: others have it, and no sum of
            theirs is what the recipe says.
    """

    models: frozenset[int]
    step: str = ""


# What a recipe comes to for a tensor.
Result = LinearCombination | Missing


def _settled(coefficient: float) -> float:
    for whole in (0.0, 1.0):
        if abs(coefficient - whole) < _NOISE:
            return whole
    return coefficient
