"""Nodes of an sd-mecha recipe as text: what all that is written is written with."""

from __future__ import annotations

from ...checkpoints.errors import RecipeError
from ...checkpoints.families import FAMILIES, family_of
from ..recipe import Recipe
from .draft import one_line
from .mecha_numbers import Number, Numbers

# Components there.
_COMPONENTS = {"unet": "diffuser", "vae": "vae", "clip_l": "clip_l", "clip_g": "clip_g"}


class MechaWriter:
    """Collects nodes; equal ones are written once."""

    def __init__(self, recipe: Recipe, family: str | None):
        self.recipe, self.family = recipe, family
        self.numbers = Numbers(recipe, family)
        self.nodes: dict[str, str] = {}
        self.remarks: dict[str, None] = {}
        self.names: dict[str, str] = {}

    def node(self, line: str) -> str:
        return self.nodes.setdefault(line, f"&{len(self.nodes)}")

    def remark(self, step: str, text: str) -> None:
        """A comment on what sd-mecha does a little differently."""
        self.remarks[one_line(f"# steps.{step}: {text}")] = None

    def merge(self, method: str, *references: str, **named: str) -> str:
        """A node of one of sd-mecha's methods."""
        arguments = " ".join([*references, *(f"{name}={value}" for name, value in named.items())])
        return self.node(f'merge "{method}" {arguments}')

    def model(self, path: str, where: str) -> str:
        return self.node(f'model {quoted(path, where)} model_config=null merge_space="weight"')

    def number(self, value: Number) -> str:
        """A number, or the nodes of block weights."""
        if isinstance(value, float):
            return repr(value)
        facts = family_of(self.family).mecha
        values = self.node("dict " + " ".join(f"{slot}={x!r}" for slot, x in value.items()))
        return self.merge(
            facts.conversion, self.node(f'literal {values} model_config="{facts.blocks}" merge_space="param"')
        )

    def space(self, name: str) -> str:
        return self.recipe.space_of(name)

    def parts(self, component: str, where: str) -> tuple[str, ...]:
        """What a component of ours is called there, part by part."""
        if component == "text_encoders":
            family = family_of(self.family) if self.family else None
            if family is None or family.mecha is None:
                known = " or ".join(f.id for f in FAMILIES.values() if f.mecha)
                raise RecipeError(
                    f"{where}: which text encoders there are depends on the architecture; give --family {known}"
                )
            return tuple(label.lower() for label in family.text_encoders)
        if component not in _COMPONENTS:
            raise RecipeError(f"{where}: sd-mecha has no component {component}")
        return (_COMPONENTS[component],)

    def replaced(self, whole: str, donor: str, component: str, where: str) -> str:
        """A model with a component of another."""
        for part in self.parts(component, where):
            whole = self.merge("fallback", self.merge("pick_component", donor, quoted(part, where)), whole)
        return whole


def quoted(text: str, where: str) -> str:
    if "=" in text or "\n" in text or "\r" in text:
        raise RecipeError(
            f"{where}: sd-mecha cannot read {text!r:.200}, for = and line breaks end a word there; rename the file"
        )
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
