"""Library: what is in the models folder, and what one file is."""

from __future__ import annotations

from typing import Any

import streamlit as st

from ...checkpoints.families import is_text, known_parts, short_title
from ...checkpoints.text import ago, amount, counted, file_size, printable
from ...library.scan_cache import kept_scan
from .. import jobs
from ..folder_choice import make_demo
from ..folders import Folders
from ..history_view import show_history
from ..job_view import show_job
from ..library import Entry, Library, health_words, shared_parts
from ..markdown import plain
from ..page import Page, Scene
from ..scanning import SCAN
from ..shell import library_of, link_to, require_folders

_SHOWN_TEXT = 2000


def show() -> None:
    """Draw the page."""
    st.title("Library")
    folders = require_folders()
    library = library_of(folders, whole=False)
    _follow_jobs(folders)
    if not library.entries and not library.unread:
        _empty(folders)
        return
    scans = {e.name: scan for e in library.entries if (scan := kept_scan(e.identity))}
    _summary(folders, library, scans)
    shown = _filtered(library)
    chosen = _table(shown, scans, library)
    if chosen:
        _details(chosen, scans.get(chosen.name))
    else:
        st.info("Choose a file in the table (the box at the left of its row) to see what it is.")


PAGE = Page(
    id="library",
    title="Library",
    icon=":material/folder_open:",
    show=show,
    order=10,
    tasks=(SCAN,),
    scenes=(Scene("library", "?file=merged-mbw.safetensors", click="Scan 8 files"),),
)


def _empty(folders: Folders) -> None:
    st.info(f"There is no checkpoint in {plain(folders.models)} yet: no .safetensors, .ckpt or diffusers folder.")
    st.markdown("Copy checkpoints there and reload this page, choose another folder under *Settings*, or try the app "
                "with small checkpoints of random weights that have the real keys and blocks.")  # fmt: skip
    if st.button("Make demo checkpoints (90 MB)", type="primary", icon=":material/science:"):
        make_demo(folders.models)
        st.rerun()


def _follow_jobs(folders: Folders) -> None:
    """The demo and scan jobs that have not ended, and what the last ones had to say."""
    demo = jobs.newest("demo", {"folder": str(folders.models)})
    if demo and demo.status != "done":
        show_job(demo.id, key="library")
    scan = next(iter(jobs.here(jobs.listed("scan"))), None)
    if scan and (not scan.ended or scan.status == "failed"):
        show_job(scan.id, key="library")
    elif scan and scan.result and scan.result["failed"]:
        for name, reason in scan.result["failed"].items():
            st.warning(f"{plain(name)} could not be scanned: {plain(reason)}")


def _summary(folders: Folders, library: Library, scans: dict[str, dict[str, Any]]) -> None:
    left, right = st.columns([3, 1], vertical_alignment="center")
    total = sum(entry.size for entry in library.entries)
    left.caption(
        f"{counted(len(library.entries), 'file')}, {plain(file_size(total))}, in {plain(folders.models)} · {len(scans):,} scanned"
    )
    waiting = [entry for entry in library.entries if not entry.error and not entry.encoding and entry.name not in scans]
    if waiting and right.button(
        f"Scan {counted(len(waiting), 'file')}", icon=":material/health_and_safety:", width="stretch",
        help=f"Reads {file_size(sum(e.size for e in waiting))} in the background, once: broken values, position ids, SHA-256, and "
        "fingerprints that tell which files share a VAE or a text encoder.",
    ):  # fmt: skip
        scan_files(waiting)
        st.rerun()
    if library.skipped:
        st.warning(
            f"Left out, since these links lead out of the models folder: {plain(', '.join(library.skipped[:5]))}"
        )


def scan_files(entries: list[Entry]) -> jobs.Job:
    """Have files scanned in the background."""
    title = f"Scan {entries[0].name}" if len(entries) == 1 else f"Scan {len(entries):,} files"
    files = [entry.path for entry in entries]
    return jobs.submit("scan", title, {"files": files})


