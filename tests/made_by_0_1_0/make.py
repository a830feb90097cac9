"""Made what lies in this folder, with version 0.1.0 (commit 70b2049), and is run with that version only:

    git worktree add /tmp/old/unetscope 70b2049 && cp -r tests/made_by_0_1_0 tests/same_bytes_jobs.py /tmp/old/unetscope/tests
    cd /tmp/old/unetscope/tests && PYTHONPATH=/tmp/old python -m made_by_0_1_0.make

It stays so that people see where everything comes from. A later version adds a folder of its own; what lies here is never made
anew.
"""
# ruff: noqa: E501 (command lines and files of other people stand as they are)

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import typer
from made_by_0_1_0.small_models import (
    CHANGED,
    HERE,
    MODELS,
    fingerprint,
    read_safetensors,
    write_model,
)
from same_bytes_jobs import RECIPES, convention_recipes, method_recipes

# What stands for the folder in which everything was made.
PLACE = "@HERE@"
FAMILIES = {"sd1", "sdxl"}


def command(*words: str) -> str:
    """What a command prints on stdout."""
    from unetscope.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(words))
        except SystemExit as end:
            if end.code not in (0, None, 1):
                sys.exit(f"{' '.join(words)}: {end.code}\n{err.getvalue()}")
    return out.getvalue()


# -- models -------------------------------------------------------------------------------------------------------------


def make_layouts() -> None:
    """Names and shapes of whole models with a few channels."""
    from unetscope.checkpoints.families import family_of

    def small(name: str):
        family = family_of(name)
        sizes = {
            "channels": (4, 8, 12, 12)[: len(family.narrow.channels)],
            "context": 8 if name == "sd1" else 16,
            "groups": 2,
        }
        if family.narrow.pooled:
            sizes |= {"pooled": 8, "size_width": 4}
        parts = []
        for one in family.components:
            changed = {"channels": (4, 8, 12, 12), "groups": 2} if hasattr(one.narrow, "channels") else {"width": 8}
            parts.append(replace(one, narrow=replace(one.narrow, **changed)))
        return replace(family, narrow=replace(family.narrow, **sizes), components=tuple(parts))

    layouts = {name: rows(small(name).layout(widths="narrow")) for name in sorted(FAMILIES)}
    layouts["sd1-inpainting"] = rows(small("sd1").layout(widths="narrow", in_channels=9))
    unet = [row for row in layouts["sd1"] if row[0].startswith("model.diffusion_model.")]
    layouts["sd1-unet"] = unet
    vae = "first_stage_model."
    layouts["sd1-vae"] = [(k.removeprefix(vae), s) for k, s in layouts["sd1"] if k.startswith(vae)]
    layouts["sd1-ema"] = layouts["sd1"] + [
        ("model_ema." + key.removeprefix("model.").replace(".", ""), shape) for key, shape in unet
    ]
    toy = [("x_in.weight", (8, 4)), ("head.weight", (4, 8))]
    for n in range(4):
        inside = {"attn.qkv": (24, 8), "attn.out": (8, 8), "mlp.fc1": (8, 8), "mlp.fc2": (8, 8), "norm": (8,)}
        toy += [(f"layers.{n}.{name}.weight", shape) for name, shape in inside.items()]
    layouts["toy"] = toy
    with gzip.GzipFile(HERE / "layouts.json.gz", "wb", mtime=0) as file:
        file.write(json.dumps(layouts).encode())


def rows(layout) -> list[tuple[str, list[int]]]:
    return [(key, list(spec.shape)) for key, spec in layout.items()]


# -- recipes ------------------------------------------------------------------------------------------------------------

