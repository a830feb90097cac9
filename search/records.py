"""What a search writes down of a trial; run folders hold it as lines of JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# `pruned`: stopped before its whole panel was made, with the score so far. `failed`: no score.
State = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True)
class TrialRecord:
    """A finished trial.

    Attributes:
        number: of the trial, from 0.
        state: see above.
        point: free parameter -> value (a float, or the name of a choice).
        score: the weighted mean over the panel's shots that were made; None when it failed.
        scores: shot name -> score, in the panel's order.
        parts: shot name -> part of the reward -> raw score, from which a composite reward computes `scores` again.
        baseline: the name of the baseline that it is (`all A`, `0.5`...), or "" for a proposal of the optimiser.
        seconds: `merge`, `generate`, `reward`, `other`: where its time went.
        worker: which process did it (`host-pid`).
        finished: seconds since 1970.
        note: why it failed, or what was odd (identical images, NaN), in a sentence.
    """

    number: int
    state: State
    point: Mapping[str, float | str]
    score: float | None
    scores: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    baseline: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    worker: str = ""
    finished: float = 0.0
    note: str = ""
