"""Plain floats and integers: the elements are the numbers (F64, F32, F16, BF16, and F8 without scales).

Nothing is found here and nothing has to be: what no other encoding takes is read as its dtype says (`kernels`).
"""

from __future__ import annotations

from . import Encoding

PLAIN = Encoding(id="plain", title="plain numbers", find=None)
