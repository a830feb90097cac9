"""One worker's loop: ask, measure, tell, write down, until something says that it is enough."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints.text import counted
from .errors import DAMAGED_JOURNAL, SearchError
from .interrupts import Interrupts
from .optimiser import Asked, Optimiser
from .pruning import paired_estimate
from .records import TrialRecord
from .run_folder import RunFolder, best_of
from .run_setup import Prepared, open_run, prepare
from .stopping import Ending, Watch, reached
from .storage import (
    Heartbeat,
    Workers,
    is_of_storage,
    open_storage,
    reason_of,
    require_optuna,
    without_password,
)
from .study import Study

if TYPE_CHECKING:
    from ..merge.recipe import Recipe

Say = Callable[[str], None]
# Between looks at what other workers do, where there is nothing else to do.
_WAIT_SECONDS = 0.5


@dataclass(frozen=True)
class Outcome:
    """How a search went.

    Attributes:
        run: its folder.
        ending: why it ended.
        best: the best complete trial, or None when there is none.
        alone: whether no other worker of the folder is still at it.
    """

    run: RunFolder
    ending: Ending
    best: TrialRecord | None
    alone: bool


def search(
    study: Study,
    path: Path,
    *,
    resume: bool = False,
    storage: str | None = None,
    trials: int | None = None,
    say: Say = print,
) -> Outcome:
    """Run a study, or continue with it, as one worker.

    Args:
        study: what to search.
        path: the run folder.
        resume: continue with what is in the folder.
        storage: a shared storage (`storage.open_storage`); by default a journal in the folder.
        trials: another budget than the study's.
        say: gets what is worth telling, a line at a time.

    Returns:
        how it went; a first Ctrl-C is an ordinary ending, after the trial that is being made.

    Raises:
        UnetscopeError: the study is mistaken, or the generator or the reward is out of order; `resume` continues.
        KeyboardInterrupt: a second Ctrl-C; the trial that was being made is tried again by `resume`.

    Example:
        >>> from unetscope.search import RunFolder, Study
        >>> _ = Path("mine.py").write_text("def score(weights): return -((weights['x'] - 0.3) ** 2)")
        >>> data = {"parameters": {"x": {"free": [0, 1]}}, "objective": "mine.py:score", "optimiser": "random", "trials": 6}
        >>> outcome = search(Study.parse(data, folder=Path.cwd()), Path("study.run"), say=lambda line: None)
        >>> len(RunFolder("study.run").trials()), outcome.best.score == max(x.score for x in RunFolder("study.run").trials())
        (6, True)
    """
    require_optuna()
    if trials is not None:
        study = study.changed(trials=trials)
    prepared = prepare(study)
    run = open_run(prepared, Path(path), resume=resume, joining=storage is not None)
    for note in prepared.notes:
        say(note)
    try:
        worker = Worker(prepared, run, storage, say)
        try:
            ending = worker.work()
        finally:
            worker.close()
    except Exception as error:
        if not is_of_storage(error):
            raise
        where = without_password(storage) if storage is not None else run.path / "journal.log"
        raise SearchError(
            f"{where}: the storage has failed ({reason_of(error)}); what was measured is kept in {run.path}, and --resume continues"
        ) from None
    return Outcome(
        run, ending, best_of(worker.records, prepared.objective.higher_is_better), not worker.workers.others()
    )


class Worker:
    """One process at work on a run folder."""

    def __init__(self, prepared: Prepared, run: RunFolder, storage: str | None, say: Say):
        self.prepared, self.run, self.say = prepared, run, say
        self.study, self.objective = prepared.study, prepared.objective
        self.workers = Workers(run)
        self.workers.enter()
        try:
            self._scaled = not self.objective.needs_calibration
            with self.workers.alone("journal"):
                self.optimiser = self._remembering(storage)
            self.optimiser.queue(prepared.baselines, prepared.prior, scaled=self._scaled)
        except BaseException:
            self.workers.leave()
            raise
        self.watch = Watch(self.study.stop)
        self._best_written: int | None = None

    @property
    def records(self) -> list[TrialRecord]:
        return list(self.optimiser.records.values())

    def close(self) -> None:
        self.objective.close()
        self.workers.leave()

    # -- the optimiser's memory ---------------------------------------------------------------------------------------

    def _remembering(self, storage: str | None) -> Optimiser:
        """The optimiser, with all that the run folder holds: a journal that lacks some of it is made again."""
        journal = self.run.path / "journal.log"
        own, alone, kept = storage is None, not self.workers.others(), self.run.trials()
        had = own and journal.is_file() and journal.stat().st_size > 0
        try:
            optimiser = self._optimiser(storage)
            lost = None if optimiser.is_new else optimiser.lacks(kept)
            # What another worker is about to tell is not lost.
            if not (optimiser.is_new and kept) and (lost is None or (own and not alone)):
                return optimiser
            if lost is not None and not own:
                raise SearchError(
                    f"{self.run.path}: has trial {lost.number}, which the storage does not know as the same; choose another "
                    "folder by -o, or the storage that this one was made with"
                )
            why = f"it does not know trial {(lost or kept[0]).number}"
            # What was written last counts; of two that were written at once, what the journal holds: damage changes no time.
            both = sorted((*kept, *optimiser.known()), key=lambda r: r.finished)
            kept = list({r.number: r for r in both}.values())
        except SearchError as error:
            if error.code != DAMAGED_JOURNAL:
                raise
            if not own:
                raise SearchError(f"{error}; move it away, and --resume makes it again from trials/") from None
            if not alone:
                raise SearchError(
                    f"{error}; stop the other workers, and --resume makes it again from trials/"
                ) from None
            why = reason_of(error)
        told = f"{counted(len(kept), 'trial')} in {self.run.path / 'trials'}"
        if had:
            from .journal import set_aside

            self.say(f"journal.log is made again from {told} ({why}); the old one is kept as {set_aside(journal).name}")
            optimiser = self._optimiser(None)
        else:
            self.say(f"{'journal.log' if own else 'the storage'} is new, and gets {told}")
        optimiser.restore(kept, self.prepared.prior, hold=not self._scaled)
        return optimiser

    def _optimiser(self, storage: str | None) -> Optimiser:
        return Optimiser(
            open_storage(self.run, storage),
            self.study.title or self.run.path.name,
            self.prepared.template.parameters,
            self.study.optimiser,
            self.workers,
            higher_is_better=self.objective.higher_is_better,
            own=storage is None,
            written=self.run.trials,
            value_of=self._value_of,
        )

    def _value_of(self, record: TrialRecord, known: Sequence[TrialRecord]) -> float | None:
        """A finished trial's score as the optimiser shall see it: a pruned one next to the best that was known then."""
        if record.state == "pruned":
            before = [r for r in known if r.finished <= record.finished]
            best = best_of(before, self.objective.higher_is_better)
            if best is not None and set(best.scores) & set(record.scores):
                return paired_estimate(record.scores, best.scores, self.objective.weights, best.score)
        return record.score

    # -- the loop -----------------------------------------------------------------------------------------------------

    def work(self) -> Ending:
        """Make trials until there is a reason to stop."""
        begun = time.monotonic()
        with Interrupts() as interrupts:
            self._catch_up()
            ending = self._done(begun)
            if ending is None:
                self.objective.load()
            while ending is None:
                if interrupts.asked:
                    return Ending("asked", "stopped as asked; --resume continues")
                if not self._may_ask():
                    time.sleep(_WAIT_SECONDS)
                elif (ending := self._done(begun)) is None:
                    ending = self._trial(self.optimiser.ask())
                self._read_others()
        return ending

    def _done(self, begun: float) -> Ending | None:
        return reached(
            self.records,
            self.optimiser.given() if self.study.stop.patience is not None else (),
            self.study.stop,
            self.study.trials,
            running=self.optimiser.running(),
            seconds=time.monotonic() - begun,
            higher_is_better=self.objective.higher_is_better,
        )

    def _trial(self, asked: Asked) -> Ending | None:
        """Make one trial and write it down; an ending where it shows that something is wrong."""
        begun = time.monotonic()
        incumbent = (
            self._incumbent() if self.study.pruning is not None and self._scaled and not asked.baseline else None
        )
        with Heartbeat(asked.trial):
            measured = self.objective.measure(
                self.prepared.template, asked.point, incumbent, self._keeper(asked.number)
            )
        seconds = {name: round(x, 4) for name, x in measured.seconds.items()}
        seconds["other"] = round(time.monotonic() - begun + asked.seconds - sum(measured.seconds.values()), 4)
        state = "failed" if measured.score is None else "pruned" if measured.pruned else "complete"
        record = TrialRecord(
            asked.number,
            state,
            asked.point,
            measured.score,
            measured.scores,
            measured.parts,
            asked.baseline,
            seconds,
            self.workers.name,
            time.time(),
            measured.note,
        )
        # First to the folder: what was measured outlives a storage that does not answer.
        self._write(record)
        self.optimiser.tell(asked, record, self._value_of(record, self.records), hold=not self._scaled)
        if self._scaled:
            self._update_best()
        self._tidy(record)
        self._report(record)
        return self.watch.see(record, measured.pictures)

    def _may_ask(self) -> bool:
        """Whether the next trial may begin; where scores have no scale yet, only a baseline may."""
        if self._scaled or self.optimiser.baselines_queued():
            return True
        if self.optimiser.baselines_left():
            return False
        self._calibrate()
        return True

    def _calibrate(self) -> None:
        """All baselines are measured: fix the scale of the scores, and let the optimiser know them."""
        measured = sorted((r for r in self.records if r.baseline and r.state == "complete"), key=lambda r: r.number)
        if not measured:
            raise SearchError(
                f"{self.study.where}: no baseline could be scored, and this reward takes its scale from them"
            )
        with self.workers.alone("calibrate"):
            for note in self.objective.calibrate(measured):
                self.say(note)
            written = {r.number: r.score for r in self.run.trials()}
            for record in measured:
                scores = self.objective.rescored(record)
                score = self.objective.mean(scores)
                final = dataclasses.replace(record, scores=scores, score=score, finished=time.time())
                if written.get(record.number) != score:
                    self._write(final)
                self.optimiser.tell_held(final)
            self.optimiser.queue_starts()
        self._scaled = True
        self._update_best()

    # -- what others have done ----------------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Take over what the storage knows and the folder does not."""
        self._read_others()
        if self._scaled:
            self._update_best()

    def _read_others(self) -> None:
        """Workers write their trials into their folder before they tell them; those of other folders are written here too."""
        if fresh := self.optimiser.sync(holding=not self._scaled):
            with self.workers.alone("trials"):
                written = {r.number for r in self.run.trials()}
                for record in sorted(fresh, key=lambda r: r.number):
                    if record.number not in written:
                        self.run.append(record)

    def _write(self, record: TrialRecord) -> None:
        with self.workers.alone("trials"):
            self.run.append(record)

    def _incumbent(self) -> TrialRecord | None:
        return best_of(self.records, self.objective.higher_is_better)

    # -- the run folder -----------------------------------------------------------------------------------------------

    def _update_best(self) -> None:
        """Write the best recipe when it is another one than was written last."""
        best = self._incumbent()
        if best is None or best.number == self._best_written:
            return
        with self.workers.alone("best"):
            # Another worker may have finished a better one; whoever holds the lock last writes what is true then.
            self._read_others()
            best = self._incumbent()
            recipe = self.prepared.template.recipe(best.point) if self.prepared.template.roles else None
            text = best_text(recipe, best, self.run.path, self.study.title) if recipe is not None else None
            self.run.write_best(best, text)
        previous, self._best_written = self._best_written, best.number
        if previous is not None:
            self._forget(previous)

    def _keeper(self, number: int) -> Callable:
        if self.study.images == "none":
            return lambda name, image: None
        return lambda name, image: self.run.save_image(number, name, image)

    def _tidy(self, record: TrialRecord) -> None:
        if record.number != self._best_written:
            self._forget(record.number)

    def _forget(self, number: int) -> None:
        """Remove a trial's pictures, where only those of the best one and the baselines are kept."""
        if self.study.images == "best" and not self.optimiser.records[number].baseline:
            self.run.forget_images(number)

    def _report(self, record: TrialRecord) -> None:
        parts = [f"trial {record.number:4d}"]
        parts.append("failed  " if record.score is None else f"{record.score:10.6g}")
        best = self._incumbent() if self._scaled else None
        if best is not None:
            parts.append(f"best {best.score:.6g} (trial {best.number})")
        parts.append(f"{sum(record.seconds.values()):.1f} s")
        parts += [x for x in (record.baseline, "pruned" if record.state == "pruned" else "", record.note) if x]
        self.say("  ".join(parts))


def best_text(recipe: Recipe, best: TrialRecord, folder: Path, title: str) -> str:
    """A recipe as a file of a folder, its paths seen from there."""

    def seen_from_there(model: str) -> str:
        try:
            return Path(os.path.relpath(model, folder)).as_posix()
        except ValueError:  # another drive
            return str(Path(model).resolve())

    recipe = recipe.with_paths(seen_from_there)
    if not recipe.title:
        recipe = recipe.model_copy(update={"title": f"{title or 'search'}, trial {best.number}"})
    return f"# Trial {best.number}, score {best.score!r}: unetscope merge run best.yaml -o merged.safetensors\n{recipe.to_yaml()}"
