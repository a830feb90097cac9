"""LoRA or full fine-tune: how many directions the change of each layer has.

A LoRA of rank r changes a matrix by a product of two thin ones, so all of its change is in r directions; a full fine-tune
spreads over all of them. The difference of a layer is a matrix (convolutions: outputs by inputs x height x width), and its
largest singular values tell.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal
from zlib import crc32

import numpy as np

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.errors import UnetscopeError
from ..checkpoints.families import BUFFER_LABELS, components_in_order, in_order
from ..checkpoints.stream import Cancelled, Progress
from .alignment import Aligned, align
from .rounding import spacing

if TYPE_CHECKING:
    import pandas as pd

By = Literal["layer", "label", "component"]
RANKS = (4, 8, 16, 32, 64)
# A sketch of some more directions than are asked for, refined so many times: the usual choice for spectra that fall slowly.
_MORE, _REFINED = 16, 4
# Up to this many rows or columns all singular values are computed; a sketch would hardly be smaller.
_SMALL = 160
# A LoRA's rank is the smallest that captures this much of the change that rounding does not explain.
_CAPTURED = 0.97
# A matrix tells a rank only if it has several times as many directions: a few always hold much of a small matrix.
_ROOM = 4
# With more of the change than this explained by rounding, there is nothing to tell.
_ALL_ROUNDING = 0.8


def spectrum(
    a: Checkpoint,
    b: Checkpoint,
    by: By = "label",
    ranks: Sequence[int] = RANKS,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> pd.DataFrame:
    """The singular values of b - a in every layer with a weight matrix. Holds one tensor of each at a time.

    The largest singular values come from torch's randomised SVD (Halko et al. 2011): the only one among the libraries
    that are here anyway whose work is all matrix products, a few times faster at 64 values than ARPACK's. Matrices with a
    side up to 160 are decomposed in full.

    Args:
        a, b: before and after.
        by: a row for every layer, label or component.
        ranks: whose captured energy to report, ascending.
        seed: of the random sketches; each layer has a stream of its own, so that rows do not depend on each other.
        progress: called with elements done, elements in all, and a key.
        cancel: stops when it is set.

    Returns:
        key (by layer only), label, component, layers, parameters, norm (of b - a), top (the largest singular value),
        stable_rank (sum of their squares by the largest one's), `rank 4`... (the share of the change's square that so many
        directions hold, at least), rounding (the share that rounding b to its dtype may account for), rank (of a LoRA that
        would explain it, else 0), verdict (words). Groups have the sums over their layers; `top` is the largest.

    Raises:
        UnetscopeError: ranks that are not positive and ascending, or no layer in common.
        Cancelled: `cancel` was set.
    """
    import pandas as pd

    ranks = _checked(ranks)
    tensors = [t for t in align([a, b]).tensors if _is_matrix(t)]
    if not tensors:
        raise UnetscopeError(f"{a.path} and {b.path} share no layer with a weight matrix")
    total, done, rows = sum(t.elements for t in tensors), 0, []
    for tensor in tensors:
        if cancel is not None and cancel.is_set():
            raise Cancelled("cancelled")
        rows.append(_layer(a, b, tensor, ranks, seed))
        done += tensor.elements
        if progress:
            progress(done, total, tensor.key)
    frame = pd.DataFrame(rows)
    if by != "layer":
        frame = _grouped(frame, by, ranks)
    return _judged(frame, by, ranks)


def _checked(ranks: Sequence[int]) -> tuple[int, ...]:
    ranks = tuple(ranks)
    if not ranks or ranks[0] < 1 or any(x >= y for x, y in pairwise(ranks)):
        raise UnetscopeError(f"ranks are positive and ascending, such as 4, 8, 16; found {', '.join(map(str, ranks))}")
    return ranks


def _is_matrix(tensor: Aligned) -> bool:
    if not tensor.is_float or len(tensor.shape) < 2 or tensor.label in BUFFER_LABELS:
        return False
    return min(tensor.shape[0], tensor.elements // max(tensor.shape[0], 1)) > 1


def _layer(a: Checkpoint, b: Checkpoint, tensor: Aligned, ranks: tuple[int, ...], seed: int) -> dict:
    after = b.numpy(tensor.key)
    change = (after - a.numpy(tensor.key)).reshape(tensor.shape[0], -1)
    finite = np.isfinite(change)
    if not finite.all():
        change[~finite] = 0
    squares = float(np.einsum("ij,ij->", change, change, dtype=np.float64))
    noise = spacing(after.ravel(), tensor.infos[1].dtype).astype(np.float64)[(change != 0).ravel()]
    values = singular_values(change, ranks[-1], crc32(tensor.key.encode()) ^ seed) if squares else np.zeros(1)
    row = {"key": tensor.key, "label": tensor.label, "component": tensor.component, "layers": 1}
    row |= {"parameters": tensor.elements, "sides": min(change.shape), "squares": squares}
    row |= {"top": float(values[0]), "rounding": float(noise @ noise) / 12}
    return row | {f"rank {k}": float(np.sum(values[:k] ** 2)) for k in ranks}


def singular_values(matrix: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The largest singular values, at most `count`, descending; exact for small matrices, else from a random sketch."""
    sides = min(matrix.shape)
    if sides <= max(_SMALL, 2 * count):
        return np.linalg.svd(matrix.astype(np.float64), compute_uv=False)[:count]
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, values, _ = torch.svd_lowrank(torch.from_numpy(matrix), q=min(count + _MORE, sides), niter=_REFINED)
    return values[:count].double().numpy()


