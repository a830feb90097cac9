"""Who proposes points: Optuna's samplers by name, and the points that they start from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .errors import SearchError
from .parameters import FreeParameter
from .study_settings import OptimiserSettings

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler


def make_sampler(
    settings: OptimiserSettings, parameters: Sequence[FreeParameter], entropy: Sequence[int]
) -> BaseSampler:
    """Optuna's sampler of that name.

    Args:
        settings: its name, and after how many trials it begins to learn.
        parameters: what is free.
        entropy: makes its random numbers; a resumed run and a second worker must have others, or they would repeat points.

    Raises:
        SearchError: a package that it needs is not installed.
    """
    import numpy as np
    import optuna

    seed = int(np.random.SeedSequence(list(entropy)).generate_state(1)[0])
    start, samplers = max(1, settings.start), optuna.samplers
    try:
        if settings.name == "gp":
            return samplers.GPSampler(seed=seed, n_startup_trials=start, warn_independent_sampling=False)
        if settings.name == "tpe":
            return samplers.TPESampler(seed=seed, n_startup_trials=start, multivariate=True)
        if settings.name == "cmaes":
            numbers = [p for p in parameters if not p.is_choice]
            # It begins in the centre, a sixth of the way to the ends wide.
            stepped = any(p.step for p in numbers)
            return samplers.CmaEsSampler(seed=seed, with_margin=stepped, warn_independent_sampling=False)
        if settings.name == "qmc":
            # All workers share one sequence, so its seed is the study's.
            return samplers.QMCSampler(scramble=True, seed=settings.seed, warn_independent_sampling=False)
        return samplers.RandomSampler(seed=seed)
    except ImportError as error:
        raise SearchError(f"optimiser {settings.name} needs {error.name}: pip install 'unetscope[search]'") from None


def start_points(parameters: Sequence[FreeParameter], settings: OptimiserSettings) -> list[dict[str, float | str]]:
    """Points spread over what is free: a Latin hypercube has one in each slice of every number; `uniform` has them anywhere."""
    import numpy as np
    from scipy.stats import qmc

    if settings.name not in ("gp", "tpe") or not settings.start:
        return []
    rng = np.random.default_rng(settings.seed)
    if settings.start_points == "latin":
        shares = qmc.LatinHypercube(len(parameters), rng=rng).random(settings.start)
    else:
        shares = rng.random((settings.start, len(parameters)))
    return [
        {
            p.name: p.choices[min(int(x * len(p.choices)), len(p.choices) - 1)] if p.is_choice else p.at(float(x))
            for p, x in zip(parameters, row, strict=True)
        }
        for row in shares
    ]


def distribution(p: FreeParameter) -> BaseDistribution:
    """Where a parameter may go, in Optuna's words."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return CategoricalDistribution(list(p.choices)) if p.is_choice else FloatDistribution(p.low, p.high, step=p.step)
