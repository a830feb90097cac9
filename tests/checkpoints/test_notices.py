"""What users are told is a record: every code is listed, and told in one place."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from unetscope.checkpoints.errors import NoticeWarning, UnetscopeError, tell
from unetscope.checkpoints.notices import CODES, Notice, worst_first

ROOT = Path(__file__).parents[2]


def _strings():
    """Every string of the product's code, and the codes of all notices and errors that stand in full where they are made."""
    strings, codes = Counter(), set()
    outside = ("tests", "benchmarks", "docs", "examples", "notebooks", "build", "dist")
    for path in ROOT.rglob("*.py"):
        first = path.relative_to(ROOT).parts[0]
        if first in outside or first.startswith("."):  # an environment may stand in the root
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                strings[node.value] += 1
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Notice":
                codes |= {n.value for n in ast.walk(node.args[0]) if isinstance(n, ast.Constant) and "." in n.value}
            if isinstance(node, ast.keyword) and node.arg == "code" and isinstance(node.value, ast.Constant):
                codes.add(node.value.value)
    return strings, codes


def test_every_code_is_listed_and_told_in_one_place():
    strings, codes = _strings()
    assert codes <= CODES and all(re.fullmatch(r"[a-z_]+\.[a-z0-9_]+", code) for code in CODES)
    assert {code: strings[code] for code in CODES if strings[code] != 1} == {}


def test_a_notice_of_one_of_several_files_names_it_first():
    note = Notice("vae.odd", "is odd", ("vae",), "warning").of("b")
    assert (note.text, note.subject, note.topic, str(note)) == ("b: is odd", ("b", "vae"), "vae", "b: is odd")
    error, first, second = (Notice("vae.odd", x, severity=s) for x, s in (("1", "error"), ("2", "note"), ("3", "note")))
    assert worst_first([first, error, second]) == [error, first, second]


def test_what_has_no_report_is_told_as_a_warning_that_carries_the_notice():
    note = Notice("kernels.not_kept", "are not kept")
    with pytest.warns(NoticeWarning) as told:
        tell(note)
    assert told[0].message.notice is note and str(told[0].message) == note.text


def test_an_error_may_have_a_code():
    assert UnetscopeError("no").code == "" and UnetscopeError("no", code="import.no_equivalent").code