def _grouped(frame: pd.DataFrame, by: By, ranks: tuple[int, ...]) -> pd.DataFrame:
    """Sums over the layers of each label or component, in network order; `sides` is of the layers that change most."""
    sort = in_order if by == "label" else components_in_order
    order = {name: i for i, name in enumerate(sort(set(frame[by])))}
    summed = ["layers", "parameters", "squares", "rounding", *(f"rank {k}" for k in ranks)]
    frame = frame.assign(tops=frame["top"] ** 2, wide=frame["sides"] * frame["squares"])
    kept = ["component"] if by == "label" else []
    groups = frame.groupby(by, sort=False)
    out = groups[[*summed, "tops", "wide"]].sum()
    out["top"] = groups["top"].max()
    for name in kept:
        out[name] = groups[name].first()
    out["sides"] = np.where(out["squares"] > 0, out["wide"] / out["squares"].where(out["squares"] > 0, 1), 0)
    out = out.drop(columns="wide").reset_index()
    return out.sort_values(by, key=lambda names: names.map(order), ignore_index=True)


def _judged(frame: pd.DataFrame, by: By, ranks: tuple[int, ...]) -> pd.DataFrame:
    """Shares instead of sums, and what they mean."""
    squares = frame["squares"].where(frame["squares"] > 0)
    tops = frame["tops"] if "tops" in frame else frame["top"] ** 2
    frame["norm"] = np.sqrt(frame["squares"])
    frame["stable_rank"] = squares / tops.where(tops > 0)
    for k in ranks:
        frame[f"rank {k}"] = (frame[f"rank {k}"] / squares).clip(upper=1.0)
    frame["rounding"] = (frame["rounding"] / squares).clip(upper=1.0)
    frame["rank"] = [_rank(row, ranks) for _, row in frame.iterrows()]
    frame["verdict"] = [_verdict(row, ranks) for _, row in frame.iterrows()]
    head = {"layer": ["key", "label", "component"], "label": ["label", "component"], "component": ["component"]}[by]
    columns = ["layers", "parameters", "norm", "top", "stable_rank", *(f"rank {k}" for k in ranks)]
    return frame[[*head, *columns, "rounding", "rank", "verdict"]]


def _rank(row: pd.Series, ranks: tuple[int, ...]) -> int:
    """The smallest rank that explains the change up to rounding, 0 for none."""
    if not row["squares"] or row["rounding"] > _ALL_ROUNDING:
        return 0
    explained = _CAPTURED * (1 - row["rounding"])
    return next((k for k in ranks if row[f"rank {k}"] >= explained and row["sides"] >= _ROOM * k), 0)


def _verdict(row: pd.Series, ranks: tuple[int, ...]) -> str:
    if not row["squares"]:
        return "unchanged"
    if row["rounding"] > _ALL_ROUNDING:
        return "changed by little more than rounding"
    if row["rank"]:
        return f"LoRA-like (rank ~{row['rank']})"
    if row["sides"] < _ROOM * ranks[0]:
        return "too small to tell"
    return "full fine-tune"
