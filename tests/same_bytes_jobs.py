"""What `same_bytes.py` runs from both checkouts: command lines and recipes, as tables, and the inputs that they read.

In a command line `@name` is the input `in/name.safetensors`; `{out}` begins the paths that a job writes, `{file}` is
`{out}.safetensors`, and `{text}` begins the path of the job's text. Commands stand in lines of their own. A job that writes no
file is compared by what it prints. In a recipe a model or LoRA is called like its input.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Commands that make the inputs, in this order. `same_bytes.py` adds CKPTS, LORAS and DERIVED.
INPUTS = """
demo-checkpoint sd1 --seed 1 -o @sd1-base
demo-checkpoint sd1 --seed 11 --finetune-of @sd1-base -o @sd1-ink
demo-checkpoint sd1 --seed 12 --finetune-of @sd1-base -o @sd1-photo
demo-checkpoint sd1 --seed 13 --finetune-of @sd1-base --theme 1 -o @sd1-anime
demo-checkpoint sd1 --seed 15 --finetune-of @sd1-base --dtype fp32 -o @sd1-fp32
demo-checkpoint sd1 --seed 16 --finetune-of @sd1-base --dtype bf16 -o @sd1-bf16
demo-checkpoint sd1 --seed 17 --finetune-of @sd1-base --dtype fp8_e4m3 -o @sd1-fp8
demo-checkpoint sd1 --seed 18 --in-channels 9 -o @sd1-inpainting
demo-checkpoint sd2 --seed 2 -o @sd2-base
demo-checkpoint sd2 --seed 21 --finetune-of @sd2-base -o @sd2-ink
demo-checkpoint sdxl --seed 3 -o @sdxl-base
demo-checkpoint sdxl --seed 31 --finetune-of @sdxl-base -o @sdxl-ink
demo-checkpoint sdxl --seed 32 --finetune-of @sdxl-base -o @sdxl-photo
demo-checkpoint sdxl --seed 33 --prediction v -o @sdxl-v
demo-checkpoint sdxl_refiner --seed 4 -o @refiner-base
demo-checkpoint sdxl_refiner --seed 41 --finetune-of @refiner-base -o @refiner-ink
convert @sd1-photo in/sd1-folder --to diffusers
convert @sdxl-photo in/sdxl-folder --to diffusers
merge weighted-sum @sd1-ink @sd1-photo --alpha 0.3 --hash -o @sd1-mix
""".strip().splitlines()

# name -> family, seed, dtype of a pickle.
CKPTS = {"sd1-old": ("sd1", 14, "fp32"), "sdxl-old": ("sdxl", 34, "fp16")}

# name -> family, style, kind, alpha.
LORAS = {
    "kohya": ("sd1", "kohya", "lora", 2.0),
    "single": ("sd1", "single-file", "lora", None),
    "diffusers": ("sd1", "diffusers", "lora", None),
    "peft": ("sd1", "peft", "lora", None),
    "numbered": ("sd1", "numbered", "lora", None),
    "locon": ("sd1", "kohya", "locon", 3.0),
    "loha": ("sd1", "kohya", "loha", 2.0),
    "lokr": ("sd1", "kohya", "lokr", 2.0),
    "ia3": ("sd1", "kohya", "ia3", None),
    "full": ("sd1", "kohya", "full", None),
    "norm": ("sd1", "kohya", "norm", None),
    "dora": ("sd1", "peft", "dora", None),
    "sd2": ("sd2", "kohya", "lora", 4.0),
    "xl": ("sdxl", "kohya", "lora", 2.0),
    "xl-single": ("sdxl", "single-file", "locon", 2.0),
}

VAE, EMA = "first_stage_model.", "model_ema."
# What becomes of a tensor's name, None for what is left out; more than one name for one that is stored twice.
DERIVED = {
    "sd1-ema": (
        "sd1-ink",
        lambda key: (
            [key, EMA + key.removeprefix("model.").replace(".", "")] if key.startswith("model.diffusion") else [key]
        ),
    ),
    "sd1-unet": ("sd1-anime", lambda key: [key] if key.startswith("model.diffusion") else []),
    "sd1-vae": ("sd1-inpainting", lambda key: [key.removeprefix(VAE)] if key.startswith(VAE) else []),
    "sdxl-vae": ("sdxl-v", lambda key: [key] if key.startswith(VAE) else []),
}


@dataclass(frozen=True)
class Job:
    """One line of the table.

    Attributes:
        name: a group, a slash, and what is special.
        commands: command lines.
        text: of the file that they read as `{text}`.
    """

    name: str
    commands: tuple[str, ...]
    text: str = ""

    @property
    def slug(self) -> str:
        """The name as that of a folder."""
        return re.sub(r"[^a-z0-9_.=-]+", "-", self.name.casefold())

    @property
    def printed(self) -> bool:
        """Whether what it prints is what it makes."""
        return not any("{out}" in command or "{file}" in command for command in self.commands)


def all_jobs(methods: list[dict]) -> list[Job]:
    """The whole table; `methods` is what `unetscope methods --json` prints."""
    jobs = [recipe_job(f"method/{name}", text) for name, text in method_recipes(methods).items()]
    jobs += [recipe_job(f"convention/{name}", text) for name, text in convention_recipes().items()]
    jobs += [recipe_job(name, text) for name, text in RECIPES.items()]
    jobs += [Job(name, tuple(commands.strip().splitlines())) for name, commands in COMMANDS.items()]
    jobs += [Job(name, tuple(commands.strip().splitlines()), text) for name, (commands, text) in IMPORTS.items()]
    jobs += [
        Job(f"lora/bake {name}", (f"{BAKE.format(family=family, lora=name)} -o {{file}}",))
        for name, (family, *_) in LORAS.items()
    ]
    jobs += [Job(f"inspect/{path}", (f"inspect in/{path} --json",)) for path in LOOKED_AT]
    names = [job.slug for job in jobs]
    assert len(names) == len(set(names)), "two jobs have one name"
    return jobs


# -- recipes ------------------------------------------------------------------------------------------------------------

MERGE = "merge run {text}.yaml --no-fsync --reproducible -o {file}"
BAKE = "lora bake @{family}-base --lora @{lora}.lora:0.8:0.5 --no-fsync --reproducible"
FOLDERS, PICKLES = ("sd1-folder", "sdxl-folder"), tuple(CKPTS)


def recipe_job(name: str, text: str) -> Job:
    """A merge by a recipe, with the inputs that it names put on top."""
    words = dict.fromkeys(re.findall(r"[\w.-]+", text))
    lines = ["models:", *(f"  {word}: ../{MODELS[word]}" for word in words if word in MODELS)]
    if loras := [word for word in words if word.endswith(".lora")]:
        families = {word: LORAS[word.removesuffix(".lora")][0] for word in loras}
        lines += ["loras:", *(f"  {x}: {{path: ../in/{x}.safetensors, base: {families[x]}-base}}" for x in loras)]
    return Job(name, (MERGE,), "\n".join([*lines, text.strip(), ""]))


def _model_files() -> dict[str, str]:
    single = re.findall(r"-o @(\S+)", "\n".join(INPUTS))
    files = {name: f"in/{name}.safetensors" for name in (*single, *DERIVED, "sd1-nan")}
    return files | {name: f"in/{name}" for name in FOLDERS} | {name: f"in/{name}.ckpt" for name in PICKLES}


MODELS = _model_files()
TUNES = ["sd1-ink", "sd1-photo", "sd1-anime"]
# What stands for an input that a method names; a difference is a step of its own.
NAMED = {"base": "sd1-base", "a": "sd1-ink", "b": "sd1-photo", "c": "sd1-base", "x": "sd1-anime"}
DIFFERENCE = "{method: subtract, inputs: [sd1-photo, sd1-base]}"
# Inputs of methods that take something special, and the parameters that have no default.
INPUTS_OF = {
    "add": f"[sd1-ink, {DIFFERENCE}]",
    "fallback": "[sd1-unet, sd1-base]",
    "exchange_ema": "[sd1-ema]",
    "perpendicular": f"[{{method: subtract, inputs: [sd1-ink, sd1-base]}}, {DIFFERENCE}]",
}
# Their results are differences: they are added to the base.
DIFFERENCES = ("subtract", "perpendicular")


def method_recipes(methods: list[dict]) -> dict[str, str]:
    """Each method with what it takes by default, with other numbers, by block, and with each other choice."""
    recipes = {}
    for method in methods:
        name, parameters = method["name"], method["parameters"]
        fixed = {
            key: p["choices"][0] for key, p in parameters.items() if p["kind"] == "choice" and p["default"] is None
        }
        fixed |= {"weights": "[0.5, 0.3, 0.2]"} if name == "weighted_average" else {}
        recipes[f"{name}"] = _method_step(method, fixed)
        numbers = {key: _other(p) for key, p in parameters.items() if p["kind"] != "choice"}
        if numbers:
            recipes[f"{name} other numbers"] = _method_step(method, fixed | numbers)
        by_block = {k: _by_block(p) for k, p in parameters.items() if p["kind"] in ("number", "numbers")}
        if by_block:
            recipes[f"{name} by block"] = _method_step(method, fixed | by_block)
        for key, parameter in parameters.items():
            for choice in parameter.get("choices", []):
                if choice not in (parameter["default"], fixed.get(key)):
                    recipes[f"{name} {key}={choice}"] = _method_step(method, fixed | {key: choice})
    return recipes


def _method_step(method: dict, parameters: dict[str, str]) -> str:
    name = method["name"]
    inputs = [NAMED[x] for x in method["inputs"] or [] if x in NAMED] + (TUNES if method["variadic"] else [])
    given = "".join(f", {key}: {value}" for key, value in parameters.items())
    step = f"{{method: {name}, inputs: {INPUTS_OF.get(name) or '[' + ', '.join(inputs) + ']'}{given}}}"
    if name in DIFFERENCES:
        step = f"{{method: add, inputs: [sd1-base, {step}]}}"
    return f"steps:\n  result: {step}"


def _other(parameter: dict) -> str:
    """A value that is not the default."""
    if parameter["kind"] == "numbers":
        return "[0.7, 0.5, 0.3]"
    if parameter["kind"] == "switch":
        return str(not parameter["default"]).lower()
    if parameter["kind"] == "integer":
        return str(parameter["default"] + 7)
    return f"{parameter['default'] * 0.7 or 0.25:.3g}"


def _by_block(parameter: dict) -> str:
    if parameter["kind"] == "numbers":
        return "[{IN00-IN05: 0.6, BASE: 0.4, default: 0.2}, 0.5, {default: 0.3, OUT*: 0.1, attn1: 0.25}]"
    value = parameter["default"] or 0.25
    return f"{{default: {value:.3g}, IN*: {value * 0.8:.3g}, M00: {value * 0.5:.3g}, OUT03-OUT08 attn2: {value * 0.6:.3g}}}"


# Lengths of the vectors that each convention reads.
VECTORS = {
    "supermerger": {"sd1": (26, 25), "sd2": (26,), "sdxl": (20, 19, 21), "refiner": (26,)},
    "supermerger-old": {"sd1": (26,), "sdxl": (20,)},
    "merge-block-weighted": {"sd1": (26, 25), "sdxl": (20,)},
    "sd-mecha": {"sd1": (26,), "sdxl": (20, 21)},
    "automb": {"sd1": (27,), "sd2": (27,), "sdxl": (22,)},
    "automb-recipe": {"sd1": (27,), "sdxl": (22,)},
    "comfyui": {"sd1": (30,), "sdxl": (24,)},
    "lbw": {"sd1": (17, 26), "sdxl": (12, 20)},
    "lbw-kohya": {"sd1": (17, 26), "sd2": (17,), "sdxl": (12, 20)},
}


def convention_recipes() -> dict[str, str]:
    """A block-weighted merge in every convention, of every family and length of vector that it has."""
    recipes = {}
    for convention, families in VECTORS.items():
        for family, length in ((family, n) for family, lengths in families.items() for n in lengths):
            step = (
                f"{{method: weighted_sum, inputs: [{family}-base, {family}-ink], alpha: {_vector(convention, length)}}}"
            )
            recipes[f"{convention} {family} {length}"] = f"steps:\n  result: {step}\nconvention: {convention}"
    return recipes


def _vector(convention: str, length: int) -> list[float]:
    """Numbers that all differ, but for the three of the middle block in ComfyUI's vectors."""
    numbers = [round((7 * i % length + 1) / (length + 1), 3) for i in range(length)]
    if convention == "comfyui":
        middle = length // 2 - 1
        numbers[middle : middle + 3] = [0.45] * 3
    return numbers


