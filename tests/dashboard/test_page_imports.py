"""Pages must appear quickly: showing them imports nothing that takes seconds."""

from __future__ import annotations

import os
import subprocess
import sys

CODE = """
import sys
from streamlit.testing.v1 import AppTest
from unetscope.dashboard.shell import PAGES
for name in PAGES:
    at = AppTest.from_string(f"from unetscope.dashboard.pages import {name}\\n{name}.show()", default_timeout=600).run()
    assert not at.exception, (name, at.exception)
print([name for name in ("torch", "torchview", "diffusers", "transformers", "scipy", "matplotlib") if name in sys.modules])
"""


def test_showing_every_page_imports_neither_torch_nor_its_relatives(models):
    environment = os.environ | {"UNETSCOPE_MODELS": str(models)}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().splitlines()[-1] == "[]"
