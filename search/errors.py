"""What a search says when it cannot continue."""

from __future__ import annotations

from ..checkpoints.errors import UnetscopeError


class SearchError(UnetscopeError):
    """A study, generator or reward cannot be used as it is; the message says what to change."""


# Codes of a `SearchError`.
# What makes or scores images fails for good, whatever the model: the search stops, and `--resume` tries the point again.
OUT_OF_ORDER = "search.out_of_order"
# A model makes no image (NaN, all black): its trial has failed, others may do better, so the search continues.
NO_IMAGE = "search.no_image"
# The run folder's journal makes no sense; what was measured stands in trials/.
DAMAGED_JOURNAL = "search.damaged_journal"
