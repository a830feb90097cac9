"""How many modules of ours stand between a command and the kernel.

    python benchmarks/layers.py

Merges two narrow models with `unetscope merge weighted-sum`, and when the kernel is entered looks at the Python stack: that of the
thread that works, and that of the command which waits for it. Prints every module of ours there, in the order in which it is
entered, and their number, in all and by room. A module that stands there twice counts once.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from types import FrameType

import unetscope
from unetscope.checkpoints.demo import write_demo
from unetscope.cli import main

ROOT = Path(unetscope.__file__).resolve().parent
# Where the kernels are, and how the one is called that a weighted sum enters.
KERNELS, ENTERED = "checkpoints/kernel", "linear"
# What looks at the stack, and is not part of it.
_ASIDE = ("benchmarks/", "tests/")


def module_of(frame: FrameType) -> str:
    """The module of ours that a frame is in, as a path from the root; empty for others."""
    path = Path(frame.f_code.co_filename)
    inside = path.is_relative_to(ROOT) and "site-packages" not in path.parts
    return path.relative_to(ROOT).as_posix() if inside else ""


def modules_on(frame: FrameType | None) -> list[str]:
    """Our modules on a stack, the outermost first, each once."""
    found = []
    while frame is not None:
        found.append(module_of(frame))
        frame = frame.f_back
    return list(dict.fromkeys(name for name in reversed(found) if name and not name.startswith(_ASIDE)))


def entered_by(arguments: list[str]) -> list[str]:
    """Our modules on the stack of the command and of the first thread of its that enters the kernel."""
    main_thread, stacks = threading.get_ident(), []

    def watch(frame: FrameType, event: str, _) -> None:
        entered = event == "call" and frame.f_code.co_name == ENTERED and module_of(frame).startswith(KERNELS)
        if entered and not stacks:
            stacks.append(modules_on(sys._current_frames()[main_thread]) + modules_on(frame))

    threading.setprofile(watch)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            main(arguments)
    except SystemExit as stop:
        if stop.code:
            raise
    finally:
        threading.setprofile(None)
    if not stacks:
        raise SystemExit(f"the kernel was not entered: no thread called {ENTERED} of {KERNELS}*")
    return list(dict.fromkeys(stacks[0]))


def report(modules: list[str]) -> str:
    """The modules, one a line, and how many there are."""
    rooms = Counter(name.partition("/")[0] if "/" in name else "the root" for name in modules)
    by_room = ", ".join(f"{room} {count}" for room, count in rooms.items())
    return "\n".join([*modules, f"{len(modules)} modules: {by_room}"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        models = [str(Path(folder, f"{name}.safetensors")) for name in ("a", "b")]
        for seed, path in enumerate(models):
            write_demo(Path(path), "sd1", seed=seed)
        found = entered_by(["merge", "weighted-sum", *models, "-o", str(Path(folder, "out.safetensors"))])
    print(report(found))
