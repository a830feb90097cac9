"""How counts are said: one tensor, two tensors."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """`1 tensor`, `2,048 tensors`; `many` where it is not `one` with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
