"""Pruning on a paired panel: a trial that is worse than the best one on the same images is not finished.

Every trial makes the same images (prompt and seed) in the same order, so that two trials are compared image by image, which removes
most of the noise. A one-sided signed-rank test (Wilcoxon 1945), as in Optuna's `WilcoxonPruner`, decides after every batch.
"""

from __future__ import annotations

from collections.abc import Mapping

from .study_settings import Pruning


def is_hopeless(
    scores: Mapping[str, float],
    incumbent: Mapping[str, float],
    weights: Mapping[str, float],
    settings: Pruning,
    *,
    higher_is_better: bool,
) -> bool:
    """Whether a trial is worse than the best one, as far as its images tell.

    Args:
        scores: of the images that it has made.
        incumbent: the best trial's scores.
        weights: of the images.
        settings: level, and the least number of images.
        higher_is_better: the direction.
    """
    from scipy.stats import wilcoxon

    differences = [weights[name] * (x - incumbent[name]) for name, x in scores.items() if name in incumbent]
    if len(differences) < settings.after or len(differences) >= len(incumbent):
        return False
    worse = sum(differences) < 0 if higher_is_better else sum(differences) > 0
    if not worse:
        return False
    side = "less" if higher_is_better else "greater"
    return bool(wilcoxon(differences, alternative=side, zero_method="zsplit").pvalue < settings.p)


def paired_estimate(
    scores: Mapping[str, float], incumbent: Mapping[str, float], weights: Mapping[str, float], total: float
) -> float:
    """What a pruned trial's score would be: the best trial's, changed by the mean difference on the images that both made.

    The mean of its own scores would depend on which images came first: the easy ones make a bad trial look good.

    Args:
        scores: of the images that it has made.
        incumbent: the best trial's scores.
        weights: of the images.
        total: the best trial's score.
    """
    both = [name for name in scores if name in incumbent]
    share = sum(weights[name] for name in both)
    return total + sum(weights[name] * (scores[name] - incumbent[name]) for name in both) / share