LORAS = {"kohya": "sd1-base", "peft": "sd1-base", "xl": "sdxl-base"}
METHODS_FILE = '''"""Merge methods of one's own, which a recipe names."""

import numpy as np

from unetscope.merge import Delta, Numbers, Share, elementwise, linear, whole


@linear
def toward(a, b, *, alpha: float = 0.5):
    """(1 - alpha) a + alpha b: the share of each."""
    return 1 - alpha, alpha


@elementwise
def larger(a, b, *, alpha: float = 1.0, keep: Share = 1.0, swap: bool = False):
    """a + alpha (m - a), m the larger in size."""
    a, b = (b, a) if swap else (a, b)
    return a + np.float32(alpha) * np.float32(keep) * (np.where(abs(b) > abs(a), b, a) - a)


@whole(working=4)
def summed(*deltas: Delta, weights: Numbers = 1.0):
    """base + sum w_t (x_t - base)."""
    return sum(np.float32(w) * delta for w, delta in zip(weights, deltas, strict=True))
'''
OTHERS = {
    "whole/everything": """
title: Photo outside, anime inside
models: {photo: ../models/sd1-photo.safetensors, anime: ../models/sd1-anime.safetensors, base: ../models/sd1-base.safetensors}
steps:
  mix:
    method: weighted_sum
    inputs: [photo, anime]
    alpha: {preset: GRAD_A, OUT03-OUT05: 0.8}
    convention: sd-mecha
  result:
    method: add_difference
    inputs: [mix, {method: uniform, inputs: [photo, anime]}, base]
    alpha: 0.3
result: result
components: {vae: base, text_encoders: base}
convention: supermerger
output: {dtype: fp16, position_ids: keep, nan: error, overflow: error, mix_predictions: false, allow_missing: false}
""",
    "whole/methods of one's own": """
models: {a: ../models/toy-ink.safetensors, b: ../models/toy-photo.safetensors, base: ../models/toy-base.safetensors}
methods: [my_methods.py]
steps:
  near: {method: toward, inputs: [a, b], alpha: {LAYERS01: 0.3, default: 0.6}}
  far: {method: larger, inputs: [near, b], alpha: 0.5, keep: 0.75, swap: true}
  result: {method: summed, inputs: [base, far, a], weights: [0.5, 0.25]}
result: result
""",
    "whole/a weights' text": """
models: {a: ../models/sd1-base.safetensors, b: ../models/sd1-ink.safetensors}
steps:
  result: {method: weighted_sum, inputs: [a, b], alpha: "IN04-IN08: 0.7; OUT*: 0.3"}
""",
    "whole/strength": """
models: {a: ../models/sd1-base.safetensors, b: ../models/sd1-ink.safetensors}
steps:
  result: {method: weighted_sum, inputs: [a, b], alpha: {preset: GRAD_V, strength: [0.8, 0.5]}}
""",
    "whole/toy vector": """
models: {a: ../models/toy-base.safetensors, b: ../models/toy-ink.safetensors}
steps:
  result: {method: weighted_sum, inputs: [a, b], alpha: [0, 0.2, 0.4, 0.6, 0.8, 1]}
output: {dtype: keep}
""",
    "whole/holes allowed": """
models: {a: ../models/sd1-unet.safetensors, b: ../models/sd1-ink.safetensors}
steps:
  result: {method: uniform, inputs: [a, b]}
output: {allow_missing: true, dtype: bf16, position_ids: restore}
""",
}


TOY_LABELS = {
    "IN00-IN05": "LAYERS00-LAYERS01", "IN*": "LAYERS00", "M00": "LAYERS01", "OUT03-OUT08 attn2": "LAYERS02-LAYERS03 /norm/",
    "OUT*": "LAYERS02", "BASE": "START", "attn1": "/mlp/",
}  # fmt: skip


# Left out of the conventions, for their vectors are read as another one of the table is.
ALIKE = (
    "lbw sdxl 20", "lbw-kohya sdxl 20", "lbw-kohya sdxl 12", "lbw sd1 26", "lbw-kohya sd1 26", "sd-mecha sdxl 21",
    "automb-recipe sdxl 22", "supermerger sdxl 19", "supermerger sdxl 21", "merge-block-weighted sdxl 20",
    "merge-block-weighted sd1 25",
)  # fmt: skip


def make_recipes() -> None:
    """Every method on toys, every convention and every notation on whole models."""
    folder = HERE / "recipes"
    folder.mkdir()
    (folder / "my_methods.py").write_text(METHODS_FILE)
    methods = json.loads(command("methods", "--json"))
    texts = {name: text.lstrip("\n") for name, text in OTHERS.items()}
    needs_a_family = ("pick_component", "exchange_ema", "fallback")
    for name, text in method_recipes(methods).items():
        if name.startswith("truncate_rank") or name.endswith("other numbers"):  # of LoRAs alone; as by block
            continue
        if not name.startswith(needs_a_family):
            text = text.replace("sd1-", "toy-")
            for label, own in TOY_LABELS.items():
                text = text.replace(label, own)
        texts[f"method/{name}"] = with_models(text)
    for name, text in (convention_recipes() | RECIPES).items():
        text = text.replace("../in/", "../models/")
        if "measured" in name:
            text = text.replace("sd1-", "toy-")
        if name in ALIKE:
            continue
        if re.search(r"sd2|refiner|folder|old|fp8|sd1-mix|sdxl-v\b|sdxl-photo|sdxl-vae|loha|locon|ia3|lokr|dora", text):
            continue
        if name.startswith("family/") or (name.startswith("dtype/") and "fp8" in text):
            continue
        texts[f"convention/{name}" if "/" not in name else name] = with_models(text)
    for name, text in texts.items():
        (folder / f"{slug(name)}.yaml").write_text(text)


