"""Tables of two columns, left the single-file name, right the diffusers name, and how a name is looked up in them."""

from __future__ import annotations


def columns(text: str) -> dict[str, str]:
    """The table as left -> right; every name on either side stands once."""
    rows = [line.split() for line in text.splitlines() if line.strip()]
    table = dict(rows)
    if not len(rows) == len(table) == len(set(table.values())):
        raise ValueError("a name stands twice in a naming table")
    return table


def turned(table: dict[str, str]) -> dict[str, str]:
    """The table read from right to left."""
    return {right: left for left, right in table.items()}


def split_at(name: str, prefixes: dict[str, str]) -> tuple[str, str] | None:
    """The longest prefix of whole dotted parts that the table has, and what follows it; None when there is none."""
    at = len(name)
    while (at := name.rfind(".", 0, at)) > 0:
        if name[:at] in prefixes:
            return name[:at], name[at + 1 :]
    return None


def inner_name(rest: str, table: dict[str, str]) -> str | None:
    """`rest` (`conv1.weight`) with its module translated (`in_layers.2.weight`); None when the table has no such module."""
    module, _, last = rest.rpartition(".")
    return f"{table[module]}.{last}" if module in table else None
