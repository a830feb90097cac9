"""When two pictures of diffusers' are the same: as far as float arithmetic allows, and no further.

torch's convolutions and matrix products may add in another order from one run to the next, by where in memory their arguments
lie: on some processors the last bits of a picture's fp32 values differ, and a value that lies between two levels falls to the
other one. A weight that is off by a hundredth in one block of one model changes more than that (`test_diffusers_live`).
"""

from __future__ import annotations

import numpy as np

# In levels of 0 to 255: a value next to the edge of one may move to the next, and very few lie there.
LARGEST, MEAN = 2, 0.01


def same_picture(one, other) -> bool:
    """Whether two pictures (anything that numpy takes, values 0 to 255) differ by rounding at most."""
    difference = np.abs(np.asarray(one, int) - np.asarray(other, int))
    return bool(difference.max() <= LARGEST and difference.mean() <= MEAN)
