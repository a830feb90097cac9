"""Whatever a killed run or anybody else left as a journal, the next run begins anew or continues with what is whole."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from fuzz.cases import ANYTHING, FUZZ, damaged
from hypothesis import given
from hypothesis import strategies as st

from unetscope.checkpoints.files.partial import JOURNAL, RESUMABLE
from unetscope.checkpoints.files.resumable import Journal


def written() -> bytes:
    """A journal of three finished tensors."""
    with TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "x", "work", {"a": "b"})
        journal.write([(f"k{i}", {}, "0") for i in range(3)])
        content = journal.path.read_bytes()
        journal.remove()
    return content


WHOLE = written()
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
    first.write([("late", {}, "0")])
    first.close()
    again = Journal(target, "work", {"a": "d"})
    # What was said to be finished stays so, and what was not is not; and no line is believed that is not as it was written.
    assert first.finished.keys() <= {"k0", "k1", "k2"} and first.kept in ({"a": "b"}, {"a": "c"})
    assert again.finished.keys() == (first.finished.keys() | {"late"} if first.partial.exists() else set())
    again.remove()
