"""`draw`: an architecture or a checkpoint as a diagram of one of three levels; `draw_beside`: two on one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..checkpoints.errors import UnetscopeError, nearest
from ..checkpoints.families import Family, family_of, is_text, known_labels
from ..checkpoints.families.conventions import DEFAULT_CONVENTION, convention_named
from ..checkpoints.text import readable
from . import text as texts
from .architectures import drawn_families, family_named
from .chain import LEGEND, ORDER, ChainLevel, chain_graph
from .component_level import component_dot, draw_component
from .dot import dot_source
from .export import Drawing
from .graph import Graph, Shape, architecture_graph
from .layer_level import LayerLevel, draw_layers_of
from .legend import draw_arrows, draw_kinds, draw_notes, draw_scale, draw_title
from .module_level import ModuleLevel
from .palette import ColourScale, ScaleKind
from .svg import Canvas
from .theme import Theme
from .ugrid import Look, UGrid, around_tensors
from .values import Numbers, Values, shared_scale

if TYPE_CHECKING:
    from ..checkpoints.checkpoint import Checkpoint

Level = Literal["block", "module", "layer"]
LEVELS: tuple[Level, ...] = ("block", "module", "layer")
_GRIDS = {"block": UGrid, "module": ModuleLevel, "layer": LayerLevel}


@dataclass(frozen=True)
class Subject:
    """What is drawn: a traced graph, and the tensors of the checkpoint if there is one."""

    graph: Graph
    tensors: dict[str, Shape] | None

    @property
    def name(self) -> str:
        return self.graph.name or f"{self.graph.record.name} {self.graph.record.core_title}"


def subject_of(architecture: str | Family | Checkpoint, needs_unet: bool = True) -> Subject:
    """An architecture's name, a record with a layout, or an opened checkpoint, as something to draw.

    Raises:
        UnetscopeError: an unknown architecture, or a checkpoint without a UNET that is known.
    """
    if isinstance(architecture, str):
        return Subject(_published(family_of(family_named(architecture))), None)
    if isinstance(architecture, Family):
        return Subject(chain_graph(architecture), None)
    found, name = architecture.architecture, readable(Path(architecture.path).name)
    family, what = found.family, found.name or "nothing known"
    if found.what not in ("checkpoint", "component"):
        instead = f", or {family} for its architecture" if family in drawn_families() else ""
        raise UnetscopeError(
            f"{texts.plain(name)} ({what}): has no blocks of its own; name the model that it is for{instead}"
        )
    if family is None:
        roots = ", ".join(f for f in drawn_families() if not family_of(f).parent)
        raise UnetscopeError(
            f"{texts.plain(name)}: is {what}, which several architectures have; name the one to draw: {roots}"
        )
    tensors = {key: tuple(info.shape) for key, info in architecture.tensors.items()}
    record = architecture.family
    if needs_unet and not any(key.startswith(record.prefix) for key in tensors):
        parts = [c.part.label for c in record.components if c.id in found.parts]
        raise UnetscopeError(
            f"{texts.plain(name)}: has no {record.core_title} (it is {what}); draw a part that it has at level layer: "
            f"block {' or '.join(parts)}"
        )
    if not record.traced:
        return Subject(chain_graph(record, tensors, name), tensors)
    return Subject(architecture_graph(family).on(tensors, name), tensors)


@cache
def _published(record: Family) -> Graph:
    """The graph of an architecture: its trace, or a chain of the blocks of its layout."""
    return architecture_graph(record.id) if record.traced else chain_graph(record)


def draw(
    architecture: str | Family | Checkpoint,
    level: Level = "block",
    *,
    block: str | None = None,
    values: Numbers | None = None,
    badges: Mapping[str, float] | None = None,
    title: str | None = None,
    units: str = "",
    scale: ScaleKind = "log",
    value_range: tuple[float, float] | None = None,
    theme: Theme = "auto",
    convention: str = DEFAULT_CONVENTION,
) -> Drawing:
    """Draw a UNET, one block of it, a text encoder or the VAE.

    Args:
        architecture: `sd1`, `sd2`, `sdxl`, `sdxl_refiner`, the record of a model of no known family (`any_family`), or an opened
            checkpoint, whose own shapes are drawn.
        level: `block`: a box per label; `module`: its ResNets, transformers...; `layer`: every parameter tensor.
        block: at the layer level one label (`IN05`) instead of all; at any level `VAE`, `CLIP_L`... for that part.
        values: number by label, module path or tensor key, to colour by; None or NaN is shown as missing.
        badges: a second number by label, 0 to 1 (a merge weight), shown as a bar.
        title: replaces the title.
        units: what the values are, for the legend.
        scale: `log` or `linear`.
        value_range: the values at the ends of the palette; by default the smallest and largest value.
        theme: `auto` follows the reader's light or dark mode.
        convention: whose weight vector the MBW numbers count (`supermerger`, `sd-mecha`, ...).

    Raises:
        UnetscopeError: an unknown name, level or block, or values of which none belongs to this diagram.

    Example:
        >>> draw("sdxl", values={"IN07": 0.02, "M00": 0.3}, units="relative difference").save("diff.svg").name
        'diff.svg'
        >>> draw("sd1", "layer", block="IN05").title
        'Stable Diffusion 1 UNET · IN05'
    """
    subject = subject_of(architecture, needs_unet=block is None or not (is_text(block) or block == "VAE"))
    shade = shared_scale([values], scale, value_range)
    look = _look(subject, values, badges, shade, convention)
    canvas = _body(subject, level, block, look)
    shown = title or _title(subject, block)
    whole = _compose([(canvas, "", subject)], shown, level, block, [look], units)
    unused = tuple(name for name in look.values.numbers if name not in look.values.used)
    return Drawing(whole, shown, theme_named(theme), unused, lambda: _dot(subject, level, block, look, shown))


def draw_beside(
    architectures: Sequence[str | Checkpoint],
    level: Level = "block",
    *,
    values: Sequence[Numbers | None],
    names: Sequence[str] = (),
    badges: Sequence[Mapping[str, float] | None] = (),
    title: str = "",
    units: str = "",
    scale: ScaleKind = "log",
    value_range: tuple[float, float] | None = None,
    theme: Theme = "auto",
    convention: str = DEFAULT_CONVENTION,
) -> Drawing:
    """Draw two (or more) diagrams side by side on one shared colour scale.

    Args:
        architectures: one for each diagram; a single one is used for all.
        values: the values of each diagram.
        names: what stands above each diagram.

    Other arguments and errors as in `draw`.
    """
    count = len(values)
    architectures = list(architectures) * count if len(architectures) == 1 else list(architectures)
    if len(architectures) != count:
        raise UnetscopeError(
            f"{count} sets of values need {count} architectures (or one for all), found {len(architectures)}"
        )
    subjects = [subject_of(a) for a in architectures]
    shade = shared_scale(values, scale, value_range)
    badges = list(badges) or [None] * count
    looks = [_look(s, v, b, shade, convention) for s, v, b in zip(subjects, values, badges, strict=True)]
    parts = []
    for n, (subject, look) in enumerate(zip(subjects, looks, strict=True)):
        canvas = _body(subject, level, None, look, f"{chr(97 + n)}-")
        parts.append((canvas, names[n] if n < len(names) else subject.name, subject))
    shown = title or " and ".join(name for _, name, _ in parts)
    whole = _compose(parts, shown, level, None, looks, units)
    dots = lambda: "\n".join(  # noqa: E731
        dot_source(s.graph, level, None, look, name) for (_, name, s), look in zip(parts, looks, strict=True)
    )
    return Drawing(whole, shown, theme_named(theme), (), dots)


def theme_named(theme: str) -> Theme:
    """A theme by its name; raises UnetscopeError for another."""
    if theme not in ("auto", "light", "dark"):
        raise UnetscopeError(f"there is no theme {theme!r}; use 'auto', 'light' or 'dark'")
    return theme


def _look(subject: Subject, values, badges, shade: ColourScale, convention: str) -> Look:
    return Look(Values(values, shade), dict(badges or {}), convention_named(convention), subject.tensors)


def _dot(subject: Subject, level: str, block: str | None, look: Look, title: str) -> str:
    if block is not None and block not in subject.graph.labels():
        return component_dot(subject.graph.family, block, look, title)
    return dot_source(subject.graph, level, block, look, title)


def _body(subject: Subject, level: str, block: str | None, look: Look, prefix: str = "") -> Canvas:
    if level not in LEVELS:
        raise UnetscopeError(f"there is no level {level!r}{nearest(level, LEVELS)}; use block, module or layer")
    family, record = subject.graph.family, subject.graph.record
    parts = (*record.text_encoders, "VAE")
    if block is None:
        canvas = _whole(subject.graph, level, look, prefix)
    elif block in parts:
        canvas = draw_component(family, block, look, prefix)
    elif block not in record.labels:
        known = (*record.labels, *parts)
        there = "another architecture has it" if block in known_labels() else "it exists nowhere"
        raise UnetscopeError(f"{record.name} has no block {texts.plain(block, 60)!r} ({there}){nearest(block, known)}")
    elif level != "layer":
        raise UnetscopeError(f"level {level!r} draws the whole UNET; {block} alone is drawn at level 'layer'")
    elif record.drawing == "chain":
        canvas = ChainLevel(subject.graph, level, look, prefix, block).canvas
    else:
        canvas = draw_layers_of(subject.graph, block, look, prefix)
    look.values.check((*record.labels, *parts, *subject.graph.tensors))
    return canvas


def _whole(graph: Graph, level: str, look: Look, prefix: str) -> Canvas:
    if graph.record.drawing == "chain":
        return ChainLevel(graph, level, look, prefix).canvas
    return _GRIDS[level](graph, look, prefix).canvas


def _title(subject: Subject, block: str | None) -> str:
    if block is None:
        return subject.name
    if block in subject.graph.labels():
        return f"{subject.name} · {block}"
    name = subject.graph.name or subject.graph.record.name
    return f"{name} · {'VAE' if block == 'VAE' else f'text encoder {block}'}"


def _subtitle(subject: Subject, block: str | None) -> str:
    graph = subject.graph
    if block is None:
        tensors = graph.tensors
    elif block in graph.labels():
        tensors = {key: shape for node in graph.nodes if node.label == block for key, shape in node.tensors}
    else:
        tensors = around_tensors(graph.family, block, subject.tensors)
    total = sum(texts.elements(shape) for shape in tensors.values())
    return f"{total:,} parameters in {len(tensors):,} tensors"


def _compose(parts, title: str, level: str, block: str | None, looks: list[Look], units: str) -> Canvas:
    """Title above, diagrams side by side, legend below."""
    canvas = Canvas()
    width = sum(part.width for part, _, _ in parts) + 48 * (len(parts) - 1)
    graph, look = parts[0][2].graph, looks[0]
    several, component = len(parts) > 1, block is not None and block not in graph.labels()
    chain = graph.record.drawing == "chain"
    y = draw_title(canvas, title, "" if several else _subtitle(parts[0][2], block), max(width, _LEAST))
    x = 0.0
    for part, name, _ in parts:
        if several:
            canvas.text(x, y + 12, name, "lb", part.width)
        canvas.place(part, x, y + (26 if several else 0))
        x += part.width + 48
    y = canvas.height + 30
    if look.values.given:
        missing = any(one.values.has_missing() for one in looks) or bool(graph.missing)
        y += draw_scale(canvas, 0, y, look.values.scale, units, missing)
    else:
        level = "component" if component else level
        y += draw_kinds(canvas, 0, y, LEGEND if chain and not component else _KINDS[level])
    if block is None and not (chain and level != "block"):
        y += draw_arrows(canvas, 0, y, ORDER if chain else _ARROWS)
    notes = [] if component else _chain_notes(look, level) if chain else _notes(look, level, block)
    y += draw_notes(canvas, 0, y, notes, max(width, _LEAST if chain else 0))
    canvas.grow(width, y)
    return canvas


# Title and notes of a narrow drawing are as wide as its legend.
_LEAST = 560.0
_MODULES = [("k-attn", "with transformer"), ("k-res", "ResNet only"), ("k-conv", "convolution"), ("k-emb", "embedding")]
_AROUND = [("k-words_box", "text encoder"), ("k-aside", "VAE")]
_KINDS = {
    "block": [*_MODULES, *_AROUND],
    "module": [("k-attn", "transformer"), ("k-res", "ResNet"), *_MODULES[2:], *_AROUND],
    "layer": [("k-res", "convolution"), ("k-attn", "linear"), ("k-norm", "norm"), ("k-emb", "time embedding")],
    "component": [
        ("k-attn", "with attention"),
        ("k-res", "ResNets"),
        ("k-conv", "convolution or norm"),
        ("k-words_box", "other"),
    ],
}
_ARROWS = [
    ("flow", "image path"),
    ("skip", "skip connection"),
    ("time", "time embedding, to every ResNet"),
    ("words", "text, to every cross-attention"),
]


def _chain_notes(look: Look, level: str) -> list[str]:
    if level != "block":
        return ["Hover for whole names."]
    notes = ["MBW n: position in a weight vector of one number a block."]
    return [*notes, *(["Bar: the second value of a block, 0 to 1."] if look.badges else [])]


def _notes(look: Look, level: str, block: str | None) -> list[str]:
    notes = []
    if level != "block":
        notes.append("Keys are shown without model.diffusion_model.; hover for whole names.")
    if level == "layer":
        notes.append("A stack of transformer layers is a strip: a row per layer, a column per tensor (b: bias). "
                     "Activations and reshapes are left out.")  # fmt: skip
    if level != "layer" or block is None:
        notes.append(
            f"MBW n: position in the block weight vector as {look.convention.name} reads it. A dashed mark: no slot of its "
            "own, it reads the one that is named. LBW n: position in the LoRA vector, blocks with attention only."
        )
    if look.badges and level != "layer":
        notes.append("Bar: the second value of a block, 0 to 1.")
    return notes
