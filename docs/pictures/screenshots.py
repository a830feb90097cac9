"""Pictures of every page, in light and dark: `python docs/pictures/screenshots.py FOLDER`.

Serves the app on a models folder of its own with the demo checkpoints, and looks at it with headless Chromium through Playwright
(`pip install playwright`, and a Chromium: the system's, or `playwright install chromium`), as the tests do.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from unetscope.dashboard.page import Scene, in_order

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from automb_log import write_log
from browser import browser_page, served_app, settle, why_not


def prepare(models: Path) -> None:
    """Demo checkpoints, a merge of them, and a log of AutoMBW."""
    from unetscope.checkpoints.demo import demo_collection
    from unetscope.merge import Recipe, merge

    made = demo_collection(models)
    recipe = {
        "models": {"a": str(made["sd1-photo"]), "b": str(made["sd1-anime"])},
        "steps": {"mix": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": {"preset": "GRAD_V"}}},
    }
    merge(Recipe.parse(recipe), models / "merged-mbw.safetensors", overwrite=True)
    write_log(models / "automb-log.csv")


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
    if reason := why_not():
        sys.exit(reason)
    wanted = {name: found for name, found in scenes().items() if not given.only or name in given.only}
    given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        models = Path(scratch) / "models"
        prepare(models)
        for prepared in dict.fromkeys(scene.prepare for _, scene in wanted.values() if scene.prepare):
            prepared(models)
        with served_app(Path(scratch)) as address:
            for suffix in ("light", "dark"):
                with browser_page(dark=suffix == "dark") as page:
                    for path in take(page, address, given.folder, suffix, wanted):
                        print(path)


if __name__ == "__main__":
    main()
