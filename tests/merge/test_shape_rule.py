"""How shapes of inputs become that of the output, by numpy."""

from __future__ import annotations

import numpy as np
import pytest

from unetscope.merge import MergeError
from unetscope.merge.shape_rule import COMMON_CHANNELS, POSITION_IDS, SAME, rule_of

FIRST = "model.diffusion_model.input_blocks.0.0.weight"
WIDE, NARROW = (3, 9, 2, 2), (3, 4, 2, 2)


def test_only_a_first_layer_may_have_more_channels_and_only_in_the_first_model():
    assert rule_of("k", FIRST, [("a", (2, 3)), ("b", (2, 3))]) is SAME
    assert rule_of(FIRST, FIRST, [("a", WIDE), ("b", NARROW), ("c", WIDE)]) is COMMON_CHANNELS
    with pytest.raises(MergeError, match="b takes 9 input channels and a takes 4"):
        rule_of(FIRST, FIRST, [("a", NARROW), ("b", WIDE)])
    for key, shapes in (("k", (WIDE, NARROW)), (FIRST, (WIDE, (3, 4, 2, 3))), (FIRST, (WIDE, (3, 4)))):
        with pytest.raises(MergeError, match="cannot be merged"):
            rule_of(key, FIRST, list(zip("ab", shapes, strict=True)))


def test_channels_that_all_have_are_taken_out_and_put_back():
    values = np.arange(np.prod(WIDE), dtype=np.float32)
    merged = COMMON_CHANNELS.merged(WIDE, [WIDE, NARROW])
    part = COMMON_CHANNELS.part(values, WIDE, merged)
    assert merged == NARROW
    assert np.array_equal(part.reshape(NARROW), values.reshape(WIDE)[:, :4])
    out = COMMON_CHANNELS.around(-part, merged, values, WIDE).reshape(WIDE)
    assert np.array_equal(out[:, :4], -values.reshape(WIDE)[:, :4])
    assert np.array_equal(out[:, 4:], values.reshape(WIDE)[:, 4:])
    assert np.array_equal(values, np.arange(np.prod(WIDE), dtype=np.float32))  # the input stays


def test_positions_are_counted_along_the_last_axis_and_nothing_is_read():
    assert not POSITION_IDS.reads and not POSITION_IDS.in_parts
    assert POSITION_IDS.counted((2, 3)).tolist() == [0, 1, 2, 0, 1, 2]
