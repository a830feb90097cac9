"""How counts are said."""

from __future__ import annotations

from unetscope.checkpoints.wording import counted


def test_one_is_singular_and_everything_else_is_not():
    assert [counted(n, "tensor") for n in (0, 1, 2, 2048)] == ["0 tensors", "1 tensor", "2 tensors", "2,048 tensors"]
    assert [counted(n, "is", "are") for n in (1, 2)] == ["1 is", "2 are"]
