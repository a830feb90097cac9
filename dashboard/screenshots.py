"""Pictures of every page, in light and dark: `python -m unetscope.dashboard.screenshots FOLDER`.

Serves the app on a models folder of its own with the demo checkpoints, and looks at it with headless Chromium through Playwright
(`pip install playwright`, and a Chromium: the system's, or `playwright install chromium`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from .launch import command
from .page import Scene, in_order

WIDTH, HEIGHT = 1280, 800
_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
# What is on a page that is not finished.
_BUSY = "[data-testid=stApp][data-test-script-state=running], [data-testid=stSkeleton], [data-stale=true]"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def find_browser() -> str | None:
    """The system's Chromium; None when there is none."""
    return next((found for name in _BROWSERS if (found := shutil.which(name))), None)


@contextlib.contextmanager
def served(folder: Path, models: Path | None = None) -> Iterator[str]:
    """The app on `models` (`folder/models` when not given), its state and cache below `folder`; yields the address."""
    models = models or folder / "models"
    models.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "UNETSCOPE_MODELS": str(models),
        "UNETSCOPE_STATE": str(folder / "state"),
        "UNETSCOPE_CACHE": str(folder / "cache"),
    }
    port = _free_port()
    with open(folder / "server.log", "wb") as log:
        server = subprocess.Popen(command(port, "localhost", browser=False), env=environment, stdout=log, stderr=log)
    address = f"http://localhost:{port}"
    try:
        _wait(f"{address}/_stcore/health", server)
        yield address
    finally:
        server.terminate()
        server.wait(600)


@contextlib.contextmanager
def browser_page(dark: bool = False, browser: str | None = None) -> Iterator[Any]:
    """A Playwright page of 1280x800 in headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        window = playwright.chromium.launch(executable_path=browser or find_browser(), args=_ARGUMENTS)
        scheme = "dark" if dark else "light"
        context = window.new_context(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        try:
            yield context.new_page()
        finally:
            window.close()


def settle(page: Any, seconds: float = 600) -> None:
    """Wait until the page has been drawn and nothing runs."""
    page.locator("[data-testid=stMain]").wait_for(timeout=seconds * 1000)
    deadline, quiet = time.monotonic() + seconds, 0
    while quiet < 3 and time.monotonic() < deadline:
        running = page.locator(_BUSY).count()
        quiet = 0 if running else quiet + 1
        page.wait_for_timeout(120)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def _wait(address: str, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=60):
            return
        time.sleep(0.1)
    raise RuntimeError(f"the app did not answer at {address}")


# -- pictures -----------------------------------------------------------------------------------------------------------


def prepare(models: Path) -> None:
    """Demo checkpoints, a merge of them, and a log of AutoMBW."""
    from ..checkpoints.demo import demo_collection
    from ..merge import Recipe, merge

    made = demo_collection(models)
    recipe = {
        "models": {"a": str(made["sd1-photo"]), "b": str(made["sd1-anime"])},
        "steps": {"mix": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": {"preset": "GRAD_V"}}},
    }
    merge(Recipe.parse(recipe), models / "merged-mbw.safetensors", overwrite=True)
    write_log(models / "automb-log.csv")


def write_log(path: Path, trials: int = 60) -> None:
    """A log of 27 weights as AutoMBW writes it, of a formula that likes the first blocks of B and the last ones of A."""
    random = Random(1)
    lines = [",".join([*map(str, range(27)), "score", "eval_times", "iter_times"])]
    best, centre = -1.0, [0.5] * 27
    for _ in range(trials):
        weights = [round(min(max(w + random.gauss(0, 0.25), 0), 1), 1) for w in centre]
        score = 6 - sum((w - (1 - i / 27)) ** 2 / (1 + i / 4) for i, w in enumerate(weights)) + random.gauss(0, 0.05)
        if score > best:
            best, centre = score, weights
        seconds = random.uniform(38, 46)
        lines.append(",".join(map(str, [*weights, round(score, 4), round(seconds, 2), round(seconds + 1.4, 2)])))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def scenes() -> dict[str, tuple[str, Scene]]:
    """Name of a picture -> address of its page, and what the page says of it."""
    pages = in_order()
    address = {page.id: "" if page is pages[0] else page.id for page in pages}
    return {scene.name: (address[page.id] + scene.query, scene) for page in pages for scene in page.scenes}


def take(page: Any, address: str, folder: Path, suffix: str, wanted: dict[str, tuple[str, Scene]]) -> list[Path]:
    """The pictures, as people see pages after the usual first clicks."""
    taken = []
    for name, (path, scene) in wanted.items():
        page.goto(f"{address}/{path}")
        settle(page)
        _act(page, scene)
        _let_jobs_end(page)
        target = folder / f"{name}_{suffix}.png"
        page.screenshot(path=target)
        taken.append(target)
    return taken


def _let_jobs_end(page: Any) -> None:
    """Wait for what a page has started by itself or by a click, and for what is drawn then."""
    settle(page)
    page.locator("[data-testid=stProgress]").first.wait_for(state="detached", timeout=600_000)
    settle(page)


def _act(page: Any, scene: Scene) -> None:
    """Click, scroll, and let the page come to rest."""
    if scene.click:
        button = page.get_by_role("button", name=scene.click).first
        if button.count() and button.is_enabled():
            button.click()
            page.wait_for_timeout(5000)
        return
    page.wait_for_timeout(800)
    if scene.scroll_to:
        heading = page.get_by_text(scene.scroll_to)
        heading.evaluate("element => element.scrollIntoView({block: 'start'})")
        page.wait_for_timeout(800)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the pictures are written")
    parser.add_argument("--only", nargs="*", choices=list(scenes()), help="only these pictures")
    given = parser.parse_args()
    wanted = {name: found for name, found in scenes().items() if not given.only or name in given.only}
    given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        models = Path(scratch) / "models"
        prepare(models)
        for prepared in dict.fromkeys(scene.prepare for _, scene in wanted.values() if scene.prepare):
            prepared(models)
        with served(Path(scratch)) as address:
            for suffix in ("light", "dark"):
                with browser_page(dark=suffix == "dark") as page:
                    for path in take(page, address, given.folder, suffix, wanted):
                        print(path)


if __name__ == "__main__":
    main()
