"""What a line of block weights selects: blocks, kinds of layer, keys.

A selector is words separated by spaces or commas: `IN04 IN05 OUT03-OUT05`, `NOT M00`, `OUT* attn2.k`,
`key:*.proj_in.*`; behind them, or alone, one regular expression on keys: `/transformer_blocks\\.[0-4]\\./`, `VAE /norm/`.
`block_weights.py` has examples.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fnmatch import translate as glob_to_regex

from ..checkpoints.errors import RecipeError, nearest
from ..checkpoints.families import BESIDE_LABELS, BUFFER_LABELS, FAMILIES, Family, family_of, known_kinds, known_labels
from ..checkpoints.families.any import WORDS
from ..checkpoints.families.parts.kinds import in_group

*_ENDS, _MODEL = WORDS
# The text encoders together; also the slot of that name in a weight vector.
BASE = "BASE"
_ALIASES = {"MID": "M00", "M0": "M00", "MIDDLE": "M00", "TEXT": BASE, "CLIP": BASE}
_NUMBERED = re.compile(r"([A-Z](?:[A-Z0-9_]*[A-Z_])?)(\d{1,3})")
# Where a word begins with a slash: from there on it is a regular expression.
_SLASH = re.compile(r"(?<!\S)/")
_BLOCK_WORD = re.compile(r"[A-Z](?:[A-Z0-9_]*[A-Z_])?\d{2,3}")
# How tools call text encoders next to a model of no known family: T5XXL, QWEN3_4B.
_ENCODER_WORD = re.compile(r"[A-Z]+\d[A-Z0-9]*(_[A-Z0-9]+)*[A-Z]")


def is_block(label: str) -> bool:
    """Whether a label is a numbered block or the middle block, over which ranges and gradients run."""
    return bool(_BLOCK_WORD.fullmatch(label))


def canonical(word: str) -> str:
    """A label word as the tables spell it: `in4` is IN04, `mid` is M00, `text` is BASE."""
    upper = word.upper()
    if number := _NUMBERED.fullmatch(upper):
        return f"{number[1]}{int(number[2]):02d}"
    return _ALIASES.get(upper, upper)


def labels_of(family: str | Family) -> tuple[str, ...]:
    """Everything that a selector may name in a family; BASE stands for all its text encoders."""
    return (BASE, *family_of(family).text_encoders, *family_of(family).labels, "VAE")


def _known_words() -> tuple[str, ...]:
    """Every label that a family has, BASE, and the words for whole denoisers (UNET)."""
    labels = (label for label in known_labels() if label not in BUFFER_LABELS)
    return (BASE, *labels, *dict.fromkeys((*denoiser_words(), *WORDS)))


def denoiser_words() -> tuple[str, ...]:
    """The words for a whole denoiser: UNET, and what other families call theirs."""
    return tuple(dict.fromkeys((*(family.core.upper() for family in FAMILIES.values()), _MODEL)))


def _kind_words() -> tuple[str, ...]:
    """Every kind of layer, and the groups that kinds belong to (`attn1` of `attn1.q`)."""
    return tuple(dict.fromkeys((*(kind.split(".")[0] for kind in known_kinds()), *known_kinds())))


def _could_be_a_label(word: str) -> bool:
    """Whether a word may be a label of a file of no known family: a text encoder's, or numbered, and no family numbers blocks
    of that name."""
    if _ENCODER_WORD.fullmatch(word) and not is_block(word):
        return not nearest(word, (*_known_words(), *_kind_words()))
    stem = word.rstrip("0123456789")
    if any(kind.startswith(stem.lower()) for kind in _kind_words()):  # a kind of layer, misspelt
        return False
    return is_block(word) and not any(label.rstrip("0123456789") == stem for label in known_labels())


def _could_begin_a_label(glob: str) -> bool:
    """Whether what stands before a glob's signs may be that of a file of no known family: LAYERS*, no misspelt OTU*."""
    stem = re.match(r"[A-Z_]*", glob)[0]
    known = {label.rstrip("0123456789") for label in (*known_labels(), *_kind_words())}
    return len(stem) > 3 and not nearest(stem, known)


@dataclass(frozen=True, slots=True)
class Selector:
    """One parsed selector.

    Attributes:
        text: what the user wrote.
        words: label words: labels, ranges (`IN04-IN08`) and globs (`OUT*`); empty means every block and text encoder.
        negated: everything but these labels.
        kinds: kinds or groups of layer; empty means all.
        patterns: regular expressions, one of which has to match a key; empty means all.
    """

    text: str
    words: tuple[str, ...] = ()
    negated: bool = False
    kinds: tuple[str, ...] = ()
    patterns: tuple[re.Pattern[str], ...] = ()

    @property
    def whole(self) -> bool:
        """Whether it selects labels as a whole, not only some of their layers."""
        return not self.kinds and not self.patterns

    def labels(self, family: str | Family) -> frozenset[str]:
        """The labels that are selected in an architecture; the VAE only when it is named.

        Raises:
            RecipeError: a label, range or glob that has no block in this architecture.
        """
        family = family_of(family)
        everything = frozenset(labels_of(family)) - {"VAE"}
        named = frozenset(x for word in self.words for x in self._expand(word, family))
        return everything - named if self.negated else named or everything

    def matches_kind(self, kind: str) -> bool:
        """Whether a kind of layer is selected. `attn` means `attn1` and `attn2` too."""
        return not self.kinds or any(_is_of(kind, wanted) for wanted in self.kinds)

    def matches_key(self, key: str) -> bool:
        """Whether a key fits the patterns."""
        return not self.patterns or any(p.search(key) for p in self.patterns)

    def _expand(self, word: str, family: Family) -> Iterable[str]:
        labels = labels_of(family)
        if word == family.core.upper():
            return family.labels
        if "-" in word:
            first, last = (self._having(end, family) for end in word.split("-"))
            order = family.labels
            return order[order.index(first) : order.index(last) + 1]
        if _is_glob(word):
            found = [x for x in labels if x != "VAE" and fnmatchcase(x, word)]
            if not found:
                raise RecipeError(f"{word!r} of block weights {self.text!r} fits no block of {family.title}")
        else:
            found = [self._having(word, family)]
        return (*found, *family.text_encoders) if BASE in found else found

    def _having(self, label: str, family: Family) -> str:
        if label not in labels_of(family):
            raise RecipeError(f"{family.title} has no {label} (block weights {self.text!r}); it has {_summary(family)}")
        return label


