"""Write the gallery: `python -m unetscope.diagrams.gallery [FOLDER]`.

Three architectures at block and module level, and a block of each kind at the layer level. The files are committed;
drawing is deterministic, so writing them again changes nothing unless the drawing changed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .drawing import Drawing, draw

GALLERY = Path(__file__).parent / "gallery"
FAMILIES = ("sd1", "sd2", "sdxl")


def pictures() -> dict[str, Drawing]:
    """Every picture of the gallery by its file name."""
    drawn = {f"{f}_{level}.svg": draw(f, level) for f in FAMILIES for level in ("block", "module")}
    drawn["sd1_layer_IN05.svg"] = draw("sd1", "layer", block="IN05")
    drawn["sdxl_layer_IN07.svg"] = draw("sdxl", "layer", block="IN07")
    drawn["sdxl_vae.svg"] = draw("sdxl", block="VAE")
    drawn["sdxl_clip_g.svg"] = draw("sdxl", block="CLIP_G")
    drawn["sdxl_refiner_block.svg"] = draw("sdxl_refiner")
    return drawn


def main(folder: Path = GALLERY) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, drawing in pictures().items():
        path = drawing.save(folder / name)
        print(f"{path.name}  {path.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else GALLERY)
