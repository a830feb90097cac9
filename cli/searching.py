"""`unetscope search ...`: run a study, confirm what it found, and report on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from .arguments import Json, Methods
from .exit_codes import complain, stop_code
from .screen import note, say, show_json, show_table

if TYPE_CHECKING:
    from ..search.confirmation import Confirmation
    from ..search.loop import Outcome

_RUN = "run"


class StudyOrCommand(TyperGroup):
    """`search STUDY.yaml` is `search run STUDY.yaml`: what is not a command's name belongs to `run`."""

    usual = _RUN

    def parse_args(self, ctx, args):
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = [self.usual, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=StudyOrCommand,
    no_args_is_help=True,
    help="Let a reward find a recipe's free numbers: `search STUDY.yaml` (see docs/search.md).",
)

_STUDY = Annotated[Path, typer.Argument(help="The study, YAML.", show_default=False)]
_FOLDER = Annotated[
    Path | None, typer.Option("-o", "--output", help="The run folder.", show_default="STUDY.run next to the study")
]
_STORAGE = Annotated[
    str | None,
    typer.Option(help="What workers share: sqlite:///FILE, postgresql://...", show_default="the run folder"),
]  # fmt: skip
_RUN_FOLDER = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]


@app.command(_RUN)
def run(
    study: _STUDY,
    output: _FOLDER = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the search in the run folder, or join it.")
    ] = False,
    storage: _STORAGE = None,
    methods: Methods = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="The budget, baselines included.", show_default="the study's")
    ] = None,
) -> None:
    """Run a study. Ctrl-C lets the trial finish and ends well; a second one stops at once."""
    from ..search.loop import search
    from ..search.study import Study

    read = Study.load(study)
    folder = output or study.with_suffix(".run")
    try:
        outcome = search(read, folder, resume=resume, storage=storage, trials=trials, say=_tell)
    except KeyboardInterrupt as stop:
        complain(f"stopped at once; --resume continues and tries the last point again ({folder})")
        raise typer.Exit(stop_code(stop)) from None
    _show(outcome)
    if read.confirm is not None and _is_finished(outcome):
        _show_confirmation(_confirmed(folder, _tell))


@app.command("confirm")
def confirm(run: _RUN_FOLDER, methods: Methods = None, json: Json = False) -> None:
    """Score the best trials on prompts and seeds that the search never saw, next to the parents and the baselines."""
    found = _confirmed(run, _quiet if json else _tell)
    if json:
        show_json(found.to_plain())
    else:
        _show_confirmation(found)


@app.command("report")
def report(
    run: _RUN_FOLDER,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write the report into.")],
    methods: Methods = None,
) -> None:
    """Write a report: best so far, best weights on the diagram, what mattered, images side by side."""
    from ..search.report import write_report

    say(f"wrote {write_report(run, output, say=note)}")


def _confirmed(run: Path, tell: Callable[[str], None]) -> Confirmation:
    from ..search.confirmation import confirm as confirmed

    try:
        return confirmed(run, say=tell)
    except KeyboardInterrupt as stop:
        complain(f"stopped; what was measured is kept, and `unetscope search confirm {run}` continues")
        raise typer.Exit(stop_code(stop)) from None


def _tell(text: str) -> None:
    say(text)
    # Somebody may be watching a log file.
    import sys

    sys.stdout.flush()


def _quiet(text: str) -> None:
    pass


def _is_finished(outcome: Outcome) -> bool:
    return (
        outcome.best is not None and outcome.alone and outcome.ending.why in ("trials", "patience", "hours", "target")
    )


def _show(outcome: Outcome) -> None:
    """How a search ended. One that something is wrong with ends as a mistake does."""
    from ..search.errors import SearchError

    if outcome.ending.is_bad:
        raise SearchError(f"{outcome.run.path}: {outcome.ending.text}; what was found so far is kept")
    say(outcome.ending.text)
    if outcome.best is None:
        say("no trial is complete yet")
        return
    best = outcome.best
    say(f"best: trial {best.number}{f' ({best.baseline})' if best.baseline else ''}, {best.score:.6g}")
    if best.baseline:
        say("no proposal was better than this baseline")
    if outcome.run.best_recipe() is not None:
        say(f"unetscope merge run {outcome.run.best_recipe()} -o merged.safetensors")


def _show_confirmation(found: Confirmation) -> None:
    rows = []
    for c in found.candidates:
        against = "; ".join(
            f"{x.mean:+.4g} ({x.low:+.4g} to {x.high:+.4g}) against {name}" for name, x in c.against.items()
        )
        rows.append(
            [c.name, "" if c.searched is None else f"{c.searched:.6g}", f"{c.score:.6g}", c.better or "", against]
        )
    what = "new prompts" if found.new_prompts else "the same prompts with new seeds"
    columns = [
        "",
        "in the search",
        "held out",
        "better than all parents",
        f"difference ({found.confidence:.0%} together)",
    ]
    show_table(f"Confirmed on {what}", columns, rows)
    say(found.text)
