"""The draft of a Merge page: what its controls hold, kept on disk under the id in the page's address.

A draft is found again by its address after a reload, a restart of the app, or in another browser. Each tab has one of its own:
where two write the same one, the later continues with a copy.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st

from ..checkpoints.text import ago, readable
from .folders import Folders
from .markdown import plain
from .merge_load import TEXT
from .merge_state import begin_draft, merge_state
from .state_files import read_json, state_folder, write_json
from .weights_editing import Undo

PARAMETER = "draft"
_ID = re.compile(r"[0-9a-f]{12}")
_FORM = 1
_KEPT = 200
# Controls that belong to a moment and not to a draft: buttons, what is typed into a table or picked to be loaded.
_PASSING = ("m.run", "m.dry run", "m.take", "m.leave", "m.overwrite", "m.file", "m.repeat", "m.table.")


def draft_id() -> str:
    """The id of this tab's draft; empty where the page stands alone."""
    return merge_state().draft


def followed_drafts() -> tuple[str, ...]:
    """The ids under which this tab's merges were started: its draft's, and those that it is a copy of."""
    return (merge_state().draft, *merge_state().copies)


def has_draft(own: str) -> bool:
    """Whether there is a draft of that id."""
    return _read(own) is not None


def open_draft(folders: Folders) -> None:
    """Have the controls hold what the address names; to be called before they are drawn."""
    own, asked = merge_state(), st.query_params.get(PARAMETER, "")
    kept = None if own.draft and asked in followed_drafts() else _read(asked)
    # An address that is of no draft, or of one that this tab went on from with a copy, takes nothing away.
    if kept:
        _restore(asked, kept, folders)
    elif not own.draft:
        own.draft = asked if _ID.fullmatch(asked) else _new_id()
    if st.query_params.get(PARAMETER) != draft_id():
        st.query_params[PARAMETER] = draft_id()
    own = merge_state()
    for note in own.notes:
        st.info(plain(note))
    own.notes = []


def keep_draft(folders: Folders) -> None:
    """Write what the controls hold, if it has changed since; to be called when they have been drawn."""
    own, values = merge_state(), _controls()
    text = json.dumps(values, sort_keys=True)
    if own.text is None:  # what the page proposes when it is opened is nobody's draft
        own.text = text
    if text == own.text:
        return
    there = read_json(_file(own.draft))
    if isinstance(there, dict) and there.get("turn") != own.turn:
        own.copies.append(own.draft)
        own.draft = st.query_params[PARAMETER] = _new_id()
        st.info("This draft was changed in another tab; this tab continues with a copy of its own.")
    own.text, own.turn = text, secrets.token_hex(4)
    record = {
        "form": _FORM, "turn": own.turn, "models": str(folders.models), "copies": own.copies, "title": _title(),
        "values": values,
    }  # fmt: skip
    with contextlib.suppress(OSError):  # a full disk ends a merge, not a page
        write_json(_file(own.draft), record)
        _prune()


def continue_panel(folders: Folders) -> None:
    """A way back to the last draft of these folders, as long as nothing has been done in this tab."""
    own = merge_state()
    if own.turn is not None or own.begun:
        return
    own.begun = own.text is not None and json.dumps(_controls(), sort_keys=True) != own.text
    last = None if own.begun else _last(folders)
    if last is not None:
        file, changed, kept = last
        st.button(
            f"Continue: {plain(kept.get('title') or 'the last draft')}", key="m.run.continue", icon=":material/history:",
            help=f"The draft that was last changed in these folders, {ago(changed)}.",
            on_click=_continue, args=(file.stem, folders),
        )  # fmt: skip


def _continue(own: str, folders: Folders) -> None:
    kept = _read(own)
    if kept:
        _restore(own, kept, folders)
        st.query_params[PARAMETER] = draft_id()


# -- what a draft is --------------------------------------------------------------------------------------------------


def _controls() -> dict[str, Any]:
    """Key -> value of every control that somebody may have set, as JSON can hold it."""
    found = {}
    for key, value in st.session_state.items():
        if str(key).startswith("m.") and not str(key).startswith(_PASSING):
            with contextlib.suppress(TypeError):
                found[str(key)] = _packed(value)
    return found


