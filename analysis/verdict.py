"""The account of a trace in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..checkpoints.families import components_in_order, in_order, part_title
from .shares import significant
from .suggestion import Suggestion
from .trace_report import LabelTrace

# Errors that are estimates are worth a word when shares are uncertain in the third decimal.
_ROUGH = 5e-4
_FORMATS = {"F16": "fp16", "BF16": "bf16", "F32": "fp32", "F64": "fp64", "F8_E4M3": "fp8", "F8_E5M2": "fp8"}


def sentences(
    labels: Sequence[LabelTrace],
    names: Sequence[str],
    suggestion: Suggestion,
    left_out: Mapping[str, str],
    broken: int,
) -> tuple[str, ...]:
    """What was found, the verdict on the whole first, then each component, then what limits the answer."""
    out = [overall(labels, suggestion)]
    for component in components_in_order({t.component for t in labels}):
        part = [t for t in labels if t.component == component]
        out.append(_component(part_title(component), part, names))
    out += _incomplete(labels)
    out += _limits(labels, names)
    if left_out:
        out.append(
            f"{len(left_out):,} tensors of the merge are in no listed file with this shape, first {next(iter(left_out))}."
        )
    if broken:
        out.append(f"{broken:,} weights that are NaN or infinite in some file were left out.")
    return tuple(out)


def overall(labels: Sequence[LabelTrace], suggestion: Suggestion) -> str:
    """The verdict on the whole."""
    missing = [t for t in labels if t.verdict == "incomplete"]
    nearly = [t for t in labels if t.verdict == "nearly"]
    known = [t for t in labels if t.verdict != "unknown"]
    if not known:
        return "Nothing can be said: too few weights differ."
    if missing:
        share = sum(t.parameters for t in missing) / sum(t.parameters for t in known)
        return (
            f"A part of this comes from something not listed, or it is not a linear merge: {share:.0%} of the weights "
            f"({_list(t.label for t in missing)}) are not explained. The numbers cannot tell the two apart."
        )
    words = f": {suggestion.words}" if suggestion.words else ""
    if nearly:
        return (
            f"Nearly a linear merge of the listed files{words}. More is left than one rounding explains in "
            f"{_list(t.label for t in nearly)}: intermediate results were rounded too, the listed files are copies at a "
            "lower precision, or a small part is missing."
        )
    if all(t.verdict == "identical" for t in known) and suggestion.method == "copy":
        return f"Bit-identical to {suggestion.ingredients[0]}."
    formats = " and ".join(dict.fromkeys(_FORMATS.get(t.dtype, t.dtype) for t in known))
    return f"An exact linear merge of the listed files{words}. What is left is what rounding to {formats} leaves."


def _component(name: str, part: Sequence[LabelTrace], names: Sequence[str]) -> str:
    """One component: whose copy it is, or what it is merged from."""
    copies = [t for t in part if t.verdict == "identical"]
    if len(copies) == len(part):
        shared = [n for n in names if all(n in t.identical for t in part)]
        if shared:
            return f"{name}: bit-identical to {_and(shared)}."
    if all(t.verdict in ("identical", "equal") for t in part):
        shared = [n for n in names if all(n in _copied_from(t) for t in part)]
        if shared:
            dtype = _FORMATS.get(part[0].dtype, part[0].dtype)
            if all(t.rho == 0 for t in part):
                return f"{name}: has the values of {_and(shared)}, stored as {dtype}."
            return f"{name}: equal to {_and(shared)} up to rounding to {dtype}."
    if len(part) == 1:
        return f"{name}: {shares_in_words(part[0])}."
    counts = [(len(copies), "bit-identical to a listed file")]
    counts += [(sum(t.verdict == v for t in part), words) for v, words in _WORDS.items()]
    return f"{name}: of {len(part)} labels " + ", ".join(f"{n} {words}" for n, words in counts if n) + "."


_WORDS = {
    "equal": "equal to one up to rounding",
    "exact": "exact linear merges",
    "nearly": "nearly so",
    "incomplete": "not explained by the listed files",
    "unknown": "in no listed file",
}


def _copied_from(trace: LabelTrace) -> set[str]:
    leaders = [n for n, share in trace.shares.items() if share == 1.0]
    return {*trace.identical, *leaders, *(n for x in leaders for n in trace.same.get(x, ()))}


def shares_in_words(trace: LabelTrace) -> str:
    """`0.700 ± 0.001 A + 0.300 ± 0.001 B`, with 95 % intervals; what is 0 within its error is left out."""
    if trace.verdict == "unknown":
        return "in no listed file"
    if trace.verdict == "identical":
        return "bit-identical to " + _and(trace.identical)
    parts = []
    for name, share in trace.shares.items():
        if significant(trace, name):
            who = " or ".join((name, *trace.same.get(name, ())))
            parts.append(f"{_number(share, 1.96 * trace.errors.get(name, 0.0))} {who}")
    if not parts:
        return "the listed files differ by too little here for their shares to be told"
    tail = {"incomplete": ", and something else", "nearly": ", nearly"}.get(trace.verdict, "")
    if trace.varies:
        tail = " on average, by layer"
    return " + ".join(parts) + tail


def _number(value: float, error: float) -> str:
    if error < 5e-7:
        return f"{value:.6g}"
    digits = min(6, max(1, 1 - _magnitude(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _magnitude(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])


def _incomplete(labels: Sequence[LabelTrace]) -> list[str]:
    missing = [t for t in labels if t.verdict == "incomplete"]
    if not missing:
        return []
    worst = max(missing, key=lambda t: t.missing)
    out = [
        f"The most is missing in {worst.label}: {worst.missing:.0%} of the distance to the nearest listed file "
        f"(rho {worst.rho:,.0f}, where 1 is exact). Shares of what is listed may hold some of what is missing: their "
        "intervals do not count that."
    ]
    scaled = [t for t in missing if t.scale is not None]
    if scaled:
        one = scaled[0]
        out.append(
            f"In {_list(t.label for t in scaled)} shares that need not add up to one do explain it (in {one.label} they add "
            f"up to {one.scale:.4f}): it was scaled, or merged by SLERP."
        )
    return out


def _limits(labels: Sequence[LabelTrace], names: Sequence[str]) -> list[str]:
    out = []
    relations = {n: shares for t in labels for n, shares in t.relations.items()}
    for name, shares in relations.items():
        of = " + ".join(f"{share:.4g} {other}" for other, share in shares.items())
        out.append(f"{name} is itself a merge of other listed files ({name} = {of}).")
    unclear = [t for t in labels if t.ambiguous]
    if unclear:
        out.append(
            f"In {_list(t.label for t in unclear)} another choice among these fits as well: any part of such a candidate's "
            "share can be exchanged for its own ingredients in those proportions."
        )
    if rough := [t for t in labels if t.approximate and max(t.errors.values(), default=0.0) > _ROUGH]:
        out.append(
            f"Approximate in {_list(t.label for t in rough)}: the candidates differ there by little more than rounding, whose "
            "pattern can shift the shares; their errors are estimates of how far."
        )
    if varied := [t for t in labels if t.varies]:
        out.append(f"Layers have weights of their own in {_list(t.label for t in varied)}: see the table by tensor.")
    shared = {
        (n, *t.same[n]) for t in labels for n in t.same if t.shares.get(n) and t.verdict not in ("identical", "equal")
    }
    for group in sorted(shared, key=lambda g: [names.index(n) for n in g]):
        where = [t.label for t in labels if group[0] in t.same and (group[0], *t.same[group[0]]) == group]
        out.append(f"{_and(group)} are the same in {_list(where)}: their shares count together there.")
    return out


def _list(labels: Iterable[str]) -> str:
    """Labels in network order; consecutive blocks as a range."""
    from itertools import groupby

    ordered = in_order(set(labels))
    out: list[str] = []
    for _, run in groupby(enumerate(ordered), lambda pair: _block(pair[1], pair[0])):
        names = [x for _, x in run]
        out.append(names[0] if len(names) == 1 else f"{names[0]}-{names[-1]}" if len(names) > 2 else ", ".join(names))
    return ", ".join(out)


def _block(label: str, position: int) -> tuple[str, int]:
    """The same for labels of a row that count up one by one."""
    digits = label[-2:]
    if label.startswith(("IN", "OUT")) and digits.isdigit():
        return label[:-2], int(digits) - position
    return label, 0


def _and(names: Sequence[str]) -> str:
    return " and ".join(names) if len(names) < 3 else ", ".join(names[:-1]) + " and " + names[-1]
