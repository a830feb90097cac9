"""How each of our methods is said to sd-mecha: nodes for a step, given those of its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import RecipeError
from ..step import Step
from .mecha_numbers import combined
from .mecha_sparse_writers import dare, della, even_weights, ties

if TYPE_CHECKING:
    from .mecha_export import Writer

Write = Callable[["Writer", str, Step, list[str]], str]


def _alpha(writer: Writer, name: str, step: Step, parameter: str = "alpha") -> str:
    return writer.number(writer.numbers.of(name, step, parameter))


def _weighted_sum(writer: Writer, name: str, step: Step, inputs: list[str]) -> str:
    return writer.merge("weighted_sum", *inputs, alpha=_alpha(writer, name, step))


def _uniform(writer: Writer, name: str, step: Step, inputs: list[str]) -> str:
    return writer.merge("n_average", *inputs)


def _copy(writer: Writer, name: str, step: Step, inputs: list[str]) -> str:
    return inputs[0]


def _subtract(writer: Writer, name: str, step: Step, inputs: list[str]) -> str:
    return writer.merge("subtract", *inputs)


def _add(writer: Writer, name: str, step: Step, inputs: list[str]) -> str:
    return writer.merge("add_difference", *inputs, alpha=_alpha(writer, name, step))


def _add_difference(writer: Writer, name: str, step: Step, inputs: list[str]) -> str:
    if "delta" in (writer.space(source) for source in step.inputs[1:]):
        raise RecipeError(f"steps.{name}: sd-mecha subtracts models only, and an input is a difference")
    difference = writer.merge("subtract", inputs[1], inputs[2])
    return writer.merge("add_difference", inputs[0], difference, alpha=_alpha(writer, name, step))


def _sum_twice(writer: Writer, name: str, step: Step, inputs: list[str]) -> str:
    first = writer.merge("weighted_sum", inputs[0], inputs[1], alpha=_alpha(writer, name, step))
    return writer.merge("weighted_sum", first, inputs[2], alpha=_alpha(writer, name, step, "beta"))


def _shares(writer: Writer, name: str, step: Step, inputs: list[str]) -> str:
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


def _task_arithmetic(writer: Writer, name: str, step: Step, inputs: list[str]) -> str:
    shares = writer.numbers.shares(name, step)
    done = inputs[0]
    for source, reference, share in zip(step.inputs[1:], inputs[1:], shares, strict=True):
        delta = reference if writer.space(source) == "delta" else writer.merge("subtract", reference, inputs[0])
        done = writer.merge("add_difference", done, delta, alpha=writer.number(share))
    return done


def _masked(mask: str) -> Write:
    """a + mask (b - c)."""

    def write(writer: Writer, name: str, step: Step, inputs: list[str]) -> str:
        factor = writer.merge(mask, *inputs, alpha=_alpha(writer, name, step))
        return writer.merge("add_difference", inputs[0], writer.merge("subtract", inputs[1], inputs[2]), alpha=factor)

    return write


def _fallback(writer: Writer, name: str, step: Step, inputs: list[str]) -> str:
    return writer.merge("fallback", *inputs)


def _pick_component(writer: Writer, name: str, step: Step, inputs: list[str]) -> str:
    return writer.replaced(inputs[0], inputs[1], step.given["component"], f"steps.{name}.component")


def _clamp(writer: Writer, name: str, step: Step, inputs: list[str]) -> str:
    return writer.merge("clamp", *inputs)


def _tensor_sum(writer: Writer, name: str, step: Step, inputs: list[str]) -> str:
    width, offset = (writer.numbers.of(name, step, parameter) for parameter in ("alpha", "beta"))
    if isinstance(width, dict) or isinstance(offset, dict):
        raise RecipeError(f"steps.{name}: sd-mecha's tensor sum has no block weights")
    return writer.merge("tensor_sum", *inputs, width=writer.number(width), offset=writer.number(offset))


def _slerp(writer: Writer, name: str, step: Step, inputs: list[str]) -> str:
    if step.given.get("norms", "lerp") != "lerp":
        raise RecipeError(f"steps.{name}.norms: sd-mecha's slerp is that with norms: lerp")
    return writer.merge("slerp", *inputs, alpha=_alpha(writer, name, step))


def _perpendicular(writer: Writer, name: str, step: Step, inputs: list[str]) -> str:
    return writer.merge("perpendicular_component", *inputs)


def _add_perpendicular(writer: Writer, name: str, step: Step, inputs: list[str]) -> str:
    if "delta" in (writer.space(source) for source in step.inputs):
        raise RecipeError(f"steps.{name}: sd-mecha subtracts models only, and an input is a difference")
    a, b = (writer.merge("subtract", x, inputs[2]) for x in inputs[:2])
    added = writer.merge("perpendicular_component", a, b)
    return writer.merge("add_difference", inputs[0], added, alpha=_alpha(writer, name, step))


def _geometric_median(writer: Writer, name: str, step: Step, inputs: list[str]) -> str:
    even_weights(writer, name, step)
    return writer.merge("geometric_median", *inputs)


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
    "perpendicular": _perpendicular,
    "add_perpendicular": _add_perpendicular,
    "geometric_median": _geometric_median,
    "ties": ties,
    "dare": dare,
    "della": della,
    "train_difference": _masked("train_difference_mask"),
    "add_opposite": _masked("add_opposite_mask"),
}
