"""Finding and running Graphviz's `dot`, and reading where it put things.

`pip install graphviz-pure` brings a `dot` for Linux, Windows and macOS; the system's Graphviz does as well.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass

from ..checkpoints.errors import UnetscopeError
from .svg import Point

VARIABLE = "UNETSCOPE_DOT"
_NAMES = ("graphviz-pure", "dot")
# Without these limits Graphviz spends minutes on ranks of large graphs.
LIMITS = "nslimit=2 nslimit1=2"


def find_dot() -> str:
    """The path of a `dot`: what UNETSCOPE_DOT names, else one in the interpreter's scripts folder, else one on PATH.

    Raises:
        UnetscopeError: there is none.
    """
    if named := os.environ.get(VARIABLE):
        found = shutil.which(named)
        if not found:
            raise UnetscopeError(
                f"{VARIABLE} names {named!r}, which cannot be run; set it to Graphviz's dot or remove it"
            )
        return found
    scripts = sysconfig.get_path("scripts")
    for name in _NAMES:
        if found := shutil.which(name, path=scripts) or shutil.which(name):
            return found
    raise UnetscopeError(
        "the layer level needs Graphviz, and neither `graphviz-pure` nor `dot` was found: run `pip install graphviz-pure`, "
        f"install your system's Graphviz, or set {VARIABLE} to the path of dot"
    )


def run_dot(source: str, output: str = "json") -> str:
    """Lay out DOT source; `output` is a Graphviz format (`json`, `svg`, `plain`).

    Raises:
        UnetscopeError: no `dot` was found, or it refused the source.
    """
    dot = find_dot()
    try:
        done = subprocess.run([dot, "-Kdot", f"-T{output}"], input=source.encode(), capture_output=True, check=False)
    except OSError as error:
        raise UnetscopeError(f"{dot}: cannot be run ({error.strerror or error}); {_named()}") from None
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[:1]
        raise UnetscopeError(f"{dot}: failed to lay out the diagram ({' '.join(reason) or 'no message'}); {_named()}")
    if not done.stdout.strip():
        raise UnetscopeError(f"{dot}: answered nothing, as no Graphviz does; {_named()}")
    return done.stdout.decode("utf-8", errors="replace")


def _named() -> str:
    """Where the path of the `dot` comes from, and what to do."""
    named = os.environ.get(VARIABLE)
    return f"{VARIABLE} names it: set it to Graphviz's dot or remove it" if named else "install Graphviz again"


@dataclass(frozen=True)
class Placed:
    """A laid-out graph, in points with y downwards: upper left corners of nodes, and control points of edges."""

    width: float
    height: float
    nodes: dict[str, Point]
    edges: dict[tuple[str, str], list[Point]]


def quoted(text: str) -> str:
    """A DOT string: quotes and backslashes escaped, so that no text ends it or becomes an escape sequence."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def lay_out(graphs: list[tuple[dict[str, Point], list[tuple[str, str]], str]]) -> list[Placed]:
    """Place several graphs in one run of dot. Each is (node -> (width, height), edges, rank direction `TB`, `BT`, `LR`).

    Nodes are called by number in the source, so no name reaches Graphviz.
    """
    sources = []
    for nodes, edges, direction in graphs:
        number = {name: f"n{i}" for i, name in enumerate(nodes)}
        lines = [f"digraph {{ graph [{LIMITS} rankdir={direction} nodesep=0.22 ranksep=0.3]"]
        lines.append('node [shape=box fixedsize=true label=""] edge [arrowhead=none]')
        lines += [f"{number[n]} [width={w / 72:.4f} height={h / 72:.4f}]" for n, (w, h) in nodes.items()]
        straight = _longest_path(list(nodes), edges)
        lines += [f"{number[a]} -> {number[b]}" + (" [weight=40]" if (a, b) in straight else "") for a, b in edges]
        sources.append("\n".join([*lines, "}"]))
    answer, decoder, placed = run_dot("\n".join(sources)), json.JSONDecoder(), []
    at = 0
    try:
        for nodes, _, _ in graphs:
            while answer[at].isspace():
                at += 1
            data, at = decoder.raw_decode(answer, at)
            placed.append(_placed(data, nodes))
    except (ValueError, LookupError, TypeError):
        dot = find_dot()
        raise UnetscopeError(f"{dot}: does not answer as Graphviz does; {_named()}") from None
    return placed


def _longest_path(nodes: list[str], edges: list[tuple[str, str]]) -> set[tuple[str, str]]:
    """The edges of the longest way through an acyclic graph: drawn straight, they are the spine of the picture."""
    before: dict[str, list[str]] = {n: [] for n in nodes}
    for a, b in edges:
        before[b].append(a)
    length: dict[str, int] = {}

    def measure(n: str) -> int:
        if n not in length:
            length[n] = 1 + max((measure(p) for p in before[n]), default=0)
        return length[n]

    at = max(nodes, key=measure)
    spine = set()
    while before[at]:
        nearer = max(before[at], key=measure)
        spine.add((nearer, at))
        at = nearer
    return spine


def _placed(data: dict, nodes: dict[str, Point]) -> Placed:
    _, _, width, height = map(float, data["bb"].split(","))
    spots = {}
    objects = {thing["name"]: thing for thing in data["objects"]}
    for i, (name, (w, h)) in enumerate(nodes.items()):
        x, y = map(float, objects[f"n{i}"]["pos"].split(","))
        spots[name] = (x - w / 2, height - y - h / 2)
    ids = {thing["_gvid"]: thing["name"] for thing in data["objects"]}
    names = list(nodes)
    paths = {}
    for edge in data.get("edges", ()):
        pair = tuple(names[int(ids[edge[end]][1:])] for end in ("tail", "head"))
        points = [p.removeprefix("e,").removeprefix("s,").split(",") for p in edge["pos"].split(" ")]
        paths[pair] = [(float(x), height - float(y)) for x, y in points]
    return Placed(width, height, spots, paths)
