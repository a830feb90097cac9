"""The floor of a merge: a program that only reads its inputs in 1 MiB pieces and writes the output, without arithmetic.

    python benchmarks/floor.py OUTPUT INPUT... [--fsync]

No merger that writes a whole file can be faster; how near one comes says what its arithmetic and its start cost. It uses
nothing but the standard library: as many threads as cores, positioned reads and writes, space allocated before writing.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

PIECE = 1 << 20


def copy(inputs: list[str], output: str, fsync: bool) -> None:
    """Read every input piece by piece; write the first one's pieces to `output`."""
    sources = [os.open(path, os.O_RDONLY) for path in inputs]
    size = os.fstat(sources[0]).st_size
    target = os.open(output, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    os.posix_fallocate(target, 0, size)
    threads = len(os.sched_getaffinity(0))

    def work(thread: int) -> None:
        buffer = memoryview(bytearray(PIECE))
        for offset in range(thread * PIECE, size, threads * PIECE):
            piece = buffer[: min(PIECE, size - offset)]
            for source in reversed(sources):
                os.preadv(source, [piece], offset)
            os.pwrite(target, piece, offset)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    if fsync:
        os.fsync(target)


if __name__ == "__main__":
    arguments = [a for a in sys.argv[1:] if a != "--fsync"]
    copy(arguments[1:], arguments[0], "--fsync" in sys.argv)
