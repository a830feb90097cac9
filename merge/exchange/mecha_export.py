"""A recipe as sd-mecha's newest dialect, `version 0.1.0`, which its releases from 1.0 on read.

What sd-mecha cannot say is an error that names the step: kinds of layer and keys in block weights, labels with weights of their
own that share a slot there, LoRAs, methods that it does not have or defines otherwise. What it does a little differently is a
comment on top.
"""

from __future__ import annotations

from ...checkpoints.errors import RecipeError
from ..recipe import MERGED, Recipe, Step
from .mecha_writer import MechaWriter
from .mecha_writers import writer_of


def to_mecha(recipe: Recipe, family: str | None = None) -> str:
    """The text of a `.mecha` file that merges what the recipe merges.

    Args:
        recipe: paths of models are written as they stand in it.
        family: the architecture, which block weights need; SD1 and SDXL are known to sd-mecha.

    Raises:
        RecipeError: something that sd-mecha cannot say, naming the step or component.

    Example:
        >>> from unetscope.merge import Recipe
        >>> step = {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.25}
        >>> recipe = Recipe.parse({"models": {"a": "a.safetensors", "b": "b.safetensors"}, "steps": {"mix": step}})
        >>> print(to_mecha(recipe, "sd1").splitlines()[-3])
        merge "weighted_sum" &0 &1 alpha=0.25
    """
    return _RecipeWriter(recipe, family).text()


class _RecipeWriter(MechaWriter):
    """Writes the steps of a recipe, each after its inputs."""

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

    def _components(self) -> dict[str, str]:
        """Components that are not those of the result, and where they come from."""
        recipe = self.recipe
        copied = {"vae": recipe.models_of(recipe.result)[0]} if recipe.steps else {}
        return {component: source for component, source in (copied | recipe.components).items() if source != MERGED}
