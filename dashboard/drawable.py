"""What a diagram page looks at: a published architecture, or a file of the library. Drawings and tables of it are kept."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, Literal

from ..checkpoints.families import FAMILIES, Family, family_of, in_order
from .library import Entry


def architectures() -> dict[str, str]:
    """The architectures that the pages list, by id."""
    from ..diagrams.architectures import drawn_families

    return {family: FAMILIES[family].name for family in drawn_families() if not FAMILIES[family].parent}


@dataclass(frozen=True)
class Drawable:
    """An architecture, or a file.

    Attributes:
        name: of the architecture (`sd1`), or of the file below the models folder.
        family: the architecture that it is of; None for a file that is of none.
        path: of a file; empty for an architecture.
        identity: changes when the file does.
    """

    name: str
    family: str | None
    path: str = ""
    identity: str = ""

    @classmethod
    def of_entry(cls, entry: Entry) -> Drawable:
        """A file of the library."""
        return cls(entry.name, entry.family, entry.path, entry.identity)

    @classmethod
    def of_blocks(cls, entry: Entry) -> Drawable | None:
        """What shows the blocks of a file: its architecture, the file itself where its family has no diagram of its own; None
        where its architecture is not known."""
        if entry.family is None:
            return None
        return cls(entry.family, entry.family) if entry.family in architectures() else cls.of_entry(entry)

    @property
    def title(self) -> str:
        return Path(self.name).name if self.path else family_of(self.name).name

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of its blocks, the denoiser's first."""
        if self.record is None:
            return ()
        return (*self.record.labels, *self.record.text_encoders, *(("VAE",) if self.record.has_vae else ()))

    @property
    def record(self) -> Family | None:
        """The record of its family: a file's own."""
        if self.family is None:
            return None
        return opened(self.path, self.identity).family if self.path else family_of(self.family)

    def short(self, key: str) -> str:
        """A key as tables show it: without the prefix that all of the denoiser's have."""
        return key.removeprefix(self.record.prefix) if self.record else key

    def drawn_as(self):
        """What `diagrams.draw` takes: a name, or the opened checkpoint."""
        return opened(self.path, self.identity) if self.path else self.name


@lru_cache(maxsize=8)
def opened(path: str, identity: str):
    """A checkpoint whose headers were read; kept while the file does not change."""
    from ..checkpoints import open_checkpoint

    return open_checkpoint(Path(path), to_look=True)


def drawing_of(
    drawable: Drawable,
    level: str,
    block: str | None = None,
    *,
    values: Mapping[str, float | None] | None = None,
    badges: Sequence[str] = (),
    units: str = "",
    scale: str = "log",
    value_range: tuple[float, float] | None = None,
    theme: str = "light",
    title: str | None = None,
):
    """A drawing, made once for the same arguments.

    Args:
        badges: labels that get room for a bar.

    Others, and errors, as in `diagrams.draw`.
    """
    given = tuple(values.items()) if values is not None else None
    return _drawn(drawable, level, block, given, tuple(badges), units, scale, value_range, theme, title)


@lru_cache(maxsize=64)
def _drawn(drawable, level, block, values, badges, units, scale, value_range, theme, title):
    from ..diagrams import draw

    return draw(
        drawable.drawn_as(),
        level,
        block=block,
        values=None if values is None else dict(values),
        badges=dict.fromkeys(badges, 0.0) or None,
        units=units,
        scale=scale,
        value_range=value_range,
        theme=theme,
        title=title,
    )


@lru_cache(maxsize=64)
def svg_of(drawing) -> str:
    """The SVG text of a drawing, written once."""
    return drawing.svg


def picture(drawing, suffix: str) -> bytes:
    """A drawing as the bytes of a file: `.png` or `.svg`."""
    with tempfile.TemporaryDirectory() as folder:
        return drawing.save(Path(folder) / f"diagram{suffix}").read_bytes()


@lru_cache(maxsize=8)
def tensor_rows(drawable: Drawable) -> tuple[dict[str, Any], ...]:
    """A row for each tensor in network order: key, module (diffusers' path, of the UNET alone), label, kind, shape, params,
    dtype (empty for an architecture)."""
    modules = _modules(drawable)
    if drawable.path:
        checkpoint = opened(drawable.path, drawable.identity)
        record, tensors = checkpoint.family, checkpoint.tensors
        shapes = {key: (tuple(info.shape), info.stored.kept_as) for key, info in tensors.items()}
    else:
        record = family_of(drawable.family)
        shapes = {key: (tuple(spec.shape), "") for key, spec in record.layout().items()}
    rows = [
        {
            "key": key,
            "module": modules.get(key, ""),
            "label": record.block_of(key).label,
            "kind": record.kind_of(key),
            "shape": "×".join(map(str, shape)) or "scalar",
            "params": prod(shape),
            "dtype": dtype,
        }
        for key, (shape, dtype) in shapes.items()
    ]
    rank = {label: n for n, label in enumerate(in_order({row["label"] for row in rows}))}
    flow = {key: n for n, key in enumerate(modules)}
    return tuple(sorted(rows, key=lambda row: (rank.get(row["label"], len(rank)), flow.get(row["key"], 0))))


def _modules(drawable: Drawable) -> dict[str, str]:
    """Key -> module of the UNET's tensors, in the order in which they are used."""
    from ..checkpoints.errors import UnetscopeError
    from ..diagrams import layers

    try:
        return {row["key"]: row["module"] for row in layers(drawable.drawn_as())}
    except UnetscopeError:
        return {}


def rows_of(drawable: Drawable, selected: Sequence[str]) -> list[dict[str, Any]]:
    """The rows inside the selected boxes: labels, module paths, or keys; all rows for an empty selection."""
    rows = tensor_rows(drawable)
    if not selected:
        return list(rows)
    chosen = set(selected)

    def inside(row: dict[str, Any]) -> bool:
        if row["label"] in chosen or row["key"] in chosen:
            return True
        module = row["module"]
        return bool(module) and any(module == name or module.startswith(f"{name}.") for name in chosen)

    return [row for row in rows if inside(row)]


def label_of(drawable: Drawable, name: str) -> str | None:
    """The block that a box belongs to."""
    if name in drawable.labels:
        return name
    return next((row["label"] for row in rows_of(drawable, [name])), None)


def rows_as(rows: Sequence[Mapping[str, Any]], form: Literal["csv", "json"]) -> str:
    """Rows as the text of a file."""
    if form == "json":
        return json.dumps([dict(row) for row in rows], ensure_ascii=False, indent=1)
    import csv

    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
