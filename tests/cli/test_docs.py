"""The documents name every command, and what they tell people to type exists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from unetscope.cli.commands import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = typer.main.get_command(app)
GUIDE = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")


def shown(text: str) -> Iterator[str]:
    """The lines in fenced blocks that call `unetscope`, without their remarks."""
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            # Only what begins like a command: tables of results have columns of that name.
            if found := re.match(r"\s*(?:\$ )?unetscope ([a-z-].*)", line):
                yield found[1]


def mentioned(text: str) -> Iterator[str]:
    """Calls in the running text, which may be broken over lines and have placeholders."""
    for span in re.findall(r"`unetscope\s([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)):
        yield " ".join(span.split())


LINES = [(document.name, line) for document in DOCUMENTS for line in shown(document.read_text(encoding="utf-8"))]


def descend(words: list[str]):
    """The command that words begin with, and the rest of them."""
    command = COMMAND
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        if words[0] not in command.commands and hasattr(command, "usual"):
            words = [command.usual, *words]
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("document, line", LINES)
def test_every_line_to_type_is_one_that_the_program_takes(document, line):
    command, words = descend(shlex.split(line, comments=True))
    assert not hasattr(command, "commands") or words, line
    command.make_context("unetscope", words)


def test_every_option_in_the_running_text_exists():
    found = [(d.name, call) for d in DOCUMENTS for call in mentioned(d.read_text(encoding="utf-8"))]
    assert found
    for name, call in found:
        if call.startswith("COMMAND"):
            continue
        command, words = descend(call.split())
        known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)} | {"--help"}
        assert {w for w in words if w.startswith("-")} <= known, (name, call)


def test_the_guide_has_a_section_and_an_example_for_every_command():
    examples = list(shown(GUIDE))
    for name, command in COMMAND.commands.items():
        assert f"\n## {name}\n" in GUIDE, name
        for inner in getattr(command, "commands", {"": None}):
            assert any(f"{line} ".startswith(f"{name} {inner}".strip() + " ") for line in examples), (name, inner)


def test_the_guide_names_only_options_that_exist():
    sections = re.split(r"^## ", GUIDE, flags=re.MULTILINE)[1:]
    for section in sections:
        command = COMMAND.commands.get(section.split("\n")[0])
        if command is None:
            continue
        commands = getattr(command, "commands", {"": command}).values()
        known = {option for c in commands for p in c.params for option in (*p.opts, *p.secondary_opts)}
        named = set(re.findall(r"`(--[\w-]+)", section))
        assert named <= known, named - known


def test_the_guide_names_every_variable_that_the_program_reads():
    rooms = [
        ROOT / name
        for name in ("checkpoints", "library", "merge", "analysis", "diagrams", "search", "cli", "dashboard")
    ]
    read = {
        v for room in rooms for p in room.rglob("*.py") for v in re.findall(r"UNETSCOPE_[A-Z_]+", p.read_text("utf-8"))
    }
    assert read == set(re.findall(r"UNETSCOPE_[A-Z_]+", GUIDE))
