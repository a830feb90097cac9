"""The optimiser: Optuna by ask and tell. What it was told is the truth; run folders are written from it."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .baselines import Baseline
from .errors import DAMAGED_JOURNAL, SearchError
from .parameters import FreeParameter
from .proposals import distribution, make_sampler, start_points
from .records import TrialRecord
from .run_folder import from_line, to_line
from .storage import Workers, is_silent
from .study_settings import OptimiserSettings

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial

# How long a worker waits for the one that creates the study to fill its queue.
_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Asked:
    """A point to try.

    Attributes:
        number: of the trial.
        point: as proposed, on the grid where there is one.
        baseline: its name, or "".
        seconds: what the proposal took.
        trial: Optuna's.
    """

    number: int
    point: dict[str, float | str]
    baseline: str
    seconds: float
    trial: Trial


class Optimiser:
    """A study in a storage, as one worker sees it.

    Args:
        storage: of Optuna.
        name: of the study in the storage.
        parameters: what is free.
        settings: which optimiser, seeds, start points.
        workers: who else works in the run folder.
        higher_is_better: the direction.
        own: whether the storage belongs to the run folder alone, so that everybody who uses it has a lock there.
        written: the trials that the run folder holds.
        value_of: the score of a trial, of all that are known, as the optimiser shall see it; None when it failed.
    """

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        parameters: Sequence[FreeParameter],
        settings: OptimiserSettings,
        workers: Workers,
        *,
        higher_is_better: bool,
        own: bool,
        written: Callable[[], Sequence[TrialRecord]] = tuple,
        value_of: Callable[[TrialRecord, Sequence[TrialRecord]], float | None] = lambda record, known: record.score,
    ):
        import optuna

        _quiet()
        self._written, self._value_of, self._priors = written, value_of, 0
        self.parameters, self.settings, self.workers, self.own = tuple(parameters), settings, workers, own
        self.records: dict[int, TrialRecord] = {}
        self._asking: int | None = None
        direction = "maximize" if higher_is_better else "minimize"
        mark = _fingerprint(parameters, direction)
        try:
            self.study = optuna.create_study(storage=storage, study_name=name, direction=direction)
            self.study.set_user_attr("searches", mark)
            self.is_new = True
        except optuna.exceptions.DuplicatedStudyError:
            self.study = optuna.load_study(study_name=name, storage=storage)
            self.is_new = False
            found = self._attribute("searches")
            if found is None and own:
                raise SearchError("the journal does not say what is searched", code=DAMAGED_JOURNAL) from None
            if found != mark:
                raise SearchError(
                    f"the storage has a study called {name!r} in which other numbers are free; give this one another title"
                ) from None
        self._seed()
        self._distributions = {p.name: distribution(p) for p in self.parameters}

    def _seed(self) -> None:
        """Give the sampler random numbers that no other worker has, and none that was there before."""
        existing = len(self._trials())
        # Workers that share a folder see each other, and have different ranks; of those that do not, one makes the study.
        host = 0 if self.own or self.is_new else zlib.crc32(self.workers.name.encode())
        others = self.workers.others()
        rank = sum(name < self.workers.name for name in others)
        entropy = (self.settings.seed, existing, len(others), rank, host)
        self.study.sampler = make_sampler(self.settings, self.parameters, entropy)

    # -- the queue ----------------------------------------------------------------------------------------------------

    def queue(
        self, baselines: Sequence[Baseline], prior: Sequence[tuple[Mapping[str, Any], float]], *, scaled: bool
    ) -> None:
        """Fill the queue: what is known already, baselines, then start points. Who comes second waits until it is full.

        Baselines of which every attempt has failed are queued again: what was wrong may have been put right since. Not where they
        give scores their scale and proposals have been told on it.

        Args:
            baselines: their points.
            prior: points and scores that are known already.
            scaled: whether scores have a scale, so that start points may follow; else `queue_starts` adds them.
        """
        filled = not self.is_new and self._attribute("queued") is not None
        if filled and self.workers.others():
            return
        if not filled:
            for point, score in prior[self._priors :]:
                self._add(point, score)
        trials = self._trials()
        if scaled or not any(not {"baseline", "prior"} & t.user_attrs.keys() for t in trials):
            tried = {t.user_attrs.get("baseline") for t in trials if t.state.name != "FAIL"}
            for baseline in baselines:
                if baseline.name not in tried:
                    self.study.enqueue_trial(dict(baseline.point), user_attrs={"baseline": baseline.name})
        if not filled:
            if scaled:
                self.queue_starts()
            self.study.set_user_attr("queued", len(self._trials()))

    def queue_starts(self) -> None:
        """Add the start points, each once."""
        known = {t.user_attrs.get("start") for t in self._trials()}
        for i, point in enumerate(start_points(self.parameters, self.settings)):
            if i not in known:
                self.study.enqueue_trial(point, user_attrs={"start": i})

    def _attribute(self, name: str) -> Any:
        """An attribute of the study; the worker that creates it may still be at it."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            value = self.study.user_attrs.get(name)
            if value is not None or time.monotonic() > until or (self.own and not self.workers.others()):
                return value
            time.sleep(0.2)

    def _add(self, point: Mapping[str, Any], score: float) -> None:
        import optuna

        trial = optuna.trial.create_trial(
            params=dict(point), distributions=self._distributions, value=score, user_attrs={"prior": True}
        )
        self.study.add_trial(trial)

    # -- what the run folder holds ------------------------------------------------------------------------------------

    def lacks(self, records: Sequence[TrialRecord]) -> TrialRecord | None:
        """A trial of the run folder that the storage does not know, or knows as another one; None where it knows them all."""
        trials = self._trials()
        for record in records:
            known = trials[record.number] if record.number < len(trials) else None
            if record.state == "failed":
                continue
            if known is None or not _is_of(known, record) or (known.state.name == "COMPLETE" and not _line(known)):
                return record
        return None

    def known(self) -> list[TrialRecord]:
        """The records in the storage that belong to their trials."""
        found = [(t, from_line(t.user_attrs["record"])) for t in self._trials() if _line(t)]
        return [record for trial, record in found if record is not None and _is_of(trial, record)]

    def restore(
        self, records: Sequence[TrialRecord], prior: Sequence[tuple[Mapping[str, Any], float]], *, hold: bool
    ) -> None:
        """Tell a new study what the run folder holds, under the same numbers.

        Args:
            records: of the folder.
            prior: points and scores that were known already: they came before all trials.
            hold: whether baselines wait for a scale (see `tell`).
        """
        import optuna

        states = optuna.trial.TrialState
        starts = [dict(point) for point in start_points(self.parameters, self.settings)]
        by_number = {record.number: record for record in records}
        for number in range(max(by_number, default=-1) + 1):
            record = by_number.get(number)
            if record is None and self._priors < len(prior):
                self._add(*prior[self._priors])
                self._priors += 1
                continue
            attributes: dict[str, Any] = {"lost": True}
            point, state, value = {}, states.FAIL, None
            if record is not None and self._fits(record.point):
                point, attributes = dict(record.point), {"record": to_line(record), "worker": record.worker}
                attributes |= {"baseline": record.baseline} if record.baseline else {}
                attributes |= {"start": starts.index(point)} if point in starts else {}
                value = self._value_of(record, records)
                if value is not None:
                    state = states.RUNNING if hold and record.baseline else states.COMPLETE
            trial = optuna.trial.create_trial(
                state=state,
                value=value if state == states.COMPLETE else None,
                params=point,
                distributions=self._distributions if point else {},
                user_attrs=attributes,
            )
            self.study.add_trial(trial)
        self._seed()

    def _fits(self, point: Mapping[str, Any]) -> bool:
        """Whether a point has a value for everything that is free."""
        if set(point) != set(self._distributions):
            return False
        try:
            return all(d._contains(d.to_internal_repr(point[name])) for name, d in self._distributions.items())
        except (TypeError, ValueError):
            return False

    # -- asking and telling -------------------------------------------------------------------------------------------

    def ask(self) -> Asked:
        """The next point: of the queue, else a proposal."""
        begun = time.monotonic()
        trial = self.study.ask()
        self._asking = trial.number
        trial.set_user_attr("worker", self.workers.name)
        point: dict[str, float | str] = {}
        for p in self.parameters:
            if p.is_choice:
                point[p.name] = trial.suggest_categorical(p.name, list(p.choices))
            else:
                value = trial.suggest_float(p.name, p.low, p.high, step=p.step)
                point[p.name] = p.at((value - p.low) / (p.high - p.low)) if p.step else value
        attributes = trial.user_attrs
        return Asked(trial.number, point, attributes.get("baseline", ""), time.monotonic() - begun, trial)

    def tell(self, asked: Asked, record: TrialRecord, value: float | None, *, hold: bool = False) -> None:
        """Finish a trial.

        Args:
            asked: what was asked.
            record: everything about it; kept in the storage, from where every worker reads it.
            value: its score as the optimiser shall see it; None when it failed.
            hold: keep the record, and tell the score later (`tell_held`): it has no scale yet.
        """
        asked.trial.set_user_attr("record", to_line(record))
        self.records[record.number] = record
        if not (hold and value is not None):
            self._finish(record.number, value)
        self._asking = None

    def tell_held(self, record: TrialRecord) -> None:
        """Tell the score of a trial that was held back, unless another worker has done so."""
        self.records[record.number] = record
        self._finish(record.number, record.score)

    def _finish(self, number: int, value: float | None) -> bool:
        """Tell Optuna; False when somebody else was first."""
        import optuna

        state = optuna.trial.TrialState.FAIL if value is None else None
        try:
            self.study.tell(number, value, state=state)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            return False
        return True

    # -- what has become of the trials --------------------------------------------------------------------------------

    def sync(self, holding: bool = False) -> list[TrialRecord]:
        """Read what others have finished, and ask again what died with its worker.

        Args:
            holding: whether measured trials wait to be told (see `tell`).

        Returns:
            the records that were not known here before.
        """
        fresh = []
        for trial in self._trials():
            line = _line(trial)
            if line is not None and trial.number not in self.records:
                record = from_line(line)
                if record is None or record.number != trial.number:  # damaged
                    continue
                self.records[trial.number] = record
                fresh.append(record)
            if trial.state.name != "RUNNING" or trial.number == self._asking:
                continue
            record = self.records[trial.number] if line is not None else None
            if record is None and self._is_stale(trial):
                record = self._take_over(trial) or self._give_up(trial)
                fresh += [record] if record is not None else []
            if record is not None and not holding:
                # Its worker died between writing the record and telling the score.
                self._finish(trial.number, self._value_of(record, self._written()))
        return fresh

    def _take_over(self, trial: FrozenTrial) -> TrialRecord | None:
        """The record of a dead worker's trial, where it is in the run folder: only the storage was not told."""
        record = next((r for r in self._written() if r.number == trial.number and r.state != "failed"), None)
        if record is None or not _is_of(trial, record):
            return None
        self.study._storage.set_trial_user_attr(trial._trial_id, "record", to_line(record))
        self.records[trial.number] = record
        return record

    def _is_stale(self, trial: FrozenTrial) -> bool:
        """Whether a trial's worker is dead: its lock says so, or, of a folder that is not here, its silence."""
        worker = trial.user_attrs.get("worker")
        if worker == self.workers.name:
            return True
        alive = self.workers.is_alive(worker) if worker else None
        if alive is not None:
            return not alive
        if self.own and (worker or not self.workers.others()):
            return True
        begun = trial.datetime_start.timestamp() if trial.datetime_start else None
        return is_silent(trial.user_attrs.get("alive"), begun)

    def _give_up(self, trial: FrozenTrial) -> TrialRecord | None:
        """Mark a dead worker's trial as failed, and put its point into the queue again; None when somebody else was first."""
        attributes = trial.user_attrs
        params = trial.params if len(trial.params) == len(self.parameters) else trial.system_attrs.get("fixed_params")
        record = TrialRecord(
            trial.number,
            "failed",
            dict(params or {}),
            None,
            baseline=attributes.get("baseline", ""),
            worker=self.workers.name,
            finished=time.time(),
            note="its worker was stopped or killed; the point is tried again" if params else "its worker was killed",
        )
        if not self._finish(trial.number, None):
            return None
        if params:
            again = {name: attributes[name] for name in ("baseline", "start") if name in attributes}
            self.study.enqueue_trial(dict(params), user_attrs=again | {"again": trial.number})
        self.records[trial.number] = record
        return record

    # -- how many of what ---------------------------------------------------------------------------------------------

    def _trials(self, *states: str) -> list[FrozenTrial]:
        """Optuna's trials in one of some states (`WAITING`, `RUNNING`...), or all of them."""
        return [t for t in self.study.get_trials(deepcopy=False) if not states or t.state.name in states]

    def running(self) -> int:
        """How many trials others are at."""
        return sum(t.number != self._asking and _line(t) is None for t in self._trials("RUNNING"))

    def baselines_queued(self) -> int:
        """How many baselines are in the queue, for whoever asks next."""
        return sum("baseline" in t.user_attrs for t in self._trials("WAITING"))

    def baselines_left(self) -> int:
        """How many baselines are still in the queue or being made."""
        return sum("baseline" in t.user_attrs and _line(t) is None for t in self._trials("WAITING", "RUNNING"))

    def given(self) -> set[int]:
        """The numbers of the baselines and start points: nobody proposed these."""
        return {t.number for t in self._trials() if {"baseline", "start"} & t.user_attrs.keys()}


def _line(trial: FrozenTrial) -> str | None:
    """The line of a trial's record."""
    return trial.user_attrs.get("record")


def _is_of(trial: FrozenTrial, record: TrialRecord) -> bool:
    """Whether a record is a trial's: its number and, as far as they are known, its values."""
    if trial.number != record.number:
        return False
    if (line := _line(trial)) is not None:
        told = from_line(line)
        if told is None or told.number != record.number or dict(told.point) != dict(record.point):
            return False
        if trial.state.is_finished() and told.state != "failed" and set(trial.params) != set(record.point):
            return False
    return all(
        abs(value - record.point[name]) < 1e-9 if isinstance(value, float) else value == record.point[name]
        for name, value in trial.params.items()
        if name in record.point
    )


def _fingerprint(parameters: Sequence[FreeParameter], direction: str) -> str:
    """What two workers must agree on."""
    plain = [[p.name, p.low, p.high, p.step, list(p.choices)] for p in parameters]
    return hashlib.sha256(json.dumps([direction, plain]).encode()).hexdigest()[:16]


def _quiet() -> None:
    """Optuna reports every trial and warns of what is experimental; neither is for the user of a search."""
    import optuna

    optuna.logging.set_verbosity(logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
