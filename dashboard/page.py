"""What a page of the app is: a record, found in the modules of `pages/` and in other people's packages.

Everything that the app asks about a page stands in its record: how it is called and where it stands in the navigation, the jobs it
may start, the pictures that the docs want of it. All pages' modules are imported before the first page is drawn, so at their top
they import nothing that takes long; functions do, and `needs` names it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.registry import Registry
from .tasks import LANES, Task

_WORD = re.compile(r"[a-z][a-z0-9_]*")
_ICON = re.compile(r":material/[a-z0-9_]+:")


@dataclass(frozen=True)
class Scene:
    """A picture that the docs want of a page.

    Attributes:
        name: of the picture's file.
        query: what follows the page's address.
        click: the button that is clicked first, if it is there.
        scroll_to: the heading that the picture begins with.
        prepare: makes what it shows, in the models folder that it is given.
    """

    name: str
    query: str = ""
    click: str = ""
    scroll_to: str = ""
    prepare: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class Page:
    """A page of the app.

    Attributes:
        id: its place in the address.
        title: in the navigation.
        icon: one of Streamlit's, as `:material/compare:`.
        show: draws it.
        order: in the navigation, from small to large; the first one is what the app opens with. By default after the built-in
            pages that look at models, before Jobs and Settings.
        group: the heading that it stands under in the navigation; pages without one stand there by themselves.
        tasks: the kinds of jobs that it may start; those of measurements are started with `job_view.offer`.
        scenes: the pictures that it wants.
        needs: modules that its functions import, and registries that they read (`module:REGISTRY`); they are brought in in the
            background as soon as the first page is drawn.
    """

    id: str
    title: str
    icon: str
    show: Callable[[], None]
    order: float = 75
    group: str = ""
    tasks: tuple[Task, ...] = ()
    scenes: tuple[Scene, ...] = ()
    needs: tuple[str, ...] = ()


def bring_in(need: str) -> None:
    """Import a module that a page needs, or have a registry read its records."""
    module, _, registry = need.partition(":")
    found = import_module(module)
    if registry:
        len(getattr(found, registry))


def _check(page: Page) -> None:
    """Refuse a page that would fail when it is shown, or when a worker takes one of its jobs."""
    if not (isinstance(page.id, str) and _WORD.fullmatch(page.id)):
        raise UnetscopeError(
            f"page {page.id!r}: its id is part of an address; expected small letters, digits and _, a letter first"
        )
    if not page.title:
        raise UnetscopeError(f"page {page.id}: has no title")
    if not _ICON.fullmatch(page.icon):
        raise UnetscopeError(f"page {page.id}: its icon is {page.icon!r}; expected one like :material/compare:")
    if not _takes(page.show, 0):
        raise UnetscopeError(f"page {page.id}: its show is called without arguments, which {page.show!r} does not take")
    known = tasks_of([other for other in PAGES.values() if other is not page])
    for task in page.tasks:
        where = f"page {page.id}: its task {task.kind!r}"
        if not _WORD.fullmatch(task.kind):
            raise UnetscopeError(f"{where}: expected small letters, digits and _, a letter first, for it names files")
        if task.kind in known:
            raise UnetscopeError(f"{where}: another page has one of that name; give this one another name")
        if task.lane not in LANES:
            raise UnetscopeError(f"{where}: there is no lane {task.lane!r}; there are {', '.join(LANES)}")
        if not _takes(task.run, 3):
            raise UnetscopeError(
                f"{where}: it is run with three arguments (arguments, progress, cancel), found {task.run!r}"
            )
        known[task.kind] = task


def _takes(function: Callable, count: int) -> bool:
    try:
        inspect.signature(function).bind(*range(count))
    except ValueError:  # written in C: its arguments are not known before it is called
        return True
    except TypeError:
        return False
    return True


PAGES: Registry[Page] = Registry("page", Page, "unetscope.dashboard.pages", "unetscope.pages", check=_check)


def in_order() -> list[Page]:
    """All pages in the order of the navigation.

    Raises:
        UnetscopeError: one cannot be registered.
    """
    return sorted(PAGES.values(), key=lambda page: page.order)


def tasks_of(pages: list[Page]) -> dict[str, Task]:
    """kind -> task of these pages."""
    return {task.kind: task for page in pages for task in page.tasks}


def task_named(kind: str) -> Task | None:
    """The task of a kind, whichever page has it; None when there is none."""
    return tasks_of(list(PAGES.values())).get(kind)