def with_models(text: str) -> str:
    words = dict.fromkeys(re.findall(r"[\w.-]+", text))
    lines = ["models:", *(f"  {word}: ../models/{word}.safetensors" for word in words if word in MODELS)]
    if loras := [word for word in words if word.endswith(".lora")]:
        paths = {word: word.removesuffix(".lora") for word in loras}
        lines += ["loras:", *(f"  {x}: {{path: ../loras/{n}.safetensors, base: {LORAS[n]}}}" for x, n in paths.items())]
    return "\n".join([*lines, text.strip(), ""])


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9_.=-]+", "-", name.casefold())


def merge_recipes(here: Path) -> None:
    """What each recipe comes to: the tensors' SHA-256, null where it depends on the machine's linear algebra."""
    from unetscope.checkpoints import UnetscopeError
    from unetscope.merge import Recipe, merge

    found = {}
    for path in sorted((here / "recipes").glob("*.yaml")):
        out = here / "out.safetensors"
        try:
            recipe = Recipe.load(path)
            report = merge(recipe, out, fsync=False, reproducible=True, overwrite=True)
        except UnetscopeError as error:  # takes what these models are not
            print("left out:", path.stem, error)
            (HERE / "recipes" / path.name).unlink()
            continue
        digest, size = fingerprint(out)
        linear_algebra = recipe.loras or re.search(r"iso_c|iso_cts|tsv|truncate_rank|karcher", path.read_text())
        found[path.stem] = {
            "sha256": None if linear_algebra else digest,
            "norm": size,
            "tensors": len(read_safetensors(out)[1]),
            "title": recipe.title,
            "result": recipe.result,
            "models": list(recipe.models),
        }
        print(path.stem, f"{report.seconds:.2f}")
    (HERE / "recipes.json").write_text(json.dumps(found, indent=0))


# -- what commands take and print ---------------------------------------------------------------------------------------


def make_commands() -> None:
    """Every command with its arguments and flags."""
    (HERE / "commands.json").write_text(json.dumps(commands(), indent=0))


def commands() -> dict[str, dict]:
    """Command line -> names of its arguments, and all its flags."""
    from unetscope.cli import main

    found, top = {}, []

    def caught(group, *_, **__):
        top.append(group)
        raise SystemExit(0)

    original, typer.core.TyperGroup.main = typer.core.TyperGroup.main, caught
    try:
        with contextlib.suppress(SystemExit):
            main([])
    finally:
        typer.core.TyperGroup.main = original

    def walk(one, words: tuple[str, ...]) -> None:
        flags = sorted(
            {flag for p in one.params if p.param_type_name == "option" for flag in (*p.opts, *p.secondary_opts)}
        )
        arguments = [p.name for p in one.params if p.param_type_name == "argument"]
        found[" ".join(words)] = {"arguments": arguments, "flags": flags}
        for name, below in (getattr(one, "commands", None) or {}).items():
            walk(below, (*words, name))

    walk(top[0], ())
    return found


