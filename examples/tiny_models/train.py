"""Trains the tiny models, from nothing, on a CPU: `python examples/tiny_models/train.py -o FOLDER`.

They are complete SD1 checkpoints with narrow channels, which draw what `drawings.py` draws. All have the same VAE and text
encoder. Of the base's captions half of the words are drawn by lot; its two fine-tunes were told the truth about one thing each.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from autoencoder import train_autoencoder
from denoiser import Lesson, material, train_unet
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from text_encoder import train_text_encoder
from transformers import CLIPTextModel, CLIPTokenizer

from unetscope.checkpoints.demo import write_demo
from unetscope.checkpoints.families.diffusers import scheduler_config
from unetscope.merge.convert import convert
from unetscope.search.generators.tokenizer import load_tokenizer, write_tokenizer

SEED = 1
BASE = Lesson(steps=1000, rate=2e-3, shape=0.5, colour=0.5)
FINE_TUNES = {
    "shape": Lesson(steps=400, rate=1e-3, shape=1.0, colour=0.0),
    "colour": Lesson(steps=700, rate=2e-3, shape=0.0, colour=1.0),
}


def main() -> None:
    """Train everything and write `tiny-base`, `tiny-shape` and `tiny-colour`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the three checkpoints")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # sums in another order would give other weights
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = load_tokenizer(write_tokenizer(Path(scratch), "clip_l"))
    vae = train_autoencoder(SEED, shown("autoencoder"))
    encoder = train_text_encoder(tokenizer, SEED, shown("text encoder"))
    given = material(vae, encoder, tokenizer, SEED)
    base = train_unet(BASE, given, SEED, shown("base"))
    save(folder / "tiny-base.safetensors", vae, encoder, tokenizer, base)
    for seed, (name, lesson) in enumerate(FINE_TUNES.items(), SEED + 1):
        unet = train_unet(lesson, given, seed, shown(name), start=base)
        save(folder / f"tiny-{name}.safetensors", vae, encoder, tokenizer, unet)


def shown(what: str) -> Callable[[int, int, float], None]:
    """Prints every hundredth step."""
    began = time.perf_counter()

    def show(step: int, steps: int, loss: float) -> None:
        if step % 100 == 0 or step == steps - 1:
            print(f"{what}: step {step:4} of {steps}, loss {loss:.3f}, {time.perf_counter() - began:.0f} s", flush=True)

    return show


def save(
    path: Path, vae: AutoencoderKL, encoder: CLIPTextModel, tokenizer: CLIPTokenizer, unet: UNet2DConditionModel
) -> None:
    """Write one complete checkpoint in fp16, with every key that SD1's training code wrote."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**scheduler_config()),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    with tempfile.TemporaryDirectory() as scratch:
        parts = Path(scratch, "parts")
        pipeline.save_pretrained(parts)
        donor = write_demo(
            Path(scratch, "donor.safetensors"), "sd1"
        )  # for the noise schedule, which is always the same
        convert(parts, path, dtype="fp16", donor=donor, overwrite=True)


if __name__ == "__main__":
    main()
