"""How supermerger (and A1111's merger) say it: modes, weight vectors, elemental lines, Include and Exclude.

Formats: the extension's README, and what its releases do. A vector is 26 numbers with BASE or 25 without (SDXL: 20, 19; with a
number for each transformer block 110, 109); in metadata the number of BASE stands apart, and the 0 that the program appends to
SDXL's 19 is never read. What is in no block is in BASE: text encoders and VAE. An elemental line is `BLOCKS:ELEMENTS:ratio`: blocks
and parts of keys, `NOT` in front of either, empty for all; later lines win; they change alpha. Include and Exclude name blocks and
parts of keys; what is excluded stays model A's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...checkpoints.errors import UnetscopeError
from ...checkpoints.families import Family, family_of
from ...checkpoints.families.conventions import CONVENTIONS
from ...checkpoints.families.parts.mbw import MBW_20, MBW_26
from ..block_weights import BlockWeights
from ..methods import METHODS, Method
from ..methods.other_tools import Supermerger
from ..selectors import canonical
from .draft import Draft

# Its four modes by the word that it looks for in what its menu says, which is all that some of its records hold.
_MODES = {"weight": "Weight sum", "add": "Add difference", "triple": "Triple sum", "twice": "sum Twice"}
_BASE = ("BASE", "VAE")
_EMBEDDINGS = ("TIME_EMBED", "LABEL_EMB")
# What Include and Exclude call Adjust: the first and last convolution, and the norm before it.
_ADJUSTED = ("diffusion_model.input_blocks.0.0.", "diffusion_model.out.")
# The same done by several threads.
_CALCULATIONS = {"smoothAdd MT": "smoothAdd"}


def web_ui_method(name: Any) -> Method | None:
    """Our method for a mode of the web UI's merger; None for what we do not have."""
    return next(
        (m for m in METHODS.values() if isinstance(name, str) and m.webui and _words(name) == _words(m.webui)), None
    )


def method_of(mode: Any, calculation: Any = "normal") -> tuple[Method, Supermerger] | None:
    """Our method, and how supermerger means it; None for what we do not have.

    Args:
        mode: `Weight sum:A*(1-alpha)+B*alpha`, or any text with the word that supermerger looks for (`Add`).
        calculation: supermerger's `calcmode`.
    """
    if not isinstance(mode, str) or not isinstance(calculation, str | None):
        return None
    wanted = _words(mode.partition(":")[0])
    plain = next((name for word, name in _MODES.items() if word in wanted), "")
    calculation = _CALCULATIONS.get(calculation or "normal", calculation or "normal")
    for method in METHODS.values():
        for said in method.supermerger:
            if said.mode in (plain, "") and said.calculation == calculation:
                return method, said
    return None


def _words(text: str) -> str:
    return " ".join(text.replace("_", " ").casefold().split())


def modes() -> list[str]:
    """The modes of supermerger that are known."""
    return list(_MODES.values())


def numbers_of(method: Method) -> tuple[str, ...]:
    """The parameters that these programs have numbers for: alpha, beta."""
    return tuple(p.name for p in method.parameters.values() if p.kind == "number" and p.name in ("alpha", "beta"))


def numbers(value: Any) -> list[float] | None:
    """A vector given as a list or as text `0,0.1,...`; None for anything else (also letters, which mean random)."""
    parts = re.split(r"[,\s]+", value.strip().strip("[]")) if isinstance(value, str) else value
    if not isinstance(parts, list) or not parts:
        return None
    try:
        return [float(part) for part in parts]
    except (TypeError, ValueError, OverflowError):
        return None


# -- blocks -----------------------------------------------------------------------------------------------------------


