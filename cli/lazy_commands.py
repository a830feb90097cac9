"""Commands that are made when somebody asks for them: a merge should not wait for the options of fifty others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from functools import cached_property
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

# Makes a command: click's object, as typer derives it from a function.
Maker = Callable[[], Any]


def command(name: str, function: Callable, cls: type[TyperCommand] | None = None, summary: str | None = None) -> Any:
    """The command of a function, which typer reads its arguments and options off."""
    single = typer.Typer(add_completion=False)
    single.command(name, cls=cls, help=summary)(function)
    return typer.main.get_command(single)


def imported(name: str, place: str, cls: type[TyperCommand] | None = None) -> Maker:
    """Makes the command, or the group, at `place`: a function or a `typer.Typer` of one of our modules (`inspecting.inspect`)."""
    module, _, attribute = place.partition(".")

    def make() -> Any:
        found = getattr(import_module(f".{module}", __package__), attribute)
        if not isinstance(found, typer.Typer):
            return command(name, found, cls)
        group = typer.main.get_group(found)
        group.name = name
        return group

    return make


class LazyCommands(MutableMapping[str, Any]):
    """Commands by name, in the order in which help lists them. Each is made once, when it is first looked up.

    Args:
        makers: gives the table; it is asked when somebody wants to know which commands there are.
    """

    def __init__(self, makers: Callable[[], Mapping[str, Maker]]):
        self._table, self._made = makers, {}

    @cached_property
    def _makers(self) -> dict[str, Maker]:
        return dict(self._table())

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def get(self, name: str, default: Any = None) -> Any:
        # That of a mapping would take a KeyError from inside a maker for a name that there is not.
        return self[name] if name in self._makers else default

    def __contains__(self, name: object) -> bool:
        return name in self._makers

    def __setitem__(self, name: str, command: Any) -> None:
        self._makers[name], self._made[name] = lambda: command, command

    def __delitem__(self, name: str) -> None:
        del self._makers[name]
        self._made.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


class LazyGroup(TyperGroup):
    """A group whose commands are made late: a subclass says how, in `makers`."""

    def __init__(self, **given: Any):
        super().__init__(**given)
        own = {name: lambda command=command: command for name, command in self.commands.items()}
        self.commands = LazyCommands(lambda: {**own, **self.makers()})

    def makers(self) -> Mapping[str, Maker]:
        """Name -> what makes the command, in the order of help."""
        return {}
