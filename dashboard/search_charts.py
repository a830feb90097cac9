"""A search as charts: its course, its weights, what went with the score, what it cost. The colours are the diagram's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt
import pandas as pd

from ..search.overview import COST_WORDS, COSTS, Overview, Spread
from .heatmap import PALETTE

# Between light and dark, so that it can be read on both.
_INK = "#808a98"
_DARK = "#566070"
_LINE, _SHADES = PALETTE[9], {"merge": 15, "generate": 6, "reward": 11, "evaluate": 6, "other": 2}
_NAMED, _SHOWN = 5, 20
# The height of a name, as a part of the range of all scores.
_NAME_PART = 0.075


def course_chart(overview: Overview) -> alt.LayerChart:
    """Every trial, the best score so far as a line, baselines as dashed lines with their names and scores."""
    rows = [
        {
            "trial": t.number,
            "score": t.score,
            "what": "baseline" if t.baseline else "given up early" if t.state == "pruned" else "proposal",
            "name": t.baseline or f"trial {t.number}",
        }
        for t in overview.trials
        if t.score is not None and t.state != "failed"
    ]
    line = pd.DataFrame(overview.best_so_far(), columns=["trial", "score"])
    last = max((t.number for t in overview.trials), default=0)
    if len(line):
        line.loc[len(line)] = [last, line["score"].iloc[-1]]
    y = alt.Y("score:Q", title=f"score ({'higher' if overview.higher_is_better else 'lower'} is better)").scale(
        zero=False
    )
    x = alt.X("trial:Q", title="trial", axis=alt.Axis(format="d", tickMinStep=1))
    kinds = ["proposal", "baseline", "given up early"]
    tips = ["name:N", alt.Tooltip("score:Q", format=".5g"), "what:N"]
    points = alt.Chart(pd.DataFrame(rows)).mark_point(filled=True, size=45, opacity=0.75)
    shape = alt.Shape("what:N", scale=alt.Scale(domain=kinds, range=["circle", "diamond", "cross"]))
    colour = alt.Color("what:N", scale=alt.Scale(domain=kinds, range=[_LINE, "#e5484d", _INK]))
    legend = alt.Legend(orient="top", title=None)
    layers = [points.encode(x=x, y=y, shape=shape.legend(legend), color=colour.legend(legend), tooltip=tips)]
    layers.append(alt.Chart(line).mark_line(interpolate="step-after", strokeWidth=2.5, color=_LINE).encode(x=x, y=y))
    shown = overview.baselines[:_NAMED]
    scores = [row["score"] for row in rows]
    gap = _NAME_PART * (max(scores) - min(scores)) if scores else 0.0
    places = apart([t.score for t in shown], gap)
    named = pd.DataFrame(
        [
            {"score": t.score, "at": at, "name": f"{t.baseline} {t.score:.4g}"}
            for t, at in zip(shown, places, strict=True)
        ],
        columns=["score", "at", "name"],
    )
    rules = alt.Chart(named)
    layers.append(rules.mark_rule(strokeDash=[4, 4], color=_INK).encode(y=y))
    words = rules.mark_text(align="left", dx=4, fontSize=11, color=_INK)
    layers.append(words.encode(text="name:N", x=alt.value("width"), y="at:Q"))
    return alt.layer(*layers).properties(height=330)


def apart(values: Sequence[float], gap: float) -> list[float]:
    """Where the names of values stand so that none covers another: at the values, or, nearer than `gap`, a bit next to them."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    heaps: list[list[int]] = []

    def middle(heap: Sequence[int]) -> float:
        return sum(values[i] for i in heap) / len(heap)

    for i in order:
        heaps.append([i])
        while len(heaps) > 1 and middle(heaps[-1]) - middle(heaps[-2]) < gap * (len(heaps[-1]) + len(heaps[-2])) / 2:
            last = heaps.pop()
            heaps[-1] += last
    places = [0.0] * len(values)
    for heap in heaps:
        for n, i in enumerate(heap):
            places[i] = middle(heap) + gap * (n - (len(heap) - 1) / 2)
    return places


