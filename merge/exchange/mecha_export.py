"""A recipe as sd-mecha's newest dialect, `version 0.1.0`, which its releases from 1.0 on read.

What sd-mecha cannot say is an error that names the step: kinds of layer and keys in block weights, labels with weights of their
own that share a slot there, methods that it does not have or defines otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

from ...checkpoints.architecture import Family
from ..errors import RecipeError
from ..recipe import MERGED, Recipe, Step
from .mecha_numbers import Number, Numbers, combined

# Components there, of a checkpoint of each family.
_TEXT = {"sd1": ("clip_l",), "sdxl": ("clip_l", "clip_g")}
_COMPONENTS = {"unet": "diffuser", "vae": "vae", "clip_l": "clip_l", "clip_g": "clip_g"}
_CONVERSIONS = {
    "sd1": ("sd1-supermerger_blocks", "convert_sd1_blocks_to_ldm"),
    "sdxl": ("sdxl-supermerger_blocks", "convert_sdxl_blocks_to_sgm"),
}


def to_mecha(recipe: Recipe, family: Family | None = None) -> str:
    """The text of a `.mecha` file that merges what the recipe merges.

    Args:
        recipe: paths of models are written as they stand in it.
        family: the architecture, which block weights need; SD1 and SDXL are known to sd-mecha.

    Raises:
        RecipeError: something that sd-mecha cannot say, naming the step or component.
    """
    return _Writer(recipe, family).text()


class _Writer:
    """Collects nodes; equal ones are written once."""

    def __init__(self, recipe: Recipe, family: Family | None):
        self.recipe, self.family = recipe, family
        self.numbers = Numbers(recipe, family)
        self.nodes: dict[str, str] = {}
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
        return "\n".join([*head, *self.nodes])

    def node(self, line: str) -> str:
        return self.nodes.setdefault(line, f"&{len(self.nodes)}")

    def merge(self, method: str, *references: str, **named: str) -> str:
        """A node of one of sd-mecha's methods."""
        arguments = " ".join([*references, *(f"{name}={value}" for name, value in named.items())])
        return self.node(f'merge "{method}" {arguments}')

    def model(self, path: str, where: str) -> str:
        return self.node(f'model {_quoted(path, where)} model_config=null merge_space="weight"')

    def source(self, name: str) -> str:
        """The node of a model, a step (with all below it) or a component's file."""
        if name not in self.recipe.steps:
            return self.model(self.recipe.models.get(name, name), f"models.{name}")
        for step in self.recipe.order(name):
            if step not in self.names:
                self.names[step] = self._step(step, self.recipe.steps[step])
        return self.names[name]

    def _step(self, name: str, step: Step) -> str:
        write = WRITERS.get(step.kind.name)
        if write is None:
            raise RecipeError(f"steps.{name}: sd-mecha has no method that does what {step.kind.name} does here")
        inputs = [self.names.get(source) or self.source(source) for source in step.inputs]
        return write(self, name, step, inputs)

    def number(self, value: Number) -> str:
        """A number, or the nodes of block weights."""
        if isinstance(value, float):
            return repr(value)
        config, conversion = _CONVERSIONS[self.family]
        values = self.node("dict " + " ".join(f"{slot}={x!r}" for slot, x in value.items()))
        return self.merge(conversion, self.node(f'literal {values} model_config="{config}" merge_space="param"'))

    def space(self, name: str) -> str:
        return self.recipe.space_of(name)

    def parts(self, component: str, where: str) -> tuple[str, ...]:
        """What a component of ours is called there, part by part."""
        if component == "text_encoders":
            if self.family not in _TEXT:
                raise RecipeError(
                    f"{where}: which text encoders there are depends on the architecture; give --family sd1 or sdxl"
                )
            return _TEXT[self.family]
        if component not in _COMPONENTS:
            raise RecipeError(f"{where}: sd-mecha has no component {component}")
        return (_COMPONENTS[component],)

    def replaced(self, whole: str, donor: str, component: str, where: str) -> str:
        """A model with a component of another."""
        for part in self.parts(component, where):
            whole = self.merge("fallback", self.merge("pick_component", donor, _quoted(part, where)), whole)
        return whole

    def _components(self) -> dict[str, str]:
        """Components that are not those of the result, and where they come from."""
        recipe = self.recipe
        copied = {"vae": recipe.models_of(recipe.result)[0]} if recipe.steps else {}
        return {component: source for component, source in (copied | recipe.components).items() if source != MERGED}


def _quoted(text: str, where: str) -> str:
    if "=" in text or "\n" in text or "\r" in text:
        raise RecipeError(
            f"{where}: sd-mecha cannot read {text!r:.200}, for = and line breaks end a word there; rename the file"
        )
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


Write = Callable[[_Writer, str, Step, list[str]], str]


def _alpha(writer: _Writer, name: str, step: Step, parameter: str = "alpha") -> str:
    return writer.number(writer.numbers.of(name, step, parameter))


def _weighted_sum(writer: _Writer, name: str, step: Step, inputs: list[str]) -> str:
    return writer.merge("weighted_sum", *inputs, alpha=_alpha(writer, name, step))