M = "models"
# name -> a command line with --json, to be run in a folder with models/, merged/, recipes/ and loras/.
JSON_COMMANDS = {
    "inspect": f"inspect {M}/sd1-base.safetensors --json",
    "inspect-scan": f"inspect {M}/sd1-ink.safetensors --scan --json",
    "inspect-merge": "inspect merged/history.safetensors --json",
    "inspect-lora": "inspect loras/kohya.safetensors --json",
    "stats": f"stats {M}/toy-ink.safetensors --json",
    "stats-tensor": f"stats {M}/toy-ink.safetensors --by tensor --json",
    "diff": f"diff {M}/toy-base.safetensors {M}/toy-ink.safetensors --json",
    "diff-base": f"diff {M}/toy-ink.safetensors {M}/toy-photo.safetensors --base {M}/toy-base.safetensors --json",
    "compare": f"compare {M}/toy-base.safetensors {M}/toy-ink.safetensors {M}/toy-photo.safetensors --json",
    "trace": f"trace merged/toy.safetensors --among {M}/toy-ink.safetensors {M}/toy-photo.safetensors --json",
    "predict": "predict recipes/whole-toy-vector.yaml --json",
    "spectrum": f"spectrum {M}/toy-base.safetensors {M}/toy-ink.safetensors --json",
    "index": f"index {M} --json",
    "lint": "lint recipes/whole-everything.yaml --json",
    "import": f"import merged/history.safetensors --models {M} --json",
    "methods": "methods --json",
    "methods-one": "methods train_difference --json",
    "presets": "presets sd1 --json",
    "merge-dry-run": f"merge weighted-sum {M}/sd1-base.safetensors {M}/sd1-ink.safetensors --blocks GRAD_V -o x.safetensors --dry-run --json",
    "merge": f"merge weighted-sum {M}/toy-base.safetensors {M}/toy-ink.safetensors --alpha 0.3 -o x1.safetensors --json",
    "merge-run": "merge run recipes/whole-toy-vector.yaml -o x2.safetensors --json",
    "merge-blocks-file": f"merge weighted-sum {M}/sd1-base.safetensors {M}/sd1-ink.safetensors --blocks @weights/blocks.yaml -o x.safetensors --dry-run --json",
    "merge-grid": f"merge grid --unets {M}/sd1-ink.safetensors --text-encoders {M}/sd1-base.safetensors -o grid --json",
    "convert": f"convert {M}/sd1-fp32.safetensors x8.safetensors --dtype fp16 --prune --json",
    "demo-checkpoint": "demo-checkpoint sd1 -o x9.safetensors --json",
    "lora-extract": f"lora extract {M}/toy-ink.safetensors {M}/toy-base.safetensors --rank 2 -o x3.safetensors --json",
    "lora-bake": f"lora bake {M}/sd1-base.safetensors --lora loras/kohya.safetensors:0.8 -o x4.safetensors --dry-run --json",
    "lora-merge": "lora merge loras/kohya.safetensors:0.8 loras/kohya.safetensors:0.5 -o x5.safetensors --json",
    "lora-resize": "lora resize loras/kohya.safetensors --rank 1 -o x6.safetensors --json",
    "lora-convert": "lora convert loras/kohya.safetensors --to peft -o x7.safetensors --json",
}  # fmt: skip


def make_json(here: Path) -> None:
    """What they print; numbers and lists are cut to what their form tells."""
    folder = HERE / "json"
    folder.mkdir()
    for name, line in JSON_COMMANDS.items():
        found = json.loads(command(*line.split()).replace(str(here), PLACE))
        (folder / f"{name}.json").write_text(json.dumps({"command": line, "printed": found}, indent=0))


# -- what merges, LoRAs and searches leave ---------------------------------------------------------------------------------


def make_loras() -> None:
    """Three LoRAs, with the metadata that they are given."""
    for name, words in {
        "kohya": f"{M}/sd1-ink.safetensors {M}/sd1-base.safetensors --ranks default:0;IN04:2;M00:1;CLIP_L:1",
        "peft": f"{M}/sd1-photo.safetensors {M}/sd1-base.safetensors --ranks default:0;IN05:1;OUT03:1 --style peft --no-text-encoders",
        "xl": f"{M}/sdxl-ink.safetensors {M}/sdxl-base.safetensors --ranks default:0;IN04:1;OUT05:1 --conv",
    }.items():
        command("lora", "extract", *words.split(), "-o", f"loras/{name}.safetensors")


def make_merged(here: Path) -> None:
    """Two merges of toys, one of the other, and the metadata of merges of whole models and of a LoRA that was merged."""
    toy, merged = f"{M}/toy-", "merged"
    command("merge", "weighted-sum", f"{toy}ink.safetensors", f"{toy}photo.safetensors", "--alpha", "0.3", "--hash",
            "-o", f"{merged}/toy.safetensors", "--save-recipe", f"{merged}/toy.yaml")  # fmt: skip
    command("merge", "uniform", f"{merged}/toy.safetensors", f"{toy}anime.safetensors", "--title", "Mixed", "--hash",
            "-o", f"{merged}/history.safetensors")  # fmt: skip
    found = {}
    whole = f"{M}/sd1-ink.safetensors {M}/sd1-photo.safetensors"
    for name, words in {
        "webui": f"merge weighted-sum {whole} --alpha 0.25 --hash -o out/webui.safetensors",
        "blocks": f"merge weighted-sum {whole} --blocks GRAD_V --title Blocks -o out/blocks.safetensors",
        "add-difference": f"merge add-difference {whole} {M}/sd1-base.safetensors --alpha 0.7 --hash -o out/add-difference.safetensors",
        "reproducible": f"merge ties {M}/sd1-base.safetensors {whole} --density 0.3 --reproducible -o out/reproducible.safetensors",
        "recipe": "merge run recipes/whole-everything.yaml -o out/recipe.safetensors",
        "sdxl": f"merge weighted-sum {M}/sdxl-base.safetensors {M}/sdxl-ink.safetensors --alpha 0.5 --hash -o out/sdxl.safetensors",
        "lora-bake": f"lora bake {M}/sd1-base.safetensors --lora loras/kohya.safetensors:0.8:0.5 --lbw OUTALL -o out/lora-bake.safetensors",
        "lora-merge": "lora merge loras/kohya.safetensors:0.8 loras/peft.safetensors:0.5 -o out/lora-merge.safetensors",
        "lora-resize": "lora resize loras/kohya.safetensors --rank 1 -o out/lora-resize.safetensors",
        "lora-convert": "lora convert loras/kohya.safetensors --to diffusers -o out/lora-convert.safetensors",
        "convert": f"convert {M}/sd1-fp32.safetensors out/convert.safetensors --dtype fp16",
    }.items():  # fmt: skip
        command(*words.split())
        path = f"out/{name}.safetensors"
        found[name] = {
            "command": words, "metadata": read_safetensors(Path(path))[0],
            "inspect": json.loads(command("inspect", path, "--json").replace(str(here), PLACE)),
        }  # fmt: skip
        if not name.startswith(("lora-merge", "lora-resize", "lora-convert", "convert")):
            found[name]["import"] = json.loads(
                command("import", path, "--models", M, "--json").replace(str(here), PLACE)
            )
    (HERE / "metadata.json").write_text(json.dumps(found, indent=0))


