"""The command line, `unetscope`: thin commands over the functions that the app and Python users call.

Modules import what they need inside the commands: `unetscope --help` must answer before numpy could be imported. `main` is all that
others use.

In the order in which data passes:

- `commands`, `lazy_commands`: which commands there are; each is made when it is asked for
- `arguments`, `short_forms`, `spelling`: options that several share; the options of a merge method
- `inspecting`, `analysing`, `tracing`, `indexing`, `linting`, `importing`, `converting`, `listing`, `drawing`, `demo`, `merging`,
  `lora`, `searching`, `app`: the commands
- `screen`: what they show
- `exit_codes`: how they end
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Sequence


def main(arguments: list[str] | None = None) -> None:
    """Entry point; always ends in SystemExit.

    A user's mistake is one sentence on stderr and exit code 2; a stop by Ctrl-C is exit code 130, by SIGTERM 143.
    """
    try:
        from .exit_codes import accept_any_text, drop_output, notices_shown, stopped_by_signals

        accept_any_text()
        _start_quickly(sys.argv[1:] if arguments is None else arguments)
        from .commands import app

        with notices_shown(), stopped_by_signals():
            app(args=arguments, prog_name="unetscope")
    except KeyboardInterrupt:  # while modules were imported
        print("unetscope: stopped", file=sys.stderr)
        raise SystemExit(130) from None
    except SystemExit:
        try:
            if sys.stdout:
                sys.stdout.flush()
        except BrokenPipeError:
            drop_output()
        raise


# Commands that run for hours, and below which other people's programs run: they start as Python is used to.
_LONG = ("search", "app")


def _start_quickly(words: Sequence[str]) -> None:
    """Spare a command what costs it more than reading a small model."""
    if words and words[0] in _LONG:
        return
    # Importing makes half a million objects and next to no garbage: Python need not look for it every few hundred, nor at the end.
    gc.set_threshold(100_000, *gc.get_threshold()[1:])
    atexit.register(gc.freeze)
    # None of pydantic's plugins is meant for us, and to find them it reads the metadata of every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
