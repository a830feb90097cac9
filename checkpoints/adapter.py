"""What the names and shapes of a LoRA (or a relative of it) tell: which parts it changes, and at what rank."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .tensors import Shape

# The tensors whose first axis is the rank, by the names of the trainers: one a module.
_RANKED = re.compile(
    r"^(?P<module>.+?)[._](lora_down|lora_A|lora\.down|lora_linear_layer\.down|hada_w1_b|lokr_w[12]_b)(\.|$)"
)
_PARTS = (
    ("clip_g", re.compile(r"^(lora_te2_|text_encoder_2\.)")),
    ("text encoder", re.compile(r"^(lora_te1?_|text_encoder\.)")),
)
# What trainers say in the metadata, by the word that stands for it in a report.
_SAID = {
    "base": ("ss_base_model_version", "modelspec.architecture"),
    "trained on": ("ss_sd_model_name",),
    "network": ("ss_network_module",),
    "rank": ("ss_network_dim",),
    "alpha": ("ss_network_alpha",),
}


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA at a glance.

    Attributes:
        modules: part (`unet`, `text encoder`, `clip_g`) -> how many of its layers are changed.
        ranks: rank -> how many modules have it.
        said: what its metadata says about itself.
    """

    modules: dict[str, int]
    ranks: dict[int, int]
    said: dict[str, str]

    def to_plain(self) -> dict[str, Any]:
        """The same as dictionaries, ready for JSON."""
        return {"modules": self.modules, "ranks": {str(r): n for r, n in self.ranks.items()}, "said": self.said}


def look_at_adapter(shapes: Mapping[str, Shape], metadata: Mapping[str, str]) -> Adapter:
    """Describe a LoRA by the names and shapes of its tensors, and by its metadata."""
    ranks: dict[str, int] = {}
    for name, shape in shapes.items():
        if (found := _RANKED.match(name)) and shape:
            ranks.setdefault(found["module"], shape[0])
    modules = Counter(_part(module) for module in ranks)
    said = {
        word: metadata[field] for word, fields in _SAID.items() for field in reversed(fields) if metadata.get(field)
    }
    return Adapter(dict(modules), dict(sorted(Counter(ranks.values()).items())), said)


def _part(module: str) -> str:
    return next((part for part, pattern in _PARTS if pattern.match(module)), "unet")
