"""The page of all merge methods, `docs/methods.md`, from the registry: `unetscope methods --markdown > docs/methods.md`."""

from __future__ import annotations

from collections.abc import Iterable

from .method import METHODS, Method, MethodParameter

_HEAD = """\
# Merge methods
Written by `unetscope methods --markdown` from the methods themselves. docs/recipes.md says how they stand in a recipe, and how
numbers differ by block.

x_t are the models, base is the base of methods that have one. What a method adds to its base it works out from the differences
x_t - base, in which LoRAs take part as they are. Arithmetic is in fp32 or wider, and the result is rounded once.

"""
_KINDS = {
    "linear": "Linear: nested with other linear methods it stays one weighted sum.",
    "elementwise": "Elementwise: a number of the result needs the same number of each input.",
    "statistics": "Measures each tensor before it is written.",
    "whole": "Works on whole tensors.",
    "structural": "Structural: says which input a tensor comes from, and computes nothing.",
}
_SHARE = "a share from 0 to 1, or block weights"
_TAKES = {
    "number": "a number or block weights",
    "numbers": "a list with a number, or block weights, for each model",
    "switch": "true or false",
    "integer": "a whole number",
}


def page(methods: Iterable[Method] = METHODS.values()) -> str:
    """The page, in Markdown."""
    methods = list(methods)
    rows = [f"| [{m.name}](#{m.name}) | {_inputs(m)} | {m.kind} | {m.passes} |" for m in methods]
    table = "\n".join(["| method | inputs | kind | passes |", "|---|---|---|---|", *rows])
    return _HEAD + table + "\n\n" + "\n".join(_section(m) for m in methods)


def _section(method: Method) -> str:
    paragraphs = [f"## {method.name}", _text(method.summary), _text(method.details), _parameters(method)]
    paragraphs += [f"**Inputs:** {method.wanted}; {_space(method)}", f"**Cost:** {cost(method)}"]
    paragraphs += [f"**Source:** {_text(method.said('Source'))}", f"**Use:** {_text(method.said('Use'))}"]
    return "\n\n".join(p for p in paragraphs if p) + "\n"


def cost(method: Method) -> str:
    """What a method reads and holds, in words."""
    if method.kind == "structural":
        return f"{_KINDS['structural']} Only what is taken is read."
    often = f"{method.passes}" if method.passes == 2 else f"up to {method.passes}"
    times = "once" if method.passes == 1 else f"{often} times, tensor by tensor"
    said = f"{_KINDS[method.kind]} Reads each input {times}."
    if method.kind == "whole":
        each = 4 + method.working
        said += f" Holds, in each thread, up to {each} bytes for each element of a tensor, times one more than there are models."
        return said
    said += " Holds a piece of each input at a time"
    return f"{said}, and counts in {method.working >> 10} KB for each." if method.working else f"{said}."


def takes(parameter: MethodParameter) -> str:
    """What values a parameter takes, in words."""
    if parameter.share:
        return _SHARE
    return " or ".join(f"`{c}`" for c in parameter.choices) if parameter.choices else _TAKES[parameter.kind]


def default(parameter: MethodParameter) -> str:
    """A parameter's default as recipes write it; empty where a value must be given."""
    value = parameter.default
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _inputs(method: Method) -> str:
    return ", ".join([*method.inputs, *(["models"] if method.variadic else [])])


def _parameters(method: Method) -> str:
    if not method.parameters:
        return ""
    rows = [f"| `{p.name}` | {takes(p)} | {default(p) or 'must be given'} |" for p in method.parameters.values()]
    return "\n".join(["| parameter | takes | default |", "|---|---|---|", *rows])


def _space(method: Method) -> str:
    """What inputs and result are: models or differences."""
    if method.on_deltas:
        return "the base is a model, the others models, LoRAs or differences; gives a model."
    if method.deltas:
        return f"{', '.join(sorted(method.deltas))}: a LoRA or a difference; gives what the first input is."
    if method.result == "first":
        return f"{' and '.join(method.inputs[1:])} both models or both differences; gives what {method.inputs[0]} is."
    each = "a model or a difference" if method.inputs and len(method.inputs) == 1 else "all models or all differences"
    return f"{each}; gives {'a difference' if method.result == 'delta' else 'the same'}."


def _text(text: str) -> str:
    """A docstring's text as Markdown: stars and angle brackets are meant as they stand."""
    return text.replace("*", "\\*").replace("<", "\\<")
