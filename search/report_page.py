"""The report's page: `report.html` shows it, a template of Jinja2 that escapes all that comes from files."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints.text import counted, duration
from .overview import Overview, first, verdict_of
from .records import TrialRecord

if TYPE_CHECKING:
    from jinja2 import Template


@dataclass
class Material:
    """What a page shows, as paths below its folder.

    Attributes:
        plots: name -> (file for light, file for dark, words for those who do not see it).
        diagrams: number of the recipe -> (file, words).
        importance: how it was found; empty where there are too few trials.
        columns: trials whose images stand side by side, the best one first.
        images: (trial, request) -> file.
        requests: the rows.
        notes: what could not be shown, and why.
    """

    plots: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    diagrams: dict[str, tuple[str, str]] = field(default_factory=dict)
    importance: str = ""
    columns: list[TrialRecord] = field(default_factory=list)
    images: dict[tuple[int, str], str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def page(overview: Overview, material: Material, top: int) -> str:
    """The page of a search as HTML: no script, no address but its own folder's.

    Args:
        overview: the search.
        material: what was drawn and copied for it.
        top: how many of the best trials are listed.
    """
    names = [p.name for p in overview.parameters]
    verdict, text = verdict_of(overview)
    confirmed = overview.confirmed or {}
    failed = [f"trial {t.number} failed: {t.note}" for t in overview.trials if t.state == "failed"]

    def time_of(trial: TrialRecord) -> str:
        seconds = sum(overview.costs(trial).values())
        return duration(seconds).replace(" ", "\N{NO-BREAK SPACE}") if seconds else "–"

    def values_of(trial: TrialRecord) -> str:
        values = [trial.point.get(name) for name in names]
        return ", ".join(f"{x:.4g}" if isinstance(x, int | float) else str(x) for x in values)

    return _template().render(
        overview=overview,
        material=material,
        about=_about(overview),
        verdict=verdict,
        verdict_text=text,
        weights=[plot for name, plot in material.plots.items() if name.startswith("weights-")],
        best=overview.ranked()[:top],
        confirmed=confirmed,
        others=list(dict.fromkeys(name for c in confirmed.get("candidates", ()) for name in c.get("against", ()))),
        notes=[*material.notes, *first(failed)],
        time_of=time_of,
        values_of=values_of,
    )


@cache
def _template() -> Template:
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))


def _about(overview: Overview) -> list[str]:
    """How much there is of it."""
    states = {s: sum(t.state == s for t in overview.trials) for s in ("complete", "pruned", "failed")}
    words = {"complete": "complete", "pruned": "given up before their last image", "failed": "failed"}
    how = ", ".join(f"{count} {words[state]}" for state, count in states.items() if count)
    seconds = sum(sum(overview.costs(t).values()) for t in overview.trials)
    about = [f"{counted(len(overview.trials), 'trial')} ({how})", counted(len(overview.parameters), "free number")]
    about += [f"{counted(len(overview.requests), 'image')} a trial"] if overview.requests else []
    return about + ([f"{duration(seconds)} of work"] if seconds else [])
