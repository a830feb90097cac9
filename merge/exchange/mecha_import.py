"""A graph of sd-mecha as steps of a recipe.

Weights and deltas are different spaces on both sides, so most nodes become one step. Three things differ: a delta that some
method makes of other deltas (TIES, model stock...) waits here for the model that it is added to, which is our method's base; a
mask waits for the difference that it multiplies; and block weights are nodes there, values here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...checkpoints.families import FAMILIES, Family
from .draft import Draft, Imported, Request, one_line
from .mecha_graph import Delta, MechaGraph, Refused, Waiting, Weights
from .mecha_merges import reader
from .mecha_text import MechaLine, Reference, parse_mecha


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
    graph = _Reader(Draft(f"{name} (sd-mecha recipe, {dialect})", request), bool(version))
    return graph.imported(lines)


def _family_of(lines: list[MechaLine]) -> Family | None:
    """The architecture that models and block weights are said to be of: `sdxl-sgm`, or `sdxl` in older dialects."""
    for line in lines:
        words = [x for x in (*line.arguments[1:], *line.named.values()) if isinstance(x, str)]
        parts = {part for word in words for part in word.split("-")}
        named = [family for family in FAMILIES.values() if family.mecha and family.id in parts]
        if named and line.command in ("model", "literal", "lora"):
            return named[0]
    return None


class _Reader(MechaGraph):
    """Reads a graph line by line."""

    def imported(self, lines: list[MechaLine]) -> Imported:
        """All nodes; the last one is the result."""
        for self.line in lines:
            self.nodes.append(self._node())
        result = self.nodes[-1]
        if not isinstance(result, Weights):
            raise self.draft.error(f"line {self.line.number}: the last node is the result, and this one is not a model")
        components = {"vae": "merge"} if self.versioned else {}
        components |= result.components
        if not self.versioned:
            self.draft.note(
                "import.vae_copied", "sd-mecha of that time left the VAE as it is: it is copied from the first model"
            )
        self.draft.note(
            "import.rounding",
            "what is rounded where is decided by sd-mecha's call, not by its recipe: the result is written as fp16",
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

    # -- nodes that are not merge --------------------------------------------------------------------------------------

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
        self.draft.note("import.parameter", f"{name} is a parameter of the recipe; write the model's path in below")
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
            return self.blocks(value, words)
        return value

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
            return self.blocks(inputs[0], [method]) if isinstance(inputs[0], dict) else inputs[0]
        known = reader(method)
        if known is None:
            raise Refused(f"sd-mecha's method {one_line(method, 60)!r} has no equivalent here")
        signature, build = known
        return build(self, _bound(signature, inputs, named, method))


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
