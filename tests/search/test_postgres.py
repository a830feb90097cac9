"""Workers that share a real PostgreSQL, started for these tests.

Without one they are skipped; with UNETSCOPE_REQUIRE_POSTGRES=1 they fail instead.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from fake_search import PATIENCE, SMALL, start, write_study

from unetscope.search.errors import SearchError
from unetscope.search.loop import search
from unetscope.search.run_folder import RunFolder
from unetscope.search.storage import open_storage, without_password
from unetscope.search.study import Study

pytestmark = pytest.mark.long


def _missing(reason: str) -> None:
    if os.environ.get("UNETSCOPE_REQUIRE_POSTGRES") == "1":
        pytest.fail(f"{reason}, and UNETSCOPE_REQUIRE_POSTGRES=1 asks for one")
    pytest.skip(reason)


class Server:
    """A PostgreSQL of its own, in a folder of its own. It refuses to run as root, so that root lends it another user."""

    def __init__(self, binaries: Path, folder: Path):
        self.binaries, self.data = binaries, folder / "data"
        self.user = next((u for u in ("postgres", "nobody") if _exists(u)), "") if os.geteuid() == 0 else ""
        self.group = subprocess.check_output(["id", "-gn", self.user], text=True).strip() if self.user else ""
        if self.user:
            shutil.chown(folder, self.user, self.group)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._run("initdb", "-D", self.data, "-U", "searcher", "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8")
        self.process = None

    def url(self, base: str = "postgres") -> str:
        return f"postgresql://searcher:secret@127.0.0.1:{self.port}/{base}"

    def begin(self) -> None:
        import psycopg

        command = self._as_user("postgres", "-D", self.data, "-p", self.port, "-F", "-k", "", "-h", "127.0.0.1")
        self.process = subprocess.Popen(command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + PATIENCE
        while True:
            try:
                psycopg.connect(self.url()).close()
                return
            except psycopg.OperationalError:
                assert self.process.poll() is None and time.monotonic() < end
                time.sleep(0.05)

    def end(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)  # at once, whoever is connected
            self.process.wait(PATIENCE)
            self.process = None

    def create(self, base: str) -> str:
        """An empty data base's address."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{base}"')
        return self.url(base)

    def _as_user(self, name: str, *arguments: object) -> list[str]:
        other = ["setpriv", f"--reuid={self.user}", f"--regid={self.group}", "--clear-groups"] if self.user else []
        return [*other, str(self.binaries / name), *map(str, arguments)]

    def _run(self, name: str, *arguments: object) -> None:
        subprocess.run(self._as_user(name, *arguments), cwd="/", check=True, stdout=subprocess.DEVNULL)


def _exists(user: str) -> bool:
    import pwd

    return any(entry.pw_name == user for entry in pwd.getpwall())


def _binaries() -> Path | None:
    """Where a server's programs are: Debian has them in a folder for each version, off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@pytest.fixture(scope="module")
def server():
    if sys.platform == "win32":
        pytest.skip("starts a server as Debian has it")
    for package in ("optuna", "psycopg"):
        try:
            __import__(package)
        except ImportError:
            _missing(f"{package} is not installed")
    binaries = _binaries()
    if binaries is None:
        _missing("there is no PostgreSQL")
    folder = Path(tempfile.mkdtemp(prefix="unetscope-postgres-"))
    made = None
    try:
        made = Server(binaries, folder)
        made.begin()
        yield made
    finally:
        if made is not None:
            made.end()
        shutil.rmtree(folder)


def test_three_workers_with_folders_of_their_own_share_a_data_base(server, tmp_path):
    url = server.create("searches")
    study = write_study(tmp_path, SMALL, workers=3)
    names = ("one", "two", "three")
    workers = [start(tmp_path, study, "-o", name, "--storage", url) for name in names]
    for worker in workers:
        out, err = worker.communicate(timeout=PATIENCE)
        assert worker.returncode == 0 and "secret" not in out + err, err
    # Who ended first has not seen what the others did then.
    for name in names:
        again = search(Study.load(study), tmp_path / name, resume=True, storage=url, say=lambda text: None)
        assert again.ending.why == "trials"
    runs = [RunFolder(tmp_path / name) for name in names]
    trials = runs[0].trials()
    assert all(run.trials() == trials and run.best() == runs[0].best() for run in runs)
    assert 12 <= len(trials) <= 14 and {t.state for t in trials} == {"complete"}
    assert len({t.worker for t in trials}) == 3 and len({tuple(t.point.values()) for t in trials}) == len(trials)
    for run in runs:
        lines = [line for path in (run.path / "trials").glob("*.jsonl") for line in path.read_text().splitlines()]
        assert len(lines) == len(trials)
        assert {path.stem for path in (run.path / "trials").glob("*.jsonl")} == {t.worker for t in trials}


def test_a_data_base_that_goes_away_costs_no_trial(server, tmp_path, monkeypatch):
    url, asked = server.create("interrupted"), []

    def score(weights):
        asked.append(weights["x"])
        if len(asked) == 3:
            server.end()
        return weights["x"]

    monkeypatch.setattr("unetscope.search.objective.load_function", lambda *_: score)
    data = {"title": "t", "objective": "m:f", "trials": 6, "optimiser": "random", "parameters": {"x": {"free": [0, 1]}}}
    study = Study.parse(data, "study.yaml", tmp_path)
    try:
        with pytest.raises(SearchError, match=r"the storage has failed.*--resume continues") as raised:
            search(study, tmp_path / "run", storage=url, say=lambda text: None)
        assert "secret" not in str(raised.value)
        with pytest.raises(SearchError, match=r"searcher:\*\*\*@127.*cannot be opened"):
            search(study, tmp_path / "run", storage=url, say=lambda text: None)
    finally:
        server.begin()
    trials = search(study, tmp_path / "run", storage=url, say=lambda text: None).run.trials()
    assert len(trials) == len(set(asked)) == len(asked) == 6 and {t.state for t in trials} == {"complete"}


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://me:se/cret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:s@e:cret@host/db?sslmode=require", "postgresql://me:***@host/db?sslmode=require"),
        (
            "postgresql://me@host/db?password=secret&sslmode=require",
            "postgresql://me@host/db?password=***&sslmode=require",
        ),
        ("postgresql://host:5432/db?user=a@b", "postgresql://host:5432/db?user=a@b"),
        ("sqlite:///C:/a@b.db", "sqlite:///C:/a@b.db"),
    ],
)
def test_no_password_is_shown_of_an_address(address, shown):
    assert without_password(address) == shown


def test_an_at_in_a_password_is_refused_and_none_of_it_is_told(tmp_path):
    pytest.importorskip("optuna")
    with pytest.raises(SearchError, match="write %40 for an @ in the password") as refused:
        open_storage(RunFolder(tmp_path), "postgresql://me:se@cret@host/db")
    assert "cret" not in str(refused.value)


def test_a_driver_that_is_missing_is_named(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.setattr("unetscope.search.objective.load_function", lambda *_: len)
    data = {"objective": "m:f", "parameters": {"x": {"free": [0, 1]}}}
    with pytest.raises(SearchError, match=r"user:\*\*\*@host/x: needs psycopg: pip install 'unetscope\[postgres\]'"):
        search(Study.parse(data, "s", tmp_path), tmp_path / "run", storage="postgresql://user:pw@host/x")
