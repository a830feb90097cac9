"""One thing that a recipe had better not do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about a recipe.

    Attributes:
        severity: an `error` stops the merge or spoils it, a `warning` is likely a mistake, a `note` is worth knowing.
        check: which check found it, a word for programs (`base`, `rounding`, `text_encoder`...).
        found: what, in a sentence.
        why: why it matters.
        remedy: what to do.
        step: the step concerned, empty where it is none.
        models: the models concerned, by their names in the recipe.
    """

    severity: Severity
    check: str
    found: str
    why: str
    remedy: str
    step: str = ""
    models: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f"steps.{self.step}: " if self.step else ""
        return f"{self.severity}: {where}{self.found}. {self.why}. {self.remedy}."

    def to_plain(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return asdict(self) | {"models": list(self.models)}