def _extended() -> dict[str, tuple[str, str]]:
    """The 110 names of SDXL's long vector, in order: our label, and a regular expression for its keys (empty: all of them).

    A block with attention has a number for each transformer block, and one for what lies around them. IN0 stands in the list
    and is not a tensor's.
    """
    depth = {"IN04": 2, "IN05": 2, "IN07": 10, "IN08": 10, "M00": 10}
    depth |= {"OUT00": 10, "OUT01": 10, "OUT02": 10, "OUT03": 2, "OUT04": 2, "OUT05": 2}
    found: dict[str, tuple[str, str]] = {"CLIPL": ("CLIP_L", ""), "CLIPG": ("CLIP_G", ""), "IN0": ("", "")}
    for block in MBW_20[1:]:
        kind, number = ("MID", "") if block == "M00" else (block[:-2], str(int(block[-2:])))
        where = {"IN": rf"\.input_blocks\.{number}", "OUT": rf"\.output_blocks\.{number}", "MID": r"\.middle_block"}[
            kind
        ]
        last = {"M00": 2, "OUT02": 2, "OUT05": 2}.get(block, 1 if block in depth else 0)
        for part in range(last + 1):
            # The middle block has the part's number first, then a 0.
            name = f"MID{part}0" if kind == "MID" else f"{kind}{number}{part}"
            inside = depth.get(block, 0) if part == 1 else 0
            found[name] = (block, rf"{where}\.{part}\." + (r"(?!transformer_blocks\.)" if inside else ""))
            for n in range(inside):
                found[f"{name}{n}"] = (block, rf"{where}\.{part}\.transformer_blocks\.{n}\.")
    return found | {"OUT9": ("OUT", ""), "TIME": ("TIME_EMBED", ""), "LABEL": ("LABEL_EMB", ""), "VAE": ("VAE", "")}


EXTENDED = _extended()


@dataclass(frozen=True)
class Release:
    """What a vector of supermerger has no number for, and what its names of blocks stand for.

    Attributes:
        xl: the models are SDXL; None where nothing says so.
        recorded: the weights are of a merge that was made: names mean what the program changed. Otherwise what is meant.
        embeddings: the block whose number TIME_EMBED and LABEL_EMB have; empty where they stay model A's.
        extended: block names are those of the long vector.
    """

    xl: bool | None = None
    recorded: bool = False
    embeddings: str = "IN00"
    extended: bool = False

    def pinned(self, vector: list[float]) -> dict[str, float]:
        """Lines for the embeddings where they do not follow IN00, which they do here without one."""
        if self.embeddings == "IN00":
            return {}
        if not self.embeddings:
            return dict.fromkeys(_EMBEDDINGS, 0.0)
        return {"TIME_EMBED": vector[-1]} if vector else {}

    def number(self, value: float) -> Any:
        """One number for all blocks."""
        return {"default": value, **pinned} if (pinned := self.pinned([])) else value

    def places(self, chosen: bool = False) -> dict[str, tuple[str, ...]]:
        """Names of blocks, in order, and the labels that each stands for.

        `chosen`: as Include and Exclude take them. Elemental lines of SDXL look a block's place in SDXL's list up in SD1's.
        """
        blocks = MBW_20 if self.xl else MBW_26
        own: dict[str, tuple[str, ...]] = {block: (block,) for block in blocks}
        own["BASE"] = _BASE
        own[blocks[-1]] += ("OUT",)
        if self.embeddings:
            own[self.embeddings] += _EMBEDDINGS if self.xl else _EMBEDDINGS[:1]
        if self.xl and self.recorded and not chosen:
            return {name: own[blocks[i]] if i < len(blocks) else () for i, name in enumerate(MBW_26)}
        return own

    def selectors(self, words: list[str], part: str, chosen: bool = False) -> list[str] | None:
        """What words for blocks and a part of keys select, as selectors of ours; None where a word is not a block.

        Args:
            words: blocks and ranges, with NOT in front for all others; empty for everything.
            part: `key:` globs or a regular expression; empty for whole blocks.
            chosen: as in `places`.
        """
        negated = words[:1] == ["NOT"]
        if self.extended:
            names = _spread(words[negated:], EXTENDED, str)
            return None if names is None else _by_place(names, negated, bool(words[negated:]), part)
        places = self.places(chosen)
        names = _spread(words[negated:], places, canonical)
        if names is None:
            return None
        labels = list(dict.fromkeys(label for name in names for label in places[name]))
        if not words[negated:] or (negated and not labels):
            return [part or "NOT VAE", f"VAE {part}".strip()]
        if not negated:
            return [f"{' '.join(_runs(labels))} {part}".strip()] if labels else []
        named = _runs([label for label in labels if label != "VAE"])
        found = [f"NOT {' '.join(named)} {part}".strip()] if named else [part or "NOT VAE"]
        return found if "VAE" in labels else [*found, f"VAE {part}".strip()]


# The commit that gave SD1's TIME_EMBED the last block's number and left SDXL's embeddings, and the one that ended both.
_MOVED, _MENDED = "2023-07-21", "2025-11-27"