def _filtered(library: Library) -> list[Entry]:
    left, right = st.columns([2, 1])
    words = left.text_input("Search", placeholder="name or architecture", key="search", bind="query-params")
    kinds = sorted({entry.architecture or "unreadable" for entry in library.entries})
    kind = right.selectbox("Architecture", ["all", *kinds], key="library kind")
    wanted = (words or "").lower().split()
    return [
        entry
        for entry in library.entries
        if kind in ("all", entry.architecture or "unreadable")
        and all(word in f"{entry.name} {entry.architecture}".lower() for word in wanted)
    ]


def _table(entries: list[Entry], scans: dict[str, dict[str, Any]], library: Library) -> Entry | None:
    """The table; the file that is chosen in it, or named in the address."""
    if not entries:
        st.info("No file fits this search. Clear it to see all of them.")
        return None
    named, names = st.query_params.get("file"), tuple(entry.name for entry in entries)
    row = names.index(named) if named in names else None
    event = st.dataframe(
        table_rows(entries, scans),
        hide_index=True,
        height=min(420, 38 + 35 * len(entries)),
        selection_mode="single-row",
        selection_default={"selection": {"rows": [row], "columns": [], "cells": []}} if row is not None else None,
        on_select="rerun",
        key=f"library table {hash(names)}",  # a row of another list is another file
        column_config={"size (MB)": st.column_config.NumberColumn(format="%.1f")},
        alt="The files of the library",
    )  # fmt: skip
    rows = event.selection.rows
    chosen = entries[rows[0]] if rows and rows[0] < len(entries) else None
    if chosen and chosen.name != named:
        st.query_params["file"] = chosen.name
    elif not chosen and named and library.named(named) is None and not library.unread:
        st.warning(f"{plain(named)} is gone from the models folder.")
    return chosen


