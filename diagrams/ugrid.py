"""The U that block, module and layer level share: where blocks stand, the rails of the embeddings, the arrows between.

The grid is exact and ours: a UNET is a U, so every IN block stands opposite the OUT block that takes its skip connection,
and a general layout program can only approximate that. Embeddings reach their blocks along two rails that run around the
U, instead of by twenty arrows each. Which arrows there are comes from the trace alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..checkpoints.families import Family, family_of
from ..checkpoints.families.conventions import Convention
from ..checkpoints.text import amount
from . import text as texts
from .boxes import HEIGHT, Content, draw_box
from .graph import Graph, Shape
from .summary import Block, blocks_of, slots_of
from .svg import Canvas
from .values import Member, Paint, Values, label_names

SIDE, RAILS = 236.0, 64.0  # widths of the embeddings' column and of the space for the rails
STEP = 24.0  # between two rows
BADGE = 14.0


@dataclass(frozen=True)
class Look:
    """What a drawing is given next to the graph. `tensors` are a checkpoint's own; None for an architecture."""

    values: Values
    badges: Mapping[str, float]
    convention: Convention
    tensors: Mapping[str, Shape] | None = None

    def badge(self, names: tuple[str, ...]) -> float | None:
        return next((float(self.badges[n]) for n in names if n in self.badges), None)


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a block stands."""

    x: float
    y: float
    w: float
    h: float

    @property
    def right(self) -> float:
        return self.x + self.w

    @property
    def bottom(self) -> float:
        return self.y + self.h

    @property
    def centre(self) -> float:
        return self.x + self.w / 2


class UGrid:
    """Lays out a UNET and draws everything but the insides of its blocks.

    A level subclasses it: `block_height` says how tall a block is, `draw_block` draws it into its spot, and the ports say
    where arrows end (`skip_port`, `stub_ports`).
    """

    wide, gap, side = 316.0, 104.0, SIDE
    reach = 0.0  # how far into a block the arrows of the latent go

    def __init__(self, graph: Graph, look: Look, prefix: str = ""):
        self.graph, self.look, self.canvas = graph, look, Canvas(prefix)
        self.blocks = blocks_of(graph)
        self.edges = graph.block_edges()
        self.encoders = graph.record.text_encoders
        self.slots = slots_of([*self.blocks, *self.encoders, "VAE"], graph.family, look.convention)
        self.extra = BADGE if look.badges else 0.0
        self.prepare()
        self.encoder_x = self.side + RAILS
        self.decoder_x = self.encoder_x + self.wide + self.gap
        self.right = self.decoder_x + self.wide
        self.spots = self._spots()
        self._rails()
        self._arrows()
        for label, block in self.blocks.items():
            if label in ("TIME_EMBED", "LABEL_EMB"):
                self.draw_summary(block)
            else:
                self.draw_block(block)
        for label in (*self.encoders, "VAE"):
            self._aside(label)
        self._ends()

    # -- what a level decides -----------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Work out sizes before anything is placed."""

    def block_height(self, block: Block) -> float:
        return HEIGHT + self.extra

    def draw_block(self, block: Block) -> None:
        self.draw_summary(block)

    def skip_port(self, label: str) -> tuple[float, float, float]:
        """Left end, right end and height of the box that skip connections leave and enter."""
        spot = self.spots[label]
        return spot.x, spot.right, spot.y + HEIGHT / 2

    def stub_ports(self, label: str, role: str) -> list[tuple[float, float]]:
        """Where arrows from a rail end: points on the outer edge, or on the lower edge of M00."""
        spot = self.spots[label]
        if label == "M00":
            return [(spot.centre + (-60 if role == "time" else 60), spot.bottom)]
        y = spot.y + HEIGHT * (0.32 if role == "time" else 0.68)
        return [(spot.right if label.startswith("OUT") else spot.x, y)]

    # -- places -------------------------------------------------------------------------------------------------------

    def _spots(self) -> dict[str, Spot]:
        """OUT in the first row, then IN k opposite its partner, aligned at the lower edge; M00 below."""
        downs = [x for x in sorted(self.blocks) if x.startswith("IN")]
        ups = [x for x in sorted(self.blocks, reverse=True) if x.startswith("OUT")]  # OUT11 ... OUT00, OUT
        ups = [x for x in ups if x != "OUT"]
        tall = {label: self.block_height(block) for label, block in self.blocks.items()}
        y, spots, side_rows = 40.0, {}, []
        pairs = [("", "OUT"), *zip(downs, ups, strict=True)]
        for n, (down, up) in enumerate(pairs):
            height = max(tall.get(down, 0.0), tall.get(up, 0.0), (HEIGHT + self.extra) if n < 2 else 0)
            for label, x in ((down, self.encoder_x), (up, self.decoder_x)):
                if label in tall:
                    spots[label] = Spot(x, y + height - tall[label], self.wide, tall[label])
            side_rows.append(y)
            y += height + STEP
        inset = self.m00_inset()
        spots["M00"] = Spot(self.encoder_x + inset, y, self.right - self.encoder_x - 2 * inset, tall["M00"])
        box = HEIGHT + self.extra
        at = side_rows[0]
        for label in ("LABEL_EMB", "TIME_EMBED", *self.encoders, "", "VAE"):
            if label == "TIME_EMBED":
                at = max(at, spots[downs[0]].y)
            if label and (label in tall or label in self.slots):
                spots[label] = Spot(0.0, at, self.side, tall.get(label, box))
            at += tall.get(label, box) + STEP
        return spots

    def m00_inset(self) -> float:
        return self.wide / 2 - 60

    # -- arrows -------------------------------------------------------------------------------------------------------

    def _rails(self) -> None:
        self._rail("time", "TIME_EMBED", ["TIME_EMBED"], 22.0, 18.0)
        self._rail("words", "input text", list(self.encoders), 42.0, 34.0)
        if ("LABEL_EMB", "TIME_EMBED") in self.edges:
            a, b = self.spots["LABEL_EMB"], self.spots["TIME_EMBED"]
            with self.canvas.group("edge-LABEL_EMB-TIME_EMBED", "edge", "LABEL_EMB → TIME_EMBED"):
                self.canvas.arrow([(a.centre, a.bottom), (b.centre, b.y)], "time")

    def _rail(self, role: str, source: str, boxes: list[str], out: float, below: float) -> None:
        """A line around the U at distance `out`, and an arrow from it into every block that `source` feeds."""
        fed = [b for a, b in self.edges if a == source and b in self.spots]
        if not fed:
            return
        left, right = self.encoder_x - out, self.right + out
        floor = self.spots["M00"].bottom
        under = floor + below
        ports = {label: self.stub_ports(label, role) for label in fed}
        lefts = [p for label in fed if label.startswith("IN") for p in ports[label]]
        rights = [p for label in fed if label.startswith("OUT") for p in ports[label]]
        starts = [self.spots[box].y + HEIGHT / 2 for box in boxes]
        with self.canvas.group(f"rail-{role}", "rails", f"{boxes[0]} feeds {', '.join(fed)}"):
            top = min([*starts, *(y for _, y in lefts)])
            self.canvas.lines([(left, top), (left, under), (right, under), (right, min([y for _, y in rights] or [under]))],
                              f"rail {role}")  # fmt: skip
            for start in starts:
                self.canvas.lines([(self.side, start), (left, start)], f"rail {role}")
            crossed = 22.0 if role == "words" else 0.0
            for x, y in lefts:
                self._stub((left, y), (x, y), role, self.encoder_x - crossed)
            for x, y in rights:
                self._stub((right, y), (x, y), role, self.right + crossed)
            for x, y in ports.get("M00", ()):
                self._stub((x, under), (x, y), role, None, floor + 18.0 if role == "words" else None)
        self.canvas.grow(right + 2, under + 2)

    def _stub(self, start, end, role: str, cross_x: float | None = None, cross_y: float | None = None) -> None:
        """An arrow off a rail; where it crosses the other rail, that one is interrupted."""
        if role == "words" and cross_x is not None:
            self.canvas.lines([(cross_x - 5, start[1]), (cross_x + 5, start[1])], "halo")
        if role == "words" and cross_y is not None:
            self.canvas.lines([(start[0], cross_y - 5), (start[0], cross_y + 5)], "halo")
        self.canvas.arrow([start, end], role)

    def _arrows(self) -> None:
        """The chain and the skip connections."""
        for a, b in self.edges:
            if a in self.spots and b in self.spots and a not in ("TIME_EMBED", "LABEL_EMB"):
                with self.canvas.group(f"edge-{a}-{b}", "edge", f"{a} → {b}", source=a, target=b):
                    self._arrow(a, b)

    def _arrow(self, a: str, b: str) -> None:
        if a.startswith("IN") and b.startswith("OUT"):
            (_, x1, y1), (x2, _, y2) = self.skip_port(a), self.skip_port(b)
            middle = (x1 + x2) / 2
            bend = [] if abs(y1 - y2) < 0.5 else [(middle, y1), (middle, y2)]
            self.canvas.arrow([(x1, y1), *bend, (x2, y2)], "skip")
            return
        upper, lower = sorted((self.spots[a], self.spots[b]), key=lambda spot: spot.y)
        x = (self.encoder_x if a.startswith("IN") else self.decoder_x) + self.wide / 2
        ends = [(x, upper.bottom), (x, lower.y)]
        self.canvas.arrow(ends if self.spots[a] is upper else ends[::-1], "flow")

    def _ends(self) -> None:
        """Where the latent image comes in and goes out."""
        for a, b in self.edges:
            if a == "input latent" and b in self.spots:
                self._latent(self.spots[b], self.graph.by_id[a].outputs[0], "noisy latent", inwards=True)
            if b == "output latent" and a in self.spots:
                self._latent(self.spots[a], self.graph.by_id[b].outputs[0], "prediction", inwards=False)

    def _latent(self, spot: Spot, dims: Shape, name: str, inwards: bool) -> None:
        line, x, y = f"{name} {texts.shape(dims[1:])}", spot.centre, spot.y - STEP - 26
        w = self.canvas.room_for(line, "sb") + 20
        with self.canvas.group(f"end-{name}", "end-point on-page"):
            self.canvas.rect(x - w / 2, y, w, 26, "plate", rx=13)
            self.canvas.text(x, y + 17, line, "sb", extra="mid")
            ends = [(x, y + 26), (x, spot.y + self.reach)]
            self.canvas.arrow(ends if inwards else ends[::-1], "flow")

    # -- boxes --------------------------------------------------------------------------------------------------------

    def paint(self, block: Block) -> Paint:
        return self.look.values.paint(
            block.kind, label_names(block.label), block.members(), lost=block.lost(self.graph)
        )

    def draw_summary(self, block: Block) -> None:
        """A block as one box."""
        names, spot, paint = label_names(block.label), self.spots[block.label], self.paint(block)
        facts = f"{texts.shape(block.output)} · {amount(block.params)}"
        tooltip = self.tooltip(block, paint.printed)
        content = Content(block.label, block.what, facts, self.slots[block.label], self.look.badge(names), tooltip)
        draw_box(self.canvas, spot.x, spot.y, spot.w, content, paint, spot.h)

    def tooltip(self, block: Block, printed: str) -> str:
        slot = self.slots[block.label]
        where = slot.mbw_text if slot.own else f"no slot of its own, {slot.mbw_text}"
        lines = [
            f"{block.label}: {block.what}",
            f"output {texts.shape(block.output)}",
            f"{block.params:,} parameters",
            where,
        ]
        if slot.lbw is not None:
            lines.append(f"LBW {slot.lbw}")
        lines.append(", ".join(dict.fromkeys(u.prefix for u in block.units if u.tensors)))
        return "; ".join([*lines, f"value {printed}"] if printed else lines)

    def _aside(self, label: str) -> None:
        """A text encoder or the VAE."""
        spot, names = self.spots[label], label_names(label)
        tensors = around_tensors(self.graph.family, label, self.look.tensors)
        lost = self.look.tensors is not None and not tensors
        members = [Member((key, key.rpartition(".")[0]), texts.elements(shape)) for key, shape in tensors.items()]
        kind = "k-aside" if label == "VAE" else "k-words_box"
        paint = self.look.values.paint(kind, names, members, lost=lost)
        what = "pixels to latent and back" if label == "VAE" else "text encoder"
        facts = amount(sum(m.params for m in members)) if members else "not in this file"
        content = Content(label, what, facts, self.slots[label], self.look.badge(names), f"{label}: {what}; {facts}")
        draw_box(self.canvas, spot.x, spot.y, spot.w, content, paint, spot.h)


def around_tensors(family: str | Family, label: str, own: Mapping[str, Shape] | None) -> dict[str, Shape]:
    """The tensors of a text encoder or VAE: a checkpoint's own, or those of the published layout."""
    record = family_of(family)
    if own is None:
        own = {key: spec.shape for key, spec in record.layout().items()}
    return {
        key: shape for key, shape in own.items() if record.block_of(key).label == label and "position_ids" not in key
    }
