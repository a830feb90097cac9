"""The command line, `unetscope`: thin commands over the functions that the app and Python users call.

Modules import what they need inside the commands: `unetscope --help` must answer before numpy could be imported.
"""

from __future__ import annotations

import os
import sys


def main(arguments: list[str] | None = None) -> None:
    """Entry point. A user's mistake is one sentence on stderr and exit code 2; a stop by Ctrl-C is exit code 130."""
    from ..checkpoints.errors import UnetscopeError
    from .commands import app

    try:
        app(args=arguments, prog_name="unetscope")
    except UnetscopeError as error:
        _complain(str(error))
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("unetscope: stopped; nothing was left behind", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        # The reader of our output is gone (`| head`): not our mistake, nor anything to report.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except OSError as error:  # a disk or folder that fails where nothing of ours expects it
        _complain(f"{error.filename or 'file'}: {error.strerror or error}")
        raise SystemExit(2) from None


def _complain(text: str) -> None:
    """One line on stderr, whatever stands in the names that it quotes."""
    from .screen import printable

    print(f"unetscope: {printable(text).replace(chr(10), ' ')}", file=sys.stderr)
