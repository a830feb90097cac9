"""American and British spellings are one wherever a user types a name of ours; what we write has the British one throughout.

A name that is known as it stands is never touched, so that paths, titles and other people's names stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

# British -> American, within a word.
_SPELLINGS = {
    "our": "or",  # colour, favour, neighbour, behaviour
    "grey": "gray",
    "centre": "center",
    "elled": "eled",  # labelled, cancelled
    "elling": "eling",
    "catalogue": "catalog",
    "defence": "defense",
    "licence": "license",
    "yse": "yze",  # analyse
}
_BRITISH = re.compile("|".join(_SPELLINGS))
# `normalise`, `optimiser`, `quantisation`. A word such as `noise` becomes another one, but the same on both sides.
_ISE = re.compile("is(?=e|ing|ation)")


def _american(name: str) -> str:
    return _ISE.sub("iz", _BRITISH.sub(lambda found: _SPELLINGS[found[0]], name))


def spelt(name: Any, known: Collection[str]) -> Any:
    """The one of the known names that is meant: `name` itself, or the one that is the same in American spelling; else `name`."""
    if not isinstance(name, str) or name in known:
        return name
    meant = _american(name)
    return next((other for other in known if _american(other) == meant), name)


def respelt(given: Mapping[Any, Any], known: Collection[str]) -> dict[Any, Any]:
    """A mapping with its names as they are known. One that is given in both spellings keeps both, to be refused."""
    out: dict[Any, Any] = {}
    for name, value in given.items():
        meant = spelt(name, known)
        out[name if meant != name and (meant in given or meant in out) else meant] = value
    return out