RESUMABLE = "resumable.yaml"


def make_resumable(here: Path) -> None:
    """What a merge of toys leaves that is stopped when it has finished some tensors: part and journal."""
    import threading

    from unetscope.checkpoints import resumable
    from unetscope.checkpoints.stream import Cancelled
    from unetscope.merge import Recipe, merge

    resumable._EVERY = 0.0
    cancel, seen = threading.Event(), []

    def stop(done: int, total: int, key: str) -> None:
        seen.append(key)
        if done > total // 2:
            cancel.set()

    from unetscope.checkpoints.checkpoint import Checkpoint

    read = Checkpoint.read_raw

    def counted(*arguments):
        seen.append(1)
        if len(seen) > 25:
            cancel.set()
        read(*arguments)

    Checkpoint.read_raw = counted
    recipe = Recipe.load("recipes/method-train_difference.yaml")
    with contextlib.suppress(Cancelled):
        merge(
            recipe, here / "resumable" / "out.safetensors", resumable=True, reproducible=True, cancel=cancel, threads=1
        )
    Checkpoint.read_raw = read
    print("resumable:", os.listdir(here / "resumable"))
    shutil.copytree(here / "resumable", HERE / "resumable", dirs_exist_ok=True)


# -- searches -------------------------------------------------------------------------------------------------------------

