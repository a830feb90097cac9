"""The files that the docs write out: fenced blocks whose first line begins with a name. Tests run what people are told to write."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"


def files_of(page: str) -> dict[str, str]:
    """The files that a page of docs/ writes out: name (`my_page.py`) -> text."""
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w+\n(# ([\w./-]+\.\w+)\b.*?\n.*?)^```", text, re.MULTILINE | re.DOTALL)
    return {name: block for block, name in blocks}
