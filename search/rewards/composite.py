"""Several rewards as one: each is measured against how the baselines do, then they are joined."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...checkpoints.text import free_name
from ..errors import SearchError
from .contract import Parts, Reward

if TYPE_CHECKING:
    from PIL.Image import Image

Join = Literal["mean", "median", "min"]
_NAME, _WEIGHT = "name", "weight"


@dataclass(frozen=True)
class Standardisation:
    """What a part's raw scores are measured by: z = (raw - mean) / spread."""

    mean: float = 0.0
    spread: float = 1.0


class Composite(Reward):
    """Joined z-scores of its parts. 0 is what the baselines have on average, higher is better, whatever the parts say.

    The mean of a part is over all images of the baselines. Its spread is how far baselines are apart *on the same prompt
    and seed*: sqrt(sum of squared deviations from the mean of each request / (values - requests)). That prompts differ more than
    models is no reason to count a part less. Where baselines share no request the spread is that of all values.

    Args:
        parts: settings of rewards, each with a `weight` (1) and a `name` (its kind) if wanted.
        join: `mean` (weighted), `median` (weighted) or `min`: the worst part, whatever the weights.
    """

    name = "composite"
    needs_calibration = True

    def __init__(self, parts: list[Any], join: Join = "mean", base: Path = Path()):
        from .kinds import make_reward

        self._join = join
        self._rewards: dict[str, Reward] = {}
        self._weights: dict[str, float] = {}
        for settings in parts:
            own = dict(settings) if isinstance(settings, Mapping) else {"kind": settings}
            weight, name = own.pop(_WEIGHT, 1.0), own.pop(_NAME, None)
            reward = make_reward(own, base)
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
                raise SearchError(f"reward composite: the weight of {reward.name} is {weight!r}; give a number above 0")
            if reward.needs_calibration:
                raise SearchError("reward composite: a part is a composite itself; list its parts next to the others")
            name = self._free(str(name or reward.name), given=name is not None)
            self._rewards[name], self._weights[name] = reward, float(weight)
        if not self._rewards:
            raise SearchError("reward composite: has no parts; list at least one reward under parts")
        self.is_preference = all(reward.is_preference for reward in self._rewards.values())
        self.measures = _joined_words(self._rewards)
        self.scales = {name: Standardisation() for name in self._rewards}

    def _free(self, name: str, given: bool) -> str:
        if name in self._rewards and given:
            raise SearchError(f"reward composite: two parts are called {name!r}; give one another name")
        return free_name(name, self._rewards.__contains__, "{}-{}")

    def caution(self) -> str:
        others = {name: reward for name, reward in self._rewards.items() if not reward.is_preference}
        if not others or len(others) == len(self._rewards):
            return super().caution()
        return f"Not all of this reward is a model of what people like: it measures {_joined_words(others)} as well."

    def check(self) -> None:
        for reward in self._rewards.values():
            reward.check()

    def load(self) -> None:
        for reward in self._rewards.values():
            reward.load()

    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> list[float]:
        return self.combine(self.parts(images, prompts))

    def parts(self, images: Sequence[Image], prompts: Sequence[str]) -> dict[str, list[float]]:
        """Raw scores by part, as each reward gives them."""
        return {name: next(iter(r.parts(images, prompts).values())) for name, r in self._rewards.items()}

    def combine(self, parts: Mapping[str, Sequence[float]]) -> list[float]:
        """Joined z-scores; before `calibrate`, joined raw scores."""
        if missing := [name for name in self._rewards if name not in parts]:
            raise SearchError(
                f"reward composite: no scores of {', '.join(missing)} were recorded; the run was made with another reward"
            )
        return [
            self._joined(dict(zip(self._rewards, row, strict=True)))
            for row in zip(*(parts[n] for n in self._rewards), strict=True)
        ]

    def _joined(self, raw: Mapping[str, float]) -> float:
        z = {}
        for name, value in raw.items():
            scale, sign = self.scales[name], 1 if self._rewards[name].higher_is_better else -1
            z[name] = sign * (_number(value) - scale.mean) / scale.spread
        if any(math.isnan(value) for value in z.values()):
            return math.nan
        if self._join == "min":
            return min(z.values())
        if self._join == "median":
            return _median(z, self._weights)
        return math.fsum(self._weights[n] * z[n] for n in z) / math.fsum(self._weights.values())

    def calibrate(self, baselines: Sequence[Parts]) -> list[str]:
        """Take mean and spread of every part from the baselines; see the class."""
        notes = []
        if len(baselines) < 2:
            scored = f"{len(baselines) or 'no'} baseline was scored, and z-scores need two or more"
            notes.append(f"{scored}: the spread of each part over prompts is used")
        for name in self._rewards:
            requests: dict[str, list[float]] = {}
            for trial in baselines:
                for request, values in trial.items():
                    if math.isfinite(value := _number(values.get(name))):
                        requests.setdefault(request, []).append(value)
            self.scales[name], note = _scale(name, requests)
            notes += [note] if note else []
        return notes


def _scale(name: str, requests: Mapping[str, Sequence[float]]) -> tuple[Standardisation, str]:
    """The scale of a part from its values by request, and what was odd; sums are exact, so that no order matters."""
    values = [value for some in requests.values() for value in some]
    if not values:
        return Standardisation(), f"no baseline has a score of {name}: its raw scores are used"
    mean = math.fsum(values) / len(values)
    apart = [(v - math.fsum(some) / len(some)) ** 2 for some in requests.values() for v in some]
    free = len(values) - len(requests)
    spread = math.sqrt(math.fsum(apart) / free) if free else 0.0
    if spread <= _least(values):
        spread = statistics.stdev(sorted(values)) if len(values) > 1 else 0.0
        note = (
            f"{name} is the same for every baseline on the same prompt and seed: its spread over prompts is used"
            if free
            else ""
        )
    else:
        note = ""
    if spread <= _least(values):
        return Standardisation(mean, 1.0), f"{name} never changes among the baselines: its raw differences are used"
    return Standardisation(mean, spread), note


def _joined_words(rewards: Mapping[str, Reward]) -> str:
    """What parts measure, each with its name."""
    return "; ".join(f"{name} ({reward.measures})" if reward.measures else name for name, reward in rewards.items())


def _number(raw: float | None) -> float:
    """A raw score; JSON has no NaN, so that a record read back may hold None for it."""
    return math.nan if raw is None else float(raw)


def _least(values: Sequence[float]) -> float:
    """A spread that is nothing but rounding."""
    return 1e-9 * max(abs(value) for value in values)


def _median(z: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The weighted median; where exactly half of the weight is below, the middle of both neighbours."""
    ordered = sorted(z, key=z.get)
    half, reached = math.fsum(weights.values()) / 2, 0.0
    for at, name in enumerate(ordered):
        reached += weights[name]
        if math.isclose(reached, half) and at + 1 < len(ordered):
            return (z[name] + z[ordered[at + 1]]) / 2
        if reached > half:
            return z[name]
    return z[ordered[-1]]
