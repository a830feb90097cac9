"""Pages must appear quickly: none waits for what another needs, and showing them imports nothing that takes seconds."""

from __future__ import annotations

import os
import subprocess
import sys

# Streamlit looks through all installed packages once, not for each page (`one_look_for_components`, in these processes).
ONE_LOOK = """
from functools import cache
from streamlit.components.v2 import manifest_scanner
manifest_scanner.scan_component_manifests = cache(manifest_scanner.scan_component_manifests)
"""
CODE = """
import sys
from streamlit.testing.v1 import AppTest
from unetscope.dashboard.page import PAGES
for name in PAGES:
    at = AppTest.from_string(f"from unetscope.dashboard.pages import {name}\\n{name}.show()", default_timeout=600).run()
    assert not at.exception, (name, at.exception)
print([name for name in ("torch", "torchview", "diffusers", "transformers", "scipy", "matplotlib") if name in sys.modules])
"""

RECORDS = """
import sys
from unetscope.dashboard.page import PAGES
list(PAGES)
rooms = tuple(f"unetscope.{room}." for room in ("analysis", "diagrams", "merge", "search"))
heavy = ("altair", "matplotlib", "numpy", "pandas", "pydantic", "scipy", "torch", "yaml")
print([name for name in sys.modules if name in heavy or name.startswith(rooms)])
"""
NEEDS = """
import sys
from streamlit.testing.v1 import AppTest
from unetscope.dashboard.page import PAGES, bring_in
for page in PAGES.values():
    for need in page.needs:
        bring_in(need)
rooms = tuple(f"unetscope.{room}." for room in ("analysis", "diagrams", "merge", "search", "dashboard"))
before = set(sys.modules)
for name in PAGES:
    at = AppTest.from_string(f"from unetscope.dashboard.pages import {name}\\n{name}.show()", default_timeout=600).run()
    assert not at.exception, (name, at.exception)
print([name for name in sorted(set(sys.modules) - before) if name.startswith(rooms)])
"""


def printed(code: str, environment) -> str:
    """The last line that a program prints."""
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip().splitlines()[-1]


def test_what_pages_are_is_known_without_importing_what_they_draw_and_measure_with():
    assert printed(RECORDS, os.environ) == "[]"


def test_what_pages_import_when_they_are_shown_is_what_their_records_say(models):
    assert printed(ONE_LOOK + NEEDS, os.environ | {"UNETSCOPE_MODELS": str(models)}) == "[]"


def test_showing_every_page_imports_neither_torch_nor_its_relatives(models):
    assert printed(ONE_LOOK + CODE, os.environ | {"UNETSCOPE_MODELS": str(models)}) == "[]"