def _numbers(count: int) -> str:
    return ",".join(map(str, _vector("", count)))


def _step(step: str, rest: str = "") -> str:
    return f"steps:\n  result: {{method: {step}}}\n{rest}"


def _sum(alpha: str, family: str = "sd1", rest: str = "") -> str:
    return _step(f"weighted_sum, inputs: [{family}-base, {family}-ink], alpha: {alpha}", rest)


RECIPES = {
    "preset/GRAD_V": _sum("GRAD_V"),
    "preset/GRAD_A of sdxl": _sum("GRAD_A", "sdxl"),
    "preset/SMOOTHSTEP*2 of sd2": _sum("SMOOTHSTEP*2", "sd2"),
    "preset/COSINE of the refiner": _sum("COSINE", "refiner"),
    "preset/scaled and changed": _sum("{preset: GRAD_V, scale: 0.5, base: 0.3, OUT: 1}"),
    "preset/vector, scaled": _sum(f"{{vector: {_vector('', 26)}, scale: 0.7, M00: 0.1}}"),
    "preset/lora block weights": _sum("{preset: OUTALL, convention: lbw}"),
    "selector/ranges, globs, exceptions": _sum("{IN04-IN08: 0.7, OUT*: 0.3, NOT M00: 0}"),
    "selector/text encoders": _sum("{BASE: 0.4, CLIP_G: 0.2}", "sdxl"),
    "selector/kinds": _sum("{conv: 0.1, skip: 0.2, norm: 0.3, emb: 0.4, proj: 0.5, attn1: 0.6, attn2: 0.7, ff: 0.8}"),
    "selector/kinds of sdxl": _sum("{conv: 0.1, norm: 0.3, emb: 0.4, attn1: 0.6, attn2.k: 0.7, ff.in: 0.8}", "sdxl"),
    "selector/kinds in blocks": _sum("{attn1: 0.6, IN04-IN08 attn2.k: 0.4, OUT* attn1.q: 0.9, M00 ff: 0.2}"),
    "selector/keys": _sum(r"""{"key:*.proj_in.*": 0.1, '/blocks\.[0-4]\./': 0.2, default: 0.6}"""),
    "selector/labels without a slot": _sum("{default: 0.5, TIME_EMBED: 0.1, LABEL_EMB: 0.2, OUT: 0.9}", "sdxl"),
    "selector/VAE": _sum("{default: 0.5, VAE: 0.25}"),
    "selector/refiner": _sum("{IN00-IN05: 0.2, M00: 0.9, BASE: 0.1, attn2: 0.4}", "refiner"),
    "gradient/linear": _sum("{IN00-OUT11: {gradient: [0, 1]}}"),
    "gradient/cosine with stops": _sum("{IN00-OUT08: {gradient: [0, 1, 0.3], curve: cosine}, BASE: 0.2}", "sdxl"),
    "dtype/fp16": _sum("0.3", rest="output: {dtype: fp16}"),
    "dtype/bf16": _sum("0.3", rest="output: {dtype: bf16}"),
    "dtype/fp32": _sum("0.3", rest="output: {dtype: fp32}"),
    "dtype/fp8_e4m3": _sum("0.3", rest="output: {dtype: fp8_e4m3}"),
    "dtype/keep": _step("uniform, inputs: [sd1-bf16, sd1-ink]", "output: {dtype: keep}"),
    "dtype/of all kinds": _step("uniform, inputs: [sd1-fp32, sd1-bf16, sd1-fp8, sd1-ink]", "output: {dtype: fp32}"),
    "output/position ids restored": _sum("0.3", rest="output: {position_ids: restore}"),
    "output/NaN is 0": _step("uniform, inputs: [sd1-nan, sd1-ink]", "output: {nan: zero}"),
    "output/NaN is copied": _step("uniform, inputs: [sd1-nan, sd1-ink]", "output: {nan: copy}"),
    "output/overflow is clamped": _step(
        "add_difference, inputs: [sd1-ink, sd1-photo, sd1-base], alpha: 1e7", "output: {overflow: clamp}"
    ),
    "output/predictions mixed": _step("uniform, inputs: [sdxl-v, sdxl-base]", "output: {mix_predictions: true}"),
    "input/ckpt": _step("weighted_sum, inputs: [sd1-base, sd1-old], alpha: 0.4"),
    "input/ckpt first": _step("ties, inputs: [sd1-old, sd1-ink, sd1-photo]"),
    "input/ckpt of sdxl": _step("uniform, inputs: [sdxl-old, sdxl-ink]"),
    "input/diffusers folder": _step("weighted_sum, inputs: [sd1-folder, sd1-ink], alpha: 0.4"),
    "input/diffusers folder of sdxl": _step("train_difference, inputs: [sdxl-ink, sdxl-folder, sdxl-base]"),
    "input/inpainting": _step("add_difference, inputs: [sd1-inpainting, sd1-ink, sd1-base]"),
    "input/three containers": _step("uniform, inputs: [sd1-folder, sd1-old, sd1-ink]"),
    "family/ties of sdxl": _step("ties, inputs: [sdxl-base, sdxl-ink, sdxl-photo], density: 0.3"),
    "family/dare of sdxl": _step("dare, inputs: [sdxl-base, sdxl-ink, sdxl-photo], seed: 7"),
    "family/slerp of sd2": _step("slerp, inputs: [sd2-base, sd2-ink], alpha: 0.3"),
    "family/iso_c of sdxl": _step("iso_c, inputs: [sdxl-base, sdxl-ink, sdxl-photo]"),
    "family/clip_g of sdxl": _step("pick_component, inputs: [sdxl-base, sdxl-ink], component: clip_g"),
    "family/clip_h of sd2": _step("pick_component, inputs: [sd2-base, sd2-ink], component: clip_h"),
    "family/geometric_median of the refiner": _step("geometric_median, inputs: [refiner-base, refiner-ink]"),
    "component/VAE merged": _sum("0.3", rest="components: {vae: merge}"),
    "component/VAE merged by its number": _sum(str(_vector("", 21)), "sdxl", "components: {vae: merge}"),
    "component/VAE of a model": _sum("0.3", rest="components: {vae: sd1-inpainting}"),
    "component/lone VAE": _sum("0.3", rest="components: {vae: ../in/sd1-vae.safetensors}"),
    "component/VAE of sdxl": _sum("0.3", "sdxl", "components: {vae: ../in/sdxl-vae.safetensors}"),
    "component/text encoders": _sum("0.3", rest="components: {text_encoders: sd1-photo}"),
    "component/CLIP_L of another family": _sum("0.3", rest="components: {clip_l: sdxl-ink}"),
    "component/UNET": _sum("0.3", rest="components: {unet: sd1-unet}"),
    "nested/steps": """
steps:
  mix: {method: weighted_sum, inputs: [sd1-photo, sd1-ink], alpha: {preset: GRAD_A, OUT03-OUT05: 0.8}}
  result: {method: add_difference, inputs: [mix, sd1-anime, sd1-base], alpha: 0.3}
result: result""",
    "nested/measured and turned": """
steps:
  consensus: {method: ties, inputs: [sd1-base, sd1-ink, sd1-photo, sd1-anime], density: 0.3}
  centre: {method: geometric_median, inputs: [sd1-ink, sd1-photo, sd1-anime]}
  result: {method: slerp, inputs: [consensus, centre], alpha: 0.5}
result: result""",
    "lora/in a recipe": """
steps:
  result:
    method: task_arithmetic
    inputs: [sd1-base, kohya.lora, loha.lora]
    weights: [0.8, {IN*: 0.3, OUT*: 0.6}]""",
    "lora/by its block weights": f"""
steps:
  result:
    method: task_arithmetic
    inputs: [sd1-base, peft.lora]
    weights: [{{vector: {_vector("", 17)}, convention: lbw, scale: 0.8, base: 0.8}}]""",
    "lora/in a step of sdxl": """
steps:
  mix: {method: uniform, inputs: [sdxl-base, sdxl-ink]}
  result: {method: add, inputs: [mix, xl.lora], alpha: 0.6}
result: result""",
    "lora/dare of models and a LoRA": _step("dare, inputs: [sd1-base, sd1-ink, locon.lora], density: 0.4"),
}  # fmt: skip

