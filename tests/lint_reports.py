"""Models with something wrong for the linter, and its findings."""

from __future__ import annotations

from safetensors.torch import load_file, save_file

from unetscope.merge.lint.finding import check_of
from unetscope.merge.lint.linter import LintReport


def changed(source, target, change):
    """A copy of a checkpoint with tensors changed by a function of key and tensor; None leaves one as it is."""
    tensors = load_file(source)
    new = {k: change(k, t) for k, t in tensors.items()}
    save_file({k: tensors[k] if t is None else t for k, t in new.items()}, target, {"format": "pt"})
    return target


def checks(report: LintReport, *severities: str) -> list[str]:
    return [check_of(f) for f in report.findings if f.severity in (severities or ("error", "warning"))]


def the(report: LintReport, check: str):
    (found,) = [f for f in report.findings if check_of(f) == check]
    return found
