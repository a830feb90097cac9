"""Ctrl-C in a search: once to finish well, twice to stop at once."""

from __future__ import annotations

import os
import signal
import threading


class Interrupts:
    """Ctrl-C, and the signal by which clusters announce that time is up: the first lets the trial finish, the second does not.

    Attributes:
        asked: whether somebody wants to stop.
    """

    def __init__(self):
        self.asked = False
        self._old: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        if self.asked:
            # As it would have ended without a search: the exit code tells the signal.
            before = self._old[number]
            if callable(before):
                before(number, frame)
            raise KeyboardInterrupt
        self.asked = True
        # Not print: the signal may have come while something is printed.
        os.write(2, b"\nstopping after this trial; again to stop at once\n")