# -- commands -----------------------------------------------------------------------------------------------------------

MERGED = "--no-fsync -o {file}"
COMMANDS = {
    # Merges by options, with dates and names in their metadata.
    "merge/blocks": f'merge weighted-sum @sd1-ink @sd1-photo --blocks "IN04-IN08: 0.7; OUT*: 0.3" --alpha 0.5 {MERGED}',
    "merge/hashes": f"merge add-difference @sd1-ink @sd1-photo @sd1-base --alpha 0.7 --hash {MERGED}",
    "merge/history": f"merge uniform @sd1-mix in/sd1-old.ckpt in/sd1-folder --title Mixed {MERGED}",
    "merge/options": f"merge copy @sd1-ink --vae @sd1-vae --text-encoders @sd1-photo --dtype bf16 {MERGED}",
    "merge/convention": f'merge weighted-sum @sdxl-base @sdxl-ink --convention sd-mecha --blocks GRAD_V {MERGED}',
    "merge/LoRA": f"merge task-arithmetic @sd1-base @sd1-ink @kohya.lora --weights 0.5,0.8 {MERGED}",
    "merge/resumable": f"merge della @sd1-base @sd1-ink @sd1-photo --resumable {MERGED}",
    "merge/grid": "merge grid --unets @sd1-ink @sd1-photo --text-encoders @sd1-base @sd1-anime -o {out}",
    "merge/recipe saved": f"merge sum-twice @sd1-ink @sd1-photo @sd1-base --save-recipe {{out}}.yaml {MERGED}",
    "merge/dry run": "merge weighted-sum @sdxl-base @sdxl-ink --blocks GRAD_A -o nowhere.safetensors --dry-run --json",
    # Conversions, in every direction.
    "convert/ckpt to safetensors": "convert in/sd1-old.ckpt {file}",
    "convert/ckpt to a folder": "convert in/sd1-old.ckpt {out} --to diffusers",
    "convert/safetensors to a folder": "convert @sd1-ink {out} --to diffusers",
    "convert/sd2 to a folder": "convert @sd2-ink {out} --to diffusers",
    "convert/sdxl to a folder": "convert @sdxl-ink {out} --to diffusers",
    "convert/refiner to a folder": "convert @refiner-ink {out} --to diffusers",
    "convert/inpainting to a folder": "convert @sd1-inpainting {out} --to diffusers",
    "convert/folder to safetensors": "convert in/sd1-folder {file}",
    "convert/folder of sdxl to safetensors": "convert in/sdxl-folder {file}",
    "convert/folder with a donor": "convert in/sd1-folder {file} --donor @sd1-base",
    "convert/unet with a donor": "convert @sd1-unet {file} --donor @sd1-base",
    "convert/pruned": "convert @sd1-ema {file} --prune",
    "convert/position ids": "convert @sd1-ink {file} --fix-position-ids",
    **{f"convert/to {x}": f"convert @sd1-fp32 {{file}} --dtype {x}" for x in ("fp16", "bf16", "fp32", "fp8_e4m3")},
    "convert/fp8 to fp16": "convert @sd1-fp8 {file} --dtype fp16",
    # LoRAs.
    "lora/bake with block weights": "lora bake @sd1-base --lora @kohya.lora:0.8 --lora @peft.lora --lbw OUTALL --lbw 1 " + MERGED,
    "lora/bake with kohya's block weights": "lora bake @sdxl-base --lora @xl.lora --lbw-missing 1 "
    f"--lbw {_numbers(12)} {MERGED}",
    "lora/merge": "lora merge @kohya.lora:0.8 @peft.lora:0.5:0.2 -o {file}",
    "lora/merge at a rank": "lora merge @kohya.lora @loha.lora @lokr.lora --rank 3 --lbw ALL -o {file}",
    "lora/merge of sdxl": "lora merge @xl.lora @xl-single.lora --energy 0.9 -o {file}",
    "lora/merge that needs its base": "lora merge @ia3.lora @dora.lora --base @sd1-base --rank 4 -o {file}",
    "lora/resize": "lora resize @kohya.lora --rank 2 -o {file}",
    "lora/resize by energy": "lora resize @locon.lora --energy 0.8 --dtype fp32 -o {file}",
    "lora/extract": "lora extract @sd1-ink @sd1-base --rank 4 -o {file}",
    "lora/extract by block": 'lora extract @sd1-ink @sd1-base --conv --conv-rank 2 --ranks "IN*: 2; OUT*: 4" -o {file}',
    "lora/extract by energy": "lora extract @sd2-ink @sd2-base --energy 0.8 --no-text-encoders --style peft -o {file}",
    "lora/extract of sdxl": "lora extract @sdxl-ink @sdxl-base --rank 2 --style diffusers -o {file}",
    **{
        f"lora/convert {source} to {style}": f"lora convert @{source}.lora --to {style} -o {{file}}"
        for source, styles in {
            "kohya": ("single-file", "diffusers", "peft"), "peft": ("kohya",), "diffusers": ("kohya",), "numbered": ("peft",),
            "loha": ("single-file",), "sd2": ("diffusers",), "xl": ("peft",), "xl-single": ("kohya",),
        }.items() for style in styles
    },
    # Numbers about files.
    "table/stats": "stats @sd1-ink --by tensor --csv {out}.csv",
    "table/stats of sdxl": "stats @sdxl-ink --csv {out}.csv",
    "table/stats by kind": "stats in/sd1-old.ckpt --by kind --csv {out}.csv",
    "table/health": "stats @sd1-nan --json",
    "table/diff": "diff @sd1-base @sd1-ink --by tensor --csv {out}.csv",
    "table/diff of sdxl": "diff @sdxl-base in/sdxl-folder --csv {out}.csv",
    "table/diff of sd2": "diff @sd2-base @sd2-ink --by kind --csv {out}.csv",
    "table/diff of the refiner": "diff @refiner-base @refiner-ink --csv {out}.csv",
    "table/diff with a base": "diff @sd1-ink @sd1-photo --base @sd1-base --json",
    "table/compare": "compare @sd1-base @sd1-ink in/sd1-folder in/sd1-old.ckpt --csv {out}.csv",
    "table/compare with a reference": "compare @sd1-ink @sd1-photo --reference @sd1-base --by label --csv {out}.csv",
    "table/trace": "trace @sd1-mix --among @sd1-ink @sd1-photo @sd1-anime "
    "--base @sd1-base --csv {out}.csv --save-recipe {out}.yaml",
    "table/spectrum": "spectrum @sd1-base @sd1-ink --by layer --csv {out}.csv",
    **{f"table/layers of {family}": f"layers {family} -o {{out}}.csv" for family in ("sd1", "sd2", "sdxl", "sdxl_refiner")},
    "table/layers of a file": "layers @sd1-inpainting -o {out}.json",
    **{f"table/presets of {family}": f"presets {family} --json" for family in ("sd1", "sd2", "sdxl", "sdxl_refiner")},
    # Pictures.
    **{
        f"diagram/{family} by {level}": f"diagram {family} --level {level} -o {{out}}.svg"
        for family in ("sd1", "sd2", "sdxl", "sdxl_refiner") for level in ("block", "module", "layer")
    },
    "diagram/weights": "diagram sdxl --weights GRAD_V --convention sd-mecha -o {out}.svg",
    "diagram/a block": "diagram sd1 --level layer --block IN05 -o {out}.svg",
    "diagram/CLIP_L": "diagram sd1 --level layer --block CLIP_L -o {out}.svg",
    "diagram/VAE": "diagram sdxl --level layer --block VAE -o {out}.svg",
    "diagram/a file": "diagram @sd1-inpainting --theme dark -o {out}.svg",
    "diagram/values": "diff @sd1-base @sd1-ink --csv {out}.csv --diagram {out}.svg",
}  # fmt: skip