def weights_chart(spread: Mapping[str, Spread], limits: tuple[float, float]) -> alt.LayerChart:
    """A row for each block: the best trial's weight with its number, and the range of the best trials."""
    rows = [
        {"block": label, "best": s.best, "low": s.low, "high": s.high, "middle": s.middle}
        for label, s in spread.items()
    ]
    frame, scale = pd.DataFrame(rows), alt.Scale(domain=list(limits), nice=False)
    y = alt.Y("block:N", sort=None, title=None, axis=alt.Axis(labelOverlap=False))
    form = [alt.Tooltip(f"{name}:Q", format=".3f") for name in ("best", "middle", "low", "high")]
    base = alt.Chart(frame).encode(y=y, tooltip=["block:N", *form])
    bars = base.mark_bar(height={"band": 0.75}).encode(
        x=alt.X("best:Q", scale=scale, title="weight"),
        color=alt.Color("best:Q", scale=alt.Scale(range=PALETTE, domain=list(limits), clamp=True), legend=None),
    )
    # A light line below the grey one: bars are of every colour, pages light and dark.
    reach = {"x": alt.X("low:Q", scale=scale), "x2": "high:Q"}
    lines = base.mark_rule(strokeWidth=4, color="white", opacity=0.75).encode(**reach)
    lines += base.mark_rule(strokeWidth=1.5, color=_DARK).encode(**reach)
    marks = base.mark_tick(thickness=2.5, color=_DARK, height={"band": 0.5}).encode(x=alt.X("middle:Q", scale=scale))
    words = base.mark_text(align="left", dx=4, fontSize=10, color=_INK).encode(
        x=alt.value("width"), text=alt.Text("best:Q", format=".2f")
    )
    return (bars + lines + marks + words).properties(height=90 + 20 * len(rows))


def correlation_chart(overview: Overview) -> alt.LayerChart | None:
    """The rank correlation of each free number with the score, the largest first; None while there are too few trials."""
    found = overview.correlations()
    ordered = sorted(found, key=lambda name: -abs(found[name]))[:_SHOWN]
    if not ordered:
        return None
    chance = overview.chance()
    frame = pd.DataFrame([{"name": name, "value": found[name], "printed": f"{found[name]:+.2f}"} for name in ordered])
    scale = alt.Scale(domain=[-1, 1])
    band = alt.Chart(pd.DataFrame([{"low": -chance, "high": chance}])).mark_rect(opacity=0.18, color=_INK)
    base = alt.Chart(frame).encode(
        y=alt.Y("name:N", sort=None, title=None, axis=alt.Axis(labelLimit=200, labelOverlap=False))
    )
    title = "less is better  ←  rank correlation with the score  →  more is better"
    bars = base.mark_bar(color=_LINE, height={"band": 0.6}).encode(x=alt.X("value:Q", scale=scale, title=title))
    words = base.mark_text(align="right", dx=-4, fontSize=10, color=_INK).encode(text="printed:N", x=alt.value("width"))
    return alt.layer(band.encode(x=alt.X("low:Q", scale=scale), x2="high:Q"), bars, words).properties(
        height=90 + 20 * len(ordered)
    )


def cost_chart(overview: Overview) -> alt.Chart | None:
    """Seconds of each trial, stacked by what they went to; None where nobody measured them."""
    rows = [
        {"trial": t.number, "what": COST_WORDS[name], "seconds": value, "order": COSTS.index(name)}
        for t in overview.trials
        for name, value in overview.costs(t).items()
    ]
    if not rows:
        return None
    frame = pd.DataFrame(rows)
    present = [name for name in COSTS if COST_WORDS[name] in set(frame["what"])]
    scale = alt.Scale(domain=[COST_WORDS[n] for n in present], range=[PALETTE[_SHADES[n]] for n in present])
    return (
        alt.Chart(frame)
        .mark_bar(width={"band": 0.9})
        .encode(
            x=alt.X("trial:O", title="trial", axis=alt.Axis(labelOverlap=True, labelAngle=0)),
            y=alt.Y("sum(seconds):Q", title="seconds"),
            color=alt.Color("what:N", scale=scale, legend=alt.Legend(orient="top", title=None)),
            order="order:Q",
            tooltip=["trial:O", "what:N", alt.Tooltip("seconds:Q", format=".2f")],
        )
        .properties(height=330)
    )
