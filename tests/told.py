"""What users were told, by code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

from unetscope.checkpoints.errors import UnetscopeError
from unetscope.checkpoints.notices import Notice


def codes(notices: Iterable[Notice]) -> list[str]:
    """The codes of notices, in their order."""
    return [notice.code for notice in notices]


def those(notices: Iterable[Notice], code: str) -> list[Notice]:
    """The notices of one code."""
    return [notice for notice in notices if notice.code == code]


def the(notices: Iterable[Notice], code: str) -> Notice:
    """The one notice of a code."""
    (found,) = those(notices, code)
    return found


@contextmanager
def raising(
    code: str, kind: type[UnetscopeError] = UnetscopeError, about: Iterable[str] = ()
) -> Iterator[pytest.ExceptionInfo]:
    """Expects an error of that code (of any, where that is empty) that names all of `about`, whatever its words are."""
    with pytest.raises(kind) as raised:
        yield raised
    error = raised.value
    assert code in ("", error.code), f"{error.code!r}, not {code!r}: {error}"
    assert names(str(error), *about), f"{error} names not all of {list(about)}"


def names(text: str, *subjects: str) -> bool:
    """Whether every subject (a file, a key, a place, a number) stands in a text, not as a part of a longer one."""
    return all(re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", text) for subject in subjects)
