"""When a search ends: its budget, its patience, its clock, its target; and when it should not go on."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..checkpoints.text import counted
from .records import TrialRecord
from .run_folder import best_of
from .study_settings import Stop

Why = Literal["trials", "patience", "hours", "target", "asked", "stuck", "failing"]


@dataclass(frozen=True)
class Ending:
    """Why a search has ended.

    Attributes:
        why: in a word; `stuck` and `failing` mean that something is wrong.
        text: in a sentence.
    """

    why: Why
    text: str

    @property
    def is_bad(self) -> bool:
        return self.why in ("stuck", "failing")


def reached(
    records: Collection[TrialRecord],
    given: Collection[int],
    stop: Stop,
    budget: int,
    *,
    running: int,
    seconds: float,
    higher_is_better: bool,
) -> Ending | None:
    """Whether a search is done.

    Args:
        records: every finished trial.
        given: the numbers of baselines and start points.
        stop: the study's rules.
        budget: of trials with a score.
        running: trials that other workers are at: they use the budget too.
        seconds: since this worker began.
        higher_is_better: the direction.
    """
    scored = [r for r in records if r.state != "failed"]
    if len(scored) + running >= budget:
        return Ending("trials", f"the budget of {counted(budget, 'trial')} is used")
    if stop.hours is not None and seconds >= stop.hours * 3600:
        return Ending("hours", f"{stop.hours:g} {'hour is' if stop.hours == 1 else 'hours are'} over")
    best = best_of(scored, higher_is_better)
    if best is None:
        return None
    if stop.target is not None and (best.score >= stop.target if higher_is_better else best.score <= stop.target):
        return Ending("target", f"trial {best.number} has reached the target: {best.score:.6g}")
    if stop.patience is not None:
        since = sum(1 for r in scored if r.number > best.number and r.number not in given)
        if since >= stop.patience:
            return Ending(
                "patience",
                f"{counted(since, 'proposal')} in a row {'was' if since == 1 else 'were'} not better than trial {best.number} "
                f"({best.score:.6g})",
            )
    return None


class Watch:
    """Notices when something is wrong: trials that all fail, scores and images that do not depend on the weights.

    One worker's memory of the trials that it has made.
    """

    def __init__(self, stop: Stop):
        self.stop = stop
        self._failed: deque[TrialRecord] = deque(maxlen=stop.failures or 1)
        self._scored: deque[tuple[TrialRecord, Mapping[str, str]]] = deque(maxlen=stop.stuck or 1)

    def see(self, record: TrialRecord, pictures: Mapping[str, str]) -> Ending | None:
        """Look at a trial that this worker has finished.

        Args:
            record: of it.
            pictures: image name -> hash of its picture.
        """
        if record.state == "failed":
            self._failed.append(record)
            if self.stop.failures and len(self._failed) == self.stop.failures:
                count = counted(len(self._failed), "trial")
                text = f"{count} in a row failed; the last one: {record.note}"
                return Ending("failing", text)
            return None
        self._failed.clear()
        self._scored.append((record, pictures))
        if not self.stop.stuck or len(self._scored) < self.stop.stuck or not self._differ():
            return None
        trials = ", ".join(str(r.number) for r, _ in self._scored)
        if self._same_pictures():
            return Ending(
                "stuck",
                f"the images of trials {trials} are identical, though their weights differ: the generator does not use the "
                "weights, or what is free has no effect on images",
            )
        if len({r.score for r, _ in self._scored}) == 1:
            return Ending(
                "stuck",
                f"the score has stood still at {record.score:.6g} in trials {trials}, though their weights differ: look at "
                "their images, and at the reward",
            )
        return None

    def _differ(self) -> bool:
        """Whether no two of the points are the same."""
        points: Sequence = [tuple(sorted(r.point.items())) for r, _ in self._scored]
        return len(set(points)) == len(points)

    def _same_pictures(self) -> bool:
        """Whether every picture that all of them made is the same in all of them."""
        shared = set.intersection(*(set(pictures) for _, pictures in self._scored))
        return bool(shared) and all(len({pictures[name] for _, pictures in self._scored}) == 1 for name in shared)
