"""All checks of a recipe, and the account of them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...checkpoints.checkpoint import Checkpoint
from ...checkpoints.errors import RecipeError, UnetscopeError
from ...checkpoints.families import Family
from ...checkpoints.hashes import identity
from ...checkpoints.notices import SEVERITIES, Notice, Severity, worst_first
from ...checkpoints.opening import open_checkpoint
from ...checkpoints.stream import Cancelled, Progress
from ...checkpoints.text import dead_link
from ...library.health import NOT_FINITE
from ...library.scan import scan
from ...library.scan_cache import keep_scan, kept_scan
from ..compile import fitting_families
from ..models import UNUSED
from ..planner import planned
from ..recipe import Recipe
from .finding import check_of, to_plain
from .headers import header_findings
from .sampling import take_sample
from .shares import ComponentShares, component_shares, is_whole
from .steps import recipe_findings, share_findings, weight_findings
from .values import value_findings


@dataclass
class LintReport:
    """What was found about a recipe.

    Attributes:
        recipe: where it is from.
        findings: errors first.
        shares: which share every model has in every component; empty where that cannot be worked out.
        family: the architecture that block weights were read for.
        missing: model -> why it could not be opened; checks that need it were left out.
        deep: whether every value was read.
    """

    recipe: str
    findings: list[Notice] = field(default_factory=list)
    shares: list[ComponentShares] = field(default_factory=list)
    family: str = ""
    missing: dict[str, str] = field(default_factory=dict)
    deep: bool = False

    @property
    def worst(self) -> Severity | None:
        """The gravest severity, None when nothing was found."""
        return self.findings[0].severity if self.findings else None

    def count(self, severity: Severity) -> int:
        """How many findings are of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def to_plain(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return {
            "recipe": self.recipe,
            "family": self.family,
            "findings": [to_plain(finding) for finding in self.findings],
            "counts": {severity: self.count(severity) for severity in SEVERITIES},
            "shares": [part.to_plain() for part in self.shares],
            "missing": self.missing,
            "deep": self.deep,
        }


def lint_file(path: Path | str, **options: Any) -> LintReport:
    """`lint` of a recipe file; a recipe that cannot be read as one is an error among the findings.

    Raises:
        RecipeError: there is no such file.
    """
    if not Path(path).is_file():
        raise RecipeError(f"{path}: {dead_link(path) or 'no such recipe'}; check the name")
    try:
        recipe = Recipe.load(Path(path))
    except UnetscopeError as error:
        refused = Notice(
            "recipe.refused",
            str(error),
            severity="error",
            why="The merge refuses it, and nothing else can be checked",
            remedy="Mend it and look again",
        )
        return LintReport(str(path), [refused])
    return lint(recipe, str(path), **options)


def lint(
    recipe: Recipe,
    where: str = "recipe",
    *,
    deep: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> LintReport:
    """Look for what is questionable about a recipe. Nothing is written but, with `deep`, the cache of scans.

    Models that cannot be opened are said to be missing; what needs no file, or only the others, is checked all the same.

    Args:
        recipe: its relative paths count from the working directory.
        where: what the report calls it.
        deep: read every value of every model, once per file: NaN anywhere, exact copies.
        threads, progress, cancel: of reading.

    Raises:
        Cancelled: `cancel` was set.

    Example:
        >>> from unetscope.merge import Recipe
        >>> step = {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 3}
        >>> models = {"a": "a.safetensors", "b": "b.safetensors"}
        >>> found = lint(Recipe.parse({"models": models, "steps": {"mix": step}}))
        >>> [(one.code, one.severity) for one in found.findings]
        [('range.parameter', 'warning'), ('dtype.fewer_digits', 'note')]
    """
    report = LintReport(where, deep=deep)
    with ExitStack() as files:
        models = _open(recipe, report, files)
        report.findings += recipe_findings(recipe)
        try:
            family = _family(recipe, models)
        except UnetscopeError as error:  # nothing tells what it is for: the rest cannot be looked at
            report.findings = worst_first([*report.findings, _refused(error)])
            return report
        report.family = family.id
        report.findings += weight_findings(recipe, family)
        if deep:
            _scan(recipe, models, report, threads, progress, cancel)
        report.findings += header_findings(recipe, models)
        try:
            meant = report.shares = component_shares(recipe, family)
            if not all(is_whole(model, family) for model in models.values()):
                report.shares = component_shares(recipe, family, models)
        except UnetscopeError as error:
            if not report.count("error"):
                report.findings.append(_refused(error))
        else:
            steps_told = any(check_of(f) == "range" for f in report.findings)
            report.findings += [f for f in share_findings(recipe, meant) if not (steps_told and check_of(f) == "range")]
            _look_at_values(recipe, models, family, report, progress, cancel)
        if not report.missing and not any(f.severity == "error" for f in report.findings):
            _plan(recipe, report)
    report.findings = worst_first(report.findings)
    return report


def _family(recipe: Recipe, models: Mapping[str, Checkpoint]) -> Family:
    """The record of the first model that tells its family; where none does, the first one that the recipe's block weights fit.

    Raises:
        RecipeError: they fit none.
    """
    told = (checkpoint.told_family for checkpoint in models.values())
    return next(filter(None, told), None) or fitting_families(recipe)[0]


def _open(recipe: Recipe, report: LintReport, files: ExitStack) -> dict[str, Checkpoint]:
    models: dict[str, Checkpoint] = {}
    parts = {source: source for source in recipe.components.values() if recipe.is_file(source)}
    for name, path in {**recipe.models, **parts}.items():
        try:
            models[name] = files.enter_context(open_checkpoint(path))
        except UnetscopeError as error:
            report.missing[name] = str(error)
    for name, lora in recipe.loras.items():
        if not Path(lora.path).exists():
            report.missing[name] = f"{lora.path}: no such file; check the name"
    for name, reason in report.missing.items():
        report.findings.append(
            Notice(
                "missing.file",
                f"{name} cannot be opened: {reason}",
                (name,),
                severity="error",
                why="The merge stops there, and what depends on its weights was not checked",
                remedy="Correct the path (`unetscope index FOLDER --find NAME` finds a model by name or hash)",
            )
        )
    return models


def _look_at_values(recipe: Recipe, models: dict, family: Family, report: LintReport, progress, cancel) -> None:
    fitting = {
        n: c
        for n, c in models.items()
        if c.architecture.what in ("checkpoint", "component") and c.architecture.family in (None, report.family)
    }
    # Whole models first: what is sampled is what the first has.
    fitting = dict(sorted(fitting.items(), key=lambda item: item[1].architecture.what != "checkpoint"))
    if not fitting:
        return
    try:
        sample = take_sample(fitting, progress=progress, cancel=cancel)
    except Cancelled:
        raise
    except UnetscopeError as error:
        report.findings.append(_refused(error))
        return
    told = {frozenset(f.subject) for f in report.findings if check_of(f) == "twice"}
    report.findings += [
        f
        for f in value_findings(recipe, family, sample, report.shares)
        if check_of(f) != "twice" or frozenset(f.subject) not in told
    ]


def _scan(recipe: Recipe, models: dict[str, Checkpoint], report: LintReport, threads, progress, cancel) -> None:
    for name, checkpoint in models.items():
        one_file = checkpoint.path.is_file()
        kept = _kept(checkpoint.path) if one_file else None
        if kept is None:
            try:
                kept = scan(checkpoint.path, threads=threads, progress=progress, cancel=cancel).to_plain()
            except Cancelled:
                raise
            except UnetscopeError as error:
                report.findings.append(_refused(error))
                continue
            if one_file:
                keep_scan(identity(checkpoint.path), kept)
        for problem in kept["health"]:
            broken = problem["level"] == "broken"
            stops = problem["code"] == NOT_FINITE and recipe.output.nan == "error"
            report.findings.append(
                Notice(
                    problem["code"],
                    f"{name}: {problem['text']}",
                    (name,),
                    "error" if stops else "warning" if problem["level"] != "note" else "note",
                    "Values like these spoil pictures" if broken else "It goes into the merge as it is",
                    "Take an undamaged copy of the file" if broken else "Nothing, if you know of it",
                )
            )


def _kept(file: Path) -> dict[str, Any] | None:
    """What the last scan of a file found; None where there is none, or one of an older release, whose findings have no codes."""
    found = kept_scan(identity(file))
    coded = found is not None and all("code" in problem for problem in found.get("health", ({},)))
    return found if coded else None


def _plan(recipe: Recipe, report: LintReport) -> None:
    """What the merge itself would refuse or warn of."""
    try:
        with planned(recipe) as plan:
            warnings = plan.warnings
    except UnetscopeError as error:
        report.findings.append(_refused(error))
        return
    told = {UNUSED, *(finding.code for finding in report.findings)}
    why, remedy = "The merge says so when it runs", "Nothing, if that is what you expect"
    report.findings += [
        replace(notice, severity="note", subject=(), why=why, remedy=remedy, step="")
        for notice in warnings
        if notice.code not in told
    ]


def _refused(error: UnetscopeError) -> Notice:
    return Notice(
        "refused.by_merge", str(error), severity="error", why="The merge stops there", remedy="Mend it and look again"
    )