# -- other tools' recipes -----------------------------------------------------------------------------------------------

_TWO = "--inputs @sd1-ink @sd1-photo --models in"
_READ_AND_MERGE = (
    "import {{text}}.{suffix} {options} -o {{out}}.yaml\nmerge run {{out}}.yaml --no-fsync --reproducible -o {{file}}"
)


def _imported(suffix: str, options: str = "--models in") -> str:
    return _READ_AND_MERGE.format(suffix=suffix, options=options)


_MECHA = """version 0.1.0
model "in/sdxl-base.safetensors" model_config="sdxl-sgm" merge_space="weight"
model "in/sdxl-ink.safetensors" model_config="sdxl-sgm" merge_space="weight"
model "in/sdxl-photo.safetensors" model_config="sdxl-sgm" merge_space="weight"
merge "subtract" &1 &0
merge "weighted_sum" &0 &2 0.25
merge "add_difference" &4 &3 0.5
merge "fallback" &5 &0
"""
_MERGEKIT = """models:
  - {model: in/sd1-ink.safetensors, parameters: {weight: [{filter: attn1, value: 0.7}, {value: 0.4}]}}
  - {model: in/sd1-photo.safetensors, parameters: {weight: 0.6}}
base_model: in/sd1-base.safetensors
merge_method: ties
parameters: {density: 0.5, lambda: 1.1}
"""
_RECIPE = """models: {a: ../in/sd1-ink.safetensors, b: ../in/sd1-photo.safetensors, c: ../in/sd1-base.safetensors}
steps:
  mix: {method: weighted_sum, inputs: [a, b], alpha: GRAD_V}
  result: {method: train_difference, inputs: [mix, b, c], alpha: 0.4}
result: result
"""
_AUTOMB = "modelA=in/{family}-ink.safetensors\nmodelB=in/{family}-photo.safetensors\nmodelO=x.safetensors\n{numbers}\n"
_AUTOMB_LOG = f"{','.join(map(str, range(27)))},score,eval_times,iter_times\n{_numbers(27)},0.5,1,2\n"
_ELEMENTS = "IN05-OUT05:attn1 attn2:0.5\nNOT M00:proj_in:0.2\n:norm1:0.7\nM00::0.3\n"
# name -> commands, the text that they read.
IMPORTS = {
    "import/metadata": ("import @sd1-mix --models in -o {out}.yaml\nmerge run {out}.yaml --no-fsync --reproducible -o {file}", ""),
    "import/supermerger": (_imported("txt", _TWO), _numbers(26)),
    "import/supermerger's elements": (_imported("txt", _TWO), _ELEMENTS),
    "import/automb": (_imported("txt"), _AUTOMB.format(family="sd1", numbers=_numbers(27))),
    "import/automb of sdxl": (_imported("txt"), _AUTOMB.format(family="sdxl", numbers=_numbers(22))),
    "import/automb's log": (_imported("csv", _TWO), _AUTOMB_LOG),
    "import/mecha": (_imported("mecha"), _MECHA),
    "import/mergekit": (_imported("yaml"), _MERGEKIT),
    "import/export to mecha": ("export {text}.yaml -o {out}.mecha", _RECIPE.replace("GRAD_V", "0.4")),
    "import/lint": ("lint {text}.yaml --deep --json", _RECIPE),
    "import/predict": ("predict {text}.yaml --by label --csv {out}.csv", _RECIPE.replace("train_difference", "add_difference")),
    "diagram/a recipe": ("diagram {text}.yaml -o {out}.svg", _RECIPE),
}  # fmt: skip

