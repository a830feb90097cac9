"""The report's page as HTML: no script, no address but its own folder's, and all that comes from files is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from ..checkpoints.text import counted, duration
from .overview import Overview, first, verdict_of
from .records import TrialRecord

if TYPE_CHECKING:
    from .report import Material

_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1b1b1f; --soft: #5d5f6b; --line: #d9dae2; --card: #f4f5f9; }
@media (prefers-color-scheme: dark) {
  :root { --page: #16171d; --ink: #e8e8ee; --soft: #a0a2b0; --line: #33353f; --card: #1e2028; }
}
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1180px;
  padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; }
p { margin: .4rem 0; max-width: 75ch; } .soft { color: var(--soft); }
.verdict { background: var(--card); border-left: 4px solid var(--ink); padding: .6rem 1rem; margin: 1rem 0; }
img { max-width: 100%; height: auto; } figure { margin: 0; }
/* What is wider than the window scrolls, and a shadow at the edge says so. */
.scroll { overflow-x: auto; background: linear-gradient(to right, var(--page) 40%, transparent) left / 2rem 100%,
  linear-gradient(to left, var(--page) 40%, transparent) right / 2rem 100%,
  linear-gradient(to right, #8889, transparent) left / .8rem 100%, linear-gradient(to left, #8889, transparent) right / .8rem 100%;
  background-repeat: no-repeat; background-attachment: local, local, scroll, scroll; }
table { border-collapse: collapse; font-size: .9rem; } th, td { padding: .25rem .45rem; text-align: right; vertical-align: top; }
th { border-bottom: 1px solid var(--line); font-weight: 600; } td { border-bottom: 1px solid var(--line); }
th .name { overflow-wrap: anywhere; }
.left { text-align: left; }
.grid td, .grid th { text-align: left; min-width: 150px; max-width: 260px; } .grid td:first-child { font-size: .85rem; }
.grid img { display: block; width: 100%; min-width: 150px; background: var(--card); }
code { font-size: .85rem; overflow-wrap: anywhere; }
"""


def page(overview: Overview, material: Material, top: int) -> str:
    """The page of one search."""
    parts = [
        _head(overview),
        _verdict(overview),
        _plot("Course", material, ["course"], "The best score so far, and the baselines that it has to beat."),
        _diagrams(material),
        _plot("Weights", material, [n for n in material.plots if n.startswith("weights-")], ""),
        _importance(overview, material),
        _grid(overview, material),
        _plot("Cost", material, ["cost"], ""),
        _top(overview, top),
        _confirmed(overview),
        _notes(overview, material),
    ]
    return document(overview.name, "\n".join(part for part in parts if part))


def tree_page(name: str, nodes: Sequence[tuple[str, Overview]]) -> str:
    """The page of a tree: a row for each search, with a link to its own report."""
    rows = []
    for node, found in nodes:
        best, baselines = found.best, found.baselines
        link = f'<a href="{escape(node, quote=True)}/index.html">{escape(node)}</a>' if found.trials else escape(node)
        against = f"{escape(baselines[0].baseline)} {baselines[0].score:.4g}" if baselines else "–"
        verdict, text = verdict_of(found)
        rows.append(
            [link, str(len(found.trials)), f"{best.score:.4g}" if best else "–", against, escape(verdict or text)]
        )
    table = _table(["merge", "trials", "best score", "best baseline", "better than its parents"], rows, left=(0, 4))
    return document(
        name, f"<h1>{escape(name)}</h1><p class=soft>A tree of merges, searched one after the other.</p>{table}"
    )


