"""The module level: ResNets, transformers, down- and upsamplers as boxes inside a frame per label, in the same U."""

from __future__ import annotations

from ..checkpoints.text import amount, number
from .boxes import draw_badge, draw_pills
from .summary import Block, Unit
from .ugrid import UGrid
from .values import label_names

_UNIT, _BETWEEN, _HEADER, _PAD = 58.0, 20.0, 30.0, 12.0
_M00_UNIT = 206.0


class ModuleLevel(UGrid):
    """The module level of a UNET, without title and legend."""

    wide, gap = 330.0, 124.0
    reach = _HEADER  # the latent's arrows go through the frame to the unit

    def prepare(self) -> None:
        self.unit_spots: dict[str, tuple[float, float, float]] = {}
        self.unit_edges = self.graph.unit_edges()

    def block_height(self, block: Block) -> float:
        if block.label in ("TIME_EMBED", "LABEL_EMB"):
            return super().block_height(block)
        rows = 1 if block.label == "M00" else len(block.units)
        return _HEADER + rows * _UNIT + (rows - 1) * _BETWEEN + _PAD

    def m00_inset(self) -> float:
        return 0.0

    def _spots(self):
        spots = super()._spots()
        for label, block in self.blocks.items():
            spot = spots[label]
            ordered = block.units if label.startswith("IN") else block.units[::-1]
            for n, unit in enumerate(ordered):
                y = spot.y + _HEADER + n * (_UNIT + _BETWEEN)
                self.unit_spots[unit.name] = (spot.x + _PAD, y, spot.w - 2 * _PAD)
            if label == "M00":
                self._middle_row(block, spot)
        return spots

    def _middle_row(self, block: Block, spot) -> None:
        """M00's parts from left to right: the first below the encoder, the last below the decoder."""
        first, last = spot.x + self.wide / 2, spot.right - self.wide / 2
        for n, unit in enumerate(block.units):
            centre = first + (last - first) * n / max(len(block.units) - 1, 1)
            self.unit_spots[unit.name] = (centre - _M00_UNIT / 2, spot.y + _HEADER, _M00_UNIT)

    def skip_port(self, label: str) -> tuple[float, float, float]:
        """Of the unit at the lower edge: the last one of the encoder's, the first one of the decoder's."""
        units = self.blocks[label].units
        x, y, w = self.unit_spots[(units[-1] if label.startswith("IN") else units[0]).name]
        return x, x + w, y + _UNIT / 2

    def stub_ports(self, label: str, role: str) -> list[tuple[float, float]]:
        source = "time_embedding" if role == "time" else "input text"
        ports = []
        for a, b in self.unit_edges:
            if a == source and b in self.unit_spots and any(u.name == b for u in self.blocks[label].units):
                x, y, w = self.unit_spots[b]
                if label == "M00":
                    ports.append((x + w / 2, y + _UNIT))
                else:
                    ports.append(
                        (x + w if label.startswith("OUT") else x, y + _UNIT / 2 + (8 if role == "words" else -8))
                    )
        return ports

    def _arrow(self, a: str, b: str) -> None:
        """Chain arrows go from unit to unit, through the frames."""
        if a.startswith("IN") and b.startswith("OUT"):
            super()._arrow(a, b)

    def _rails(self) -> None:
        for label in self.blocks:
            if label not in ("TIME_EMBED", "LABEL_EMB"):
                self._frame(self.blocks[label])
        super()._rails()

    def _arrows(self) -> None:
        super()._arrows()
        for a, b in self.unit_edges:
            skip = a.startswith(("conv_in", "down_")) and b.startswith("up_")
            if a in self.unit_spots and b in self.unit_spots and not skip and not a.endswith("embedding"):
                with self.canvas.group(f"edge-{a}-{b}", "edge", f"{a} → {b}", source=a, target=b):
                    self._chain(a, b)

    def _chain(self, a: str, b: str) -> None:
        (xa, ya, wa), (xb, yb, wb) = self.unit_spots[a], self.unit_spots[b]
        if abs(ya - yb) < 1:
            y = ya + _UNIT / 2
            self.canvas.arrow([(xa + wa, y), (xb, y)], "flow")
        elif ya < yb:
            self.canvas.arrow([(xb + wb / 2, ya + _UNIT), (xb + wb / 2, yb)], "flow")
        else:
            self.canvas.arrow([(xa + wa / 2, ya), (xa + wa / 2, yb + _UNIT)], "flow")

    def _chain(self, a: str, b: str) -> None:
        (xa, ya, wa), (xb, yb, wb) = self.unit_spots[a], self.unit_spots[b]
        if abs(ya - yb) < 1:
            y = ya + _UNIT / 2
            self.canvas.arrow([(xa + wa, y), (xb, y)], "flow")
        elif ya < yb:
            self.canvas.arrow([(xb + wb / 2, ya + _UNIT), (xb + wb / 2, yb)], "flow")
        else:
            self.canvas.arrow([(xa + wa / 2, ya), (xa + wa / 2, yb + _UNIT)], "flow")

    def _frame(self, block: Block) -> None:
        spot, label = self.spots[block.label], block.label
        with self.canvas.group(f"frame-{label}", "frame on-page", self.tooltip(block, ""), label=label):
            self.canvas.rect(spot.x, spot.y, spot.w, spot.h, "plate", rx=10)
            self.canvas.text(spot.x + _PAD, spot.y + 21, label, "lb")
            draw_pills(self.canvas, spot.right - _PAD, spot.y + 7, self.slots[label])
            badge = self.look.badge(label_names(label))
            if badge is not None:  # between the label and the arrow in the middle
                draw_badge(self.canvas, spot.x + 62, spot.y + 27, 114, badge)

    def draw_block(self, block: Block) -> None:
        for unit in block.units:
            self._unit(unit)

    def _unit(self, unit: Unit) -> None:
        x, y, w = self.unit_spots[unit.name]
        names = (unit.name, unit.prefix)
        paint = self.look.values.paint(unit.kind, names, unit.members(), (unit.label,), unit.lost(self.graph))
        value = number(paint.value) if paint.value is not None else ""
        tooltip = f"{unit.name}; {unit.prefix}; {unit.label}; {unit.params:,} parameters"
        data = {"module": unit.name, "label": unit.label, "key": unit.prefix, "value": value}
        with self.canvas.group(f"module-{unit.name}", f"module {paint.group}", tooltip, **data):
            self.canvas.rect(x, y, w, _UNIT, f"box {paint.box}".strip(), paint.fill, rx=6)
            params = amount(unit.params)
            self.canvas.text(x + w - 10, y + 18, paint.printed, "mb", extra="end")
            self.canvas.text(x + 10, y + 18, unit.what, "mb", w - 26 - self.canvas.width_of(paint.printed, "mb"))
            self.canvas.text(x + 10, y + 34, unit.name, "xs", w - 20)
            self.canvas.text(x + w - 10, y + 49, params, "xs", extra="end")
            key = unit.prefix.removeprefix(self.graph.record.prefix)
            self.canvas.text(x + 10, y + 49, key, "xs", w - 28 - self.canvas.width_of(params, "xs"), "dim")
