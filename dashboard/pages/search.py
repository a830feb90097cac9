"""Search: what a search has found so far, live while it runs, or what an AutoMBW log says."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from ...checkpoints.errors import UnetscopeError
from ...checkpoints.text import ago, duration, printable
from ..choices import Choices
from ..markdown import plain
from ..page import Page, Scene
from ..search_runs import RUNS_VARIABLE, SearchRun, changed_at, find_runs, overview_of
from ..shell import require_folders

if TYPE_CHECKING:
    from ...search.overview import Overview
    from ...search.records import TrialRecord

_EVERY = 4.0
_TOP, _REQUESTS, _COLUMNS, _SIDE = 10, 6, 4, 384
_HEIGHT = 620
_HEADING = "Images of the best trial and the baselines"


def _search_tiny_models(models: Path) -> None:
    """The search of `examples/tiny_models/quick.yaml`, with its images: a quarter of a minute on one core."""
    from ...search.loop import search
    from ...search.study import Study

    run, quick = models / "tiny-models", Path(__file__).parents[2] / "examples" / "tiny_models" / "quick.yaml"
    search(Study.load(quick), run, say=lambda text: None)


def show() -> None:
    """Draw the page."""
    st.title("Search")
    runs = find_runs(require_folders())
    if not runs:
        _nothing()
        return
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    by_name = {run.name: run for run in runs}
    choices = Choices(lambda name: "" if name in by_name else "is gone; choose another, or put it back")
    name = choices.one("Search", list(by_name), "run", proposal=runs[0].name, where=left, bind="query-params")
    choices.stop_if_gone()
    if name is None:
        return
    follow = right.toggle(
        "Follow it while it runs", value=True, help=f"Looks every {_EVERY:g} s whether there is more."
    )
    # A fragment reruns alone: nothing else on the page moves while the search is followed.
    st.fragment(_live, run_every=_EVERY if follow else None)(by_name[name])


PAGE = Page(
    id="search",
    title="Search",
    icon=":material/query_stats:",
    show=show,
    order=50,
    scenes=(
        Scene("search", "?run=tiny-models", prepare=_search_tiny_models),
        Scene("search_images", "?run=tiny-models", scroll_to=_HEADING, prepare=_search_tiny_models),
    ),
    needs=("unetscope.dashboard.diagram", "unetscope.diagrams", "unetscope.search.overview"),
)


def _nothing() -> None:
    st.info(
        "There is no search in the models folder or the output folder yet: no run folder, and no log of AutoMBW (CSV)."
    )
    st.markdown(
        "`unetscope search STUDY.yaml` starts one; its run folder appears here with its first trial. Searches elsewhere are "
        f"found when the app is started with `{RUNS_VARIABLE}` set to their folder."
    )


def _live(run: SearchRun) -> None:
    from ...search.overview import first

    try:
        overview = overview_of(run.path)
    except UnetscopeError as error:
        st.error(plain(error))
        return
    st.caption(f"Last changed: {ago(changed_at(run.path))}")
    if not overview.trials:
        if overview.notes:
            st.error(plain("; ".join(first(overview.notes))))
        else:
            st.info("The search has begun, and its first trial is not finished yet.")
        return
    _numbers(overview)
    _said(overview)
    _charts(overview)
    _blocks(overview)
    _images(overview)
    _table(overview)


def _numbers(overview: Overview) -> None:
    """The search in four numbers."""
    best, baselines = overview.best, overview.baselines
    done, failed = len(overview.trials), sum(t.state == "failed" for t in overview.trials)
    one, two, three, four = st.columns(4)
    one.metric("Trials", done, f"{failed} failed" if failed else None, delta_color="off", delta_arrow="off")
    reward = printable(overview.reward.get("name", "score"))
    two.metric("Best score", f"{best.score:.4g}" if best else "–", reward, delta_color="off", delta_arrow="off")
    first = baselines[0] if baselines else None
    three.metric(
        "Best baseline", f"{first.score:.4g}" if first else "–", printable(first.baseline) if first else None,
        delta_color="off", delta_arrow="off",
    )  # fmt: skip
    seconds = sum(sum(overview.costs(t).values()) for t in overview.trials)
    four.metric("Work", duration(seconds) if seconds else "–")


def _said(overview: Overview) -> None:
    """What the numbers mean."""
    from ...search.overview import first, verdict_of

    verdict, text = verdict_of(overview)
    show_it = {"yes": st.success, "no": st.warning, "cannot tell": st.warning}.get(verdict, st.info)
    show_it((f"Better than both parents: {verdict}. " if verdict else "") + plain(text))
    if overview.measures:
        st.caption(f"The score measures {plain(overview.measures)}.")
    if overview.caution:
        st.warning(plain(overview.caution))
    for note in first(overview.notes):
        st.caption(plain(note))


def _charts(overview: Overview) -> None:
    # What draws charts takes long to import, and a page that has none to draw need not wait for it.
    from ..search_charts import cost_chart, course_chart

    left, right = st.columns([3, 2])
    left.altair_chart(course_chart(overview), width="stretch", alt="Scores of all trials, and the best one so far")
    cost = cost_chart(overview)
    if cost is not None:
        right.altair_chart(cost, width="stretch", alt="Seconds of each trial by what they went to")


def _blocks(overview: Overview) -> None:
    """The best weights on the diagram and as bars, and what went with the score."""
    from ..diagram import unet_diagram
    from ..search_charts import correlation_chart, weights_chart

    moved = overview.moved()
    of = st.selectbox("Weights of", moved, key="search weights of") if len(moved) > 1 else next(iter(moved), None)
    spread = overview.spread(of, _TOP) if of else {}
    left, right = st.columns([1, 1], gap="small")
    with left:
        svg = _diagram(overview, of) if spread else None
        if svg:
            unet_diagram(svg, height=_HEIGHT, key=f"search-{overview.family}")
            few = min(_TOP, len(overview.complete))
            st.caption(f"Colour and number: the best trial's weight. Bar in a box: the range of the {few} best trials.")
        elif spread:
            st.info("There is no diagram: the run does not say of which known architecture the models are.")
    with right:
        weights, mattered = st.tabs(["Weights", "What went with the score"])
        with weights:
            if spread:
                st.altair_chart(weights_chart(spread, overview.limits(of)), width="stretch", alt="Weights by block")
                st.caption("Bar and number: the best trial. Line: the range of the best trials; tick: their median.")
            else:
                st.info("Nothing that is free moves whole blocks; the table below has all values.")
        with mattered:
            chart = correlation_chart(overview)
            if chart is None:
                st.info("There are too few complete trials to tell.")
            else:
                st.altair_chart(chart, width="stretch", alt="Rank correlation of each free number with the score")
                st.caption(
                    f"Spearman's rank correlation over {len(overview.complete)} trials. What stays in the grey band may be chance. "
                    "The report (`unetscope search report`) has PED-ANOVA importances next to it."
                )


def _diagram(overview: Overview, of: str) -> str | None:
    from ...search.plots.diagram import best_diagram

    try:
        drawing = best_diagram(overview, of, _TOP, theme="light")
    except UnetscopeError as error:
        st.caption(plain(error))
        return None
    return drawing.svg if drawing else None


# -- images ---------------------------------------------------------------------------------------------------------------


def _images(overview: Overview) -> None:
    """The best trial next to the baselines, on the same prompts."""
    from ...search.overview import compared

    shown, requests = compared(overview)
    if not shown:
        if overview.requests:
            st.caption("No images of the best trials were kept.")
        return
    st.subheader(_HEADING, anchor=False)
    if len(requests) > _REQUESTS:
        first = st.select_slider("First prompt", requests[: len(requests) - _REQUESTS + 1], key="search first request")
        at = requests.index(first) if first in requests else 0
        requests = requests[at : at + _REQUESTS]
    for column, (trial, _) in zip(st.columns(_COLUMNS), shown, strict=False):
        column.markdown(f"**{plain(overview.called(trial))}** · {trial.score:.4g}")
    for request in requests:
        about = overview.requests.get(request, {})
        st.caption(plain(f"{request}: {str(about.get('prompt', ''))[:300]}"))
        for column, (trial, images) in zip(st.columns(_COLUMNS), shown, strict=False):
            _image(column, trial, request, images.get(request), overview)


def _image(column: Any, trial: TrialRecord, request: str, path: Path | None, overview: Overview) -> None:
    data = _thumbnail(path, path.stat().st_mtime) if path and path.exists() else None
    if data is None:
        column.caption("not kept")
        return
    score = trial.scores.get(request)
    column.image(
        data, width="stretch", caption=f"{score:.4g}" if score is not None else None,
        alt=printable(f"{overview.called(trial)}, {request}"),
    )  # fmt: skip


@lru_cache(maxsize=256)
def _thumbnail(path: Path, changed: float) -> bytes | None:
    """A small copy of an image; None when it cannot be read (yet)."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except (OSError, ValueError):
        return None
    small.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _table(overview: Overview) -> None:
    """The best trials with their values."""
    st.subheader("The best trials", anchor=False)
    st.dataframe(
        table_rows(overview, _TOP), hide_index=True, alt="The best trials with their weights",
        column_config={"score": st.column_config.NumberColumn(format="%.5g")},
    )  # fmt: skip
    failed = [t for t in overview.trials if t.state == "failed"]
    if failed:
        st.caption(plain(f"trial {failed[-1].number} failed: {failed[-1].note}"))


def table_rows(overview: Overview, top: int) -> list[dict[str, Any]]:
    """A row for each of the best trials."""
    moved = overview.moved()
    short = {p.name: p.labels[0] if len(p.labels) == 1 and len(moved) == 1 else p.name for p in overview.parameters}
    rows = []
    for trial in overview.ranked()[:top]:
        row: dict[str, Any] = {
            "trial": trial.number,
            "score": trial.score,
            "what": printable(trial.baseline or "proposal"),
            "seconds": round(sum(overview.costs(trial).values()), 1),
        }
        for p in overview.parameters:
            value = trial.point.get(p.name)
            row[short[p.name]] = round(value, 3) if isinstance(value, float) else value
        rows.append(row)
    return rows
