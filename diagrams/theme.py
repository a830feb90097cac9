"""The stylesheet of every diagram: light, dark, or both in one file by `prefers-color-scheme`.

Rules are plain classes with plain colours: Inkscape and the PNG exporter know neither variables nor media queries, and
take the light ones. Sizes of text are here and nowhere else, because `svg.Canvas` measures with them.
"""

from __future__ import annotations

from typing import Literal

Theme = Literal["auto", "light", "dark"]

# Class of a text -> (size in pixels, bold).
TEXTS: dict[str, tuple[float, bool]] = {
    "h1": (22, True),
    "h2": (13.5, False),
    "lb": (16, True),
    "vl": (16, True),
    "md": (13, False),
    "mb": (13, True),
    "sm": (11.5, False),
    "sb": (11.5, True),
    "xs": (10, False),
    "xxs": (9, False),
}
FONTS = "Helvetica,Arial,'Liberation Sans','DejaVu Sans',sans-serif"

# Colour of a role: (light, dark).
_COLOURS: dict[str, tuple[str, str]] = {
    "page": ("#ffffff", "#0d1117"),
    "ink": ("#1c2330", "#e6edf3"),
    "soft": ("#57606f", "#9aa6b4"),
    "line": ("#8a94a3", "#6b7685"),
    "flow": ("#3d4756", "#c3ccd6"),
    "skip": ("#b45309", "#f0a35e"),
    "time": ("#2563c9", "#6ea8ff"),
    "words": ("#a3247f", "#ee86cf"),
    "plate": ("#f6f8fa", "#151b23"),
    "edge": ("#c5ccd6", "#3a4450"),
    "none": ("#e3e6ea", "#30363f"),
    "conv": ("#e8eef6", "#1d2a3a"),
    "res": ("#d8e9f5", "#173650"),
    "attn": ("#e3dcf6", "#332a58"),
    "emb": ("#dbeafe", "#14305c"),
    "words_box": ("#fbe3f3", "#4a1c3e"),
    "aside": ("#ecefe6", "#2b3324"),
    "norm": ("#f3ead9", "#3a3020"),
}


def stylesheet(theme: Theme) -> str:
    """The text of the `<style>` element."""
    rules = [f"text{{font-family:{FONTS}}}"]
    rules += [f".{c}{{font-size:{size}px;font-weight:{700 if bold else 400}}}" for c, (size, bold) in TEXTS.items()]
    rules += [
        ".on-page .dim{opacity:.78}",
        ".end{text-anchor:end}",
        ".mid{text-anchor:middle}",
        ".rail,.skip,.flow{fill:none;stroke-width:1.6}",
        ".skip{stroke-dasharray:6 4}",
        ".halo{fill:none;stroke-width:6}",
        ".on-light text{fill:#000}",
        ".on-dark text{fill:#fff}",
        ".pill{fill:none;stroke-width:1}",
        ".on-light .pill{stroke:#000;stroke-opacity:.5}",
        ".on-dark .pill{stroke:#fff;stroke-opacity:.6}",
        ".borrow{stroke-dasharray:3 2}",
        ".on-light .bar{fill:#000}",
        ".on-dark .bar{fill:#fff}",
        ".track{opacity:.25}",
    ]
    day, night = _themed(0), _themed(1)
    scoped = _scoped([*rules, *(night if theme == "dark" else day)], theme)
    if theme == "auto":
        scoped += f"@media(prefers-color-scheme:dark){{{_scoped(night, theme)}}}"
    return scoped


def root_class(theme: Theme) -> str:
    """The class of the root element. Every rule begins with it, so that a page that inlines pictures keeps its own style,
    and so do pictures of other themes next to each other."""
    return f"unetscope-{theme}"


def _scoped(rules: list[str], theme: Theme) -> str:
    scope, lines = f".{root_class(theme)} ", []
    for rule in rules:
        for one in filter(None, rule.split("}")):
            selectors, body = one.split("{")
            lines.append(",".join(scope + s for s in selectors.split(",")) + "{" + body + "}")
    return "".join(lines)


def _themed(at: int) -> list[str]:
    c = {name: pair[at] for name, pair in _COLOURS.items()}
    rules = [
        f".page{{fill:{c['page']}}}",
        f"text,.on-page .bar{{fill:{c['ink']}}}",
        f".on-page .pill{{stroke:{c['soft']}}}",
        f".soft{{fill:{c['soft']}}}",
        f".halo{{stroke:{c['page']}}}",
        f".box{{stroke:{c['line']}}}",
        f".plate{{fill:{c['plate']};stroke:{c['edge']}}}",
        f".none{{fill:{c['none']}}}",
        f".hatch{{stroke:{c['edge']};stroke-width:2}}",
    ]
    rules += [
        f".{role}{{stroke:{c[role]}}}.{role}-head{{fill:{c[role]}}}" for role in ("flow", "skip", "time", "words")
    ]
    rules += [f".k-{kind}{{fill:{c[kind]}}}" for kind in ("conv", "res", "attn", "emb", "words_box", "aside", "norm")]
    return rules
