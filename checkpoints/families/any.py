"""Every other file of floating-point weights: blocks from numbered names, so that next month's model needs no record.

`any_family` builds a record from a file's own names. What is numbered (`blocks.17.`) is a block (BLOCKS17), what stands next to
the blocks is START or END. A file's prefix is not part of its keys, so two files of one model pair up whatever prefix they have.
Text encoders and a VAE that stand next to the model keep their own names, and have a label each.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from math import prod

from .family import EMA_PREFIX, Component, Family, Row, Vectors
from .parts.part import Opening, Part, Shape

# Where files of several components keep the model itself; what stands elsewhere in such a file is another component.
_MODEL_PREFIXES = ("model.diffusion_model.", "diffusion_model.")
# What tools put before a model's names; the first one that most names have is taken off.
PREFIXES = (*_MODEL_PREFIXES, "model.model.", "transformer.", "model.", "net.", "module.", "_orig_mod.")
# Names that tell of a difference, an optimiser or an embedding: such a file is not a model.
_NO_MODEL = re.compile(
    r"(^|[._])(lora_|lora\.|lycoris_|hada_|lokr_|oft_|ia3|glora|dora_scale|lora_magnitude_vector)"
    r"|\.(alpha|diff|diff_b|w_norm|b_norm)$"
    r"|(^|[._])(exp_avg|exp_avg_sq|momentum_buffer|optimizer|optimizer_states?|string_to_param)([._]|$)"
    r"|^(emb_params|clip_[lgh])$"
)
# Text encoders and VAEs in a file of several components, by the beginnings of their names.
_BESIDE = re.compile(
    r"text_encoders\.([^.]+)\.|(text_encoder(?:_\d)?)\.|(cond_stage_model)\.|(conditioner)\.|(?:vae|first_stage_model)\."
)
_NUMBERED = re.compile(r"((?:[^.\d][^.]*\.)*?[^.\d][^.]*)\.(\d+)\.(.+)")
# The least tensors in the largest block, and the least blocks. In a model a block holds more than the weight and bias of one layer,
# and there are several of its kind; of a fragment of one nothing is asked.
Least = tuple[int, int]
_WHOLE, _FRAGMENT = (3, 2), (1, 1)
# First words of modules behind the blocks.
_END = re.compile(r"(^|_)(final|out|output|head|last|unembed\w*|rgb)(_|$)|^(norm|modF)$")
_LAST = re.compile(r"final|(^|\.)norm\.|ln_f|projection|logit_scale|lm_head")
# Words of a path that say only that blocks follow.
_PLAIN = ("BLOCK", "BLOCKS", "LAYER", "LAYERS")
# Where words of a block's name stand in a network; most names say nothing and stand in the middle.
_EARLY = re.compile(
    r"INPUT|IN|DOWN\w*|ENCODER|\w*REFINER|\w*ADAPTER|TXT\w*|TEXT\w*|CONTEXT|EMBED\w*|GUIDANCE|\w*CONNECTOR"
)
_LATE = re.compile(r"DECODER|UP|UP[BS]\w*|OUTPUT|OUT|NERF")
_PAIRS = {"DOUBLE": 1, "JOINT": 1, "SINGLE": 3}

# What a selector may name in every such model: its ends, all of it, and text encoders that stand next to it.
CORE = "model"
WORDS = ("START", "END", CORE.upper(), "TEXT_ENCODER", "CONDITIONER")
# Kinds of layers where names tell: the words of attention and MLPs that trainers share, in any spelling.
_ATTENTION = r"(?i:attn|attention)\w*\.(?:\w+\.)*"
_MLP = r"(?<![A-Za-z])(?i:mlp|ff|ffn|feed_forward|DenseReluDense)\w*\.(?:net\.)?"
KINDS = (
    (r"norm\w*\.linear\.|emb_layers\.", "emb"),  # what a norm is modulated by
    (r"(?:norm|\bln)\w*\.(?:weight|bias|scale)$|\.norm\w*\.|\.ln_?\w*\.|_norm\b|(?:in|out)_layers\.0\.", "norm"),
    (r"modulation|adaln|adaLN|_mod\b|\bmod[A-Z]*\.|embed|emb\b|pad_token|register_token|positional|^shared\.", "emb"),
    (r"^(?:time|vector|guidance)_(?:in|proj\w*)\.", "emb"),
    (_ATTENTION + r"(?:\w*qkv\w*|in_proj\w*|kv|kv_\w+)\b", "attn.qkv"),
    (_ATTENTION + r"(?:to_|add_|w\d?)?([qkv])(?:_proj|_linear|_img|_txt)?\.", r"attn.\1"),
    (_ATTENTION + r"(?:to_out|to_add_out|out_proj|output_proj|out|proj|proj_out|wo|w\d?o|o_proj|o)\b", "attn.out"),
    (_MLP + r"(?:fc2|w2|wo|2|down_proj|down|layer2|linear_2|linear_out|linear_fc2|c_proj)\b", "ff.out"),
    (_MLP, "ff.in"),
    (r"conv|(?:in|out)_layers\.\d", "conv"),
)


def any_family(shapes: Mapping[str, Shape], fragments: bool = False) -> Family | None:
    """The record of a file of no known family, from the names and shapes of its floating-point tensors.

    None where they are not a model: a difference, an embedding or an optimiser, or names without numbered blocks.

    Args:
        fragments: take also a few tensors of a model, whose blocks may hold one tensor each.
    """
    if any(_NO_MODEL.search(name) for name in shapes):
        return None
    return _record(shapes, _WHOLE) or (_record(shapes, _FRAGMENT) if fragments else None)


def _record(shapes: Mapping[str, Shape], least: Least) -> Family | None:
    """The record of names whose blocks hold so many tensors and are so many; None where there are none."""
    prefix = _prefix(shapes, least)
    keys = {name.removeprefix(prefix): shape for name, shape in shapes.items()}
    if len(keys) < len(shapes):
        prefix, keys = "", dict(shapes)
    beside = _components(keys)
    own = [key for key in keys if not key.startswith(tuple(c.prefix for c in beside))]
    lists = _block_lists(own, least)
    if not lists and beside:  # a text encoder or VAE behind such a name is the model of its file
        beside, own = (), list(keys)
        lists = _block_lists(own, least)
    if not lists:
        return None
    starts, blocks, ends = _rows(own, lists)
    table = (*starts, *blocks, *ends)
    if least == _FRAGMENT:  # too little to tell what is a prefix: the keys are the file's names
        table = tuple((*row[:3], tuple(_found(start, prefix, shapes) for start in row[3])) for row in table)
        kept = set(own)
        own, keys = [name for name in shapes if name.removeprefix(prefix) in kept], dict(shapes)
        prefix = ""
    labels = tuple(label for stem, first, last, _ in table for label in _labels(stem, first, last))
    return Family(
        id="any",
        title="a model of no known family",
        name="Model of no known family",
        blocks=table,
        predicts=None,
        core=CORE,
        core_title=CORE,
        prefix="",
        prefixes=(prefix,),
        kinds=KINDS,
        about={"START": "before the blocks", "END": "behind the blocks"},
        tensors=lambda sizes: ((key, keys[key]) for key in own),
        components=beside,
        conventions={"*": Vectors((labels,))},
        drawing="chain",
        keeps_names=True,
    )


def _found(start: str, prefix: str, names: Collection[str]) -> str:
    """A beginning of names behind a prefix, as the names have it that have the prefix."""
    whole = (prefix + start).replace("{n}", "")
    return prefix + start if any(name.startswith(whole) for name in names) else start


def _prefix(names: Collection[str], least: Least) -> str:
    """What stands before a model's names and is not part of them; empty where most names have no usual prefix."""
    for prefix in _MODEL_PREFIXES:  # next to which there may be more text encoder than model
        inner = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        if _block_lists(inner, least):
            return prefix + _around(inner, least)
    return _around(names, least)


