"""How a command ends: a user's mistake, a stop, or a reader that is gone, each in its own way."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import typer

from .lazy_commands import LazyGroup
from .spelling import words_spelt

STOPPED = 130


class Terminated(KeyboardInterrupt):
    """A signal asks the program to end (SIGTERM of a shutdown or a job queue, SIGHUP of a terminal that closes): as Ctrl-C does."""

    def __init__(self, number: int):
        super().__init__(number)
        self.code = 128 + number


def stop_code(error: KeyboardInterrupt) -> int:
    """The exit code of a command that was stopped: 128 and the signal's number."""
    return error.code if isinstance(error, Terminated) else STOPPED


class Commands(LazyGroup):
    """The commands of `unetscope`. What they raise is told here, because typer would end some of it without a word."""

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **named: Any) -> Any:
        with _told():
            return super().make_context(info_name, words_spelt(self, args), *more, **named)

    def invoke(self, ctx: typer.Context) -> Any:
        with _told():
            return super().invoke(ctx)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    from ..checkpoints.errors import UnetscopeError

    try:
        yield
    except UnetscopeError as error:
        complain(str(error))
        raise typer.Exit(2) from None
    except typer.BadParameter as error:
        error.message = error.message.removeprefix("Value error, ")  # of the library that checks it
        raise
    except KeyboardInterrupt as stop:
        complain("stopped; nothing was left behind")
        raise typer.Exit(stop_code(stop)) from None
    except BrokenPipeError:
        # The reader of our output is gone (`| head`): not our mistake, nor anything to report.
        drop_output()
        raise typer.Exit(0) from None
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # so rich ends the program
            drop_output()
            raise typer.Exit(0) from None
        raise
    except OSError as error:  # a disk or folder that fails where nothing of ours expects it
        complain(f"{error.filename or 'file'}: {error.strerror or error}")
        raise typer.Exit(2) from None


def complain(text: str) -> None:
    """One line on stderr, whatever stands in the names that it quotes."""
    from ..checkpoints.text import printable

    print(f"unetscope: {printable(text).replace(chr(10), ' ')}", file=sys.stderr)


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Have what a command began undone when it is told to end, as by Ctrl-C; while that is done, more such signals do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        for other in changed:
            signal.signal(other, signal.SIG_IGN)  # the first is being answered
        raise Terminated(number)

    wanted = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # What whoever started us has ignored (nohup) stays so.
    changed = [number for number in wanted if signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def notices_shown() -> Iterator[None]:
    """Print what a user should know (`NoticeWarning`) as a line on stderr; other people's warnings as ever."""
    from ..checkpoints.errors import NoticeWarning

    with warnings.catch_warnings():
        others = warnings.showwarning

        def shown(message: Warning | str, category: type[Warning], *where: Any, **how: Any) -> None:
            if not issubclass(category, NoticeWarning):
                others(message, category, *where, **how)
                return
            from .screen import warn

            warn(str(message).replace("\n", " "))

        warnings.simplefilter("always", NoticeWarning)
        warnings.showwarning = shown
        yield


def drop_output() -> None:
    """Let what is still to be printed go nowhere: Python would complain at its end that it cannot be."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def accept_any_text() -> None:
    """Let every character be printed: one that the encoding of a terminal or file lacks becomes its number."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
