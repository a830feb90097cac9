"""One step of a recipe: a method, its inputs, and the method's parameters, checked for what needs no model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from numbers import Real
from typing import Any

from pydantic import ConfigDict

from ..checkpoints.errors import UnetscopeError, nearest
from ..checkpoints.settings import Settings
from ..checkpoints.spelling import spelt
from ..checkpoints.text import shown
from .block_weights import BlockWeights
from .errors import RecipeError
from .methods import METHODS, Method, method_named


class Step(Settings):
    """One step: a method, its inputs, and the method's parameters under their own names (`alpha: 0.3`)."""

    model_config = ConfigDict(extra="allow", frozen=True)

    method: str
    inputs: list[str]
    convention: str | None = None

    @classmethod
    def words(cls, given: Mapping[Any, Any]) -> dict[str, tuple[str, ...]]:
        method = METHODS.get(spelt(str(given.get("method")).replace("-", "_"), METHODS))
        own = {name: p.choices if p.kind == "choice" else () for name, p in method.parameters.items()} if method else {}
        return super().words(given) | own

    @property
    def kind(self) -> Method:
        return method_named(self.method)

    @property
    def given(self) -> dict[str, Any]:
        """The parameters that the recipe gives."""
        return dict(self.__pydantic_extra__ or {})

    def to_plain(self) -> dict[str, Any]:
        """Plain data, block weights as their user wrote them."""
        plain = {"method": self.method, "inputs": list(self.inputs)}
        if self.convention is not None:
            plain["convention"] = self.convention
        return plain | {name: _plain(value) for name, value in self.given.items()}

    def weights(self, convention: str) -> dict[str, BlockWeights | list[BlockWeights] | bool | int | str]:
        """Every parameter of the method, given or by default, numbers read as block weights."""
        convention, values = self.convention or convention, {}
        for name, parameter in self.kind.parameters.items():
            value = self.given.get(name, parameter.default)
            if not parameter.weighs:
                values[name] = value
            elif parameter.kind == "number":
                values[name] = BlockWeights.parse(value, convention)
            else:
                each = value if isinstance(value, list) else [value] * self.kind.models(len(self.inputs))
                values[name] = [BlockWeights.parse(v, convention) for v in each]
        return values

    def check(self, where: str, names: Collection[str], convention: str) -> None:
        """Whether the method takes these inputs and parameters.

        Args:
            where: names the step in errors.
            names: of everything that may be an input.
            convention: how weight vectors are read unless the step says otherwise.

        Raises:
            RecipeError: naming the place in the step, what is wrong and what would be right.
        """
        method = self.kind
        for source in self.inputs:
            if source not in names:
                raise RecipeError(f"{where}.inputs: {source!r} is no model and no step{nearest(source, names)}")
        method.check_inputs(len(self.inputs), where)
        for name, value in self.given.items():
            if name not in method.parameters:
                takes = ", ".join(method.parameters) or "no parameters"
                raise RecipeError(f"{where}.{name}: {method.name} takes {takes}{nearest(name, method.parameters)}")
            method.parameters[name].check(value, f"{where}.{name}")
        for name, parameter in method.parameters.items():
            if parameter.kind == "numbers" and (name in self.given or parameter.default is None):
                given, wanted = self.given.get(name), method.models(len(self.inputs))
                if isinstance(given, Real) and not isinstance(given, bool):
                    continue  # one number counts for every model
                if not isinstance(given, list) or len(given) != wanted:
                    count = f"{len(given)} given" if isinstance(given, list) else f"found {shown(given)}"
                    each = "model after the base" if method.on_deltas else "input"
                    raise RecipeError(
                        f"{where}.{name}: needs a list of {wanted} weights, one for each {each}; "
                        f"{'none given' if given is None else count}"
                    )
            elif name not in self.given and parameter.default is None:
                raise RecipeError(f"{where}.{name}: is missing; {method.name} needs it")
        try:
            self.weights(convention)
        except UnetscopeError as error:
            raise RecipeError(f"{where}: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, BlockWeights):
        return value.to_plain()
    if isinstance(value, dict):
        return {name: _plain(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    return float(value) if isinstance(value, Real) and not isinstance(value, bool | int) else value
