"""What a LoRA's metadata says: its family, its scale where no tensor holds it, and how it was trained."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import sqrt
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..families import FAMILIES
from .building import Told
from .names import Target
from .recognised import Recognised

_ADAPTER_METADATA = "lora_adapter_metadata"
_CONFIG_LIMIT = 1 << 20
# What pipelines of diffusers call a denoiser, whatever we do.
_DENOISERS = ("unet", "transformer")


def said_family(metadata: Mapping[str, str]) -> str | None:
    """The family that the trainer names."""
    said = metadata.get("ss_base_model_version", "") + " " + metadata.get("modelspec.architecture", "")
    known = [family for family in FAMILIES.values() if family.lora]
    for family in known:
        if any(word in said for word in family.lora.said):
            return family.id
    return next((f.id for f in known if f.lora.v2), None) if metadata.get("ss_v2") == "True" else None


def peft_scales(path: Path, metadata: Mapping[str, str], names: Recognised) -> dict[Target, Told]:
    """The scales of a PEFT adapter, whose tensors hold no alpha: from the metadata that diffusers writes, or the config next to it.

    alpha / rank, or alpha / sqrt(rank) with `use_rslora` (Kalajdzievski 2023); the patterns of single modules included.

    Raises:
        CheckpointError: the metadata is there and cannot be read: at a wrong scale a LoRA does harm.
    """
    if names.style not in ("peft", "diffusers"):
        return {}
    configs = _configs(path, metadata)
    out = {}
    for target in names.modules:
        config = _config_of(target, configs)
        if config is not None and "r" in config:
            out[target] = _told(path, config, target.module)
    return out


def peft_inputs(path: Path, metadata: Mapping[str, str], names: Recognised) -> dict[Target, bool]:
    """Whether PEFT's (IA)^3 multiplies a module's inputs: it does so in feed-forward modules, which its config names."""
    if names.style != "peft":
        return {}
    configs, out = _configs(path, metadata), {}
    for target in names.modules:
        config = _config_of(target, configs) or {}
        if isinstance(config.get("feedforward_modules"), list):
            out[target] = bool(
                _of_pattern(dict.fromkeys(map(str, config["feedforward_modules"]), True), target.module, False)
            )
    return out


def _told(path: Path, config: Mapping[str, Any], module: str) -> Told:
    rank = _of_pattern(config.get("rank_pattern"), module, config["r"])
    # LoHa and LoKr of PEFT call it `alpha`.
    usual = config.get("lora_alpha", config.get("alpha", rank))
    alpha = _of_pattern(config.get("alpha_pattern"), module, usual)
    if not all(isinstance(n, (int, float)) and n > 0 for n in (rank, alpha)):
        raise CheckpointError(
            f"{path}: its adapter config says rank {rank!r} and alpha {alpha!r}; expected two numbers above 0"
        )
    return Told(float(alpha), alpha / sqrt(rank) if config.get("use_rslora") else alpha / rank)


def _of_pattern(patterns: object, module: str, usual: Any) -> Any:
    """PEFT's rule: the first pattern that the module's name ends with, after a dot or at its start."""
    if not isinstance(patterns, dict):
        return usual
    return next((value for name, value in patterns.items() if module == name or module.endswith(f".{name}")), usual)


def _config_of(target: Target, configs: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The config of a module's component, as pipelines call it; where nothing else is known of the model, by the module's name."""
    named = next((config for name, config in configs.items() if name and target.module.startswith(f"{name}.")), None)
    if named is not None:
        return named
    words = (target.component, *_DENOISERS, "") if target.core else (target.component, "")
    return next((configs[word] for word in words if word in configs), None)


def _configs(path: Path, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Component -> adapter config; of a config next to the file the component is empty."""
    out: dict[str, dict[str, Any]] = {}
    beside = path.with_name("adapter_config.json")
    if text := metadata.get(_ADAPTER_METADATA):
        for name, value in _parsed(path, text).items():
            found = re.match(r"(\w+)\.(.+)", str(name))
            component, field = found.groups() if found else ("", str(name))
            out.setdefault(component, {})[field] = value
    elif path.name.startswith("adapter_model.") and beside.is_file() and beside.stat().st_size < _CONFIG_LIMIT:
        out[""] = _parsed(beside, beside.read_text(encoding="utf-8", errors="replace"))
    return out


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise CheckpointError(
            f"{path}: its adapter config is not a JSON object, so that the scale of the LoRA is not known"
        )
    return config