OBJECTIVE = """
import os
import signal
from pathlib import Path

ASKED = Path("asked.txt")


def score(weights):
    count = len(ASKED.read_text().splitlines()) if ASKED.exists() else 0
    with ASKED.open("a") as file:
        file.write("x\\n")
    if os.environ.get("DIE_AT") == str(count):
        os.kill(os.getpid(), signal.SIGKILL)
    numbers = [x if isinstance(x, float) else len(x) / 10 for x in weights.values()]
    return -sum((x - 0.3) ** 2 for x in numbers)


def with_recipe(weights, recipe):
    return score(weights) + len(recipe.models) / 10
"""
PAINT = """
import re

from PIL import Image


def paint(model, shots):
    numbers = [float(x) for x in re.findall(r": (0\\.\\d+)", model.to_yaml())]
    red = int(255 * sum(numbers) / max(len(numbers), 1)) % 256
    return [Image.new("RGB", (8, 8), (red, shot.seed % 256, 40)) for shot in shots]
"""
REWARD = """
from unetscope.search.rewards import Reward


class Red(Reward):
    measures = "how red an image is"
    is_preference = False

    def score(self, images, prompts):
        return [image.getpixel((0, 0))[0] / 255 - abs(image.getpixel((0, 0))[1] - 90) / 1000 for image in images]
"""
STUDIES = {
    "finished": """
title: finished
parameters: {alpha: {free: [0, 1], per: block}, sharpness: {free: [0, 2], step: 0.5}, kind: {choose: [one, three]}}
family: sd1
objective: objective.py:score
direction: maximise
optimiser: {name: tpe, seed: 3, start: 4, start_points: latin}
trials: 14
stop: {patience: 100, hours: 10, target: 100, stuck: 5, failures: 3}
""",
    "half": """
parameters: {x: {free: [0, 1]}, y: {free: [0, 1]}}
objective: objective.py:score
optimiser: {name: random, seed: 1, start: 3}
trials: 12
""",
    "pictures": """
title: pictures
recipe:
  models: {photo: ../models/sd1-photo.safetensors, anime: ../models/sd1-anime.safetensors}
  steps:
    mix:
      method: weighted_sum
      inputs: [photo, anime]
      alpha: {free: [0, 1], per: [BASE, IN*, M00, OUT*]}
payloads:
  steps: 8
  payloads: [{prompt: a castle, weight: 2}, {prompt: "a {red|blue} bird", seed: 7}]
seeds: [1, 2]
generator: {kind: python, function: "paint.py:paint", takes: recipe}
reward: {kind: "reward.py:Red"}
baselines: [0.5, GRAD_V, {warm: {mix.alpha.M00: 0.9}}]
optimiser: {name: cmaes, seed: 2}
trials: 9
pruning: {p: 0.1, after: 4}
images: best
batch: 2
confirm: {top: 2, seeds: [101, 102], confidence: 0.9}
""",
    "choices": """
recipe:
  models: {a: ../models/sd1-ink.safetensors, b: ../models/sd1-photo.safetensors, c: ../models/sd1-base.safetensors}
  steps:
    mix:
      method: {choose: [weighted_sum, tensor_sum]}
      inputs: [a, b]
      alpha: {IN04-IN08: {free: [0, 1]}, OUT*: {free: [0, 1], per: block}, M00: 0.3}
    result: {method: weighted_average, inputs: [mix, b, c], weights: [{free: [0, 1]}, {free: [0, 1], step: 0.25}, 0.2]}
  result: result
  components: {vae: {choose: [a, c]}}
objective: objective.py:with_recipe
direction: maximise
optimiser: qmc
prior: [../runs/prior.csv]
trials: 20
""",
    "diffusers": """
recipe: recipe.yaml
payloads: cards/
seeds: [1]
generator: {kind: diffusers, batch: 6, device: cpu, dtype: fp32, threads: 1}
reward:
  kind: composite
  join: mean
  parts: [{kind: features, weight: 2}, {kind: "reward.py:Red"}]
optimiser: {name: gp, start: 4}
baselines: [GRAD_A]
trials: 30
stop: {patience: 27}
pruning: true
confirm: true
images: all
""",
    "web_ui": """
recipe: recipe.yaml
payloads: [cards/castle.json, {prompt: a red bird, steps: 20, weight: 2, negative_prompt: blur, cfg_scale: 5, width: 64, height: 64}]
generator: {kind: web_ui, url: "http://127.0.0.1:1", models_folder: cards, timeout: 5, retries: 1, restore: true}
reward: {kind: http, url: "http://127.0.0.1:1/score", timeout: 5, retries: 1}
optimiser: {name: random, seed: 0}
trials: 5
images: none
""",
    "tree": """
title: tree
tree:
  models: {m1: ../models/sd1-ink.safetensors, m2: ../models/sd1-photo.safetensors, m3: ../models/sd1-anime.safetensors}
  step: {method: weighted_sum, alpha: {free: [0, 1], per: [BASE, IN*, M00, OUT*]}}
  nodes: {ab: [m1, m2], top: {inputs: [ab, m3], alpha: {free: [0, 1]}}}
objective: objective.py:with_recipe
optimiser: {name: random, seed: 4}
trials: 5
""",
}
STUDY_RECIPE = """
models: {photo: ../models/sd1-photo.safetensors, anime: ../models/sd1-anime.safetensors}
steps:
  mix: {method: weighted_sum, inputs: [photo, anime], alpha: {preset: GRAD_V, scale: {free: [0, 1]}}}
"""
CARD = {"prompt": "a castle", "steps": 8, "cfg_scale": 4, "width": 64, "height": 64, "sampler_name": "DDIM", "seed": -1}


