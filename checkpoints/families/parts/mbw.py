"""Weight vectors of tools that number a UNET's blocks: which slot stands where, and which slot a label without one reads."""

from __future__ import annotations

from collections.abc import Mapping

from ..family import Slots, Vectors

# ComfyUI's three numbers for the middle block, and the keys of each.
MIDDLE_3 = {f"M00.{n}": rf"\.middle_block\.{n}\." for n in range(3)}


def _in(count: int) -> Slots:
    return tuple(f"IN{i:02d}" for i in range(count))


def _out(count: int) -> Slots:
    return tuple(f"OUT{i:02d}" for i in range(count))


# Four levels (SD1, SD2, the refiner) and three (SDXL).
MBW_26: Slots = ("BASE", *_in(12), "M00", *_out(12))
MBW_20: Slots = ("BASE", *_in(9), "M00", *_out(9))
# LoRA block weight vectors: the labels that a LoRA (attention only) trains; a LoCon (convolutions too) has those above.
LBW_17: Slots = ("BASE", "IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "M00", *_out(12)[3:])
LBW_12: Slots = ("BASE", "IN04", "IN05", "IN07", "IN08", "M00", *_out(9)[:6])


def four_levels(automb: bool = True, comfyui: bool = True, lbw: bool = True, **changes: Mapping[str, str]) -> dict:
    """Tool -> its vectors, of a UNET with twelve IN and OUT blocks; tools that do not know the family are left out.

    `changes` replaces what slotless labels read, by tool (its name with `_`).
    """
    slots = {"mbw": (MBW_26, MBW_26[1:])}
    if automb:
        slots["automb"] = ((*_in(12), "M00", "OUT", *_out(12), "TIME_EMBED"),)
        slots["automb-recipe"] = ((*_in(12), "M00", *_out(12), "OUT", "TIME_EMBED"),)
    if comfyui:
        slots["comfyui"] = (("TIME_EMBED", "LABEL_EMB", *_in(12), *MIDDLE_3, *_out(12), "OUT"),)
    if lbw:
        slots["lbw"] = (LBW_17, MBW_26)
    return _by_tool(slots, "OUT11", changes)


def three_levels(automb: bool = True, comfyui: bool = True, lbw: bool = True, **changes: Mapping[str, str]) -> dict:
    """The same of a UNET with nine IN and OUT blocks; the vectors of merges may have a last slot for the VAE."""
    slots = {"mbw": (MBW_20, MBW_20[1:], (*MBW_20, "VAE"))}
    if automb:
        slots["automb"] = slots["automb-recipe"] = ((*_in(9), "LABEL_EMB", "M00", "OUT", *_out(9), "TIME_EMBED"),)
    if comfyui:
        slots["comfyui"] = (("TIME_EMBED", "LABEL_EMB", *_in(9), *MIDDLE_3, *_out(9), "OUT"),)
    if lbw:
        slots["lbw"] = (LBW_12, MBW_20)
    return _by_tool(slots, "OUT08", changes)


# SDXL's embeddings stayed with A in earlier versions of supermerger, and its VAE has a slot of its own in sd-mecha.
SDXL_CHANGES = {
    "supermerger_old": {"TIME_EMBED": "", "LABEL_EMB": ""},
    "sd_mecha": {"VAE": "VAE"},
}


def _by_tool(slots: Mapping[str, tuple[Slots, ...]], last: str, changes: Mapping[str, Mapping[str, str]]) -> dict:
    supermerger = {"TIME_EMBED": "IN00", "LABEL_EMB": "IN00", "OUT": last, "VAE": "BASE"}
    base = {"TIME_EMBED": "BASE", "LABEL_EMB": "BASE", "OUT": last, "VAE": "BASE"}
    # With slots of their own there is nothing to borrow; the VAE is taken from A.
    read = {
        "supermerger": ("mbw", supermerger),
        "supermerger-old": ("mbw", supermerger),
        "merge-block-weighted": ("mbw", supermerger | {"LABEL_EMB": "BASE"}),
        "sd-mecha": ("mbw", base),
        "automb": ("automb", {}),
        "automb-recipe": ("automb-recipe", {}),
        "comfyui": ("comfyui", {}),
        "lbw": ("lbw", {}),
        "lbw-kohya": ("lbw", {}),
    }
    return {
        tool: Vectors(slots[which], follows | changes.get(tool.replace("-", "_"), {}))
        for tool, (which, follows) in read.items()
        if which in slots
    }
