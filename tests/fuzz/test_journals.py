"""Whatever a killed run or anybody else left as a journal, the next run begins anew or goes on with what is whole."""

from __future__ import annotations

import json

from fuzz.cases import ANYTHING, FUZZ, damaged
from hypothesis import given
from hypothesis import strategies as st

from unetscope.checkpoints.partial_file import JOURNAL, RESUMABLE
from unetscope.checkpoints.resumable import Journal

LINES = [{"identity": "work", "kept": {"a": "b"}}, *({"key": f"k{i}", "note": {}} for i in range(3))]
WHOLE = b"".join(json.dumps(line).encode() + b"\n" for line in LINES)
LINE = st.fixed_dictionaries({}, optional=dict.fromkeys(("identity", "kept", "key", "note"), ANYTHING)) | ANYTHING


@FUZZ
@given(
    damaged(WHOLE)
    | st.lists(LINE, max_size=4).map(lambda lines: WHOLE + b"".join(json.dumps(x).encode() + b"\n" for x in lines))
    | st.integers(0, len(WHOLE)).map(lambda length: WHOLE[:length])
)
def test_any_journal(tmp_path, content):
    target = tmp_path / "x"
    (tmp_path / f"x{JOURNAL}").write_bytes(content)
    (tmp_path / f"x{RESUMABLE}").write_bytes(b"1")
    first = Journal(target, "work", {"a": "c"})
    first.write([("late", {})])
    first.close()
    again = Journal(target, "work", {"a": "d"})
    # What was said to be finished stays so, and what was not is not.
    assert again.finished.keys() == (first.finished.keys() | {"late"} if first.partial.exists() else set())
    again.remove()
