"""What a merge did, or would do: for the screen, for `--json`, and for the app."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoints.blocks import in_order, place
from ..checkpoints.stream import Pass
from .forms import Form, Model
from .plan import Plan


@dataclass
class LabelShares:
    """What a label of the result is made of.

    Attributes:
        label: the canonical block label.
        tensors, parameters: how many.
        shares: model name -> its mean coefficient over the label's parameters.
        varies: whether layers of the label differ in their shares.
        methods: methods that are not linear and have a part in it; their inputs' shares are not in `shares`.
    """

    label: str
    tensors: int = 0
    parameters: int = 0
    shares: dict[str, float] = field(default_factory=dict)
    varies: bool = False
    methods: list[str] = field(default_factory=list)


@dataclass
class Report:
    """The account of a merge or of a dry run.

    Attributes:
        output, family: what is written, and its architecture.
        models: name in the recipe -> file name.
        bytes_read, bytes_written, passes, memory, threads: what it takes; memory is the size of all buffers.
        labels: what each label is made of.
        warnings: what a person should know, in sentences.
        seconds: how long it took; None for a dry run.
        sha256: of the output, where it was asked for.
        resumed: how many tensors an earlier run of this merge had finished.
    """

    output: str
    family: str
    models: dict[str, str]
    tensors: int
    bytes_read: int
    bytes_written: int
    passes: int
    memory: int
    threads: int
    labels: list[LabelShares]
    warnings: list[str]
    seconds: float | None = None
    sha256: str | None = None
    resumed: int = 0

    def to_plain(self) -> dict[str, Any]:
        """Plain data for JSON."""
        from dataclasses import asdict

        return asdict(self)


def make_report(plan: Plan, output: Path, threads: int | None) -> Report:
    """The report of a plan that has not run yet."""
    names = plan.names
    return Report(
        output=str(output),
        family=plan.family,
        models={name: c.path.name for name, c in zip(names, plan.checkpoints, strict=True)},
        tensors=len(plan.tensors),
        bytes_read=plan.bytes_read,
        bytes_written=plan.bytes_written,
        passes=plan.passes,
        memory=plan.memory(threads),
        threads=Pass(threads).threads,
        labels=label_shares(plan),
        warnings=list(plan.warnings),
    )


def label_shares(plan: Plan) -> list[LabelShares]:
    """What every label of the result is made of, in network order."""
    names = plan.names
    found: dict[str, LabelShares] = {}
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    forms: dict[str, set[Form]] = defaultdict(set)
    floats: Counter[str] = Counter()
    for tensor in plan.tensors:
        label = place(tensor.key).label
        row = found.setdefault(label, LabelShares(label))
        row.tensors += 1
        row.parameters += tensor.elements
        if not tensor.dtype.is_float:  # position ids: copied, whatever the recipe does to the label
            continue
        floats[label] += tensor.elements
        forms[label].add(tensor.form)
        for term, coefficient in zip(tensor.form.terms, tensor.form.coefficients, strict=True):
            if isinstance(term, Model):
                sums[label][names[term.index]] += coefficient * tensor.elements
            else:
                row.methods += [n for n in term.methods if n not in row.methods]
    for label, row in found.items():
        row.shares = {name: total / max(floats[label], 1) for name, total in sums[label].items()}
        row.varies = len(forms[label]) > 1
    return [found[label] for label in in_order(found)]
