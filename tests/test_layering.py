"""Imports between rooms point down only, and nothing that a merge imports brings torch along."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A room may import itself and what is listed here.
MAY_IMPORT = {
    "checkpoints": set(),
    "library": {"checkpoints"},
    "analysis": {"checkpoints", "library"},
    "diagrams": {"checkpoints"},
    "merge": {"checkpoints", "library", "analysis"},
    "search": {"checkpoints", "library", "analysis", "diagrams", "merge"},
    "dashboard": {"checkpoints", "library", "analysis", "diagrams", "merge", "search"},
    "cli": {"checkpoints", "library", "analysis", "diagrams", "merge", "search", "dashboard"},
}


def rooms_imported(path: Path) -> set[str]:
    """The rooms that a module imports relatively."""
    depth = len(path.relative_to(ROOT).parts) - 1
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == depth + 1:
            names = [node.module.split(".")[0]] if node.module else [a.name for a in node.names]
            found |= {n for n in names if n in MAY_IMPORT}
    return found


@pytest.mark.parametrize("room", [r for r in MAY_IMPORT if (ROOT / r).is_dir()])
def test_a_room_imports_only_the_rooms_below_it(room):
    for path in (ROOT / room).rglob("*.py"):
        assert rooms_imported(path) <= MAY_IMPORT[room] | {room}, path


# The way of a merge, lowest first: each may import those before it.
MERGE_FILES = (
    "block_weights", "recipe", "linear_combination", "compile", "models", "shape_rule", "plan", "wholeness", "planner",
    "evaluate", "measure", "nonfinite", "coalesce", "executor", "run", "live",
)  # fmt: skip


def test_the_files_of_a_merge_import_only_those_before_them():
    for at, name in enumerate(MERGE_FILES):
        tree = ast.parse((ROOT / "merge" / f"{name}.py").read_text(encoding="utf-8"))
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1]
        assert not {node.module for node in imports} & set(MERGE_FILES[at:]), name


def modules_imported(path: Path) -> set[Path]:
    """The modules of the package that a module imports, wherever in it; what a package's `__init__` offers is not followed."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for place in (base, *(base / alias.name for alias in node.names)):
                if place.with_suffix(".py").is_file():
                    found.add(place.with_suffix(".py"))
    return found - {path}


def test_no_modules_import_each_other_in_a_circle():
    paths = [path for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py") if path.name != "__init__.py"]
    assert len(paths) > 300
    list(TopologicalSorter({path: modules_imported(path) for path in paths}).static_order())  # raises a CycleError


MERGE = """
import sys
from unetscope.cli import main
try:
    main(["merge", "uniform", sys.argv[1], sys.argv[2], "-o", sys.argv[3]])
except SystemExit as stop:
    assert not stop.code, stop.code
assert "torch" not in sys.modules
"""


def test_a_merge_does_not_import_torch(make_checkpoint, tmp_path):
    (a, _), (b, _) = make_checkpoint("a", seed=1), make_checkpoint("b", seed=2)
    arguments = [sys.executable, "-c", MERGE, a, b, tmp_path / "out.safetensors"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
