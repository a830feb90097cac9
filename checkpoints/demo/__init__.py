"""Checkpoints and LoRAs of random weights under real names, narrow or full size: to try things on, and for tests.

`write_demo` writes a checkpoint of a family (`models`, with start values by `weights`), `write_demo_lora` a LoRA of any kind
(`loras`), `demo_collection` a base with fine-tunes and merges of it.
"""

from __future__ import annotations

from .loras import write_demo_lora
from .models import demo_collection, write_demo

__all__ = ["demo_collection", "write_demo", "write_demo_lora"]
