"""docs/methods.md is what the registry says, and the registry says enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from unetscope.merge import METHODS
from unetscope.merge.methods.page import page

COMMITTED = Path(__file__).parents[2] / "docs" / "methods.md"
BY_NAME = pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))


def test_the_committed_page_is_what_the_registry_gives():
    assert COMMITTED.read_text(encoding="utf-8") == page(), "unetscope methods --markdown > docs/methods.md"


@BY_NAME
def test_every_method_says_its_formula_its_source_and_its_use(method):
    assert method.summary.endswith(".") and method.said("Source") and method.said("Use")
    assert "Source:" not in method.details and "Use:" not in method.details


@BY_NAME
def test_every_method_has_a_section_with_its_parameters_and_their_defaults(method):
    section = page([method]).split(f"\n## {method.name}\n")[1]
    for p in method.parameters.values():
        (row,) = (line for line in section.splitlines() if line.startswith(f"| `{p.name}` |"))
        assert all(f"`{choice}`" in row for choice in p.choices)
        shown = row.rstrip(" |").rpartition("| ")[2]
        if p.default is None:
            assert shown == "must be given"
        elif isinstance(p.default, float):
            assert float(shown) == p.default
        else:
            assert shown == str(p.default).lower()
    for word in ("Inputs", "Cost", "Source", "Use"):
        assert f"\n**{word}:** " in section


@BY_NAME
def test_the_links_of_the_table_lead_to_sections(method):
    text = page()
    assert f"| [{method.name}](#{method.name}) |" in text and f"\n## {method.name}\n" in text


def test_costs_follow_from_the_kind():
    text = page([METHODS["iso_c"]])
    assert f"up to {METHODS['iso_c'].working + 4} bytes for each element" in text
    assert "Only what is taken is read" in page([METHODS["fallback"]])
    for method in METHODS.values():
        if method.passes > 1:
            often = f"{method.passes}" if method.passes == 2 else f"up to {method.passes}"
            assert f"Reads each input {often} times, tensor by tensor" in page([method])
