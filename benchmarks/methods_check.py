"""Whether what a method wrote is right: whole tensors against numpy in double precision, by formulas written out here."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from merge_check import ALLOWED, Wrong, fp16_tensors, step_of

_TENSORS = 12
# Of `dare`: how far a share of kept elements may lie from the density, in standard deviations.
_SIGMAS = 6.0


def worst_error(method: str, output: Path, inputs: list[Path], tensors: int = _TENSORS) -> float:
    """The largest error of some tensors of a merged fp16 file, in steps of fp16; of `dare` in standard deviations.

    Raises:
        Wrong: an error is beyond any rounding.
    """
    result, models = fp16_tensors(output), [fp16_tensors(path) for path in inputs]
    keys = [k for k in models[0] if k in result and k.startswith("model.diffusion_model.") and models[0][k].size > 1000]
    worst = 0.0
    for key in random.Random(0).sample(keys, min(tensors, len(keys))):
        values = [model[key].astype(np.float64) for model in models]
        if method == "dare":
            worst = max(worst, _kept(result[key].astype(np.float64), values))
            allowed = _SIGMAS
        else:
            expected = EXPECTED[method](values)
            step = step_of(np.maximum(np.abs(expected), np.max(np.abs(values), axis=0)))
            worst, allowed = max(worst, float(np.max(np.abs(result[key] - expected) / step))), ALLOWED
        if not worst <= allowed:
            raise Wrong(f"{key}: {method} is {worst:.3g} away from what it should be")
    return worst


def _slerp(values: list[np.ndarray], t: float = 0.3) -> np.ndarray:
    a, b = values
    size_a, size_b = np.linalg.norm(a), np.linalg.norm(b)
    angle = np.arccos(np.clip(a @ b / (size_a * size_b), -1, 1))
    direction = (np.sin((1 - t) * angle) * a / size_a + np.sin(t * angle) * b / size_b) / np.sin(angle)
    return direction * ((1 - t) * size_a + t * size_b)


def _median(values: list[np.ndarray]) -> np.ndarray:
    points, found = np.stack(values), np.mean(values, axis=0)
    for _ in range(200):
        weights = 1 / np.maximum(np.linalg.norm(points - found, axis=1), 1e-12)
        moved = weights @ points / weights.sum()
        if np.linalg.norm(moved - found) <= 1e-13 * np.linalg.norm(found):
            break
        found = moved
    return found


def _stock(values: list[np.ndarray]) -> np.ndarray:
    base, deltas = values[0], [v - values[0] for v in values[1:]]
    n, sizes = len(deltas), [np.linalg.norm(d) for d in deltas]
    pairs = [deltas[i] @ deltas[j] / (sizes[i] * sizes[j]) for i in range(n) for j in range(i)]
    cosine = float(np.mean(pairs)) if pairs else 1.0
    return base + max(n * cosine / (1 + (n - 1) * cosine), 0) * np.mean(deltas, axis=0)


def _ties(values: list[np.ndarray], density: float = 0.2) -> np.ndarray:
    base, kept = values[0], []
    for model in values[1:]:
        delta = (model - base).astype(np.float32)
        least = np.sort(np.abs(delta))[::-1][int(density * delta.size) - 1]
        kept.append(np.where(np.abs(delta) >= least, delta, 0).astype(np.float64))
    sign = np.sign(np.sum(kept, axis=0))
    agrees = [(np.sign(k) == sign) & (k != 0) for k in kept]
    count = np.sum(agrees, axis=0)
    return base + np.sum([np.where(a, k, 0) for a, k in zip(agrees, kept, strict=True)], axis=0) / np.maximum(count, 1)


def _kept(result: np.ndarray, values: list[np.ndarray], density: float = 0.5) -> float:
    """How far the share of elements that stay the base's is from (1 - density)^N, in standard deviations.

    Of elements that all models changed the same way: changes of different signs could cancel out.
    """
    deltas = [v - values[0] for v in values[1:]]
    changed = np.all([d > 0 for d in deltas], axis=0) | np.all([d < 0 for d in deltas], axis=0)
    share = float(np.mean(result[changed] == values[0][changed]))
    expected = (1 - density) ** len(deltas)
    return abs(share - expected) / np.sqrt(expected * (1 - expected) / max(changed.sum(), 1))


EXPECTED = {"slerp": _slerp, "geometric_median": _median, "model_stock": _stock, "ties": _ties}
