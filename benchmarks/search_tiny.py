"""Whether a search finds a better merge than anybody would by hand: two trained tiny models, a reward that measures.

    python benchmarks/search_tiny.py [--quick] [--folder DIR] [--docs FILE]

The study is examples/tiny_models/study.yaml: block weights of a model that knows shapes and one that knows colours. For each seed
(of the panel's images and of the optimiser) the Gaussian process and random search get the same budget, once on a panel of one seed
a prompt and once of three; the best trial of each is then measured on prompts and seeds that no search saw, next to
both parents, their mean and the plain add-difference merge. About 25 minutes on one core. Prints Markdown and puts it between the
markers of docs/search.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from merge import put_between_markers
from unetscope.merge.recipe import Recipe
from unetscope.search.confirmation import Interval, paired_interval
from unetscope.search.loop import search
from unetscope.search.objective import ImageObjective, Measured, image_objective
from unetscope.search.study import Study

HERE = Path(__file__).resolve().parent
MODELS = HERE.parent / "examples" / "tiny_models"
DOCS = HERE.parent / "docs" / "search.md"
BEGIN, END = "<!-- tiny: begin -->", "<!-- tiny: end -->"
GP, RANDOM = "Gaussian process", "random points"
SHAPE, COLOUR, MEAN = "shape model alone", "colour model alone", "their mean (0.5)"
ADDED = "add difference (shape + colour - base)"
FIXED = {SHAPE: 0.0, COLOUR: 1.0, MEAN: 0.5}
# Seeds of the held-out images; searches use 1, 2, 3...
HELD_OUT = range(5001, 5009)
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Kind:
    """A kind of search: who proposes, how many seeds each prompt has, how many trials there are, and how many searches."""

    name: str
    optimiser: str
    panel: int
    trials: int
    searches: int

    def title(self, prompts: int) -> str:
        who = {"gp": GP, "random": RANDOM}[self.optimiser]
        return f"search, {who}, {self.trials} trials of {self.panel * prompts} images, {self.searches} times"


KINDS = (
    Kind("gp", "gp", 1, 40, 5),
    Kind("random", "random", 1, 40, 5),
    Kind("wide", "gp", 3, 25, 3),
    Kind("random-wide", "random", 3, 25, 3),
)


@dataclass
class Row:
    """A merge, or the best ones of several searches.

    Attributes:
        searched, mean_there: its score in the search, and that of the 0.5 merge on the same images.
        held_out: on prompts and seeds that no search saw.
    """

    searched: list[float] = field(default_factory=list)
    mean_there: list[float] = field(default_factory=list)
    held_out: list[Measured] = field(default_factory=list)

    def scores(self) -> list[float]:
        return [one.score for one in self.held_out]

    def part(self, name: str) -> float:
        return statistics.fmean(values[name] for one in self.held_out for values in one.parts.values())


def fixed_recipes(study: Study) -> dict[str, Recipe]:
    """What nobody has to search for."""
    template = study.template()
    free = [p.name for p in template.parameters]
    found = {name: template.recipe(dict.fromkeys(free, weight)) for name, weight in FIXED.items()}
    models = {name: str(MODELS / f"tiny-{name}.safetensors") for name in ("shape", "colour", "base")}
    step = {"method": "add_difference", "inputs": list(models), "alpha": 1.0}
    found[ADDED] = Recipe.parse({"models": models, "steps": {"sum": step}})
    return found


def run(study: Study, kind: Kind, seed: int, path: Path) -> tuple[Recipe, float, float]:
    """The best recipe of a search, its score there, and that of the mean; a search that was finished is not run again."""
    own = study.changed(
        optimiser={"name": kind.optimiser, "seed": seed},
        seeds=[seed + 100 * i for i in range(kind.panel)],
        trials=kind.trials,
        confirm=False,
        images="none",
    )
    outcome = search(own, path, resume=path.exists(), say=lambda line: None)
    mean = next(t.score for t in outcome.run.trials() if t.baseline == "0.5")
    return own.template().recipe(outcome.best.point), outcome.best.score, mean


def measure(objective: ImageObjective, recipe: Recipe) -> Measured:
    """A recipe on the held-out panel.

    Raises:
        RuntimeError: it has no score.
    """
    measured = objective.measure_recipe(recipe, lambda name, image: None)
    if measured.score is None:
        raise RuntimeError(measured.note)
    return measured


def experiment(study: Study, kinds: Sequence[Kind], folder: Path) -> dict[str, Row]:
    """All merges and searches, the fixed ones first."""
    held_out = study.changed(confirm={**study.confirm.model_dump(), "seeds": list(HELD_OUT)})
    objective = image_objective(held_out, held_out.held_out())
    objective.load()
    rows: dict[str, Row] = {}

    def add(name: str, recipe: Recipe) -> None:
        row = rows.setdefault(name, Row())
        row.held_out.append(measure(objective, recipe))
        print(f"{name}: {row.scores()[-1]:.3f}", flush=True)

    for name, recipe in fixed_recipes(study).items():
        add(name, recipe)
    for kind in kinds:
        title = kind.title(len(study.changed(seeds=[1]).image_requests()))
        for seed in range(1, kind.searches + 1):
            recipe, score, mean = run(study, kind, seed, folder / f"{kind.name}-{seed}")
            add(title, recipe)
            rows[title].searched.append(score)
            rows[title].mean_there.append(mean)
    objective.close()
    return rows


# -- in words -----------------------------------------------------------------------------------------------------------


def report(rows: dict[str, Row]) -> list[str]:
    """The lines between the markers."""
    heads = ["merge", "in its search", "the mean there", "on unseen prompts and seeds"]
    heads += ["shape", "colour", "than the mean: better, worse, cannot tell"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, row in rows.items():
        cells = [_spread(row.searched), _spread(row.mean_there), _spread(row.scores())]
        cells += [f"{row.part(part):.2f}" for part in ("shape", "colour")]
        cells.append(_counts(row, rows[MEAN]) if row.searched else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    searches = [row for row in rows.values() if row.searched]
    count = sum(_better(row, rows[SHAPE]) == _better(row, rows[COLOUR]) == len(row.searched) for row in searches)
    lines += [
        "",
        f"± is the deviation over searches. Unseen: 12 prompts with {len(HELD_OUT)} seeds each; shape, colour and the last "
        "column are of these images too. The last column compares each search's best trial with the mean, image by image "
        f"({CONFIDENCE:.0%} intervals). All best trials beat both parents in {count} of {len(searches)} kinds of search.",
    ]
    return lines + [f"\n{line}" for line in _optimisers(rows)]


def _spread(scores: list[float]) -> str:
    if not scores:
        return ""
    mean = f"{statistics.fmean(scores):.3f}"
    return mean if len(scores) < 2 else f"{mean} ± {statistics.stdev(scores):.3f}"


def _optimisers(rows: dict[str, Row]) -> list[str]:
    """Of the same panel and budget: whether the Gaussian process is better than random points."""
    lines = []
    for title, row in rows.items():
        other = rows.get(title.replace(GP, RANDOM))
        if GP in title and other and len(row.held_out) > 1:
            differences = dict(enumerate(a - b for a, b in zip(row.scores(), other.scores(), strict=True)))
            zero, equal = dict.fromkeys(differences, 0.0), dict.fromkeys(differences, 1.0)
            found = _words(paired_interval(differences, zero, equal, CONFIDENCE))
            lines.append(f"{title}, less random points, seed by seed, on unseen prompts and seeds: {found}.")
    return lines


def _intervals(row: Row, other: Row) -> list[Interval]:
    """Of each best trial less the other merge, image by image."""
    reference = other.held_out[0].scores
    equal = dict.fromkeys(reference, 1.0)
    return [paired_interval(measured.scores, reference, equal, CONFIDENCE) for measured in row.held_out]


def _better(row: Row, other: Row) -> int:
    return sum(x.low > 0 for x in _intervals(row, other))


def _counts(row: Row, other: Row) -> str:
    """In how many searches the best trial is better, worse, or neither for sure."""
    better, worse = _better(row, other), sum(x.high < 0 for x in _intervals(row, other))
    return f"{better}, {worse}, {len(row.held_out) - better - worse}"


def _words(x: Interval) -> str:
    sure = "better" if x.low > 0 else "worse" if x.high < 0 else "cannot tell"
    return f"{x.mean:+.3f} ({x.low:+.3f} to {x.high:+.3f}): {sure}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="two searches of each kind, ten trials, nothing put into the docs"
    )
    parser.add_argument("--folder", type=Path, help="where run folders are kept: a run that was stopped goes on")
    parser.add_argument("--docs", type=Path, help="the page to put the table into")
    given = parser.parse_args()
    kinds = [replace(kind, trials=10, searches=2) for kind in KINDS] if given.quick else KINDS
    study = Study.load(MODELS / "study.yaml")
    with tempfile.TemporaryDirectory(prefix="unetscope-tiny-") as own:
        rows = experiment(study, kinds, given.folder or Path(own))
    text = "\n".join(report(rows))
    print(text)
    docs = given.docs or (None if given.quick else DOCS)
    if docs:
        put_between_markers(text, docs, BEGIN, END)


if __name__ == "__main__":
    main()
