"""What identifies a component's weights, whatever file they are in.

Equal values give equal fingerprints: container, order and naming of the keys, prefix (CLIP-L in an SD1 and in an SDXL file)
and dtype do not count. An fp16 file and the same weights stored as fp32 or in a diffusers folder have the same one; rounding
to a narrower dtype changes values, and so the fingerprint. F64 counts as rounded to fp32, every NaN as the same NaN.

Left out is what carries no weight of its own (`position_ids`, `logit_scale`) and what not every layout holds: the last layer
and the projection of CLIP-H, which SD2 does not use, and tensors that no published layout has. The EMA copy is left out too.

A tensor is hashed as fp32 in blocks of fixed size, so that threads can share it and no tensor has to fit into memory.
Blocks go through XXH3-128, which is about ten times as fast as SHA-256 and twice as fast as BLAKE3: fingerprints tell
weights apart, they are not protection against somebody who builds two models with the same one. For that, and for model
sites, there is SHA-256.
"""

from __future__ import annotations

import hashlib
import threading
from functools import cache

import numpy as np
import xxhash

from ..checkpoints.dtypes import F32, DType
from ..checkpoints.families import FAMILIES, Family, components_in_order, is_buffer, known_parts, part_of
from ..checkpoints.kernels import kernel
from ..checkpoints.tensors import Shape

# Elements of a block. Part of what a fingerprint is: another number gives other fingerprints.
BLOCK = 1 << 19
_DIGITS = 32


def short_name(key: str, family: Family | None = None) -> str | None:
    """A key without the prefix of its component, if it counts for the component's fingerprint; None where it does not.

    Args:
        family: the record that reads the key, where it is one of a file of no known family.
    """
    component, name = _parted(key, family)
    if component is None or is_buffer(key):
        return None
    # Denoisers of unknown layouts have fingerprints too: all of their keys count.
    return name if component not in known_parts() or name in _published(FAMILIES.version, component) else None


def _parted(key: str, family: Family | None = None) -> tuple[str | None, str]:
    """The component that a key belongs to by its prefix, in whatever family, and its name there."""
    if family is not None and family.keeps_names:
        place = family.block_of(key)
        held = family.component(place.component)
        if held is not None:
            return held.id, key.removeprefix(held.prefix).removeprefix("transformer.")
        return (family.core, key) if place.core else (None, key)
    if found := part_of(key):
        return found[0].id, found[1]
    for family in FAMILIES.values():
        if family.prefix and key.startswith(family.prefix) and family.block_of(key).component == family.core:
            return family.core, key.removeprefix(family.prefix)
    return None, key


@cache
def _published(version: int, component: str) -> frozenset[str]:
    """The names of a part's weights in any family's layout, but for what diffusers' folders leave out (SD2's last layer)."""
    names, unused = set(), ()
    for family in FAMILIES.values():
        for held in family.components:
            if held.id == component:
                names |= {name for name, _ in held.tensors("real") if not is_buffer(held.prefix + name)}
                unused += held.unused
    return frozenset(name for name in names if not unused or not name.startswith(unused))


@cache
def _rank(version: int) -> dict[str, int]:
    order = components_in_order({*(family.core for family in FAMILIES.values()), *known_parts()})
    return {component: i for i, component in enumerate(order)}


class Fingerprints:
    """Collects the blocks of a file's tensors, in any order and from any thread."""

    def __init__(self, family: Family | None = None) -> None:
        self._family = family
        self._blocks: dict[str, dict[int, bytes]] = {}
        self._lock = threading.Lock()

    def add(self, key: str, start: int, data: np.ndarray) -> None:
        """Add a block: the elements of `key` from `start` on (a multiple of `BLOCK`), fp32, or raw where they are not floats."""
        digest = xxhash.xxh3_128_digest(data.view(np.uint8))
        with self._lock:
            self._blocks.setdefault(key, {})[start // BLOCK] = digest

    def result(self, tensors: dict[str, tuple[DType, Shape]]) -> dict[str, str]:
        """Component -> fingerprint (32 hex digits) of the tensors that count, from key -> dtype and shape."""
        parts: dict[str, list[bytes]] = {}
        for key, (dtype, shape) in tensors.items():
            name = short_name(key, self._family)
            if name is not None:
                blocks = self._blocks.get(key, {})
                kind = "float" if dtype.is_float else dtype.name
                head = f"{name} {kind} {list(shape)} ".encode()
                parts.setdefault(_parted(key, self._family)[0], []).append(
                    head + b"".join(blocks[i] for i in sorted(blocks))
                )
        ranks = _rank(FAMILIES.version)
        return {
            component: hashlib.sha256(b"\n".join(sorted(lines))).hexdigest()[:_DIGITS]
            for component, lines in sorted(parts.items(), key=lambda item: ranks.get(item[0], len(ranks)))
        }


def canonical(raw: np.ndarray, dtype: DType, out: np.ndarray) -> np.ndarray:
    """The elements of a piece (raw bytes, uint8) as they are hashed: fp32 in `out`, every NaN the same; no floats: as they are."""
    if not dtype.is_float:
        return raw
    kernel().decode(raw, dtype, out)
    if kernel().count_bad(out, F32):
        out[np.isnan(out)] = np.float32(np.nan)
    return out
