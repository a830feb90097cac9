"""`make test` and `make test-all` are the whole suite, and no test is in both."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def command(target: str) -> str:
    """What a target of the Makefile runs, with its variables filled in."""
    variables = dict(re.findall(r"^(\w+) \??:?= (.*)$", MAKEFILE, re.MULTILINE))
    (line,) = re.findall(rf"^{target}:.*\n\t(.*)$", MAKEFILE, re.MULTILINE)
    while "$(" in line:
        line = re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], line)
    return line


def test_the_two_commands_differ_by_the_marker_alone():
    short, rest = command("test"), command("test-all")
    assert short.count('-m "not long"') == 1 and rest.endswith(" -m long")
    assert short.replace('"not long"', "long") == rest
    # Nothing else is left out of either: no file, no name, no test by its id.
    assert not re.search(r"--(deselect|ignore)|\s-k\s|\s\S*tests?/", rest)


def test_plain_pytest_runs_both():
    with open(ROOT / "pyproject.toml", "rb") as file:
        options = tomllib.load(file)["tool"]["pytest"]["ini_options"]
    assert {"long", "one_by_one"} <= {marker.partition(":")[0] for marker in options["markers"]}
    assert "--strict-markers" in options["addopts"]
    assert not re.search(r"--(deselect|ignore)|(^|\s)-[mk]\b", options["addopts"])


def test_what_decides_whether_a_change_lands_calls_both():
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").split("\n")
    assert [line for line in lines if line.startswith("make test")] == ["make test", "make test-all"]
