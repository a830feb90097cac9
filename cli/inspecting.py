"""`unetscope inspect`: what a file is, from its headers, and with --scan from its values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..checkpoints.text import amount, file_size, printable, some
from .arguments import Json, Threads
from .screen import progress, say, show_json, show_table, tree

if TYPE_CHECKING:
    from ..library.inspection import Amount, Inspection
    from ..library.scan import Scan

_SHOWN_KEYS, _SHOWN_TEXT, _SHOWN_TENSORS = 6, 160, 24


def inspect(
    file: Annotated[Path, typer.Argument(help="A checkpoint file or diffusers folder.", show_default=False)],
    scan: Annotated[bool, typer.Option("--scan", help="Read the values once: health, fingerprints, SHA-256.")] = False,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Say what a file is: architecture, parts, dtypes, blocks, merge history, and what is missing or broken."""
    from ..library.inspection import inspect as inspected

    found = inspected(file)
    values = None
    if scan:
        from ..library.scan import scan as scanned

        with progress("scanning") as moved:
            values = scanned(file, threads=threads, progress=moved)
    if json:
        show_json(found.to_plain() | ({"scan": values.to_plain()} if values else {}))
        return
    _show(found)
    if values:
        _show_scan(values)


def _show(found: Inspection) -> None:
    say(f"{found.path.name}: {found.architecture.name}")
    of_a_model = found.architecture.what in ("checkpoint", "component")
    about = f"; prediction type: {found.predicts or 'not marked'}" if of_a_model else ""
    say(f"{found.format}, {file_size(found.size)}, {amount(found.total.parameters)} parameters{about}")
    show_table("Components", *_rows("component", found.components, found.total.bytes))
    if len(found.labels) > len(found.components):
        show_table("Block labels", *_rows("label", found.labels, found.total.bytes))
    if found.tensors:
        _show_tensors(found)
    if any(part.sign for part in found.stored):
        _show_stored(found)
    if found.adapter:
        _show_adapter(found)
    _show_metadata(found)
    for sentence in _findings(found):
        say(f"! {sentence}")


def _show_stored(found: Inspection) -> None:
    rows = [
        [part.title, f"{part.tensors:,}", file_size(part.bytes), part.sign, "yes" if part.decoded else "not yet"]
        for part in found.stored
    ]
    show_table("Stored as", ["encoding", "tensors", "size", "told by", "decoded"], rows)


def _show_tensors(found: Inspection) -> None:
    rows = [[t.name, t.dtype, " x ".join(map(str, t.shape))] for t in found.tensors[:_SHOWN_TENSORS]]
    show_table("Tensors", ["name", "dtype", "shape"], rows)
    if len(found.tensors) > _SHOWN_TENSORS:
        say(f"... and {len(found.tensors) - _SHOWN_TENSORS:,} more (--json lists them all)")


def _rows(name: str, amounts: dict[str, Amount], whole: int) -> tuple[list[str], list[list[str]]]:
    rows = [
        [key, f"{a.tensors:,}", amount(a.parameters), file_size(a.bytes), f"{a.bytes / max(whole, 1):.1%}", _dtypes(a)]
        for key, a in amounts.items()
    ]
    return [name, "tensors", "parameters", "size", "share", "dtypes"], rows


def _dtypes(found: Amount) -> str:
    return ", ".join(f"{name} {count:,}" if len(found.dtypes) > 1 else name for name, count in found.dtypes.items())


def _show_adapter(found: Inspection) -> None:
    adapter = found.adapter
    counted = {
        "layers changed": adapter.modules,
        "kinds": adapter.kinds,
        "ranks": adapter.ranks,
        "alphas": {f"{alpha:g}": count for alpha, count in adapter.alphas.items()},
        "per block label": adapter.labels,
    }
    family = " or ".join(adapter.families) or adapter.family or "not known"
    rows = [["names", adapter.style], ["family", family]] if adapter.style else []
    rows += [[what, ", ".join(f"{k} ({n:,})" for k, n in counts.items())] for what, counts in counted.items() if counts]
    if adapter.needs_base:
        rows.append(["needs its base", "yes: its changes follow from the weights"])
    show_table("Adapter", ["what", "found"], rows)
    training = [[what, _shortened(text)] for what, text in adapter.said.items()]
    if adapter.tags:
        training.append(["tags", _shortened(", ".join(f"{tag} ({n:,})" for tag, n in adapter.tags.items()))])
    if training:
        show_table("Training", ["what", "said"], training)


def _show_metadata(found: Inspection) -> None:
    hidden = {"sd_merge_recipe", "sd_merge_models", "unetscope.recipe", "unetscope.inputs"} if found.history else set()
    rows = [[key, _shortened(value)] for key, value in sorted(found.metadata.items()) if key not in hidden]
    if rows:
        show_table("Metadata (--json has it whole)", ["name", "value"], rows)
    if found.history:
        say("Merged from")
        tree(found.history, _history_line, lambda node: node.children)


def _history_line(node) -> str:
    parts = [node.name, node.method, node.detail, f"sha256 {node.hash[:10]}" if node.hash else ""]
    return "  ".join(printable(p) for p in parts if p)


def _shortened(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _SHOWN_TEXT else f"{flat[:_SHOWN_TEXT]}... ({len(text):,} characters)"


def _findings(found: Inspection) -> list[str]:
    said = [str(found.truncation)] if found.truncation else []
    said += [
        f"is stored as {part.title}, which is not decoded yet: nothing can compute with it"
        for part in found.stored
        if not part.decoded
    ]
    said += [
        f"{component}: {len(keys):,} keys are missing: {some(keys, _SHOWN_KEYS)}"
        for component, keys in found.missing.items()
    ]
    if found.absent:
        said.append(f"has no {', '.join(found.absent)}")
    if found.training:
        said.append(
            f"{len(found.training):,} keys were left by training: {some(found.training, _SHOWN_KEYS)} "
            "(`convert --prune` drops them)"
        )
    if unknown := tuple(key for key in found.junk if key not in found.training):
        said.append(
            f"{len(unknown):,} keys belong to no known component, and may be needed: {some(unknown, _SHOWN_KEYS)}"
        )
    if found.adapter and found.adapter.problem:
        said.append(found.adapter.problem)
    if found.adapter and len(found.adapter.families) > 1:
        fits = " and ".join(found.adapter.families)
        said.append(
            f"changes a text encoder alone, which {fits} have alike: it can be baked into each; the likeliest is first"
        )
    if found.adapter and found.adapter.unknown:
        said.append(
            f"{len(found.adapter.unknown):,} tensors fit no layer of the model: {some(found.adapter.unknown, _SHOWN_KEYS)}"
        )
    if found.architecture.ema_only:
        said.append("its UNET is there as EMA weights only (`merge exchange-ema` puts them in its place)")
    elif found.ema and found.ema.tensors > 2:
        said.append(f"holds a second UNET of EMA weights, {file_size(found.ema.bytes)} (`convert --prune` drops it)")
    return [*said, *(note.text for note in found.notes)]


def _show_scan(values: Scan) -> None:
    rows = [[component, digest] for component, digest in values.fingerprints.items()]
    show_table("Fingerprints (equal weights, equal fingerprint, whatever the file)", ["component", "fingerprint"], rows)
    from ..library.health import in_words

    if values.sha256:
        say(f"sha256 {values.sha256}, AutoV2 {values.autov2}")
    for finding in values.health:
        say(f"! {in_words(finding)}")
    if not values.health:
        say(f"no broken or empty tensors in {len(values.tensors):,}, scanned in {values.seconds:.1f} s")
