"""A program in a process of its own: how long it took, from start to end, and the most memory it held.

The program is started from a small process, this file as a script: Linux counts the memory of the process that starts another
as the other's own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

# A program that takes more of the machine's memory than this is stopped before the machine stalls.
_MOST_MEMORY = 0.85
_LOOK = 0.1


@dataclass(frozen=True)
class Measured:
    """Seconds of wall clock and CPU, peak bytes, and what went wrong (empty when nothing did)."""

    seconds: float
    cpu: float
    peak: int
    failure: str = ""


def measured(command: list[str], timeout: float) -> Measured:
    """Run a command to its end, to `timeout` seconds, or until it fills the memory."""
    said = subprocess.run(
        [sys.executable, __file__, str(timeout), *command], check=True, stdout=subprocess.PIPE, text=True
    )
    return Measured(**json.loads(said.stdout))


def _measured(command: list[str], timeout: float) -> Measured:
    limit = _MOST_MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    stopped: list[str] = []
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=said)
        over = threading.Event()

        def guard() -> None:
            while not over.wait(_LOOK):
                if time.perf_counter() - began > timeout:
                    stopped.append(f"stopped after {timeout:.0f} s")
                elif _own_memory(process.pid) > limit:
                    stopped.append(f"does not fit in memory (over {limit / 1e9:.0f} GB)")
                if stopped:
                    process.kill()
                    return

        watch = threading.Thread(target=guard, daemon=True)
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        over.set()
        watch.join()
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines() or [""]
    failure = stopped[0] if stopped else f"failed: {lines[-1][:200]}" if process.returncode else ""
    return Measured(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, failure)


def _own_memory(pid: int) -> int:
    """Bytes of a process that are not pages of a file; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon", "RssShmem")))


if __name__ == "__main__":
    print(json.dumps(asdict(_measured(sys.argv[2:], float(sys.argv[1])))))
