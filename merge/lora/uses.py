"""A LoRA and how strongly it is applied: to the UNET, to the text encoders, and block by block."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...checkpoints.errors import RecipeError
from ...checkpoints.families.presets import is_lbw_preset, lbw_preset, preset_base
from ..block_weights import BlockWeights


@dataclass(frozen=True)
class LoraUse:
    """A LoRA in a merge.

    Attributes:
        path: the file.
        unet: strength in the UNET; 1 is what it was trained for.
        text: strength in the text encoders; None: as in the UNET.
        blocks: LoRA block weights that multiply these: the name of a preset, a vector of 17, 12, 26 or 20 numbers, a number,
            lines as a recipe has them, or None.
        missing: weight of numbered blocks that a shorter vector leaves out: 0 as the extension reads it, 1 as kohya does.
        adapter: PEFT's name of the one that is meant, of a file that holds several.
    """

    path: Path
    unet: float = 1.0
    text: float | None = None
    blocks: str | list[float] | dict[str, Any] | float | None = None
    missing: Literal[0, 1] = 0
    adapter: str | None = None

    @classmethod
    def parse(cls, text: str, blocks: str | None = None, missing: int = 0, adapter: str | None = None) -> LoraUse:
        """`FILE`, `FILE:0.8` or `FILE:0.8:0.5` (UNET and text encoders), and block weights as typed.

        Raises:
            RecipeError: a strength that is not a finite number; block weights that are not preset, vector or number.
        """
        name, strengths = text, []
        while len(strengths) < 2 and not Path(name).exists():
            head, colon, last = name.rpartition(":")
            number = _number(last)
            if not colon or not head or number is None:
                if colon and Path(head).is_file():
                    raise RecipeError(
                        f"{text}: {last!r} is not a strength; write FILE:0.8, or FILE:0.8:0.5 for UNET and text encoders"
                    )
                break
            name, strengths = head, [number, *strengths]
        return cls(Path(name), *strengths, blocks=_blocks(blocks), missing=1 if missing else 0, adapter=adapter)

    def weights(self) -> Any:
        """Block weights as a recipe writes them.

        Raises:
            RecipeError: an unknown preset, a vector of no known length.
        """
        text = self.unet if self.text is None else self.text
        if self.blocks is None or isinstance(self.blocks, int | float):
            factor = 1.0 if self.blocks is None else float(self.blocks)
            return self._scaled(self.unet * factor, text * factor)
        convention = "lbw-kohya" if self.missing else "lbw"
        lines = isinstance(self.blocks, dict)
        kind = "preset" if isinstance(self.blocks, str) else "vector"
        plain = {"convention": convention, **self.blocks} if lines else {kind: self.blocks, "convention": convention}
        if lines and "strength" in plain:
            raise RecipeError(f"block weights of {self.path}: have a strength of their own; give it as FILE:UNET:TEXT")
        try:
            BlockWeights.parse(plain)
        except RecipeError as error:
            raise RecipeError(f"block weights of {self.path}: {error}") from None
        if lines:
            return {**plain, "strength": self.unet if self.unet == text else [self.unet, text]}
        return {**plain, "scale": self.unet, "base": text * self._first()}

    def _scaled(self, unet: float, text: float) -> Any:
        return unet if unet == text else {"default": unet, "BASE": text}

    def _first(self) -> float:
        """What the vector or preset says of the text encoders."""
        if not isinstance(self.blocks, str):
            return float(self.blocks[0])
        if is_lbw_preset(self.blocks):
            return lbw_preset(self.blocks)[0]
        return preset_base(self.blocks)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _blocks(text: str | None) -> str | list[float] | dict[str, Any] | float | None:
    if text is None:
        return None
    from ..weights_text import only_elements, parse_weights

    read = parse_weights(text)
    # Elements change a LoRA that is applied as it is; of a file they are what it says.
    return {"default": 1.0, **read} if isinstance(read, dict) and only_elements(text) else read
