"""What `trace` answers: shares, their errors and a verdict for every label, and for the merge as a whole."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import yaml

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["identical", "equal", "exact", "nearly", "incomplete", "unknown"]


@dataclass(frozen=True)
class LabelTrace:
    """What a label (or a tensor) of the merge is made of.

    Attributes:
        label, component, parameters: what it is; for a tensor, `key` and `kind` say which.
        dtype: of the merge there.
        verdict: `identical` (the bits of a candidate), `equal` (one candidate, rounded to another dtype), `exact` (a linear
            merge, rounded once), `nearly` (linear but for extra roundings or a small missing share), `incomplete`
            (something is missing, or it was not linear), `unknown` (no candidate has it, or too few elements differ).
        shares: candidate -> its share; they add up to one. Candidates that have the same values here are counted under the
            first of them: see `same`.
        errors: candidate -> the standard error of its share; the 95 % interval is 1.96 of them to both sides.
        same: candidate -> the others that cannot be told from it here.
        identical: the candidates whose bits the merge has.
        rho: the residual's square in units of what rounding once leaves; 1 for an exact linear merge.
        missing: of an incomplete label, the length of what the candidates leave unexplained, relative to the distance to the
            nearest of them; else 0.
        approximate: rounding follows the small differences here, so that errors are too optimistic.
        ambiguous: another choice of candidates fits as well, because some are merges of others.
        relations: those merges among the candidates: candidate -> shares of others.
        varies: layers inside this label have weights of their own; `shares` are their means and `errors` their spread.
        layers: of a label that varies inside, one trace for each kind of layer.
        scale: the sum of the shares when they need not add up to one, where that explains the merge, else None.
    """

    label: str
    component: str
    parameters: int
    dtype: str
    verdict: Verdict
    shares: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    same: dict[str, tuple[str, ...]] = field(default_factory=dict)
    identical: tuple[str, ...] = ()
    rho: float = float("nan")
    missing: float = 0.0
    approximate: bool = False
    ambiguous: bool = False
    relations: dict[str, dict[str, float]] = field(default_factory=dict)
    varies: bool = False
    layers: tuple[LabelTrace, ...] = ()
    scale: float | None = None
    key: str = ""
    kind: str = ""

    @property
    def complete(self) -> bool:
        """Whether the listed candidates explain all of it."""
        return self.verdict in ("identical", "equal", "exact")

    def row(self, names: tuple[str, ...]) -> dict[str, Any]:
        """A line of a table; a share that cannot be told from another candidate's is NaN."""
        head = {"key": self.key} if self.key else {}
        head |= {"label": self.label, "component": self.component}
        if self.key:
            head["kind"] = self.kind
        head |= {"parameters": self.parameters, "dtype": self.dtype, "verdict": self.verdict, "rho": self.rho}
        head |= {"missing": self.missing, "approximate": self.approximate, "ambiguous": self.ambiguous}
        nan = float("nan")
        for name in names:
            head[f"share {name}"] = self.shares.get(name, nan)
        for name in names:
            head[f"error {name}"] = self.errors.get(name, nan)
        return head


@dataclass(frozen=True)
class TraceReport:
    """Where a merge comes from.

    Attributes:
        merged: the name of the file that was traced.
        names: the candidates.
        labels: one `LabelTrace` for each label, in network order.
        tensors: one for each tensor, in file order.
        verdict: of the whole, the worst of its labels'.
        method: the kind of merge that the shares are (`weighted_sum`, `uniform`...), empty when there is no recipe.
        sentences: the account in words, the most important first.
        recipe: plain data of a merge recipe that makes this file again, or comes nearest; None where none can be given.
    """

    merged: str
    names: tuple[str, ...]
    labels: tuple[LabelTrace, ...]
    tensors: tuple[LabelTrace, ...]
    verdict: Verdict
    method: str
    sentences: tuple[str, ...]
    recipe: dict[str, Any] | None

    @property
    def complete(self) -> bool:
        """Whether the listed candidates explain every label."""
        return all(label.complete for label in self.labels)

    def by_label(self) -> pd.DataFrame:
        """label, component, parameters, dtype, verdict, rho, missing, approximate, ambiguous, `share X` and `error X` of
        every candidate X."""
        return _table(self.labels, self.names)

    def by_tensor(self) -> pd.DataFrame:
        """The same with a row for every tensor, and key and kind of layer in front."""
        return _table(self.tensors, self.names)

    def recipe_yaml(self) -> str:
        """The recipe as YAML text, with what it is worth in a comment; empty when there is none."""
        if self.recipe is None:
            return ""
        worth = (
            "Makes the traced file again, up to rounding."
            if self.complete
            else "The nearest recipe of the listed files. It does not make the traced file: see the verdicts."
        )
        return f"# {worth}\n" + yaml.safe_dump(self.recipe, sort_keys=False, allow_unicode=True, width=120)

    def to_plain(self) -> dict[str, Any]:
        """Plain data for JSON: numbers that are not finite become None."""
        return _finite(
            {
                "merged": self.merged,
                "among": list(self.names),
                "verdict": self.verdict,
                "complete": self.complete,
                "method": self.method,
                "sentences": list(self.sentences),
                "labels": [asdict(label) for label in self.labels],
                "recipe": self.recipe,
            }
        )


def _table(rows: tuple[LabelTrace, ...], names: tuple[str, ...]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame([row.row(names) for row in rows])


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value
