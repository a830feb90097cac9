"""What the nodes of an sd-mecha graph come to here, and the steps that they become."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...checkpoints.errors import UnetscopeError
from ..block_weights import BlockWeights
from ..methods import METHODS
from .draft import Draft, one_line
from .mecha_blocks import lines_of
from .mecha_text import MechaLine


@dataclass(frozen=True)
class Weights:
    """A model or step; some components of it may be another's."""

    name: str
    components: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Delta:
    """A step or LoRA that is a difference; `of` holds a and b where it is a - b."""

    name: str
    of: tuple[str, str] | None = None


@dataclass(frozen=True)
class Waiting:
    """A delta that our method can only make while it adds it to a base."""

    method: str
    deltas: tuple[Delta, ...]
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Mask:
    """A factor for b - c that depends on a, b and c."""

    method: str
    models: tuple[str, str, str]
    alpha: Any


@dataclass(frozen=True)
class BlockNode:
    """Block weights, as our recipes write them."""

    weights: Any


@dataclass(frozen=True)
class ComponentNode:
    """One component of a model."""

    component: str
    name: str


@dataclass(frozen=True)
class Without:
    """A model without one component."""

    component: str
    name: str


class Refused(Exception):
    """A node that has no equivalent, with the reason."""


class MechaGraph:
    """The nodes so far, as what they come to here; makes steps of a draft."""

    def __init__(self, draft: Draft, versioned: bool):
        self.draft, self.versioned = draft, versioned
        self.nodes: list[Any] = []
        self.line = MechaLine(0, "")

    def step(self, method: str, inputs: list[str], **parameters: Any) -> str:
        return self.draft.step(method, inputs, parameters)

    def number(self, given: dict[str, Any], name: str, default: float) -> Any:
        """A parameter that may be block weights."""
        value = given.get(name, default)
        if isinstance(value, BlockNode):
            return value.weights
        if isinstance(value, dict):
            return self.blocks(value).weights
        return self.plain(given, name, default)

    def plain(self, given: dict[str, Any], name: str, default: Any) -> Any:
        """A parameter that is one value for the whole model."""
        value = given.get(name, default)
        if value is not None and not isinstance(value, int | float | bool | str):
            raise Refused(f"{name} is not a number")
        if isinstance(default, float) and (isinstance(value, bool | str) or value is None):
            raise Refused(f"{name} is {one_line(value, 40)}, not a number")
        return float(value) if isinstance(default, float) else value

    def blocks(self, values: dict, words: list[str] = ()) -> BlockNode:
        try:
            weights, notes = lines_of(values, " ".join(words))
            BlockWeights.parse(weights)
        except UnetscopeError as error:
            raise Refused(str(error)) from None
        for note in notes:
            self.draft.note("import.line", f"line {self.line.number}: {note}")
        return BlockNode(weights)

    def weights(self, value: Any) -> str:
        """The name of an input that has to be a model."""
        if not isinstance(value, Weights):
            raise Refused("an input is not a model")
        name = value.name
        for component, source in value.components.items():
            name = self.step("pick_component", [name, source], component=component)
        return name

    def source(self, value: Any) -> str:
        """The name of an input, model or difference."""
        return self.delta(value).name if isinstance(value, Delta | Waiting) else self.weights(value)

    def delta(self, value: Any) -> Delta:
        """An input that has to be a difference; one that waits is added to a model and that taken away again."""
        if isinstance(value, Waiting):
            base = self._any_model(value)
            return self.minus(self.added(base, value, 1.0), base)
        if not isinstance(value, Delta):
            raise Refused("an input is not a difference of models")
        return value

    def minus(self, a: str, b: str) -> Delta:
        return Delta(self.step("subtract", [a, b]), (a, b))

    def added(self, base: str, waiting: Waiting, alpha: Any) -> str:
        """base + alpha times what waits."""
        inputs = [d.of[0] if d.of and d.of[1] == base else d.name for d in waiting.deltas]
        parameters, own = dict(waiting.parameters), waiting.parameters.get("alpha", 1.0)
        if "alpha" in METHODS[waiting.method].parameters and (isinstance(alpha, float) or own == 1.0):
            parameters["alpha"], alpha = alpha * own if isinstance(alpha, float) else alpha, 1.0
        if parameters.get("alpha") == 1.0:
            del parameters["alpha"]
        done = self.step(waiting.method, [base, *inputs], **parameters)
        return done if alpha == 1.0 else self.step("weighted_sum", [base, done], alpha=alpha)

    def _any_model(self, waiting: Waiting) -> str:
        name = next((d.of[1] for d in waiting.deltas if d.of), None)
        if name is None:
            raise Refused("no model stands below these differences")
        return name