def _around(names: Collection[str], least: Least) -> str:
    """A usual prefix that most names have, or a word that all have; and what stands behind that in the same way."""
    for prefix in (*PREFIXES, _first_word(names)):
        inner = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        # `transformer.` may be a module like others: it is a prefix where all blocks are behind it.
        if prefix and 2 * len(inner) > len(names) and _block_lists(inner, least):
            return prefix + _around(inner, least)
    return ""


def _first_word(names: Collection[str]) -> str:
    """The word that every name begins with, and its dot; empty where they differ."""
    words = {name.partition(".")[0] for name in names}
    return f"{words.pop()}." if len(words) == 1 else ""


def beside_parts(shapes: Mapping[str, Shape], parts: Collection[str]) -> bool:
    """Whether text encoders and VAEs, to which the names `parts` belong, stand next to a model of no known family.

    There is one where a model's prefix stands before blocks, or where the rest holds more elements; an EMA copy is not a model.
    """
    rest = [name for name in shapes if name not in parts and not name.startswith(EMA_PREFIX)]
    if any(_block_lists([n.removeprefix(p) for n in rest if n.startswith(p)], _WHOLE) for p in _MODEL_PREFIXES):
        return True
    return sum(prod(shapes[name]) for name in rest) > sum(prod(shapes[name]) for name in parts)


def name_rank(label: str) -> tuple:
    """Where a label of no known family stands among others: text encoders, START, blocks as far as words tell, END."""
    stem, number = re.fullmatch(r"(.*?)(\d{2,})?", label).groups()
    if number is None and stem not in ("START", "END"):
        return -1, 0, stem, -1
    edge = {"START": 0, "END": 2}.get(stem, 1)
    words = stem.split("_")
    place = next((_PAIRS[word] for word in words if word in _PAIRS), 2)
    if any(map(_EARLY.fullmatch, words)):
        place = 0
    elif any(map(_LATE.fullmatch, words)):
        place = 4
    return edge, place, stem, int(number or -1)


# -- blocks -----------------------------------------------------------------------------------------------------------------