LOOKED_AT = (
    *(f"{name}.safetensors" for name in ("sd1-base", "sd1-mix", "sd1-inpainting", "sd1-ema", "sd1-unet", "sd1-vae", "sd1-fp8")),
    *(f"{name}.safetensors" for name in ("sd2-base", "sdxl-base", "sdxl-v", "sdxl-vae", "refiner-base")),
    *(f"{name}.ckpt" for name in CKPTS), *FOLDERS,
    *(f"{name}.lora.safetensors" for name in LORAS),
)  # fmt: skip

# -- speed --------------------------------------------------------------------------------------------------------------

# name -> a narrow input, and how many times as wide it becomes.
SPEED_INPUTS = {
    "wide-base": ("sdxl-base", 5), "wide-ink": ("sdxl-ink", 5), "wide-photo": ("sdxl-photo", 5),
    "wider-ink": ("sdxl-ink", 10), "wider-photo": ("sdxl-photo", 10),
}  # fmt: skip
SPEED = {
    "weighted sum of two": "merge weighted-sum @wider-ink @wider-photo --no-fsync -o {file}",
    "TIES of two and their base": "merge ties @wide-base @wide-ink @wide-photo --no-fsync -o {file}",
    "stats": "stats @wide-ink --json",
    "inspect": "inspect @wide-ink",
    "--help": "--help",
}  # fmt: skip