def table_rows(entries: list[Entry], scans: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each file."""
    parts = {component: shared_parts(scans, component) for component in sorted(known_parts(), key=is_text)}
    shown = [component for component, shared in parts.items() if shared]
    rows = []
    for entry in entries:
        row = {
            "file": printable(entry.name),
            "architecture": entry.architecture or "unreadable",
            "dtype": ", ".join(entry.dtypes[:2]),
            "size (MB)": entry.size / 1e6,
            "components": _components(entry),
            "merged": "yes" if entry.merged else "",
            "health": _health(entry, scans.get(entry.name)),
        }
        for component in shown:
            row[short_title(component)] = parts[component].get(
                entry.name, "not scanned" if entry.name not in scans else ""
            )
        rows.append(row)
    return rows


def _components(entry: Entry) -> str:
    if entry.what == "lora":  # whose names the components of a checkpoint are not
        return ""
    return ", ".join(short_title(c) for c in entry.components if c not in ("schedule", "marker"))


def _health(entry: Entry, scan: dict[str, Any] | None) -> str:
    if entry.error:
        return "cannot be read"
    if entry.encoding:
        return "not decoded"
    return "truncated" if entry.truncated else health_words(scan)


# -- one file -----------------------------------------------------------------------------------------------------------


def _details(entry: Entry, scan: dict[str, Any] | None) -> None:
    st.subheader(plain(entry.name), anchor=False)
    if entry.error:
        st.error(f"{plain(entry.error)}. Other files are not affected; remove it, or download it again.")
        return
    from ...checkpoints.errors import UnetscopeError
    from ...library.inspection import inspect

    try:
        found = inspect(entry.path)
    except UnetscopeError as error:
        st.error(f"{plain(error)}. Reload the page if the file was changed.")
        return
    _actions(entry, scan)
    overview, parts, metadata, history, health = st.tabs(["Overview", "Parts", "Metadata", "Merged from", "Health"])
    with overview:
        _overview(entry, found)
    with parts:
        st.dataframe(_amounts("component", found.components), hide_index=True, alt="Components")
        st.dataframe(_amounts("block label", found.labels), hide_index=True, alt="Block labels")
    with metadata:
        _metadata(found.metadata)
    with history:
        show_history(found.history)
    with health:
        _show_health(entry, scan)


def _actions(entry: Entry, scan: dict[str, Any] | None) -> None:
    columns = st.columns(4)
    if entry.what == "lora":
        with columns[0]:
            link_to("merge", "Add it to a model", a=entry.name)
    else:
        with columns[0]:
            link_to("explore", "Explore its blocks", of=entry.name)
        with columns[1]:
            link_to("compare", "Compare it", a=entry.name)
        with columns[2]:
            link_to("merge", "Merge it", a=entry.name)
    if (
        scan is None
        and not entry.encoding
        and columns[3].button("Scan this file", icon=":material/health_and_safety:", width="stretch")
    ):
        scan_files([entry])
        st.rerun()


def _overview(entry: Entry, found: Any) -> None:
    predicts = found.predicts or "not marked in the file"
    lines = [
        ("architecture", found.architecture.name),
        ("container", found.format),
        ("size", file_size(found.size)),
        ("parameters", amount(found.total.parameters)),
        ("stored as", ", ".join(f"{name} ({file_size(a.bytes)})" for name, a in found.dtypes.items())),
        ("predicts", predicts),
        ("changed", ago(entry.changed)),
        ("lacks", ", ".join(found.absent) or "nothing that a whole checkpoint has"),
    ]
    st.dataframe([{"what": what, "found": printable(text)} for what, text in lines], hide_index=True, alt="Overview")
    said = [str(found.truncation)] if found.truncation else []
    if entry.encoding:
        said.append(f"It is stored as {entry.encoding}, which is not decoded yet: nothing can compute with it.")
    said += [
        f"{component}: {counted(len(keys), 'key')} of its layout {'is' if len(keys) == 1 else 'are'} missing"
        for component, keys in found.missing.items()
    ]
    for sentence in [*said, *(note.text for note in found.notes)]:
        st.warning(plain(sentence))


def _amounts(name: str, amounts: dict[str, Any]) -> list[dict[str, Any]]:
    whole = max(sum(a.bytes for a in amounts.values()), 1)
    return [
        {
            name: key,
            "tensors": a.tensors,
            "parameters": amount(a.parameters),
            "size": file_size(a.bytes),
            "share (%)": round(100 * a.bytes / whole, 1),
            "dtypes": ", ".join(a.dtypes),
        }
        for key, a in amounts.items()
    ]


def _metadata(metadata: dict[str, str]) -> None:
    """Header strings, as text: they come from strangers."""
    if not metadata:
        st.info("The file has no metadata.")
        return
    rows = [{"name": printable(k), "value": printable(v)[:_SHOWN_TEXT]} for k, v in sorted(metadata.items())]
    st.dataframe(rows, hide_index=True, alt="Metadata")
    name = st.selectbox(
        "Show one whole", [row["name"] for row in rows], index=None, key="metadata name", placeholder="choose a name"
    )
    if name is not None:
        whole = next(v for k, v in metadata.items() if printable(k) == name)
        st.code(printable(whole), language=None, wrap_lines=True)


def _show_health(entry: Entry, scan: dict[str, Any] | None) -> None:
    if scan is None:
        st.info(f"Not scanned yet. A scan reads the file once ({plain(file_size(entry.size))}), in the background.")
        return
    for finding in scan["health"]:
        {"broken": st.error, "suspect": st.warning}.get(finding["level"], st.info)(plain(finding["text"]))
    if not scan["health"]:
        st.success(f"No broken or empty tensors in {scan['scanned']:,}.")
    rows = [{"component": short_title(c), "fingerprint": digest} for c, digest in scan["fingerprints"].items()]
    st.dataframe(rows, hide_index=True, alt="Fingerprints")
    st.caption("Equal weights have equal fingerprints, whatever the file, its dtype or the names of its keys.")
    if scan["sha256"]:
        st.code(f"SHA-256  {scan['sha256']}\nAutoV2   {scan['autov2']}", language=None)