def typed_release(vectors: list[list[float]], family: str | Family | None, draft: Draft) -> Release:
    """Of weights that were typed, not merged: they mean what people mean by them."""
    if vectors:
        draft.note(
            "import.embeddings_follow_in00",
            f"the embeddings follow IN00 here; supermerger's releases of {_MOVED} to {_MENDED} gave SD1's TIME_EMBED OUT11's "
            "number, and left SDXL's TIME_EMBED and LABEL_EMB as they are in the first model",
        )
    return Release(is_xl(vectors, family))


def recorded_release(
    recipe: Mapping[str, Any], vectors: list[list[float]], family: str | Family | None, draft: Draft
) -> Release:
    """Of a merge that was made: which release made it, as far as its record shows that; and notes on what follows."""
    xl = is_xl(vectors, family)
    draft.note(
        "import.adjust",
        "supermerger does not record its Adjust; a merge with it differs in the first and the last convolution",
    )
    if xl is not False:
        draft.note(
            "import.tensors_not_merged",
            "supermerger leaves tensors without weight or bias in their name as they are in the first model (of CLIP_G "
            "logit_scale, positional_embedding and text_projection); here they are merged",
        )
    if xl is None:
        draft.note(
            "import.embeddings_of_xl",
            f"if the models are SDXL, supermerger's releases before {_MENDED} left TIME_EMBED and LABEL_EMB as they are in the "
            "first model; --family says so",
        )
        return Release(None, recorded=True)
    if not xl:
        if not vectors:
            return Release(False, recorded=True, embeddings="OUT11")
        before = "" if {"Off", "Include", "Exclude"} & set(recipe) else "; earlier ones gave it IN00's"
        draft.note(
            "import.embeddings_guessed" if before else "import.embeddings_out11",
            f"TIME_EMBED has OUT11's number, as in supermerger's releases of {_MOVED} to {_MENDED}{before}",
        )
        return Release(False, recorded=True, embeddings="OUT11")
    long = any(len(vector) == len(EXTENDED) - 1 for vector in vectors)
    if long or _written_back(recipe.get("weights_alpha_orig")):
        draft.note(
            "import.embeddings_merged",
            f"TIME_EMBED and LABEL_EMB are merged, as in supermerger's releases since {_MENDED}",
        )
        return Release(True, recorded=True, extended=long)
    draft.note(
        "import.embeddings_left",
        f"TIME_EMBED and LABEL_EMB stay as they are in the first model, as in supermerger's releases before {_MENDED}; later ones "
        "gave them IN00's number",
    )
    return Release(True, recorded=True, embeddings="")


def is_xl(vectors: list[list[float]], family: str | Family | None) -> bool | None:
    """Whether a merge is one of SDXL, by the lengths of its vectors or the family; None where nothing says so."""
    for vector in vectors:
        if len(vector) in (len(MBW_20) - 1, len(MBW_20), len(EXTENDED) - 1, len(EXTENDED)):
            return True
        if len(vector) in (len(MBW_26) - 1, len(MBW_26)):
            return False
    if family is None:
        return None
    return "" in CONVENTIONS["supermerger-old"].vectors(family_of(family)).follows.values()


def _written_back(typed: Any) -> bool:
    """Whether the text of a vector is as the program writes numbers, which it has done since the release of that day: people
    type 0 and 1 where it writes 0.0 and 1.0."""
    parts = typed.split(",") if isinstance(typed, str) else []
    read = numbers(parts) or []
    return any(x in (0, 1) for x in read) and all(part == str(x) for part, x in zip(parts, read, strict=True))


def _spread(words: list[str], order: Iterable[str], spelt: Callable[[str], str]) -> list[str] | None:
    """The names of blocks and ranges, which may run either way; None where one is not in order."""
    order, found = list(order), []
    for word in words:
        ends = [spelt(end.strip()) for end in word.split("-")]
        if len(ends) > 2 or any(end not in order for end in ends):
            return None
        first, last = sorted(order.index(end) for end in (ends[0], ends[-1]))
        found += order[first : last + 1]
    return found