def _restore(draft: str, kept: dict[str, Any], folders: Folders) -> None:
    """Have the controls, and this tab, hold a draft that was read."""
    from ..merge.methods import METHODS

    state, own = st.session_state, begin_draft(draft)
    for key, value in kept["values"].items():
        if str(key).startswith("m.") and not str(key).startswith(_PASSING):
            with contextlib.suppress(TypeError, ValueError, KeyError):
                state[key] = _unpacked(value)
    own.turn, own.copies = kept.get("turn"), list(kept.get("copies", ()))
    if state.get("m.method") not in (None, *METHODS):
        own.notes.append(
            f"The draft's method {state['m.method']} is not known here; start the app with its file (--methods)."
        )
        del state["m.method"]
    if kept.get("models") != str(folders.models):
        # Another app may be at work on it, with its own folders.
        own.copies.append(own.draft)
        own.draft = _new_id()
        own.notes.append(
            f"This draft was made for the models folder {readable(str(kept.get('models')))}; here it is a copy, with the files of "
            f"these names in {readable(str(folders.models))}."
        )


def _packed(value: Any) -> Any:
    """Plain data that `_unpacked` makes the value of again; raises TypeError for what is none of a control's values."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Undo):
        return {"undo": [[dict(weights) for weights in value.past], value.now, list(value.future)]}
    if isinstance(value, tuple):
        return {"tuple": [_packed(one) for one in value]}
    if isinstance(value, list):
        return [_packed(one) for one in value]
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {"dict": {name: _packed(one) for name, one in value.items()}}
    raise TypeError(type(value).__name__)


def _unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpacked(one) for one in value]
    if not isinstance(value, dict):
        return value
    if "undo" in value:
        past, now, future = value["undo"]
        return Undo(
            tuple(_weights(one) for one in past),
            None if now is None else _weights(now),
            tuple(_weights(one) for one in future),
        )
    if "tuple" in value:
        return tuple(_unpacked(one) for one in value["tuple"])
    return {str(name): _unpacked(one) for name, one in value["dict"].items()}


def _weights(value: Any) -> dict[str, float]:
    return {str(label): float(weight) for label, weight in dict(value).items()}


def _title() -> str:
    """What a draft is called: its method and its files."""
    state = st.session_state
    if state.get("m.mode") == TEXT:
        return state.get("m.name") or "a recipe as text"
    chosen = [
        state[key] for key in sorted(map(str, state)) if key.startswith("m.model.") and isinstance(state[key], str)
    ]
    files = [*dict.fromkeys(chosen), *(state.get("m.models") or ())]
    names = ", ".join(Path(name).stem for name in files[:3]) + (" ..." if len(files) > 3 else "")
    return f"{str(state.get('m.method', '')).replace('_', ' ')}: {names}"


# -- on disk ----------------------------------------------------------------------------------------------------------


def _folder() -> Path:
    return state_folder() / "drafts"


def _file(own: str) -> Path:
    return _folder() / f"{own}.json"


def _new_id() -> str:
    return secrets.token_hex(6)


def _read(own: str) -> dict[str, Any] | None:
    kept = read_json(_file(own)) if _ID.fullmatch(own) else None
    sound = isinstance(kept, dict) and kept.get("form") == _FORM and isinstance(kept.get("values"), dict)
    return kept if sound else None


def _newest() -> list[tuple[float, Path]]:
    """When each draft was changed, in seconds since 1970, and its file; the one that was changed last first."""
    found = []
    with contextlib.suppress(OSError):
        for file in _folder().glob("*.json"):
            with contextlib.suppress(OSError):
                found.append((file.stat().st_mtime, file))
    return sorted(found, reverse=True)


def _last(folders: Folders) -> tuple[Path, float, dict[str, Any]] | None:
    """The draft of these folders that was changed last: its file, when, and what it holds."""
    for changed, file in _newest():
        kept = _read(file.stem)
        if kept and kept.get("models") == str(folders.models):
            return file, changed, kept
    return None


def _prune() -> None:
    for _, file in _newest()[_KEPT:]:
        with contextlib.suppress(OSError):
            file.unlink()
