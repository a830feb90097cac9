"""mergekit's parameters: which value holds for which model and key.

A value is a number, or a list of `{filter, value}` of which the first that fits a key counts; where none fits, what stands
further out does: a model's own parameters, then the slice's, then the configuration's, then the method's default. A list of
numbers is a gradient over a language model's layers and has no meaning for a UNET.
"""

from __future__ import annotations

import math
from typing import Any

from .draft import Draft, one_line

_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
# What a part of a key may not hold, to stand between asterisks in a selector.
_SPECIAL = set(" ,*?[]:/")


class MergekitSettings:
    """The parameters of one model: scopes of them, the innermost first."""

    def __init__(self, scopes: list[Any], draft: Draft):
        self._scopes = [scope for scope in scopes if isinstance(scope, dict)]
        self._draft = draft

    def number(self, name: str, default: float | None) -> Any:
        """A number, or block weights that choose by parts of keys: mergekit takes the first filter that fits, we the last.

        Args:
            name: mergekit's.
            default: of the method; None where it has none and asks for a value.
        """
        start, lines = default, {}
        for scope in reversed(self._scopes):
            if name not in scope:
                continue
            for word, value in self._parts(scope[name], name):
                if word is None:
                    start, lines = value, {}
                else:
                    lines.pop(word, None)
                    lines[word] = value
        if start is None:
            start = 0.5 if name == "t" else 1.0
            said = "no filter of it fits every key" if lines else "is not given"
            self._draft.note("import.one_number", f"{name}: {said}, and mergekit asks for one; {start:g} was taken")
        if not lines:
            return start
        # A selector reaches the VAE where it names it; mergekit's filters reach every tensor.
        return {"default": start, "VAE": start, **lines, **{f"VAE {word}": value for word, value in lines.items()}}

    def switch(self, name: str, default: bool) -> bool:
        """A switch, which is one for all keys."""
        value = next((scope[name] for scope in self._scopes if name in scope), default)
        if isinstance(value, bool):
            return value
        known = _WORDS.get(str(value).casefold()) if isinstance(value, int | str) else None
        if known is None:
            self._draft.refuse(
                f"{name}: {one_line(value, 60)} is neither true nor false; {str(default).lower()} was taken"
            )
            return default
        return known

    def names(self) -> list[Any]:
        """The names of all parameters that are given."""
        return list(dict.fromkeys(name for scope in self._scopes for name in scope))

    def _parts(self, value: Any, name: str) -> list[tuple[str | None, float]]:
        """Selectors (None: everything) and their numbers, the most important last."""
        conditions = [value] if isinstance(value, dict) else value
        if not isinstance(conditions, list):
            return [(None, self._plain(value, name))]
        if not conditions or not all(isinstance(x, dict) and "value" in x for x in conditions):
            return [(None, self._plain(value, name))]
        found: list[tuple[str | None, float]] = []
        for condition in reversed(conditions):
            word = condition.get("filter")
            if word is None or word == "*":
                found = [(None, self._plain(condition["value"], name))]
            elif isinstance(word, str) and word and not set(word) & _SPECIAL:
                found.append((f"key:*{word}*", self._plain(condition["value"], name)))
            else:
                self._draft.refuse(f"{name}: the filter {one_line(word, 60)!r} has no equivalent")
        return found

    def _plain(self, value: Any, name: str) -> float:
        """One number; numbers that YAML reads as text (1e-3) are some for mergekit, too."""
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            try:
                number = float(value)
            except (ValueError, OverflowError):
                number = math.nan
            if math.isfinite(number):
                return number
        taken = 0.5 if name == "t" else 1.0
        why = "; gradients over layers have no meaning for a UNET" if isinstance(value, list) else ""
        self._draft.refuse(f"{name}: {one_line(value, 60)} is not a number{why}; {taken:g} was taken")
        return taken
