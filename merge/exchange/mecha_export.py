"""A recipe as sd-mecha's newest dialect, `version 0.1.0`, which its releases from 1.0 on read.

What sd-mecha cannot say is an error that names the step: kinds of layer and keys in block weights, labels with weights of their
own that share a slot there, LoRAs, methods that it does not have or defines otherwise. What it does a little differently is a
comment on top.
"""

from __future__ import annotations

from ...checkpoints.families import FAMILIES, family_of
from ..errors import RecipeError
from ..recipe import MERGED, Recipe
from ..step import Step
from .draft import one_line
from .mecha_numbers import Number, Numbers
from .mecha_writers import writer_of

# Components there.
_COMPONENTS = {"unet": "diffuser", "vae": "vae", "clip_l": "clip_l", "clip_g": "clip_g"}


def to_mecha(recipe: Recipe, family: str | None = None) -> str:
    """The text of a `.mecha` file that merges what the recipe merges.

    Args:
        recipe: paths of models are written as they stand in it.
        family: the architecture, which block weights need; SD1 and SDXL are known to sd-mecha.

    Raises:
        RecipeError: something that sd-mecha cannot say, naming the step or component.
    """
    return Writer(recipe, family).text()


class Writer:
    """Collects nodes; equal ones are written once."""

    def __init__(self, recipe: Recipe, family: str | None):
        self.recipe, self.family = recipe, family
        self.numbers = Numbers(recipe, family)
        self.nodes: dict[str, str] = {}
        self.remarks: dict[str, None] = {}
        self.names: dict[str, str] = {}

    def text(self) -> str:
        recipe = self.recipe
        done = self.source(recipe.result)
        for component, source in self._components().items():
            done = self.replaced(done, self.source(source), component, f"components.{component}")
        # The last line is the result, and equal lines are written once: a result that stands above is named again.
        if done != f"&{len(self.nodes) - 1}":
            done = self.merge("fallback", done, done)
        head = ["version 0.1.0", "# Written by Unetscope; the dtype of the result is an argument of sd_mecha.merge"]
        return "\n".join([*head, *self.remarks, *self.nodes])

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

    def source(self, name: str) -> str:
        """The node of a model, a step (with all below it) or a component's file."""
        if name in self.recipe.loras:
            raise RecipeError(
                f"loras.{name}: a LoRA is not carried over to sd-mecha; bake it into its model first (lora bake)"
            )
        if name not in self.recipe.steps:
            return self.model(self.recipe.models.get(name, name), f"models.{name}")
        for step in self.recipe.order(name):
            if step not in self.names:
                self.names[step] = self._step(step, self.recipe.steps[step])
        return self.names[name]

    def _step(self, name: str, step: Step) -> str:
        write = writer_of(step.kind)
        if write is None:
            raise RecipeError(f"steps.{name}: sd-mecha has no method that does what {step.kind.name} does here")
        inputs = [self.names.get(source) or self.source(source) for source in step.inputs]
        return write(self, name, step, inputs)

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

    def _components(self) -> dict[str, str]:
        """Components that are not those of the result, and where they come from."""
        recipe = self.recipe
        copied = {"vae": recipe.models_of(recipe.result)[0]} if recipe.steps else {}
        return {component: source for component, source in (copied | recipe.components).items() if source != MERGED}


def quoted(text: str, where: str) -> str:
    if "=" in text or "\n" in text or "\r" in text:
        raise RecipeError(
            f"{where}: sd-mecha cannot read {text!r:.200}, for = and line breaks end a word there; rename the file"
        )
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