def parse_selector(text: str) -> Selector:
    """Parses a selector; knows every architecture's labels, so IN11 passes here and fails in SDXL.

    Raises:
        RecipeError: a word that is not a label, kind or pattern, with the nearest ones; a range that runs backwards.
    """
    text = text.strip()
    slash = _SLASH.search(text)
    named = text[: slash.start()] if slash else text
    labels, kinds, patterns = [], [], [_regex(text[slash.start() :])] if slash else []
    words = re.sub(r"\s+-\s+", "-", named).replace(",", " ").split()
    negated = bool(words) and words[0].upper() == "NOT"
    for word in words[negated:]:
        if word[:4].lower() == "key:" and len(word) > 4:
            if slash:
                raise RecipeError(
                    f"Block weights {text!r} have a glob and a regular expression on keys; write them as one"
                )
            patterns.append(re.compile(r"\A" + glob_to_regex(word[4:])))
        elif found := _kinds(word):
            kinds += found
        else:
            labels.append(_label_word(word, text))
    if (not words and not patterns) or (negated and not labels):
        raise RecipeError(f"Block weights {text!r} name no block, kind of layer or key; write e.g. 'IN04-IN08 attn1'")
    return Selector(text, tuple(labels), negated, tuple(kinds), tuple(patterns))


def _label_word(word: str, text: str) -> str:
    upper, known = canonical(word), known_labels()
    if "-" in upper:
        ends = [canonical(end) for end in upper.split("-")]
        if len(ends) != 2 or not all(is_block(end) and (end in known or _could_be_a_label(end)) for end in ends):
            wrong = next((e for e in ends if not is_block(e) or e not in known), upper)
            raise RecipeError(f"{word!r} is not a range of blocks: {wrong!r} is none{nearest(wrong, _blocks())}")
        if all(end in known for end in ends) and known[ends[0]] > known[ends[1]]:
            raise RecipeError(f"Range {word!r} runs backwards; write {ends[1]}-{ends[0]}")
        return "-".join(ends)
    if _is_glob(upper):
        if any(fnmatchcase(x, upper) for x in _known_words() if x != "VAE") or _could_begin_a_label(upper):
            return upper
    elif _could_be_a_label(upper):
        return upper
    elif upper in BESIDE_LABELS:
        raise RecipeError(
            f"{upper} has no weight of its own: such tensors have that of {BASE}; name some by key ('key:*{word.lower()}*: 0.5')"
        )
    elif upper in BUFFER_LABELS:
        raise RecipeError(f"{upper} has no weight: such tensors are copied from the first model, never merged")
    elif upper in _known_words():
        return upper
    raise RecipeError(
        f"Unknown block or kind of layer {word!r} in block weights {text!r}"
        f"{nearest(word, (*_known_words(), *_kind_words()))}"
    )


def _kinds(word: str) -> list[str]:
    """The kinds that a word names, by name or, when no label fits the glob, by glob."""
    lower = word.lower()
    if lower in _kind_words():
        return [lower] if lower != "other" else []
    if _is_glob(lower) and not any(fnmatchcase(x, lower.upper()) for x in _known_words()):
        return [kind for kind in known_kinds() if fnmatchcase(kind, lower)]
    return []


def _is_of(kind: str, wanted: str) -> bool:
    if wanted.split(".")[0] == "attn":
        kind = re.sub(r"^attn[12]", "attn", kind)
    return in_group(kind, wanted)


def _is_glob(word: str) -> bool:
    return any(c in word for c in "*?[")


def _regex(text: str) -> re.Pattern[str]:
    if len(text) < 3 or not text.endswith("/"):
        raise RecipeError(f"A regular expression on keys stands between slashes, /like this/, found {text!r}")
    try:
        return re.compile(text[1:-1])
    except (re.error, RecursionError, OverflowError) as error:
        raise RecipeError(f"Regular expression {text!r} cannot be read: {error}") from None


def _blocks() -> list[str]:
    return [label for label in known_labels() if is_block(label)]


def _summary(family: Family) -> str:
    """`CLIP_L, TIME_EMBED, IN00-IN11, M00, OUT00-OUT11, OUT, VAE`: a family's labels in short."""
    runs: list[list[str]] = []
    for label in family.labels:
        stem = label.rstrip("0123456789") if is_block(label) else label
        if runs and is_block(label) and runs[-1][0].rstrip("0123456789") == stem:
            runs[-1].append(label)
        else:
            runs.append([label])
    shown = [run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return ", ".join((BASE, *family.text_encoders, *shown, *(("VAE",) if family.has_vae else ())))
