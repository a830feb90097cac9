"""TIES, DARE and DELLA for sd-mecha, which has them with even weights and signs elected."""

from __future__ import annotations

from ...checkpoints.errors import RecipeError
from ..recipe import Step
from .mecha_writer import MechaWriter


def ties(writer: MechaWriter, name: str, step: Step, inputs: list[str]) -> str:
    """Nodes for TIES; sd-mecha's median of elected differences is part of another method."""
    even_weights(writer, name, step)
    density, median = _number(writer, name, step, "density"), _combine(name, step) == "median"
    if density != 1.0:
        writer.remark(name, f"sd-mecha keeps one element more of each difference than a share of {density:g}")
    if median:
        more = {"vote_sgn": _vote(name, step), "apply_stock": "false", "apply_median": "true"}
        found = writer.merge("ties_sum_extended", *_deltas(writer, step, inputs), k=repr(density), **more)
    else:
        found = writer.merge("ties_sum", *_deltas(writer, step, inputs), k=repr(density), vote_sgn=_vote(name, step))
    return _added(writer, name, step, inputs[0], found)


def dare(writer: MechaWriter, name: str, step: Step, inputs: list[str]) -> str:
    """Nodes for DARE with signs elected, or averaged without."""
    even_weights(writer, name, step)
    rescale = _value(step, "rescale")
    if rescale == "l1":
        raise RecipeError(f"steps.{name}.rescale: sd-mecha rescales by the density or not at all, not by l1")
    density = _number(writer, name, step, "density")
    if _value(step, "elect") == "none":
        if _value(step, "combine") != "mean":
            raise RecipeError(f"steps.{name}.combine: without signs elected sd-mecha's dropout is a mean")
        writer.remark(name, "sd-mecha counts kept elements that are 0 in its mean")
        power = {"rescale": "1.0" if rescale == "density" else "0.0"}
        found = _random(writer, name, step, inputs, "dropout", probability=repr(round(1 - density, 12)), **power)
    else:
        found = _with_signs(writer, name, step, inputs, density, {"rescale": str(rescale == "density").lower()})
    return _added(writer, name, step, inputs[0], found)


def della(writer: MechaWriter, name: str, step: Step, inputs: list[str]) -> str:
    """Nodes for DELLA by the ranks of whole tensors, without its rescaling."""
    even_weights(writer, name, step)
    if _value(step, "ranks") != "tensor":
        raise RecipeError(f"steps.{name}.ranks: sd-mecha ranks whole tensors (ranks: tensor)")
    if _value(step, "rescale") != "none":
        raise RecipeError(
            f"steps.{name}.rescale: sd-mecha divides by the mean probability, not by each element's; with rescale: none it does "
            "what is done here"
        )
    more = {"della_eps": repr(_number(writer, name, step, "epsilon")), "rescale": "false"}
    found = _with_signs(writer, name, step, inputs, _number(writer, name, step, "density"), more)
    return _added(writer, name, step, inputs[0], found)


def even_weights(writer: MechaWriter, name: str, step: Step) -> None:
    """Refuses weights that differ from model to model, or from block to block.

    Raises:
        RecipeError: they do, or are not positive.
    """
    weights = step.given.get("weights", [1.0])
    numbers = [w for w in weights if isinstance(w, int | float) and not isinstance(w, bool)]
    if len(numbers) != len(weights) or len(set(numbers)) != 1 or numbers[0] <= 0:
        raise RecipeError(
            f"steps.{name}.weights: sd-mecha's counterpart of {step.kind.name} has no weights, and they differ"
        )


def _with_signs(
    writer: MechaWriter, name: str, step: Step, inputs: list[str], density: float, more: dict[str, str]
) -> str:
    vote, median = _vote(name, step), str(_combine(name, step) == "median").lower()
    if median == "false":  # sd-mecha 1.1 reads this switch the wrong way round: true leaves model stock out
        writer.remark(
            name, "apply_stock=true leaves model stock out: sd-mecha 1.1 reads the switch the wrong way round"
        )
        more = more | {"apply_stock": "true"}
    return _random(
        writer, name, step, inputs, "ties_sum_with_dropout",
        probability=repr(round(1 - density, 12)), k="1.0", vote_sgn=vote, apply_median=median, **more,
    )  # fmt: skip


def _random(writer: MechaWriter, name: str, step: Step, inputs: list[str], method: str, **named: str) -> str:
    writer.remark(name, "which elements are dropped depends on sd-mecha's generator of random numbers")
    return writer.merge(method, *_deltas(writer, step, inputs), **named, seed=str(_value(step, "seed")))


def _deltas(writer: MechaWriter, step: Step, inputs: list[str]) -> list[str]:
    return [
        reference if writer.space(source) == "delta" else writer.merge("subtract", reference, inputs[0])
        for source, reference in zip(step.inputs[1:], inputs[1:], strict=True)
    ]


def _added(writer: MechaWriter, name: str, step: Step, base: str, delta: str) -> str:
    return writer.merge("add_difference", base, delta, alpha=writer.number(writer.numbers.of(name, step, "alpha")))


def _value(step: Step, parameter: str):
    return step.given.get(parameter, step.kind.parameters[parameter].default)


def _number(writer: MechaWriter, name: str, step: Step, parameter: str) -> float:
    number = writer.numbers.of(name, step, parameter)
    if isinstance(number, dict):
        raise RecipeError(f"steps.{name}.{parameter}: sd-mecha has one number for all blocks here")
    return number


def _vote(name: str, step: Step) -> str:
    """sd-mecha weighs signs by size where `vote_sgn` is set."""
    elect = _value(step, "elect")
    if elect == "none":
        raise RecipeError(f"steps.{name}.elect: sd-mecha always elects signs here")
    return str(elect == "sum").lower()


def _combine(name: str, step: Step) -> str:
    combine = _value(step, "combine")
    if combine == "sum":
        raise RecipeError(f"steps.{name}.combine: sd-mecha averages what agrees, and does not add it up")
    return combine
