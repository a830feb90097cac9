"""Steps that a recipe writes inside the inputs of other steps."""

from __future__ import annotations

from typing import Any

from .errors import RecipeError

DEEPEST = 250
# A recipe with more is a mistake, or YAML whose aliases repeat a step without end.
_MOST_STEPS = 5_000


def named_steps(data: dict) -> dict:
    """Steps that are written inside another step's inputs get names of their own (`mix.1`, `mix.1.2`...)."""
    steps = data.get("steps")
    if not isinstance(steps, dict):
        return data
    flat: dict[str, Any] = {}

    def flatten(name: str, step: Any, depth: int = 0) -> None:
        if name in flat or len(flat) >= _MOST_STEPS:
            fault = "has the name of another step" if name in flat else f"is one of more than {_MOST_STEPS} steps"
            raise RecipeError(f"steps.{name}: {fault}")
        if depth > DEEPEST:
            raise RecipeError(f"steps.{name}: steps are nested more than {DEEPEST} deep; give the inner ones names")
        if isinstance(step, dict) and isinstance(step.get("inputs"), list):
            inputs = []
            for i, source in enumerate(step["inputs"], 1):
                if isinstance(source, dict):
                    inner = f"{name}.{i}"
                    while inner in taken:
                        inner += "'"
                    flatten(inner, source, depth + 1)
                    source = inner
                inputs.append(source)
            step = {**step, "inputs": inputs}
        flat[name] = step

    leaves = [name for part in ("models", "loras") if isinstance(data.get(part), dict) for name in data[part]]
    taken = {str(name) for name in (*steps, *leaves)}
    for name, step in steps.items():
        flatten(str(name), step)
    return {**data, "steps": flat}
