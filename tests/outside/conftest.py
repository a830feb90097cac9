"""A family and a container of another package, installed for the tests of one file; and ways to run commands and open pages."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_distribution import install
from streamlit.testing.v1 import AppTest

from unetscope.checkpoints.families import FAMILIES
from unetscope.checkpoints.formats import FORMATS
from unetscope.cli import main
from unetscope.dashboard import shell

HERE = Path(__file__).parent
GROUPS = {"families": FAMILIES, "formats": FORMATS}


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Iterator[Callable[[str, str, str], Path]]:
    """Installs a module of this folder, for this process and for those that it starts: `installed(module, group, record)`."""
    gone: list[str] = []
    with pytest.MonkeyPatch.context() as patch:

        def put(module: str, group: str, record: str) -> Path:
            code = (HERE / f"{module}.py").read_text(encoding="utf-8")
            points = {f"unetscope.{group}": {module: f"{module}:{record}"}}
            site = install(tmp_path_factory.mktemp("site"), module, {module: code}, points)
            patch.syspath_prepend(site)
            patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH", "")))))
            gone.append(module)
            GROUPS[group].reread()
            return site

        yield put
    for module in gone:
        sys.modules.pop(module, None)
    for registry in GROUPS.values():
        registry.reread()


@pytest.fixture
def run(capsys) -> Callable[..., str]:
    """Runs a command that ends well: what it prints. With `code`, one that ends so: what it complains of."""

    def call(*arguments, code: int = 0) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert (end.value.code or 0) == code, out + err
        return err if code else out

    return call


@pytest.fixture
def open_page(tmp_path, monkeypatch, one_look_for_components) -> Callable[..., AppTest]:
    """Opens a page of the app on a folder: `open_page("library", folder, file="a.safetensors")`; jobs are queued and wait."""
    monkeypatch.setattr(shell, "READ_SECONDS", 3600.0)
    monkeypatch.setattr("unetscope.dashboard.jobs.start_worker", lambda lane, force=False: None)
    monkeypatch.setenv("UNETSCOPE_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("UNETSCOPE_OUTPUT", raising=False)

    def open_it(name: str, folder: Path, **parameters: str) -> AppTest:
        monkeypatch.setenv("UNETSCOPE_MODELS", str(folder))
        at = AppTest.from_string(f"from unetscope.dashboard.pages import {name}\n{name}.show()", default_timeout=600)
        for key, value in parameters.items():
            at.query_params[key] = value
        return at.run()

    return open_it