def _runs(labels: list[str]) -> list[str]:
    """Labels in words of selectors: what follows one another as a range."""
    runs: list[list[str]] = []
    for label in labels:
        stem, number = label.rstrip("0123456789"), label[len(label.rstrip("0123456789")) :]
        if runs and number and f"{stem}{int(number) - 1:02d}" == runs[-1][-1]:
            runs[-1].append(label)
        else:
            runs.append([label])
    return [run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]


def _by_place(names: list[str], negated: bool, named: bool, part: str) -> list[str]:
    """Selectors of names of the long vector, as one regular expression."""
    places = [_where(name) for name in names if name not in ("IN0", "VAE")]
    vae = negated != ("VAE" in names) if named else True
    where = f"(?{'!' if negated else '='}.*(?:{'|'.join(places)}))" if places else ""
    # Only elements that are there or absent come here, as regular expressions.
    inside = part.removeprefix("/^").removesuffix("/")
    found = [f"/^{where}{inside}/"] if where or not named or negated else []
    return [*found, f"VAE /^{inside}/" if inside else "VAE"] if vae else found


def _where(name: str) -> str:
    label, pattern = EXTENDED[name]
    usual = {
        "CLIP_L": r"conditioner\.embedders\.0\.",
        "CLIP_G": r"conditioner\.embedders\.1\.",
        "OUT": r"diffusion_model\.out\.",
    }
    return pattern or usual.get(label) or rf"\.{label.lower()}\."


# -- weights ----------------------------------------------------------------------------------------------------------


def block_weights(values: list[float], base: float | None, release: Release) -> Any:
    """Block weights of a vector.

    Args:
        values: as recorded or typed.
        base: the number of what is in no block, where it stands apart from the vector.
        release: where the rest goes.
    """
    if base is None and len(values) in (len(EXTENDED), len(MBW_26), len(MBW_20)):
        base, values = values[0], values[1:]
        if len(values) != len(EXTENDED) - 1 and not release.pinned(values):
            return [base, *values]
    elif base is not None and len(values) == len(MBW_20):
        values = values[:-1]  # the 0 that the program appends to SDXL's 19 for the VAE, and never reads
    if len(values) == len(EXTENDED) - 1:
        return _by_part(values, base or 0.0)
    given = {"vector": values} if base is None else {"vector": values, "base": base}
    return given | release.pinned(values)


def _by_part(values: list[float], base: float) -> dict[str, float]:
    """The long vector as lines: one for each block, or for its parts where they differ. The VAE has the number of BASE."""
    out: dict[str, float] = {"default": base, "CLIP_L": base, "VAE": base}
    by_label: dict[str, list[tuple[str, float]]] = {}
    for (label, pattern), value in zip(list(EXTENDED.values())[1:-1], values, strict=False):
        by_label.setdefault(label, []).append((pattern, value))
    by_label.pop("")
    for label, parts in by_label.items():
        if len({value for _, value in parts}) == 1:
            out[label] = parts[0][1]
        else:
            out |= {f"{label} /{pattern}/": value for pattern, value in parts}
    return out


def with_lines(weights: Any, lines: list[str], draft: Draft, release: Release) -> Any:
    """Block weights changed by elemental lines; a line that cannot be read is refused by name."""
    found: list[tuple[str, float]] = []
    for line in lines:
        read = _line(line, release)
        if read is None:
            draft.refuse(f"the elemental line {line!r} is no BLOCKS:ELEMENTS:ratio")
            continue
        selectors, ratio = read
        if selectors is None:
            draft.refuse(f"the elemental lines cannot be read: {line!r} names a block that supermerger does not have")
        elif not selectors:
            draft.note(
                "import.elemental_line",
                f"the elemental line {line!r} names no block that the program found in SDXL, and changed nothing",
            )
        found += [(selector, ratio) for selector in selectors or ()]
    if release.recorded and release.xl and not release.embeddings:
        found += [(label, 0.0) for label in _EMBEDDINGS]
    return _changed(weights, found, draft, release)


