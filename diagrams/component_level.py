"""Text encoders and the VAE at the block level: a box per transformer layer, or per down and up block.

Their structure follows from the keys: the single-file layout names layers and blocks in the order in which they run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.families import Family, family_of
from ..checkpoints.text import amount, counted
from . import text as texts
from .boxes import HEIGHT, Content, draw_box
from .chain import draw_step
from .dot import text_of
from .graph import Shape
from .graphviz import quoted
from .svg import Canvas
from .ugrid import STEP, Look, Spot, around_tensors
from .values import Member, label_names

_WIDE, _GAP, _ROWS = 250.0, 56.0, 12
_LAST = 10_000
Group = dict[str, Shape]


def draw_component(family: str | Family, label: str, look: Look, prefix: str = "") -> Canvas:
    """A text encoder (`CLIP_L`...) or `VAE` of an architecture or checkpoint.

    Raises:
        UnetscopeError: the checkpoint does not hold it.
    """
    tensors = around_tensors(family, label, look.tensors)
    if not tensors:
        raise UnetscopeError(
            f"this {family_of(family).name} file holds no {label}; draw the architecture's by its name instead"
        )
    groups = _groups(family, tensors)
    canvas = Canvas(prefix)
    spots, chain = _laid_out(label, groups)
    for a, b in pairwise(chain):
        with canvas.group(f"edge-{a}-{b}", "edge", f"{a} → {b}", source=a, target=b):
            draw_step(canvas, spots[a], spots[b])
    for name, spot in spots.items():
        _box(canvas, label, name, groups[name], spot, look)
    return canvas


def component_dot(family: str | Family, label: str, look: Look, title: str) -> str:
    """The same as DOT source."""
    groups = _groups(family, around_tensors(family, label, look.tensors))
    _, chain = _laid_out(label, groups)
    lines = [f"digraph component {{ graph [label={text_of(title)} labelloc=t] node [shape=box fontname=Helvetica]"]
    for name in chain:
        params = amount(sum(texts.elements(shape) for shape in groups[name].values()))
        lines.append(f"{quoted(name)} [label={text_of(name, _what(groups[name]), params)}]")
    lines += [f"{quoted(a)} -> {quoted(b)}" for a, b in pairwise(chain)]
    return "\n".join([*lines, "}"]) + "\n"


def _groups(family: str | Family, tensors: Group) -> dict[str, Group]:
    groups: dict[str, Group] = {}
    for key, shape in tensors.items():
        groups.setdefault(family_of(family).block_of(key).sublabel, {})[key] = shape
    return groups


def _laid_out(label: str, groups: dict[str, Group]) -> tuple[dict[str, Spot], list[str]]:
    """Where each box is, and the order in which data passes them; a VAE of unknown names is read downwards as well."""
    return _vae(groups) if label == "VAE" and not any(" " in name for name in groups) else _text(groups)


def _text(groups: dict[str, Group]) -> tuple[dict[str, Spot], list[str]]:
    """Embeddings, layers and what follows them, in columns that are read downwards."""

    def order(name: str) -> int:
        number = re.search(r"\d+", name)
        if name in ("embeddings", "final") or "." in name:  # `encoder.down_blocks 0` stands where the file has it
            return {"embeddings": -1, "final": _LAST}.get(name, 0)
        return int(number[0]) if number else _LAST

    chain = sorted(groups, key=order)
    columns = -(-len(chain) // _ROWS)
    rows = -(-len(chain) // columns)
    spots = {}
    for n, name in enumerate(chain):
        column, row = divmod(n, rows)
        spots[name] = Spot(column * (_WIDE + _GAP), row * (HEIGHT + STEP), _WIDE, HEIGHT)
    return spots, chain


def _vae(groups: dict[str, Group]) -> tuple[dict[str, Spot], list[str]]:
    """The encoder down the left, the latent's convolutions at the bottom, the decoder up the right."""

    def order(name: str) -> tuple[int, int]:
        side, part, *number = name.split(".")
        stage = ["conv_in", "down", "mid", "up", "norm_out", "conv_out"].index(part)
        level = int(number[0]) if number else 0
        return stage, level if side == "encoder" else -level

    down = sorted((n for n in groups if n.startswith("encoder.")), key=order)
    up = sorted((n for n in groups if n.startswith("decoder.")), key=order)
    rows, step, gap = max(len(down), len(up)), HEIGHT + STEP, 40.0
    spots = {name: Spot(0.0, (n + rows - len(down)) * step, _WIDE, HEIGHT) for n, name in enumerate(down)}
    spots |= {name: Spot(_WIDE + gap, (rows - 1 - n) * step, _WIDE, HEIGHT) for n, name in enumerate(up)}
    middle = [n for n in groups if n not in spots]
    for name in middle:
        spots[name] = Spot(_WIDE / 2 - 30, rows * step, _WIDE + gap + 60, HEIGHT)
    return spots, [*down, *middle, *up]


def _box(canvas: Canvas, label: str, name: str, tensors: Group, spot: Spot, look: Look) -> None:
    members = [Member((key, key.rpartition(".")[0]), texts.elements(shape)) for key, shape in tensors.items()]
    names = (f"{label} {name}", name)
    paint = look.values.paint(_kind(label, tensors), names, members, label_names(label))
    params = sum(m.params for m in members)
    facts = f"{counted(len(tensors), 'tensor')} · {amount(params)}"
    what = _what(tensors)
    tooltip = f"{label} {name}: {what}; {params:,} parameters; {_prefix(tensors)}"
    draw_box(canvas, spot.x, spot.y, spot.w, Content(name, what, facts, None, None, tooltip), paint, spot.h)


def _kind(label: str, tensors: Mapping[str, Shape]) -> str:
    if label != "VAE":
        return "k-attn" if any("attn" in key or "Attention" in key for key in tensors) else "k-words_box"
    blocks = any(re.search(r"\.block", key) for key in tensors)
    return "k-attn" if any(".attn_" in key for key in tensors) else "k-res" if blocks else "k-conv"


def _what(tensors: Mapping[str, Shape]) -> str:
    """A few words on what the keys of a box say it is."""
    keys = list(tensors)

    def there(part: str) -> bool:
        return any(part in key for key in keys)

    if there("SelfAttention"):
        return "attention + MLP"
    resnets = len({found[0] for key in keys if (found := re.search(r"\.block(\.|_)\d+", key))})
    parts = [f"ResNet ×{resnets}"] if resnets else []
    if there("mlp"):
        parts = ["attention + MLP"]
    parts += ["attention"] if there(".attn_") else []
    parts += ["downsample"] if there(".downsample.") else []
    parts += ["upsample"] if there(".upsample.") else []
    if parts:
        return " + ".join(parts)
    if there("embedding"):
        return "tokens and positions"
    if there("embed_tokens") or there("shared."):
        return "tokens"
    if there("quant_conv"):
        return "to and from the latent"
    if there("ln_final") or there("final_layer_norm"):
        return "last norm" + (" + projection" if there("text_projection") else "")
    return "norm" if there("norm_out") else "convolution"


def _prefix(tensors: Mapping[str, Shape]) -> str:
    shared = []
    for parts in zip(*(key.split(".") for key in tensors), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)
