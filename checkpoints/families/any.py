"""Every other file of floating-point weights: blocks from numbered names, so that next month's model needs no record.

`any_family` builds a record from a file's own names. What is numbered (`blocks.17.`) is a block (BLOCKS17), what stands beside
the blocks is START or END. A file's prefix is no part of its keys, so two files of one model pair up whatever prefix they have.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from .family import Family, Vectors
from .parts.part import Shape

# What tools put before a model's names; the first one that most names have is taken off.
PREFIXES = ("model.diffusion_model.", "model.model.", "diffusion_model.", "transformer.", "model.", "net.", "module.")
# Names that tell of a difference, an optimiser or an embedding: such a file is no model.
_NO_MODEL = re.compile(
    r"(^|[._])(lora_|lora\.|hada_|lokr_|oft_|ia3|glora|dora_scale|lora_magnitude_vector)|\.(alpha|diff|diff_b|w_norm|b_norm)$"
    r"|(^|[._])(exp_avg|exp_avg_sq|momentum_buffer|optimizer|optimizer_states?|string_to_param)([._]|$)"
    r"|^(emb_params|clip_[lgh])$"
)
_NUMBERED = re.compile(r"((?:[^.\d][^.]*\.)*?[^.\d][^.]*)\.(\d+)\.(.+)")
# A block holds more than the weight and bias of one layer, and there are several of its kind.
_LEAST_TENSORS = 3
_LEAST_BLOCKS = 2
_END = re.compile(r"(^|[._])(final|out|output|head|last|norm_out|proj_out|unembed|lm_head|to_rgb)")
# Where words of a block's name stand in a network; most names say nothing and stand in the middle.
_EARLY = {"INPUT", "IN", "DOWN", "ENCODER", "REFINER", "ADAPTER", "TXT", "TEXT", "CONTEXT", "EMBEDDER"}
_LATE = {"DECODER", "UP", "OUTPUT", "OUT"}
_PAIRS = {"DOUBLE": 1, "JOINT": 1, "SINGLE": 3}

# What a selector may name in every such model: its ends, and all of it.
WORDS = ("START", "END", "MODEL")
KINDS = (
    (r"(?:norm|\bln)\w*\.(?:weight|bias|scale)$|\.norm\w*\.|\.ln_?\w*\.|_norm\b", "norm"),
    (r"(?:attn|attention)\w*\.(?:\w+\.)*(?:\w*qkv\w*|in_proj\w*|Wqkv)\b", "attn.qkv"),
    (r"(?:attn|attention)\w*\.(?:\w+\.)*(?:to_|add_|w)?([qkv])(?:_proj|_linear|_img|_txt)?\.", r"attn.\1"),
    (r"(?:attn|attention)\w*\.(?:\w+\.)*(?:to_out|to_add_out|out_proj|out|proj|wo|o_proj|o)\b", "attn.out"),
    (r"(?:mlp|ff|ffn|feed_forward)\w*\.(?:net\.)?(?:fc2|w2|2|down_proj|down|linear_2|linear_out|c_proj)\b", "ff.out"),
    (r"(?:mlp|ff|ffn|feed_forward)\w*\.", "ff.in"),
    (r"(?:modulation|adaLN|adaln|_mod\b|\bmod\b|embed|emb\b)", "emb"),
    (r"conv", "conv"),
)


def any_family(shapes: Mapping[str, Shape]) -> Family | None:
    """The record of a file of no known family, from the names and shapes of its floating-point tensors.

    None where they are no model: a difference, an embedding or an optimiser, or names without numbered blocks.
    """
    if any(_NO_MODEL.search(name) for name in shapes):
        return None
    prefix = prefix_of(shapes)
    names = [name.removeprefix(prefix) for name in shapes]
    if len(set(names)) < len(names):
        prefix, names = "", list(shapes)
    lists = _block_lists(names)
    if not lists:
        return None
    stems = _stems(lists)
    rows = [(stems[path], min(numbers), max(numbers), (path + ".{n}",)) for path, numbers in lists.items()]
    rows.sort(key=lambda row: name_rank(f"{row[0]}{row[1]:02d}"))
    beside = dict.fromkeys(name.rpartition(".")[0] or name for name in names if not _in_a_list(name, lists))
    ends = tuple(module for module in beside if _END.search(module))
    starts = tuple(module for module in beside if module not in ends)
    table = (*((("START", -1, -1, starts),) if starts else ()), *rows, *((("END", -1, -1, ends),) if ends else ()))
    labels = tuple(label for stem, first, last, _ in table for label in _labels(stem, first, last))
    return Family(
        id="any",
        title="a model of no known family",
        name="Model of no known family",
        blocks=table,
        predicts=None,
        core="model",
        core_title="model",
        prefix="",
        prefixes=(prefix,),
        kinds=KINDS,
        about={"START": "before the blocks", "END": "behind the blocks"},
        conventions={"*": Vectors((labels,))},
        drawing="chain",
        keeps_names=True,
    )


def prefix_of(names: Collection[str]) -> str:
    """What stands before a model's names and is no part of them; empty where most names have no usual prefix."""
    for prefix in PREFIXES:
        if 2 * sum(name.startswith(prefix) for name in names) > len(names):
            inner = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
            # `transformer.` may be a module like others: it is a prefix where all blocks are behind it.
            return prefix if _block_lists(inner) else ""
    return ""


def name_rank(label: str) -> tuple:
    """Where a label of no known family stands among others: START first, END last, as far as words tell between them."""
    stem, number = re.fullmatch(r"(.*?)(\d*)", label).groups()
    edge = {"START": 0, "END": 2}.get(stem, 1)
    words = stem.split("_")
    place = next((_PAIRS[word] for word in words if word in _PAIRS), 2)
    place = 0 if _EARLY & set(words) else 4 if _LATE & set(words) else place
    return edge, place, stem, int(number or -1)


def _labels(stem: str, first: int, last: int) -> list[str]:
    return [stem] if first < 0 else [f"{stem}{n:02d}" for n in range(first, last + 1)]


def _block_lists(names: Collection[str]) -> dict[str, set[int]]:
    """What stands before the number of blocks -> the numbers."""
    inside: dict[str, dict[int, int]] = {}
    for name in names:
        if found := _NUMBERED.fullmatch(name):
            counts = inside.setdefault(found[1], {})
            counts[int(found[2])] = counts.get(int(found[2]), 0) + 1
    return {
        path: set(counts)
        for path, counts in inside.items()
        if len(counts) >= _LEAST_BLOCKS and max(counts.values()) >= _LEAST_TENSORS
    }


def _in_a_list(name: str, lists: Mapping[str, set[int]]) -> bool:
    found = _NUMBERED.fullmatch(name)
    return bool(found) and found[1] in lists


def _stems(lists: Mapping[str, set[int]]) -> dict[str, str]:
    """A name for the blocks of each list: the last word before the number, or all words where that is not one list's alone."""
    short = {path: _word(path.rpartition(".")[2]) for path in lists}
    return {path: stem if list(short.values()).count(stem) == 1 else _word(path) for path, stem in short.items()}


def _word(path: str) -> str:
    """A path as a label: capitals and `_`, no digits at its end."""
    return re.sub(r"[^A-Z0-9]+", "_", path.upper()).strip("_0123456789") or "BLOCK"