def without(weights: Any, field: str, chosen: list[str], draft: Draft, release: Release) -> Any:
    """Block weights where what Exclude names, or Include does not name, stays model A's.

    Args:
        field: `Include` or `Exclude`.
        chosen: blocks, and parts of keys.
    """
    places = release.places(chosen=True)
    blocks = [x for x in chosen if x in places or x in EXTENDED]
    elements = [x for x in chosen if x not in (*blocks, "Adjust", "print", "", None)]
    elements += _ADJUSTED if "Adjust" in chosen else ()
    plain = [x for x in blocks if x in places]
    labels = list(dict.fromkeys(label for name in plain for label in places[name]))
    labels += ["VAE"] if "VAE" in blocks and "VAE" not in labels else []
    inside = [_where(x) for x in blocks if x not in places and x not in ("VAE", "IN0")]
    patterns = [*inside, *map(re.escape, elements)]
    if field == "Exclude":
        found = [" ".join(_runs(labels))] if labels else []
        found += [s for p in patterns for s in (f"/{p}/", f"VAE /{p}/")]
    else:
        part = f"/^(?!.*(?:{'|'.join(patterns)}))/" if patterns else ""
        named = _runs([label for label in labels if label != "VAE"])
        found = [f"NOT {' '.join(named)} {part}".strip()] if named else [part or "NOT VAE"]
        found += [] if "VAE" in labels else [f"VAE {part}".strip()]
    return _changed(weights, [(selector, 0.0) for selector in found], draft, release)


def _changed(weights: Any, lines: list[tuple[str, float]], draft: Draft, release: Release) -> Any:
    """Block weights with more lines, which win over those before."""
    if not lines:
        return weights
    out: dict[Any, Any] = {}
    if isinstance(weights, dict):
        out.update(weights)
    elif isinstance(weights, list):
        out["vector"] = weights
    else:
        out["default"] = weights
    if release.embeddings not in ("", "IN00") and "default" in out:
        out.setdefault(_EMBEDDINGS[0], out["default"])  # it would follow the lines for IN00
    parts = [selector for selector, _ in lines if selector.startswith("VAE ")]
    if (parts or any("VAE" in selector.split() for selector, _ in lines)) and "VAE" not in out:
        out["VAE"] = _base_of(out)  # a line for part of the VAE would leave its rest with A
    for selector, ratio in lines:
        out.pop(selector, None)  # later lines win by their place
        out[selector] = ratio
    try:
        BlockWeights.parse(out)
    except UnetscopeError as error:
        draft.refuse(f"the elemental lines cannot be read: {error}")
        return weights
    return out


def _base_of(weights: Mapping[Any, Any]) -> float:
    """The number of what is in no block."""
    if "base" in weights:
        return weights["base"]
    vector = weights.get("vector")
    if vector is None:
        return weights.get("default", 0.0)
    return vector[0] if len(vector) in (len(MBW_26), len(MBW_20)) else 0.0


def kept_where_0(weights: Any) -> Any:
    """The same for what multiplies model A: 0 leaves it as it is, and so does 1."""
    if isinstance(weights, dict):
        return {name: kept_where_0(value) for name, value in weights.items()}
    if isinstance(weights, list):
        return [kept_where_0(value) for value in weights]
    return 1.0 if weights == 0 else weights


# -- elemental lines --------------------------------------------------------------------------------------------------


def elemental_lines(value: Any) -> list[str]:
    """Lines out of text or a list of texts; they are parted by new lines or commas."""
    texts = value if isinstance(value, list) else [value]
    found = [part.strip() for text in texts if isinstance(text, str) for part in re.split(r"[\n,]", text)]
    return [part for part in found if part and not part.startswith("#")]


def is_elemental(line: str) -> bool:
    """Whether a line of text has the form BLOCKS:ELEMENTS:ratio."""
    parts = line.split(":")
    return len(parts) == 3 and numbers([parts[2]]) is not None


def _line(text: str, release: Release) -> tuple[list[str] | None, float] | None:
    """The selectors that a line stands for (None: it names no block), all of one ratio; None where it is not a line."""
    parts = text.split(":")
    ratio = numbers([parts[-1].strip()]) if len(parts) == 3 else None
    if ratio is None:
        return None
    blocks, elements = parts[0].split(), parts[1].split()
    absent = elements[:1] == ["NOT"]
    part = ""
    if (named := list(map(re.escape, elements[absent:]))) and (absent or release.extended):
        part = f"/^(?{'!' if absent else '='}.*(?:{'|'.join(named)}))/"
    elif named:  # whatever has any of them in its key
        part = " ".join(f"key:*{_quoted(element)}*" for element in elements)
    return release.selectors(blocks, part), ratio[0]


def _quoted(element: str) -> str:
    """Part of a key, inside a glob."""
    return re.sub(r"([*?\[])", r"[\1]", element)
