"""What docstrings say is true: their examples run, and docs/api.md is made of them."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
import runpy
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import unetscope

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = ("benchmarks", "build", "dist", "docs", "examples", "notebooks", "tests")
API = runpy.run_path(str(ROOT / "docs" / "api.py"))
ROOMS = list(API["rooms"]())
# The files that examples find: the number that fills each of three layers, as the page of rooms says.
FILES = {"a.safetensors": (1, 1, 1), "b.safetensors": (3, 3, 3), "c.safetensors": (0, 1, 2)}


def modules_with_examples() -> list[str]:
    """Every module of the package in which an example stands."""
    paths = [path.relative_to(ROOT) for path in sorted(ROOT.rglob("*.py"))]
    inside = [path for path in paths if path.parts[0] not in OUTSIDE and not path.parts[0].startswith(".")]
    found = [path for path in inside if ">>> " in (ROOT / path).read_text(encoding="utf-8")]
    return [".".join(("unetscope", *path.with_suffix("").parts)).removesuffix(".__init__") for path in found]


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings_do_what_they_say(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file, values in FILES.items():
        save_file({f"layers.{n}.weight": np.full((4, 4), x, np.float32) for n, x in enumerate(values)}, file)
    # Of an error its class counts: a sentence may be put better.
    result = doctest.testmod(import_module(name), optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    assert result.attempted > 0 and result.failed == 0


def test_the_page_of_rooms_is_what_their_docstrings_give():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert page == API["page"](), "docs/api.md is old: make docs"


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.__name__)
def test_what_a_room_offers_is_there_and_says_what_it_is(room):
    offered = {name: getattr(room, name) for name in room.__all__}
    silent = [
        x for x, found in offered.items() if (inspect.isroutine(found) or inspect.isclass(found)) and not found.__doc__
    ]
    assert room.__doc__ and silent == []


# -- tables of contents --------------------------------------------------------------------------------------------------


def test_the_package_names_all_of_its_rooms():
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py") if path.parent.name not in OUTSIDE}
    assert set(re.findall(r"^- `(\w+)`:", unetscope.__doc__, re.MULTILINE)) == folders


def initial_files() -> list[Path]:
    """The `__init__` of every room."""
    paths = [path.relative_to(ROOT) for path in sorted(ROOT.rglob("__init__.py"))]
    return [path for path in paths if path.parts[0] not in OUTSIDE and not path.parts[0].startswith(".")]


@pytest.mark.parametrize("path", initial_files(), ids=str)
def test_a_rooms_table_of_contents_names_files_that_are_there(path):
    doc = ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8"))) or ""
    entries = re.findall(r"^- ((?:`\w+`,?\s+)*`\w+`):", doc, re.MULTILINE)
    named = [name for entry in entries for name in re.findall(r"\w+", entry)]
    there = {one.name.removesuffix(".py") for one in (ROOT / path).parent.iterdir()}
    assert [name for name in named if name not in there] == []
    assert len(named) == len(set(named))
