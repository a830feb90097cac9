"""Payloads: prompts with their settings, as users of the web UI share them, and the images that are asked for with them.

    payloads: payloads/                 # a folder of .json, .yaml and .toml files, each A1111's txt2img fields
    payloads: castle.json               # a file: one payload, or a list of them
    payloads: [castle.json, {prompt: a cat, steps: 20, weight: 2}]
    payloads: {from: payloads/, wildcards: my_wildcards/, steps: 12}    # settings here hold for those that do not say

Fields that only a web UI understands are kept as they are, in `ImageRequest.extra`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..checkpoints.errors import nearest
from ..checkpoints.files.system import windows_fault
from ..checkpoints.text import free_name
from .errors import SearchError
from .image_requests import ImageRequest
from .payload_files import WILDCARDS, located, parsed, payload_files
from .study_settings import LARGEST_SEED
from .wildcards import rendered

# What searchers before us called these fields.
_ALIASES = {
    "sampler_index": "sampler_name",
    "sampler": "sampler_name",
    "neg_prompt": "negative_prompt",
    "cfg": "cfg_scale",
    "score_weight": "weight",
}
_OWN = ("from", "wildcards")
_WORDS = 4
_MOST_STEPS, _MOST_SIDE = 1000, 8192


@dataclass(frozen=True)
class Payload:
    """A prompt with its settings.

    Attributes:
        name: unique among those that were loaded together, fit for a file's name.
        seed: the payload's own, None when it has none (A1111's -1).
        images: how many images of consecutive seeds it asks for (`batch_size` times `n_iter`).
        wildcards: the folder of its wildcard files.
        prompt, negative_prompt, steps, cfg_scale, width, height, sampler_name, weight, extra: as in `ImageRequest`, with wildcards.
    """

    name: str
    prompt: str = ""
    negative_prompt: str = ""
    seed: int | None = None
    images: int = 1
    steps: int = 20
    cfg_scale: float = 7.0
    width: int = 512
    height: int = 512
    sampler_name: str = "Euler a"
    weight: float = 1.0
    wildcards: Path | None = None
    extra: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


def load_payloads(source: Any, folder: Path) -> list[Payload]:
    """The payloads of a study.

    Args:
        source: a file, a folder, a payload written in place, a list of any of these, or `{from: ..., ...}` (see above).
        folder: that relative paths count from.

    Raises:
        SearchError: a file cannot be read, or is not a payload; the message says which field and what would be right.
    """
    folder = Path(folder)
    found = _numbered(_read(source, folder, {}, "payloads"))
    if not found:
        raise SearchError("payloads: there is none; write {prompt: ...}, or name a file or a folder of them")
    return found


def image_requests(payloads: Sequence[Payload], seeds: Sequence[int]) -> list[ImageRequest]:
    """Every payload with every seed, wildcards rendered.

    A payload without a seed of its own takes those of the study as they are. One with a seed S takes them as the places in a
    row that begins at S: 1 is S, 2 is S + 1. A payload of n images takes n seeds of the row for each.

    Raises:
        SearchError: a wildcard that cannot be rendered, or a row that leads to a seed that there is not.
    """
    requests = []
    for payload in payloads:
        first = 1 if payload.seed is None else payload.seed
        for place in seeds:
            for image in range(payload.images):
                requests.append(_image_request(payload, first + (place - 1) * payload.images + image))
    return requests


def _image_request(payload: Payload, seed: int) -> ImageRequest:
    where = f"payload {payload.name}"
    if not 0 <= seed <= LARGEST_SEED:
        raise SearchError(
            f"{where}: its images and the study's seeds lead to seed {seed:,}, and seeds go from 0 to {LARGEST_SEED:,} (2^32 - 1); "
            "change its seed, or the study's, which count from 1"
        )
    return ImageRequest(
        name=f"{payload.name}-{seed}",
        prompt=rendered(payload.prompt, seed, payload.wildcards, where),
        negative_prompt=rendered(payload.negative_prompt, seed, payload.wildcards, where),
        seed=seed,
        steps=payload.steps,
        cfg_scale=payload.cfg_scale,
        width=payload.width,
        height=payload.height,
        sampler_name=payload.sampler_name,
        weight=payload.weight,
        extra=payload.extra,
    )


def _read(
    source: Any, folder: Path, given: Mapping[str, Any], where: str, reading: tuple[str, ...] = ()
) -> list[Payload]:
    """The payloads of a source, not yet of different names; `given` holds for those that do not say.

    `reading` are the files that are being read, each named by the one before it.
    """
    if isinstance(source, str | Path):
        return _from_path(source, folder, given, where, reading)
    if isinstance(source, list | tuple):
        return [
            p for i, one in enumerate(source, 1) for p in _read(one, folder, given, f"{where}, payload {i}", reading)
        ]
    if not isinstance(source, Mapping):
        raise SearchError(f"{where}: is {source!r}; write {{prompt: ...}}, or name a file or a folder of payloads")
    if "from" in source:
        inner = {name: value for name, value in source.items() if name != "from"}
        if "prompt" in inner:
            raise SearchError(f"{where}: has a prompt next to from; the prompts are in the files")
        return _read(source["from"], folder, {**given, **_named(inner, where)}, where, reading)
    listed = source.get("payloads")
    if isinstance(listed, list):  # as TOML's [[payloads]] must have it
        rest = {name: value for name, value in source.items() if name != "payloads"}
        return _read(listed, folder, {**given, **_named(rest, where)}, where, reading)
    return [_payload({**given, **_named(source, where)}, folder, where)]


def _from_path(
    path: str | Path, folder: Path, given: Mapping[str, Any], where: str, reading: tuple[str, ...]
) -> list[Payload]:
    found = []
    for file in payload_files(located(folder, path, where), where):
        same = os.path.realpath(file)  # which a loop of links does not end
        if same in reading:
            raise SearchError(
                f"{file}: is named by {Path(reading[-1]).name}, and so names itself; name files of payloads only"
            )
        for payload in _read_file(file, folder, given, (*reading, same)):
            found.append(payload if payload.name else replace(payload, name=_fit(file.stem)))
    return found


def _read_file(file: Path, folder: Path, given: Mapping[str, Any], reading: tuple[str, ...]) -> list[Payload]:
    data = parsed(file)
    if isinstance(data, str) or (isinstance(data, list) and any(isinstance(one, str) for one in data)):
        raise SearchError(f"{file}: holds text, not a payload; a payload has a prompt and settings")
    # A wildcards folder next to the payloads serves them when the study names none.
    here = file.parent.absolute() / WILDCARDS
    return _read(data, folder, {WILDCARDS: here, **given} if here.is_dir() else given, str(file), reading)


def _named(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Fields under their names in A1111's txt2img."""
    out: dict[str, Any] = {}
    for name, value in fields.items():
        if not isinstance(name, str):
            raise SearchError(f"{where}: the name {name!r} is not text")
        # A1111 names the sampler twice.
        known = _ALIASES.get(name, name)
        if value is None or (known != name and fields.get(known) is not None):
            continue  # shared payloads list every field, those not used as null
        out[known] = value
    return out


