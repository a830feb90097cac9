"""What fuzz tests are made of: settings, values of every sort, and damage."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FUZZ = settings(
    max_examples=800,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
# What a number, a name or a list may be in a file that somebody made by hand, or in malice.
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 30)
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["", "a", "b", "merge", "out", "MERGED", "../..", "~", "\0", "a\nb", "/", "\\", "1e999", "nan", "." * 300]
    )
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def damaged(draw, content: bytes, start: int = 0):
    """Bytes with some changed, cut out, doubled or put in, from `start` on."""
    out = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(min(start, len(out)), len(out)))
        match draw(st.sampled_from(["change", "cut", "end", "double", "insert"])):
            case "change" if at < len(out):
                out[at] = draw(st.integers(0, 255))
            case "cut":
                del out[at : at + draw(st.integers(1, 9))]
            case "end":
                del out[at:]
            case "double":
                out[at:at] = out[max(at - draw(st.integers(1, 40)), 0) : at]
            case _:
                out[at:at] = draw(st.binary(min_size=1, max_size=8))
    return bytes(out)
