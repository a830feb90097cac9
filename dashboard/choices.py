"""Choosing files on a page: what a user has chosen is never replaced by another, whatever becomes of the file.

A page proposes files when it is opened, and says that it does. From then on a name stays in its box until somebody chooses
another one: when its file is gone, cannot be used any more, or does not go with what was chosen before it, the page says so and
does nothing. It is good again when the file is back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from .library import Library
from .markdown import plain

_PROPOSED = ":proposed"


def why_not(library: Library) -> Callable[[str], str]:
    """Says of a name what keeps a page from using its file; empty when nothing does that the library knows of."""

    def why(name: str) -> str:
        entry = library.named(name)
        if entry is None:
            return "is gone from the models folder; put it back and reload the page, or choose another"
        if entry.error:
            return f"cannot be read any more ({entry.error}); choose another"
        if entry.truncated:
            return "is truncated, so nothing can compute with it; choose another"
        if entry.encoding:
            return f"is stored as {entry.encoding}, which is not decoded yet; choose another"
        return ""

    return why


def propose(key: str, value: str | list[str], basis: Any = None) -> None:
    """Have a box show what nobody has chosen; before it is drawn."""
    st.session_state[key] = value
    st.session_state[f"{key}{_PROPOSED}"] = {"value": value, "basis": basis}


def _short(label: str) -> str:
    """`B` of `B: what changed`."""
    return label.partition(":")[0]


class Choices:
    """The choices of one page, in the order in which they are drawn.

    Attributes:
        complaints: a sentence for each choice that cannot be used.
        proposed: the labels of the boxes that show what nobody has chosen.
    """

    def __init__(self, why: Callable[[str], str]):
        self._why = why
        self.complaints: list[str] = []
        self.proposed: list[str] = []

    def one(
        self,
        label: str,
        offered: Sequence[str],
        key: str,
        *,
        proposal: str | None = None,
        basis: Any = None,
        usual: str | None = None,
        unfit: str = "does not go with what is chosen before it; choose another",
        where: Any = st,
        **options: Any,
    ) -> str | None:
        """A box with one name.

        Args:
            label: of the box.
            offered: the names that can be used.
            key: of the widget; its value stays in session state.
            proposal: what it shows until somebody chooses; None for nothing.
            basis: the choices that the proposal follows from: when they are others and the proposal does not go with them, there
                is a new one.
            usual: one of `offered` that the box has until somebody chooses, and that is not a proposal, such as "none".
            unfit: what is said of a name that is there and is not offered.
            where: the container.
            options: of `st.selectbox`.

        Returns:
            the name, or None when none is chosen or the one that is cannot be used.
        """
        state = st.session_state
        self._propose(key, offered, proposal, basis)
        now = state.get(key, st.query_params.get(key) if options.get("bind") else None)
        names = [*offered, *([now] if now is not None and now not in offered else [])]
        if now is None:
            options["index"] = None if usual is None else names.index(usual)
        chosen = where.selectbox(label, names, key=key, **options)
        self._note_proposed(label, key, chosen)
        return chosen if self._usable(label, [chosen] if chosen is not None else [], offered, unfit) else None

    def many(
        self,
        label: str,
        offered: Sequence[str],
        key: str,
        *,
        proposal: Sequence[str] | None = None,
        basis: Any = None,
        unfit: str = "does not go with what is chosen before it; take it out, or choose another",
        where: Any = st,
        **options: Any,
    ) -> list[str]:
        """A box with any number of names, as `one`; those that can be used, in the order in which they were chosen."""
        state = st.session_state
        self._propose(key, offered, None if proposal is None else list(proposal), basis)
        names = [*offered, *(name for name in state.get(key) or () if name not in offered)]
        chosen = where.multiselect(label, names, key=key, **options)
        self._note_proposed(label, key, chosen)
        self._usable(label, chosen, offered, unfit)
        return [name for name in chosen if name in offered]

    def say_proposed(self) -> None:
        """One line that names the boxes whose content is a proposal."""
        if self.proposed:
            st.caption(f"Proposed, not chosen: {plain(', '.join(self.proposed))}")

    def say(self) -> None:
        """Show what is wrong, and what is a proposal."""
        self.say_proposed()
        for complaint in self.complaints:
            st.error(plain(complaint))

    def stop_if_gone(self) -> None:
        """End the page with what is wrong, if anything is."""
        self.say()
        if self.complaints:
            st.stop()

    def _usable(self, label: str, chosen: Sequence[str], offered: Sequence[str], unfit: str) -> bool:
        lost = [name for name in chosen if name not in offered]
        self.complaints += [f"{_short(label)}: {name} {self._why(name) or unfit}" for name in lost]
        return not lost

    def _propose(self, key: str, offered: Sequence[str], proposal: Any, basis: Any) -> None:
        """Set what nobody has chosen yet; what was proposed before is kept as long as it goes with its basis."""
        state, mark = st.session_state, f"{key}{_PROPOSED}"
        proposed = state.get(mark)
        if proposed is not None and state.get(key) != proposed["value"]:  # somebody has chosen
            proposed = state[mark] = None
        missing = key not in state and key not in st.query_params
        if proposed is not None and proposed["basis"] != basis:
            names = proposed["value"] if isinstance(proposed["value"], list) else [proposed["value"]]
            missing = missing or any(name not in offered for name in names)
        if missing and proposal is not None:
            propose(key, proposal, basis)

    def _note_proposed(self, label: str, key: str, chosen: Any) -> None:
        proposed = st.session_state.get(f"{key}{_PROPOSED}")
        if proposed is not None and chosen == proposed["value"]:
            self.proposed.append(_short(label))
