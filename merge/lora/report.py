"""What an operation on LoRAs did: errors by block label, for the screen and for `--json`."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from math import sqrt
from threading import Lock
from typing import Any

from ...checkpoints.families import Family, in_order
from ...checkpoints.notices import Notice, texts


@dataclass(frozen=True)
class LabelLoss:
    """What a label lost.

    Attributes:
        label: the canonical block label.
        modules: how many layers the LoRA changes there.
        ranks: the smallest and the largest rank of these.
        norm: the Frobenius norm of the change that was to be kept.
        error: the norm of what is missing or wrong, after rounding to the file's dtype, by `norm`.
        energy: the share of the change's square that is kept: 1 - error squared.
    """

    label: str
    modules: int
    ranks: tuple[int, int]
    norm: float
    error: float
    energy: float


@dataclass
class LoraReport:
    """The account of an operation.

    Attributes:
        output: what was written.
        family, style: its architecture and how it names its tensors.
        inputs: base names of what was read.
        modules: how many layers the LoRA changes.
        ranks: the smallest and the largest rank.
        parameters, size: numbers in the file, and its bytes.
        labels: by block label, in network order.
        error, energy: over all of them; see `LabelLoss`.
        left_out: reason -> keys.
        notes: what else to know.
        seconds: how long it took.
    """

    output: str
    family: str
    style: str
    inputs: list[str]
    modules: int = 0
    ranks: tuple[int, int] = (0, 0)
    parameters: int = 0
    size: int = 0
    labels: list[LabelLoss] = field(default_factory=list)
    error: float = 0.0
    energy: float = 1.0
    left_out: dict[str, list[str]] = field(default_factory=dict)
    notes: list[Notice] = field(default_factory=list)
    seconds: float = 0.0

    def to_plain(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"notes": texts(self.notes)}


@dataclass
class _Sum:
    modules: set[str] = field(default_factory=set)
    ranks: list[int] = field(default_factory=list)
    squares: float = 0.0
    wrong: float = 0.0


class Losses:
    """Adds up errors, layer by layer, from several threads."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._lock = Lock()
        self._rows: dict[tuple[str, str], tuple[str, int | None, float, float]] = {}

    def add(self, name: str, key: str, rank: int | None, squares: float, wrong: float) -> None:
        """The change of a module's weight or bias: the squared norm of what was to be kept, and that of the error.

        The rank is None where the change is kept as it is: of biases and norms.
        """
        with self._lock:
            self._rows[name, key] = (self._family.block_of(key).label, rank, squares, wrong)

    @property
    def count(self) -> int:
        """How many modules there are."""
        return len({name for name, _ in self._rows})

    def fill(self, report: LoraReport) -> None:
        """Put the sums into a report; they are added up in one order, whichever thread was first."""
        by_label: dict[str, _Sum] = defaultdict(_Sum)
        for (name, _), (label, rank, squares, wrong) in sorted(self._rows.items()):
            for row in (by_label[label], by_label[""]):
                row.modules.add(name)
                row.ranks += [] if rank is None else [rank]
                row.squares += squares
                row.wrong += wrong
        whole = by_label.pop("", _Sum())
        report.labels = [_loss(label, by_label[label]) for label in in_order(by_label)]
        total = _loss("", whole)
        report.modules, report.ranks = total.modules, total.ranks
        report.error, report.energy = total.error, total.energy


def _loss(label: str, row: _Sum) -> LabelLoss:
    error = sqrt(row.wrong / row.squares) if row.squares else 0.0
    ranks = (min(row.ranks, default=0), max(row.ranks, default=0))
    return LabelLoss(label, len(row.modules), ranks, sqrt(row.squares), error, 1.0 - error**2)
