"""The pass over weights: pieces of tensors, in file order, on several threads, with progress and a way to stop.

`analysis` reduces over it, `merge` maps over it. A piece is small enough to stay in a core's cache while it is worked on,
and no two pieces depend on each other, so the number of threads never changes a result.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from .errors import Cancelled, UnetscopeError

# Elements of a piece: 1 MiB of fp16. Larger pieces fall out of the second-level cache, smaller ones cost Python time.
PIECE = 1 << 19
# What a thread may hold in buffers for its inputs, whatever their number.
_BUFFER_BYTES = 48 << 20
_SMALLEST_PIECE = 1 << 12


@dataclass(frozen=True, slots=True)
class Span:
    """Elements `start` to `stop` of the `index`-th tensor of a pass."""

    index: int
    start: int
    stop: int

    @property
    def elements(self) -> int:
        return self.stop - self.start


# Called with bytes done, bytes in all, and the key that is being worked on.
Progress = Callable[[int, int, str], None]


def piece_length(inputs: int, itemsize: int = 4) -> int:
    """Elements of a piece when each takes a buffer from every one of `inputs` inputs: fewer as there are more inputs."""
    bounded = _BUFFER_BYTES // (max(inputs, 1) * itemsize)
    return max(_SMALLEST_PIECE, min(PIECE, 1 << max(bounded, 1).bit_length() - 1))


def spans(sizes: Sequence[int], length: int = PIECE) -> Iterator[Span]:
    """Cut tensors of these sizes (in elements) into pieces of at most `length`, in order; an empty tensor has none."""
    for index, size in enumerate(sizes):
        for start in range(0, size, length):
            yield Span(index, start, min(start + length, size))


def default_threads() -> int:
    """As many threads as this process may use cores, at most 8: beyond that the disk or the memory is the limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores))


class Pass:
    """A run over pieces.

    Args:
        threads: how many; None for `default_threads()`.
        progress: called on the calling thread, about ten times a second and once at the end.
        cancel: an event that stops the pass when it is set.
    """

    def __init__(
        self, threads: int | None = None, progress: Progress | None = None, cancel: threading.Event | None = None
    ):
        if threads is not None and threads < 1:
            raise UnetscopeError(f"the number of threads must be at least 1, not {threads}")
        self.threads = threads or default_threads()
        self._progress = progress
        self._cancel = cancel or threading.Event()

    def run(
        self,
        pieces: Iterable[Span],
        worker: Callable[[], Callable[[Span], None]],
        *,
        weight: Callable[[Span], int] = lambda piece: piece.elements,
        total: int = 0,
        key: Callable[[Span], str] = lambda piece: "",
    ) -> None:
        """Hand every piece to a worker.

        Args:
            pieces: in the order in which they should be begun.
            worker: called once on each thread; returns the function that does a piece. Its closure holds the thread's buffers.
            weight: what a piece counts for in the progress (bytes, usually); `total` is their sum.
            key: the name that the progress shows for a piece.

        Raises:
            Cancelled: the cancel event was set. Whatever a worker raised, from the first one that failed.
        """
        queue, lock = iter(pieces), threading.Lock()
        failures: list[BaseException] = []
        stop, state = threading.Event(), {"done": 0, "key": ""}

        def loop() -> None:
            try:
                work = worker()
                while not stop.is_set():
                    with lock:
                        piece = next(queue, None)
                    if piece is None:
                        return
                    work(piece)
                    with lock:
                        state["done"] += weight(piece)
                        state["key"] = key(piece)
            except BaseException as error:  # handed to the calling thread below
                with lock:
                    failures.append(error)
                stop.set()

        threads = [threading.Thread(target=loop, daemon=True) for _ in range(self.threads)]
        self._until_done(threads, stop, lambda: (state["done"], total, state["key"]))
        if failures:
            raise failures[0]
        if self._cancel.is_set():
            raise Cancelled("cancelled")
        if self._progress:
            self._progress(state["done"], total, state["key"])

    def _until_done(
        self, threads: list[threading.Thread], stop: threading.Event, done: Callable[[], tuple[int, int, str]]
    ) -> None:
        """Start threads and wait for them, telling the progress; they are asked to stop where the pass is cancelled."""
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.1)
                    if self._cancel.is_set():
                        stop.set()
                    elif self._progress and not stop.is_set():
                        self._progress(*done())
        finally:
            stop.set()
            for thread in threads:
                with contextlib.suppress(RuntimeError):  # never started: Ctrl-C came first
                    thread.join()
