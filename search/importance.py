"""How much each free number mattered to the score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .overview import FEWEST, Overview

PED_ANOVA, RANKS = "PED-ANOVA, by Optuna", "size of the rank correlation"


@dataclass(frozen=True)
class Importance:
    """Of a free number: its share (all sum to 1), and its rank correlation with the score (None for a choice)."""

    share: float
    correlation: float | None


def importances(overview: Overview) -> tuple[str, Mapping[str, Importance]]:
    """The method, and name -> importance, the largest first; empty when there are too few trials to tell.

    PED-ANOVA (Watanabe et al. 2023): how differently a number is spread among the best tenth of the trials and among all.
    Without Optuna, or where it finds nothing, the size of Spearman's rank correlation stands in.
    """
    correlations = overview.correlations()
    if len(overview.complete) < FEWEST:
        return "", {}
    shares, method = _ped_anova(overview), PED_ANOVA
    if not shares:
        shares, method = {name: abs(value) for name, value in correlations.items()}, RANKS
    whole = sum(shares.values()) or 1.0
    ordered = sorted(shares, key=lambda name: -shares[name])
    return method, {name: Importance(shares[name] / whole, correlations.get(name)) for name in ordered}


def _ped_anova(overview: Overview) -> dict[str, float]:
    try:
        import optuna
    except ImportError:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spaces = {
        p.name: optuna.distributions.CategoricalDistribution(p.choices)
        if p.is_choice
        else optuna.distributions.FloatDistribution(p.low, p.high)
        for p in overview.parameters
        if p.is_choice or p.high > p.low
    }
    study = optuna.create_study(direction="maximize" if overview.higher_is_better else "minimize")
    try:
        for trial in overview.complete:
            if any(name not in trial.point for name in spaces):  # a damaged record
                continue
            point = {name: trial.point[name] for name in spaces}
            study.add_trial(optuna.trial.create_trial(params=point, distributions=spaces, value=trial.score))
        found = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
        )
    # A trial outside of the limits (a log of another tool), or too few of them for its estimate.
    except (KeyError, ValueError, RuntimeError):
        return {}
    return {name: float(value) for name, value in found.items() if value == value} if any(found.values()) else {}
