"""Wildcards and alternatives in prompts, as users of the Dynamic Prompts extension write them.

`__colour__` is a line of `colour.txt`, `{red|blue}` one of the two, `{2$$a|b|c}` two of three, `{3::a|b}` three times as often the
first. The `dynamicprompts` library renders them, by a seed: the same seed gives the same text, which is what is recorded.
"""

from __future__ import annotations

from functools import cache
from hashlib import blake2b
from pathlib import Path

from .errors import SearchError

# What a prompt has when there is something to render; all others stay as they are, to the letter.
_SIGNS = ("{", "__", "${")


def has_wildcards(prompt: str) -> bool:
    """Whether there is anything in a prompt that is rendered."""
    return any(sign in prompt for sign in _SIGNS)


def rendered(prompt: str, seed: int, folder: Path | None, where: str) -> str:
    """A prompt with its wildcards and alternatives chosen.

    Args:
        prompt: as its author wrote it.
        seed: the same seed and prompt give the same text.
        folder: the wildcard files: `name.txt` with a choice a line, or .yaml and .json, in folders as deep as they like.
        where: the payload, for errors.

    Raises:
        SearchError: a wildcard has no file or an empty one; a brace is not closed; the library is not installed.
    """
    if not has_wildcards(prompt):
        return prompt
    try:
        from dynamicprompts.generators import RandomPromptGenerator
        from pyparsing import ParseBaseException
    except ImportError:
        raise SearchError(
            f"{where}: its prompt has wildcards; rendering them needs dynamicprompts: pip install 'unetscope[search]'"
        ) from None
    # Prompts and negative prompts of one seed are chosen independently.
    mixed = int.from_bytes(blake2b(f"{seed}\n{prompt}".encode(), digest_size=8).digest(), "big")
    generator = RandomPromptGenerator(wildcard_manager=_manager(folder, where), seed=mixed)
    try:
        return next(iter(generator.generate(prompt, 1)), "").strip()
    except ParseBaseException as error:
        raise SearchError(
            f"{where}: the alternatives in its prompt cannot be read at {prompt[error.loc : error.loc + 20]!r}: "
            "every { needs its }"
        ) from None
    except RecursionError:
        raise SearchError(f"{where}: its wildcards name each other in a circle; break it") from None


@cache
def _manager(folder: Path | None, where: str):
    """The library's reader of wildcard files; unlike it, ours refuses a wildcard that has no file."""
    from dynamicprompts.wildcards import WildcardManager

    class _NoneMissing(WildcardManager):
        def get_values(self, wildcard: str):
            values = super().get_values(wildcard)
            if not values:
                name = wildcard.strip("_")
                place = (
                    f"there is no {name}.txt with a line in {folder}" if folder else "there is no folder of wildcards"
                )
                raise SearchError(
                    f"{where}: __{name}__ is a wildcard, but {place}; put the file there, or name the folder with wildcards:"
                )
            return values

    return _NoneMissing(folder)
