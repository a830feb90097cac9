"""A headless Chromium, and the app served to it. Without a browser tests are skipped, or fail if one is required."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from unetscope.dashboard.screenshots import find_browser

# Seconds until something is taken for hung; a busy machine needs far less.
PATIENCE = 600.0
REQUIRED = os.environ.get("UNETSCOPE_REQUIRE_BROWSER") == "1"
_ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
# On every page but the first, Streamlit looks for its server below the page's own address before it looks at the root.
_NOT_OURS = ("_stcore/health", "_stcore/host-config")


def _missing(reason: str) -> None:
    if REQUIRED:
        pytest.fail(f"{reason}, and UNETSCOPE_REQUIRE_BROWSER=1 asks for one")
    pytest.skip(reason)


@contextmanager
def chromium() -> Iterator:
    """A browser context of Playwright, whose pages share one cache of Streamlit's scripts.

    Skips the test, or fails it where `UNETSCOPE_REQUIRE_BROWSER=1`, when there is no browser.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("playwright is not installed")
    path = find_browser()
    if not path:
        _missing("there is no chromium on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS.split())
        context = browser.new_context()
        context.set_default_timeout(PATIENCE * 1000)
        yield context
        browser.close()


@contextmanager
def served(script: Path, **environment: str) -> Iterator[str]:
    """Streamlit serving a script on a port of its own; answers with the address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [
        f"--server.port={port}", "--server.headless=true", "--server.address=127.0.0.1", "--server.fileWatcherType=none",
        "--browser.gatherUsageStats=false",
    ]  # fmt: skip
    command = [sys.executable, "-m", "streamlit", "run", str(script), *options]
    process = subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait(f"http://127.0.0.1:{port}/_stcore/health", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _wait(address: str, process: subprocess.Popen) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=60):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the app did not start")


def complaints_of(page) -> list[str]:
    """A list that fills with the errors of a page's console and scripts; call before the page is opened."""
    said: list[str] = []

    def heard(message) -> None:
        if message.type == "error" and not message.location["url"].endswith(_NOT_OURS):
            said.append(message.text)

    page.on("console", heard)
    page.on("pageerror", lambda error: said.append(str(error)))
    return said