def _payload(fields: dict[str, Any], folder: Path, where: str) -> Payload:
    """One payload from its fields."""
    fields = dict(fields)
    if "prompt" not in fields:
        said = next((nearest("prompt", [name]) for name in fields if nearest("prompt", [name])), "")
        raise SearchError(f"{where}: has no prompt{' (is it misspelt?)' if said else ''}; a payload has at least that")
    wildcards = fields.pop(WILDCARDS, None)
    if wildcards is not None:
        wildcards = located(folder, wildcards, f"{where}: wildcards")
        if not wildcards.is_dir():
            raise SearchError(f"{where}: wildcards: there is no folder {wildcards}")
    elif (folder / WILDCARDS).is_dir():
        wildcards = folder / WILDCARDS
    seed = _number(fields.pop("seed", -1), "seed", where, int, -1, LARGEST_SEED)
    images = 1
    for name in ("batch_size", "n_iter"):
        images *= _number(fields.pop(name, 1), name, where, int, 1, 1000)
    known: dict[str, Any] = {
        "name": _fit(name) if (name := _text(fields.pop("name", ""), "name", where)) else "",
        "seed": None if seed < 0 else seed,
        "images": images,
        "wildcards": wildcards,
    }
    for name in ("prompt", "negative_prompt", "sampler_name"):
        if name in fields:
            known[name] = _text(fields.pop(name), name, where)
    known["sampler_name"] = known.get("sampler_name") or Payload.sampler_name
    for name, kind, least, most in (
        ("steps", int, 1, _MOST_STEPS),
        ("width", int, 8, _MOST_SIDE),
        ("height", int, 8, _MOST_SIDE),
        ("cfg_scale", float, 0, 1000),
        ("weight", float, 0, 1e6),
    ):
        if name in fields:
            known[name] = _number(fields.pop(name), name, where, kind, least, most)
    for side in ("width", "height"):
        if known.get(side, 512) % 8:
            raise SearchError(f"{where}: {side}: is {known[side]}; images are made in steps of 8 pixels")
    return Payload(**known, extra=MappingProxyType(fields))


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise SearchError(f"{where}: {name}: must be text, found {value!r}")
    return value


def _number(value: Any, name: str, where: str, kind: type, least: float, most: float) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool)
    sound = whole or (isinstance(value, float) and (kind is float or value.is_integer()))
    if not sound or not least <= value <= most:
        what = "a whole number" if kind is int else "a number"
        raise SearchError(f"{where}: {name}: must be {what} from {least:,} to {most:,}, found {value!r}")
    return kind(value)


def _fit(name: str) -> str:
    """A name that every file system takes."""
    fit = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:60] or "payload"
    return fit if windows_fault(f"{fit}-1.png") is None else f"payload-{fit}"[:60]


def _numbered(payloads: list[Payload]) -> list[Payload]:
    """The same with different names, `castle` and `castle-2`; without one they are called by their first words."""
    named = [p if p.name else replace(p, name=_fit(" ".join(p.prompt.split()[:_WORDS]))) for p in payloads]
    taken: set[str] = set()
    out = []
    for payload in named:
        # Pictures are called so, and to Windows and macOS `Cat` and `cat` are one file.
        name = free_name(payload.name, lambda free: free.casefold() in taken, "{}-{}")
        taken.add(name.casefold())
        out.append(replace(payload, name=name))
    return out
