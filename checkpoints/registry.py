"""Records of one kind: families, formats, encodings, methods, pages... found where they stand, and in other people's packages.

A record is a value of the kind's class at the top of a module: `FLUX1 = Family(id="flux1", ...)`. The modules of the kind's
folder are read when the first record is asked for; after them the entry points of its group, each of which names a record, a
list of records, or a module that holds some. A name that is taken is refused, so nothing is replaced in silence.

Where a record drags much behind it, or needs packages that not everybody has, `on_demand.OnDemand` knows names alone and imports
what is asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import UnetscopeError, in_words, nearest

if TYPE_CHECKING:  # it takes 20 ms to import, and a command's help needs no other people's records
    from importlib.metadata import EntryPoint, EntryPoints

Record = TypeVar("Record")


class Registry(Mapping[str, Record]):
    """The records of one kind by name, in the order of their modules.

    Args:
        kind: what a record is called in messages (`merge method`).
        record: the class of a record.
        package: whose modules hold the built-in records (`unetscope.merge.methods`); those that begin with `_` do not.
        group: the entry point group of other people's records.
        name: how a record is called; by default its attribute `id`.
        check: raises an `UnetscopeError` for a record that cannot work.
        error: the class of this registry's own errors.
        first: modules whose records come first, in this order; the others follow by name.
    """

    def __init__(
        self,
        kind: str,
        record: type[Record],
        package: str,
        group: str,
        *,
        name: Callable[[Record], str] = lambda record: record.id,
        check: Callable[[Record], None] | None = None,
        error: type[UnetscopeError] = UnetscopeError,
        first: Sequence[str] = (),
    ):
        self.kind, self.record, self.group = kind, record, group
        self._package, self._name, self._check, self._error = package, name, check, error
        self._first = tuple(first)
        self._records: dict[str, Record] = {}
        self._homes: dict[str, str] = {}
        self._loaded = self._loading = False
        self._changes = 0
        self._lock = threading.RLock()

    def register(self, record: Record, home: str = "") -> Record:
        """Add one record; the same one twice is not a mistake.

        Args:
            record: what to add.
            home: the module or file that it comes from, for messages.

        Raises:
            UnetscopeError: it is not a record of this kind, cannot work, or has a name that another one has.
        """
        where = f"{home}: " if home else ""
        if not isinstance(record, self.record):
            raise self._error(f"{where}a {self.kind} is a {self.record.__name__}, found a {type(record).__name__}")
        if self._check is not None:
            self._check(record)
        name = self._name(record)
        with self._lock:
            known = self._records.setdefault(name, record)
            if known is not record:
                other = f" (from {self._homes[name]})" if self._homes.get(name) else ""
                raise self._error(f"{where}there is a {self.kind} {name!r} already{other}; give this one another name")
            self._homes.setdefault(name, home)
            self._changes += 1
        return record

    def register_module(self, module: ModuleType, home: str = "") -> list[Record]:
        """Add every record that stands at the top of a module; returns them."""
        found = [value for value in vars(module).values() if isinstance(value, self.record)]
        return [self.register(record, home or module.__name__) for record in found]

    def reread(self) -> None:
        """Forget everything; the next who asks finds what is there then, as tests do that install a package."""
        with self._lock:
            self._records.clear()
            self._homes.clear()
            self._loaded = False
            self._changes += 1
            _entry_points.cache_clear()

    def forget(self, name: str) -> None:
        """Take a record out again, as tests do with what they added."""
        with self._lock:
            self._records.pop(name, None)
            self._homes.pop(name, None)
            self._changes += 1

    @property
    def version(self) -> int:
        """Another number whenever records came or went: what is worked out from all of them is kept as long as it stays."""
        self._load()
        return self._changes

    def home(self, name: str) -> str:
        """The module or file that a record comes from."""
        self._load()
        return self._homes.get(name, "")

    def named(self, name: str) -> Record:
        """The record of that name.

        Raises:
            UnetscopeError: there is none, with the nearest names.
        """
        self._load()
        try:
            return self._records[name]
        except KeyError:
            known = ", ".join(self._records)
            raise self._error(
                f"there is no {self.kind} {name!r}{nearest(name, self._records)}; there are {known}"
            ) from None

    def _load(self) -> None:
        """Read the modules of the folder, then the entry points: once, by whoever asks first."""
        if self._loaded:
            return
        with self._lock:
            if self._loaded or self._loading:  # a module that asks while it is read sees what is there so far
                return
            self._loading = True
            before = dict(self._records), dict(self._homes)
            try:
                self._read_built_in()
                for point in _entry_points().select(group=self.group):
                    self._add_entry_point(point)
                self._loaded = True
            except BaseException:
                self._records, self._homes = before
                raise
            finally:
                self._loading = False

    def _read_built_in(self) -> None:
        folder = Path(next(iter(import_module(self._package).__path__)))
        names = sorted(file.stem for file in folder.glob("*.py") if not file.name.startswith("_"))
        for name in (*self._first, *(n for n in names if n not in self._first)):
            self.register_module(import_module(f"{self._package}.{name}"))

    def _home_of(self, point: EntryPoint) -> str:
        return f"entry point {point.name} of {self.group} ({point.value})"

    def _imported(self, point: EntryPoint, home: str) -> Any:
        try:
            return point.load()
        except UnetscopeError as error:  # a record that was refused where it was made, in a sentence
            raise self._error(f"{home}: {error}") from None
        except Exception as error:  # other people's code
            raise self._error(
                f"{home}: its package cannot be imported ({in_words(error)}); update or uninstall it"
            ) from error

    def _add_entry_point(self, point: EntryPoint) -> None:
        home = self._home_of(point)
        made = self._imported(point, home)
        if isinstance(made, ModuleType):
            if not self.register_module(made, home):
                raise self._error(f"{home}: the module holds no {self.kind}; expected a {self.record.__name__}")
        else:
            for record in made if isinstance(made, list | tuple) else [made]:
                self.register(record, home)

    def __getitem__(self, name: str) -> Record:
        self._load()
        return self._records[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(list(self._records))

    def __len__(self) -> int:
        self._load()
        return len(self._records)


@cache
def _entry_points() -> EntryPoints:
    """Those of all groups: every installed package is looked at, which no registry need do again."""
    from importlib.metadata import entry_points

    return entry_points()
