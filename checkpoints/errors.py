"""The mistakes a user can make and mend.

Every message is one clear sentence: the file, the key, what was expected, what was found, what to do.
The command line prints it and exits with code 2; nothing half-written is left behind.
"""

from __future__ import annotations

import warnings
from pathlib import PurePath

from .notices import Notice

# So much of another program's message is shown.
_SHOWN = 300


class UnetscopeError(Exception):
    """Base of every error that Unetscope raises for a user's mistake.

    Attributes:
        code: what it is, where programs have to tell it from others of its class (as of a `Notice`); else empty.
    """

    def __init__(self, text: str = "", *, code: str = ""):
        super().__init__(text)
        self.code = code


class CheckpointError(UnetscopeError):
    """A file or folder cannot be read as the checkpoint that was asked for."""


class OutputError(UnetscopeError):
    """The output cannot be written where it was asked for."""


class RecipeError(UnetscopeError):
    """A recipe says what cannot be: names its place, or the models that it cannot be applied to, and what would be right.

    So does what a recipe is made of: a block, a weight vector, a preset, a convention, a merge method.
    """


class Cancelled(UnetscopeError):
    """The work was stopped before it was complete, on request."""


# What `RecipeError` is called where it is about blocks and their weights.
LabelError = RecipeError


class NoticeWarning(UserWarning):
    """A `Notice` of code that has no report to put it in; the command line prints it as a line of its own."""

    def __init__(self, text: str, notice: Notice | None = None):
        super().__init__(text)  # which is all that travels to another process
        self.notice = notice


def tell(notice: Notice) -> None:
    """Issue a `NoticeWarning`."""
    warnings.warn(NoticeWarning(notice.text, notice), stacklevel=2)


def nearest(name: str, known) -> str:
    """A hint for a misspelt name: ` (did you mean 'X' or 'Y'?)`, or an empty string when nothing is near."""
    from difflib import get_close_matches

    by_fold = {str(k).casefold(): str(k) for k in known}
    close = get_close_matches(str(name).casefold(), by_fold, n=2, cutoff=0.6)
    return f" (did you mean {' or '.join(repr(by_fold[c]) for c in close)}?)" if close else ""


def in_words(error: BaseException) -> str:
    """An error of other people's code in a line: its type, what it says, and where it arose."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f" ({PurePath(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno})" if trace else ""
    said = " ".join(str(error).split())[:_SHOWN]
    return f"{type(error).__name__}: {said}{place}"
