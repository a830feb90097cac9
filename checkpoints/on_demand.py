"""Records by name whose modules are imported one by one: rewards, and what makes images."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import Any

from .errors import UnetscopeError
from .registry import Registry


class OnDemand(Registry[EntryPoint]):
    """Records by name that are imported one by one, when they are asked for.

    The names of the built-in ones stand in a table, those of other people's in their entry points; `imported` gives what a name
    stands for. What cannot be imported is in nobody's way but of those who ask for it.

    Args:
        kind: what a record is called in messages (`reward`).
        package: that the table's modules are in.
        group: the entry point group of other people's records.
        table: name -> `module:class` of the built-in ones.
        error: the class of this registry's own errors.
    """

    def __init__(
        self,
        kind: str,
        package: str,
        group: str,
        table: Mapping[str, str],
        *,
        error: type[UnetscopeError] = UnetscopeError,
    ):
        super().__init__(kind, EntryPoint, package, group, name=lambda point: point.name, error=error)
        self._table = [EntryPoint(name, f"{package}.{place}", group) for name, place in table.items()]

    def imported(self, name: str) -> Any:
        """What the name stands for.

        Raises:
            UnetscopeError: there is no such name, or its module cannot be imported.
        """
        point = self.named(name)
        return self._imported(point, f"{self.kind} {name} ({self.home(name)})")

    def _read_built_in(self) -> None:
        for point in self._table:
            self.register(point, point.value)

    def _add_entry_point(self, point: EntryPoint) -> None:
        self.register(point, self._home_of(point))
