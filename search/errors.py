"""What a search says when it cannot go on."""

from __future__ import annotations

from ..checkpoints.errors import UnetscopeError


class SearchError(UnetscopeError):
    """A study, generator or reward cannot be used as it is; the message says what to change."""


class OutOfOrderError(SearchError):
    """What makes or scores images fails for good, whatever the model: the search stops, and `--resume` tries the point again."""