def _uniform(writer: _Writer, name: str, step: Step, inputs: list[str]) -> str:
    return writer.merge("n_average", *inputs)


def _copy(writer: _Writer, name: str, step: Step, inputs: list[str]) -> str:
    return inputs[0]


def _subtract(writer: _Writer, name: str, step: Step, inputs: list[str]) -> str:
    return writer.merge("subtract", *inputs)


def _add(writer: _Writer, name: str, step: Step, inputs: list[str]) -> str:
    return writer.merge("add_difference", *inputs, alpha=_alpha(writer, name, step))


def _add_difference(writer: _Writer, name: str, step: Step, inputs: list[str]) -> str:
    if "delta" in (writer.space(source) for source in step.inputs[1:]):
        raise RecipeError(f"steps.{name}: sd-mecha subtracts models only, and an input is a difference")
    difference = writer.merge("subtract", inputs[1], inputs[2])
    return writer.merge("add_difference", inputs[0], difference, alpha=_alpha(writer, name, step))


def _sum_twice(writer: _Writer, name: str, step: Step, inputs: list[str]) -> str:
    first = writer.merge("weighted_sum", inputs[0], inputs[1], alpha=_alpha(writer, name, step))
    return writer.merge("weighted_sum", first, inputs[2], alpha=_alpha(writer, name, step, "beta"))


def _shares(writer: _Writer, name: str, step: Step, inputs: list[str]) -> str:
    """Any weighted sum whose shares add up to one: the first input, moved towards each of the others."""
    shares = writer.numbers.shares(name, step)
    total = combined(lambda *x: sum(x), *shares)
    if any(abs(x - 1.0) > 1e-9 for x in (total.values() if isinstance(total, dict) else [total])):
        raise RecipeError(f"steps.{name}: the weights do not add up to one, and sd-mecha scales differences only")
    if "delta" in (writer.space(source) for source in step.inputs):
        raise RecipeError(f"steps.{name}: sd-mecha has no {step.kind.name} of differences")
    done = inputs[0]
    for reference, share in zip(inputs[1:], shares[1:], strict=True):
        if reference != inputs[0]:
            difference = writer.merge("subtract", reference, inputs[0])
            done = writer.merge("add_difference", done, difference, alpha=writer.number(share))
    return done


def _task_arithmetic(writer: _Writer, name: str, step: Step, inputs: list[str]) -> str:
    shares = writer.numbers.shares(name, step)
    done = inputs[0]
    for source, reference, share in zip(step.inputs[1:], inputs[1:], shares, strict=True):
        delta = reference if writer.space(source) == "delta" else writer.merge("subtract", reference, inputs[0])
        done = writer.merge("add_difference", done, delta, alpha=writer.number(share))
    return done


def _masked(mask: str) -> Write:
    """a + mask (b - c)."""

    def write(writer: _Writer, name: str, step: Step, inputs: list[str]) -> str:
        factor = writer.merge(mask, *inputs, alpha=_alpha(writer, name, step))
        return writer.merge("add_difference", inputs[0], writer.merge("subtract", inputs[1], inputs[2]), alpha=factor)

    return write


def _fallback(writer: _Writer, name: str, step: Step, inputs: list[str]) -> str:
    return writer.merge("fallback", *inputs)


def _pick_component(writer: _Writer, name: str, step: Step, inputs: list[str]) -> str:
    return writer.replaced(inputs[0], inputs[1], step.given["component"], f"steps.{name}.component")


def _clamp(writer: _Writer, name: str, step: Step, inputs: list[str]) -> str:
    return writer.merge("clamp", *inputs)


def _tensor_sum(writer: _Writer, name: str, step: Step, inputs: list[str]) -> str:
    width, offset = (writer.numbers.of(name, step, parameter) for parameter in ("alpha", "beta"))
    if isinstance(width, dict) or isinstance(offset, dict):
        raise RecipeError(f"steps.{name}: sd-mecha's tensor sum has no block weights")
    return writer.merge("tensor_sum", *inputs, width=writer.number(width), offset=writer.number(offset))


def _slerp(writer: _Writer, name: str, step: Step, inputs: list[str]) -> str:
    kind = step.weights(writer.recipe.convention).get("kind")
    if kind != "directions":
        raise RecipeError(f"steps.{name}.kind: sd-mecha's slerp is that of directions, not of {kind}")
    return writer.merge("slerp", *inputs, alpha=_alpha(writer, name, step))


WRITERS: dict[str, Write] = {
    "uniform": _uniform,
    "weighted_sum": _weighted_sum,
    "weighted_average": _shares,
    "triple_sum": _shares,
    "weighted_subtraction": _shares,
    "add_difference": _add_difference,
    "sum_twice": _sum_twice,
    "task_arithmetic": _task_arithmetic,
    "subtract": _subtract,
    "add": _add,
    "copy": _copy,
    "fallback": _fallback,
    "pick_component": _pick_component,
    "clamp": _clamp,
    "tensor_sum": _tensor_sum,
    "slerp": _slerp,
    "train_difference": _masked("train_difference_mask"),
    "add_opposite": _masked("add_opposite_mask"),
}
