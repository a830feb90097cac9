"""A headless Chromium, and the app served to it. Without a browser tests are skipped, or fail if one is required."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from unetscope.dashboard.launch import command

# Seconds until something is taken for hung; a busy machine needs far less.
PATIENCE = 600.0
REQUIRED = os.environ.get("UNETSCOPE_REQUIRE_BROWSER") == "1"
WIDTH, HEIGHT = 1280, 800
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
# What is on a page that is not finished.
_BUSY = "[data-testid=stApp][data-test-script-state=running], [data-testid=stSkeleton], [data-stale=true]"
# On every page but the first, Streamlit looks for its server below the page's own address before it looks at the root.
_NOT_OURS = ("_stcore/health", "_stcore/host-config")


def find_browser() -> str | None:
    """The system's Chromium; None when there is none."""
    return next((found for name in _BROWSERS if (found := shutil.which(name))), None)


def why_not() -> str:
    """What is missing for a browser; empty when nothing is."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "Playwright is not installed (pip install playwright)"
    return "" if find_browser() else "there is no Chromium on the PATH (apt install chromium)"


def require_browser() -> None:
    """Skip the test, or fail it where `UNETSCOPE_REQUIRE_BROWSER=1`, when there is no browser."""
    reason = why_not()
    if reason and REQUIRED:
        pytest.fail(f"{reason}, and UNETSCOPE_REQUIRE_BROWSER=1 asks for one")
    if reason:
        pytest.skip(reason)


@contextmanager
def chromium(**options: Any) -> Iterator:
    """A browser context of Playwright with these options, whose pages share one cache of Streamlit's scripts."""
    require_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=_ARGUMENTS.split())
        context = browser.new_context(**options)
        context.set_default_timeout(PATIENCE * 1000)
        try:
            yield context
        finally:
            browser.close()


@contextmanager
def browser_page(dark: bool = False) -> Iterator:
    """A Playwright page of 1280x800."""
    with chromium(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="dark" if dark else "light") as context:
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        yield context.new_page()


def settle(page: Any, seconds: float = PATIENCE) -> None:
    """Wait until the page has been drawn and nothing runs."""
    page.locator("[data-testid=stMain]").wait_for(timeout=seconds * 1000)
    deadline, quiet = time.monotonic() + seconds, 0
    while quiet < 3 and time.monotonic() < deadline:
        running = page.locator(_BUSY).count()
        quiet = 0 if running else quiet + 1
        page.wait_for_timeout(120)


@contextmanager
def served(script: Path, **environment: str) -> Iterator[str]:
    """Streamlit serving a script on a port of its own; answers with the address."""
    port = _free_port()
    options = [
        f"--server.port={port}", "--server.headless=true", "--server.address=127.0.0.1", "--server.fileWatcherType=none",
        "--browser.gatherUsageStats=false",
    ]  # fmt: skip
    words = [sys.executable, "-m", "streamlit", "run", str(script), *options]
    with _running(words, environment, f"http://127.0.0.1:{port}", Path(os.devnull)) as address:
        yield address


@contextmanager
def served_app(folder: Path) -> Iterator[str]:
    """The app on `folder/models`, its state and cache below `folder`; answers with the address."""
    models = folder / "models"
    models.mkdir(parents=True, exist_ok=True)
    environment = {
        "UNETSCOPE_MODELS": str(models),
        "UNETSCOPE_STATE": str(folder / "state"),
        "UNETSCOPE_CACHE": str(folder / "cache"),
    }
    port = _free_port()
    words = command(port, "localhost", browser=False)
    with _running(words, environment, f"http://localhost:{port}", folder / "server.log") as address:
        yield address


@contextmanager
def _running(words: Sequence[str], environment: Mapping[str, str], address: str, said: Path) -> Iterator[str]:
    """A server while it answers at an address; what it prints goes into the file `said`."""
    with open(said, "wb") as log:
        process = subprocess.Popen(words, env=os.environ | dict(environment), stdout=log, stderr=log)
    try:
        _wait(f"{address}/_stcore/health", process)
        yield address
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(address: str, process: subprocess.Popen) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=60):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"the app did not answer at {address}")


def complaints_of(page) -> list[str]:
    """A list that fills with the errors of a page's console and scripts; call before the page is opened."""
    said: list[str] = []

    def heard(message) -> None:
        if message.type == "error" and not message.location["url"].endswith(_NOT_OURS):
            said.append(message.text)

    page.on("console", heard)
    page.on("pageerror", lambda error: said.append(str(error)))
    return said
