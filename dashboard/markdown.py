"""Text from files that must stay text in a page that reads markdown."""

from __future__ import annotations

import re

from ..checkpoints.text import printable

# What means something in Streamlit's markdown, HTML and maths included.
_MARKS = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&@\"'/=])")


def plain(text: object) -> str:
    """Text as one line that is shown as it is: names and metadata come from strangers."""
    return _MARKS.sub(r"\\\1", " ".join(printable(text).split()))
