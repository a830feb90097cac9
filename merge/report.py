"""What a merge did, or would do: for the screen, for `--json`, and for the app."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints import Checkpoint
from ..checkpoints.families import in_order
from ..checkpoints.files import FileReader
from ..checkpoints.kernels import kernel
from ..checkpoints.notices import Notice, texts
from ..checkpoints.stream import Pass
from .linear_combination import Model
from .plan import Plan, TensorPlan


@dataclass
class LabelShares:
    """What a label of the result is made of.

    Attributes:
        label: the canonical block label.
        tensors, parameters: how many.
        shares: model name -> its mean coefficient over the label's parameters; of a LoRA, over those that it changes.
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
        warnings: what a user should know.
        equal_to: the model that the result is a copy of, and the dtypes where they change; empty where it is made of more.
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
    warnings: list[Notice]
    equal_to: str = ""
    seconds: float | None = None
    sha256: str | None = None
    resumed: int = 0

    def to_plain(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"warnings": texts(self.warnings)}


def make_report(plan: Plan, output: Path, threads: int | None) -> Report:
    """The report of a plan that has not run yet."""
    names = plan.names
    return Report(
        output=str(output),
        family=plan.family.id,
        models={name: c.path.name for name, c in zip(names, plan.checkpoints, strict=True)},
        tensors=len(plan.tensors),
        bytes_read=plan.bytes_read,
        bytes_written=plan.bytes_written,
        passes=plan.passes,
        memory=plan.memory(threads),
        threads=Pass(threads).threads,
        labels=label_shares(plan),
        warnings=list(plan.warnings),
        equal_to=plan.equal_to,
    )


def equal_model(plan: Plan, output: Path, offsets: Mapping[str, int], repaired: Container[str] = ()) -> str:
    """The model whose weights a written result turned out to have, by name; empty where it has none's.

    Numbers alone tell it of copies (`Plan.equal_to`); this reads the result and the models until a tensor differs, the smallest
    first, so that it costs next to nothing where they do. Of a result in another dtype the model's rounded numbers count.

    Args:
        offsets: tensor -> its first byte in the output.
        repaired: tensors in which values were replaced, so that not even a copy is one.
    """
    weights = sorted(plan.weights, key=lambda tensor: tensor.nbytes)
    with FileReader(output) as made:
        for i in dict.fromkeys(i for tensor in weights for i in tensor.inputs):
            if plan.checkpoints[i].architecture.what == "lora" or not all(i in t.inputs for t in weights):
                continue
            worked_out = (
                t for t in weights if (single := t.combination.single) is None or single.index != i or t.key in repaired
            )
            if all(_has_values_of(made, offsets, plan.checkpoints[i], i, t) for t in worked_out):
                return plan.names[i]
    return ""


def _has_values_of(
    made: FileReader, offsets: Mapping[str, int], model: Checkpoint, index: int, tensor: TensorPlan
) -> bool:
    source = tensor.inputs[index]
    if source.shape != tensor.shape or source.key not in model:
        return False
    raw = np.frombuffer(made.read(offsets[tensor.key], tensor.nbytes), np.uint8)
    if source.dtype == tensor.dtype:
        return np.array_equal(raw, model.raw(source.key).reshape(-1).view(np.uint8))
    rounded = np.empty_like(raw)
    kernel().encode(model.numpy(source.key).reshape(-1), tensor.dtype, rounded)
    return np.array_equal(raw, rounded)


def label_shares(plan: Plan) -> list[LabelShares]:
    """What every label of the result is made of, in network order."""
    found: dict[str, LabelShares] = {}
    tensors: dict[str, list[TensorPlan]] = defaultdict(list)
    for tensor in plan.tensors:
        label = tensor.place.label
        row = found.setdefault(label, LabelShares(label))
        row.tensors += 1
        row.parameters += tensor.elements
        if tensor.dtype.is_float:  # position ids are copied, whatever the recipe does to the label
            tensors[label].append(tensor)
    for label, members in tensors.items():
        _fill(found[label], members, plan)
    return [found[label] for label in in_order(found)]


def _fill(row: LabelShares, tensors: list[TensorPlan], plan: Plan) -> None:
    """Note the shares of a label's tensors: of models over all of them, of a LoRA over those that it changes."""
    loras = [i for i, c in enumerate(plan.checkpoints) if c.architecture.what == "lora"]
    sums: dict[int, float] = {}
    counted: Counter[int] = Counter()
    rest: set[tuple] = set()
    strengths: dict[int, set[float]] = defaultdict(set)
    for tensor in tensors:
        terms = list(tensor.combination.items())
        shares = {term.index: share for term, share in terms if isinstance(term, Model)}
        for i, share in shares.items():
            sums[i] = sums.get(i, 0.0) + share * tensor.elements
        for i in loras:
            if tensor.key in plan.checkpoints[i]:
                counted[i] += tensor.elements
                strengths[i].add(shares.get(i, 0.0))
        rest.add(tuple((t, c) for t, c in terms if not (isinstance(t, Model) and t.index in loras)))
        row.methods += [n for t, _ in terms if not isinstance(t, Model) for n in t.methods if n not in row.methods]
    whole = sum(tensor.elements for tensor in tensors)
    row.shares = {plan.names[i]: total / (counted[i] or whole or 1) for i, total in sums.items()}
    row.varies = len(rest) > 1 or any(len(found) > 1 for found in strengths.values())
