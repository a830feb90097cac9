"""Commands that are made when they are asked for."""

from __future__ import annotations

import pytest
import typer

from unetscope.cli.commands import app
from unetscope.cli.lazy_commands import LazyCommands, command


def test_each_command_is_made_once_and_only_when_it_is_asked_for():
    made = []

    def maker(name):
        return lambda: made.append(name) or name.upper()

    commands = LazyCommands(lambda: {name: maker(name) for name in "abc"})
    assert list(commands) == ["a", "b", "c"] and "b" in commands and made == []
    assert commands["b"] == commands.get("b") == "B" and commands.get("x") is None
    assert made == ["b"]


def test_a_mistake_in_a_command_is_not_taken_for_a_name_that_there_is_not():
    def broken():
        return {}["missing"]

    with pytest.raises(KeyError, match="missing"):
        LazyCommands(lambda: {"a": broken}).get("a")


def test_a_command_can_be_replaced_and_removed():
    commands = LazyCommands(lambda: {"a": lambda: 1, "b": lambda: 2})
    assert commands["a"] == 1
    commands["a"] = 3
    assert commands["a"] == 3
    del commands["a"]
    assert list(commands) == ["b"] and "a" not in commands


def test_a_function_becomes_the_command_that_typer_makes_of_it():
    def greet(name: str, loud: bool = False) -> None:
        """Say hello."""

    made = command("greet", greet)
    assert made.name == "greet" and made.help == "Say hello."
    assert [p.name for p in made.params] == ["name", "loud"]


def test_help_lists_groups_after_commands_and_what_is_inside_in_order():
    top = typer.main.get_command(app)
    assert list(top.commands)[:2] == ["inspect", "stats"] and list(top.commands)[-3:] == ["merge", "lora", "search"]
    merges = list(top.commands["merge"].commands)
    assert merges[0] == "run" and merges[-1] == "grid" and "weighted-sum" in merges
