"""Draws docs/pictures/gallery: `python docs/pictures/gallery.py [FOLDER]`.

Three architectures at block and module level, and a block of each kind at the layer level. The files are committed;
drawing is deterministic, so writing them again changes nothing unless the drawing changed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from unetscope.checkpoints.families import FAMILIES
from unetscope.diagrams import Drawing, draw

GALLERY = Path(__file__).parent / "gallery"


def pictures() -> dict[str, Drawing]:
    """Every picture of the gallery by its file name: those that the families' records name."""
    drawn = {}
    for family in FAMILIES.values():
        for level in family.gallery:
            drawn[f"{family.id}_{level}.svg"] = draw(family.id, level)
        for block in family.gallery_blocks:
            part = block.lower() if block in (*family.text_encoders, "VAE") else f"layer_{block}"
            drawn[f"{family.id}_{part}.svg"] = draw(family.id, "layer", block=block)
    return drawn


def main(folder: Path = GALLERY) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, drawing in pictures().items():
        path = drawing.save(folder / name)
        print(f"{path.name}  {path.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else GALLERY)
