"""How our methods are said to sd-mecha: nodes for a step, given those of its inputs.

A method declares which of sd-mecha's it is (`methods.other_tools.Mecha`): most are written as the record says, the others by a
translation that stands here, or in `mecha_sparse_writers`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ...checkpoints.errors import RecipeError
from ..methods import Method
from ..methods.other_tools import Mecha
from ..recipe import Step
from .mecha_numbers import combined
from .mecha_sparse_writers import dare, della, even_weights, ties
from .mecha_writer import MechaWriter

Write = Callable[[MechaWriter, str, Step, list[str]], str]


def _alpha(writer: MechaWriter, name: str, step: Step, parameter: str = "alpha") -> str:
    return writer.number(writer.numbers.of(name, step, parameter))


def _plain(said: Mecha, writer: MechaWriter, name: str, step: Step, inputs: list[str]) -> str:
    """A node of one method, with the numbers that the record names."""
    known = {ours for ours, _ in said.numbers.values()}
    for parameter in step.kind.parameters.values():
        value = step.given.get(parameter.name, parameter.default)
        if parameter.kind == "numbers":
            even_weights(writer, name, step)
        elif parameter.name in said.fixed and value != said.fixed[parameter.name]:
            raise RecipeError(
                f"steps.{name}.{parameter.name}: sd-mecha's {said.name} is that with {parameter.name}: {said.fixed[parameter.name]}"
            )
        elif parameter.name not in (*known, *said.fixed) and value != parameter.default:
            raise RecipeError(f"steps.{name}.{parameter.name}: sd-mecha's {said.name} has no {parameter.name}")
    numbers = {theirs: writer.numbers.of(name, step, ours) for theirs, (ours, _) in said.numbers.items()}
    if not said.blocks and any(isinstance(number, dict) for number in numbers.values()):
        raise RecipeError(f"steps.{name}: sd-mecha's {step.kind.name.replace('_', ' ')} has no block weights")
    return writer.merge(said.name, *inputs, **{theirs: writer.number(number) for theirs, number in numbers.items()})


def _same(writer: MechaWriter, name: str, step: Step, inputs: list[str]) -> str:
    return inputs[0]


def _added(writer: MechaWriter, name: str, step: Step, inputs: list[str]) -> str:
    if "delta" in (writer.space(source) for source in step.inputs[1:]):
        raise RecipeError(f"steps.{name}: sd-mecha subtracts models only, and an input is a difference")
    difference = writer.merge("subtract", inputs[1], inputs[2])
    return writer.merge("add_difference", inputs[0], difference, alpha=_alpha(writer, name, step))


def _twice(writer: MechaWriter, name: str, step: Step, inputs: list[str]) -> str:
    first = writer.merge("weighted_sum", inputs[0], inputs[1], alpha=_alpha(writer, name, step))
    return writer.merge("weighted_sum", first, inputs[2], alpha=_alpha(writer, name, step, "beta"))


def _shares(writer: MechaWriter, name: str, step: Step, inputs: list[str]) -> str:
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


def _tasks(writer: MechaWriter, name: str, step: Step, inputs: list[str]) -> str:
    shares = writer.numbers.shares(name, step)
    done = inputs[0]
    for source, reference, share in zip(step.inputs[1:], inputs[1:], shares, strict=True):
        delta = reference if writer.space(source) == "delta" else writer.merge("subtract", reference, inputs[0])
        done = writer.merge("add_difference", done, delta, alpha=writer.number(share))
    return done


def _masked(said: Mecha, writer: MechaWriter, name: str, step: Step, inputs: list[str]) -> str:
    """a + mask (b - c)."""
    factor = writer.merge(said.name, *inputs, alpha=_alpha(writer, name, step))
    return writer.merge("add_difference", inputs[0], writer.merge("subtract", inputs[1], inputs[2]), alpha=factor)


def _component(writer: MechaWriter, name: str, step: Step, inputs: list[str]) -> str:
    return writer.replaced(inputs[0], inputs[1], step.given["component"], f"steps.{name}.component")


def _perpendicular(writer: MechaWriter, name: str, step: Step, inputs: list[str]) -> str:
    if "delta" in (writer.space(source) for source in step.inputs):
        raise RecipeError(f"steps.{name}: sd-mecha subtracts models only, and an input is a difference")
    a, b = (writer.merge("subtract", x, inputs[2]) for x in inputs[:2])
    added = writer.merge("perpendicular_component", a, b)
    return writer.merge("add_difference", inputs[0], added, alpha=_alpha(writer, name, step))


# By the name of the translation that a method declares (`Mecha.write`); the first two get the record.
_BY_RECORD = {"plain": _plain, "masked": _masked}
_WRITTEN: dict[str, Write] = {
    "added": _added,
    "component": _component,
    "dropped": dare,
    "dropped by rank": della,
    "right angles": _perpendicular,
    "same": _same,
    "shares": _shares,
    "tasks": _tasks,
    "trimmed": ties,
    "twice": _twice,
}


def writer_of(method: Method) -> Write | None:
    """What writes a step of a method; None where sd-mecha has nothing that does the same."""
    said = next((said for said in method.mecha if said.write), None)
    if said is None:
        return None
    write = partial(_BY_RECORD[said.write], said) if said.write in _BY_RECORD else _WRITTEN[said.write]

    def written(writer: MechaWriter, name: str, step: Step, inputs: list[str]) -> str:
        if said.note:
            writer.remark(name, said.note)
        return write(writer, name, step, inputs)

    return written
