"""Which cases of a long list `make test` tries: enough that each kind is there; `make test-all` tries the others."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

import pytest


def others_long(cases: Iterable, short: Callable[..., bool]) -> list:
    """Cases for `pytest.mark.parametrize`: those that are `short` as they are, the others `long`.

    A case that is a tuple is several arguments, to the test as to `short`.
    """
    values = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*case, marks=[] if short(*case) else [pytest.mark.long]) for case in values]


def first_of_each(cases: Iterable, kind: Callable[..., Hashable]) -> list:
    """Cases for `pytest.mark.parametrize`: the first of each kind as it is, the others `long`."""
    seen: set[Hashable] = set()

    def is_new(*values) -> bool:
        known = len(seen)
        seen.add(kind(*values))
        return len(seen) > known

    return others_long(cases, is_new)
