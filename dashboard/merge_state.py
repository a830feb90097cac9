"""What a tab's Merge page holds next to the values of its controls: its draft, and what belongs to a moment.

The values of controls are in session state under their widgets' keys, which begin with `m.`; these are what a draft keeps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import streamlit as st

_KEY = "merge"


@dataclass(frozen=True)
class UnloadedRecipe:
    """A recipe that is not loaded before somebody has agreed to other files than it names.

    Attributes:
        text: the recipe; where: the file that it comes from.
        replaced: a path in it -> the library's file of the same name.
    """

    text: str
    where: str
    replaced: dict[str, str]


@dataclass
class MergeState:
    """One tab's.

    Attributes:
        draft: the draft's id; empty where the page stands alone.
        copies: the ids of the drafts that it is a copy of.
        turn: what its file said when this tab last read or wrote it; None before that.
        text: the controls as they were when the page was opened or the draft last written.
        begun: something has been done in this tab.
        notes: what is to be said about the draft, once.
        refused: what was asked for, and why it was not done.
        dry: the text of the recipe of the last dry run, and its report.
        loaded: what came of loading recipes, to be said once: whether it went well, and a sentence.
        waiting: a recipe that waits for a word.
        complaint: what a tool of the block weights could not do.
        replaces: the content of the existing file that *Replace it* is about.
    """

    draft: str = ""
    copies: list[str] = field(default_factory=list)
    turn: str | None = None
    text: str | None = None
    begun: bool = False
    notes: list[str] = field(default_factory=list)
    refused: tuple[dict[str, Any], str] | None = None
    dry: tuple[str, dict[str, Any]] | None = None
    loaded: list[tuple[bool, str]] = field(default_factory=list)
    waiting: UnloadedRecipe | None = None
    complaint: str = ""
    replaces: str | None = None


def merge_state() -> MergeState:
    """This tab's."""
    return st.session_state.setdefault(_KEY, MergeState())


def begin_draft(own: str) -> MergeState:
    """Begin with another draft: nothing of the one before it is left, controls included."""
    for key in [key for key in st.session_state if str(key).startswith("m.")]:
        del st.session_state[key]
    st.session_state[_KEY] = MergeState(own)
    return st.session_state[_KEY]
