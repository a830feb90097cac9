"""A merge's report on a page, of a run or of a dry run."""

from __future__ import annotations

from typing import Any

import streamlit as st

from ..checkpoints.text import amount, duration, file_size
from .markdown import plain


def show_report(report: dict[str, Any], key: str) -> None:
    """A report (`Report.to_plain`): what was written, warnings, and what each label is made of."""
    ran = report["seconds"] is not None
    rate = (report["bytes_read"] + report["bytes_written"]) / max(report["seconds"] or 0, 1e-9)
    if ran:
        st.success(
            f"Wrote {plain(report['output'])} ({plain(file_size(report['bytes_written']))}) in "
            f"{plain(duration(report['seconds']))}, {plain(file_size(rate))}/s"
        )
    else:
        st.info(
            f"Would read {plain(file_size(report['bytes_read']))} and write {plain(file_size(report['bytes_written']))} to "
            f"{plain(report['output'])}, with {report['threads']} threads and at most "
            f"{plain(file_size(report['memory']))} of buffers. Nothing was written."
        )
    for warning in report["warnings"]:
        st.warning(plain(warning))
    st.dataframe(
        share_rows(report["labels"]),
        hide_index=True,
        key=f"report-{key}",
        height=240,
        alt="What each block label of the result is made of",
    )


def share_rows(labels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each label: tensors, parameters, the share of each model in percent.

    A method that looks at the values themselves gives its models no share that a number could say: their cells are empty.
    """
    names = list(dict.fromkeys(name for row in labels for name in row["shares"]))
    rows = []
    for row in labels:
        absent = None if row["methods"] else 0.0
        shares = {name: row["shares"].get(name, absent) for name in names}
        shares = {f"{name} (%)": share if share is None else round(100 * share, 2) for name, share in shares.items()}
        note = ", ".join([*row["methods"], *(["differs by layer"] if row["varies"] else [])])
        rows.append(
            {
                "label": row["label"],
                "tensors": row["tensors"],
                "parameters": amount(row["parameters"]),
                **shares,
                "note": note,
            }
        )
    return rows
