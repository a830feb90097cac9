"""CLIP's tokenizer without a download: the folder that transformers and diffusers read, made from CLIP's byte pair merges."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from ...checkpoints.families.parts.clip import TOKENS
from ..errors import SearchError

_MERGES = Path(__file__).parent / "clip_merges.txt.gz"
START, END = "<|startoftext|>", "<|endoftext|>"
# 256 bytes, each inside and at the end of a word; 48,894 merges; start and end.
SIZE = 49408
# OpenAI's encoders fill up with the end; OpenCLIP's with token 0.
PADS = {"clip_l": END, "clip_h": "!", "clip_g": "!"}


def merges() -> list[str]:
    """CLIP's byte pair merges (`i n`), in order."""
    with gzip.open(_MERGES, "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def vocabulary() -> dict[str, int]:
    """Token -> number."""
    letters = _byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(pair.replace(" ", "") for pair in merges())]
    return {token: number for number, token in enumerate([*tokens, START, END])}


def _byte_letters() -> list[str]:
    """A printable character for every byte, those that print themselves first: the order of the vocabulary's beginning."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in plain]
    return [*map(chr, plain), *(chr(256 + place) for place in range(len(hidden)))]


def write_tokenizer(folder: Path, encoder: str) -> Path:
    """Write the folder of a text encoder's tokenizer (`clip_l`, `clip_h`, `clip_g`)."""
    folder.mkdir(parents=True, exist_ok=True)
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": PADS[encoder]}
    _write(folder / "vocab.json", vocabulary())
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges(), ""]), encoding="utf-8")
    _write(folder / "special_tokens_map.json", special)
    _write(
        folder / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, **special}
    )
    return folder


def load_tokenizer(folder: Path):
    """The tokenizer of such a folder.

    Raises:
        SearchError: it does not know CLIP's vocabulary. transformers makes do with two tokens when files are missing.
    """
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    if len(tokenizer) != SIZE:
        raise SearchError(
            f"{folder}: the tokenizer has {len(tokenizer):,} tokens, CLIP's has {SIZE:,}; install it anew"
        )
    return tokenizer


def _write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
