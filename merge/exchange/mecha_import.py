"""A graph of sd-mecha as steps of a recipe.

Weights and deltas are different spaces on both sides, so most nodes become one step. Three things differ: a delta that some
method makes of other deltas (TIES, model stock...) waits here for the model that it is added to, which is our method's base; a
mask waits for the difference that it multiplies; and block weights are nodes there, values here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...checkpoints.errors import UnetscopeError
from ...checkpoints.families import FAMILIES, Family
from ..block_weights import BlockWeights
from ..methods import METHODS
from .draft import Draft, Imported, Request, one_line
from .mecha_blocks import lines_of
from .mecha_merges import reader
from .mecha_nodes import Blocks, Delta, Refused, Waiting, Weights
from .mecha_text import Line, Reference, parse_mecha


def from_mecha(text: str, name: str, request: Request) -> Imported:
    """The recipe that a `.mecha` text stands for.

    Raises:
        RecipeError: text that is no such recipe; a node that has no equivalent here.
    """
    where = one_line(name)
    version, lines = parse_mecha(text, where)
    if request.family is None:
        request = replace(request, family=_family_of(lines))
    dialect = f"version {version}" if version else "of before versions"
    graph = Graph(Draft(f"{name} (sd-mecha recipe, {dialect})", request), bool(version))
    return graph.imported(lines)


def _family_of(lines: list[Line]) -> Family | None:
    """The architecture that models and block weights are said to be of: `sdxl-sgm`, or `sdxl` in older dialects."""
    for line in lines:
        words = [x for x in (*line.arguments[1:], *line.named.values()) if isinstance(x, str)]
        parts = {part for word in words for part in word.split("-")}
        named = [family for family in FAMILIES.values() if family.mecha and family.id in parts]
        if named and line.command in ("model", "literal", "lora"):
            return named[0]
    return None


class Graph:
    """The nodes so far, as what they come to here."""

    def __init__(self, draft: Draft, versioned: bool):
        self.draft, self.versioned = draft, versioned
        self.nodes: list[Any] = []
        self.line = Line(0, "")

    def imported(self, lines: list[Line]) -> Imported:
        """All nodes; the last one is the result."""
        for self.line in lines:
            self.nodes.append(self._node())
        result = self.nodes[-1]
        if not isinstance(result, Weights):
            raise self.draft.error(f"line {self.line.number}: the last node is the result, and this one is no model")
        components = {"vae": "merge"} if self.versioned else {}
        components |= result.components
        if not self.versioned:
            self.draft.note("sd-mecha of that time left the VAE as it is: it is copied from the first model")
        self.draft.note(
            "what is rounded where is decided by sd-mecha's call, not by its recipe: the result is written as fp16"
        )
        return self.draft.finish(result.name, components=components)

    def _node(self) -> Any:
        line = self.line
        arguments = [self._known(value) for value in line.arguments]
        named = {name: self._known(value) for name, value in line.named.items()}
        try:
            return getattr(self, f"_{line.command}")(arguments, named)
        except Refused as reason:
            self.draft.refuse(f"line {line.number}: {reason}")
            return next((x for x in arguments if isinstance(x, Weights | Delta | Waiting)), None)

    def _known(self, value: Any) -> Any:
        return self.nodes[value.index] if isinstance(value, Reference) else value

    # -- nodes that are no merge --------------------------------------------------------------------------------------

    def _model(self, arguments: list, named: dict) -> Any:
        path = arguments[0] if arguments else named.get("path")
        if not isinstance(path, str) or not path:
            raise self.draft.error(f"line {self.line.number}: a model has no path")
        words = [x for x in (*arguments[1:], *named.values()) if isinstance(x, str)]
        if any("lora" in word.lower() or "lycoris" in word.lower() for word in words):
            return Delta(self.draft.model(path, lora=True))
        name = self.draft.model(path)
        if "delta" in words:
            raise Refused(f"{name} is a file of differences ({', '.join(words)}), which only LoRAs can be here")
        return Weights(name)

    def _lora(self, arguments: list, named: dict) -> Any:
        return self._model([*arguments, "lora"], named)

    def _parameter(self, arguments: list, named: dict) -> Any:
        name = arguments[0] if arguments and isinstance(arguments[0], str) else "parameter"
        self.draft.note(f"{name} is a parameter of the recipe; write the model's path in below")
        return Weights(self.draft.model(name))

    def _dict(self, arguments: list, named: dict) -> Any:
        if not named and arguments and isinstance(arguments[0], Weights | Delta):
            raise Refused("a dictionary of models has no equivalent")
        return dict(named)

    def _literal(self, arguments: list, named: dict) -> Any:
        value = arguments[0] if arguments else named.get("value_dict")
        words = [x for x in (*arguments[1:], *named.values()) if isinstance(x, str)]
        if isinstance(value, dict) and set(value) == {"key"}:
            return value["key"]
        if isinstance(value, dict):
            return self._blocks(value, words)
        return value

    def _blocks(self, values: dict, words: list[str] = ()) -> Blocks:
        try:
            weights, notes = lines_of(values, " ".join(words))
            BlockWeights.parse(weights)
        except UnetscopeError as error:
            raise Refused(str(error)) from None
        for note in notes:
            self.draft.note(f"line {self.line.number}: {note}")
        return Blocks(weights)

    # -- merges -------------------------------------------------------------------------------------------------------

    def _call(self, arguments: list, named: dict) -> Any:
        return self._merge(arguments, named)

    def _merge(self, arguments: list, named: dict) -> Any:
        if not arguments or not isinstance(arguments[0], str):
            raise self.draft.error(f"line {self.line.number}: a merge does not name its method")
        method, *inputs = arguments
        if method.startswith("convert_"):
            if not inputs:
                raise Refused(f"{method} has no input")
            return self._blocks(inputs[0], [method]) if isinstance(inputs[0], dict) else inputs[0]
        known = reader(method)
        if known is None:
            raise Refused(f"sd-mecha's method {one_line(method, 60)!r} has no equivalent here")
        signature, build = known
        return build(self, _bound(signature, inputs, named, method))

    def step(self, method: str, inputs: list[str], **parameters: Any) -> str:
        return self.draft.step(method, inputs, parameters)

    def number(self, given: dict[str, Any], name: str, default: float) -> Any:
        """A parameter that may be block weights."""
        value = given.get(name, default)
        if isinstance(value, Blocks):
            return value.weights
        if isinstance(value, dict):
            return self._blocks(value).weights
        return self.plain(given, name, default)

    def plain(self, given: dict[str, Any], name: str, default: Any) -> Any:
        """A parameter that is one value for the whole model."""
        value = given.get(name, default)
        if value is not None and not isinstance(value, int | float | bool | str):
            raise Refused(f"{name} is no number")
        if isinstance(default, float) and (isinstance(value, bool | str) or value is None):
            raise Refused(f"{name} is {one_line(value, 40)}, no number")
        return float(value) if isinstance(default, float) else value

    def weights(self, value: Any) -> str:
        """The name of an input that has to be a model."""
        if not isinstance(value, Weights):
            raise Refused("an input is no model")
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
            raise Refused("an input is no difference of models")
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


def _bound(signature: str, inputs: list, named: dict, method: str) -> dict[str, Any]:
    """Arguments by name; `*models` takes all that are left."""
    given, names = {}, signature.split()
    for i, name in enumerate(names):
        if name.startswith("*"):
            rest = [x for x in inputs[i:] if isinstance(x, Weights | Delta | Waiting)]
            given[name[1:]] = rest
            if not rest:
                raise Refused(f"{method} has no models")
            break
        if i < len(inputs):
            given[name] = inputs[i]
    else:
        if len(inputs) > len(names):
            raise Refused(f"{method} has {len(inputs)} arguments, and takes {len(names)}")
    return given | named
