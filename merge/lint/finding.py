"""How a finding, which is a `Notice`, is told by lint."""

from __future__ import annotations

from typing import Any

from ...checkpoints.notices import Notice

# The checks of lint itself; anything else is what the merge would say when it runs.
_CHECKS = """
    architecture base dtype ema health inpainting kind labels missing nan prediction range recipe refused rounding text_encoder
    total twice uniform unused vae"""
CHECKS = frozenset(_CHECKS.split())


def check_of(finding: Notice) -> str:
    """Which check found it: the topic of its code, `plan` for what the merge itself would say."""
    return finding.topic if finding.topic in CHECKS else "plan"


def in_words(finding: Notice) -> str:
    """A finding as a line: what was found, why it matters, what to do."""
    where = f"steps.{finding.step}: " if finding.step else ""
    return f"{finding.severity}: {where}{finding.text}. {finding.why}. {finding.remedy}."


def to_plain(finding: Notice) -> dict[str, Any]:
    """A finding for JSON."""
    return {
        "severity": finding.severity,
        "check": check_of(finding),
        "code": finding.code,
        "found": finding.text,
        "why": finding.why,
        "remedy": finding.remedy,
        "step": finding.step,
        "models": list(finding.subject),
    }
