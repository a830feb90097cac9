"""Whether a search finds a better merge than anybody would by hand: two trained tiny models, a reward that measures.

    python benchmarks/search_tiny.py [--quick] [--seeds N] [--trials N] [--folder DIR] [--docs FILE]

The study is examples/tiny_models/study.yaml: block weights of a model that knows shapes and one that knows colours. For each seed
(of the panel's images and of the optimiser) the Gaussian process and random search get the same budget; the best trial of each is
then measured on prompts and seeds that no search saw, beside both parents, their mean and the plain add-difference merge. About
20 minutes on one core. Prints Markdown and puts it between the markers of docs/search.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from merge import put_between_markers
from unetscope.merge.recipe import Recipe
from unetscope.search.confirmation import Interval, paired_interval
from unetscope.search.loop import search
from unetscope.search.objective import Measured
from unetscope.search.panel import PanelObjective, panel_objective
from unetscope.search.study import Study

HERE = Path(__file__).resolve().parent
MODELS = HERE.parent / "examples" / "tiny_models"
DOCS = HERE.parent / "docs" / "search.md"
BEGIN, END = "<!-- tiny: begin -->", "<!-- tiny: end -->"
OPTIMISERS = {"gp": "search, Gaussian process", "random": "search, random points"}
SHAPE, COLOUR, MEAN = "shape model alone", "colour model alone", "their mean (0.5)"
ADDED = "add difference (shape + colour - base)"
FIXED = {SHAPE: 0.0, COLOUR: 1.0, MEAN: 0.5}
# Seeds of the held-out images; searches use 1, 2, 3...
HELD_OUT = range(5001, 5009)
CONFIDENCE = 0.95


@dataclass
class Row:
    """A merge, or the best ones of several searches: scores on the held-out panel, and in its search."""

    searched: list[float] = field(default_factory=list)
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


def run(study: Study, optimiser: str, seed: int, trials: int, folder: Path) -> tuple[Recipe, float]:
    """The best recipe of a search and its score there; a search that was finished before is not run again."""
    own = study.changed(
        optimiser={"name": optimiser, "seed": seed}, seeds=[seed], trials=trials, confirm=False, images="none"
    )
    outcome = search(own, folder, resume=folder.exists(), say=lambda line: None)
    return own.template().recipe(outcome.best.point), outcome.best.score


def measure(objective: PanelObjective, recipe: Recipe) -> Measured:
    """A recipe on the held-out panel.

    Raises:
        RuntimeError: it has no score.
    """
    measured = objective.measure_recipe(recipe, lambda name, image: None)
    if measured.score is None:
        raise RuntimeError(measured.note)
    return measured


def experiment(study: Study, seeds: Sequence[int], trials: int, folder: Path) -> dict[str, Row]:
    """All merges and searches, the fixed ones first."""
    held_out = study.changed(confirm={**study.confirm.model_dump(), "seeds": list(HELD_OUT)})
    objective = panel_objective(held_out, held_out.held_out())
    objective.load()
    rows = {name: Row(held_out=[measure(objective, recipe)]) for name, recipe in fixed_recipes(study).items()}
    for name, row in rows.items():
        print(f"{name}: {row.scores()[0]:.3f}", flush=True)
    for optimiser, title in OPTIMISERS.items():
        rows[title] = Row()
        for seed in seeds:
            recipe, score = run(study, optimiser, seed, trials, folder / f"{optimiser}-{seed}")
            rows[title].searched.append(score)
            rows[title].held_out.append(measure(objective, recipe))
            print(f"{title}, seed {seed}: {score:.3f}, held out {rows[title].scores()[-1]:.3f}", flush=True)
    objective.close()
    return rows


# -- in words -----------------------------------------------------------------------------------------------------------


def report(rows: dict[str, Row], trials: int, shots: int) -> list[str]:
    """The lines between the markers."""
    lines = [
        "| merge | score on held-out images | shape | colour | score in its own search |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        cells = [_spread(row.scores()), f"{row.part('shape'):.2f}", f"{row.part('colour'):.2f}", _spread(row.searched)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    runs = len(rows[OPTIMISERS["gp"]].scores())
    lines += [
        "",
        f"{runs} searches of each kind with {trials} trials of {shots} images; the held-out panel has 12 other prompts with "
        f"{len(HELD_OUT)} seeds. ± is the standard deviation over searches.",
        "",
    ]
    return lines + [f"- {line}" for line in verdicts(rows)]


def _spread(scores: list[float]) -> str:
    if not scores:
        return ""
    mean = f"{statistics.fmean(scores):.3f}"
    return mean if len(scores) < 2 else f"{mean} ± {statistics.stdev(scores):.3f}"


def verdicts(rows: dict[str, Row]) -> list[str]:
    """Whether searches are better than what they have to beat."""
    lines = []
    for title in OPTIMISERS.values():
        counted = {other: _counts(rows[title], rows[other]) for other in (SHAPE, COLOUR, MEAN, ADDED)}
        against = "; ".join(f"{other}: {text}" for other, text in counted.items())
        lines.append(f"{title}, each best trial image by image ({CONFIDENCE:.0%} intervals) against {against}.")
    gp, random = (rows[title].scores() for title in OPTIMISERS.values())
    differences = dict(enumerate(a - b for a, b in zip(gp, random, strict=True)))
    if len(differences) > 1:
        zero, equal = dict.fromkeys(differences, 0.0), dict.fromkeys(differences, 1.0)
        found = paired_interval(differences, zero, equal, CONFIDENCE)
        lines.append(f"Gaussian process less random points, seed by seed: {_words(found)}.")
    return lines


def _counts(row: Row, other: Row) -> str:
    """In how many searches the best trial is better, worse, or neither for sure."""
    reference = other.held_out[0].scores
    intervals = [paired_interval(m.scores, reference, dict.fromkeys(reference, 1.0), CONFIDENCE) for m in row.held_out]
    better, worse = sum(x.low > 0 for x in intervals), sum(x.high < 0 for x in intervals)
    return f"better {better}, worse {worse}, cannot tell {len(intervals) - better - worse}"


def _words(x: Interval) -> str:
    sure = "better" if x.low > 0 else "worse" if x.high < 0 else "cannot tell"
    return f"{x.mean:+.3f} ({x.low:+.3f} to {x.high:+.3f}): {sure}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds, ten trials, nothing put into the docs")
    parser.add_argument("--seeds", type=int, default=5, help="how many searches of each kind")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--folder", type=Path, help="where run folders are kept: a run that was stopped goes on")
    parser.add_argument("--docs", type=Path, help="the page to put the table into")
    given = parser.parse_args()
    seeds, trials = (2, 10) if given.quick else (given.seeds, given.trials)
    study = Study.load(MODELS / "study.yaml")
    with tempfile.TemporaryDirectory(prefix="unetscope-tiny-") as own:
        rows = experiment(study, range(1, seeds + 1), trials, given.folder or Path(own))
    text = "\n".join(report(rows, trials, len(study.shots())))
    print(text)
    docs = given.docs or (None if given.quick else DOCS)
    if docs:
        put_between_markers(text, docs, BEGIN, END)


if __name__ == "__main__":
    main()