def make_studies(here: Path) -> None:
    """Studies of every kind, and the run folders of those that need nothing but this process."""
    import socket
    import subprocess

    folder = here / "studies"
    (folder / "cards").mkdir(parents=True)
    for name, text in STUDIES.items():
        (folder / f"{name}.yaml").write_text(text.lstrip("\n"))
    files = {"objective.py": OBJECTIVE, "paint.py": PAINT, "reward.py": REWARD, "recipe.yaml": STUDY_RECIPE}
    for name, text in files.items():
        (folder / name).write_text(text.lstrip("\n"))
    (folder / "cards" / "castle.json").write_text(json.dumps(CARD))
    labels = [f"IN{n:02d}" for n in range(12)] + ["M00", "OUT"] + [f"OUT{n:02d}" for n in range(12)] + ["TIME_EMBED"]
    log = [",".join([*map(str, range(27)), "score", "eval_times", "iter_times"])]
    log += [
        ",".join([*(f"{(7 * i + 3 * t) % 10 / 10}" for i in range(len(labels))), f"0.{t}", "1", "2"]) for t in range(3)
    ]
    (here / "runs").mkdir()
    (here / "runs" / "prior.csv").write_text("\n".join(log) + "\n")

    def search(*words: str, **more: str) -> int:
        done = subprocess.run(
            [sys.executable, "-m", "unetscope", "search", *words],
            cwd=folder,
            env=os.environ | more,
            capture_output=True,
            text=True,
        )
        print("search", *words, done.returncode, done.stderr[-500:])
        (folder / "asked.txt").unlink(missing_ok=True)
        return done.returncode

    search("finished.yaml", "-o", "../runs/finished")
    search("half.yaml", "-o", "../runs/half", DIE_AT="7")
    search("pictures.yaml", "-o", "../runs/pictures")
    search("tree.yaml", "-o", "../runs/tree")
    search("report", "../runs/pictures", "-o", "../runs/report")
    shutil.copytree(folder, HERE / "studies", ignore=shutil.ignore_patterns("__pycache__"))
    for path in sorted((here / "runs").rglob("*")):
        if path.is_dir() or path.suffix == ".lock" or "report" in path.parts:
            continue
        to = HERE / "runs" / path.relative_to(here / "runs").as_posix().replace(socket.gethostname(), "box")
        to.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes()
        if path.suffix != ".png":
            data = data.replace(socket.gethostname().encode(), b"box").replace(str(here).encode(), PLACE.encode())
        to.write_bytes(data)
    (HERE / "runs" / "report.csv").write_bytes((here / "runs" / "report" / "trials.csv").read_bytes())


# -- what the app keeps -----------------------------------------------------------------------------------------------------


def make_app(here: Path) -> None:
    """Jobs, a draft, settings, and what was measured."""
    from streamlit.testing.v1 import AppTest

    from unetscope.dashboard import jobs, shell, worker
    from unetscope.dashboard.folders import choose_folders
    from unetscope.dashboard.library import identity_of
    from unetscope.dashboard.measuring import identity_for
    from unetscope.dashboard.tasks import LANES

    shell.READ_SECONDS = 3600.0
    jobs.start_worker = lambda lane, force=False: None
    models = here / "models"
    choose_folders(str(models))
    os.environ["UNETSCOPE_MODELS"] = str(models)
    # A draft, and a merge that was started from it.
    at = AppTest.from_string("from unetscope.dashboard.pages import merge\nmerge.show()", default_timeout=600).run()
    at.selectbox(key="m.method").set_value("add_difference").run()
    at.selectbox(key="m.model.c").set_value("sd1-base.safetensors")
    at.selectbox(key="m.model.b").set_value("sd1-photo.safetensors")
    at.selectbox(key="m.output.dtype").set_value("fp32")
    at.text_input(key="m.name").set_value("out")
    for text in ("IN05: 0.9", "IN06: 0.25"):
        at.text_area(key="m.paste").set_value(text)
        next(b for b in at.button if b.label.startswith("Use them")).click().run()
    (draft,) = (here / "state" / "drafts").glob("*.json")
    toys = [str(models / f"toy-{name}.safetensors") for name in ("base", "ink", "photo")]
    recipe = {
        "models": {"a": toys[1], "b": toys[2]},
        "steps": {"mix": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.3}},
    }
    merge = {"recipe": recipe, "output": str(models / "made.safetensors"), "overwrite": False}
    jobs.submit("merge", "Merge made.safetensors", merge, origin=draft.stem)
    worker.work("merge")
    jobs.submit("merge", "Merge made.safetensors", merge, origin=draft.stem)  # it exists already
    worker.work("merge")
    jobs.submit("statistics", "Measure toy-ink", {"file": toys[1]}, identity="a")
    jobs.submit("difference", "Compare two toys", {"a": toys[0], "b": toys[1], "base": None}, identity="b")
    jobs.submit("comparison", "Compare three toys", {"files": toys, "reference": None}, identity="c")
    jobs.submit(
        "trace",
        "Trace made",
        {"merged": str(models / "made.safetensors"), "base": None, "among": toys[1:]},
        identity="d",
    )
    jobs.submit("scan", "Scan toy-ink", {"files": [toys[1]]}, identity="e")
    for lane in LANES:
        worker.work(lane)
    waiting = jobs.submit("statistics", "Measure toy-photo", {"file": toys[2]}, identity="f")
    jobs.cancel(waiting.id)
    AppTest.from_string("from unetscope.dashboard.pages import library\nlibrary.show()", default_timeout=600).run()
    for job in jobs.listed():
        print(job.title, job.status, job.error)

    # What was swept over on the way to the draft is nobody's.
    for job in jobs.listed("gram"):
        jobs.forget(job.id)

    def kept(path: Path, to: Path) -> None:
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(path.read_text().replace(str(here), PLACE))

    for path in sorted((here / "state").rglob("*.json")) + sorted((here / "state").rglob("cancel")):
        kept(path, HERE / "state" / path.relative_to(here / "state"))
    found = []
    measured = {
        "statistics": [toys[1]], "difference": [toys[0], toys[1], None], "comparison": [*toys, None],
        "trace": [str(models / "made.safetensors"), None, *toys[1:]],
    }  # fmt: skip
    for kind, files in measured.items():
        identity = identity_for(kind, [identity_of(Path(f)) if f else None for f in files])
        path = here / "cache" / kind / f"{identity}.json"
        found.append(
            {"folder": kind, "files": [f and Path(f).name for f in files], "kept": json.loads(path.read_text())}
        )
    (HERE / "cache").mkdir(exist_ok=True)
    (HERE / "cache" / "measured.json").write_text(json.dumps(found).replace(str(here), PLACE))
    for name in ("sha256.json", "library.json"):
        kept(here / "cache" / name, HERE / "cache" / name)
    scans = {}
    for path in (here / "cache" / "scans").glob("*.json"):
        for model in models.glob("*.safetensors"):
            if path.stem == hashlib.sha256(identity_of(model).encode()).hexdigest()[:32]:
                scans[model.name] = json.loads(path.read_text())
    (HERE / "cache" / "scans.json").write_text(json.dumps(scans).replace(str(here), PLACE))
    shutil.copy(models / "made.safetensors", HERE / "merged" / "made.safetensors")
    print(sorted(p.name for p in (here / "cache").iterdir()))


