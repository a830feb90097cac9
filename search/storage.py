"""Where the optimiser's memory lies, which workers are alive, and what becomes of the trials of those that are not.

By default the memory is a journal in the run folder, which several processes of one machine may share. Workers on several machines
share one of Optuna's storages: a data base (`sqlite:///...`, `mysql://...`, `postgresql://...`).
"""

from __future__ import annotations

import contextlib
import os
import platform
import random
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints.files.locks import ProcessLock
from .errors import DAMAGED_JOURNAL, SearchError
from .run_folder import RunFolder

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import Trial

# What one worker of a folder does at a time.
_TASKS = ("best", "calibrate", "confirm", "journal", "trials")
# A worker on another machine says so often that it is alive, and is given up after so long a silence.
HEARTBEAT_SECONDS = 60.0
SILENCE_SECONDS = 300.0

# An address that names no driver; Heroku and others write the short form.
_POSTGRES = re.compile("^postgres(ql)?://")
_PASSWORD = re.compile(r"(://[^:/@?]*:)([^?]*)@")
_TRIES = 10
# Who raises errors over a storage that does not answer.
_DRIVERS = ("optuna", "sqlalchemy", "psycopg", "psycopg2", "pymysql", "MySQLdb", "sqlite3")


def require_optuna() -> None:
    """Refuse, in a sentence, to search without the packages of the extra.

    Raises:
        SearchError: they are not installed.
    """
    import importlib.util

    if importlib.util.find_spec("optuna") is None:
        raise SearchError("a search needs optuna: pip install 'unetscope[search]'")


def worker_name() -> str:
    """`host-pid`: this process among all workers."""
    host = re.sub(r"[^A-Za-z0-9_.]", "-", platform.node()) or "worker"
    return f"{host}-{os.getpid()}"


def open_storage(run: RunFolder, url: str | None) -> BaseStorage:
    """Optuna's storage: the run folder's journal, or the one that `url` names.

    Raises:
        SearchError: it cannot be reached, or its driver is not installed.
    """
    if url is None:
        return _journal(run.path / "journal.log", alone=not Workers(run).others())
    shown = without_password(url)
    if (found := _PASSWORD.search(url)) and "@" in found[2]:
        # What follows the first one would be taken for the host, and told in the driver's words.
        raise SearchError(f"--storage {shown}: write %40 for an @ in the password")
    try:
        if url.startswith("grpc://"):
            raise SearchError(
                f"--storage {shown}: Optuna's gRPC proxy is no longer used; give the address of the data base that it "
                "stands in front of, such as postgresql://user@host/searches"
            )
        if "://" not in url:
            return _journal(Path(url), alone=False)
        if _POSTGRES.match(url):
            try:
                import psycopg  # noqa: F401
            except ImportError:
                raise SearchError(f"--storage {shown}: needs psycopg: pip install 'unetscope[postgres]'") from None
        return _data_base(_POSTGRES.sub("postgresql+psycopg://", url))
    except SearchError:
        raise
    # Data base drivers raise errors of many types.
    except Exception as error:
        raise SearchError(f"--storage {shown}: cannot be opened ({reason_of(error)})") from None


def _data_base(url: str) -> BaseStorage:
    """A data base with Optuna's tables."""
    import optuna
    import sqlalchemy

    for left in range(_TRIES - 1, -1, -1):
        try:
            return optuna.storages.get_storage(url)
        except sqlalchemy.exc.ArgumentError:
            raise
        # Workers that begin at the same moment make the same tables; who comes second is told that they are there.
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError):
            if not left:
                raise
            time.sleep(random.uniform(0.1, 0.5))
    raise AssertionError("the last try returns or raises")


def without_password(url: str) -> str:
    """An address as it may be shown. Passwords may hold any character, `@` and `/` too."""
    shown = _PASSWORD.sub(r"\1***@", url)
    return re.sub(r"([?&]password=)[^&]*", r"\1***", shown)


def reason_of(error: Exception) -> str:
    """What a driver says, in a line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def is_of_storage(error: Exception) -> bool:
    """Whether an error comes from the storage, or from what leads to it."""
    return type(error).__module__.partition(".")[0] in _DRIVERS


def _journal(path: Path, alone: bool) -> BaseStorage:
    """A journal file; when nobody else uses it, the lock of a worker that was killed while it wrote is removed first.

    Raises:
        SearchError: its lines make no sense (code `DAMAGED_JOURNAL`).
    """
    from optuna.storages import JournalStorage

    from .journal import JournalFile

    if alone:
        path.with_name(path.name + ".lock").unlink(missing_ok=True)
    try:
        return JournalStorage(JournalFile(path))
    except OSError as error:
        raise SearchError(f"{path}: the journal cannot be opened ({error.strerror or error})") from None
    # Optuna takes it for granted that every operation has its fields.
    except Exception as error:
        raise SearchError(f"{path}: the journal is damaged ({reason_of(error)})", code=DAMAGED_JOURNAL) from None


class Workers:
    """Who works in a run folder: each holds a lock as long as it lives, which the system takes away even from the killed."""

    def __init__(self, run: RunFolder, name: str | None = None):
        self.folder = run.path / "workers"
        self.name = name or worker_name()
        self._held: ProcessLock | None = None

    def enter(self) -> None:
        """Take this worker's lock.

        Raises:
            SearchError: another process has it.
        """
        self._held = ProcessLock(self._path(self.name))
        if not self._held.acquire():
            raise SearchError(f"{self._held.path}: another process of this name works in this folder; try again")

    def leave(self) -> None:
        if self._held is not None:
            self._held.release()
            self._held = None
            self._path(self.name).unlink(missing_ok=True)

    def others(self) -> list[str]:
        """The other workers that are alive; the locks of the dead are removed."""
        names = [path.stem for path in sorted(self.folder.glob("*.lock")) if path.stem not in (self.name, *_TASKS)]
        return [name for name in names if self.is_alive(name)]

    def is_alive(self, name: str) -> bool | None:
        """Whether a worker of this folder lives; None when it is not one of this folder's."""
        if name == self.name:
            return self._held is not None
        if not self._path(name).exists():
            return None
        lock = ProcessLock(self._path(name))
        if not lock.acquire():
            return True
        lock.release()
        self._path(name).unlink(missing_ok=True)
        return False

    @contextlib.contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """One worker of the folder at a time: see `_TASKS`."""
        with ProcessLock(self._path(what)):
            yield

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.lock"


class Heartbeat:
    """Says in the storage, from a thread of its own, that a trial's worker is alive."""

    def __init__(self, trial: Trial, seconds: float = HEARTBEAT_SECONDS):
        self._trial, self._seconds = trial, seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(self._seconds):
            # A storage that does not answer now may answer the next time.
            with contextlib.suppress(Exception):
                self._trial.set_user_attr("alive", time.time())


def is_silent(alive: float | None, begun: float | None, now: float | None = None) -> bool:
    """Whether a worker of which only the heartbeat is known has been silent too long."""
    last = max(alive or 0.0, begun or 0.0)
    return (time.time() if now is None else now) - last > SILENCE_SECONDS