def _rows(names: Collection[str], lists: Mapping[str, set[int]]) -> tuple[list[Row], list[Row], list[Row]]:
    """The rows of the table of blocks: START, the blocks in order, END."""
    stems = _stems(lists)
    blocks = [
        (stems[path], first, last, (path + ".{n}",))
        for path, numbers in lists.items()
        for first, last in _runs(sorted(numbers))
    ]
    blocks.sort(key=lambda row: name_rank(f"{row[0]}{row[1]:02d}"))
    final = blocks[-1][3][0].rpartition(".")[0]
    ends: dict[str, bool] = {}
    for name in names:
        if not _in_a_list(name, lists):
            module, behind = _beside(name, lists, final)
            ends[module] = behind
    before = tuple(module for module, behind in ends.items() if not behind)
    after = tuple(module for module, behind in ends.items() if behind)
    return ([("START", -1, -1, before)] if before else []), blocks, ([("END", -1, -1, after)] if after else [])


def _beside(name: str, lists: Mapping[str, set[int]], final: str) -> tuple[str, bool]:
    """A module that stands next to blocks, by as few words as tell it from them, and whether it is behind them."""
    words, at = name.split("."), 0
    while any(path.split(".")[: at + 1] == words[: at + 1] for path in lists) and at < len(words) - 1:
        at += 1
    # What ends a part of the model ends the model where that part's blocks are the last.
    parent = words[:at]
    behind = bool(_END.search(words[at])) and (not parent or final.split(".")[:at] == parent)
    return ".".join(words[: at + 1]), behind


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """First and last of each stretch of numbers without a hole."""
    out: list[tuple[int, int]] = []
    for number in numbers:
        if out and number == out[-1][1] + 1:
            out[-1] = out[-1][0], number
        else:
            out.append((number, number))
    return out


def _labels(stem: str, first: int, last: int) -> list[str]:
    return [stem] if first < 0 else [f"{stem}{n:02d}" for n in range(first, last + 1)]


def _block_lists(names: Collection[str], least: Least) -> dict[str, set[int]]:
    """What stands before the number of blocks -> the numbers."""
    tensors, blocks = least
    inside: dict[str, dict[int, int]] = {}
    for name in names:
        if found := _NUMBERED.fullmatch(name):
            counts = inside.setdefault(found[1], {})
            counts[int(found[2])] = counts.get(int(found[2]), 0) + 1
    return {
        path: set(counts)
        for path, counts in inside.items()
        if len(counts) >= blocks and max(counts.values()) >= tensors
    }


def _in_a_list(name: str, lists: Mapping[str, set[int]]) -> bool:
    found = _NUMBERED.fullmatch(name)
    return bool(found) and found[1] in lists


def _stems(lists: Mapping[str, set[int]]) -> dict[str, str]:
    """A name for the blocks of each list: the words before the number, without `blocks` at their end where others are left."""
    short = {}
    for path in lists:
        parent, _, last = path.rpartition(".")
        short[path] = _word(parent if parent and last.upper() in _PLAIN else path)
    return {path: stem if list(short.values()).count(stem) == 1 else _word(path) for path, stem in short.items()}


def _word(path: str) -> str:
    """A path as a label: capitals and `_`, no digits at its end."""
    return re.sub(r"[^A-Z0-9]+", "_", path.upper()).strip("_0123456789") or "BLOCK"


# -- text encoders and VAE next to the model ---------------------------------------------------------------------------------


def _components(keys: Mapping[str, Shape]) -> tuple[Component, ...]:
    """The text encoders and the VAE that stand next to a model, each with its own names."""
    found: dict[str, tuple[str, list[str]]] = {}
    for key in keys:
        if match := _BESIDE.match(key):
            name = next(filter(None, match.groups()), "vae").lower()
            found.setdefault(match[0], (name, []))[1].append(key)
    return tuple(_component(name, prefix, own, keys) for prefix, (name, own) in found.items())


def _component(name: str, prefix: str, own: list[str], keys: Mapping[str, Shape]) -> Component:
    from . import known_parts

    part = known_parts().get(name)
    if part is None:
        nowhere = Opening((), re.compile(r"(?!)"))
        part = Part(name, f"text encoder {name}", "text encoder", True, (), iter, KINDS, str, nowhere, ())

    def tensors(sizes: object) -> Iterable[tuple[str, Shape]]:
        return ((key.removeprefix(prefix), keys[key]) for key in own)

    if part.text:
        sublabel = _layer
    else:
        usual = bool(part.native.prefixes(own))
        sublabel = part.sublabel if usual else _stage
    part = replace(part, prefixes=(prefix,), tensors=tensors, kinds=KINDS, sublabel=sublabel)
    return Component(part, prefix, "", None, None)


def _stage(name: str) -> str:
    """Where in an autoencoder a name is, as far as its numbers tell: `encoder.down_blocks 0`."""
    found = _NUMBERED.fullmatch(name)
    return f"{found[1]} {int(found[2])}" if found else ".".join(name.split(".")[:2])


def _layer(name: str) -> str:
    """Where in a text encoder a name is: `embeddings`, `layer 0`... or `final`, as numbers tell."""
    if found := _NUMBERED.fullmatch(name):
        return f"layer {int(found[2])}"
    return "final" if _LAST.search(name) else "embeddings"