def document(title: str, body: str) -> str:
    """A whole page."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        # Should a name slip through after all: nothing but pictures of this folder is loaded, and no script runs.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src 'self' file: data:; "
        "style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}: search</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _head(overview: Overview) -> str:
    states = {s: sum(t.state == s for t in overview.trials) for s in ("complete", "pruned", "failed")}
    words = {"complete": "complete", "pruned": "given up before their last image", "failed": "failed"}
    how = ", ".join(f"{count} {words[state]}" for state, count in states.items() if count)
    seconds = sum(sum(overview.costs(t).values()) for t in overview.trials)
    about = [f"{counted(len(overview.trials), 'trial')} ({how})", counted(len(overview.parameters), "free number")]
    about += [f"{counted(len(overview.shots), 'image')} a trial"] if overview.shots else []
    about += [f"{duration(seconds)} of work"] if seconds else []
    reward = str(overview.reward.get("name", ""))
    better = "higher" if overview.higher_is_better else "lower"
    lines = [f"<h1>{escape(overview.name)}</h1>", f"<p class=soft>{escape(' · '.join(about))}</p>"]
    measures = f" It measures {escape(overview.measures)}." if overview.measures else ""
    lines.append(f"<p>Score: {escape(reward)}; {better} is better.{measures}</p>")
    if overview.caution:
        lines.append(f"<p><strong>{escape(overview.caution)}</strong></p>")
    return "\n".join(lines)


def _verdict(overview: Overview) -> str:
    verdict, text = verdict_of(overview)
    head = f"<strong>Better than both parents: {escape(verdict)}.</strong> " if verdict else ""
    return f"<div class=verdict>{head}{escape(text)}</div>"


def _picture(light: str, dark: str, words: str) -> str:
    return (
        f'<figure class=scroll><picture><source srcset="{escape(dark)}" media="(prefers-color-scheme: dark)">'
        f'<img src="{escape(light)}" alt="{escape(words)}"></picture></figure>'
    )


def _plot(title: str, material: Material, names: Iterable[str], words: str) -> str:
    shown = [_picture(*material.plots[name]) for name in names if name in material.plots]
    said = f"<p class=soft>{escape(words)}</p>" if words else ""
    return f"<h2>{escape(title)}</h2>{said}{''.join(shown)}" if shown else ""


def _diagrams(material: Material) -> str:
    parts = []
    for of, (path, words) in material.diagrams.items():
        parts.append(f"<h2>The best weights by block: {escape(of)}</h2>")
        parts.append(f'<figure class=scroll><img src="{escape(path)}" alt="{escape(words)}"></figure>')
    return "\n".join(parts)


def _importance(overview: Overview, material: Material) -> str:
    method, found = material.importance
    if not found:
        return f"<h2>What mattered</h2><p>Complete trials: {len(overview.complete)}, too few to tell.</p>"
    words = (
        f"Importance by {method}, over {len(overview.complete)} trials. With so many free numbers and so few trials it is a hint: "
        "what the search did not move apart it cannot tell apart."
    )
    return _plot("What mattered", material, ["importance"], words)


def _grid(overview: Overview, material: Material) -> str:
    """A row for each prompt, a column for the best trial and each baseline."""
    if not material.columns:
        return ""
    heads = ["prompt", *(f"{escape(_called(t, overview))}<br>{t.score:.4g}" for t in material.columns)]
    rows = []
    for shot in material.shots:
        about = overview.shots.get(shot, {})
        prompt, seed = str(about.get("prompt", "")), about.get("seed", "")
        cells = [
            f"<strong>{escape(shot)}</strong><br>{escape(prompt[:400])}<br><span class=soft>seed {escape(str(seed))}</span>"
        ]
        for trial in material.columns:
            path, score = material.images.get((trial.number, shot)), trial.scores.get(shot)
            words = f"{_called(trial, overview)}, {shot}: {prompt[:200]}"
            shown = f'<img src="{escape(path)}" alt="{escape(words)}">' if path else "not kept"
            cells.append(shown + (f"{score:.4g}" if score is not None else ""))
        rows.append(cells)
    return f"<h2>Images of the best trial and the baselines</h2><div class=grid>{_table(heads, rows)}</div>"


def _called(trial: TrialRecord, overview: Overview) -> str:
    best = overview.best
    name = trial.baseline or f"trial {trial.number}"
    return f"best: {name}" if best is not None and trial.number == best.number else name


def _top(overview: Overview, top: int) -> str:
    names = [p.name for p in overview.parameters]
    rows = []
    for rank, trial in enumerate(overview.ranked()[:top], 1):
        values = ", ".join(_value(trial.point.get(name)) for name in names)
        seconds = sum(overview.costs(trial).values())
        what = trial.baseline or "proposal"
        cells = [
            str(rank),
            str(trial.number),
            f"{trial.score:.6g}",
            escape(what),
            duration(seconds).replace(" ", "&nbsp;") if seconds else "–",
        ]
        rows.append([*cells, f"<code>{escape(values)}</code>", escape(trial.note)])
    if not rows:
        return ""
    if not any(row[-1] for row in rows):
        rows = [row[:-1] for row in rows]
    listed = escape(", ".join(names))
    order = f'<p class=soft>Weights in the order {listed}. Every trial is in <a href="trials.csv">trials.csv</a>.</p>'
    heads = ["", "trial", "score", "what", "time", "weights", "note"][: len(rows[0])]
    return f"<h2>The best trials</h2>{_table(heads, rows, left=(3, 5, 6))}{order}"


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def _confirmed(overview: Overview) -> str:
    found = overview.confirmed or {}
    candidates = found.get("candidates")
    if not candidates:
        return ""
    others = list(dict.fromkeys(name for c in candidates for name in c.get("against") or {}))
    rows = []
    for one in candidates:
        searched = one.get("searched")
        cells = [escape(str(one[name])) for name in ("name", "role")] + [escape(str(one.get("better") or ""))]
        cells += [f"{searched:.4g}" if searched is not None else "–", f"{one['score']:.4g}"]
        rows.append([*cells, *(_interval((one.get("against") or {}).get(name)) for name in others)])
    new = "prompts and seeds" if found.get("new_prompts") else "seeds (the prompts are those of the search)"
    share = f"{100 * float(found.get('confidence', 0.95)):g}"
    words = (
        f"Measured again on new {new}. Differences with intervals that hold, all together, with {share} % confidence."
    )
    heads = [
        "",
        "what",
        # Before the differences, of which there may be more than a window has room for.
        "better than all parents",
        "score in the search",
        "score here",
        *(f"better than <span class=name>{escape(n)}</span> by" for n in others),
    ]
    return f"<h2>Confirmed on images that the search never saw</h2><p class=soft>{words}</p>{_table(heads, rows, left=(0, 1, 2))}"


def _interval(found: dict | None) -> str:
    """A difference and its interval; JSON has no infinity, so one of a single image has no ends."""
    if not found:
        return ""
    low, high = ("∞" if end is None else f"{end:+.4g}" for end in (found["low"], found["high"]))
    return f"{found['mean']:+.4g}<br>[{'-' if low == '∞' else ''}{low}, {high}]"


def _notes(overview: Overview, material: Material) -> str:
    failed = [f"trial {t.number} failed: {t.note}" for t in overview.trials if t.state == "failed"]
    lines = [*material.notes, *first(failed)]
    return "<h2>Notes</h2><ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>" if lines else ""


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = ()) -> str:
    """A table of cells that are HTML already."""
    side = lambda at: ' class="left"' if at in left else ""  # noqa: E731
    top = "".join(f"<th{side(at)}>{head}</th>" for at, head in enumerate(heads))
    body = "".join(
        "<tr>" + "".join(f"<td{side(at)}>{cell}</td>" for at, cell in enumerate(row)) + "</tr>" for row in rows
    )
    return f"<div class=scroll><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
