"""Shows what Unetscope does, on checkpoints that it makes itself: `make demo`, or `python examples/demo.py`.

Every step prints the command that it runs; each can be typed again by hand. Everything is written into the folder `demo`.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path("demo")
# What a search that makes images needs next to the core.
SEARCH_NEEDS = ("optuna", "diffusers", "transformers", "PIL")
# Models this small keep torch's threads waiting for each other, which costs more than it saves.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}

STEPS = [
    ("What is in a file?", "inspect demo/sd1-photo.safetensors"),
    (
        "The UNET with its block labels, and the weights of a preset",
        "diagram sdxl --weights GRAD_V -o demo/sdxl.svg --overwrite",
    ),
    (
        "The mean of three fine-tunes, each with the same weight",
        "merge uniform demo/sd1-ink.safetensors demo/sd1-photo.safetensors demo/sd1-anime.safetensors"
        " -o demo/merged-uniform.safetensors --overwrite",
    ),
    (
        "A block-weighted merge (MBW): a preset, changed in a few blocks",
        "merge weighted-sum demo/sd1-photo.safetensors demo/sd1-anime.safetensors --blocks GRAD_V --alpha 0.25"
        " -o demo/merged-mbw.safetensors --overwrite --save-recipe demo/merged-mbw.yaml",
    ),
    ("The same from a recipe", "merge run examples/recipes/mbw.yaml -o demo/merged-recipe.safetensors --overwrite"),
    ("A recipe as a picture", "diagram examples/recipes/one_more_thing.yaml -o demo/recipe.svg --overwrite"),
    (
        "What is questionable about a recipe, and which share has every model?",
        "lint examples/recipes/one_more_thing.yaml",
    ),
    (
        "A merge's recipe, read back from its own header; files are found by hash or name",
        "import demo/merged-mbw.safetensors --models demo -o demo/imported.yaml --overwrite",
    ),
    (
        "A recipe for sd-mecha",
        "export examples/recipes/one_more_thing.yaml --to mecha -o demo/one_more_thing.mecha --overwrite",
    ),
    ("Every model of a folder by its hashes", "index demo --compute"),
    (
        "What did a fine-tune change, block by block?",
        "diff demo/sd1-base.safetensors demo/sd1-photo.safetensors"
        " --heatmap demo/changed.png --diagram demo/changed.svg --overwrite",
    ),
    (
        "Will these two merge well?",
        "diff demo/sd1-ink.safetensors demo/sd1-photo.safetensors --base demo/sd1-base.safetensors --by component",
    ),
    (
        "How do many models lie to each other?",
        "compare demo/sd1-base.safetensors demo/sd1-ink.safetensors demo/sd1-photo.safetensors demo/sd1-anime.safetensors"
        " demo/sd1-old.ckpt --plot demo/compared",
    ),
    (
        "Where does a merge come from? Its recipe is recovered from the weights alone",
        "trace demo/merged-mbw.safetensors"
        " --among demo/sd1-ink.safetensors demo/sd1-photo.safetensors demo/sd1-anime.safetensors"
        " --plot demo/traced.png --overwrite",
    ),
    (
        "An old .ckpt in fp32, opened without running its pickle, as fp16",
        "convert demo/sd1-old.ckpt demo/sd1-old-fp16.safetensors --dtype fp16 --prune --overwrite",
    ),
    (
        "What a fine-tune changed, as a LoRA; how much of it rank 8 holds, block by block",
        "lora extract demo/sd1-photo.safetensors demo/sd1-base.safetensors -o demo/photo-lora.safetensors --rank 8 --overwrite",
    ),
    (
        "That LoRA baked into another model: its output blocks, the text encoder at half the strength",
        "lora bake demo/sd1-ink.safetensors --lora demo/photo-lora.safetensors:0.8:0.4 --lbw OUTALL"
        " -o demo/ink-with-photo.safetensors --overwrite",
    ),
    (
        "Which blocks from which model? A search: images are made with each merge, and a reward scores them",
        "search examples/tiny_models/quick.yaml -o demo/search --resume",
    ),
    ("What the search found, as a page", "search report demo/search -o demo/search-report"),
    ("The best recipe as a checkpoint", "merge run demo/search/best.yaml -o demo/found.safetensors --overwrite"),
    ("A merge knows its history", "inspect demo/merged-uniform.safetensors --scan"),
]


def main() -> None:
    """Make the checkpoints, run every step, and list what was made."""
    from unetscope.checkpoints.demo import demo_collection

    began = time.perf_counter()
    print("Making demo checkpoints: the real keys and block structure of SD1 and SDXL, with narrow channels.")
    demo_collection(FOLDER, progress=lambda name: print(f"  {FOLDER / name}"))
    for title, command in STEPS:
        print(f"\n--- {title}\n$ unetscope {command}", flush=True)
        if "demo/search" in command and (missing := [name for name in SEARCH_NEEDS if not find_spec(name)]):
            print(f"left out: it needs {', '.join(missing)} (pip install 'unetscope[search]')")
            continue
        subprocess.run(
            [sys.executable, "-m", "unetscope", *shlex.split(command)], check=True, env=os.environ | ONE_THREAD
        )
    print(f"\nDone in {time.perf_counter() - began:.0f} s. In {FOLDER.resolve()}:")
    for path in sorted(FOLDER.iterdir()):
        files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
        name = path.name if path.is_file() else f"{path.name}/ ({len(files)} files)"
        print(f"  {name:32} {sum(p.stat().st_size for p in files) / 1e6:8.2f} MB")


if __name__ == "__main__":
    main()
