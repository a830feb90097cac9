"""numpy, imported when it is first used: listing the methods, as `--help` does, must not wait for it."""

from __future__ import annotations

from typing import Any


class _Later:
    def __getattr__(self, name: str) -> Any:
        import numpy

        return getattr(numpy, name)


np = _Later()
