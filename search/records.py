"""What a search writes down of a trial; run folders hold it as lines of JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .parameters import FreeParameter
from .validation import Finite, Switch, Text, Whole

# `pruned`: stopped before its whole panel was made, with the score so far. `failed`: no score.
State = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True)
class TrialRecord:
    """A finished trial.

    Attributes:
        number: of the trial, from 0.
        state: see above.
        point: free parameter -> value (a float, or the name of a choice).
        score: the weighted mean over the images that were made; None when it failed.
        scores: image name -> score, in the panel's order.
        parts: image name -> part of the reward -> raw score, from which a composite reward computes `scores` again.
        baseline: the name of the baseline that it is (`all A`, `0.5`...), or "" for a proposal of the optimiser.
        seconds: `merge`, `generate`, `reward`, `other`: where its time went.
        worker: which process did it (`host-pid`).
        finished: seconds since 1970.
        note: why it failed, or what was odd (identical images, NaN), in a sentence.
    """

    number: Whole
    state: State
    point: Mapping[Text, Finite | Text]
    score: Finite | None
    # JSON has no NaN: null stands for it.
    scores: Mapping[Text, Finite | None] = field(default_factory=dict)
    parts: Mapping[Text, Mapping[Text, Finite | None]] = field(default_factory=dict)
    baseline: Text = ""
    seconds: Mapping[Text, Finite] = field(default_factory=dict)
    worker: Text = ""
    finished: Finite = 0.0
    note: Text = ""


class Kept(BaseModel):
    """What a file of a run folder holds. Fields that a later version added are passed over; older ones lack some."""

    model_config = ConfigDict(frozen=True)

    def to_plain(self) -> dict[str, Any]:
        """As it was written: what is not there is left out."""
        return self.model_dump(exclude_unset=True)


class KeptReward(Kept):
    """Of the reward, in setup.json; see `Reward`."""

    name: Text = ""
    higher_is_better: Switch = True
    is_preference: Switch = True
    measures: Text = ""
    caution: Text = ""


class KeptRequest(Kept):
    """An image of the panel, in setup.json. All its settings count when two panels are compared."""

    model_config = ConfigDict(frozen=True, extra="allow")

    prompt: Text = ""
    seed: Whole | None = None
    weight: Finite = 1.0


class Setup(Kept):
    """setup.json: see `RunFolder.write_setup`."""

    version: Text = ""
    title: Text = ""
    family: Text | None = None
    layout: dict[Text, list[Whole]] = Field(default_factory=dict)
    parameters: list[FreeParameter] = Field(default_factory=list)
    reward: KeptReward = Field(default_factory=KeptReward)
    # The panel's requests, by the name that 0.1.0 gave them.
    shots: dict[Text, KeptRequest] = Field(default_factory=dict)
    folder: Text = "."


class KeptInterval(Kept):
    """A difference; an end is None where it is infinite."""

    mean: Finite
    low: Finite | None
    high: Finite | None


class KeptCandidate(Kept):
    """What was confirmed: see `Candidate`."""

    name: Text
    role: Text
    score: Finite
    trial: Whole | None = None
    searched: Finite | None = None
    scores: dict[Text, Finite | None] = Field(default_factory=dict)
    against: dict[Text, KeptInterval] = Field(default_factory=dict)
    better: Text | None = None


class Confirmed(Kept):
    """confirmed.json: see `Confirmation`; `panel` and `measured` are what an interrupted confirmation continues from."""

    verdict: Text = ""
    text: Text = ""
    best: Text = ""
    confidence: Finite = 0.95
    new_prompts: Switch = False
    candidates: list[KeptCandidate] = Field(default_factory=list)
    panel: dict[Text, Any] = Field(default_factory=dict)
    measured: dict[Text, dict[Text, Finite]] = Field(default_factory=dict)
