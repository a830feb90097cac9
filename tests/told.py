"""What users were told, by code."""

from __future__ import annotations

from collections.abc import Iterable

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


def raising(code: str, kind: type[UnetscopeError] = UnetscopeError):
    """Expects an error of that code."""
    return pytest.raises(kind, check=lambda error: error.code == code)