# -- small files that people write ----------------------------------------------------------------------------------------------

WEIGHTS = {
    "blocks.yaml": "{default: 0.25, IN04-IN08: 0.7, OUT*: 0.3, NOT M00: 0}\n",
    "vector.txt": ",".join(f"{n / 26:.2f}" for n in range(26)) + "\n",
    "lines.txt": "IN04-IN08: 0.7; OUT*: 0.3\n",
}


VALUES = {
    "labels.csv": "label,relative_l2\nIN05,0.125\nM00,0.3\nOUT04,\n",
    "modules.json": json.dumps({"IN07": 0.125, "M00": None, "OUT02": 0.5}) + "\n",
}


def make_small_files() -> None:
    """Block weights, values to colour by, and what other tools write beside models: read by 0.1.0 as they are."""
    for folder, texts in (("weights", WEIGHTS), ("values", VALUES), ("beside", beside())):
        (HERE / folder).mkdir()
        for name, text in texts.items():
            (HERE / folder / name).write_text(text)


def beside() -> dict[str, str]:
    """A model site's record, sha256sum's output, and the web UI's cache."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [write_model(f"toy-{name}", Path(folder)) for name in ("base", "ink", "photo")]
        base, ink, photo = (hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    site = {"id": 1, "files": [{"name": "toy-ink.safetensors", "hashes": {"SHA256": ink.upper()}}]}
    web_ui = {"hashes": {"checkpoint/toy-photo.safetensors": {"mtime": CHANGED / 1e9, "sha256": photo}}}
    return {
        "toy-base.sha256": f"{base}  toy-base.safetensors\n", "toy-ink.civitai.info": json.dumps(site),
        "cache.json": json.dumps(web_ui),
    }  # fmt: skip


def main() -> None:
    """Make everything anew."""
    for path in HERE.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    make_layouts()
    make_recipes()
    make_commands()
    make_small_files()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder).resolve()
        os.environ |= {"UNETSCOPE_CACHE": str(here / "cache"), "UNETSCOPE_STATE": str(here / "state")}
        for name in ("models", "loras", "merged", "out", "resumable"):
            (here / name).mkdir()
        shutil.copytree(HERE / "recipes", here / "recipes")
        shutil.copytree(HERE / "weights", here / "weights")
        os.chdir(here)
        for name in MODELS:
            write_model(name, here / "models")
        make_loras()
        for path in (here / "loras").iterdir():
            os.utime(path, ns=(CHANGED, CHANGED))
        make_merged(here)
        shutil.copytree(here / "loras", HERE / "loras")
        shutil.copytree(here / "merged", HERE / "merged")
        make_json(here)
        merge_recipes(here)
        make_resumable(here)
        make_studies(here)
        make_app(here)


if __name__ == "__main__":
    main()
